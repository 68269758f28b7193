"""Known basins: the Gaussian and the ellipsoid about each seed, and its free energy by SMC that starts from there."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from slt.estimators.free_energy import over_runs
from slt.measure import smc, target
from slt.measure.paths import Path, Seeded
from slt.measure.target import Target, Times
from slt.phases import Phases
from slt.posterior import Posterior
from slt.typing import Estimate, Key


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
    return over_runs(seeded_runs(of, seeds, asked, key, runs=runs, particles=particles)[0])


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
    path = Path(
        of.posterior,
        Seeded(
            jnp.asarray(seeds.centres, dtype),
            jnp.asarray(seeds.roots[when], dtype),
            jnp.asarray(np.linalg.inv(seeds.roots)[when], dtype),
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
