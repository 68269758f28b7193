"""What the views of a report share: names taken apart, slices of quantities, axes, transitions in words."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from slt.plots import draw
from slt.results.words import estimate
from slt.typing import Quantity

FAMILIES = {
    "mass": "posterior mass",
    "occupancy": "occupancy",
    "free_energy": "F (nats)",
    "llc": "LLC λ̂",
    "loss": "E[L]",
    "heat_capacity": "heat capacity",
}
"""The quantities of a phase diagram, in the order of its panels, with the labels of their axes."""
AXES = {"n": "sample size n", "t": "t = nβ", "step": "training step", "gamma": "γ", "beta": "β"}
CRITICAL = "critical_"
SEED = "data_seed"
NORMAL_90 = 1.6449


class Named(NamedTuple):
    """A quantity's name taken apart: its part of the run, its family, its member (a phase, or `a->b`), or ""."""

    part: str
    family: str
    member: str

    @staticmethod
    def of(name: str, parts: Sequence[str]) -> "Named":
        """`population.mass[6]` is Named("population", "mass", "6") where the run has a part of that name."""
        part = next((one for one in parts if one != "main" and name.startswith(f"{one}.")), "")
        rest = name[len(part) + 1 :] if part else name
        found = re.fullmatch(r"([^\[]+)\[(.*)\]", rest, re.DOTALL)
        return Named(part, rest, "") if found is None else Named(part, found[1], found[2])


class View(NamedTuple):
    """One figure: the group it stands under, its title, a sentence on it, Plotly's traces and layout."""

    group: str
    title: str
    about: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def axes_of(one: Quantity) -> list[str]:
    """The axes of a quantity that have several values, the one to draw along first: t, n, step, else the longest."""
    several = [name for name, values in one.coords.items() if len(values) > 1 and name != SEED]
    return sorted(several, key=lambda name: (name not in ("t", "n", "step"), -len(one.coords[name])))


Key = tuple[tuple[str, Any], ...]


def slices(one: Quantity, *keep: str) -> dict[Key, xr.Dataset]:
    """A quantity, averaged over data seeds, cut along the axes `keep`, by the other coordinates."""
    cut = draw.slices(draw.average(draw.table(one)), *keep)
    return {tuple(sorted(at.items())): data.transpose(*keep) for at, data in cut}


def keys(cut: Mapping[Named, Mapping[Key, Any]]) -> list[Key]:
    """The slices that there are; one that leaves an axis open which others fix is shown in all of these."""
    every = list(dict.fromkeys(key for slices in cut.values() for key in slices))
    return [key for key in every if not any(set(key) < set(other) for other in every)]


def plain(text: Any) -> str:
    """Text that Plotly shows as it is: its own small markup is escaped."""
    return html.escape(str(text), quote=False)


def scale(name: str, values: Any) -> tuple[dict[str, Any], bool]:
    """An axis of numbers, logarithmic where they are positive and span a decade, or of names."""
    at = draw.numbers(values)
    title = {"title": {"text": plain(AXES.get(name, name))}, "showline": True, "zeroline": False, "gridcolor": "#eee"}
    if at.dtype.kind != "f":
        return title | {"type": "category"}, False
    wide = len(at) > 1 and at.min() > 0 and at.max() >= 10 * at.min()
    return title | {"type": "log" if wide else "linear", "hoverformat": ".5~g"}, True


def interval(one: Quantity) -> np.ndarray:
    """The 90 per cent interval [..., 2]: the quantity's own, else value ± 1.645 standard errors."""
    if one.interval is not None:
        return np.asarray(one.interval, float)
    value, stderr = np.asarray(one.value, float), np.asarray(one.stderr, float)
    return np.stack([value - NORMAL_90 * stderr, value + NORMAL_90 * stderr], axis=-1)


def sentence(name: str, value: float, stderr: float, ends: Any) -> str:
    """A transition in words: critical_n[a->b] = 294.1 ± 3.0, 90 % interval 289 to 299."""
    low, high = (f"{end:.4g}" if np.isfinite(end) else "open" for end in ends)
    said = f"{name} = {estimate(value, stderr)}"
    return said if low == high == "open" else f"{said}, 90 % interval {low} to {high}"
