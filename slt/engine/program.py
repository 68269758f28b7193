"""The compiled programs of the engine: make posteriors, start chains, advance chains; pure functions of arrays.

Shapes and structure are static, every number is traced: one program a bucket, none for a changed value.
"""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from slt.cells import fold_words
from slt.engine.mesh import BUFFERED, BY_CHAIN, BY_ROW, SHARED, over_chains
from slt.engine.schedule import Start
from slt.model import Model
from slt.observables import Observable
from slt.posterior import Posterior, Restriction
from slt.samplers.base import Algorithm, Info, Sampler
from slt.typing import Batch, InputError, Key, Params, Status

Observables = tuple[tuple[str, Observable], ...]
BLOCK = 64  # samples drawn under one key, so that a data set is nested by prefix whatever n a grid asks for

# LLVM levels: what runs once compiles in a third of the time; what runs long is as fast at 1 as at 3, and ready sooner
ONCE: Any = {"xla_backend_optimization_level": 0}
LONG: Any = {"xla_backend_optimization_level": 1}

programs = collections.Counter[str]()
"""How often each program was traced, by name: once a bucket, never for a changed value."""


OutOfMemory = jax.errors.JaxRuntimeError
"""What JAX raises where the device has no room, among other failures: its text then has RESOURCE_EXHAUSTED."""


