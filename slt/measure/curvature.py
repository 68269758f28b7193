"""The loss at a point: its gradient, and the ends of its Hessian's spectrum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as sparse
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.posterior import Posterior

DENSE = 1500  # parameters up to which the Hessian is made whole,
MOST = 3e9  # where their number squared times that of samples is less than this


@dataclass(frozen=True)
class Curvature:
    """Of the loss L_n at w*, over free parameters.

    gradient: |grad L_n|; lowest, highest: ends of the Hessian's spectrum; slope: how far the gradient alone shifts
    lambda_hat at each t, (t g)' (t |H| + soft)^-1 (t g) / 2 [cells], soft the curvature of localiser and prior; 0 where
    no step down the gradient lowers the loss within the prior's support, as at a kink or an edge.
    """

    gradient: float
    lowest: float
    highest: float
    slope: Float[np.ndarray, " cells"]


@jax.jit
def _gradient(posterior: Posterior) -> Array:
    start, back = ravel_pytree(posterior.centre_position)
    return jax.grad(lambda flat: posterior.delta(back(flat)))(start)


@jax.jit
def _prior(posterior: Posterior) -> Array:
    """Mean curvature of -log prior and localiser over directions, by a random one."""
    start, back = ravel_pytree(posterior.centre_position)
    way = jax.random.rademacher(jax.random.key(0), start.shape, start.dtype)
    slope = jax.grad(lambda flat: -posterior.log_prior(back(flat)))
    return jnp.mean(way * jax.jvp(slope, (start,), (way,))[1])


@jax.jit
def _differences(posterior: Posterior, vectors: Array) -> Array:
    """H v by central differences of the gradient: where the loss has kinks, and no second derivative."""
    start, back = ravel_pytree(posterior.centre_position)
    slope = jax.grad(lambda flat: posterior.delta(back(flat)))
    width = 3e-3 * (1 + jnp.abs(start).max())
    return jax.lax.map(lambda v: (slope(start + width * v) - slope(start - width * v)) / (2 * width), vectors)


@jax.jit
def _product(posterior: Posterior, vectors: Array) -> Array:
    """H v for every row of vectors."""
    start, back = ravel_pytree(posterior.centre_position)
    slope = jax.grad(lambda flat: posterior.delta(back(flat)))
    return jax.lax.map(lambda v: jax.jvp(slope, (start,), (v,))[1], vectors, batch_size=32)


@jax.jit
def _lowered(posterior: Posterior, steps: Array) -> Array:
    """By how much the loss is lower after some part of each step [cells], if it is."""
    start, back = ravel_pytree(posterior.centre_position)

    def drop(step: Array) -> Array:
        position = back(start - step)
        return jnp.where(jnp.isfinite(posterior.log_prior(position)), -posterior.delta(position), 0.0)

    parts = jnp.array([1.0, 0.3, 0.1, 0.03, 0.01], start.dtype)
    return jax.lax.map(lambda step: jnp.max(jax.lax.map(lambda part: drop(part * step), parts)), steps)


def curvature(posterior: Posterior, t: Any) -> Curvature:
    """Gradient and curvature of the loss at the posterior's centre, in two short programs."""
    gradient = np.asarray(_gradient(posterior), np.float64)
    size, t = gradient.size, np.atleast_1d(np.asarray(t, np.float64))
    soft = float(np.nan_to_num(np.asarray(_prior(posterior)), nan=0.0))
    soft = max(soft, 1e-3 * (1 + float(posterior.gamma)))
    dtype = posterior.beta.dtype
    if size <= DENSE and size**2 * posterior.reference.size <= MOST:
        hessian = np.asarray(_product(posterior, jnp.eye(size, dtype=dtype)), np.float64)
        if not np.isfinite(hessian).all():
            hessian = np.asarray(_differences(posterior, jnp.eye(size, dtype=dtype)), np.float64)
        hessian = np.nan_to_num((hessian + hessian.T) / 2)
        values, vectors = np.linalg.eigh(hessian)
        steps = t[:, None] * (vectors.T @ gradient) / (t[:, None] * np.abs(values) + soft) @ vectors.T
        return Curvature(
            float(np.linalg.norm(gradient)), float(values[0]), float(values[-1]), _slope(posterior, t, gradient, steps)
        )
    edge = _farthest(lambda v: np.asarray(_product(posterior, jnp.asarray(v, dtype)[None])[0], np.float64), size)
    other = edge - _farthest(
        lambda v: edge * v - np.asarray(_product(posterior, jnp.asarray(v, dtype)[None])[0], np.float64), size
    )  # H's other end as the far end of edge - H: Lanczos finds no eigenvalue near 0
    low, high = min(edge, other), max(edge, other)
    steps = (t / (t * abs(high) + soft))[:, None] * gradient
    return Curvature(float(np.linalg.norm(gradient)), low, high, _slope(posterior, t, gradient, steps))


def _farthest(product: Callable[[np.ndarray], np.ndarray], size: int) -> float:
    """The eigenvalue farthest from 0 of a symmetric matrix, given by its products, or how far Lanczos came."""
    make: Any = sparse.LinearOperator  # its stub knows no matvec
    find: Any = sparse.eigsh
    start = np.random.default_rng(0).standard_normal(size)
    operator = make((size, size), dtype=np.float64, matvec=lambda v: product(v.ravel()))
    try:
        return float(find(operator, k=1, which="LM", v0=start, tol=1e-3, maxiter=30, return_eigenvectors=False)[0])
    except sparse.ArpackNoConvergence as error:
        if len(error.eigenvalues):
            return float(error.eigenvalues[0])
        for _ in range(100):
            start = product(start / np.linalg.norm(start))
        return float(start @ product(start) / (start @ start))


def _slope(posterior: Posterior, t: np.ndarray, gradient: np.ndarray, steps: np.ndarray) -> np.ndarray:
    slope = 0.5 * t * (steps @ gradient)
    lowered = np.asarray(_lowered(posterior, jnp.asarray(steps, posterior.beta.dtype)), np.float64)
    return np.where(t * lowered > 0.01 * slope, slope, 0.0)
