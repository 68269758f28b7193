"""Several processes at one run: what they tell one another between chunks. Alone, a process is its own crew of one.

Every process of a run must call `exchange` as often, in the same order.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slt.engine import Chunk, Restore, Trace
from slt.engine.program import Carry
from slt.results import checkpoint
from slt.results.layout import Layout
from slt.results.store import Store

FOREVER = 30 * 24 * 3600 * 1000  # ms


def first() -> bool:
    """Whether this process keeps the manifest, the checkpoints and the summary."""
    return jax.process_index() == 0


def exchange(told: Any) -> list[Any]:
    """What every process tells (as JSON), in the order of processes."""
    if jax.process_count() == 1:
        return [told]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([len(text)], np.int32))).reshape(-1)
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)  # few lengths, so few programs
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def dismiss() -> None:
    """Wait until every process has come here: the first when all is written, so that none leaves before."""
    if jax.process_count() > 1:
        from jax._src import distributed  # the barrier without a time limit has no public name

        client = distributed.global_state.client
        if client is not None:
            client.wait_at_barrier("slt-dismiss", FOREVER)


class Head(Store):
    """The store of the first process of several: commits what all of them wrote."""

    def _share(self, files: Mapping[str, Any]) -> dict[str, Any]:
        return {name: record for told in exchange(dict(files)) for name, record in told.items()}

    def _turn(self) -> tuple[int, int]:
        return jax.process_index(), jax.process_count()

    def _restored(self, part: str, bucket: int, like: Carry) -> tuple[Carry, int] | None:
        found = super()._restored(part, bucket, like)
        exchange(-1 if found is None else found[1])
        return found


class Follower(Head):
    """The store of any other process: writes its share of the files, and leaves the manifest to the first."""

    def __init__(self, path: Path, parts: Mapping[str, Layout]):
        self.path, self.layouts = path, dict(parts)

    def close(self) -> None:
        """Nothing is held."""

    def write(self, part: str, chunk: Chunk) -> None:
        """This process's share of a chunk's files."""
        self._written(part, chunk)

    def restore(self, part: str) -> Restore:
        """The checkpoints that the first process has found whole."""

        def restored(bucket: int, like: Carry) -> tuple[Carry, int] | None:
            step = exchange(None)[0]
            return None if step < 0 else (checkpoint.read(self._checkpoints(part, bucket), step, like), step)

        return restored

    def finish(self, part: str, trace: Trace) -> None:
        """The first process writes what comes at the end."""
