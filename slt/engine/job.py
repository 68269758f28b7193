"""A checked run, ready to start: its arrays, its programs bucket by bucket, and how it goes on from chunk to chunk."""

import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from slt.cells import data_words, digest_words
from slt.engine import program, room
from slt.engine.host import Chunk, Trace, collect, columns, joined, offsets, to_host
from slt.engine.mesh import BY_CHAIN, BY_ROW, SHARED, Spread, put, shapes, trimmed
from slt.engine.program import Carry
from slt.engine.schedule import Bucket, Plan, Schedule, Start, group_coords
from slt.model import Model
from slt.observables import Observable
from slt.posterior import Posterior, Restriction
from slt.samplers.base import Sampler
from slt.typing import Batch, Key, Params

LOG = logging.getLogger("slt.engine")


class Restore(Protocol):
    """Gives back a bucket's carry and the number of draws done, or None to start it."""

    def __call__(self, bucket: int, like: Carry) -> tuple[Carry, int] | None: ...


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
    spread: Spread | None = None

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
            drawn = program.draw_data(self.model, words, columns([dict(control) for _, control in sets]), bucket.size)
        else:
            cut = jax.tree.map(lambda leaf: program.padded(leaf, bucket.size)[None], self.data)
            drawn, where = cut, np.zeros(len(flat), int)
        numbers = {name: np.array([getattr(cell, name) for cell in flat]) for name in ("n", "beta", "gamma")}
        centres = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.centres)
        masks = None if self.masks is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.masks)
        chosen = np.array([cell.centre for cell in flat]), np.array([cell.mask for cell in flat])
        built = program.build_posteriors(
            self.model, drawn, where, numbers, columns([dict(cell.control) for cell in flat]), centres, masks, chosen,
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
        words = np.stack([digest_words(cell.coords if axis is None else group_coords(cell, axis)) for cell in named])
        return program.chain_keys(self.key, words, self.schedule.chains)

    @property
    def _thinned(self) -> int:
        """Draws after which every observable's thinning begins anew."""
        return math.lcm(*(watch.every for watch in self.observables.values())) if self.observables else 1

    @functools.cached_property
    def chunk_length(self) -> int:
        """Draws a chunk, alike for all buckets: within the memory budget, a multiple of every observable's thinning.

        InputError where the traces of that many are beyond the devices' memory.
        """
        step, wanted = self._thinned, self.schedule.chunk
        if wanted is None:
            wanted = max(1, 1 << max(0, (self.schedule.draws // 16).bit_length() - 1))
        each = max(1, *(self.bytes_per_draw(bucket) for bucket in self.plan.buckets))
        length = max(step, min(wanted, self.schedule.memory // each) // step * step)
        what = f"its traces, {length} draws at once with observables every {step},"
        room.fit("schedule.chunk", self.schedule.chunk, length * each, room.device(self.spread), what)
        return length

    @functools.cached_property
    def emitted(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What observables emit and fold in one chain of one cell (rungs first, of a ladder): shapes and dtypes."""
        bucket = max(self.plan.buckets, key=lambda one: one.size)
        posteriors, keys = self.posteriors(bucket), self.keys(bucket)
        with cheap_keys():
            emitted, carry = program.emissions(self.sampler, posteriors, keys, self.start, self.watched)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), (emitted, carry.folds))

    def bytes_per_draw(self, bucket: Bucket) -> int:
        """Bytes of traces that one draw of the whole bucket takes."""
        total = sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize / watch.every
            for name, watch in self.watched
            for leaf in jax.tree.leaves(self.emitted[0][name])
        )
        return math.ceil(total * len(bucket.rows) * self.schedule.chains)

    def timer(self, bucket: Bucket, pool: Executor, repeats: int = 3) -> Callable[[], float]:
        """Has the bucket's programs compiled in the pool; gives what then times one draw, in seconds: the best."""
        numbers = (np.int32(0), np.int32(1), np.int32(self.schedule.thin), np.int32(self.schedule.burn_in))
        fixed: dict[str, Any] = {"observables": self.watched, "length": self.chunk_length, "mesh": self.mesh(bucket)}
        given, start = self._laid(bucket, self.posteriors(bucket))
        with cheap_keys():
            begin = program.begin.lower(*given, start, self.watched, fixed["mesh"])
            carry = program.begin.eval_shape(*given, start, self.watched, fixed["mesh"])
            advance = program.advance.lower(*given, carry, *numbers, **fixed)
        begun, advanced = pool.submit(begin.compile), pool.submit(advance.compile)

        def time_it() -> float:
            carry = begun.result()(*given, start)
            seconds = []
            for _ in range(repeats + 1):
                before = time.perf_counter()
                carry, _ = jax.block_until_ready(advanced.result()(*given, carry, *numbers))
                seconds.append(time.perf_counter() - before)
            return min(seconds[1:])

        return time_it

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
            offset[rows] = offsets(posteriors, bucket)
            chunks, carry = self._run_bucket(number, bucket, posteriors, on_chunk, restore, keep)
            kept.append(chunks)
            finished.append(carry)
        return collect(self, kept, finished, offset, time.perf_counter() - began)

    def mesh(self, bucket: Bucket) -> Mesh | None:
        """The mesh that a bucket's chains are spread over; None on one device."""
        return None if self.spread is None else self.spread.mesh(len(bucket.rows), self.schedule.chains)

    def _laid(
        self, bucket: Bucket, posteriors: Posterior, sampler: Sampler | None = None
    ) -> tuple[tuple[Sampler, Posterior, Key], Start]:
        """What the bucket's programs take, laid out over its mesh; nothing is moved that lies there."""
        over, large = self.mesh(bucket), shapes(self.centres[0])
        chosen = put(over, SHARED, self.sampler if sampler is None else sampler)
        given = chosen, put(over, BY_ROW, posteriors, large), put(over, BY_CHAIN, self.keys(bucket))
        return given, put(over, SHARED, self.start)

    def start_bucket(self, bucket: Bucket, posteriors: Posterior) -> Carry:
        """The chains of a bucket before their first draw."""
        given, start = self._laid(bucket, posteriors)
        with cheap_keys():
            return program.begin(*given, start, self.watched, self.mesh(bucket))

    def advance(
        self, number: int, posteriors: Posterior, carry: Carry, first: int, stop: int, sampler: Sampler | None = None,
        burn_in: int | None = None,
    ) -> Chunk:  # fmt: skip
        """Draws first .. stop - 1 of bucket `number`, at most `chunk_length` of them; the carry given is used up.

        sampler: the job's with other numbers; burn_in: in place of the schedule's. Neither recompiles.
        """
        return self._advance(number, posteriors, carry, first, stop, sampler, burn_in)[0]

    def _advance(
        self, number: int, posteriors: Posterior, carry: Carry, first: int, stop: int, sampler: Sampler | None = None,
        burn_in: int | None = None, length: int | None = None,
    ) -> tuple[Chunk, Carry]:  # fmt: skip
        """See `advance`; the second carry is as it lies on the devices. length: draws that the program has room for."""
        bucket = self.plan.buckets[number]
        over = self.mesh(bucket)
        before, programs = time.perf_counter(), program.programs["advance"]
        given, _ = self._laid(bucket, posteriors, sampler)
        with cheap_keys():
            carry, buffers = program.advance(
                *given,
                put(over, BY_CHAIN, carry, shapes(self.centres[0])),
                first,
                stop,
                self.schedule.thin,
                self.schedule.burn_in if burn_in is None else burn_in,
                observables=self.watched,
                length=self.chunk_length if length is None else length,
                mesh=over,
            )
        mine = trimmed(over, len(bucket.rows), carry)
        return to_host(self, number, bucket, first, stop, mine, buffers, before, programs), carry

    def _run_bucket(
        self,
        number: int,
        bucket: Bucket,
        posteriors: Posterior,
        on_chunk: Callable[[Chunk], None] | None,
        restore: Restore | None,
        keep: bool,
    ) -> tuple[list[Chunk], Carry]:
        length = self.chunk_length

        def stored() -> tuple[Carry, int] | None:
            if restore is None:
                return None
            arguments = self.sampler, posteriors, self.keys(bucket), self.start, self.watched, None
            with cheap_keys():
                return restore(number, program.begin.eval_shape(*arguments))

        found = stored()
        posteriors = put(self.mesh(bucket), BY_ROW, posteriors, shapes(self.centres[0]))
        carry, done = (self.start_bucket(bucket, posteriors), 0) if found is None else found
        ended, chunks = carry, []
        piece = length  # what one program makes of a chunk: less where the device has no room for more
        made: list[Chunk] = []
        while done < self.schedule.draws:
            stop = min((done // length + 1) * length, self.schedule.draws)
            try:
                part, carry = self._advance(number, posteriors, carry, done, min(done + piece, stop), length=piece)
            except program.OutOfMemory as error:
                piece = self._halved(piece, error)
                if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(carry)):
                    found = stored()
                    carry, done = (self.start_bucket(bucket, posteriors), 0) if found is None else found
                    made, chunks = [], [chunk for chunk in chunks if chunk.stop <= done]
                continue
            made.append(part)
            done = part.stop
            if done < stop:
                continue
            chunk, made = joined(made), []
            ended = chunk.carry
            if on_chunk is not None:
                on_chunk(chunk)
            if keep:
                chunks.append(chunk)
        return chunks, ended

    def _halved(self, length: int, error: Exception) -> int:
        """Half as many draws a program, said in the log; the error itself where it is another one, or one draw is."""
        step = self._thinned
        if "RESOURCE_EXHAUSTED" not in str(error) or length <= step:
            raise error
        shorter = max(step, length // 2 // step * step)
        LOG.warning("the device is out of memory: going on with %d draws a program instead of %d", shorter, length)
        return shorter


def cheap_keys() -> Any:
    """Normals at half the cost on CPU: their bits need not be alike when one array is sharded, keys differ by chain."""
    return jax.threefry_partitionable(False)
