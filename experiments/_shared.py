"""What several experiments share: shares of phases as free-energy differences, crossings as quantities, their marks."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Int
from matplotlib.colors import to_hex

from slt import plots
from slt.analysis import SEED, Draws
from slt.config import RunConfig, instantiate, nodes, plain
from slt.model import Model
from slt.phases import ActiveUnits
from slt.plots.draw import average
from slt.transitions import crossing, masses
from slt.transitions.crossing import Crossing, Difference
from slt.transitions.kind import Kind
from slt.transitions.masses import Shown
from slt.transitions.predictions import Form, Prediction, predictions
from slt.typing import InputError, Quantity, nearest

FAR = 4.0
"""Nats up to which the shares of ladders tell well how far apart two phases are."""
UNKNOWN = Kind("unresolved", None, None, ())


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
    """A number that is no measurement, exact or a prediction: without an error, and so without an interval."""
    value = np.asarray(value, float)
    return Quantity(value, np.full(value.shape, np.nan), {k: list(v) for k, v in (coords or {}).items()})


def offset(leading: Callable[[float], float], of: Difference | None) -> float:
    """What the measured F_a - F_b has beyond its leading orders, well past the crossing; NaN where it is told nowhere.

    A fit of one number, in place of a constant that theory does not give, at the largest x where F_a - F_b is between 1
    nat and FAR: what it foretells of the crossing rests on how the leading orders change from there on.
    """
    if of is None:
        return np.nan
    well = np.flatnonzero((of.x > math.e) & (of.value > 1) & (of.value < FAR) & (of.stderr < FAR / 8))
    return float(of.value[well[-1]] - leading(float(of.x[well[-1]]))) if well.size else np.nan


def theory(
    a: Form | None, b: Form | None, at: Crossing | None, of: Difference | None = None, **more: Any
) -> tuple[Prediction, ...]:
    """`predictions` of two forms, and "constant_fitted" where their constants are not known and F_a - F_b is given."""
    if a is None or b is None:
        return ()
    found = predictions(a, b, at, **more)
    bare = [each._replace(constant=0.0) for each in (a, b)]
    fitted = offset(lambda t: float(bare[0].at(t) - bare[1].at(t)), of)
    if np.isfinite([a.constant, b.constant]).all() or not np.isfinite(fitted):
        return found
    again = {each.name: each for each in predictions(bare[0]._replace(constant=fitted), bare[1], at)}
    return *found, again["constant"]._replace(name="constant_fitted", note="constant fitted")


def foretold(axis: str, way: str, guesses: Sequence[Prediction], at: Crossing | None) -> dict[str, Quantity]:
    """critical_<axis>_<name>[way] of every prediction and miss_<name>[way], by what part of the measured crossing it
    misses (0.5: it is half as large again), with the error of the latter.
    """
    found: dict[str, Quantity] = {}
    for guess in guesses:
        found[f"critical_{axis}_{guess.name}[{way}]"] = known(guess.t)
        error = np.nan if at is None else (guess.miss + 1) * at.stderr / at.value
        found[f"miss_{guess.name}[{way}]"] = Quantity(np.array(guess.miss), np.array(error), {})
    return found


def rows(found: Sequence[Mapping[str, Quantity]], axis: str, values: Sequence) -> dict[str, Quantity]:
    """Numbers at every value of one more axis, those that are somewhere: NaN elsewhere."""
    names = dict.fromkeys(name for each in found for name in each)
    return {name: row([each.get(name, known(np.nan)) for each in found], axis, values) for name in names}


def row(found: Sequence[Quantity], axis: str, values: Sequence) -> Quantity:
    """Numbers of equal kind at every value of one more axis, as one quantity."""
    wide = [np.full((*np.shape(q.value), 2), np.nan) if q.interval is None else q.interval for q in found]
    value, stderr = (np.stack([np.asarray(getattr(q, name), float) for q in found]) for name in ("value", "stderr"))
    ends = None if all(q.interval is None for q in found) else np.stack(wide)
    return Quantity(value, stderr, {axis: list(values)} | dict(found[0].coords), ends)


def seeds_last(found: np.ndarray, others: tuple[str, ...]) -> np.ndarray:
    """Labels [..., x, ladder, draw] with the axis of data seeds first (of length one where there is none)."""
    return np.moveaxis(found, others.index(SEED), 0) if SEED in others else found[None]


def kind(
    x: Any,
    at: Crossing | None,
    sets: np.ndarray,
    low: Sequence[int],
    high: Sequence[int],
    phases: int,
    shown: Shown | None = None,
) -> dict[str, Quantity]:
    """coexistence, barrier and label_entropy of a crossing from phases `low` to `high`; all NaN without one.

    sets: labels [data, x, ladder, draw] of that many phases; shown: what tells of a barrier, see `masses.kind_at`.
    """  # fmt: skip
    if at is None or not np.isfinite(at.value):
        return UNKNOWN.quantities
    return masses.kind_at(x, at.value, sets, low, high, phases, shown).quantities


def kinds(
    run: Any,
    numbers: Mapping[str, Quantity],
    shown: Callable[[str, xr.Dataset, str], Shown | None] | None = None,
    groups: Callable[[str, str, str], tuple[Sequence[int], Sequence[int]] | None] | None = None,
) -> dict[str, Quantity]:
    """coexistence[a->b], barrier[a->b] and label_entropy[a->b] beside every critical_<axis>[a->b] of ladders in the
    numbers of a run, at every point of its other axes; NaN where the draws do not tell.

    shown(part, data, axis): what tells of a barrier, with the axes [others.., axis, ladder, draw, ..] that `labels` has
    (default: nothing does). groups(part, a, b): the labels meant by two names that are not both of phases, else None.
    """
    found: dict[str, Quantity] = {}
    parts = plots.sweeps(run)
    for name, one in numbers.items():
        matched = re.fullmatch(r"(?:(\w+)\.)?critical_([a-z]+)\[(.+)->(.+)\]", name)
        if matched is None:
            continue
        part, (axis, a, b) = matched[1] or "main", matched.groups()[1:]
        data = parts.get(part)
        if data is None or "phase" not in data or axis not in data["delta"].dims or data[axis].ndim != 1:
            continue
        named = plots.phase_names(data)
        pair = None if groups is None else groups(part, a, b)
        if pair is None and {a, b} <= set(named):
            pair = [named.index(a)], [named.index(b)]
        seen, others = labels(data, axis)
        if pair is None or not seen.size or set(others) - {SEED, *one.coords}:
            continue
        own = None if shown is None else shown(part, data, axis)
        rows = []
        for index in np.ndindex(np.shape(one.value)):
            place = [_place(data, one, index, dim) for dim in others]
            at = float(np.asarray(one.value)[index])
            told = UNKNOWN
            there = tuple(each for each in place if each is not None)
            if np.isfinite(at) and len(there) == len(place):
                here = None if own is None else Shown(*(_at(each, there) for each in own))
                told = masses.kind_at(data[axis].values, at, _at(seen, there), *pair, len(named), here)
            rows.append(told.quantities)
        prefix = "" if matched[1] is None else f"{part}."
        for key in UNKNOWN.quantities:
            value, error = (
                np.reshape([np.asarray(getattr(each[key], field)) for each in rows], np.shape(one.value))
                for field in ("value", "stderr")
            )
            found[f"{prefix}{key}[{a}->{b}]"] = Quantity(value, error, one.coords)
    return found


def _place(data: xr.Dataset, one: Quantity, index: tuple[int, ...], dim: str) -> int | slice | None:
    """Where a point of a quantity lies on an axis of its data: all of an axis of data seeds; None: nowhere."""
    if dim not in one.coords:
        return slice(None)
    wanted = one.coords[dim][index[list(one.coords).index(dim)]]
    met = np.flatnonzero(data[dim].values == wanted)
    return int(met[0]) if met.size else None


def _at(each: Any, place: tuple[int | slice, ...]) -> Any:
    """[data, x, ladder, draw, ..] at one place of the axes before x."""
    if isinstance(each, Mapping):
        return {name: _at(value, place) for name, value in each.items()}
    if each is None:
        return None
    one = each[place]
    return one if any(isinstance(where, slice) for where in place) else one[None]


def kept(data: xr.Dataset, x: str, place: Callable[[Any], Any] | None = None) -> Shown | None:
    """The draws of a part whose parameters were kept after burn-in, [others.., x, ladder, draw, ..] as of `labels`.

    They are told by place(params), which is the same under all symmetries of the model, or by the parameters
    themselves, under whose mirror images a phase may lie in several places; None where none were kept.
    """
    if "params" not in data or not data.sizes.get("kept", 0):
        return None
    late = np.isin(data["kept_draw"].values, data["draw"].values[~data["burn_in"].values])
    if not late.any():
        return None
    number = np.searchsorted(data["draw"].values, data["kept_draw"].values[late])
    few = data.drop_vars([name for name in data if name not in ("delta", "phase", "status", "offset", "nbeta")])
    few = few.isel(draw=number)
    own, others = labels(few, x)
    wide = data["params"].isel(kept=late)
    (last,) = (str(dim) for dim in wide.dims if dim not in (*data["offset"].dims, "chain", "kept"))
    order = [*others, x, "chain", "kept", last]
    rest = {dim: 0 for dim in wide.dims if dim not in order}
    params = wide.isel(rest).transpose(*order).values
    if place is None:
        return Shown(own, params, few["delta"].isel(rest).transpose(*order[:-2], "draw").values)
    told = np.asarray(jax.jit(jax.vmap(place))(params.reshape(-1, params.shape[-1])))
    return Shown(own, told.reshape(*own.shape, -1))


def units(run: Any, part: str, data: xr.Dataset, x: str) -> Shown | None:
    """Draws of a potential told by what each unit contributes, the largest first (phases by `slt.phases.by_units`)."""
    truth = model(run, part).truth() if "params" in data else None
    rule = None if truth is None or truth.phases is None else truth.phases.label
    if not isinstance(rule, ActiveUnits):
        return None
    return kept(data, x, lambda w: -jnp.sort(-jnp.abs(rule.amplitudes(w))))


def watched(data: xr.Dataset, x: str, name: str, place: Callable[[np.ndarray], np.ndarray]) -> Shown:
    """All draws, told by a number that was traced, place(number), as `kept` has them."""
    own, others = labels(data, x)
    view = Draws(data)
    rest = tuple(i for i, dim in enumerate(view.grid) if dim not in (*others, x))
    values = view.draws(name).squeeze(rest)
    grid = [dim for dim in view.grid if dim in (*others, x)]
    values = values.transpose(*(grid.index(dim) for dim in (*others, x)), -2, -1)
    return Shown(own, place(values)[..., None])


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
    return crossed(masses.difference_of(x, sets, low, high))


def crossed(of: Difference | None) -> Crossing | None:
    """The crossing upward of a difference; None where there is none or are several."""
    return None if of is None else crossing.crossings(of).only(upward=True)


def along(table: xr.Dataset, *keep: str) -> xr.Dataset:
    """A table averaged over data sets, at the first value of every axis but `keep`, in their order."""
    mean = average(table)
    return mean.isel({dim: 0 for dim in mean["value"].dims if dim not in keep}).transpose(*keep)
