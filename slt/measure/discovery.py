"""The phases of a model nobody has studied: `slt.discover`.

Draws are led down to the minimum below each (inherent structures: Stillinger and Weber 1982), minima are clustered in
function space, copies under a symmetry are merged by what a symmetry leaves alone (loss and spectrum of the Hessian),
and each phase is described: loss, Hessian, local learning coefficient, minimum or saddle, its share of the draws.
"""

import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from slt.cells import Cell
from slt.engine import Schedule, Start, prepare
from slt.estimators import llc as coefficient
from slt.estimators import occupancy
from slt.estimators.clusters import clusters, levels
from slt.measure import descent
from slt.measure import draws as draw
from slt.measure.catalogue import Catalogue, Functions, Loss, Population, has_exact
from slt.measure.descent import Ends
from slt.model import Model, Truth
from slt.observables import full_loss, trace
from slt.phases import Points
from slt.posterior import Posterior
from slt.samplers.mcmc import HMC
from slt.typing import Batch, Estimate, InputError, Params

LEFT = 5.0
"""Nats below a minimum at which a chain has left it."""
LOCAL = (1.0, 100.0, 10000.0)
"""gamma of the localiser: the first that keeps chains in the basin."""
MANY = 256
"""Clusters looked at, the largest first."""
PROBES = 64
"""Samples of the data at which functions are compared."""
SPECTRA = 64
"""Parameters up to which all Hessians are made, not only those of representatives."""
FLAT = 1e-4
"""Curvatures below this part of the largest one at any phase count as null."""
STILL = 1e-6
"""Gradients below this part of it count as zero."""


COPIES = 64
"""Centres kept of each phase, for the classifier by the nearest of them."""
RULES = {"loss": "minima of the loss", "posterior": "modes of the posterior, carried on to critical points of the loss"}


def discover(
    model: Model,
    draws: Params | None = None,
    data: Batch | None = None,
    *,
    t: Sequence[float] | float | None = None,
    quench: str = "loss",
    least: float = 0.01,
    most: int = 1024,
    gap: float | None = None,
    chains: int = 8,
    lam_draws: int = 400,
    lam_t: float | None = None,
    seed: int = 0,
) -> Catalogue:
    """The phases of a model, found from draws of its posterior.

    draws: parameters with leading axes [k, chain, draw] (or [k, draw], or [draw]), k over the values `t`; or a dataset
      of `slt.sweep` or of a run with kept parameters (its burn-in left out). None: made here, by replica exchange
      over `t` (a potential's; n beta of a model with data), 2,000 draws of each of 4 ladders.
    data: the data set of a model without an exact loss (with one, its population loss defines the landscape).
    quench: "loss": phases are minima of L; "posterior": they are modes of the posterior at each draw's own t, carried
      on to the critical point of L next to them, so that saddles which hold the posterior for a while are phases too.
    least: share of the draws below which a cluster is none; most: how many draws are used; gap: the difference of
      losses up to which minima may be one another's copies (default: 1e-4 of the range of losses, and on data also
      three standard errors of the difference).
    chains, lam_draws: of the localised HMC that measures lam(t) at each minimum, at lam_t (the
      largest t; 100 times that where the loss is exact); 0 draws for none.
    """
    if not isinstance(model, Model):
        raise InputError("model", model, "must be an slt.Model: see slt.potential, slt.from_linen")
    if quench not in ("loss", "posterior"):
        raise InputError("quench", quench, "must be 'loss' or 'posterior'")
    if not 0 < least < 1 or most < 16:
        raise InputError("least", (least, most), "least is a share between 0 and 1, most at least 16 draws")
    exact = has_exact(model)
    if not exact and data is None:
        raise InputError("data", None, "a model without an exact population loss needs its data")
    like = jax.eval_shape(model.init, jax.random.key(0))
    if draws is None:
        given = np.geomspace(4, 4000, 13) if t is None else t
        drawn = draw.sampled(model, data, np.atleast_1d(np.asarray(given, float)), seed)
    elif hasattr(draws, "data_vars"):
        drawn = draw.of_dataset(draws)
    else:
        drawn = draw.of_arrays(like, draws, t)
    chosen = draw.thinned(drawn, most, sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(like)))
    points, size = chosen.points, chosen.points.shape[-1]

    landscape, bare, n = _landscape(model, data, exact)
    of = descent.posterior(landscape, _back(like, points.reshape(-1, size)[-1]), bare, n)
    starts = points.reshape(-1, size)
    if quench == "loss":
        ends = descent.descend(of, starts)
    else:
        soft = np.broadcast_to((1 / chosen.t)[:, None, None], points.shape[:3])
        ends, _ = descent.polish(of, descent.descend(of, starts, soft.ravel()).points)
    probes = None if data is None else Points(jax.tree.map(lambda x: np.asarray(x)[:PROBES], data))
    features = None if probes is None else Functions(model, probes)
    seen = None if features is None else _seen(features, like, ends.points)
    known = _levels(of, model)
    found = _found(of, ends, None if exact else seen, known, gap, max(1, int(np.ceil(least * len(starts)))), exact)
    labels = found.label.reshape(points.shape[:3])
    at = float(chosen.t.max()) * (100 if exact else 1) if lam_t is None else float(lam_t)
    params = tuple(_back(like, row) for row in found.ends.points)
    lam, gamma = _coefficients(landscape, found, params, bare, n, at, chains, lam_draws, seed)
    return Catalogue(
        names=_names(known, found),
        params=params,
        loss=found.ends.loss - float(np.mean(np.asarray(of.reference, np.float64)[:n])),
        gradient=found.ends.gradient,
        highest=found.highest,
        rank=found.counts[:, 0],
        null=found.counts[:, 1],
        negative=found.counts[:, 2],
        kind=found.kind,
        copies=found.copies,
        lam=lam,
        lam_t=at,
        gamma=gamma,
        axis=chosen.axis,
        at=chosen.at,
        share=occupancy.occupancy(labels, len(params)),
        unassigned=(labels < 0).mean(axis=(1, 2)),
        labels=labels,
        rule=RULES[quench],
        centres=() if seen is None else tuple(seen[rows[:COPIES]] for rows in found.members),
        exact=Loss(model) if exact else Loss(model, Points(jax.tree.map(np.asarray, data))),
        features=features,
    )


