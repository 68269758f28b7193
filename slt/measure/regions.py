"""Free energies of phases, F_a(t) = -log int_{W_a} exp(-t K) prior, absolute and comparable, also of rare phases.

From SMC that is confined to each phase (`slt.measure.confined`). Where ladders mix, their occupancy gives the same
number, F - log mass_a, and stands beside; so does the local free energy, Laplace's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from slt.estimators.free_energy import over_runs
from slt.measure import routes as by
from slt.measure import target
from slt.measure.confined import SHOWN, Replicates, descend, known, labels_of, replicates
from slt.measure.evidence import Budget
from slt.measure.target import Target
from slt.phases import Phases
from slt.posterior import Posterior
from slt.typing import Estimate, Key


@dataclass(frozen=True)
class PhaseReport:
    """F of every phase at every t.

    free_energy: Estimate [T, P]; mass: Estimate [T, P], posterior shares of the phases among themselves; start [P]:
    "prior" or "seed", whence each was measured ("none": no draw and no seed was there; NaN); prior_mass: Estimate [P].
    occupancy: Estimate [T, P], F - log of the share of ladders' draws (None without settled ladders).
    laplace [T, P]: t L_a - log prior(w_a) + 1/2 log det(t H/2 pi) at the lowest minimum w_a known of the phase, and
    singular [P]: whether its Hessian is, so that it holds for no t. interior [T, P]: the share of draws whose descent
    ends in their own phase: where it is low, F_a is that of the boundary. fit: (L_a, lambda_a, c_a), Estimate [P, 3],
    of F_a = t L_a + lambda_a log t + c_a over the t where draws are interior (NaN with fewer than four of them).
    """

    t: np.ndarray
    names: tuple[str, ...]
    rule: str
    free_energy: Estimate
    mass: Estimate
    start: tuple[str, ...]
    prior_mass: Estimate
    occupancy: Estimate | None
    laplace: np.ndarray
    singular: np.ndarray
    interior: np.ndarray
    fit: Estimate
    verdict: tuple[str, ...]


def measure(
    of: Target,
    asked: np.ndarray,
    phases: Any,
    key: Key,
    *,
    points: Sequence[Any] = (),
    budget: Budget | None = None,
    ladders: by.Ladders | None = None,
    best: Estimate | None = None,
) -> PhaseReport:
    """F of every phase of the partition at the values `asked`; see `PhaseReport`.

    points: seeds (parameters) in any phases, beside the model's own known basins; ladders with labels and `best`, F of
    the whole without the offset, give the occupancy.
    """
    budget = Budget() if budget is None else budget
    phases = known(of, phases)
    found = replicates(of, asked, phases, key, points=points, budget=budget)
    return report(of, asked, phases, found, ladders, best)


def report(
    of: Target,
    asked: np.ndarray,
    phases: Phases,
    found: Replicates,
    ladders: by.Ladders | None = None,
    best: Estimate | None = None,
) -> PhaseReport:
    """What the runs tell; arguments as of `measure`."""
    tables, shown, start, anchors, prior_mass, _, seeds, labels = found
    count, times = len(phases.names), len(asked)
    value, error, interior = (np.full((times, count), np.nan) for _ in range(3))
    laplace, singular = np.full((times, count), np.nan), np.zeros(count, bool)
    fit = np.full((2, count, 3), np.nan)
    for a, (table, places) in enumerate(zip(tables, shown, strict=True)):
        if table is None or places is None:
            continue
        one = over_runs(table)
        value[:, a], error[:, a] = np.asarray(one.value), np.hypot(np.asarray(one.stderr), anchors[a])
        ends, own = descended(of, places, phases, a)
        interior[:, a] = own.mean(-1)
        starts = [of.flat(seed) for seed, label in zip(seeds, labels, strict=True) if label == a]
        minima = np.concatenate([ends[own.ravel()], *([np.stack(starts)] if starts else [])])
        laplace[:, a], singular[a] = _laplace(of, asked, minima, phases, a)
        good = interior[:, a] >= 0.95
        fit[:, a] = _fit(asked[good], table[:, good], error[good, a])
    share, spread = _shares(value, error)
    offset = (asked * of.offset)[:, None]
    fit[0, :, 0] += of.offset
    occupancy = _occupancy(ladders, asked, count, best)
    verdict = _verdict(of, asked, phases, start, value, error, interior, singular, prior_mass, occupancy, best)
    if occupancy is not None:
        occupancy = Estimate(np.asarray(occupancy.value) + offset, occupancy.stderr)
    return PhaseReport(
        t=asked,
        names=phases.names,
        rule=phases.rule,
        free_energy=Estimate(value + offset, error),
        mass=Estimate(share, spread),
        start=start,
        prior_mass=prior_mass,
        occupancy=occupancy,
        laplace=laplace + offset,
        singular=singular,
        interior=interior,
        fit=Estimate(fit[0], fit[1]),
        verdict=verdict,
    )


def descended(
    of: Target, places: Float[np.ndarray, "t i d"], phases: Phases, a: int
) -> tuple[Float[np.ndarray, "k d"], Bool[np.ndarray, "t j"]]:
    """Where descents from some draws of phase a end, and which of them end in it."""
    some = places[:, :: max(1, places.shape[1] // SHOWN)]
    ends = descend(of.posterior, jnp.asarray(some.reshape(-1, of.dim)))
    return np.asarray(ends), np.asarray(labels_of(of.posterior, ends, phases)).reshape(len(places), -1) == a


def _shares(value: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior shares of phases with independent F [T, P], and their errors to first order."""
    safe = np.where(np.isfinite(value), value, np.inf)
    least = safe.min(-1, keepdims=True)
    weight = np.exp(-(safe - np.where(np.isfinite(least), least, 0.0)))
    share = weight / weight.sum(-1, keepdims=True)
    size = np.nan_to_num(error)
    others = np.square(share * size).sum(-1, keepdims=True) - np.square(share * size)
    return share, share * np.sqrt(np.square((1 - share) * size) + others)


