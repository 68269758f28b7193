"""The labelled axes that an engine's cells make: dims and coordinates of the product grid, and places on ladders."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from slt.cells import Cell
from slt.engine import Job
from slt.typing import InputError

ABOUT: dict[str, dict[str, Any]] = {
    name: {"long_name": long_name, "units": units}
    for name, long_name, units in (
        ("t", "weight t of the potential, density exp(-t K) prior", "1"),
        ("n", "number of samples n", "samples"),
        ("beta", "beta as it was asked for", "1"),
        ("beta_value", "exponent beta of the likelihood", "1"),
        ("nbeta", "n beta, the factor on the mean loss", "samples"),
        ("gamma", "localiser gamma, density times exp(-gamma/2 |w - centre|^2)", "1"),
        ("data_seed", "seed of the data set", "1"),
        ("chain", "chain", "1"),
        ("draw", "draw", "draws"),
        ("burn_in", "whether the draw tunes the sampler and enters no estimate", "1"),
        ("start", "where the chain started", "1"),
        ("rung", "rung of the ladder, from the lowest value up", "1"),
        ("rung_value", "value of the coupled coordinate at the rung", "1"),
        ("walker", "which replica is at the rung", "1"),
        ("swap", "acceptance probability of the swap proposed with the rung above", "1"),
        ("round_trips", "times the replica at the rung went from the lowest rung to the highest and back", "1"),
        ("rung_on_grid", "whether the rung is a value of the grid", "1"),
        ("delta", "L_n(w) - L_n(w_ref)", "nats per sample"),
        ("rung_delta", "L_n(w) - L_n(w_ref) on every rung", "nats per sample"),
        ("offset", "L_n(w_ref)", "nats per sample"),
        ("phase", "phase label, -1 for none", "1"),
        ("distance", "|w - centre|", "1"),
        ("acceptance", "acceptance probability of the last step", "1"),
        ("status", "how the chain stands, 0 well (slt.Status)", "1"),
        ("broken_at", "draw at which the chain broke, -1 where it did not", "draws"),
    )
}


class Coordinate(NamedTuple):
    """Dims, values and attributes of a coordinate, as xarray takes them."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any]


def coordinate(name: str, values: Any, dims: tuple[str, ...] | None = None) -> Coordinate:
    """A coordinate with its long name and units; dims defaults to its own."""
    array = np.asarray(values)
    return Coordinate(
        (name,) if dims is None else dims, array, dict(ABOUT.get(name, {"long_name": name, "units": "1"}))
    )


