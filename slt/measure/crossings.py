"""From runs of SMC confined to two phases to their free energies' difference, the barrier in their draws, theory.

Pure bookkeeping for `slt.measure.transition`: what each number rests on, and with what error.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.cells import Cell
from slt.measure import confined, target
from slt.measure.axis import Axis, along
from slt.measure.confined import Replicates
from slt.measure.regions import PhaseReport
from slt.measure.target import Target
from slt.model import Model
from slt.phases import Phases
from slt.posterior import Posterior
from slt.transitions import crossing
from slt.transitions import kind as kinds
from slt.transitions.crossing import Crossing, Crossings, Difference, Part
from slt.transitions.kind import Height, Kind
from slt.transitions.predictions import FITTED, Form, Prediction
from slt.typing import InputError

POINTS = 5  # about a crossing
NEAR = 0.05  # their least reach, on the scale of the axis


def asked_of(
    model: Model, phases: Any, between: Any, t: Any, n: Any, data: Any, seeds: Any
) -> tuple[Target, Phases, tuple[int, int]]:
    """`partition`, of a model for which at least four values of t or n are given too."""
    along(model, t=t, n=n)
    return partition(model, phases, between, data, seeds)


def partition(model: Model, phases: Any, between: Any, data: Any, seeds: Any) -> tuple[Target, Phases, tuple[int, int]]:
    """The target, the partition and the two phases meant by arguments of `slt.transition`; InputError for bad ones."""
    if isinstance(model, Model) and not model.is_potential and data is None:
        data = model.sample(jax.random.key(0), 1)
    of = target.make(model, data, seeds=seeds)
    parts = confined.known(of, phases)
    if between is None:
        if len(parts.names) != 2:
            raise InputError("between", None, f"say between which two of {', '.join(parts.names)}")
        between = (parts.names[0], parts.names[1])
    if isinstance(between, str) or len(between) != 2 or between[0] == between[1]:
        raise InputError("between", between, "give the names of two phases")
    return of, parts, (parts.index(between[0]), parts.index(between[1]))


def table(found: Replicates, parts: Phases, a: int) -> np.ndarray:
    """log Z [run, t] of phase a; InputError where it could not be measured."""
    table = found.tables[a]
    if table is None or not np.isfinite(table.max(0)).all():
        raise InputError(
            "seeds", f"none in {parts.names[a]}",
            f"the prior hardly meets this phase (mass {np.asarray(found.prior_mass.value)[a]:.1g}): give a point in it",
        )  # fmt: skip
    return table


def jackknife(log_z: Float[np.ndarray, "run x"]) -> Float[np.ndarray, "run x"]:
    """Pseudo-values of F = -log mean Z: their mean is F less its bias, their spread its error."""
    runs = len(log_z)
    top = log_z.max(0)
    ratio = np.exp(log_z - top)
    total = ratio.sum(0)
    with np.errstate(divide="ignore"):
        whole, left = -np.log(total / runs), -np.log((total - ratio).clip(1e-300) / (runs - 1))
    return runs * whole - (runs - 1) * left - top


def anchor(mass: np.ndarray, draws: int, start: Sequence[str], pair: tuple[int, int]) -> float:
    """Standard error of log(mass_a/mass_b) from a count of prior draws; of the one phase that rests on it, or 0."""
    own = [a for a in pair if start[a] == "prior"]
    if len(own) == 2:
        return float(np.sqrt((1 / mass[own[0]] + 1 / mass[own[1]]) / draws))
    return float(np.sqrt((1 - mass[own[0]]) / (mass[own[0]] * draws))) if own else 0.0


def difference(x: np.ndarray, curves: Sequence[np.ndarray], anchor: float | np.ndarray) -> Difference:
    """F_a - F_b from pseudo-values [run, x], with the error that all runs share."""
    d = crossing.difference(x, curves[0], curves[1])
    return dataclasses.replace(d, parts=(*d.parts, Part(np.full((1, x.size), anchor), 1e6)))


def close(seen: Crossings, axis: Axis) -> np.ndarray:
    """Values about every crossing, as far as six standard errors of it go, inside the grid."""
    about, edges = [], axis.forth(axis.grid[[0, -1]])
    for each in seen.found:
        reach = float(np.clip(6 * axis.stderr(each), NEAR, 1.0))
        ends = np.clip(axis.forth(each.value) + np.array([-reach, reach]), *edges)
        about.append(axis.back(np.linspace(ends[0], ends[1], POINTS)))
    return np.unique(np.concatenate(about))


def between_signs(axis: Axis, x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Two values, spaced evenly, in every gap of x at whose ends `value` has opposite signs."""
    gaps, u = np.flatnonzero(value[:-1] * value[1:] < 0), axis.forth(x)
    inner = [axis.back(np.linspace(u[i], u[i + 1], 4)[1:3]) for i in gaps]
    return np.unique(np.concatenate(inner)) if inner else np.zeros(0)


def at(of: Target, cell: Cell, data: Any = None) -> Target:
    """The target at a cell's controls, on its n samples of `data` (the target's own), in the shapes of all of them: one
    program serves every cell.
    """
    data = of.data if data is None else data
    posterior = Posterior.build(of.model, data, cell.n, 1.0, centre=of.posterior.centre, control=dict(cell.control))
    offset = -float(np.mean(np.asarray(posterior.reference, np.float64)[: cell.n]))
    return dataclasses.replace(of, data=data, n=cell.n, posterior=posterior, offset=offset, anchored=False)


def columns(of: Target, axis: Axis, x: np.ndarray) -> list[tuple[Target, np.ndarray]]:
    """The targets of a potential that cover x, each with its values of t: a run passes through every t of one."""
    if not axis.is_control:
        return [(of, x)]
    return [(at(of, axis.cell(each)), np.array([axis.rest.beta])) for each in x]