class Carry(NamedTuple):
    """All that a bucket's chains need to go on: checkpoint this. Leading axes (cells or ladders, chains)."""

    state: Any
    folds: dict[str, Any]
    status: Array
    broken_at: Array


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=ONCE)
def draw_data(model: Model, words: Array, control: dict[str, Array], size: int) -> Batch:
    """Data sets of `size` samples, one for each row of words and controls: leaves [sets, size, ...]."""

    def one(word: Array, control: dict[str, Array]) -> Batch:
        bound, key = model.bind(control), fold_words(jax.random.key(0), word)
        blocks = jax.vmap(lambda i: bound.sample(jax.random.fold_in(key, i), BLOCK))(jnp.arange(-(-size // BLOCK)))
        return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * BLOCK, *leaf.shape[2:])[:size], blocks)

    return jax.vmap(one)(words, control)


@functools.partial(jax.jit, static_argnums=(0, 8, 9), compiler_options=ONCE)
def build_posteriors(
    model: Model,
    drawn: Batch,
    where: Array,
    numbers: dict[str, Array],
    control: dict[str, Array],
    centres: Params,
    masks: Params | None,
    chosen: tuple[Array, Array],
    restriction: Restriction | None,
    control_variate: bool,
) -> Posterior:
    """Posteriors [cells, ...]: cell i takes data set where[i] and centre and mask chosen[..][i]."""

    def one(which: Array, number: dict[str, Array], control: dict[str, Array], centre: Array, mask: Array) -> Posterior:
        return Posterior.build(
            model,
            jax.tree.map(lambda leaf: leaf[which], drawn),
            number["n"],
            number["beta"],
            centre=jax.tree.map(lambda leaf: leaf[centre], centres),
            gamma=number["gamma"],
            control=control,
            restriction=restriction,
            mask=None if masks is None else jax.tree.map(lambda leaf: leaf[mask], masks),
            control_variate=control_variate,
        )

    return jax.vmap(one)(where, numbers, control, *chosen)


@functools.partial(jax.jit, static_argnums=2, compiler_options=ONCE)
def chain_keys(key: Key, words: Array, chains: int) -> Key:
    """Keys [cells, chains] from the run's key, each cell's words and the chain's number."""
    cells = jax.vmap(lambda w: fold_words(key, w))(words)
    return jax.vmap(lambda k: jax.vmap(lambda c: jax.random.fold_in(k, c))(jnp.arange(chains)))(cells)


def _chains(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn(posterior, *chain arguments) over cells x chains, the posterior shared by the chains of a cell."""

    @functools.wraps(fn)
    def mapped(posteriors: Posterior, *rest: Any) -> Any:
        inner = lambda posterior, *args: jax.vmap(functools.partial(fn, posterior))(*args)  # noqa: E731
        return jax.vmap(inner)(posteriors, *rest)

    return mapped


def _rungs(sampler: Sampler, fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn(posterior, position, ...) of one chain; of every rung of a ladder where the sampler couples them."""
    return fn if sampler.coupled is None else jax.vmap(fn)


@functools.partial(jax.jit, static_argnames=("observables", "mesh"), compiler_options=ONCE)
def begin(
    sampler: Sampler,
    posteriors: Posterior,
    keys: Key,
    start: Start,
    observables: Observables,
    mesh: Mesh | None = None,
) -> Carry:
    """The state of all chains before their first step; a start that is not finite is recorded as broken."""
    programs["begin"] += 1
    numbers = jnp.broadcast_to(jnp.arange(keys.shape[1]), keys.shape)
    body = over_chains(
        mesh, (SHARED, BY_ROW, BY_CHAIN, BY_CHAIN, SHARED), BY_CHAIN, functools.partial(_begun, observables)
    )
    return body(sampler, posteriors, keys, numbers, start)


def _begun(
    observables: Observables, sampler: Sampler, posteriors: Posterior, keys: Key, numbers: Array, start: Start
) -> Carry:

    def one(posterior: Posterior, key: Key, chain: Array) -> Carry:
        start_key, init_key = jax.random.split(jax.random.fold_in(key, 2**32 - 1))
        rung = _rungs(sampler, lambda p, k: p.position(start(p.bound, k, chain)))
        place = rung(
            posterior, start_key if sampler.coupled is None else jax.random.split(start_key, posterior.n.shape[0])
        )
        algorithm: Algorithm = sampler(posterior)
        state = algorithm.init(place, init_key)
        finite = _rungs(sampler, lambda p, w: jnp.isfinite(p.delta(w)))(posterior, place)
        status = _status(sampler, _rungs(sampler, lambda _, w: _finite(w))(posterior, place), finite)
        folds = _rungs(sampler, lambda p: {name: _of(name, watch.init, p) for name, watch in observables})(posterior)
        return Carry(state, folds, status, jnp.where(status == Status.OK, -1, 0))

    return _chains(one)(posteriors, keys, numbers)


def _finite(tree: Any) -> Array:
    # a sum of zeros is NaN where a number is not finite: one pass, while XLA writes `isfinite` out before it reduces
    return jnp.stack([jnp.isfinite(jnp.sum(leaf * 0)) for leaf in jax.tree.leaves(tree)]).all()


def _status(sampler: Sampler, params: Array, losses: Array) -> Array:
    status = jnp.where(params, jnp.where(losses, Status.OK, Status.NONFINITE_LOSS), Status.NONFINITE_PARAMS)
    if sampler.coupled is None:
        return status.astype(jnp.int32)
    broken = jnp.any(status != Status.OK)
    return jnp.where(broken & (status == Status.OK), Status.BROKEN_RUNG, status).astype(jnp.int32)


@jax.jit  # under a jit of their own these are traced once, however often they are called
def _stepped(
    sampler: Sampler, posteriors: Posterior, keys: Key, state: Any, number: Int[Array, "..."]
) -> tuple[Any, Info]:
    """All chains one step on, and what their steps tell."""

    def one(posterior: Posterior, key: Key, state: Any) -> tuple[Any, Info]:
        new, info = sampler(posterior).step(jax.random.fold_in(key, number), state)
        return new, info if isinstance(info, Info) else Info()

    return _chains(one)(posteriors, keys, state)


@functools.partial(jax.jit, static_argnums=1)
def _seen(
    sampler: Sampler, watch: Observable, posteriors: Posterior, position: Any, info: Info, fold: Any
) -> tuple[Any, Any]:
    """The fold and what is emitted, of all chains."""

    def one(posterior: Posterior, position: Any, info: Info, fold: Any) -> tuple[Any, Any]:
        return watch.update(posterior, posterior.params(position), info, fold)

    return _chains(_rungs(sampler, one))(posteriors, position, info, fold)


def _shapes(
    sampler: Sampler, posteriors: Posterior, keys: Key, carry: Carry, observables: Observables
) -> tuple[Any, dict[str, Any]]:
    """What one step tells, and what the observables then emit: shapes and dtypes."""
    state, info = _stepped.eval_shape(sampler, posteriors, keys, carry.state, jnp.zeros((), jnp.int32))
    seen = {
        name: _of(name, _seen.eval_shape, sampler, watch, posteriors, state.position, info, carry.folds[name])
        for name, watch in observables
    }
    return info, {name: emitted for name, (_, emitted) in seen.items()}


def _of(name: str, fn: Callable[..., Any], *arguments: Any) -> Any:
    """fn(*arguments), which traces an observable; InputError names the one that cannot be traced."""
    try:
        return fn(*arguments)
    except InputError:
        raise
    except Exception as error:
        cure = f"cannot be computed of this model's draws: {str(error).partition(chr(10))[0]}"
        raise InputError(f"observables.{name}", type(error).__name__, cure) from error


def emissions(
    sampler: Sampler, posteriors: Posterior, keys: Key, start: Start, observables: Observables
) -> tuple[dict[str, Any], Carry]:
    """What the observables emit after one step, and the carry: shapes and dtypes; nothing is computed."""
    carry = begin.eval_shape(sampler, posteriors, keys, start, observables, None)
    return _shapes(sampler, posteriors, keys, carry, observables)[1], carry


@functools.partial(
    jax.jit, static_argnames=("observables", "length", "mesh"), donate_argnames=("carry",), compiler_options=LONG
)
def advance(
    sampler: Sampler,
    posteriors: Posterior,
    keys: Key,
    carry: Carry,
    first: Array,
    stop: Array,
    thin: Array,
    burn_in: Array,
    *,
    observables: Observables,
    length: int,
    mesh: Mesh | None = None,
) -> tuple[Carry, dict[str, Any]]:
    """Draws first .. stop - 1 of all chains; buffers hold `length` draws, so fewer draws need no new program."""
    programs["advance"] += 1
    arguments = (SHARED, BY_ROW, BY_CHAIN, BY_CHAIN, SHARED, SHARED, SHARED, SHARED)
    body = over_chains(mesh, arguments, (BY_CHAIN, BUFFERED), functools.partial(_advanced, observables, length))
    return body(sampler, posteriors, keys, carry, first, stop, thin, burn_in)


def _advanced(
    observables: Observables,
    length: int,
    sampler: Sampler,
    posteriors: Posterior,
    keys: Key,
    carry: Carry,
    first: Array,
    stop: Array,
    thin: Array,
    burn_in: Array,
) -> tuple[Carry, dict[str, Any]]:
    told, emitted = _shapes(sampler, posteriors, keys, carry, observables)
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), told)
    slots = {name: -(-length // watch.every) for name, watch in observables}
    buffers = {
        name: jax.tree.map(lambda leaf, s=slots[name]: jnp.zeros((s, *leaf.shape), leaf.dtype), emitted[name])
        for name, _ in observables
    }

    def step(draw: Array, inner: Array, state: Any) -> tuple[Any, Info]:
        state, info = _stepped(sampler, posteriors, keys, state, draw * thin + inner)
        return jax.lax.cond(
            draw < burn_in, lambda s, i: _adapted(sampler, posteriors, s, i), lambda s, _: s, state, info
        ), info

    def draw(number: Array, loop: tuple[Carry, dict[str, Any]]) -> tuple[Carry, dict[str, Any]]:
        (state, folds, status, broken_at), buffers = loop
        # a broken chain goes on as NaN, and nothing of it is seen: to put its last state back would cost every chain
        # that state's copy at each draw, a sixth of the step of a network of a million parameters
        state, info = jax.lax.fori_loop(0, thin, lambda i, s: step(number, i, s[0]), (state, blank))
        position = state.position
        params_ok = _chains(_rungs(sampler, lambda _, w: _finite(w)))(posteriors, position)
        losses_ok = jnp.ones_like(params_ok) if info.delta is None else jnp.isfinite(info.delta)
        fresh = _chains(lambda _, p, q: _status(sampler, p, q))(posteriors, params_ok, losses_ok)
        status, broken_at = (
            jnp.where(status == Status.OK, fresh, status),
            jnp.where((status == Status.OK) & (fresh != Status.OK), number, broken_at),
        )
        alive = status == Status.OK
        new_folds, new_buffers = dict(folds), dict(buffers)
        for name, watch in observables:
            look = functools.partial(_seen, sampler, watch, posteriors, state.position, info)
            if watch.folds:
                keep = functools.partial(lambda n, s, f: _select(alive, s(f)[0], f), name, look)
                new_folds[name] = jax.lax.cond(number >= burn_in, keep, lambda f: f, folds[name])
            if jax.tree.leaves(emitted[name]):
                place = number // watch.every - kept(first, watch.every)

                def write(buffer: Any, s: Any = look, n: str = name, at: Array = place) -> Any:
                    value = _blanked(alive, s(folds[n])[1])
                    return jax.tree.map(lambda b, v: jax.lax.dynamic_update_index_in_dim(b, v, at, 0), buffer, value)

                new_buffers[name] = (
                    write(buffers[name])
                    if watch.every == 1
                    else jax.lax.cond(number % watch.every == 0, write, lambda b: b, buffers[name])
                )
        return Carry(state, new_folds, status, broken_at), new_buffers

    return jax.lax.fori_loop(first, stop, draw, (carry, buffers))


def _adapted(sampler: Sampler, posteriors: Posterior, state: Any, info: Info) -> Any:
    def one(posterior: Posterior, state: Any, info: Info) -> Any:
        adapt = getattr(sampler(posterior), "adapt", None)
        return state if adapt is None else adapt(state, info)

    return _chains(one)(posteriors, state, info)


def _select(alive: Array, new: Any, old: Any) -> Any:
    def pick(a: Array, b: Array) -> Array:
        return jnp.where(alive.reshape(alive.shape + (1,) * (a.ndim - alive.ndim)), a, b)

    return jax.tree.map(pick, new, old)


def _blanked(alive: Array, values: Any) -> Any:
    def blank(leaf: Array) -> Array:
        hole = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else -1
        return jnp.where(
            alive.reshape(alive.shape + (1,) * (leaf.ndim - alive.ndim)), leaf, jnp.asarray(hole, leaf.dtype)
        )

    return jax.tree.map(blank, values)


def kept(draws: Any, every: int) -> Any:
    """How many of the first `draws` draws an observable stores: draws 0, every, 2 every, ..."""
    return -(-draws // every)


def padded(leaf: Array, size: int) -> Array:
    """The first `size` rows, the last one repeated where there are fewer."""
    missing = size - leaf.shape[0]
    return leaf[:size] if missing <= 0 else jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])
