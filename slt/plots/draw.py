"""Drawing on given axes, from arrays and small labelled tables: curves with errors, phase masses, traces, polygons.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a phase keeps its colour, marker and line in
all figures of a run. Bands and bars are one standard error either way.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy import optimize
from scipy.spatial import ConvexHull, QhullError

COLUMN, PAGE = 3.4, 7.0
"""Widths of one column and of the page, in inches."""

RC: dict[Any, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "errorbar.capsize": 1.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}
styled = matplotlib.rc_context(RC)
"""Decorator of a function that draws: it runs under the style of all figures, and leaves no trace of it behind."""


class Style(NamedTuple):
    """How a phase, or a method, is drawn."""

    colour: str
    marker: str
    line: Any


STYLES = (
    Style("#0072B2", "o", "-"),
    Style("#D55E00", "s", (0, (5, 1.5))),
    Style("#E69F00", "D", (0, (4, 1.2, 1, 1.2))),
    Style("#009E73", "^", (0, (2, 1))),
    Style("#CC79A7", "v", (0, (6, 1, 1, 1, 1, 1))),
    Style("#56B4E9", "P", (0, (3, 2))),
    Style("#000000", "X", (0, (1, 1))),
)
OUTSIDE = Style("#999999", "x", (0, (1, 2)))
"""Style of draws that belong to no phase."""

AXES = {
    "n": r"sample size $n$",
    "t": r"$t$ (density $\propto e^{-tK(w)}\,\varphi(w)$)",
    "gamma": r"localisation $\gamma$",
    "beta": r"inverse temperature $\beta$",
    "data_seed": "data set",
}
ERRORS = "±1 s.e."
"""What bands and bars show, for labels and captions."""


SYMBOLS = {"beta": r"\beta", "gamma": r"\gamma"}


def equation(name: str, value: Any) -> str:
    """'name = value' of a coordinate, as mathematics."""
    text = str(value).replace("log n", r"\log\,n") if isinstance(value, str) else f"{value:g}"
    return (
        f"${SYMBOLS[name]} = {text}$"
        if name in SYMBOLS
        else f"${name} = {text}$"
        if len(name) == 1
        else f"{name} = {text}"
    )


def palette(names: Sequence[str]) -> dict[str, Style]:
    """A style for every name, by its place in the list; colours repeat after seven, with other markers."""
    size = len(STYLES)
    return {
        name: STYLES[i % size]._replace(marker=STYLES[(i + i // size) % size].marker) for i, name in enumerate(names)
    }


def sheet(width: float, height: float, rows: int = 1, cols: int = 1, caption: str = "", **grid: Any) -> tuple[Any, Any]:
    """(Figure, array of axes [rows, cols]) of a size in inches, with a layout that leaves no overlaps."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03), label=caption)
    return figure, figure.subplots(rows, cols, squeeze=False, **grid)


def table(quantity: Any) -> xr.Dataset:
    """A quantity (value, stderr, coords) as a dataset with variables value and stderr over its named axes."""
    dims = list(quantity.coords)
    parts = {"value": quantity.value, "stderr": quantity.stderr}
    return xr.Dataset({k: (dims, np.asarray(v, np.float64)) for k, v in parts.items()}, dict(quantity.coords))


def slices(data: xr.Dataset, *keep: str) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """Every slice of `data` along `keep`: the other dims' labels (those with more than one value) and the slice."""
    rest = [dim for dim in data["value"].dims if dim not in keep]
    for at in itertools.product(*(range(data.sizes[dim]) for dim in rest)):
        one = data.isel(dict(zip(rest, at, strict=True)))
        yield {str(d): one[d].values[()] for d in rest if d in data.coords and data.sizes[d] > 1}, one