def affirmed(found: Crossings, seen: Crossings, axis: Axis) -> Crossings:
    """The crossings of the second pass, certain also where the first, independent one was."""
    sure = [each.value for each in seen.found if each.certain]

    def one(each: Crossing) -> Crossing:
        near = any(abs(axis.forth(value) - axis.forth(each.value)) < 0.5 for value in sure)
        return each._replace(certain=each.certain or near)

    return found._replace(found=tuple(one(each) for each in found.found))


@jax.jit
def _losses(posterior: Posterior, w: Array) -> Array:
    return jax.vmap(lambda x: target.values(posterior, x)[1])(w)


def heights_of(
    of: Target, shown: Sequence[np.ndarray], order: Callable[[Any], Any] | None
) -> tuple[list[Height], list[np.ndarray]]:
    """Barriers between draws [i, d] confined to either phase, run by run, by several order parameters; and a point of
    each phase, its draw of least K, between which they are drawn.
    """
    draws = [np.asarray(each, np.float64).reshape(-1, confined.SHOWN, of.dim) for each in shown]
    found, places = kinds.heights(draws, [_k(of, each.reshape(-1, of.dim)) for each in draws])
    dtype, points = of.posterior.beta.dtype, [own[0] for own in places]
    if order is not None:

        def own(w: np.ndarray) -> np.ndarray:
            flat = jnp.asarray(w.reshape(-1, of.dim), dtype)
            values = jax.jit(jax.vmap(lambda x: order(target.unravel(of.posterior, x))))(flat)
            return np.asarray(values, np.float64).reshape(w.shape[:-1])

        found.append(kinds.height(own(draws[0]), own(draws[1]), "the order parameter given"))
    return found, points


squares = kinds.squares


def places_of(of: Target, w: np.ndarray) -> np.ndarray:
    """Up to kind.PLACES points of a phase [place, d], of which draws w [i, d] are given."""
    return kinds.places(w, _k(of, w))


def _k(of: Target, w: np.ndarray) -> np.ndarray:
    return np.asarray(_losses(of.posterior, jnp.asarray(w, of.posterior.beta.dtype)), np.float64)


def known_form(model: Model, phase: str) -> Form | None:
    """The form of F of a phase by its deepest known basin with a known lambda, constant 0; None where there is none."""
    truth = model.truth()
    forms = [
        Form(basin.loss, basin.lam, basin.multiplicity or 1)
        for basin in (() if truth is None else truth.basins)
        if basin.phase == phase and basin.loss is not None and basin.lam is not None
    ]
    return min(forms, key=lambda each: each.loss, default=None)


def forms(of: Target, report: PhaseReport, a: int) -> tuple[Form, Form, bool]:
    """(asymptotic form, Laplace's form) of F of phase a, and whether the first is known: lambda and loss that the model
    has, else fitted to the F measured, whose crossing they then do not foretell.

    The constant of a known form is what the largest t measured leaves over.
    """
    fit = np.asarray(report.fit.value)[a]
    form = known_form(of.model, report.names[a])
    known = form is not None
    if form is None:
        form = Form(float(fit[0]), float(fit[1]), 1, float(fit[2]))
    else:
        last = np.asarray(report.free_energy.value)[-1, a] - form.at(report.t[-1:])[0]
        form = form._replace(constant=float(last) if report.interior[-1, a] >= 0.95 else np.nan)
    rest = report.laplace[:, a] - of.dim / 2 * np.log(report.t)
    if not np.isfinite(rest).all():
        return form, Form(np.nan, of.dim / 2), known
    slope = float((rest[-1] - rest[0]) / (report.t[-1] - report.t[0]))
    return form, Form(slope, of.dim / 2, 1, float(rest[-1] - slope * report.t[-1])), known


def laplace_form(model: Model, phase: str) -> tuple[Form, bool] | None:
    """Laplace's form of F of a phase about its deepest known basin on the population loss, and whether the Hessian is
    singular there (then it holds for no t); None where there is no such basin, or no population loss.
    """
    truth = model.truth()
    loss = None if truth is None else truth.population_loss
    basins = () if truth is None else truth.basins
    known = [(each.loss, each.params) for each in basins if each.phase == phase and each.loss is not None]
    if loss is None or not known:
        return None
    height, params = min(known, key=lambda each: each[0])
    flat, back = ravel_pytree(params)
    levels = np.linalg.eigvalsh(np.asarray(jax.hessian(lambda w: loss(back(w)))(flat), np.float64))
    form = Form(float(height), flat.size / 2, 1, np.nan)
    if levels[0] <= 1e-3 * levels[-1]:
        return form, True
    constant = np.log(levels / (2 * np.pi)).sum() / 2 - float(model.log_prior(params))
    return form._replace(constant=float(constant)), False


def verdict(
    names: tuple[str, str], axis: Axis, found: Crossings, kind: Kind | None, guesses: Sequence[Prediction], sets: int
) -> str:
    """All in a few sentences."""
    a, b = names
    over = f", averaged over {sets} data sets" if sets > 1 else ""
    said = [f"{a} -> {b} along {axis}{over}. {found.sentence}"]
    wrong = [each for each in found.found if not each.upward]
    if wrong:
        said.append(f"At {', '.join(f'{each.value:.4g}' for each in wrong)} it is {b} that gives way to {a}.")
    if kind is not None:
        said.append(f"Kind: {kind.kind} ({'; '.join(kind.reasons)}).")
    for word, told in (("Theory", False), ("Fit to the F measured, no theory", True)):
        some = [str(each) for each in guesses if (each.note == FITTED) == told]
        if some:
            said.append(f"{word}: {'; '.join(some)}.")
    return " ".join(said)
