"""A run's quantities as figures to explore by pointer: Plotly's figures as plain data, one for each view of the run.

Nothing here is code of a page: names reach Plotly with their markup escaped, and never as a template.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from slt.plots import draw
from slt.report import planes
from slt.report.parts import CRITICAL, FAMILIES, Named, View, axes_of, interval, keys, plain, scale, sentence, slices
from slt.results.words import estimate, place
from slt.typing import Quantity

DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot", "dot")
SYMBOLS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross"}
MOST = 120
"""Views of a run at most: a grid of thousands of slices is better read from its data."""


def views(quantities: Mapping[str, Quantity], parts: Sequence[str] = (), most: int = MOST) -> list[View]:
    """The views of a run's quantities: phase diagrams along every axis, planes of two axes, and each family alone."""
    groups: dict[str, dict[str, Quantity]] = {}
    for name, one in quantities.items():
        groups.setdefault(Named.of(name, parts).part, {})[name] = one
    made = itertools.chain.from_iterable(
        _of_part(part, _with_free_energies({Named.of(name, parts): one for name, one in found.items()}))
        for part, found in groups.items()
    )
    return list(itertools.islice(made, most))


def _with_free_energies(found: dict[Named, Quantity]) -> dict[Named, Quantity]:
    """Free energies of phases added, F - log(mass), where a part has F and masses at the same points."""
    whole = next((one for name, one in found.items() if name.family == "free_energy" and not name.member), None)
    if whole is None or any(name.family == "free_energy" and name.member for name in found):
        return found
    more = {}
    for name, mass in found.items():
        if name.family == "mass" and mass.coords == whole.coords:
            share = np.where(np.asarray(mass.value) > 0, mass.value, np.nan)
            spread = np.hypot(whole.stderr, np.asarray(mass.stderr) / share)
            more[name._replace(family="free_energy")] = Quantity(whole.value - np.log(share), spread, whole.coords)
    return found | more


def _of_part(part: str, found: Mapping[Named, Quantity]) -> Iterator[View]:
    members = list(dict.fromkeys(name.member for name in found if name.member and CRITICAL not in name.family))
    styles = draw.palette(members)
    diagram = {name: one for name, one in found.items() if name.family in FAMILIES and axes_of(one)}
    critical = {name: one for name, one in found.items() if name.family.startswith(CRITICAL)}
    group = f"part {part}" if part else "main"
    for x in dict.fromkeys(axes_of(one)[0] for one in diagram.values()):
        along = {name: one for name, one in diagram.items() if axes_of(one)[0] == x}
        yield from planes.views(group, x, along, critical, styles)
        yield from _curves(group, "phases", x, along, critical, styles)
    for family in dict.fromkeys(name.family for name in found if axes_of(found[name])):
        own = {name: one for name, one in found.items() if name.family == family and axes_of(one)}
        for x in dict.fromkeys(axes_of(one)[0] for one in own.values()):
            along = {name: one for name, one in own.items() if axes_of(one)[0] == x}
            yield from _curves(f"{group}: single quantities", family, x, along, critical, styles)


def _curves(
    group: str,
    what: str,
    x: str,
    found: Mapping[Named, Quantity],
    critical: Mapping[Named, Quantity],
    styles: Mapping[str, draw.Style],
) -> Iterator[View]:
    """Panels over each other, one a family, sharing the axis x: one pointer reads them all."""
    cut = {name: slices(one, x) for name, one in found.items()}
    for key in keys(cut):
        shown = {name: one for name, slices in cut.items() for at, one in slices.items() if set(at) <= set(key)}
        shown = {name: one for name, one in shown.items() if np.isfinite(one["value"]).any()}
        families = list(dict.fromkeys(name.family for name in sorted(shown, key=_order)))
        if not families:
            continue
        title = ", ".join([f"{what} against {x}", *([place(dict(key))] if key else [])])
        layout, numbers = _layout(x, families, next(iter(shown.values()))[x].values)
        data, keyed = [], set()
        for name, one in shown.items():
            style = styles.get(name.member, draw.STYLES[-1])
            label = name.member if name.member else "all draws" if name.family in FAMILIES else name.family
            trace = _trace(x, one, style, f"{name.family}[{name.member}]" if name.member else name.family, numbers)
            place_ = {"yaxis": _axis("y", families.index(name.family)), "legendgroup": plain(label)}
            data.append(trace | place_ | {"name": plain(label), "showlegend": label not in keyed})
            keyed.add(label)
        bands = list(_bands(x, dict(key), critical, shown, numbers))
        layout["shapes"] = [shape for shape, _ in bands]
        data += [mark for _, mark in bands]
        about = "Points ± one standard error; shaded: 90 % intervals of transitions. A click on a name hides it."
        yield View(group, title, about, data, layout)


