"""Quantities in words, for the command line and for reports: values with errors, points along axes, names."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

INTERNAL = ("rhat", "ess", "acceptance", "swap", "round_trips", "dwell", "drift")
"""Quantities that tell how well a run went, left out of an overview unless they are asked for."""


class Point(NamedTuple):
    """One point of a quantity: all its coordinates, those along axes of more than one value, value, standard error."""

    all: dict[str, Any]
    where: dict[str, Any]
    value: float
    stderr: float

    def __str__(self) -> str:
        return estimate(self.value, self.stderr) + (f"  at {place(self.where)}" if self.where else "")


def points(quantity: Any) -> list[Point]:
    """The points of a quantity (value, stderr, coords), last axis fastest."""
    value, stderr = (np.asarray(part, float) for part in (quantity.value, quantity.stderr))
    varying = [name for name, axis in quantity.coords.items() if len(axis) > 1]
    found = []
    for at, v, s in zip(itertools.product(*quantity.coords.values()), value.ravel(), stderr.ravel(), strict=True):
        everything = dict(zip(quantity.coords, at, strict=True))
        found.append(Point(everything, {name: everything[name] for name in varying}, float(v), float(s)))
    return found


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


def drifting(quantities: Mapping[str, Any], part: str) -> list[str]:
    """Sentences on a part's crossings about which the shares of phases drift by more than 4 standard errors."""
    found, prefix = [], "" if part == "main" else f"{part}."
    for name, one in quantities.items():
        if name.startswith(f"{prefix}drift["):
            far = np.abs(one.value) > 4 * np.asarray(one.stderr, float)
            where = name.removeprefix(f"{prefix}drift")
            if far.any():
                most = np.nanmax(np.abs(np.asarray(one.value, float))[far])
                found.append(
                    f"{part}: shares of phases at {where} drift by {most:.2g} nats from the first half of the draws to "
                    "the second, over 4 standard errors: the burn-in is too short, the crossing not to be believed."
                )
    return found


def main_names(names: Iterable[str]) -> list[str]:
    """The names of results, without those that tell how well a run went."""
    return [name for name in names if name.split("[")[0].rpartition(".")[2] not in INTERNAL]
