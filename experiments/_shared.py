"""What several experiments share: shares of phases as free-energy differences, crossings as quantities, their marks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Int
from matplotlib.colors import to_hex

from slt.analysis import SEED, Draws
from slt.config import RunConfig, instantiate, nodes, plain
from slt.model import Model
from slt.plots.draw import average
from slt.transitions import crossing, masses
from slt.transitions.crossing import Crossing
from slt.typing import InputError, Quantity, nearest


def model(run: Any, part: str = "main") -> Model:
    """The model that a part of a run sampled; InputError where that is not slt's own, and the run a stranger's.

    A run as slt.load gives it may be: one's own is told by its config, a RunConfig as slt.config.load gives.
    """
    trusted = isinstance(run.config, RunConfig | nodes.Trusted)
    config = plain(run.config) if isinstance(run.config, RunConfig) else run.config
    node = (config if part == "main" else config["parts"][part])["model"]
    if not trusted:
        nodes.trust(node, "model")
    return instantiate(node, "model")


def whole(measure: Any, **least: int) -> None:
    """InputError for a field of a measure that is no whole number, or no list of them, of at least so much."""
    for name, low in least.items():
        value = getattr(measure, name)
        each = list(value) if isinstance(value, Sequence) else [value]
        if not each or any(isinstance(one, bool) or not isinstance(one, int) or one < low for one in each):
            raise InputError(name, value, f"must be a whole number, at least {low}")


def finite(measure: Any, *names: str, positive: bool = False) -> None:
    """InputError for a field of a measure that is no finite number >= 0 (with `positive` > 0), or no list of them."""
    for name in names:
        value = getattr(measure, name)
        each = list(value) if isinstance(value, Sequence) else [value]
        if not each or not all(math.isfinite(one) and (one > 0 or (one == 0 and not positive)) for one in each):
            raise InputError(name, value, f"must be finite and {'above 0' if positive else 'at least 0'}")


def sweep_of(parts: Mapping[str, Any], name: str) -> Any:
    """The job of a run's sweep; InputError at `part` where there is none of the name."""
    if name not in parts:
        raise InputError("part", name, f"no such sweep in this run: {nearest(name, parts)}")
    return parts[name].job


def labels(data: xr.Dataset, x: str) -> tuple[Int[np.ndarray, "... ladder draw"], tuple[str, ...]]:
    """Phase labels [..., x, ladder, draw] after burn-in, those of broken ladders -1, and the axes before x.

    An inverse temperature or a localisation of one value only makes no axis.
    """
    view = Draws(data)
    single = [i for i, dim in enumerate(view.grid) if dim in ("beta", "gamma") and data.sizes[dim] == 1 and dim != x]
    found = np.where(view.ok[..., None], view.draws("phase"), -1).astype(int).squeeze(tuple(single))
    grid = [dim for i, dim in enumerate(view.grid) if i not in single]
    others = tuple(dim for dim in grid if dim != x)
    order = [*(grid.index(dim) for dim in others), grid.index(x)]
    return found.transpose(*order, found.ndim - 2, found.ndim - 1), others


def quantity(found: Crossing | None, **coords: list) -> Quantity:
    """A crossing as a number of the summary, with its 90 per cent interval; NaN where there is none."""
    if found is None:
        return Quantity(np.array(np.nan), np.array(np.nan), {}, np.full(2, np.nan))
    return Quantity(np.array(found.value), np.array(found.stderr), {}, np.array(found.interval))


def known(value: Any, coords: Mapping[str, Sequence] | None = None) -> Quantity:
    """A number without error: exact, or a prediction."""
    value = np.asarray(value, float)
    return Quantity(value, np.zeros(value.shape), {k: list(v) for k, v in (coords or {}).items()})


def row(found: Sequence[Quantity], axis: str, values: Sequence) -> Quantity:
    """Numbers of equal kind at every value of one more axis, as one quantity."""
    wide = [np.full((*np.shape(q.value), 2), np.nan) if q.interval is None else q.interval for q in found]
    value, stderr = (np.stack([np.asarray(getattr(q, name), float) for q in found]) for name in ("value", "stderr"))
    return Quantity(value, stderr, {axis: list(values)} | dict(found[0].coords), np.stack(wide))


def seeds_last(found: np.ndarray, others: tuple[str, ...]) -> np.ndarray:
    """Labels [..., x, ladder, draw] with the axis of data seeds first (of length one where there is none)."""
    return np.moveaxis(found, others.index(SEED), 0) if SEED in others else found[None]


def mark(ax: Any, found: Quantity | None, colour: str = "0.35", label: str | None = None) -> None:
    """Crossings on the x-axis: a line at each value and a band over its interval."""
    if found is None:
        return
    low, high = ax.get_xlim()
    values = np.ravel(found.value)
    ends = np.stack([values, values], -1) if found.interval is None else np.reshape(found.interval, (-1, 2))
    for value, (least, most) in zip(values, np.clip(ends, low, high), strict=True):
        if np.isfinite(value):
            ax.axvspan(float(least), float(most), color=colour, alpha=0.15, lw=0, zorder=0.2)
            ax.axvline(float(value), color=colour, lw=0.8, ls=(0, (4, 3)), zorder=0.4, label=label)


def shades(count: int) -> list[str]:
    """Colours of an ordered family of curves, dark to light, that colour-blind readers can order too."""
    return [to_hex(matplotlib.colormaps["viridis"](x)) for x in np.linspace(0.0, 0.85, count)]


def between(
    x: Any, sets: Int[np.ndarray, "data x ladder draw"], low: Sequence[int], high: Sequence[int]
) -> Crossing | None:
    """The crossing from phases `low` to `high` by the shares of ladders; None where there is none or are several."""
    of = masses.difference_of(x, sets, low, high)
    return None if of is None else crossing.crossings(of).only(upward=True)


def along(table: xr.Dataset, *keep: str) -> xr.Dataset:
    """A table averaged over data sets, at the first value of every axis but `keep`, in their order."""
    mean = average(table)
    return mean.isel({dim: 0 for dim in mean["value"].dims if dim not in keep}).transpose(*keep)
