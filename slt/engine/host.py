"""What a run brings to the host: chunks of draws as numpy arrays, and all of them put together."""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from slt.engine import mesh, program
from slt.engine.program import Carry
from slt.engine.schedule import Bucket, Plan
from slt.posterior import Posterior

if TYPE_CHECKING:
    from slt.engine import Job


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
    """A finished run. traces[name]: arrays [cells, chains, draws kept, ...]; folds[name]: [cells, chains, ...].

    offset [cells]: L_n(w_ref) in float64; cells as in plan.cells. Burn-in is kept in traces, not in folds.
    """

    plan: Plan
    traces: dict[str, Any]
    folds: dict[str, Any]
    status: np.ndarray
    broken_at: np.ndarray
    offset: np.ndarray
    seconds: float


def to_host(
    job: "Job",
    number: int,
    bucket: Bucket,
    first: int,
    stop: int,
    carry: Carry,
    buffers: Any,
    before: float,
    programs: int,
) -> Chunk:
    """A chunk from the buffers of its program; `before` and `programs`: clock and count of traces when it began."""
    every = {name: watch.every for name, watch in job.watched}
    traces = {
        name: jax.tree.map(
            lambda b, e=every[name]: _rows(
                job, mesh.gathered(b)[: program.kept(stop, e) - program.kept(first, e), : len(bucket.rows)], 0
            ),
            buffers[name],
        )
        for name in buffers
        if jax.tree.leaves(buffers[name])
    }
    rows = tuple(i for row in bucket.rows for i in row)
    status, broken_at = (_rows(job, np.asarray(leaf)[None], 0)[:, :, 0] for leaf in (carry.status, carry.broken_at))
    compiled = program.programs["advance"] > programs
    return Chunk(
        number, rows, first, stop, traces, every, status, broken_at, carry, time.perf_counter() - before, compiled
    )


def joined(parts: list[Chunk]) -> Chunk:
    """One chunk of several that follow one another."""
    if len(parts) == 1:
        return parts[0]
    last = parts[-1]
    traces = {
        name: jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *(part.traces[name] for part in parts))
        for name in last.traces
    }
    seconds = sum(part.seconds for part in parts)
    compiled = any(part.compiled for part in parts)
    return last._replace(first=parts[0].first, traces=traces, seconds=seconds, compiled=compiled)


def _rows(job: "Job", leaf: np.ndarray, draws: int) -> np.ndarray:
    """[draws, cells, chains, ...] or [draws, ladders, chains, rungs, ...] to [cells, chains, draws, ...]."""
    leaf = np.moveaxis(leaf, draws, 2)
    if job.plan.coupled is None:
        return leaf
    leaf = np.moveaxis(leaf, 3, 1)  # ladders, rungs, chains, draws
    return leaf.reshape(-1, *leaf.shape[2:])


def collect(job: "Job", kept: list[list[Chunk]], finished: list[Carry], offset: np.ndarray, seconds: float) -> Trace:
    """A finished run from the chunks and last carries of its buckets."""
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


def columns(records: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Numbers by name of several records as arrays."""
    return {name: np.array([record[name] for record in records]) for name in records[0]}


def offsets(posteriors: Posterior, bucket: Bucket) -> np.ndarray:
    """L_n(w_ref) of every cell of a bucket, in float64."""
    reference = np.asarray(posteriors.reference, np.float64).reshape(-1, bucket.size)
    n = np.asarray(posteriors.n).reshape(-1)
    return np.array([-row[:count].mean() for row, count in zip(reference, n, strict=True)])