def average(data: xr.Dataset, dim: str = "data_seed") -> xr.Dataset:
    """Mean of a table over a dim, if it has it: the error is the larger of the spread's and the entries' own."""
    if dim not in data.dims:
        return data
    known = data["value"].notnull()
    count = known.sum(dim)
    spread = data["value"].std(dim, ddof=1) / np.sqrt(count) if data.sizes[dim] > 1 else data["stderr"].mean(dim)
    own = np.sqrt((data["stderr"].where(known) ** 2).sum(dim)) / count
    return xr.Dataset({"value": data["value"].mean(dim), "stderr": xr.where(own > spread.fillna(0), own, spread)})


def panels(found: Mapping[str, xr.Dataset], x: str, most: int = 3) -> list[tuple[str, dict[str, xr.Dataset]]]:
    """Tables by phase, averaged over data seeds and cut into curves along x: (title, curves by phase) of each panel."""
    cut = [list(slices(average(one), x)) for one in found.values()]
    titles = [", ".join(equation(k, v) for k, v in at.items()) for at, _ in cut[0]] if cut else []
    return [(title, dict(zip(found, (c[i][1] for c in cut), strict=True))) for i, title in enumerate(titles)][:most]


def numbers(values: Any) -> np.ndarray:
    """The values of a coordinate as numbers where all of them read as such (labels of beta may), else as they are."""
    try:
        return np.asarray(values).astype(float)
    except ValueError:
        return np.asarray(values)


def label_axis(ax: Axes, name: str, values: Any, which: str = "x") -> None:
    """Name the axis of a coordinate, and make it logarithmic where its values are positive and span a decade."""
    getattr(ax, f"set_{which}label")(AXES.get(name, name))
    values = numbers(values)
    if values.dtype.kind == "f" and len(values) > 1 and values.min() > 0 and values.max() >= 10 * values.min():
        logarithmic(ax, which, values)