@dataclass(frozen=True)
class Axes:
    """The axes of a job's grid. Make them with `Axes.of`.

    grid: dims with their sizes, n or t first; coords: along them, and along `rung`; coupled: the dim along which
    ladders couple cells; rungs: of the longest ladder; place, rung: of every engine cell the flat place in the grid (-1
    for an extra rung), and ladder * rungs + rung; labels: its coordinates in words.
    """

    grid: dict[str, int]
    coords: dict[str, Coordinate]
    coupled: str | None
    rungs: int
    place: np.ndarray
    rung: np.ndarray
    labels: tuple[str, ...]

    @staticmethod
    def of(job: Job) -> "Axes":
        """The axes of a job. InputError where its cells are no product grid, or its ladders depend on other axes."""
        cells, potential = job.plan.cells[: job.plan.grid], job.model.is_potential
        columns = _columns(cells, potential)
        values = {name: list(dict.fromkeys(column)) for name, column in columns.items()}
        if list(itertools.product(*values.values())) != list(zip(*columns.values(), strict=True)):
            raise InputError("grid", list(values), "the cells are no product of these axes, last fastest")
        grid = {name: len(axis) for name, axis in values.items() if name != "gamma" or len(axis) > 1}
        coords = {name: coordinate(name, np.array(values[name], object if name == "beta" else None)) for name in grid}
        if "gamma" not in grid:
            coords["gamma"] = coordinate("gamma", cells[0].gamma, ())
        note = getattr(job.model, "scale_note", "")
        if note:
            coords["t"].attrs["scale_note"] = note
        if not potential:
            numbers = np.array([(c.beta, c.n * c.beta) for c in cells]).reshape(*grid.values(), 2)
            corner = numbers[:, :, *(0 for _ in range(len(grid) - 2))]
            coords["beta_value"] = coordinate("beta_value", corner[..., 0], ("n", "beta"))
            coords["nbeta"] = coordinate("nbeta", corner[..., 1], ("n", "beta"))
        coupled = job.plan.coupled
        if coupled is not None and coupled != "n":
            coupled = "t" if potential else "beta"
        place = np.where(np.arange(len(job.plan.cells)) < len(cells), np.arange(len(job.plan.cells)), -1)
        rung, on_grid = _ladders(job, grid, coupled)
        if coupled is not None:
            others = tuple(name for name in grid if name != coupled)
            alike = bool((on_grid == on_grid[:1]).all())
            shown = on_grid[0] if alike else on_grid.reshape(*(grid[name] for name in others), -1)
            coords["rung"] = coordinate("rung", np.arange(on_grid.shape[1]))
            coords["rung_on_grid"] = coordinate("rung_on_grid", shown, ("rung",) if alike else (*others, "rung"))
        labels = tuple(_label(cell, list(grid), i < len(cells)) for i, cell in enumerate(job.plan.cells))
        return Axes(grid, coords, coupled, on_grid.shape[1], place, rung, labels)

    @property
    def ladders(self) -> dict[str, int]:
        """Dims with their sizes over which chains are independent: all but the coupled one."""
        return {name: size for name, size in self.grid.items() if name != self.coupled}

    @property
    def split(self) -> bool:
        """Whether an engine's bucket is whole slices along n: unless ladders couple them."""
        return "n" in self.grid and self.coupled != "n"


def _columns(cells: Sequence[Cell], potential: bool) -> dict[str, list]:
    """Every coordinate of every cell, in the order of slt.cells.grid."""
    columns: dict[str, list] = {"t": [c.beta for c in cells]}
    if not potential:
        columns = {"n": [c.n for c in cells], "beta": [c.beta_label or f"{c.beta:g}" for c in cells]}
    columns["gamma"] = [c.gamma for c in cells]
    if not potential:
        columns["data_seed"] = [c.data_seed for c in cells]
    for name, _ in cells[0].control:
        if name in columns:
            raise InputError(f"grid.control.{name}", name, "an axis of the grid has this name: rename the control")
        columns[name] = [dict(c.control)[name] for c in cells]
    return columns


def _ladders(job: Job, grid: dict[str, int], coupled: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(ladder * rungs + rung of every cell, whether each rung is on the grid [ladders, rungs])."""
    cells = np.arange(len(job.plan.cells))
    if coupled is None:
        return cells, np.ones((len(cells), 1), bool)
    rows = [row for bucket in job.plan.buckets for row in bucket.rows]
    shape = tuple(grid.values())
    where = np.array(np.unravel_index([min(row) for row in rows], shape))
    kept = [axis for axis, name in enumerate(grid) if name != coupled]
    ladder = np.zeros(len(rows), int)
    for axis in kept:
        ladder = ladder * shape[axis] + where[axis]
    count, width = math.prod(shape[axis] for axis in kept), max(map(len, rows))
    if len(rows) != count:
        raise InputError("sampler", coupled, f"a ladder holds all values of {coupled}: no other axis may follow it")
    rung, on_grid = np.empty_like(cells), np.zeros((count, width), bool)
    for number, row in zip(ladder, rows, strict=True):
        rung[list(row)] = number * width + np.arange(len(row))
        on_grid[number, : len(row)] = np.array(row) < job.plan.grid
    return rung, on_grid


def _label(cell: Cell, names: Sequence[str], on_grid: bool) -> str:
    """A cell's coordinates in words; an extra rung of a ladder over beta has no label but its number."""
    beta = cell.beta_label if on_grid and cell.beta_label else f"{cell.beta:g}"
    shown = {"t": f"{cell.beta:g}", "n": cell.n, "beta": beta, "gamma": f"{cell.gamma:g}", "data_seed": cell.data_seed}
    shown |= {name: f"{value:g}" for name, value in cell.control}
    return ", ".join(f"{name} = {shown[name]}" for name in names)
