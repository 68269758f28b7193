"""Umbrella windows along an order parameter: the biased model and the programs that sample it.

A window multiplies the posterior by exp(-B(order(w))).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.engine.program import LONG
from slt.model import Model
from slt.posterior import Position, Posterior
from slt.samplers.base import Sampler
from slt.typing import Batch, Key, Params, Scalar

Order = Callable[[Params], Scalar]
KNOTS = 512


@dataclass(frozen=True)
class Projection:
    """The order parameter (w - a).(b - a) / |b - a|^2: 0 at a, 1 at b. Equal by value: it recompiles nothing."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @staticmethod
    def of(a: Params, b: Params) -> "Projection":
        """From two points."""
        flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(point)]) for point in (a, b)]
        return Projection(tuple(flat[0].tolist()), tuple(flat[1].tolist()))

    def __call__(self, params: Params) -> Scalar:
        w = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
        a, b = jnp.asarray(self.a, w.dtype), jnp.asarray(self.b, w.dtype)
        return jnp.dot(w - a, b - a) / jnp.dot(b - a, b - a)


class Bias(NamedTuple):
    """B(x) = -V(x) + tilt (x - centre) + stiffness/2 d(x)^2, d the distance of x from [low, high].

    V on `knots` [3, M] (places, slopes, values): cubic between knots, constant outside them.
    """

    low: Any
    high: Any
    centre: Any
    tilt: Any
    stiffness: Any
    knots: Any


def flattening(x: Any, knots: Any, np: Any = jnp) -> Any:
    """V(x) of the knots; `np` numpy for float64 on the host."""
    at, slope, value = knots[0], knots[1], knots[2]
    inside = np.clip(x, at[0], at[-1])
    left = np.clip(np.searchsorted(at, inside, side="right") - 1, 0, at.shape[0] - 2)
    width = at[left + 1] - at[left]
    u, rise = (inside - at[left]) / width, value[left + 1] - value[left]
    low, high = slope[left] * width, slope[left + 1] * width
    return value[left] + u * (low + u * (3 * rise - 2 * low - high + u * (low + high - 2 * rise)))


def energy(x: Any, bias: Bias, np: Any = jnp) -> Any:
    """B(x)."""
    aside = np.maximum(bias.low - x, 0) + np.maximum(x - bias.high, 0)
    return bias.tilt * (x - bias.centre) + bias.stiffness / 2 * aside**2 - flattening(x, bias.knots, np)


def flat() -> np.ndarray:
    """Knots of V = 0."""
    return np.stack([np.arange(KNOTS, dtype=float), np.zeros(KNOTS), np.zeros(KNOTS)])


def spring(x: float, width: float) -> Bias:
    """(order - x)^2 / (2 width^2) alone."""
    dtype = jnp.result_type(float)
    at, zero, stiffness = (jnp.asarray(v, dtype) for v in (x, 0.0, width**-2.0))
    return Bias(at, at, at, zero, stiffness, jnp.asarray(flat(), dtype))


@dataclass(frozen=True)
class Umbrella(Model):
    """A model whose prior carries the factor exp(-B(order(w))), not normalised; B comes with `bind`."""

    base: Model
    order: Order
    bias: Any = field(default=None, compare=False)

    @property
    def controls(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("bias", *self.base.controls)

    @property
    def is_potential(self) -> bool:
        return self.base.is_potential

    @property
    def support(self) -> tuple[float, float] | None:
        return self.base.support

    def bind(self, control: Mapping[str, Any]) -> "Umbrella":
        rest = {name: value for name, value in control.items() if name != "bias"}
        return dataclasses.replace(self, base=self.base.bind(rest), bias=control.get("bias", self.bias))

    def init(self, key: Key) -> Params:
        return self.base.init(key)

    def log_prior(self, params: Params) -> Scalar:
        plain = self.base.log_prior(params)
        return plain if self.bias is None else plain - energy(self.order(params), self.bias)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        return self.base.log_likelihood(params, batch)


def under(posterior: Posterior, bias: Bias) -> Posterior:
    """The posterior of an Umbrella under one window."""
    return dataclasses.replace(posterior, control={**posterior.control, "bias": bias})


def _order(posterior: Posterior, position: Position) -> Scalar:
    model: Any = posterior.model
    return model.order(posterior.params(position))


def _stepping(sampler: Sampler, step: Array) -> Any:
    tuned: Any = sampler
    return dataclasses.replace(tuned, step_size=step)


def _advance(sampler: Sampler, posterior: Posterior, bias: Bias, state: Any, key: Key, tune: Array) -> Any:
    """One step in one window, tuned while `tune`; a chain that is no longer finite stays where it was."""
    algorithm = sampler(under(posterior, bias))
    new, info = algorithm.step(key, state)
    if algorithm.adapt is not None:
        adapt = algorithm.adapt
        new = jax.lax.cond(tune, adapt, lambda s, _: s, new, info)
    ok = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new.position)]).all()
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state)


