"""The single routes to F(t), each giving numbers and what they rest on; `free_energy` compares them.

Every route works with K - K(reference), in which the loss does not cancel, and independent replicates.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from slt import engine
from slt import observables as watch
from slt.cells import grid
from slt.engine import Schedule, Start
from slt.estimators import diagnostics
from slt.estimators import free_energy as estimators
from slt.measure import smc, target
from slt.measure.target import Target, Times
from slt.model import Model
from slt.phases import Phases
from slt.posterior import Posterior
from slt.samplers import HMC, ReplicaExchange
from slt.typing import Estimate, InputError, Key

GAP = 0.3  # share of swaps that a gap between rungs may refuse; GAP_LARGE where that would take more than 40 rungs
GAP_LARGE = 0.45
CHUNK = 400  # draws: a shape, so that longer runs need no new program


# ------------------------------------------------------------------------------------------------------------- ladders


class Ladders(NamedTuple):
    """Draws of independent ladders: delta = K - K(reference) [ladder, rung, draw] at t [rung], after burn-in.

    swap [rung - 1]: acceptance between neighbours; trips [ladder]: round trips of all walkers; ok [ladder];
    params [ladder, rung, some draws, d] and labels [ladder, rung, draw] where asked for.
    """

    delta: np.ndarray
    t: np.ndarray
    swap: np.ndarray
    trips: np.ndarray
    ok: np.ndarray
    params: np.ndarray | None
    labels: np.ndarray | None


def rungs(runs: Sequence[smc.Run], asked: Times) -> Float[np.ndarray, " rung"]:
    """Where rungs belong, from 0 through every t asked for: neighbours that refuse about alike many swaps.

    The local barrier of replica exchange is E|K - K'|/2 at t (Syed et al. 2022), whose integral over a gap is the
    share of swaps refused there; the particles of tempered SMC tell it at every t.
    """
    levels = np.unique(np.concatenate([each.s for each in runs]))
    if len(levels) > 400:
        levels = levels[np.unique(np.linspace(0, len(levels) - 1, 400).astype(int))]
    rates = np.mean([np.interp(levels, each.s, _barrier(-each.work.astype(np.float64))) for each in runs], axis=0)
    barrier = np.concatenate([[0.0], np.cumsum(np.diff(levels) * (rates[1:] + rates[:-1]) / 2)])
    marks = np.interp(np.concatenate([[0.0], asked]), levels, barrier)
    gap = GAP if marks[-1] < 40 * GAP else GAP_LARGE
    placed = [np.zeros(1)]
    for low, high, t in zip(marks[:-1], marks[1:], asked, strict=True):
        inner = np.linspace(low, high, max(2, int(np.ceil((high - low) / gap))) + 1)[1:-1]
        placed += [np.interp(inner, barrier, levels), np.array([t])]
    return np.unique(np.concatenate(placed))


def _barrier(k: Float[np.ndarray, "stage n"]) -> Float[np.ndarray, " stage"]:
    """E|K - K'|/2 of each stage, from order statistics."""
    number = k.shape[-1]
    weights = 2 * np.arange(1, number + 1) - number - 1
    return np.sort(k, axis=-1) @ weights / (number * (number - 1))


