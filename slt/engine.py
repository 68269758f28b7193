"""The engine: one XLA program per bucket that vmaps a sampler over cells and chains and folds observables as it goes.

It knows no concrete sampler and no concrete model, and touches neither disk nor xarray.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from slt.cells import Cell, data_words, digest_words, fold_words
from slt.model import Model, check
from slt.observables import Observable
from slt.posterior import Posterior, Restriction
from slt.samplers.base import Algorithm, Info, Sampler
from slt.typing import Batch, InputError, Key, Params, Status

BLOCK = 64  # samples drawn under one key, so that a data set is nested by prefix whatever n a grid asks for
MEMORY = 256 * 2**20  # bytes of traces that one chunk may hold on the device, unless a schedule says otherwise


@dataclass(frozen=True)
class Schedule:
    """How long chains run, counted in draws of `thin` steps each; none of these but `chains` and `chunk` recompiles.

    draws: in all, burn-in included; burn_in: draws that tune samplers and enter no estimate; chunk: draws between two
    saves (None: about a sixteenth of the run, less if the traces would pass `memory` bytes).
    """

    draws: int
    chains: int = 4
    burn_in: int = 0
    thin: int = 1
    chunk: int | None = None
    memory: int = MEMORY

    def check(self) -> None:
        """InputError where the numbers cannot be used."""
        for name, low in (("draws", 1), ("chains", 1), ("burn_in", 0), ("thin", 1), ("memory", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"schedule.{name}", value, f"must be a whole number, at least {low}")
        if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 1):
            raise InputError("schedule.chunk", self.chunk, "must be a positive whole number of draws, or null")
        if self.burn_in >= self.draws:
            raise InputError("schedule.burn_in", self.burn_in, f"must be less than schedule.draws = {self.draws}")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["points", "from_prior", "jitter"], meta_fields=[]
)
@dataclass(frozen=True)
class Start:
    """Where chains start: chain c at points[c mod k], or from model.init where from_prior; jitter N(0, jitter^2) added."""

    points: Params
    from_prior: Array
    jitter: float = 0.0

    def __call__(self, model: Model, key: Key, chain: Array) -> Params:
        """The start of one chain."""
        init_key, jitter_key = jax.random.split(key)
        which = chain % self.from_prior.shape[0]
        leaves, treedef = jax.tree.flatten(jax.tree.map(lambda leaf: leaf[which], self.points))
        keys = jax.random.split(jitter_key, len(leaves))
        moved = [x + self.jitter * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        drawn = model.init(init_key)
        return jax.tree.map(
            lambda a, b: jnp.where(self.from_prior[which], a, b.astype(a.dtype)), drawn, jax.tree.unflatten(treedef, moved)
        )


class Bucket(NamedTuple):
    """Cells that share one program: `size` padded samples; rows[u][r] counts the run's cells, r the rung of ladder u."""

    size: int
    rows: tuple[tuple[int, ...], ...]


class Plan(NamedTuple):
    """What a run will do. cells: the grid's cells, then the extra rungs of ladders; the first `grid` are the grid's."""

    cells: tuple[Cell, ...]
    grid: int
    buckets: tuple[Bucket, ...]
    coupled: str | None


class Carry(NamedTuple):
    """All that a bucket's chains need to go on: checkpoint this. Leading axes (cells or ladders, chains)."""

    state: Any
    folds: dict[str, Any]
    status: Array
    broken_at: Array


class Chunk(NamedTuple):
    """What one chunk brings to the host: arrays [cells of the bucket, chains, draws kept, ...] by observable.

    cells counts into Plan.cells; first and stop bound the draws; every[name] is the thinning of an observable;
    status and broken_at [cells, chains] (draw of the break, -1 if none); carry stays on the device.
    """

    bucket: int
    cells: tuple[int, ...]
    first: int
    stop: int
    traces: dict[str, Any]
    every: dict[str, int]
    status: np.ndarray
    broken_at: np.ndarray
    carry: Carry
    seconds: float
    compiled: bool


class Trace(NamedTuple):
    """A finished run. traces[name]: pytree of arrays [cells, chains, draws kept, ...]; folds[name]: [cells, chains, ...].

    offset [cells]: L_n(w_ref) in float64; n_data etc. stand in plan.cells. Burn-in is kept in traces, not in folds.
    """

    plan: Plan
    traces: dict[str, Any]
    folds: dict[str, Any]
    status: np.ndarray
    broken_at: np.ndarray
    offset: np.ndarray
    seconds: float