@functools.partial(jax.jit, static_argnames=("burn_in", "draws"), compiler_options=LONG)
def stage(
    sampler: Sampler, posterior: Posterior, bias: Bias, steps: Array, positions: Position, key: Key,
    *, burn_in: int, draws: int,
) -> tuple[Array, Position, Array]:  # fmt: skip
    """Chains [front, chain] of one window a front: (orders [draw, front, chain], positions, steps [front]).

    Steps are searched for from `steps` [front].
    """

    def chain(bias: Bias, step: Array, position: Position, key: Key) -> Any:
        return _stepping(sampler, step)(under(posterior, bias)).init(position, key)

    over = lambda fn, axes: jax.vmap(jax.vmap(fn, in_axes=axes))  # noqa: E731
    fronts, chains = jax.tree.leaves(positions)[0].shape[:2]
    keys = jax.random.split(key, (fronts, chains))
    first = jax.vmap(jax.vmap(lambda k: jax.random.fold_in(k, 2**31)))(keys)
    state = over(chain, (None, None, 0, 0))(bias, steps, positions, first)

    def move(state: Any, number: Array) -> tuple[Any, Array]:
        def one(bias: Bias, step: Array, state: Any, key: Key) -> Any:
            tuned = _stepping(sampler, step)
            return _advance(tuned, posterior, bias, state, jax.random.fold_in(key, number), number < burn_in)

        state = over(one, (None, None, 0, 0))(bias, steps, state, keys)
        return state, jax.vmap(jax.vmap(lambda w: _order(posterior, w)))(state.position)

    state, orders = jax.lax.scan(move, state, jnp.arange(burn_in + draws))
    tuned = jnp.exp(jnp.mean(state.dual.log_step_size_avg, axis=-1))
    return orders[burn_in:], state.position, tuned


class Draws(NamedTuple):
    """What the production gives."""

    orders: np.ndarray
    "[replicate, window, draw]"
    swaps: np.ndarray
    "acceptance of exchanges [pair of neighbours]"
    positions: Position
    "last positions [replicate, window, ...]"
    top: Position
    "mean position over draws near the top of the pilot's profile"
    top_count: float
    finite: np.ndarray
    "replicates [replicate] whose every draw is finite"