def _order(name: Named) -> int:
    return list(FAMILIES).index(name.family) if name.family in FAMILIES else len(FAMILIES)


def _axis(letter: str, place_: int) -> str:
    return letter if place_ == 0 else f"{letter}{place_ + 1}"


def _trace(x: str, one: xr.Dataset, style: draw.Style, name: str, numbers: bool) -> dict[str, Any]:
    at = draw.numbers(one[x].values) if numbers else one[x].values.astype(str)
    value, stderr = one["value"].values, one["stderr"].values
    said = [f"{name} = {estimate(v, s)}" for v, s in zip(value, stderr, strict=True)]
    colour = style.colour
    look = {"color": colour, "dash": DASHES[[one.colour for one in draw.STYLES].index(colour)], "width": 1.5}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": at.tolist(),
        "y": value.tolist(),
        "error_y": {"type": "data", "array": np.nan_to_num(stderr).tolist(), "color": colour, "thickness": 1},
        "line": look,
        "marker": {"symbol": SYMBOLS.get(style.marker, "x"), "size": 6},
        "hovertext": [plain(text) for text in said],
        "hoverinfo": "x+text",
    }


def _layout(x: str, families: Sequence[str], values: Any) -> tuple[dict[str, Any], bool]:
    """(the layout of stacked panels, whether x is an axis of numbers)."""
    count, gap = len(families), 0.03
    height = (1 - gap * (count - 1)) / count
    axis, numbers = scale(x, values)
    layout: dict[str, Any] = {
        "height": 140 + (320 if count == 1 else 190 * count),
        "margin": {"l": 80, "r": 20, "t": 30, "b": 50},
        "hovermode": "x unified" if numbers else "closest",
        "hoversubplots": "axis",
        "template": {"layout": {"font": {"family": "Georgia, serif"}}},
        "xaxis": axis | {"anchor": _axis("y", count - 1)},
        "legend": {"groupclick": "togglegroup", "orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
    }
    for k, family in enumerate(families):
        top = 1 - k * (height + gap)
        own = {"title": {"text": plain(FAMILIES.get(family, family))}, "domain": [max(0.0, top - height), top]}
        layout[_axis("yaxis", k)] = own | {"zeroline": False, "showline": True, "gridcolor": "#eee", "anchor": "x"}
    return layout, numbers


def _bands(
    x: str, key: Mapping[str, Any], critical: Mapping[Named, Quantity], shown: Mapping[Named, xr.Dataset], numbers: bool
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Transitions along x: a band over all panels for the interval, a mark in the first one that the pointer reads."""
    if not numbers:
        return
    one = next(iter(shown.values()))
    at, heights = draw.numbers(one[x].values), one["value"].values
    middle = float((np.nanmin(heights) + np.nanmax(heights)) / 2)
    for name, quantity in critical.items():
        if name.family != f"{CRITICAL}{x}":
            continue
        ends = interval(quantity)
        for index in np.ndindex(np.shape(quantity.value)):
            where = {axis: values[i] for i, (axis, values) in zip(index, quantity.coords.items(), strict=True)}
            value = float(np.asarray(quantity.value)[index])
            if not np.isfinite(value) or any(key.get(axis, mine) != mine for axis, mine in where.items()):
                continue
            low, high = (float(end) for end in np.clip(ends[index], at.min(), at.max()))
            said = f"{name.family}[{name.member}]"
            stderr = float(np.asarray(quantity.stderr)[index])
            text = sentence(said, value, stderr, ends[index]) + (f" at {place(where)}" if len(where) else "")
            shape = {"type": "rect", "xref": "x", "yref": "paper", "x0": low, "x1": high, "y0": 0, "y1": 1}
            line = {"width": 0.5, "color": "#777"}
            mark = {
                "type": "scatter",
                "mode": "markers",
                "x": [value],
                "y": [middle],
                "marker": {"symbol": "line-ns-open", "size": 24, "color": "#444"},
                "error_x": {"type": "data", "symmetric": False, "array": [max(0.0, high - value)],
                            "arrayminus": [max(0.0, value - low)], "color": "#444"},
                "hovertext": [plain(text)],
                "hoverinfo": "x+text",
                "name": plain(said),
            }  # fmt: skip
            yield shape | {"fillcolor": "#777", "opacity": 0.15, "line": line, "layer": "below"}, mark