def ladders(
    of: Target,
    t: Float[np.ndarray, " rung"],
    key: Key,
    *,
    count: int,
    draws: int,
    burn_in: int,
    model: Model | None = None,
    start: Start | None = None,
    phases: Phases | None = None,
    params_every: int = 0,
) -> Ladders:
    """`count` independent ladders of replica exchange around HMC at the rungs `t` (the first is 0).

    Chains start from the prior (or `start`); `model` replaces the target's own where a phase confines the prior.
    """
    model = of.model if model is None else model
    axis = "t" if model.is_potential else "beta"
    values = [float(each) for each in t / (1 if model.is_potential else of.n)]
    cells = grid(model, t=values) if model.is_potential else grid(model, n=[of.n], beta=values)
    seen = {"delta": watch.trace(watch.loss)}
    seen |= {name: watch.trace(watch.diagnostic(name)) for name in ("swap", "round_trips")}
    if phases is not None:
        seen["label"] = watch.trace(watch.phase(phases))
    if params_every:
        seen["params"] = watch.trace(watch.parameters, every=params_every)
    sampler = ReplicaExchange(inner=HMC(leapfrogs=8, jitter=0.3), axis=axis, rungs=0, tune=False)
    trace = engine.run(
        model, sampler, cells, seen, Schedule(draws=draws + burn_in, chains=count, burn_in=burn_in, chunk=CHUNK),
        key=key, centres=[of.posterior.centre], start=start, data=None if model.is_potential else of.data,
    )  # fmt: skip

    def kept(name: str) -> np.ndarray:
        return np.asarray(trace.traces[name]).swapaxes(0, 1)[:, :, burn_in:]

    swap = kept("swap")[:, :-1].astype(np.float64)
    trips = kept("round_trips")
    made = trips.sum(1)
    ok = (np.asarray(trace.status) == 0).all(0)
    if not ok.any():
        raise InputError("model", "every ladder broke", "its loss or gradient is not finite somewhere under the prior")
    params = None
    if params_every:
        leaves = jax.tree.leaves(trace.traces["params"])
        flat = np.concatenate([np.asarray(leaf).reshape(*leaf.shape[:3], -1) for leaf in leaves], axis=-1)
        params = flat.swapaxes(0, 1)[:, :, -(-burn_in // params_every) :]
    delta = kept("delta").astype(np.float64)
    labels = kept("label") if phases is not None else None
    with np.errstate(invalid="ignore"):
        rate = np.nanmean(np.where(ok[:, None, None], swap, np.nan), axis=(0, 2))
    return Ladders(delta, np.asarray(t, np.float64), rate, made[:, -1] - made[:, 0], ok, params, labels)


def joined(parts: Sequence[Ladders]) -> Ladders:
    """Ladders of several rounds, at the same rungs, as one."""
    if len(parts) == 1:
        return parts[0]

    def stack(name: str) -> Any:
        values = [getattr(each, name) for each in parts]
        return None if values[0] is None else np.concatenate(values)

    swap = np.mean([each.swap for each in parts], axis=0)
    return Ladders(
        stack("delta"), parts[0].t, swap, stack("trips"), stack("ok"), stack("params"), stack("labels")
    )  # fmt: skip


def integrated(found: Ladders, asked: Times) -> Estimate:
    """Thermodynamic integration of F of K - K(reference)."""
    return estimators.thermodynamic(found.delta, found.t, asked, ok=found.ok)


def reweighted(found: Ladders, asked: Times) -> Estimate:
    """MBAR of the draws of all ladders together, thinned to what its matrices of rungs x draws can hold."""
    size = found.t.size**2 * found.delta.shape[-1] * int(found.ok.sum())
    every = max(1, -(-size // 40_000_000))
    return estimators.pooled(found.delta[..., ::every], found.t, asked, ok=found.ok)


def settled(found: Ladders, asked: Times) -> bool:
    """Whether the draws look like those of ladders that forgot their start: 20 round trips each, and no drift of F.

    The drift is that of the integral of <K> from the first half of the draws to the second, beyond 2.5 of its errors
    over ladders. Walkers that cross between basins only by way of the prior take many round trips to find their shares.
    """
    if found.trips[found.ok].mean() < 20:
        return False
    half = found.delta.shape[-1] // 2
    change = found.delta[found.ok][..., half : 2 * half].mean(-1) - found.delta[found.ok][..., :half].mean(-1)
    gaps = np.diff(found.t)
    drift = np.cumsum(gaps * (change[:, 1:] + change[:, :-1]) / 2, axis=-1)
    drift = drift[:, [int(np.argmin(np.abs(found.t[1:] - t))) for t in asked]]
    error = drift.std(0, ddof=1) / np.sqrt(len(drift))
    return bool((np.abs(drift.mean(0)) <= 2.5 * error + 1e-9).all())


def energy(found: Ladders, t: float) -> Estimate:
    """<K - K(reference)> at the rung t."""
    rung = int(np.argmin(np.abs(found.t - t)))
    return mean_of(found.delta[found.ok, rung])


def mean_of(x: Float[np.ndarray, "ladder draw"]) -> Estimate:
    """Mean over ladders and draws with its error."""
    return diagnostics.mean(x)


# --------------------------------------------------------------------------------------------------------------- seeds


@functools.partial(jax.jit, static_argnames=())
def _curvature(posterior: Posterior, w: Array, t: Array) -> Array:
    def density(x: Array) -> Array:
        log_prior, delta = target.values(posterior, x)
        return t * delta - log_prior

    return jax.hessian(density)(w)


@dataclass(frozen=True)
class Seeds:
    """Known basins, and at every t the Gaussian and the ellipsoid about each: centres [J, d], roots [T, J, d, d].

    The metric is the Hessian of t K - log prior at the seed, its eigenvalues floored at those of the prior, so that
    flat directions reach as far as the prior does. radius: beyond it lies 1e-6 of a Gaussian, twice over.
    """

    centres: Float[np.ndarray, "seed d"]
    roots: Float[np.ndarray, "t seed d d"]
    radius: float

    @property
    def count(self) -> int:
        """How many."""
        return len(self.centres)

    def member(self, at: int, w: Float[np.ndarray, "... d"]) -> Int[np.ndarray, "..."]:
        """The seed in whose ellipsoid at the at-th t each w lies, -1 for none."""
        squares = [
            np.square(np.linalg.solve(root, (w - centre).reshape(-1, w.shape[-1]).T)).sum(0)
            for centre, root in zip(self.centres.astype(np.float64), self.roots[at], strict=True)
        ]
        least = np.min(squares, axis=0)
        return np.where(least <= self.radius**2, np.argmin(squares, axis=0), -1).reshape(w.shape[:-1])


def about(of: Target, points: Sequence[Any], asked: Times) -> Seeds:
    """The ellipsoids about seeds (parameters of the model) at every t asked for."""
    dim = of.dim
    centres = np.stack([of.flat(point) for point in points])
    draws = np.asarray(target.prior_draws(of.posterior, jax.random.key(0), 1024), np.float64)
    floor = 1 / max(float(draws.var(0).mean()), 1e-30)
    roots = np.empty((len(asked), len(points), dim, dim))
    for i, t in enumerate(asked):
        for j, centre in enumerate(centres):
            hessian = np.asarray(
                _curvature(of.posterior, jnp.asarray(centre), jnp.asarray(t, centre.dtype)), np.float64
            )
            hessian = np.where(np.isfinite(hessian), hessian, 0.0)
            level, way = np.linalg.eigh((hessian + hessian.T) / 2)
            covariance = (way / np.maximum(level, floor)) @ way.T
            roots[i, j] = np.linalg.cholesky(covariance)
    return Seeds(centres, roots, float(np.sqrt(2 * stats.chi2.isf(1e-6, dim))))


def seeded(of: Target, seeds: Seeds, asked: Times, key: Key, *, runs: int, particles: int) -> Estimate:
    """F of the region about each seed, -log int_A exp(-t (K - K(reference))) prior, as an Estimate [t, seed].

    By SMC from the Gaussian about the seed: no prior mass has to be hit. A is the seed's ellipsoid at that t.
    """
    return smc.averaged(seeded_runs(of, seeds, asked, key, runs=runs, particles=particles)[0])


def seeded_runs(
    of: Target,
    seeds: Seeds,
    asked: Times,
    key: Key,
    *,
    runs: int,
    particles: int,
    phases: Phases | None = None,
    labels: Sequence[int] | None = None,
    shown: int = 0,
) -> tuple[Float[np.ndarray, "run t seed"], np.ndarray]:
    """log of the mass about each seed, or with `phases` of the whole phase labels[seed]; -inf of runs that failed.

    Also `shown` draws of each, [t, seed, runs * shown, d].
    """
    times, count = len(asked), seeds.count
    which = np.tile(np.repeat(np.arange(count), runs), times)
    when = np.repeat(np.arange(times), count * runs)
    dtype = of.posterior.beta.dtype
    path = smc.Path(
        of.posterior,
        smc.Seeded(
            jnp.asarray(seeds.centres, dtype),
            jnp.asarray(seeds.roots[when], dtype),
            jnp.asarray(seeds.radius, dtype),
            jnp.asarray(which, jnp.int32),
            jnp.asarray(np.asarray(asked, np.float64)[when], dtype),
        ),
        None if labels is None else jnp.asarray(np.asarray(labels)[which], jnp.int32),
        phases,
    )
    places = np.zeros((len(which), shown, of.dim))

    def watch(run: int, _: int, w: Array) -> np.ndarray:
        places[run] = np.asarray(w[:shown])
        return np.zeros(0)

    found = smc.run(path, [1.0], key, runs=len(which), particles=particles, watch=watch if shown else None)
    log_z = np.array([each.log_z[-1] if each.ended else -np.inf for each in found]).reshape(times, count, runs)
    return np.moveaxis(log_z, -1, 0), places.reshape(times, count, runs * shown, of.dim)


def combined(*parts: Estimate) -> Estimate:
    """F of the union of disjoint regions from independent F of each: -log sum exp(-F)."""
    values = np.stack([np.asarray(each.value, np.float64) for each in parts])
    errors = np.stack([np.asarray(each.stderr, np.float64) for each in parts])
    total = -np.logaddexp.reduce(-values, axis=0)
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(np.exp(total - values))
    return Estimate(total, np.sqrt(np.square(share * np.where(share > 0, errors, 0.0)).sum(0)))