class Restore(Protocol):
    """Gives back a bucket's carry and the number of draws done, or None to start it."""

    def __call__(self, bucket: int, like: Carry) -> tuple[Carry, int] | None: ...


def plan(sampler: Sampler, cells: Sequence[Cell]) -> Plan:
    """Group cells into buckets: n padded to a power of two; ladders of a coupled sampler whole, extra rungs appended."""
    if not cells:
        raise InputError("grid", [], "is empty: give at least one value on every axis")
    axis = sampler.coupled
    if axis is None:
        sizes = sorted({_padded(cell.n) for cell in cells})
        rows = {size: tuple((i,) for i, cell in enumerate(cells) if _padded(cell.n) == size) for size in sizes}
        return Plan(tuple(cells), len(cells), tuple(Bucket(size, rows[size]) for size in sizes), None)
    return _plan_ladders(sampler, tuple(cells), axis)


def _plan_ladders(sampler: Sampler, cells: tuple[Cell, ...], axis: str) -> Plan:
    groups: dict[tuple, list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(tuple(sorted(_group(cell, axis).items())), []).append(i)
    everything, buckets = list(cells), dict[tuple[int, int], list[tuple[int, ...]]]()
    for members in groups.values():
        members.sort(key=lambda i: cells[i].coords[_field(axis)])
        values = [cells[i].coords[_field(axis)] for i in members]
        rungs, on_grid = sampler.ladder(values)  # pyright: ignore[reportAttributeAccessIssue]
        known = iter(members)
        row = []
        for value, grid_value in zip(rungs, on_grid, strict=True):
            if grid_value:
                row.append(next(known))
            else:
                row.append(len(everything))
                everything.append(cells[members[0]].at(axis, value))
        size = _padded(max(cells[i].n for i in members))
        buckets.setdefault((size, len(row)), []).append(tuple(row))
    ordered = tuple(Bucket(size, tuple(rows)) for (size, _), rows in sorted(buckets.items()))
    return Plan(tuple(everything), len(cells), ordered, axis)


def _field(axis: str) -> str:
    return "beta" if axis == "t" else axis


def _group(cell: Cell, axis: str) -> dict[str, float]:
    return {name: value for name, value in cell.coords.items() if name != _field(axis)}


def _padded(n: int) -> int:
    return 1 << (n - 1).bit_length()


def run(
    model: Model,
    sampler: Sampler,
    cells: Sequence[Cell],
    observables: Mapping[str, Observable],
    schedule: Schedule,
    *,
    key: Key,
    start: Start | None = None,
    centres: Sequence[Params] | None = None,
    masks: Sequence[Params] | None = None,
    restriction: Restriction | None = None,
    data: Batch | None = None,
    on_chunk: Callable[[Chunk], None] | None = None,
    restore: Restore | None = None,
    keep: bool = True,
) -> Trace:
    """Sample every cell with `schedule.chains` chains and return what the observables saw.

    For a coupled sampler a chain is a whole ladder, and the extra rungs come as further cells (Plan.cells).
    key: of the run; a chain's key is folded from it, the cell's coordinates and the chain's number, and a step's from
    that and the step's number, so neither the grid's other cells nor the chunks matter.
    start: see Start (default model.init); centres: what Cell.centre counts (default the known optimum, or one draw);
    data: a batch of at least max n samples, the same for every data seed; default drawn from the model by data seed.
    on_chunk sees each chunk as it ends; restore gives back checkpoints; keep=False returns empty traces (a caller that
    stores the chunks). Raises InputError, before any sampling, for everything that can be seen to be wrong.
    """
    job = prepare(
        model, sampler, cells, observables, schedule,
        key=key, start=start, centres=centres, masks=masks, restriction=restriction, data=data,
    )  # fmt: skip
    return job.run(on_chunk=on_chunk, restore=restore, keep=keep)


def prepare(
    model: Model,
    sampler: Sampler,
    cells: Sequence[Cell],
    observables: Mapping[str, Observable],
    schedule: Schedule,
    *,
    key: Key,
    start: Start | None = None,
    centres: Sequence[Params] | None = None,
    masks: Sequence[Params] | None = None,
    restriction: Restriction | None = None,
    data: Batch | None = None,
) -> "Job":
    """The checked job that `run` would run; arguments as there. Samples nothing."""
    schedule.check()
    sampler.check()
    layout = plan(sampler, cells)
    if restriction is not None and masks is not None:
        raise InputError("restriction", "with masks", "give a static restriction or traced masks, not both")
    if centres is None:
        truth = model.truth()
        centres = [model.init(jax.random.key(0)) if truth is None or truth.params is None else truth.params]
    centres = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), centre) for centre in centres]
    largest = max(cell.n for cell in layout.cells)
    if data is None:
        probe = jax.eval_shape(lambda: model.sample(jax.random.key(0), 3))
        probe = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), probe)
    else:
        data = jax.tree.map(jnp.asarray, data)
        probe = jax.tree.map(lambda leaf: leaf[:3], data)
        have = min(leaf.shape[0] for leaf in jax.tree.leaves(data))
        if largest > have and not model.is_potential:
            raise InputError("grid.n", largest, f"larger than the data, which have {have} samples: lower n or give more data")
    for centre in centres:
        check(model, centre, probe)
    if start is None:
        start = Start(jax.tree.map(lambda leaf: leaf[None], centres[0]), jnp.array([True]))
    for cell in layout.cells:
        if not 0 <= cell.centre < len(centres) or (masks is not None and not 0 <= cell.mask < len(masks)):
            raise InputError("grid.centre", (cell.centre, cell.mask), f"there are {len(centres)} centres")
    return Job(model, sampler, dict(observables), schedule, layout, key, start, tuple(centres), masks, restriction, data)


