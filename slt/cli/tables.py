"""Numbers as a person reads them: estimates with errors, quantities along their axes, two runs side by side."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from slt.results import Row
from slt.results.words import estimate, label, main_names, place, points

__all__ = [
    "beside",
    "chosen",
    "differences",
    "estimate",
    "main_names",
    "overview",
    "points",
    "table",
    "whole",
]


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table without lines; brackets in names stand for themselves."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(Text(column), overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def chosen(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that are, or match, one of the patterns; a bracket stands for itself, as names hold it."""
    plain = [pattern.replace("[", "[[]") for pattern in patterns]
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in plain)]


def overview(quantities: Mapping[str, Any], names: Iterable[str]) -> Table:
    """A line for each quantity that has a value: its axes, and its first, middle and last value with errors."""
    lines = []
    for name in names:
        quantity = quantities[name]
        known = [point for point in points(quantity) if math.isfinite(point.value)]
        axes = ", ".join(f"{axis}: {len(values)}" for axis, values in quantity.coords.items())
        picks = known if len(known) < 3 else [known[0], known[len(known) // 2], known[-1]]
        if picks:
            lines.append([name, axes, *map(str, picks)])
    return table(("quantity", "axes", "first", "middle", "last"), lines)


def whole(name: str, quantity: Any) -> Table:
    """Every point of a quantity, with its 90 per cent interval where it has one."""
    lines = [[*map(label, p.all.values()), estimate(p.value, p.stderr)] for p in points(quantity)]
    if getattr(quantity, "interval", None) is None:
        return table((*quantity.coords, name), lines)
    for line, (low, high) in zip(lines, np.asarray(quantity.interval).reshape(-1, 2), strict=True):
        line.append(f"{low:.4g} to {high:.4g}")
    return table((*quantity.coords, name, "90 % interval"), lines)


def beside(rows: Iterable[Row]) -> Table:
    """A line for each quantity of two runs: how many numbers they share, and the one in which they differ most."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    lines = []
    for name, mine in groups.items():
        shared = [row for row in mine if math.isfinite(row.a) and math.isfinite(row.b)]
        known = [row for row in shared if math.isfinite(row.z)]
        far = [str(sum(abs(row.z) > 2 for row in known))] if known else ["-"]
        top = [max(known, key=lambda row: abs(row.z))] if known else shared[:1]
        lines.append([name, str(len(shared)), *far, *(cell for row in top for cell in (_z(row), *_both(row)))])
    return table(("quantity", "shared", "|z| > 2", "largest |z|", "at", "first run", "second run"), lines)


def differences(rows: Sequence[Row]) -> Table:
    """Every number of one quantity of two runs, with z = (a - b) / sqrt(stderr_a^2 + stderr_b^2)."""
    lines = [(row.name, *_both(row), _z(row)) for row in rows]
    return table(("quantity", "at", "first run", "second run", "z"), lines)


def _both(row: Row) -> tuple[str, str, str]:
    return place(row.coords), estimate(row.a, row.a_stderr), estimate(row.b, row.b_stderr)


def _z(row: Row) -> str:
    return f"{row.z:.1f}" if math.isfinite(row.z) else "-"