class _Found(NamedTuple):
    """Phases from the lowest loss up: members (rows of draws), representative ends, Hessian counts [p, 3]."""

    label: np.ndarray
    members: list[np.ndarray]
    ends: Ends
    highest: np.ndarray
    counts: np.ndarray
    kind: tuple[str, ...]
    copies: np.ndarray
    gap: float


def _found(
    of: Posterior,
    ends: Ends,
    seen: np.ndarray | None,
    known: list[tuple[float, str]],
    gap: float | None,
    least: int,
    exact: bool,
) -> _Found:
    """Clusters of the ends of descents, merged where they may be one another's images."""
    fine = np.flatnonzero(np.isfinite(ends.loss) & np.isfinite(ends.points).all(axis=1))
    if not fine.size:
        raise InputError("model", "no finite end", "its loss is not finite where descents lead")
    spread = float(np.quantile(ends.loss[fine], 0.95) - ends.loss[fine].min())
    width = gap if gap is not None else max(1e-4 * spread, 1e-8)
    if seen is None:
        pieces = _by_spectrum(of, ends, fine, levels(ends.loss[fine], width))
    else:
        seen = seen[fine]
        length = 0.02 * float(np.sqrt(np.square(seen - seen.mean(0)).sum(1).mean())) + 1e-9
        label = clusters(seen, least=1, length=length).label
        pieces = [fine[label == k] for k in range(label.max() + 1)]
    pieces = sorted(pieces, key=len, reverse=True)[:MANY]
    best, spectrum = descent.polish(of, ends.points[[piece[np.argmin(ends.gradient[piece])] for piece in pieces]])
    highest = np.abs(spectrum).max(axis=1)
    scale = float(np.nan_to_num(highest, nan=1.0).max())
    flat = FLAT * scale
    counts = np.stack([(spectrum > flat).sum(1), (np.abs(spectrum) <= flat).sum(1), (spectrum < -flat).sum(1)], axis=1)
    counts[np.isnan(highest)] = -1

    group = np.arange(len(pieces))
    named = [next((name for level, name in known if abs(level - loss) <= max(width, 1e-6)), "") for loss in best.loss]
    noise = np.zeros((len(pieces), len(pieces))) if exact else _noise(of, best.points)
    for a in range(len(pieces)):
        for b in range(a):
            near = abs(best.loss[a] - best.loss[b]) <= max(width, 3 * noise[a, b])
            if near and ((counts[a] == counts[b]).all() or (named[a] == named[b] != "")):
                group[group == group[a]] = group[b]
    kept = [np.flatnonzero(group == g) for g in np.unique(group)]
    kept = [own for own in kept if sum(len(pieces[i]) for i in own) >= least]
    if not kept:
        raise InputError("least", least, "no cluster holds so many draws: lower it, or give more draws")
    kept.sort(key=lambda own: best.loss[own[0]])
    label = np.full(len(ends.loss), -1)
    members = [np.concatenate([pieces[i] for i in own]) for own in kept]
    for a, rows in enumerate(members):
        label[rows] = a
    shown = np.array([own[0] for own in kept])  # pieces come by falling size
    still = best.gradient <= STILL * scale
    kind = ["slope" if not still[i] else "saddle" if counts[i, 2] > 0 else "minimum" for i in shown]
    copies = np.array([len(own) for own in kept])
    chosen = Ends(*(each[shown] for each in best))
    return _Found(label, members, chosen, highest[shown], counts[shown], tuple(kind), copies, width)