def logarithmic(ax: Any, which: str, values: Any) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2, 5, 10, ... where its values span three decades or less; in
    a narrow panel at 1, 10, ... alone.
    """
    getattr(ax, f"set_{which}scale")("log")
    if np.max(values) <= 1e3 * np.min(values):
        axis = getattr(ax, f"{which}axis")
        inches = ax.get_window_extent().width / ax.figure.dpi
        narrow = which == "x" and inches < np.log10(np.max(values) / np.min(values))
        axis.set_major_locator(LogLocator(subs=(1,) if narrow else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def curve(
    ax: Axes, x: Any, value: Any, stderr: Any, style: Style, label: str | None = None, *, log: bool = False, **line: Any
) -> None:
    """A curve with its errors: a band where points lie dense (over 15), bars elsewhere; NaN leaves a gap.

    log: one standard error of the logarithm, stderr/value, for positive values on a logarithmic axis.
    """
    x, value, stderr = np.asarray(x), np.asarray(value, float), np.nan_to_num(np.asarray(stderr, float))
    below, above = (value * -np.expm1(-stderr / value), value * np.expm1(stderr / value)) if log else (stderr, stderr)
    look: dict[str, Any] = {"color": style.colour, "ls": style.line, "marker": style.marker, "label": label} | line
    if len(x) > 15:
        ax.fill_between(x, value - below, value + above, color=style.colour, alpha=0.25, lw=0)
        small: dict[str, Any] = look | {"ms": 2.5}
        ax.plot(x, value, **small)
    else:
        ax.errorbar(x, value, np.nan_to_num([below, above]), elinewidth=0.8, **look)


def frame(
    row: Sequence[Axes],
    drawn: Sequence[tuple[str, Mapping[str, xr.Dataset]]],
    also: Iterable[float | None],
    styles: Mapping[str, Style],
    *,
    log: bool,
) -> None:
    """Fit the height of axes beside each other to the curves drawn on them, by (axis x, curves), and to values `also`.

    Points whose error is over five times the median one would flatten all others: they count not, and those beyond the
    edge are shown there as triangles. log: logarithmic where all is positive and spans a factor five.
    """
    tables = [one for _, curves in drawn for one in curves.values()]
    value, stderr = (np.concatenate([one[key].values for one in tables]) for key in ("value", "stderr"))
    known = np.isfinite(value)
    if not known.any():
        return
    stderr = np.where(np.isfinite(stderr), stderr, np.inf)
    sure = known & (stderr <= 5 * np.median(stderr[known]))
    levels = [one for one in also if one is not None]
    low = min([*(value - stderr)[sure & np.isfinite(stderr)], *value[sure], *levels])
    high = max([*(value + stderr)[sure & np.isfinite(stderr)], *value[sure], *levels])
    if log and min([*value[sure], *levels]) > 0 and high > 5 * min([*value[sure], *levels]):
        low = max(low, 0.8 * min([*value[sure], *levels]))
        logarithmic(row[0], "y", [low, high])
        row[0].set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
    else:
        row[0].set_ylim(low - 0.06 * (high - low) - 1e-12, high + 0.06 * (high - low) + 1e-12)
    bottom, top = row[0].get_ylim()
    for ax, (x, curves) in zip(row, drawn, strict=True):
        for name, one in curves.items():
            look: dict[str, Any] = {"ls": "none", "color": styles.get(name, STYLES[-1]).colour, "clip_on": False}
            for edge, marker, beyond in ((1, "^", one["value"] > top), (0, "v", one["value"] < bottom)):
                at = numbers(one[x])[beyond.values]
                marks = ax.plot(at, np.full(len(at), edge), marker, transform=ax.get_xaxis_transform(), ms=4, **look)
                marks[0].set_in_layout(False)


def levels(
    ax: Axes, values: Mapping[str, float | None], colours: Mapping[str, str] | None = None, *, named: bool = True
) -> None:
    """Known values as thin dashed lines, named at the right edge; equal values share a name tag, near ones are spread.

    Call it when the curves are drawn: the tags' heights follow from the limits that the axis then has.
    """
    known: dict[float, list[str]] = {}
    for name, value in values.items():
        if value is not None and np.isfinite(value):
            known.setdefault(round(float(value), 9), []).append(name)
    known = dict(sorted(known.items()))
    tones = [(colours or {}).get(names[0], "0.35") if len(names) == 1 else "0.35" for names in known.values()]
    for value, tone in zip(known, tones, strict=True):
        ax.axhline(value, color=tone, lw=0.7, ls=(0, (4, 3)), zorder=0.5)
    if not named or not known:
        return
    ax.get_ylim()  # only now is the axis scaled to what it shows
    heights = ax.transAxes.inverted().transform(ax.transData.transform([(1.0, value) for value in known]))[:, 1]
    steps = 0.085 * np.arange(len(heights))  # of the height of the axes: a line of text in panels of 1.6 inches
    spread = optimize.isotonic_regression(heights - steps).x + steps
    for names, tone, height in zip(known.values(), tones, spread, strict=True):
        at = (1.015, float(height))
        ax.annotate(", ".join(names), at, xycoords="axes fraction", color=tone, fontsize=8, va="center")


def beside(x: Any, place: int, count: int) -> np.ndarray:
    """The positions x of the curve `place` of `count`, moved a little so that bars of several curves stay apart.

    Only where curve draws bars, and x is positive and spans a decade (a logarithmic axis): by a 150th of its span.
    """
    x = numbers(x)
    if not 2 <= len(x) <= 15 or x.dtype.kind != "f" or x.min() <= 0 or x.max() < 10 * x.min():
        return x
    return x * (x.max() / x.min()) ** ((place - (count - 1) / 2) / 150)


def phase_mass(ax: Axes, x: str, masses: Mapping[str, xr.Dataset], styles: Mapping[str, Style]) -> None:
    """Share of each phase against the coordinate `x`, with errors, from 0 to 1."""
    for k, (phase, mass) in enumerate(masses.items()):
        at = beside(mass[x], k, len(masses))
        curve(ax, at, mass["value"], mass["stderr"], styles[phase], phase)
    if masses:
        label_axis(ax, x, next(iter(masses.values()))[x])
    ax.set_ylim(-0.02, 1.02)


def legend(ax: Any, styles: Mapping[str, Style], *, filled: bool = False, **kwargs: Any) -> None:
    """A legend of styles for axes or a figure: as lines, or as patches where areas are filled."""
    patches = [Patch(color=style.colour, label=name) for name, style in styles.items()]
    lines = [Line2D([], [], color=s.colour, marker=s.marker, ls=s.line, label=name) for name, s in styles.items()]
    if filled:
        kwargs |= {"handlelength": 1.0}
    ax.legend(handles=patches if filled else lines, **kwargs)


def polygon(
    ax: Axes, columns: Float[np.ndarray, "2 c"], plus: Any, style: Style, at: tuple[float, float] = (0.0, 0.0)
) -> None:
    """The columns of a weight matrix as rays from `at`, their convex hull filled.

    Turned so that the longest column points up, as rotations change nothing. `plus` bool [c] marks columns of a
    positive bias by an open ring. Nothing is drawn where an entry is not finite.
    """
    columns = np.asarray(columns, float)
    if not np.isfinite(columns).all():
        return
    longest = columns[:, np.hypot(*columns).argmax()]
    turn = np.pi / 2 - np.arctan2(longest[1], longest[0])
    points = columns.T @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + np.asarray(at)
    with contextlib.suppress(QhullError):  # fewer than three columns, or all on a line: no hull to draw
        corners = points[ConvexHull(points).vertices]
        ax.add_patch(Polygon(corners, facecolor=(*to_rgb(style.colour), 0.22), edgecolor=style.colour, lw=1.0))
    rays = np.stack([np.broadcast_to(at, points.shape), points], axis=1)
    ax.add_collection(LineCollection(list(rays), colors=style.colour, lw=0.7))
    ax.plot(*points.T, "o", color=style.colour, ms=2.6)
    if np.any(plus):
        ax.plot(*points[plus].T, "o", mfc="none", mec="black", mew=0.6, ms=5)


def traces(ax: Axes, draws: Any, values: Float[np.ndarray, "chain draw"], labels: Any, styles: Sequence[Style]) -> None:
    """A dot for each draw of each chain in the colour of its phase, a label into `styles`, -1 for none.

    Dots, since lines through draws that mix fast fill the plane. The height leaves out the first tenth of the draws.
    """
    draws, values, labels = np.asarray(draws, float), np.asarray(values, float), np.asarray(labels).astype(int)
    step = max(1, len(draws) // 800)
    at = np.broadcast_to(draws, values.shape)[:, ::step]
    for label, style in enumerate([*styles, OUTSIDE]):
        own = labels[:, ::step] == (label if label < len(styles) else -1)
        ax.plot(at[own], values[:, ::step][own], ".", ms=1.6, mew=0, color=style.colour)
    settled = values[:, len(draws) // 10 :]
    if np.isfinite(settled).any():
        low, high = np.nanquantile(settled, [0.0, 0.998])
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low) + 1e-12)
    if len(draws) > 1:
        ax.set_xlim(draws[0], draws[-1])


def strip(
    ax: Axes, draws: Any, labels: Int[np.ndarray, "chain draw"], styles: Sequence[Style], rows: Any = None
) -> None:
    """Chain by draw, coloured by phase: grey where a draw is in none. `rows` names the chains (where they started)."""
    labels, draws = np.asarray(labels).astype(int), np.asarray(draws)
    step = max(1, labels.shape[1] // 1000)
    colours = np.array([to_rgb(style.colour) for style in (*styles, OUTSIDE)])
    edges = (draws[0], draws[-1] + 1, len(labels) - 0.5, -0.5)
    ax.imshow(colours[labels[:, ::step]], aspect="auto", interpolation="nearest", extent=edges)
    ax.hlines(np.arange(len(labels) - 1) + 0.5, *edges[:2], color="white", lw=0.6)
    if rows is not None and len(labels) <= 16:
        ax.set_yticks(range(len(labels)), [str(row) for row in rows], fontsize=8)
    else:
        ax.set_yticks([])
    ax.tick_params(left=False)
