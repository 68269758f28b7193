"""Escape times of a local sampler: first passages from one side to the other, with those that never came counted."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from scipy import stats

from slt.engine.program import LONG
from slt.measure.barrier.umbrella import Order
from slt.posterior import Position, Posterior
from slt.samplers.base import Sampler
from slt.typing import Estimate, Key


class Escape(NamedTuple):
    """Mean first-passage time in steps of a sampler, were it exponential: total time over arrivals."""

    time: Estimate
    "value, and standard error value/sqrt(arrivals); infinite and NaN where no chain arrived"
    lower: float
    "95 per cent lower limit: 2 T/chi^2(.95; 2 arrivals + 2), T the total time (T/3 where no chain arrived)"
    arrivals: int
    chains: int
    steps: int
    "steps in all, of all chains"
    broken: int
    "chains that became infinite or NaN: counted as not arrived, up to that step"


@functools.partial(jax.jit, static_argnames=("order", "most"), compiler_options=LONG)
def _passages(
    sampler: Sampler, posterior: Posterior, positions: Position, keys: Key, goals: Array, signs: Array,
    *, order: Order, most: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """(steps, arrived, broken) [way, chain]."""
    algorithm = sampler(posterior)
    over = lambda fn: jax.vmap(jax.vmap(fn))  # noqa: E731
    state = over(lambda w, k: algorithm.init(w, jax.random.fold_in(k, 2**31)))(positions, keys)
    value = over(lambda w: order(posterior.params(w)))

    def going(loop: Any) -> Array:
        number, _, _, arrived, broken = loop
        return (number < most) & ~jnp.all(arrived | broken)

    def step(loop: Any) -> Any:
        number, state, taken, arrived, broken = loop
        state, _ = over(lambda s, k: algorithm.step(jax.random.fold_in(k, number), s))(state, keys)
        x = value(state.position)
        taken = taken + (~(arrived | broken)).astype(taken.dtype)
        broken = broken | (~arrived & ~jnp.isfinite(x))
        arrived = arrived | (~broken & (signs[:, None] * (x - goals[:, None]) >= 0))
        return number + 1, state, taken, arrived, broken

    none = jnp.zeros(keys.shape, bool)
    first = value(positions)
    there = signs[:, None] * (first - goals[:, None]) >= 0
    loop = (jnp.zeros((), jnp.int32), state, jnp.zeros(keys.shape, jnp.int32), there, none)
    _, _, taken, arrived, broken = jax.lax.while_loop(going, step, loop)
    return taken, arrived, broken


def times(
    sampler: Sampler, posterior: Posterior, order: Order, positions: Position, goals: tuple[float, float], key: Key,
    *, most: int,
) -> tuple[Escape, Escape]:  # fmt: skip
    """Escapes upwards and downwards, in at most `most` steps a chain.

    positions [2, chain, ...]: those of the first row start low and arrive at goals[0] from below, those of the second
    start high and arrive at goals[1] from above.
    """
    chains = jax.tree.leaves(positions)[0].shape[1]
    keys = jax.vmap(lambda k: jax.random.split(k, chains))(jax.random.split(key, 2))
    dtype = posterior.beta.dtype
    taken, arrived, broken = _passages(
        sampler, posterior, positions, keys, jnp.asarray(goals, dtype), jnp.asarray([1.0, -1.0], dtype),
        order=order, most=most,
    )  # fmt: skip
    up, down = (
        _escape(t, a, b)
        for t, a, b in zip(np.asarray(taken, np.int64), np.asarray(arrived), np.asarray(broken), strict=True)
    )
    return up, down


def _escape(taken: np.ndarray, arrived: np.ndarray, broken: np.ndarray) -> Escape:
    total, events = int(taken.sum()), int(arrived.sum())
    value = total / events if events else np.inf
    error = value / np.sqrt(events) if events else np.nan
    lower = 2 * total / stats.chi2.ppf(0.95, 2 * events + 2)
    return Escape(
        Estimate(np.array(value), np.array(error)), float(lower), events, len(taken), total, int(broken.sum())
    )


@functools.partial(jax.jit, static_argnames=("rounds",))
def curvatures(posterior: Posterior, positions: Position, key: Key, *, rounds: int = 30) -> Array:
    """Largest |eigenvalue| of the Hessian of the log density at each of `positions` [point, ...]: power iteration."""

    def one(position: Position, key: Key) -> Array:
        flat, unravel = ravel_pytree(position)
        gradient = jax.grad(lambda w: posterior.log_density(unravel(w)))

        def turn(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            v, _ = carry
            moved = jax.jvp(gradient, (flat,), (v,))[1]
            size = jnp.linalg.norm(moved)
            return moved / jnp.maximum(size, jnp.finfo(size.dtype).tiny), size

        v = jax.random.normal(key, flat.shape, flat.dtype)
        return jax.lax.fori_loop(0, rounds, turn, (v / jnp.linalg.norm(v), jnp.zeros((), flat.dtype)))[1]

    count = jax.tree.leaves(positions)[0].shape[0]
    return jax.vmap(one)(positions, jax.random.split(key, count))