def _by_spectrum(of: Posterior, ends: Ends, rows: np.ndarray, level: np.ndarray) -> list[np.ndarray]:
    """Rows by level, and in each level apart where the Hessians' spectra are: minima of one loss that are no images."""
    parts = [np.flatnonzero(level == k) for k in range(level.max() + 1)]
    if ends.points.shape[1] > SPECTRA:
        return [rows[part] for part in parts]
    spectrum = descent.spectra(of, ends.points[rows])
    split = []
    for part in parts:
        scaled = spectrum[part] / max(np.abs(spectrum[part]).max(), 1e-300)
        label = clusters(scaled, least=1, length=0.1).label
        split += [rows[part[label == k]] for k in range(label.max() + 1)]
    return split


def _noise(of: Posterior, points: np.ndarray) -> np.ndarray:
    """Standard error of L_n(a) - L_n(b) over the data set, for all pairs of points."""
    with descent.double():
        back = ravel_pytree(of.centre)[1]
        per = jax.jit(lambda of, w: jax.lax.map(lambda x: of.differences(back(x)), w))(of, jnp.asarray(points))
        kept = np.asarray(per)[:, : int(of.n)]
    centred = kept - kept.mean(axis=1, keepdims=True)
    products = centred @ centred.T / kept.shape[1]
    own = np.diag(products)
    return np.sqrt(np.maximum(own[:, None] + own[None] - 2 * products, 0) / kept.shape[1])


def _seen(features: Functions, like: Params, points: np.ndarray) -> np.ndarray:
    back = _unravel(like)
    made = jax.jit(lambda w: jax.lax.map(lambda x: features(back(x)), w, batch_size=64))
    return np.asarray(made(jnp.asarray(points, jnp.result_type(float))), np.float64)


def _unravel(like: Params) -> Callable[[Array], Params]:
    return ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(float)), like))[1]


def _back(like: Params, row: np.ndarray) -> Params:
    return _unravel(like)(jnp.asarray(row, jnp.result_type(float)))


def _levels(of: Posterior, model: Model) -> list[tuple[float, str]]:
    """(loss less the centre's, name) of the basins that the model knows."""
    truth = model.truth() or Truth()
    with descent.double():
        level = jax.jit(lambda of, w: of.delta(w))
        return [(float(level(of, descent.wide(basin.params))), basin.name) for basin in truth.basins]


def _names(known: list[tuple[float, str]], found: _Found) -> tuple[str, ...]:
    """Of known basins that have the same loss, else A, B, ... from the lowest loss up."""
    names: list[str] = []
    for a, loss in enumerate(found.ends.loss):
        same = [name for level, name in known if abs(level - loss) <= max(found.gap, 1e-6) and name not in names]
        letter = string.ascii_uppercase[a % 26] + (str(a // 26) if a >= 26 else "")
        names.append(same[0] if same else letter)
    return tuple(names)


def _coefficients(
    model: Model,
    found: _Found,
    params: Sequence[Params],
    data: Batch,
    n: int,
    t: float,
    chains: int,
    draws: int,
    seed: int,
) -> tuple[Estimate, np.ndarray]:
    """lam(t) and the gamma it took at every minimum, by localised HMC, one compiled program for all; NaN elsewhere."""
    value, stderr, ess, gamma = np.full((4, len(params)), np.nan)
    watched = {"delta": trace(full_loss)}
    schedule = Schedule(draws=draws + draws // 2, chains=chains, burn_in=draws // 2, chunk=draws + draws // 2)
    for a, at in enumerate(params if draws else ()):
        start = Start(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], at), jnp.array([False]))
        key = jax.random.fold_in(jax.random.key(seed), a)
        given = None if model.is_potential else data
        for trial in LOCAL if found.kind[a] == "minimum" else ():
            cell = Cell(n, t / n, trial)
            ran = prepare(model, HMC(), [cell], watched, schedule, key=key, start=start, centres=[at], data=given).run()
            delta = np.asarray(ran.traces["delta"], np.float64)[..., schedule.burn_in :]
            if (t * delta > -LEFT).all():  # else it is not the coefficient of this point
                got = coefficient.llc(delta, t, ok=np.asarray(ran.status) == 0)
                value[a], stderr[a], ess[a] = (np.nan if each is None else float(np.ravel(each)[0]) for each in got)
                gamma[a] = trial
                break
    return Estimate(value, stderr, ess), gamma


def _landscape(model: Model, data: Batch | None, exact: bool) -> tuple[Model, Batch, int]:
    """The model whose loss is descended, its data, and their number."""
    if model.is_potential:
        return model, model.sample(jax.random.key(0), 1), 1
    if exact:
        return Population(model), jnp.zeros((1, 0)), 1
    leaves = jax.tree.leaves(data)
    return model, data, int(leaves[0].shape[0])
