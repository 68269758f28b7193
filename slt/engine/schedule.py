"""How a run is laid out: schedule, starts, and cells grouped into buckets and ladders that share a program."""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from slt.cells import Cell
from slt.model import Model
from slt.samplers.base import Sampler
from slt.typing import InputError, Key, Params

MEMORY = 256 * 2**20  # bytes of traces that one chunk may hold on the device, unless a schedule says otherwise
STEPS = 2**31 - 1  # the engine counts steps and draws in int32: keys of later ones would come a second time
CHAINS = 2**24  # chains of one cell, each of which has a label on the host


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
        bounds = {"draws": (1, STEPS), "chains": (1, CHAINS), "burn_in": (0, STEPS), "thin": (1, STEPS)}
        for name, (low, high) in (bounds | {"memory": (1, 2**63 - 1)}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InputError(f"schedule.{name}", value, f"must be a whole number from {low} to {high}")
        if self.draws * self.thin > STEPS:
            cure = f"times schedule.draws = {self.draws} passes {STEPS} steps: keys would come a second time"
            raise InputError("schedule.thin", self.thin, cure)
        if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 1):
            raise InputError("schedule.chunk", self.chunk, "must be a positive whole number of draws, or null")
        if self.burn_in >= self.draws:
            raise InputError("schedule.burn_in", self.burn_in, f"must be less than schedule.draws = {self.draws}")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["points", "from_prior", "jitter"], meta_fields=[])
@dataclass(frozen=True)
class Start:
    """Where chains start: chain c at points[c mod k] plus N(0, jitter^2), or at model.init where from_prior."""

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
            lambda a, b: jnp.where(self.from_prior[which], a, b.astype(a.dtype)),
            drawn,
            jax.tree.unflatten(treedef, moved),
        )


class Bucket(NamedTuple):
    """Cells that share a program: `size` padded samples; rows[u][r] counts the run's cells, r the rung of ladder u."""

    size: int
    rows: tuple[tuple[int, ...], ...]


class Plan(NamedTuple):
    """What a run will do. cells: the grid's cells, then the extra rungs of ladders; the first `grid` are the grid's."""

    cells: tuple[Cell, ...]
    grid: int
    buckets: tuple[Bucket, ...]
    coupled: str | None


PADDING = 1 / 5
"""Share of a grid's samples by which padding may grow so that small n share a program."""


def plan(sampler: Sampler, cells: Sequence[Cell]) -> Plan:
    """Cells grouped into buckets: n padded as `_sizes` says; ladders of a coupled sampler whole, extra rungs last."""
    if not cells:
        raise InputError("grid", [], "is empty: give at least one value on every axis")
    axis = sampler.coupled
    if axis is None:
        rows: dict[int, list[tuple[int, ...]]] = {}
        for i, size in enumerate(_sizes([cell.n for cell in cells])):
            rows.setdefault(size, []).append((i,))
        buckets = tuple(Bucket(size, tuple(rows[size])) for size in sorted(rows))
        return Plan(tuple(cells), len(cells), buckets, None)
    return _plan_ladders(sampler, tuple(cells), axis)


def _plan_ladders(sampler: Sampler, cells: tuple[Cell, ...], axis: str) -> Plan:
    groups: dict[tuple, list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(tuple(sorted(group_coords(cell, axis).items())), []).append(i)
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


def group_coords(cell: Cell, axis: str) -> dict[str, float]:
    """The coordinates that tell a cell's ladder from other ladders along `axis`.

    Along n a beta asked for as "1/log n" is one ladder: its label counts, not its value.
    """
    named = {name: value for name, value in cell.coords.items() if name != _field(axis)}
    if axis == "n" and cell.beta_label:
        named["beta"] = float(zlib.crc32(cell.beta_label.encode()))
    return named


def _padded(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _sizes(ns: Sequence[int]) -> list[int]:
    """What each n is padded to: a power of two; small ones to one they share, where all grow by at most PADDING.

    A program takes seconds to compile, and the cells of small n hardly any time to sample.
    """
    sizes = [_padded(n) for n in ns]
    room = PADDING * sum(sizes)
    least = max(low for low in set(sizes) if sum(max(0, low - size) for size in sizes) <= room)
    return [max(size, least) for size in sizes]