def _laplace(of: Target, asked: np.ndarray, minima: np.ndarray, phases: Phases, label: int) -> tuple[np.ndarray, bool]:
    """Laplace's F about the lowest of some points of a phase, after descent; and whether the Hessian there is singular.

    Singular: an eigenvalue below 1e-3 of the largest (or negative), or one that at the largest t is not ten times the
    prior's. Without a point, NaN.
    """
    blank = np.full(len(asked), np.nan)
    if not len(minima):
        return blank, False
    tried = np.concatenate([minima[:SHOWN], minima[-SHOWN:]])
    ends = np.concatenate([np.asarray(descend(of.posterior, jnp.asarray(tried), steps=200)), tried])
    ends = ends[np.asarray(labels_of(of.posterior, jnp.asarray(ends), phases)) == label]
    if not len(ends):
        return blank, False
    log_prior, delta = (np.asarray(each, np.float64) for each in _both(of.posterior, jnp.asarray(ends)))
    low = int(np.argmin(np.where(np.isfinite(log_prior), delta, np.inf)))
    hessian = np.asarray(_hessian(of.posterior, jnp.asarray(ends[low])), np.float64)
    levels = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    spread = float(np.asarray(target.prior_draws(of.posterior, jax.random.key(0), 1024), np.float64).var(0).mean())
    singular = not (np.isfinite(levels).all() and levels[0] > max(1e-3 * levels[-1], 10 / (asked[-1] * spread)))
    with np.errstate(invalid="ignore", divide="ignore"):
        half = 0.5 * np.log(np.abs(levels) / (2 * np.pi)).sum()
    return asked * delta[low] - log_prior[low] + half + of.dim / 2 * np.log(asked), singular


@jax.jit
def _both(posterior: Posterior, w: Array) -> tuple[Array, Array]:
    return jax.vmap(lambda x: target.values(posterior, x))(w)