@functools.partial(jax.jit, static_argnames=("length",), compiler_options=LONG)
def _produce(
    sampler: Sampler, posterior: Posterior, bias: Bias, steps: Array, positions: Position, key: Key, near: Array,
    burn_in: Array, draws: Array, thin: Array, *, length: int,
) -> Any:  # fmt: skip
    over = lambda fn, axes: jax.vmap(jax.vmap(fn, in_axes=axes), in_axes=(None, None, 0, 0))  # noqa: E731
    windows, replicates = steps.shape[0], jax.tree.leaves(positions)[0].shape[0]
    keys = jax.vmap(lambda k: jax.random.split(k, windows))(jax.random.split(jax.random.fold_in(key, 0), replicates))
    swap_key = jax.random.fold_in(key, 1)
    axes = Bias(0, 0, 0, 0, 0, None)

    def begin(bias: Bias, step: Array, position: Position, key: Key) -> Any:
        return _stepping(sampler, step)(under(posterior, bias)).init(position, key)

    def one(number: Array, bias: Bias, step: Array, state: Any, key: Key) -> Any:
        tuned = _stepping(sampler, step)
        return _advance(tuned, posterior, bias, state, jax.random.fold_in(key, number), number < burn_in)

    def again(bias: Bias, step: Array, state: Any, position: Position) -> Any:
        algorithm = _stepping(sampler, step)(under(posterior, bias))
        return algorithm.relocate(state, position)

    inner = (axes, 0, 0, 0)
    all_orders = jax.vmap(jax.vmap(lambda w: _order(posterior, w)))
    first = jax.vmap(jax.vmap(lambda k: jax.random.fold_in(k, 2**31)))(keys)
    state = over(begin, inner)(bias, steps, positions, first)
    number_of = jnp.arange(windows)

    def held(x: Array, k: Array) -> Array:
        low, high, centre, tilt, stiffness = (leaf[k] for leaf in bias[:5])
        return energy(x, Bias(low, high, centre, tilt, stiffness, bias.knots))

    def move(number: Array, loop: Any) -> Any:
        state, total, count, orders, chances = loop
        state = over(functools.partial(one, number), inner)(bias, steps, state, keys)
        x = all_orders(state.position)
        partner = jnp.where(number_of % 2 == number % 2, number_of + 1, number_of - 1)
        alone = (partner < 0) | (partner >= windows)
        partner = jnp.where(alone, number_of, partner)
        gain = held(x, number_of) - held(x[:, partner], number_of)  # each one's own part of the pair's change
        coins = jax.random.uniform(jax.random.fold_in(swap_key, number), x.shape, x.dtype)
        chance = jnp.exp(jnp.minimum(gain + gain[:, partner], 0))
        swap = (coins[:, jnp.minimum(number_of, partner)] < chance) & ~alone
        mixed = jax.tree.map(
            lambda leaf: jnp.where(swap.reshape(*swap.shape, *[1] * (leaf.ndim - 2)), leaf[:, partner], leaf),
            state.position,
        )
        state = over(again, inner)(bias, steps, state, mixed)
        x = jnp.where(swap, x[:, partner], x)
        close = ((x > near[0]) & (x < near[1]) & (number >= burn_in)).astype(x.dtype)
        total = jax.tree.map(lambda t, leaf: t + jnp.tensordot(close, leaf, 2), total, mixed)
        place = jnp.maximum(number - burn_in, 0) // thin  # burn-in writes where the first draw will
        orders = jax.lax.dynamic_update_index_in_dim(orders, x, place, 0)
        tried = jnp.where(alone | (number < burn_in), 0, jnp.stack([chance.mean(0), jnp.ones_like(chance[0])]))
        return state, total, count + close.sum(), orders, chances + tried

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[2:], leaf.dtype), positions)
    blank = jnp.zeros((length, replicates, windows), steps.dtype)
    loop = (state, nothing, jnp.zeros((), steps.dtype), blank, jnp.zeros((2, windows), steps.dtype))
    state, total, count, orders, chances = jax.lax.fori_loop(0, burn_in + draws * thin, move, loop)
    top = jax.tree.map(lambda leaf: leaf / count, total)
    return jnp.moveaxis(orders, 0, -1), chances[0] / chances[1], state.position, top, count


def produce(
    sampler: Sampler, posterior: Posterior, bias: Bias, positions: Position, key: Key, near: tuple[float, float],
    steps: np.ndarray, *, burn_in: int, draws: int, thin: int, length: int,
) -> Draws:  # fmt: skip
    """Replicates of all windows with exchanges of neighbours (even and odd pairs in turn) after every step.

    burn_in: steps; draws: kept, each `thin` steps after the last.

    positions [replicate, window, ...]; near: the range of the order parameter whose draws give the mean position;
    length: the most draws that the program can keep.
    """
    dtype = jnp.result_type(float)
    cast = Bias(*(jnp.asarray(leaf, dtype) for leaf in bias))
    orders, chances, last, top, count = _produce(
        sampler, posterior, cast, jnp.asarray(steps, dtype), positions, key, jnp.asarray(near, dtype),
        burn_in, draws, thin, length=length,
    )  # fmt: skip
    orders = np.asarray(orders, np.float64)[..., :draws]
    swaps = np.asarray(chances, np.float64)[:-1]
    finite = np.asarray(np.isfinite(orders).all((-1, -2)))
    return Draws(orders, swaps, last, top, float(count), finite)
