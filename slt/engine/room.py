"""What a machine has room for: whether a run's arrays can fit its memory at all, before any of them is made."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax

from slt.cells import Cell
from slt.engine.mesh import Spread
from slt.engine.schedule import Schedule, plan
from slt.model import Model
from slt.samplers.base import Sampler
from slt.typing import Batch, InputError


def host() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device(spread: Spread | None = None) -> int:
    """Bytes of memory of the devices that share a run (default one); a CPU's is the machine's."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return host() if limit is None else limit * (1 if spread is None else len(spread.devices))


def fit(field: str, value: object, needed: float, there: int, what: str) -> None:
    """InputError where what is held at once, at the very least, is more than there is."""
    if needed > there:
        raise InputError(field, value, f"{what} would take {words(needed)}, and there are {words(there)}: give less")


def check(
    model: Model,
    sampler: Sampler,
    cells: Sequence[Cell],
    schedule: Schedule,
    data: Batch | None = None,
    spread: Spread | None = None,
) -> None:
    """InputError where the data sets or the chains' positions alone are beyond the devices' memory; computes nothing.

    A bucket of C cells of n samples of b bytes, padded to a power of two, holds C n b bytes of data; C cells x chains
    hold a position, a key and a status each.
    """
    schedule.check()
    sampler.check()
    buckets, there = plan(sampler, cells).buckets, device(spread)
    rows = max(len(bucket.rows) * len(bucket.rows[0]) for bucket in buckets)
    if not model.is_potential:
        one = data if data is not None else jax.eval_shape(lambda: model.sample(jax.random.key(0), 1))
        sample = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        held = max(len(bucket.rows) * len(bucket.rows[0]) * bucket.size * sample for bucket in buckets)
        fit("grid.n", max(cell.n for cell in cells), held, there, "the data of all cells")
    position = bytes_of(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    fit("model", type(model).__name__, position, there, "its parameters")
    fit("schedule.chains", schedule.chains, rows * schedule.chains * (position + 16), there, "the chains of all cells")


def bytes_of(tree: Any) -> int:
    """Bytes of the arrays of a pytree, or of their shapes and dtypes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def words(count: float) -> str:
    """Bytes in words."""
    units = ("B", "KiB", "MiB", "GiB")
    power = min(len(units) - 1, int(math.log2(max(count, 1)) // 10))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {units[power]}"
