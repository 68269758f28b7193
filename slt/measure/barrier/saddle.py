"""Stationary points of a log density from a start near a pass: eigenvector following, and the curvature found there."""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from slt.measure.barrier.umbrella import spring, under
from slt.posterior import Posterior
from slt.typing import Params, Scalar

LARGEST = 600  # free parameters for which the Hessian is taken apart at every step
FLOOR = 1e-4  # eigenvalues below this share of the largest count as zero: float32 tells no more
STILL = 1e-3  # nats: below this decrement a point is stationary


class Saddle(NamedTuple):
    """A stationary point of n beta L - log prior, or what was found in its place."""

    params: Params
    loss: float
    "L_n there (K of a potential)"
    decrement: float
    "g H^-1 g / 2 with |eigenvalues|, soft ones cut: how many nats a Newton step away it is from stationary"
    negative: int
    "negative eigenvalues of the Hessian of -log density; -1 where there are too many parameters"
    lowest: float
    "the lowest eigenvalue"
    found: bool
    "whether it is stationary with one negative eigenvalue: a saddle of index 1"
    note: str


@functools.partial(jax.jit, static_argnames=("steps", "uphill"))
def _follow(posterior: Posterior, starts: Any, radius: Array, *, steps: int, uphill: bool) -> tuple[Any, Array, Array]:
    """(positions [start, ...], Newton decrements, spectra): to a saddle, or without `uphill` to a minimum."""
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], starts))[1]

    def potential(w: Array) -> Scalar:
        return -posterior.log_density(unravel(w))

    gradient = jax.grad(potential)

    def newton(w: Array) -> tuple[Array, Array, Array]:
        values, vectors = jnp.linalg.eigh(jax.hessian(potential)(w))
        along = vectors.T @ gradient(w)
        stiff = jnp.maximum(jnp.abs(values), FLOOR * jnp.max(jnp.abs(values)) + jnp.finfo(w.dtype).tiny)
        move = -along / stiff
        if uphill:
            move = move.at[0].multiply(-1)  # uphill along the lowest mode, downhill along all others
        return vectors @ move, jnp.sum(jnp.square(along) / stiff) / 2, values

    def step(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        w, radius = carry
        move, _, _ = newton(w)
        moved = w + move * jnp.minimum(1, radius / jnp.maximum(jnp.linalg.norm(move), jnp.finfo(w.dtype).tiny))
        worse = jnp.linalg.norm(gradient(moved)) > jnp.linalg.norm(gradient(w))
        # a step that lengthens the gradient is taken all the same (it may have to), with a smaller radius for the next
        finite = jnp.all(jnp.isfinite(moved)) & jnp.isfinite(potential(moved))
        return jnp.where(finite, moved, w), jnp.where(worse | ~finite, radius * 0.7, radius * 1.2)

    def one(start: Any) -> tuple[Any, Array, Array]:
        w, _ = jax.lax.fori_loop(0, steps, step, (ravel_pytree(start)[0], radius))
        _, decrement, values = newton(w)
        return unravel(w), decrement, values

    return jax.lax.map(one, starts)


def find(
    posterior: Posterior, starts: Any, x: float, width: float, between: tuple[float, float], radius: float
) -> Saddle:
    """The saddle that eigenvector following (Cerjan and Miller 1981) reaches from draws near a profile's top.

    posterior: of an Umbrella; starts: positions [start, ...]. Each is first cooled to the nearest minimum of -log
    density under a stiff spring of `width` about x; from there each step goes up along the Hessian's lowest mode and
    down along all others, by Newton's step within a radius that shrinks where the gradient grows. Of the saddles found
    with their order inside `between` the lowest is taken.
    """
    size = sum(leaf[0].size for leaf in jax.tree.leaves(starts))
    offset = float(-np.mean(np.asarray(posterior.reference, np.float64)[: int(posterior.n)]))
    model: Any = posterior.model
    delta, order = (jax.jit(jax.vmap(f)) for f in (posterior.delta, lambda w: model.order(posterior.params(w))))
    if size > LARGEST:
        first = jax.tree.map(lambda leaf: leaf[0], starts)
        loss = float(posterior.delta(first)) + offset
        note = f"a draw near the top: with {size} parameters (limit {LARGEST}) no stationary point is sought"
        return Saddle(posterior.params(first), loss, np.nan, -1, np.nan, False, note)
    few = jax.tree.map(lambda leaf: leaf[: 8 if size <= 100 else 2], starts)
    steps, reach = 150 if size <= 100 else 60, jnp.asarray(radius, posterior.beta.dtype)
    cooled, _, _ = _follow(under(posterior, spring(x, width)), few, reach, steps=steps, uphill=False)
    positions, decrement, values = _follow(posterior, cooled, reach, steps=steps, uphill=True)
    decrement, values = np.asarray(decrement, np.float64), np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        negative = (values < -FLOOR * np.abs(values).max(1, keepdims=True)).sum(1)
    losses, at = np.asarray(delta(positions), np.float64) + offset, np.asarray(order(positions), np.float64)
    still = np.isfinite(decrement) & (decrement < STILL)
    inside = (at > between[0]) & (at < between[1])
    rank = np.where(np.isfinite(losses), losses, np.inf)
    for good, note in (
        (still & inside & (negative == 1), "a stationary point with one negative eigenvalue"),
        (still & inside, "stationary, but not with one negative eigenvalue"),
        (still, "the only stationary points found lie outside the two minima of the profile"),
        (np.ones_like(still), "no stationary point near the top: the gradient does not vanish (a kink, a wall)"),
    ):
        if good.any():
            best = int(np.argmin(np.where(good, rank, np.inf)))
            found = bool(still[best] and inside[best] and negative[best] == 1)
            params = posterior.params(jax.tree.map(operator.itemgetter(best), positions))
            lowest = float(values[best, 0])
            return Saddle(params, float(losses[best]), float(decrement[best]), int(negative[best]), lowest, found, note)
    raise AssertionError("the last case always holds")
