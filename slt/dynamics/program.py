"""The programs of training: where runs start, and all of them from one kept checkpoint to the next."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from slt.engine.program import LONG, ONCE
from slt.model import Model
from slt.typing import Batch, Key, Params, Scalar

OPTIMISERS: dict[str, Callable[[Any, Any], optax.GradientTransformation]] = {
    "sgd": lambda rate, _: optax.sgd(rate),
    "momentum": lambda rate, momentum: optax.sgd(rate, momentum=momentum),
    "adam": lambda rate, _: optax.adam(rate),
}


class State(NamedTuple):
    """R runs between two steps: parameters and the optimiser's state [R, ...], step of the break or -1 [R]."""

    params: Params
    optimiser: Any
    broken: Int[Array, " R"]


class Task(NamedTuple):
    """What is descended, and how: all that fixes the programs.

    exact: the population loss, None for the mean over data; rule: a name of `OPTIMISERS`, or a function of the rate.
    """

    model: Model
    exact: Callable[[Params], Scalar] | None
    rule: Any
    kind: str
    batch_size: int | None

    def optimiser(self, rate: Scalar, momentum: Scalar) -> optax.GradientTransformation:
        """The optax transformation of one run."""
        return OPTIMISERS[self.rule](rate, momentum) if isinstance(self.rule, str) else self.rule(rate)

    def mean(self, params: Params, batch: Batch) -> Scalar:
        """-log p, averaged over samples."""
        return -jnp.mean(self.model.log_likelihood(params, batch))

    def full(self, params: Params, data: Batch | None) -> Scalar:
        """The loss of the curves."""
        return self.mean(params, data) if self.exact is None else jnp.asarray(self.exact(params))

    def descended(self, params: Params, data: Batch | None, key: Key) -> Scalar:
        """The loss of one step, whose noise is `key`'s."""
        if self.batch_size is None:
            return self.full(params, data)
        if self.kind == "online":
            return self.mean(params, self.model.sample(key, self.batch_size))
        where = jax.random.randint(key, (self.batch_size,), 0, jax.tree.leaves(data)[0].shape[0])
        return self.mean(params, jax.tree.map(lambda leaf: leaf[where], data))


@functools.partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def starts(model: Model, start: Params | None, keys: Key, scales: Float[Array, " R"]) -> Params:
    """Parameters [R, ...] to start from: scale times a prior draw, or `start` plus noise of that scale."""

    def one(key: Key, scale: Scalar) -> Params:
        if start is None:
            return jax.tree.map(lambda leaf: scale * leaf, model.init(jax.random.fold_in(key, 0)))
        leaves, treedef = jax.tree.flatten(start)
        each = jax.random.split(jax.random.fold_in(key, 0), len(leaves))
        leaves = [jnp.asarray(leaf, scale.dtype) for leaf in leaves]
        moved = [x + scale * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(each, leaves, strict=True)]
        return jax.tree.unflatten(treedef, moved)

    return jax.vmap(one)(keys, scales)


@functools.partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def begin(
    task: Task, params: Params, rates: Float[Array, " R"], momentum: Scalar, data: Batch | None
) -> tuple[State, Float[Array, " R"]]:
    """(the runs before their first step, their losses)."""

    def one(params: Params, rate: Scalar) -> tuple[State, Scalar]:
        state = State(params, task.optimiser(rate, momentum).init(params), jnp.full((), -1, jnp.int32))
        return state, task.full(params, data)

    return jax.vmap(one)(params, rates)


@functools.partial(jax.jit, static_argnums=0, compiler_options=LONG)
def advance(
    task: Task, state: State, keys: Key, rates: Float[Array, " R"], momentum: Scalar, data: Batch | None,
    done: Int[Array, ""], stops: Int[Array, " fine"],
) -> tuple[State, Float[Array, "R fine"]]:  # fmt: skip
    """(the runs at the last of `stops`, their losses at each), from `done` steps on."""

    def one(state: State, key: Key, rate: Scalar) -> tuple[State, Array]:
        optimiser, noise = task.optimiser(rate, momentum), jax.random.fold_in(key, 1)

        def step(number: Array, state: State) -> State:
            gradient = jax.grad(task.descended)(state.params, data, jax.random.fold_in(noise, number))
            with jax.numpy_dtype_promotion("standard"):  # Adam's powers of a whole number need it
                moves, inner = optimiser.update(gradient, state.optimiser, state.params)
                new = optax.apply_updates(state.params, moves)
            fine = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new)]).all() & (state.broken < 0)
            keep = functools.partial(jax.tree.map, lambda a, b: jnp.where(fine, a, b))
            broken = jnp.where(fine | (state.broken >= 0), state.broken, number)
            return State(keep(new, state.params), keep(inner, state.optimiser), broken)

        def piece(carry: tuple[Array, State], stop: Array) -> tuple[tuple[Array, State], Scalar]:
            inner = jax.lax.fori_loop(carry[0], stop, step, carry[1])
            return (stop, inner), task.full(inner.params, data)

        (_, state), losses = jax.lax.scan(piece, (done, state), stops)
        return state, losses

    return jax.vmap(one)(state, keys, rates)
