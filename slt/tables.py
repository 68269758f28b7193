"""Numbers as a person reads them: estimates with errors, quantities along their axes, two runs side by side."""

import fnmatch
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from slt.results import Row

INTERNAL = ("rhat", "ess", "acceptance", "swap", "round_trips", "dwell")
"""Quantities that tell how well a run went, left out of an overview unless they are asked for."""


class Point(NamedTuple):
    """One point of a quantity: its coordinates in words, value and standard error."""

    where: dict[str, Any]
    value: float
    stderr: float

    def __str__(self) -> str:
        return estimate(self.value, self.stderr) + (f"  at {place(self.where)}" if self.where else "")


def points(quantity: Any) -> list[Point]:
    """The points of a quantity (value, stderr, coords), last axis fastest."""
    value, stderr = (np.asarray(part, float) for part in (quantity.value, quantity.stderr))
    places = itertools.product(*quantity.coords.values())
    return [
        Point(dict(zip(quantity.coords, at, strict=True)), float(v), float(s))
        for at, v, s in zip(places, value.ravel(), stderr.ravel(), strict=True)
    ]


def place(where: Mapping[str, Any]) -> str:
    """Coordinates in words."""
    return ", ".join(f"{name} = {label(value)}" for name, value in where.items())


def estimate(value: float, stderr: float) -> str:
    """A value with its standard error to two digits, 1.234 ± 0.056; "-" where there is no value."""
    if not math.isfinite(value):
        return "-"
    if not math.isfinite(stderr) or stderr <= 0:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(stderr)))
    if digits > 8 or abs(value) >= 1e7:
        return f"{value:.4g} ± {stderr:.2g}"
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def label(value: Any) -> str:
    """A coordinate's value in words."""
    return f"{value:g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)


def memory(count: float) -> str:
    """Bytes in words."""
    units = ("B", "KiB", "MiB", "GiB")
    power = min(len(units) - 1, int(math.log2(max(count, 1)) // 10))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {units[power]}"


def table(*columns: str) -> Table:
    """An empty table without lines, as wide as its contents."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def chosen(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that are, or match, one of the patterns; a bracket stands for itself, as names hold it."""
    plain = [pattern.replace("[", "[[]") for pattern in patterns]
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in plain)]


def main_names(names: Iterable[str]) -> list[str]:
    """The names of results, without those that tell how well a run went."""
    return [name for name in names if name.split("[")[0].rpartition(".")[2] not in INTERNAL]


def overview(quantities: Mapping[str, Any], names: Iterable[str]) -> Table:
    """A line for each quantity: its axes, and its first, middle and last value with errors."""
    made = table("quantity", "axes", "first", "middle", "last")
    for name in names:
        quantity = quantities[name]
        known = [point for point in points(quantity) if math.isfinite(point.value)]
        axes = ", ".join(f"{axis}: {len(values)}" for axis, values in quantity.coords.items())
        picks = known if len(known) < 3 else [known[0], known[len(known) // 2], known[-1]]
        made.add_row(name, axes, *(str(point) for point in picks) if picks else ("-",))
    return made


def whole(name: str, quantity: Any) -> Table:
    """Every point of a quantity."""
    made = table(*quantity.coords, name)
    for point in points(quantity):
        made.add_row(*map(label, point.where.values()), estimate(point.value, point.stderr))
    return made


def beside(rows: Iterable[Row]) -> Table:
    """A line for each quantity of two runs: how many numbers they share, and the one in which they differ most."""
    made = table("quantity", "shared", "|z| > 2", "largest |z|", "at", "first run", "second run")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    for name, mine in groups.items():
        shared = [row for row in mine if math.isfinite(row.a) and math.isfinite(row.b)]
        known = [row for row in shared if math.isfinite(row.z)]
        if not shared:
            made.add_row(name, "0")
            continue
        top = max(known, key=lambda row: abs(row.z)) if known else shared[0]
        far = [str(sum(abs(row.z) > 2 for row in known)), f"{abs(top.z):.1f}"] if known else ["-", "-"]
        made.add_row(name, str(len(shared)), *far, place(top.coords), *_both(top))
    return made


def differences(rows: Sequence[Row]) -> Table:
    """Every number of one quantity of two runs, with z = (a - b) / sqrt(stderr_a^2 + stderr_b^2)."""
    made = table("quantity", "at", "first run", "second run", "z")
    for row in rows:
        made.add_row(row.name, place(row.coords), *_both(row), f"{row.z:.1f}" if math.isfinite(row.z) else "-")
    return made


def _both(row: Row) -> tuple[str, str]:
    return estimate(row.a, row.a_stderr), estimate(row.b, row.b_stderr)
