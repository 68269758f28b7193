"""Nested sampling of the prior by levels of K, batched and replicated: one run gives F at every t, and crosses
first-order transitions that thermal paths miss.

Of n live points, drawn from the prior within {K < level}, the k highest leave together: the j-th of them takes the
prior mass X/(n + 1) with it and X shrinks to X (n - k + 1)/(n + 1), the means of the order statistics (Skilling 2006;
batches as Henderson and Goggans 2014). Each is replaced by a copy of a survivor moved by hit-and-run slice sampling
within the new level, along directions of the live points' covariance (as BlackJAX's `nss`, whose points are moved one
batch at a time and not in several runs side by side; hence our own). A first-order transition in t is nothing special
here, but a basin is found only if its prior mass is at least about 1/n of what is left when it parts from the rest.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special, stats

from slt.estimators.free_energy import over_runs
from slt.measure.target import Vector, prior_draws, values
from slt.posterior import Posterior
from slt.typing import Estimate, Key, Scalar

LARGEST = 8  # parameters; beyond, hit-and-run needs more moves than the thermal routes need gradients
MOST_STEPS = 4000
SHRINKS = 60
THEORY = 20  # degrees of freedom that the error known from the information counts for


class Run(NamedTuple):
    """One run: K - K(reference) of every dead and last live point and the log of the prior mass it stands for; w;
    whether what the live points left out can be neglected at the largest t.
    """

    delta: Float[np.ndarray, " point"]
    log_mass: Float[np.ndarray, " point"]
    w: Float[np.ndarray, "point d"]
    ended: bool

    def log_z(self, t: Any) -> Float[np.ndarray, " t"]:
        """log of E_prior[exp(-t (K - K(reference)))] at each t."""
        weights = self.log_mass - np.asarray(t, np.float64)[:, None] * self.delta
        return np.asarray(special.logsumexp(weights, axis=-1))

    def mean(self, t: float) -> float:
        """<K - K(reference)> at t."""
        log_w = self.log_mass - t * self.delta
        w = np.exp(log_w - log_w.max())
        return float(w @ self.delta / w.sum())

    def share(self, t: float, inside: np.ndarray) -> float:
        """Posterior mass at t of the points in `inside`."""
        log_w = self.log_mass - t * self.delta
        w = np.exp(log_w - log_w.max())
        return float(w[inside].sum() / w.sum())


class _Live(NamedTuple):
    w: Array
    delta: Array


def _slice(posterior: Posterior, root: Array, level: Scalar, w: Vector, delta: Scalar, key: Key) -> tuple[Array, Array]:
    """One hit-and-run slice move under the prior within {K < level}; (w, K), unchanged if nothing was found."""
    way_key, slice_key, place_key, shrink_key = jax.random.split(key, 4)
    way = jax.random.normal(way_key, w.shape, w.dtype)
    way = root @ (way / jnp.linalg.norm(way))
    height = values(posterior, w)[0] + jnp.log(jax.random.uniform(slice_key, (), w.dtype, minval=1e-30))
    width = 2 * jnp.sqrt(jnp.asarray(w.size + 2.0, w.dtype))
    low = -width * jax.random.uniform(place_key, (), w.dtype)

    def going(loop: Any) -> Array:
        return (~loop[3]) & (loop[0] < SHRINKS)

    def shrink(loop: Any) -> Any:
        i, low, high, _, _, _ = loop
        at = low + (high - low) * jax.random.uniform(jax.random.fold_in(shrink_key, i), (), w.dtype)
        new = w + at * way
        log_prior, new_delta = values(posterior, new)
        good = (log_prior > height) & (new_delta < level)
        return i + 1, jnp.where(at < 0, at, low), jnp.where(at < 0, high, at), good, new, new_delta

    zero = jnp.zeros((), jnp.int32)
    _, _, _, good, new, new_delta = jax.lax.while_loop(
        going, shrink, (zero, low, low + width, jnp.zeros((), bool), w, delta)
    )
    return jnp.where(good, new, w), jnp.where(good, new_delta, delta)


def _step(posterior: Posterior, live: _Live, key: Key, out: int, moves: Any) -> tuple[_Live, _Live]:
    """(live points after one batch, the points that left, highest K first)."""
    order = jnp.argsort(-live.delta)
    w, delta = live.w[order], live.delta[order]
    level = delta[out - 1]
    pick_key, move_key = jax.random.split(key)
    number, dim = w.shape
    # of the survivors; where all of them sit on the level itself (a plateau) there is nothing below, and none moves
    pick = jax.random.randint(pick_key, (out,), out, number)
    centred = w[out:] - jnp.mean(w[out:], axis=0)
    covariance = centred.T @ centred / (number - out)
    ridge = 1e-7 * jnp.trace(covariance) / dim + jnp.finfo(w.dtype).tiny
    root = jnp.linalg.cholesky(covariance + ridge * jnp.eye(dim, dtype=w.dtype))
    root = jnp.where(jnp.isfinite(root), root, jnp.diag(jnp.sqrt(jnp.diagonal(covariance))))

    def one(key: Key, w: Vector, delta: Scalar) -> tuple[Array, Array]:
        def move(i: Any, at: tuple[Array, Array]) -> tuple[Array, Array]:
            return _slice(posterior, root, level, *at, jax.random.fold_in(key, i))

        return jax.lax.fori_loop(0, moves, move, (w, delta))

    new, new_delta = jax.vmap(one)(jax.random.split(move_key, out), w[pick], delta[pick])
    return _Live(w.at[:out].set(new), delta.at[:out].set(new_delta)), _Live(w[:out], delta[:out])


@functools.partial(jax.jit, static_argnames=("out",))
def _steps(posterior: Posterior, live: _Live, key: Key, moves: Array, out: int) -> tuple[_Live, _Live]:
    keys = jax.random.split(key, live.delta.shape[0])
    return jax.vmap(lambda one, k: _step(posterior, one, k, out, moves))(live, keys)


@functools.partial(jax.jit, static_argnames=("runs", "points"))
def _begin(posterior: Posterior, key: Key, runs: int, points: int) -> _Live:
    w = prior_draws(posterior, key, runs * points)
    delta = jax.vmap(lambda x: values(posterior, x)[1])(w)
    return _Live(w.reshape(runs, points, -1), delta.reshape(runs, points))


def run(posterior: Posterior, t: float, key: Key, *, runs: int = 8, points: int = 512, left: float = 1e-3) -> list[Run]:
    """Independent runs until what is left cannot add more than the share `left` to Z(t), t the largest of interest."""
    begin_key, key = jax.random.split(key)
    out = max(1, points // 8)
    with jax.threefry_partitionable(False):
        live = _begin(posterior, begin_key, runs, points)
        moves = jnp.asarray(max(10, 5 * live.w.shape[-1]), jnp.int32)
        gone: list[_Live] = []
        log_x, masses = 0.0, []
        log_z, ended = np.full(runs, -np.inf), np.zeros(runs, bool)
        shrink = np.log(points - out + 1) - np.log(points + 1)
        for step in range(MOST_STEPS):
            live, dead = _steps(posterior, live, jax.random.fold_in(key, step), moves, out)
            gone.append(jax.tree.map(np.asarray, dead))
            masses.append(log_x - np.log(points + 1))
            now, leaving = np.asarray(live.delta, np.float64), np.asarray(dead.delta, np.float64)
            log_z = np.logaddexp(log_z, masses[-1] + special.logsumexp(-t * leaving, axis=-1))
            log_x += shrink
            rest = log_x - t * now.min(-1)
            flat = t * (leaving.max(-1) - now.min(-1)) < 0.02
            ended = (rest - np.logaddexp(rest, log_z) < np.log(left)) | flat
            if ended.all():
                break
    w = np.concatenate([*(each.w for each in gone), np.asarray(live.w)], axis=1)
    delta = np.concatenate([*(each.delta for each in gone), np.asarray(live.delta)], axis=1).astype(np.float64)
    mass = np.concatenate([np.repeat(masses, out), np.full(points, log_x - np.log(points))])
    return [Run(delta[r], mass, w[r], bool(ended[r])) for r in range(runs)]


def averaged(runs: Sequence[Run], t: Any) -> Estimate:
    """-log of the mean Z of independent runs at each t, as an Estimate [t] of F of K - K(reference).

    The spread of a few runs is a noisy measure of their error, and the theory of one run gives another, sqrt(H/points)
    with H = -t <K> - log Z the information (Skilling 2006), which knows nothing of basins missed. So the theory counts
    as THEORY degrees of freedom beside the spread's own, and what the spread has beyond the 95 per cent point of its
    law under the theory is added with Student's quantile, so that the error grows continuously to the spread's.
    """
    t = np.asarray(t, np.float64)
    log_z = np.array([run.log_z(t) for run in runs])
    found = over_runs(log_z)
    points = (runs[0].log_mass == runs[0].log_mass[-1]).sum()
    levels = np.array([[run.mean(each) for each in t] for run in runs])
    information = np.maximum(-t * levels - log_z, 0.0).mean(0)
    theory = information / (points * len(runs))
    free = len(runs) - 1
    student = np.square(stats.t.ppf(0.975, free) / stats.norm.ppf(0.975))
    own = np.square(np.asarray(found.stderr)) / student
    beyond = student * np.maximum(0.0, own - theory * stats.chi2.ppf(0.95, free) / free)
    return Estimate(found.value, np.sqrt((free * own + THEORY * theory) / (free + THEORY) + beyond))
