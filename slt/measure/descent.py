"""From draws to the critical points below them: descent in batches, polish, spectrum; all in double precision."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.model import Model
from slt.posterior import Posterior
from slt.samplers.base import reflect
from slt.typing import Batch, Params

DENSE = 400
"""Parameters up to which Hessians are made whole."""
LONGEST = 0.1
"""Of a step, as a part of 1 + |w|: longer ones would leap over ridges into another valley."""
BATCH, MEMORY = 64, 8


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Double precision, whatever the session runs in, for models that mix dtypes too."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def wide(tree: Any) -> Any:
    """The arrays of a pytree, floats in double precision; to be called inside `double`."""

    def one(leaf: Any) -> Array:
        array = np.asarray(leaf)
        return jnp.asarray(array, jnp.float64 if array.dtype.kind == "f" else array.dtype)

    return jax.tree.map(one, tree)


def posterior(model: Model, params: Params, data: Batch, n: int) -> Posterior:
    """The posterior at beta = 1 whose centre is `params`, in double precision."""
    with double():
        return Posterior.build(model, wide(data), n, 1.0, centre=wide(params))


class Ends(NamedTuple):
    """Where descents end: points [s, d], what was descended there [s] (L(w) - L(centre)), and |its gradient| [s]."""

    points: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray


def _loss(of: Posterior, w: Array) -> Array:
    _, back = ravel_pytree(of.centre)
    inside = reflect(of, w)[0]
    return of.delta(back(inside)).astype(w.dtype)


class _Walk(NamedTuple):
    """One descent: where it is, the way it goes and how far at most, and the last steps and changes of gradient."""

    w: Array
    value: Array
    grad: Array
    way: Array
    scale: Array
    steps: Array
    changes: Array
    curvature: Array


def _way(grad: Array, steps: Array, changes: Array, curvature: Array) -> Array:
    """-H grad with the L-BFGS estimate of the inverse Hessian; newest pair last, those of curvature 0 left out."""
    used = curvature > 0
    rho = jnp.where(used, 1 / jnp.where(used, curvature, 1.0), 0.0)
    weights, q = [], grad
    for i in reversed(range(MEMORY)):
        weights.append(rho[i] * (steps[i] @ q))
        q = q - weights[-1] * changes[i]
    square = changes[-1] @ changes[-1]
    scale = jnp.where(used[-1], curvature[-1] / (square + 1e-300), 1 / (1 + jnp.sqrt(grad @ grad)))
    q = scale * q
    for i, weight in zip(range(MEMORY), reversed(weights), strict=True):
        q = q + (weight - rho[i] * (changes[i] @ q)) * steps[i]
    return jnp.where(q @ grad > 0, -q, -grad / (1 + jnp.sqrt(grad @ grad)))


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _descend(of: Posterior, starts: Array, soft: Array, steps: int, batch: int) -> tuple[Array, Array, Array]:
    _, back = ravel_pytree(of.centre)

    def one(start: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        first, weight = start

        @jax.value_and_grad
        def both(x: Array) -> Array:
            prior = of.log_prior(back(reflect(of, x)[0])).astype(x.dtype)
            return _loss(of, x) - jnp.where(weight > 0, weight * prior, 0.0)

        def step(_: Any, at: _Walk) -> _Walk:
            # One gradient a step, taken or refused: a line search inside would have all wait for the slowest.
            w = at.w + at.scale * at.way
            value, grad = both(w)
            good = value <= at.value + 1e-4 * at.scale * (at.way @ at.grad)  # false where it is not finite
            move, change = w - at.w, grad - at.grad
            bend = move @ change
            keep = good & (bend > 1e-10 * (move @ move))
            pairs = [
                jnp.where(keep, jnp.concatenate([old[1:], new[None]]), old)
                for old, new in ((at.steps, move), (at.changes, change), (at.curvature, bend))
            ]
            way = jnp.where(good, _way(grad, *pairs), jnp.where(at.scale < 1e-4, -at.grad, at.way))
            reach = LONGEST * (1 + jnp.sqrt(w @ w)) / (jnp.sqrt(way @ way) + 1e-300)
            scale = jnp.where(good, jnp.minimum(1.0, reach), 0.25 * at.scale)
            return _Walk(
                jnp.where(good, w, at.w), jnp.where(good, value, at.value), jnp.where(good, grad, at.grad), way, scale,
                *pairs,
            )  # fmt: skip

        none = jnp.zeros((MEMORY, first.shape[0]), first.dtype)
        never = jnp.full((), jnp.inf, first.dtype)  # so that the first step looks where it stands
        still = jnp.zeros_like(first)
        end = jax.lax.fori_loop(
            0, steps + 1, step, _Walk(first, never, still, still, jnp.ones_like(never), none, none, none[:, 0])
        )
        return reflect(of, end.w)[0], end.value, jnp.sqrt(end.grad @ end.grad)

    return jax.lax.map(one, (starts, soft), batch_size=batch)


def descend(of: Posterior, starts: Float[np.ndarray, "s d"], soft: Any = 0.0, steps: int = 600) -> Ends:
    """L-BFGS on L(w) - soft log prior(w) from every start; soft = 1/t [s] leads to the modes of the posterior at t."""
    with double():
        start = jnp.asarray(starts, jnp.float64)
        size = int(of.n) * start.shape[1]
        weight = jnp.broadcast_to(jnp.asarray(soft, jnp.float64), start.shape[:1])
        found = _descend(of, start, weight, steps, max(1, min(BATCH, 2**20 // size)))
        return Ends(*(np.asarray(each) for each in found))


def _slopes(of: Posterior, w: Array) -> tuple[Array, Array, Array]:
    """L, its gradient and its Hessian by central differences of the gradient, all from one copy of the gradient."""
    width = 1e-6 * (1 + jnp.max(jnp.abs(w)))
    ways = width * jnp.eye(w.shape[0], dtype=w.dtype)
    places = jnp.concatenate([w[None], w + ways, w - ways])
    values, slopes = jax.lax.map(jax.value_and_grad(lambda x: _loss(of, x)), places, batch_size=32)
    rows = (slopes[1 : 1 + w.shape[0]] - slopes[1 + w.shape[0] :]) / (2 * width)
    return values[0], slopes[0], (rows + rows.T) / 2


@jax.jit
def _hessians(of: Posterior, points: Array) -> Array:
    return jax.lax.map(lambda w: _slopes(of, w)[2], points)


def spectra(of: Posterior, points: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "s d"]:
    """Eigenvalues of the Hessian of L at every point, ascending: central differences of the gradient, kinks allowed.

    NaN for more than 400 parameters.
    """
    if points.shape[1] > DENSE:
        return np.full(points.shape, np.nan)
    with double():
        return np.linalg.eigvalsh(np.nan_to_num(np.asarray(_hessians(of, jnp.asarray(points)))))


@functools.partial(jax.jit, static_argnames=("steps",))
def _polish(of: Posterior, points: Array, steps: int) -> tuple[Array, Array, Array, Array]:
    def one(first: Array) -> tuple[Array, Array, Array, Array]:
        size = first.shape[0]

        def step(_: Any, at: tuple[Array, ...]) -> tuple[Array, ...]:
            trial, *best, damping = at
            value, grad, hessian = _slopes(of, trial)
            better = grad @ grad < best[2] @ best[2]  # false where it is not finite
            found = [jnp.where(better, n, o) for n, o in zip((trial, value, grad, hessian), best, strict=True)]
            w, _, grad, hessian = found
            damping = jnp.where(better, damping / 10, damping * 10)
            square = hessian @ hessian
            scale = damping * (jnp.trace(square) / size + 1e-300)
            move = jnp.linalg.solve(square + scale * jnp.eye(size, dtype=w.dtype), hessian @ grad)
            return w - move, *found, damping

        never = jnp.full((), jnp.inf, first.dtype)
        flat = jnp.zeros((size, size), first.dtype)
        began = (first, first, never, jnp.full_like(first, jnp.inf), flat, jnp.full((), 0.1, first.dtype))
        _, w, value, grad, hessian, _ = jax.lax.fori_loop(0, steps + 1, step, began)
        return w, value, jnp.sqrt(grad @ grad), hessian

    return jax.lax.map(one, points)


@jax.jit
def _look(of: Posterior, points: Array) -> tuple[Array, Array, Array]:
    def one(w: Array) -> tuple[Array, Array, Array]:
        value, grad = jax.value_and_grad(lambda v: _loss(of, v))(w)
        return w, value, jnp.sqrt(grad @ grad)

    return jax.lax.map(one, points)


def polish(of: Posterior, points: Float[np.ndarray, "s d"], steps: int = 30) -> tuple[Ends, Float[np.ndarray, "s d"]]:
    """The critical point of L next to every point, minimum or saddle, and the eigenvalues of its Hessian, ascending.

    Levenberg-Marquardt on grad L = 0. With more than 400 parameters points stay where they are, eigenvalues are NaN.
    """
    with double():
        start = jnp.asarray(points, jnp.float64)
        if start.shape[1] > DENSE:
            return Ends(*(np.asarray(each) for each in _look(of, start))), np.full(start.shape, np.nan)
        *found, hessians = _polish(of, start, steps)
        return Ends(*(np.asarray(each) for each in found)), np.linalg.eigvalsh(np.nan_to_num(np.asarray(hessians)))
