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


@functools.partial(jax.jit, static_argnums=(4, 5))
def _run(samplers, posteriors, starts, keys, statistic, per, burn_in, draws):
    def one(sampler: Sampler, posterior: Posterior, start: Any, key: jax.Array) -> tuple[Any, Any, Any]:
        algorithm = sampler(posterior)
        first, later = jax.random.split(key)
        state = algorithm.init(start, first)

        def step(i: Any, state: Any) -> tuple[Any, Any]:
            return algorithm.step(jax.random.fold_in(later, i), state)

        def burn(i: Any, state: Any) -> Any:
            state, info = step(i, state)
            return state if algorithm.adapt is None else algorithm.adapt(state, info)

        state = jax.lax.fori_loop(0, burn_in, burn, state)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(step, 0, state)[1])
        zero = jax.eval_shape(lambda s: statistic(posterior, s.position, blank), state)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), zero)

        def add(i: Any, loop: Any) -> Any:
            state, _, total = loop
            state, info = jax.lax.fori_loop(0, per, lambda j, s: step(burn_in + i * per + j, s[0]), (state, blank))
            return state, info, jax.tree.map(jnp.add, total, statistic(posterior, state.position, info))

        state, info, total = jax.lax.fori_loop(0, draws, add, (state, blank, zero))
        return jax.tree.map(lambda leaf: leaf / draws, total), state, info

    chains = jax.vmap(one, in_axes=(None, None, 0, 0))
    return jax.vmap(chains)(samplers, posteriors, starts, keys)


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
        means, state, info = _run(samplers, posteriors, starts, keys, statistic, per, burn_in, draws // per)
    return Outcome(means, state, info)
