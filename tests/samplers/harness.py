"""Runs samplers over cells x chains in one program and keeps sums only: what the tests of samplers need, no more."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from stats import Estimate

from slt.posterior import Posterior
from slt.samplers.base import Sampler

Statistic = Callable[[Posterior, Any, Any], Any]


class Outcome(NamedTuple):
    """chain_means: pytree of [cells, chains, ...]; state: the last states; info: what the last step told."""

    chain_means: Any
    state: Any
    info: Any

    def estimates(self) -> Any:
        """Means over chains [cells, ...] with standard errors from the spread of independent chains."""

        def one(leaf: jax.Array) -> Estimate:
            values = np.asarray(leaf, np.float64)
            return Estimate(values.mean(1), values.std(1, ddof=1) / np.sqrt(values.shape[1]))

        return jax.tree.map(one, self.chain_means)


def spread(sampler: Sampler, cells: int, **columns: Any) -> Sampler:
    """The sampler with a leading axis of cells on every number, `columns` replaced by one value a cell."""
    import dataclasses

    wide = jax.tree.map(lambda leaf: jnp.full((cells,), leaf, jnp.result_type(float)), sampler)
    return dataclasses.replace(wide, **{k: jnp.asarray(v, jnp.result_type(float)) for k, v in columns.items()})


@functools.partial(jax.jit, static_argnums=4)
def _run(samplers, posteriors, starts, keys, statistic, per, burn_in, draws):
    # one copy of the step in the program, as in the engine: compiling takes most of these tests' time
    over = lambda fn: jax.vmap(jax.vmap(fn, in_axes=(None, None, 0, 0)))  # noqa: E731
    state = over(lambda s, p, w, k: s(p).init(w, jax.random.fold_in(k, 2**31 - 1)))(samplers, posteriors, starts, keys)

    def step(i: Any, state: Any) -> tuple[Any, Any]:
        return over(lambda s, p, x, k: s(p).step(jax.random.fold_in(k, i), x))(samplers, posteriors, state, keys)

    def adapted(state: Any, info: Any) -> Any:
        def one(sampler: Sampler, posterior: Posterior, state: Any, info: Any) -> Any:
            adapt = sampler(posterior).adapt
            return state if adapt is None else adapt(state, info)

        return over(one)(samplers, posteriors, state, info)

    def seen(state: Any, info: Any) -> Any:
        return over(lambda _, p, w, i: statistic(p, w, i))(samplers, posteriors, state.position, info)

    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(step, 0, state)[1])
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(seen, state, blank))

    def add(i: Any, loop: Any) -> Any:
        state, _, total = loop
        state, info = step(i, state)
        state = jax.lax.cond(i < burn_in, adapted, lambda s, _: s, state, info)
        counts = (i >= burn_in) & ((i - burn_in) % per == 0)
        more = lambda: jax.tree.map(jnp.add, total, seen(state, info))  # noqa: E731
        return state, info, jax.lax.cond(counts, more, lambda: total)

    state, info, total = jax.lax.fori_loop(0, burn_in + per * draws, add, (state, blank, zero))
    return jax.tree.map(lambda leaf: leaf / draws, total), state, info


def run(
    samplers: Sampler,
    posteriors: Posterior,
    starts: Any,
    statistic: Statistic,
    *,
    draws: int,
    burn_in: int,
    per: int = 1,
    seed: int = 0,
) -> Outcome:
    """Leaves of samplers and posteriors [cells, ...]; starts [cells, chains, ...]; averages over every per-th step."""
    cells, chains = jax.tree.leaves(starts)[0].shape[:2]
    keys = jax.random.split(jax.random.key(seed), (cells, chains))
    with jax.threefry_partitionable(False):
        means, state, info = _run(samplers, posteriors, starts, keys, statistic, per, burn_in, draws)
    return Outcome(means, state, info)
