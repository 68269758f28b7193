"""The engine: one XLA program per bucket that vmaps a sampler over cells and chains and folds observables as it goes.

It knows no concrete sampler and no concrete model, and touches neither disk nor xarray.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from slt.cells import Cell
from slt.engine.host import Chunk, Trace
from slt.engine.job import Job, Restore, cheap_keys
from slt.engine.mesh import Spread
from slt.engine.schedule import Schedule, Start, plan
from slt.model import Model, check
from slt.observables import Observable
from slt.posterior import Restriction
from slt.samplers.base import Sampler
from slt.typing import Batch, InputError, Key, Params

__all__ = ["Chunk", "Job", "Restore", "Schedule", "Start", "Trace", "cheap_keys", "prepare", "run"]


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
    spread: Spread | None = None,
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
    spread: the devices that share the chains (slt.engine.mesh), default one; draws do not depend on it but by rounding.
    on_chunk sees each chunk as it ends; restore gives back checkpoints; keep=False returns empty traces (a caller that
    stores the chunks). Raises InputError, before any sampling, for everything that can be seen to be wrong.
    """
    job = prepare(
        model, sampler, cells, observables, schedule,
        key=key, start=start, centres=centres, masks=masks, restriction=restriction, data=data,
        spread=spread,
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
    spread: Spread | None = None,
) -> Job:
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
            raise InputError(
                "grid.n", largest, f"larger than the data, which have {have} samples: lower n or give more data"
            )
    for centre in centres:
        check(model, centre, probe)
    if start is None:
        start = Start(jax.tree.map(lambda leaf: leaf[None], centres[0]), jnp.array([True]))
    for cell in layout.cells:
        if not 0 <= cell.centre < len(centres) or (masks is not None and not 0 <= cell.mask < len(masks)):
            raise InputError("grid.centre", (cell.centre, cell.mask), f"there are {len(centres)} centres")
    return Job(
        model,
        sampler,
        dict(observables),
        schedule,
        layout,
        key,
        start,
        tuple(centres),
        masks,
        restriction,
        data,
        spread,
    )