@jax.jit
def _hessian(posterior: Posterior, w: Array) -> Array:
    return jax.hessian(lambda x: target.values(posterior, x)[1])(w)


def _fit(t: np.ndarray, table: np.ndarray, error: np.ndarray) -> Float[np.ndarray, "2 3"]:
    """(L, lambda, c) of F = t L + lambda log t + c by weighted least squares, errors by leaving out each run."""
    if len(t) < 4 or len(table) < 4:
        return np.full((2, 3), np.nan)
    design = np.stack([t, np.log(t), np.ones_like(t)], axis=-1) / error[:, None]
    solve = np.linalg.pinv(design, rcond=1e-12) / error

    def of(rows: np.ndarray) -> np.ndarray:
        top = rows.max(0)
        return solve @ -(top + np.log(np.exp(rows - top).mean(0)))

    number = len(table)
    left = np.array([of(np.delete(table, r, axis=0)) for r in range(number)])
    return np.stack([of(table), np.sqrt((number - 1) / number * np.square(left - left.mean(0)).sum(0))])


def _occupancy(ladders: by.Ladders | None, asked: np.ndarray, count: int, best: Estimate | None) -> Estimate | None:
    """F - log of each phase's share of the draws at the rung; NaN where no draw was."""
    if ladders is None or ladders.labels is None or best is None or not by.settled(ladders, asked):
        return None
    value, error = np.full((len(asked), count), np.nan), np.full((len(asked), count), np.nan)
    for i, t in enumerate(asked):
        labels = ladders.labels[ladders.ok, int(np.argmin(np.abs(ladders.t - t)))]
        for a in range(count):
            share = by.mean_of((labels == a).astype(np.float64))
            if float(np.asarray(share.value)) > 0:
                value[i, a] = np.asarray(best.value)[i] - np.log(float(np.asarray(share.value)))
                error[i, a] = np.hypot(np.asarray(best.stderr)[i], np.asarray(share.stderr) / np.asarray(share.value))
    return Estimate(value, error)


def _verdict(
    of: Target,
    asked: np.ndarray,
    phases: Phases,
    start: tuple[str, ...],
    value: np.ndarray,
    error: np.ndarray,
    interior: np.ndarray,
    singular: np.ndarray,
    prior_mass: Estimate,
    occupancy: Estimate | None,
    best: Estimate | None,
) -> tuple[str, ...]:
    told, masses = [f"Partition: {phases.rule}."], np.asarray(prior_mass.value)
    for a, name in enumerate(phases.names):
        if start[a] == "none":
            told.append(
                f"{name}: too few draws of the prior fell into it (mass {masses[a]:.1g}) and no seed lies in it."
            )
            continue
        low = asked[interior[:, a] < 0.95]
        if low.size:
            told.append(
                f"{name}: at t = {low[0]:.4g} to {low[-1]:.4g} part of the draws descends into other phases: its F "
                "there is that of the region's boundary, not of a minimum inside, and is left out of the fit."
            )
        if singular[a]:
            told.append(f"{name}: the Hessian at its minimum is singular; Laplace's F holds at no t.")
    if occupancy is not None:
        gap = np.abs(np.asarray(occupancy.value) - value)
        z = gap / np.hypot(np.asarray(occupancy.stderr), error)
        bad = (z > 4) & (gap > 0.05)
        for i, a in np.argwhere(bad):
            told.append(
                f"{phases.names[a]}: at t = {asked[i]:.4g} ladders give {np.asarray(occupancy.value)[i, a]:.4g} and "
                f"the confined particles {value[i, a]:.4g}: one of them does not mix."
            )
    if best is not None:
        total = -np.logaddexp.reduce(np.where(np.isfinite(value), -value, -np.inf), axis=-1)
        gap = total - np.asarray(best.value)
        worst = int(np.argmax(np.abs(gap)))
        told.append(f"The phases together differ from F of the whole by at most {gap[worst]:+.2g} nats.")
    return tuple(told)