@dataclass(frozen=True)
class Job:
    """A checked run, ready to start: see `prepare`."""

    model: Model
    sampler: Sampler
    observables: dict[str, Observable]
    schedule: Schedule
    plan: Plan
    key: Key
    start: Start
    centres: tuple[Params, ...]
    masks: Sequence[Params] | None
    restriction: Restriction | None
    data: Batch | None

    @property
    def watched(self) -> tuple[tuple[str, Observable], ...]:
        """The observables as a static argument."""
        return tuple(self.observables.items())

    def posteriors(self, bucket: Bucket) -> Posterior:
        """The bucket's posteriors, leaves [cells, ...]; for ladders [ladders, rungs, ...]."""
        flat = [self.plan.cells[i] for row in bucket.rows for i in row]
        sets = list(dict.fromkeys((cell.data_seed, cell.control) for cell in flat))
        where = np.array([sets.index((cell.data_seed, cell.control)) for cell in flat])
        if self.data is None:
            words = np.stack([data_words(seed) for seed, _ in sets])
            drawn = _draw(self.model, words, _columns([dict(control) for _, control in sets]), bucket.size)
        else:
            cut = jax.tree.map(lambda leaf: _pad(leaf, bucket.size)[None], self.data)
            drawn, where = cut, np.zeros(len(flat), int)
        numbers = {name: np.array([getattr(cell, name) for cell in flat]) for name in ("n", "beta", "gamma")}
        centres = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.centres)
        masks = None if self.masks is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.masks)
        chosen = np.array([cell.centre for cell in flat]), np.array([cell.mask for cell in flat])
        built = _build(
            self.model, drawn, where, numbers, _columns([dict(cell.control) for cell in flat]), centres, masks, chosen,
            self.restriction, self.sampler.wants_reference_grad,
        )  # fmt: skip
        if self.plan.coupled is None:
            return built
        shape = len(bucket.rows), len(bucket.rows[0])
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), built)

    def keys(self, bucket: Bucket) -> Key:
        """Chain keys [cells or ladders, chains]."""
        axis = self.plan.coupled
        named = [self.plan.cells[row[0]] for row in bucket.rows]
        words = np.stack([digest_words(cell.coords if axis is None else _group(cell, axis)) for cell in named])
        return _chain_keys(self.key, words, self.schedule.chains)

    @functools.cached_property
    def chunk_length(self) -> int:
        """Draws a chunk, alike for all buckets: bounded by the memory budget, a multiple of every observable's thinning."""
        step = math.lcm(*(watch.every for watch in self.observables.values())) if self.observables else 1
        wanted = self.schedule.chunk
        if wanted is None:
            wanted = max(1, 1 << max(0, (self.schedule.draws // 16).bit_length() - 1))
        fits = self.schedule.memory // max(1, *(self.bytes_per_draw(bucket) for bucket in self.plan.buckets))
        return max(step, min(wanted, fits) // step * step)

    def bytes_per_draw(self, bucket: Bucket) -> int:
        """Bytes of traces that one draw of the whole bucket takes."""
        posteriors = jax.eval_shape(lambda: self.posteriors(bucket))
        keys = jax.eval_shape(lambda: self.keys(bucket))

        def emissions(posteriors: Posterior, keys: Key) -> dict[str, Any]:
            carry = _begin(self.sampler, posteriors, keys, self.start, self.watched)
            return _emissions(self.sampler, posteriors, keys, carry, self.watched)

        emitted = jax.eval_shape(emissions, posteriors, keys)
        total = sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize / watch.every
            for name, watch in self.watched
            for leaf in jax.tree.leaves(emitted[name])
        )
        return math.ceil(total)

    def run(
        self,
        on_chunk: Callable[[Chunk], None] | None = None,
        restore: Restore | None = None,
        keep: bool = True,
    ) -> Trace:
        """Run to the end: see `run`."""
        began = time.perf_counter()
        kept: list[list[Chunk]] = []
        finished: list[Carry] = []
        offset = np.full(len(self.plan.cells), np.nan)
        for number, bucket in enumerate(self.plan.buckets):
            posteriors = self.posteriors(bucket)
            rows = [i for row in bucket.rows for i in row]
            offset[rows] = _offset(posteriors, bucket)
            chunks, carry = self._run_bucket(number, bucket, posteriors, on_chunk, restore, keep)
            kept.append(chunks)
            finished.append(carry)
        return _collect(self, kept, finished, offset, time.perf_counter() - began)

    def _run_bucket(
        self,
        number: int,
        bucket: Bucket,
        posteriors: Posterior,
        on_chunk: Callable[[Chunk], None] | None,
        restore: Restore | None,
        keep: bool,
    ) -> tuple[list[Chunk], Carry]:
        keys, length = self.keys(bucket), self.chunk_length
        carry, done = None, 0
        if restore is not None:
            like = jax.eval_shape(lambda: _begin(self.sampler, posteriors, keys, self.start, self.watched))
            found = restore(number, like)
            carry, done = (None, 0) if found is None else found
        with jax.threefry_partitionable(False):  # half the cost of normals on CPU; keys already differ per chain
            if carry is None:
                carry = _begin(self.sampler, posteriors, keys, self.start, self.watched)
            chunks = []
            while done < self.schedule.draws:
                first, stop = done, min((done // length + 1) * length, self.schedule.draws)
                before, programs = time.perf_counter(), _advance._cache_size()
                carry, buffers = _advance(
                    self.sampler, posteriors, keys, carry, first, stop, self.schedule.thin, self.schedule.burn_in,
                    observables=self.watched, length=length,
                )  # fmt: skip
                chunk = _to_host(self, number, bucket, first, stop, carry, buffers, before, programs)
                if on_chunk is not None:
                    on_chunk(chunk)
                if keep:
                    chunks.append(chunk)
                done = stop
        return chunks, carry


def _columns(records: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([record[name] for record in records]) for name in records[0]}


def _pad(leaf: Array, size: int) -> Array:
    missing = size - leaf.shape[0]
    return leaf[:size] if missing <= 0 else jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)])


@functools.partial(jax.jit, static_argnums=(0, 3))
def _draw(model: Model, words: Array, control: dict[str, Array], size: int) -> Batch:
    def one(word: Array, control: dict[str, Array]) -> Batch:
        bound, key = model.bind(control), fold_words(jax.random.key(0), word)
        blocks = jax.vmap(lambda i: bound.sample(jax.random.fold_in(key, i), BLOCK))(jnp.arange(-(-size // BLOCK)))
        return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * BLOCK, *leaf.shape[2:])[:size], blocks)

    return jax.vmap(one)(words, control)


@functools.partial(jax.jit, static_argnums=(0, 8, 9))
def _build(
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


@functools.partial(jax.jit, static_argnums=2)
def _chain_keys(key: Key, words: Array, chains: int) -> Key:
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


@functools.partial(jax.jit, static_argnames=("observables",))
def _begin(sampler: Sampler, posteriors: Posterior, keys: Key, start: Start, observables: tuple) -> Carry:
    def one(posterior: Posterior, key: Key, chain: Array) -> Carry:
        start_key, init_key = jax.random.split(jax.random.fold_in(key, 2**32 - 1))
        rung = _rungs(sampler, lambda p, k: p.position(start(p.bound, k, chain)))
        place = rung(posterior, start_key if sampler.coupled is None else jax.random.split(start_key, posterior.n.shape[0]))
        algorithm: Algorithm = sampler(posterior)
        state = algorithm.init(place, init_key)
        finite = _rungs(sampler, lambda p, w: jnp.isfinite(p.delta(w)))(posterior, place)
        status = _status(sampler, _rungs(sampler, lambda _, w: _finite(w))(posterior, place), finite)
        folds = _rungs(sampler, lambda p: {name: watch.init(p) for name, watch in observables})(posterior)
        return Carry(state, folds, status, jnp.where(status == Status.OK, -1, 0))

    return _chains(one)(posteriors, keys, jnp.broadcast_to(jnp.arange(keys.shape[1]), keys.shape))


def _finite(tree: Any) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _status(sampler: Sampler, params: Array, losses: Array) -> Array:
    status = jnp.where(params, jnp.where(losses, Status.OK, Status.NONFINITE_LOSS), Status.NONFINITE_PARAMS)
    if sampler.coupled is None:
        return status.astype(jnp.int32)
    broken = jnp.any(status != Status.OK)
    return jnp.where(broken & (status == Status.OK), Status.BROKEN_RUNG, status).astype(jnp.int32)


def _step(sampler: Sampler) -> Callable[..., Any]:
    def one(posterior: Posterior, key: Key, state: Any, number: Array) -> tuple[Any, Info]:
        new, info = sampler(posterior).step(jax.random.fold_in(key, number), state)
        return new, info if isinstance(info, Info) else Info()

    return one


def _watch(sampler: Sampler, watch: Observable) -> Callable[..., Any]:
    def one(posterior: Posterior, position: Any, info: Info, fold: Any) -> tuple[Any, Any]:
        return watch.update(posterior, posterior.params(position), info, fold)

    return _chains(_rungs(sampler, one))


def _emissions(sampler: Sampler, posteriors: Posterior, keys: Key, carry: Carry, observables: tuple) -> dict[str, Any]:
    numbers = jnp.zeros(keys.shape, jnp.int32)
    state, info = _chains(_step(sampler))(posteriors, keys, carry.state, numbers)
    return {name: _watch(sampler, w)(posteriors, state.position, info, carry.folds[name])[1] for name, w in observables}


@functools.partial(jax.jit, static_argnames=("observables", "length"), donate_argnames=("carry",))
def _advance(
    sampler: Sampler,
    posteriors: Posterior,
    keys: Key,
    carry: Carry,
    first: Array,
    stop: Array,
    thin: Array,
    burn_in: Array,
    *,
    observables: tuple[tuple[str, Observable], ...],
    length: int,
) -> tuple[Carry, dict[str, Any]]:
    """Draws first .. stop - 1 of all chains; buffers hold `length` draws, so fewer draws need no new program."""
    stepped = _chains(_step(sampler))
    shapes = jax.eval_shape(lambda: stepped(posteriors, keys, carry.state, jnp.zeros(keys.shape, jnp.int32)))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[1])
    emitted = jax.eval_shape(lambda: _emissions(sampler, posteriors, keys, carry, observables))
    slots = {name: -(-length // watch.every) for name, watch in observables}
    buffers = {
        name: jax.tree.map(lambda leaf, s=slots[name]: jnp.zeros((s, *leaf.shape), leaf.dtype), emitted[name])
        for name, _ in observables
    }

    def step(draw: Array, inner: Array, state: Any) -> tuple[Any, Info]:
        state, info = stepped(posteriors, keys, state, jnp.full(keys.shape, draw * thin + inner))
        return jax.lax.cond(draw < burn_in, lambda s, i: _adapted(sampler, posteriors, s, i), lambda s, _: s, state, info), info

    def draw(number: Array, loop: tuple[Carry, dict[str, Any]]) -> tuple[Carry, dict[str, Any]]:
        (old, folds, status, broken_at), buffers = loop
        state, info = jax.lax.fori_loop(0, thin, lambda i, s: step(number, i, s[0]), (old, blank))
        position = state.position
        params_ok = _chains(_rungs(sampler, lambda _, w: _finite(w)))(posteriors, position)
        losses_ok = jnp.ones_like(params_ok) if info.delta is None else jnp.isfinite(info.delta)
        fresh = _chains(lambda _, p, q: _status(sampler, p, q))(posteriors, params_ok, losses_ok)
        status, broken_at = (
            jnp.where(status == Status.OK, fresh, status),
            jnp.where((status == Status.OK) & (fresh != Status.OK), number, broken_at),
        )
        alive = status == Status.OK
        chain_alive = alive if sampler.coupled is None else jnp.all(alive, axis=-1)
        state = _select(chain_alive, state, old)
        new_folds, new_buffers = dict(folds), dict(buffers)
        for name, watch in observables:
            seen = functools.partial(_watch(sampler, watch), posteriors, state.position, info)
            if watch.folds:
                keep = functools.partial(lambda n, s, f: _select(alive, s(f)[0], f), name, seen)
                new_folds[name] = jax.lax.cond(number >= burn_in, keep, lambda f: f, folds[name])
            if jax.tree.leaves(emitted[name]):
                place = number // watch.every - _kept(first, watch.every)

                def write(buffer: Any, s: Any = seen, n: str = name, at: Array = place) -> Any:
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
        return jnp.where(alive.reshape(alive.shape + (1,) * (leaf.ndim - alive.ndim)), leaf, jnp.asarray(hole, leaf.dtype))

    return jax.tree.map(blank, values)


def _offset(posteriors: Posterior, bucket: Bucket) -> np.ndarray:
    reference = np.asarray(posteriors.reference, np.float64).reshape(-1, bucket.size)
    n = np.asarray(posteriors.n).reshape(-1)
    return np.array([-row[:count].mean() for row, count in zip(reference, n, strict=True)])


def _kept(draws: Any, every: int) -> Any:
    """How many of the first `draws` draws an observable stores: draws 0, every, 2 every, ..."""
    return -(-draws // every)


def _to_host(
    job: Job, number: int, bucket: Bucket, first: int, stop: int, carry: Carry, buffers: Any, before: float, programs: int
) -> Chunk:
    every = {name: watch.every for name, watch in job.watched}
    traces = {
        name: jax.tree.map(lambda b, e=every[name]: _rows(job, np.asarray(b)[: _kept(stop, e) - _kept(first, e)], 0), buffers[name])
        for name in buffers
        if jax.tree.leaves(buffers[name])
    }
    rows = tuple(i for row in bucket.rows for i in row)
    status, broken_at = (_rows(job, np.asarray(leaf)[None], 0)[:, :, 0] for leaf in (carry.status, carry.broken_at))
    compiled = _advance._cache_size() > programs
    return Chunk(
        number, rows, first, stop, traces, every, status, broken_at, carry, time.perf_counter() - before, compiled
    )


def _rows(job: Job, leaf: np.ndarray, draws: int) -> np.ndarray:
    """[draws, cells, chains, ...] or [draws, ladders, chains, rungs, ...] to [cells, chains, draws, ...]."""
    leaf = np.moveaxis(leaf, draws, 2)
    if job.plan.coupled is None:
        return leaf
    leaf = np.moveaxis(leaf, 3, 1)  # ladders, rungs, chains, draws
    return leaf.reshape(-1, *leaf.shape[2:])


def _collect(job: Job, kept: list[list[Chunk]], finished: list[Carry], offset: np.ndarray, seconds: float) -> Trace:
    order = np.argsort([i for bucket in job.plan.buckets for row in bucket.rows for i in row])

    def gather(parts: list[np.ndarray]) -> np.ndarray:
        widths = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
        padded = [_widened(part, widths) for part in parts]
        return np.concatenate(padded)[order]

    traces: dict[str, Any] = {}
    if all(kept):
        for name in kept[0][0].traces:
            per_bucket = [
                jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *(chunk.traces[name] for chunk in chunks))
                for chunks in kept
            ]
            traces[name] = jax.tree.map(lambda *leaves: gather(list(leaves)), *per_bucket)

    def ended(leaf: Any) -> np.ndarray:
        return _rows(job, np.asarray(leaf)[None], 0)[:, :, 0]

    folds = {
        name: jax.tree.map(lambda *leaves: gather([ended(leaf) for leaf in leaves]), *(c.folds[name] for c in finished))
        for name, watch in job.watched
        if watch.folds
    }
    status, broken_at = (gather([ended(getattr(c, field)) for c in finished]) for field in ("status", "broken_at"))
    return Trace(job.plan, traces, folds, status, broken_at, offset, seconds)


def _widened(part: np.ndarray, widths: list[int]) -> np.ndarray:
    missing = [(0, 0)] + [(0, width - have) for width, have in zip(widths, part.shape[1:], strict=True)]
    if not any(after for _, after in missing):
        return part
    return np.pad(part.astype(np.result_type(part.dtype, np.float32)), missing, constant_values=np.nan)
