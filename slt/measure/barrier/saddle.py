"""Stationary points of a log density from a start near a pass: eigenvector following, and the curvature found there."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from slt.posterior import Posterior
from slt.typing import Params

LARGEST = 600  # free parameters for which the Hessian is taken apart at every step


class Saddle(NamedTuple):
    """A stationary point of n beta L - log prior, or what was found in its place."""

    params: Params
    loss: float
    "L_n there (K of a potential)"
    gradient: float
    "norm of the gradient of the log density there"
    negative: int
    "negative eigenvalues of the Hessian of -log density; -1 where there are too many parameters"
    lowest: float
    "the lowest eigenvalue"
    found: bool
    "whether it is stationary with one negative eigenvalue: a saddle of index 1"
    note: str


@functools.partial(jax.jit, static_argnames=("steps",))
def _follow(posterior: Posterior, start: Any, radius: Any, *, steps: int) -> tuple[Any, Any, Any]:
    flat, unravel = ravel_pytree(start)

    def potential(w: Any) -> Any:
        return -posterior.log_density(unravel(w))

    def spectrum(w: Any) -> tuple[Any, Any, Any]:
        grad = jax.grad(potential)(w)
        values, vectors = jnp.linalg.eigh(jax.hessian(potential)(w))
        return grad, values, vectors

    def step(number: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        w, radius = carry
        grad, values, vectors = spectrum(w)
        along = vectors.T @ grad
        floor = 1e-6 * jnp.max(jnp.abs(values)) + jnp.finfo(w.dtype).tiny
        newton = -along / jnp.maximum(jnp.abs(values), floor)
        newton = newton.at[0].multiply(-1)  # uphill along the lowest mode, downhill along all others
        length = jnp.linalg.norm(newton)
        moved = w + vectors @ newton * jnp.minimum(1, radius / jnp.maximum(length, jnp.finfo(w.dtype).tiny))
        after = jax.grad(potential)(moved)
        better = jnp.linalg.norm(after) < jnp.linalg.norm(grad)
        # an uphill step may lengthen the gradient for a while: it is taken, with a smaller radius for the next
        finite = jnp.all(jnp.isfinite(after))
        return jnp.where(finite, moved, w), jnp.where(better & finite, radius * 1.2, radius * 0.7)

    w, _ = jax.lax.fori_loop(0, steps, step, (flat, radius))
    grad, values, _ = spectrum(w)
    return unravel(w), grad, values


def find(posterior: Posterior, start: Any, radius: float, *, steps: int = 150) -> Saddle:
    """The saddle that eigenvector following (Cerjan and Miller 1981) reaches from `start`, a position.

    Each step goes up along the Hessian's lowest mode and down along all others, by Newton's step within a radius that
    shrinks where the gradient grows. `radius`: the first one.
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(start))
    offset = float(-np.mean(np.asarray(posterior.reference, np.float64)[: int(posterior.n)]))
    if size > LARGEST:
        grad = ravel_pytree(jax.jit(jax.grad(posterior.log_density))(start))[0]
        loss = float(jax.jit(posterior.delta)(start)) + offset
        note = f"{size} parameters: the mean of the draws at the top, no stationary point sought (limit {LARGEST})"
        return Saddle(posterior.params(start), loss, float(jnp.linalg.norm(grad)), -1, np.nan, False, note)
    position, grad, values = _follow(posterior, start, jnp.asarray(radius, posterior.beta.dtype), steps=steps)
    grad, values = np.linalg.norm(np.asarray(grad, np.float64)), np.asarray(values, np.float64)
    loss = float(jax.jit(posterior.delta)(position)) + offset
    scale = np.abs(values).max()
    negative = int((values < -1e-5 * scale).sum())
    still = bool(np.isfinite(grad) and grad <= 1e-3 * np.sqrt(max(scale, np.finfo(float).tiny)))
    if still and negative == 1:
        note = "a stationary point with one negative eigenvalue"
    elif still:
        note = f"stationary, with {negative} negative eigenvalues: not a saddle of index 1"
    else:
        note = "no stationary point near the top: the gradient does not vanish (a kink, a wall, or too rough)"
    return Saddle(
        posterior.params(position), loss, float(grad), negative, float(values[0]), still and negative == 1, note
    )
