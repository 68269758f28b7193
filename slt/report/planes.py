"""Planes of two axes of a run: the leading phase at every point, and the lines of transitions between phases."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from slt.plots import draw
from slt.report.parts import CRITICAL, Named, View, axes_of, interval, keys, plain, scale, sentence, slices
from slt.results.words import estimate, place
from slt.typing import Quantity


def views(
    group: str,
    y: str,
    found: Mapping[Named, Quantity],
    critical: Mapping[Named, Quantity],
    styles: Mapping[str, draw.Style],
) -> Iterator[View]:
    """The leading phase at each point of a plane of two axes, everything known there at the pointer, critical lines."""
    weight = next(
        (f for f in ("mass", "occupancy", "free_energy") if any(n.family == f and n.member for n in found)), ""
    )
    leading = {name: one for name, one in found.items() if name.family == weight and name.member}
    others = dict.fromkeys(x for one in leading.values() for x in axes_of(one)[1:])
    for x in others:
        cut = {name: slices(one, x, y) for name, one in found.items() if {x, y} <= set(axes_of(one))}
        for key in keys(cut):
            grids = {name: one for name, slices in cut.items() for at, one in slices.items() if set(at) <= set(key)}
            mine = {name: grids[name] for name in leading if name in grids}
            if not mine:
                continue
            yield _plane(group, (x, y), dict(key), weight, mine, grids, critical, styles)


def _plane(
    group: str,
    axes: tuple[str, str],
    key: Mapping[str, Any],
    weight: str,
    leading: Mapping[Named, xr.Dataset],
    grids: Mapping[Named, xr.Dataset],
    critical: Mapping[Named, Quantity],
    styles: Mapping[str, draw.Style],
) -> View:
    x, y = axes
    names = list(leading)
    first = leading[names[0]]
    heights = np.stack([one["value"].values for one in leading.values()])
    heights = np.nan_to_num(-heights if weight == "free_energy" else heights, nan=-np.inf)
    best = np.where(np.isfinite(heights).any(0), heights.argmax(0), np.nan)
    said = [[_cell(axes, first, grids, i, j) for i in range(first.sizes[x])] for j in range(first.sizes[y])]
    colours = [styles[name.member].colour for name in names]
    steps = [[(k + side) / len(names), colour] for k, colour in enumerate(colours) for side in (0, 1)]
    (across, _), (up, numbers) = scale(x, first[x].values), scale(y, first[y].values)
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": draw.numbers(first[x].values).tolist(),
            "y": draw.numbers(first[y].values).tolist(),
            "z": best.T.tolist(),
            "zmin": -0.5,
            "zmax": len(names) - 0.5,
            "colorscale": steps,
            "opacity": 0.75,
            "xgap": 1,
            "ygap": 1,
            "hovertext": said,
            "hoverinfo": "text",
            "colorbar": {
                "tickvals": list(range(len(names))),
                "ticktext": [plain(name.member) for name in names],
                "title": {"text": f"leading phase, by {weight}"},
            },
        }
    ]
    for name, one in critical.items():
        if name.family == f"{CRITICAL}{y}" and axes_of(one) == [x] and numbers:
            ends = interval(one).reshape(-1, 2)
            value, stderr = np.ravel(one.value), np.ravel(one.stderr)
            title = f"{name.family}[{name.member}]"
            text = [sentence(title, v, s, e) for v, s, e in zip(value, stderr, ends, strict=True)]
            error = {"type": "data", "symmetric": False, "array": (ends[:, 1] - value).tolist(),
                     "arrayminus": (value - ends[:, 0]).tolist()}  # fmt: skip
            line = {"type": "scatter", "mode": "lines+markers", "x": one.coords[x], "y": value.tolist()}
            look = {"line": {"color": "#000"}, "hoverinfo": "text", "name": plain(title)}
            data.append(line | look | {"error_y": error, "hovertext": [plain(t) for t in text]})
    layout = {
        "height": 520,
        "margin": {"l": 80, "r": 20, "t": 20, "b": 50},
        "xaxis": across,
        "yaxis": up,
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
    }
    title = ", ".join([f"plane of {x} and {y}", *([place(key)] if key else [])])
    return View(
        group, title, "Colour: the leading phase. The pointer reads all that is known at a point.", data, layout
    )


def _cell(axes: tuple[str, str], first: xr.Dataset, grids: Mapping[Named, xr.Dataset], i: int, j: int) -> str:
    """Everything known at one point of a plane."""
    x, y = axes
    lines = [place({axis: first[axis].values.tolist()[k] for axis, k in ((x, i), (y, j))})]
    for name, one in grids.items():
        value, stderr = (float(one[key].values[i, j]) for key in ("value", "stderr"))
        if np.isfinite(value):
            label = f"{name.family}[{name.member}]" if name.member else name.family
            lines.append(f"{label} = {estimate(value, stderr)}")
    return "<br>".join(plain(line) for line in lines)
