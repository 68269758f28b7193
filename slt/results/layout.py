"""How the engine's results lie in a labelled dataset: its variables, and the stored blocks that a chunk fills."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from slt.engine import Chunk, Job, Trace, program, room
from slt.phases import Phases
from slt.results.axes import ABOUT, Axes, Coordinate, coordinate
from slt.typing import InputError

KEPT = "params"
"""The observable whose draws stand along the dim `kept`; others that are thinned differently have dims of their own."""


class Variable(NamedTuple):
    """One array of the dataset. source, leaf: the observable and the leaf of what it emits or folds, if any.

    rungs: whether it runs over all rungs of ladders, or over the grid; inner: the sizes of its last dims, its own.
    """

    name: str
    dims: tuple[str, ...]
    dtype: np.dtype
    attrs: dict[str, Any]
    source: str = ""
    leaf: int = 0
    rungs: bool = False
    inner: tuple[int, ...] = ()

    @property
    def fill(self) -> float | int:
        """What stands where nothing was drawn: NaN, or -1 for whole numbers."""
        return math.nan if self.dtype.kind == "f" else -1


class Block(NamedTuple):
    """What fills (a part of) one stored chunk of a variable: data goes to `start` along `axis`, to 0 along others."""

    variable: Variable
    number: tuple[int, ...]
    axis: int
    start: int
    data: np.ndarray


@dataclass(frozen=True)
class Layout:
    """The dataset of one part of a run. Make one with `Layout.of`.

    sizes: of all dims that do not grow; thinning: dims of draws, by how many draws apart theirs are; coords: those that
    do not grow; traces: variables along draws; statics: those written at the end.
    """

    axes: Axes
    sizes: dict[str, int]
    thinning: dict[str, int]
    coords: dict[str, Coordinate]
    traces: tuple[Variable, ...]
    statics: tuple[Variable, ...]
    buckets: int
    draws: int
    burn_in: int
    chunk: int
    attrs: dict[str, Any]

    @staticmethod
    def of(job: Job, starts: Sequence[str] = (), phases: Phases | None = None) -> "Layout":
        """The layout of a job's results. starts: the label of each chain's start; phases: what `phase` counts.

        InputError where the cells are no product grid, a name is taken twice, an observable emits booleans, or the
        traces of one number a draw, which are summed up whole, are beyond this machine's memory.
        """
        axes, chains = Axes.of(job), job.schedule.chains
        if starts and len(starts) != chains:
            raise InputError("start", list(starts), f"give one label for each of the {chains} chains")
        emitted, folds = _shapes(job)
        thinning, traces = {"draw": 1}, []
        shared = job.observables[KEPT].every if KEPT in job.observables else None
        for name, watch in job.watched:
            dim = "kept" if watch.every == shared else f"kept_{watch.every}"
            dim = "draw" if watch.every == 1 and name != KEPT else dim
            made = list(_traced(name, emitted[name], axes, dim, phases, name in job.sampler.diagnostics))
            thinning |= {dim: watch.every} if made else {}
            traces += made
        statics = _statics(folds, axes)
        sizes = axes.grid | {"chain": chains, "rung": axes.rungs}
        for variable in (*traces, *statics):
            inner = dict(zip(variable.dims[len(variable.dims) - len(variable.inner) :], variable.inner, strict=True))
            if any(sizes.get(dim, size) != size for dim, size in inner.items()):
                raise InputError("observables", variable.name, "its axes bear the names of others: rename it")
            sizes |= inner
        coords = axes.coords | {"chain": coordinate("chain", np.arange(chains))}
        if starts:
            coords["start"] = coordinate("start", np.array(starts, object), ("chain",))
        layout = Layout(
            axes=axes,
            sizes=sizes,
            thinning=thinning,
            coords=coords,
            traces=tuple(traces),
            statics=statics,
            buckets=len(job.plan.buckets),
            draws=job.schedule.draws,
            burn_in=job.schedule.burn_in,
            chunk=job.chunk_length,
            attrs={"coupled": axes.coupled or "", "thin": job.schedule.thin},
        )
        taken = [*coords, *layout.growing, *sizes, *thinning]
        for variable in layout.variables:
            if variable.name in taken or "/" in variable.name:
                raise InputError("observables", variable.name, "the name is taken, or has a slash: give it another")
            taken.append(variable.name)
        every = sum(layout.nbytes(variable) for variable in traces if not variable.inner)
        room.fit("schedule.draws", layout.draws, every + 16 * layout.draws, room.host(), "the traces of all draws")
        return layout

    @property
    def variables(self) -> tuple[Variable, ...]:
        """All arrays but coordinates."""
        return (*self.traces, *self.statics)

    @property
    def chains(self) -> int:
        """How many chains there are in all; a ladder counts as one."""
        return math.prod(self.axes.ladders.values()) * self.sizes["chain"]

    @property
    def growing(self) -> dict[str, Coordinate]:
        """The coordinates along draws."""
        made = {"burn_in": coordinate("burn_in", np.arange(self.draws) < self.burn_in, ("draw",))}
        for dim, every in self.thinning.items():
            name = "draw" if dim == "draw" else f"{dim}_draw"
            made[name] = Coordinate((dim,), np.arange(program.kept(self.draws, every)) * every, ABOUT["draw"])
        return made

    def resized(self, draws: int) -> "Layout":
        """This layout for another number of draws."""
        return dataclasses.replace(self, draws=draws)

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """The shape of a variable."""
        every, sizes = self.thinning, self.sizes
        return tuple(program.kept(self.draws, every[d]) if d in every else sizes[d] for d in variable.dims)

    def nbytes(self, variable: Variable) -> int:
        """Bytes of a variable."""
        return math.prod(self.shape(variable)) * variable.dtype.itemsize

    def chunks(self, variable: Variable) -> tuple[int, ...]:
        """The shape of its stored chunks: 1 along n, the engine's chunk along draws, whole along all else.

        Whole where ladders couple n, and whole too what comes at the end.
        """
        shape = self.shape(variable)
        if self.thinning.keys().isdisjoint(variable.dims):
            return shape
        axis, every = self.along(variable)
        lead = 1 if self.axes.split else shape[0]
        return (lead, *shape[1:axis], self.chunk // every, *shape[axis + 1 :])

    def along(self, variable: Variable) -> tuple[int, int]:
        """(axis, thinning) of a traced variable's draws."""
        axis = next(i for i, dim in enumerate(variable.dims) if dim in self.thinning)
        return axis, self.thinning[variable.dims[axis]]

    def blocks(self, chunk: Chunk) -> Iterator[Block]:
        """The stored chunks that an engine's chunk fills. An array operation a variable; one block for each n."""
        if chunk.stop > (chunk.first // self.chunk + 1) * self.chunk:
            raise InputError("schedule.chunk", chunk.stop - chunk.first, f"the run has chunks of {self.chunk} draws")
        for variable in self.traces:
            axis, every = self.along(variable)
            placed, rows = self._placed(variable, chunk)
            if placed.shape[axis] == 0:
                continue
            number, start = divmod(program.kept(chunk.first, every), self.chunk // every)
            index = [number if i == axis else 0 for i in range(placed.ndim)]
            if not self.axes.split:
                yield Block(variable, tuple(index), axis, start, placed)
                continue
            for row, data in zip(rows, placed, strict=True):
                yield Block(variable, (int(row), *index[1:]), axis, start, data[None])

    def _placed(self, variable: Variable, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """(the leaf as [dims of the grid or of ladders, chain, (rung), draws, ...], the indices along n it covers)."""
        leaf = np.asarray(jax.tree.leaves(chunk.traces[variable.source])[variable.leaf])
        place = (self.axes.rung if variable.rungs else self.axes.place)[list(chunk.cells)]
        order = np.argsort(place)[np.count_nonzero(place < 0) :]
        leaf, place = leaf[order], place[order]
        outer = [self.sizes[dim] for dim in variable.dims[: variable.dims.index("chain")]]
        if variable.rungs:
            rungs = len(np.unique(place % self.axes.rungs))
            leaf = np.moveaxis(leaf.reshape(-1, rungs, *leaf.shape[1:]), 1, 2)
            place = place[::rungs] // self.axes.rungs
        lead = [-1, *outer[1:]] if self.axes.split else outer
        return leaf.reshape(*lead, *leaf.shape[1:]), np.unique(place // math.prod(outer[1:]))

    def put(self, array: np.ndarray, block: Block) -> None:
        """Write a block into the whole variable held in memory."""
        sizes = self.chunks(block.variable)
        begin = [n * size for n, size in zip(block.number, sizes, strict=True)]
        begin[block.axis] += block.start
        array[tuple(slice(b, b + size) for b, size in zip(begin, block.data.shape, strict=True))] = block.data

    def ended(self, trace: Trace) -> Iterator[Block]:
        """What is written at the end of a run."""
        grid = tuple(self.axes.grid.values())
        for variable in self.statics:
            found = trace.folds[variable.source] if variable.source else getattr(trace, variable.name)
            leaf = np.asarray(jax.tree.leaves(found)[variable.leaf])[: math.prod(grid)]
            leaf = leaf.reshape(*grid, *leaf.shape[1:])
            yield Block(variable, (0,) * leaf.ndim, 0, 0, leaf)

    def broken(self, chunk: Chunk) -> list[list[int]]:
        """[engine cell, chain, draw, status] of every chain of a chunk that is broken."""
        rows, chains = np.nonzero(chunk.status)
        table = np.array(chunk.cells)[rows], chains, chunk.broken_at[rows, chains], chunk.status[rows, chains]
        return np.stack(table, axis=-1).tolist()


def _shapes(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """What observables emit and fold in one cell and chain: shapes and dtypes."""
    emitted, folds = job.emitted
    cut = functools.partial(
        jax.tree.map,
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[0 if job.plan.coupled is None else 1 :], leaf.dtype),
    )
    return cut(emitted), cut({name: folds[name] for name, watch in job.watched if watch.folds})


def _leaves(name: str, tree: Any) -> Iterator[tuple[list[str], Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield [name, *(jax.tree_util.keystr((entry,), simple=True) for entry in path)], leaf


def _traced(
    name: str, emitted: Any, axes: Axes, dim: str, phases: Phases | None, diagnostic: bool
) -> Iterator[Variable]:
    for number, (path, leaf) in enumerate(_leaves(name, emitted)):
        ladder = axes.coupled is not None and diagnostic
        path = ["rung_value", *path[1:]] if ladder and name == "rung" else path  # `rung` itself is a dim
        label, dtype = ".".join(path), np.dtype(leaf.dtype)
        attrs = dict(ABOUT.get(label, {}))
        if dtype.kind not in "fi":
            raise InputError(
                f"observables.{name}", dtype, "must emit floats or signed integers (NaN or -1 where broken)"
            )
        if name == "phase" and phases is not None:
            attrs, dtype = attrs | {"names": list(phases.names), "rule": phases.rule}, np.dtype(np.int8)
        inner = [f"{label}_{axis}" for axis in range(len(leaf.shape))]
        on_ladder = (*axes.ladders, "chain", "rung", dim, *inner)
        dims = on_ladder if ladder else (*axes.grid, "chain", dim, *inner)
        yield Variable(label, dims, dtype, attrs, name, number, ladder, leaf.shape)
        if axes.coupled is not None and name == "delta":
            yield Variable("rung_delta", on_ladder, dtype, ABOUT["rung_delta"], name, number, True, leaf.shape)


def _statics(folds: dict[str, Any], axes: Axes) -> tuple[Variable, ...]:
    made = [
        Variable("offset", (*axes.grid,), np.dtype(np.float64), ABOUT["offset"]),
        Variable("status", (*axes.grid, "chain"), np.dtype(np.int8), ABOUT["status"]),
        Variable("broken_at", (*axes.grid, "chain"), np.dtype(np.int32), ABOUT["broken_at"]),
    ]
    for name in folds:
        for number, (path, leaf) in enumerate(_leaves(name, folds[name])):
            shared = ".".join([name, *path[2:]])  # the mean and the square of one fold share their dims
            inner = [f"{shared}_{axis}" for axis in range(len(leaf.shape))]
            dims, dtype = (*axes.grid, "chain", *inner), np.dtype(leaf.dtype)
            made.append(Variable(".".join(["fold", *path]), dims, dtype, {}, name, number, inner=leaf.shape))
    return tuple(made)
