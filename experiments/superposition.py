"""The toy model of superposition: figures of phases, free energies, learning coefficients and the k-gons themselves.

The number it should show: of the population potential at c = 6, 4 -> 5 at t = 45 (1.2) and 5 -> 6 at t = 270 (2) by the
hull of the columns, 46 (5) and 255 (2) by descent; leading-order theory has no first and the second at 445, Laplace has
57 and 152. The population loss L has no factor 1/2: a Gaussian likelihood of unit variance gives exp(-n beta L_n) =
exp(-t L) at n beta = 2 t.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slt import plots
from slt.plots import draw
from slt.transitions import crossing, paths
from slt.typing import Quantity

from . import _dynamics, _superposition, _superposition_theory
from ._shared import mark, quantity
from ._superposition import LEAST, Told

T_LABEL = r"$t$ (density $\propto e^{-tL(W,b)}\,\varphi$)"
ONLY = {"widths": ("widths", "data_widths"), "single_paths": (), "over_widths": ()}
"""Figures that the demo does not draw: the configs that do also when small (the others need several data sets)."""
GALLERY = (
    "crossings", "widths", "over_widths", "paths", "training_beside_posterior", "training_trajectories",
    "population_polygons",
)  # fmt: skip
"""Figures that stand in docs/gallery.md, where a config draws them."""
WIDE = 3.6  # room for a polygon: columns have lengths up to 1.3 and fluctuate


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name: those over t from parts that are potentials, those over n from data."""
    found: dict[str, Figure | None] = {}
    for part, data in plots.sweeps(run).items():
        population = "t" in data.dims
        prefix = "population" if population else "data"
        found[f"{prefix}_{'phase_mass' if population else 'occupancy'}"] = _phases(run, part)
        found[f"{prefix}_dwell"] = plots.dwell_figure(data)
        found[f"{prefix}_llc"] = _local(run, part)
        found[f"{prefix}_traces"] = plots.trace_figure(data)
        found[f"{prefix}_polygons"] = polygons(data)
        found["free_energy"] = found.get("free_energy") or plots.free_energy_figure(
            plots.quantities(run, part), plots.x_axis(data), T_LABEL
        )
        found["ladder"] = found.get("ladder") or plots.ladder_figure(data)
    told = _superposition.told(run)
    parts = {part: [one for one in told if one.part == part] for part in dict.fromkeys(one.part for one in told)}
    potentials = [rules for rules in parts.values() if rules[0].axis == "t"]
    if len({rules[0].c for rules in potentials}) > 1:
        found["widths"] = widths(potentials)
    rows = _superposition.beside(told)
    if len(rows) > 1:
        found["data_widths"], found["over_widths"] = widths(rows), over_widths(rows)
    for part, rules in parts.items():
        prefix = "" if part == "main" else f"{part}_"
        found[f"{prefix}crossings"] = crossings(rules)
        if rules[0].axis == "n" and len(rules[0].label) > 1:
            found[f"{prefix}paths"] = single_paths(rules[0])
    if getattr(run, "measures", None):
        found |= _dynamics.figures(run)
    return {name: figure for name, figure in found.items() if figure is not None}


def summarise(run: Any) -> dict[str, Quantity]:
    """Crossings of the families of k-gons, see `_superposition.summarise`, and what training did, where it was run."""
    return _dynamics.summarise(run) | _superposition.summarise(run)


def samples_axis(ax: Axes) -> None:
    """A second axis above one in t, with the n at which beta = 1 gives the same exponent."""
    top = ax.secondary_xaxis("top", functions=(lambda t: 2 * np.asarray(t), lambda n: np.asarray(n) / 2))
    draw.logarithmic(top, "x", 2 * np.array(ax.get_xlim()))
    top.set_xlabel(r"$n$ at $\beta = 1$ and unit noise, $n\beta = 2t$")


@draw.styled
def _local(run: Any, part: str) -> Figure | None:
    """`plots.local_figure`; losses on data less the Gaussian's constant, so that they tend to L/2 at unit noise."""
    known = plots.basins(run, part)
    if "t" in plots.sweeps(run)[part].dims:
        figure = plots.local_figure(run, part, known)
        if figure is not None:
            figure.axes[0].set_ylabel(f"E$[L(W,b)]$ ({draw.ERRORS})")
            figure.axes[-1].set_xlabel(T_LABEL)
        return figure
    features = plots.sweeps(run)[part].sizes.get("params.W_1", 6)
    constant = 0.5 * features * math.log(2 * math.pi)
    figure = plots.local_figure(run, part, known, constant)
    if figure is not None:
        figure.axes[0].set_ylabel(rf"E$[L_n] - {features / 2:g}\log 2\pi$ ({draw.ERRORS})")
    return figure


@draw.styled
def _phases(run: Any, part: str) -> Figure | None:
    figure = plots.share_figure(run, part)
    if figure is not None and "t" in plots.sweeps(run)[part].dims:
        ax = figure.axes[0]
        ax.set_xlabel(T_LABEL)
        samples_axis(ax)
    return figure


def _columns(cell: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(W [2, c], which biases are positive) of one draw; a potential's parameters are W[0], W[1], b in one array."""
    if "params.W" in cell:
        return cell["params.W"].values, cell["params.b"].values > 0
    *weights, bias = cell["params"].values.reshape(3, -1)
    return np.array(weights), bias > 0


@draw.styled
def polygons(data: xr.Dataset, columns: int = 8, rows: int = 5) -> Figure | None:
    """The last draws kept, as polygons: a few values of t or n across, chains from different starts down."""
    if data.sizes.get("kept", 0) == 0:
        return None
    x, names = plots.x_axis(data), plots.phase_names(data)
    styles = draw.palette(names)
    one = data.isel({d: 0 for d in data["delta"].dims if d not in (x, "chain", "draw")})
    across = np.unique(np.linspace(0, data.sizes[x] - 1, columns).astype(int))
    starts = data["start"].values.astype(str) if "start" in data.coords else np.full(data.sizes["chain"], "")
    down = np.unique(starts, return_index=True)[1] if len(set(starts)) > 1 else np.arange(data.sizes["chain"])
    down = np.sort(down)[:rows]
    fixed = "".join(f", {d} = {one[d].values[()]}" for d in ("beta", "data_seed") if d in one.coords and d != x)
    caption = f"Last draw of a chain: columns of W and their convex hull, turned so that the longest points up. Rings: \
columns with a positive bias{fixed}."
    figure, axes = draw.sheet(draw.PAGE, 0.5 + 0.85 * len(down), 1, 1, caption)
    ax, seen = axes[0, 0], set()
    for row, chain in enumerate(down):
        for column, place in enumerate(across):
            cell = one.isel({x: place, "chain": chain})
            kept = cell["kept_draw"].values
            label = int(cell["phase"].sel(draw=kept[-1])) if names else -1
            name = names[label] if label >= 0 else "none"
            seen.add(name)
            draw.polygon(
                ax, *_columns(cell.isel(kept=-1)), styles.get(name, draw.OUTSIDE), (WIDE * column, -WIDE * row)
            )
    kind = "ladder" if data.attrs.get("coupled") else "chain"
    rows_named = [f"from {starts[chain]}" if len(set(starts)) > 1 else f"{kind} {chain}" for chain in down]
    ax.set_xticks(WIDE * np.arange(len(across)), [draw.equation(x, value) for value in data[x].values[across]])
    ax.set_yticks(-WIDE * np.arange(len(down)), rows_named)
    ax.set(xlim=(-WIDE / 2, WIDE * (len(across) - 0.5)), ylim=(-WIDE * (len(down) - 0.5), WIDE / 2), aspect="equal")
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    shown = {name: styles.get(name, draw.OUTSIDE) for name in (*names, "none") if name in seen}
    draw.legend(figure, shown, filled=True, loc="outside lower center", ncols=len(shown))
    return figure


# ---------------------------------------------------------------------------------------------------------- transitions

RULES = {"hull": ("-", ""), "descent": ((0, (1, 1)), "o")}
"""How curves by each rule are drawn: line and marker."""
THEORY = {"leading": ("x", "leading SLT"), "laplace": ("P", "Laplace")}


def _families(told: Sequence[Told]) -> dict[int, str]:
    """A colour of every family that any rule shows."""
    return {k: draw.STYLES[(k - 4) % len(draw.STYLES)].colour for one in told for k in sorted(one.families)}


@draw.styled
def crossings(told: Sequence[Told]) -> Figure | None:
    """Masses of the families by every rule; below, where one gives way to the next, beside what theory says."""
    first = told[0]
    pairs = first.pairs()
    if not pairs:
        return None
    t = first.axis == "t"
    caption = f"Posterior mass of the families of k-gons ({draw.ERRORS}): lines by the hull of the columns, circles by \
descent to the nearest minimum. Below: where one family gives way to the next, with 90 per cent intervals"
    caption += "; crosses: what theory foretells." if t else f", averaged over {len(first.label)} data sets."
    height = 2.1 + 0.22 * len(told) * len(pairs) + (0.22 * len(pairs) if t else 0)
    share = [2.4, 0.3 + 0.24 * len(pairs) * (len(told) + t)]
    figure, axes = draw.sheet(draw.PAGE, height + 0.3, 2, 1, caption, sharex=True, height_ratios=share)
    top, bottom = axes[:, 0]
    colours = _families(told)
    for one in told:
        line, marker = RULES[one.rule]
        for k, own in one.families.items():
            value, error = one.share(own)
            if value.max() > LEAST:
                top.fill_between(one.x, value - error, value + error, color=colours[k], alpha=0.25, lw=0)
                top.plot(one.x, value, color=colours[k], ls=line, marker=marker, mfc="none", ms=3,
                         label=f"{k}" if one is first else None)  # fmt: skip
    ticks: list[str] = []
    draw.label_axis(bottom, first.axis, first.x)
    low, high = first.x[0], first.x[-1]
    top.set_xlim(low, high)
    for a, b in pairs:
        of = first.difference(a, b)
        at = None if of is None else crossing.crossings(of).only(upward=True)
        mark(top, quantity(at), colours[b])
        for one in told:
            own = one.difference(a, b)
            found = None if own is None else crossing.crossings(own).only(upward=True)
            row = -len(ticks)
            ticks.append(rf"${a}\to{b}$ {one.rule}")
            if found is not None:
                ends = np.clip(found.interval, low, high)
                bottom.plot(ends, [row, row], color=colours[b], lw=2.5, alpha=0.5, solid_capstyle="butt")
                bottom.plot(found.value, row, "o", color=colours[b], ms=4)
        if t:
            row = -len(ticks)
            ticks.append(rf"${a}\to{b}$ theory")
            told_by = {guess.name: guess.t for guess in _superposition_theory.theory(first.c, a, b, at)}
            for name, (marker, label) in THEORY.items():
                if np.isfinite(told_by[name]):
                    bottom.plot(told_by[name], row, marker, color="black", ms=4.5, ls="none")
                    top.axvline(
                        told_by[name], color="0.4", lw=0.7, ls=(0, (1, 2)) if name == "leading" else (0, (3, 2))
                    )
                    text = f"{label} {told_by[name] / at.value - 1:+.0%}" if at is not None else label
                    bottom.annotate(
                        text, (told_by[name], row), xytext=(6, -2.5), textcoords="offset points", fontsize=8
                    )
            if not np.isfinite(told_by["leading"]):
                bottom.text(0.99, row, "leading SLT: none", transform=bottom.get_yaxis_transform(), ha="right",
                            va="center", fontsize=8)  # fmt: skip
    bottom.set_yticks(-np.arange(len(ticks)), ticks)
    bottom.set(ylim=(-len(ticks) + 0.4, 0.6), ylabel="crossing")
    bottom.grid(axis="x", lw=0.3)
    top.set(ylim=(-0.02, 1.02), ylabel=f"posterior mass ({draw.ERRORS})")
    if t:
        bottom.set_xlabel(T_LABEL)
        samples_axis(top)
    top.legend(title="corners $k$", loc="upper left")
    return figure


@draw.styled
def widths(parts: Sequence[Sequence[Told]]) -> Figure:
    """A row for every number of features c: mass of each phase over n, named at its most.

    A column for every rule of one population loss; or one for the population loss, one for data.
    """
    most = max(len(told) for told in parts)
    parts = [told for told in parts if len(told) == most]
    columns = parts[0]
    ends = [_scale(one) * one.x[k] for told in parts for one in told for k in (0, -1)]
    caption = (
        f"Posterior mass of every phase that has more than 5 per cent somewhere, over n (2 t of the population loss; \
{draw.ERRORS}); colour: corners k. '+': a feature with positive bias; '*': a corner that two features share."
    )
    figure, axes = draw.sheet(
        draw.PAGE, 1.45 * len(parts) + 0.5, len(parts), len(columns), caption, sharex=True, sharey=True
    )
    for row, told in zip(axes, parts, strict=True):
        colours = _families(told)
        for ax, one in zip(row, told, strict=True):
            taken: list[tuple[float, float]] = []
            n = _scale(one) * one.x
            for label, name in enumerate(one.names):
                value, error = one.share([label])
                if value.max() <= LEAST:
                    continue
                family = next((k for k, own in one.families.items() if label in own), None)
                colour = draw.OUTSIDE.colour if family is None else colours[family]
                line: Any = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 2)))[
                    min(name.count("+"), 4)] if "*" not in name else (0, (2, 2, 1, 2))  # fmt: skip
                ax.fill_between(n, value - error, value + error, color=colour, alpha=0.25, lw=0)
                ax.plot(n, value, color=colour, ls=line)
                at = (float(np.log10(n[value.argmax()])), float(value.max()))
                while any(abs(at[0] - x) < 0.16 and abs(at[1] - y) < 0.13 for x, y in taken):
                    at = (at[0] + 0.17, at[1])
                taken.append(at)
                side = {0: "left", one.x.size - 1: "right"}.get(int(value.argmax()), "center")
                ax.annotate(name, (10 ** at[0], at[1]), xytext=(0, 2), textcoords="offset points", color=colour,
                            ha=side, fontsize=8)  # fmt: skip
            draw.logarithmic(ax, "x", [10, 20])
            ax.set(ylim=(-0.02, 1.18), xlim=(min(ends) / 1.15, max(ends) * 1.15), yticks=[0, 0.5, 1])
        row[0].set_ylabel(f"$c = {told[0].c}$\nmass")
    for ax, one in zip(axes[0], columns, strict=True):
        rule = f"by {'the hull of the columns' if one.rule == 'hull' else 'descent to the nearest minimum'}"
        what = "population loss" if one.axis == "t" else f"{len(one.label)} data sets"
        ax.set_title(rule if len({each.axis for each in columns}) == 1 else what)
    for ax, one in zip(axes[-1], columns, strict=True):
        ax.set_xlabel(r"$n = 2t$ at unit noise" if one.axis == "t" else draw.AXES["n"])
    return figure


def _scale(one: Told) -> float:
    """n at unit noise for one unit of the axis."""
    return 2.0 if one.axis == "t" else 1.0


@draw.styled
def over_widths(rows: Sequence[tuple[Told, Told]]) -> Figure | None:
    """Where families give way, over c: of the population loss, averaged over data sets, and of single data sets."""
    pairs = sorted({pair for row in rows for one in row for pair in one.pairs()})
    count = len(rows[0][1].label)
    caption = f"Where one family of k-gons gives way to the next (90 per cent intervals): squares: population loss, n \
= 2 t; circles: F averaged over {count} data sets; thin bars: the first and the last crossing of nine data sets in ten."
    figure, axes = draw.sheet(draw.COLUMN * 1.3, 3.4, 1, 1, caption)
    ax, drawn = axes[0, 0], False
    for style, (a, b) in zip(itertools.cycle(draw.STYLES), pairs):
        line = []
        for population, data in rows:
            for one, marker, shift in ((population, "s", -0.12), (data, "o", 0.04)):
                at = one.crossing(a, b)
                if at is None:
                    continue
                low, high = np.clip(at.interval, one.x[0], one.x[-1]) * _scale(one)
                x, value = one.c + shift, at.value * _scale(one)
                ax.plot([x, x], [low, high], color=style.colour, lw=2.5, alpha=0.5, solid_capstyle="butt")
                ax.plot(x, value, marker, color=style.colour, mfc="white" if one is population else style.colour)
                line += [(x, value)] if one is population else []
                drawn = True
            single = data.single(a, b)
            for ends, shift in ((single.first, 0.14), (single.last, 0.2)) if single is not None else ():
                seen = ends[np.isfinite(ends)]
                if seen.size:
                    ax.plot([data.c + shift] * 2, np.quantile(seen, [0.05, 0.95]), color=style.colour, lw=0.7)
        ax.plot(*np.array(line).reshape(-1, 2).T, color=style.colour, ls=style.line, lw=0.8, label=rf"${a} \to {b}$")
    if not drawn:
        return None
    ax.set(yscale="log", xlabel="features $c$", ylabel=draw.AXES["n"], xticks=[data.c for _, data in rows])
    draw.logarithmic(ax, "y", np.array(ax.get_ylim()))
    ax.legend(loc="best")
    return figure


@draw.styled
def single_paths(one: Told) -> Figure | None:
    """D = F_a - F_b of every data set and of their mean; where each data set first and last crosses."""
    found = [(a, b, one.difference(a, b)) for a, b in one.pairs()]
    pairs = [(a, b, of, of.paths) for a, b, of in found if of is not None and of.paths is not None]
    if not pairs:
        return None
    caption = f"Free energies of two families on each of {len(one.label)} data sets (thin; cut off at the draws' \
resolution), and averaged ({draw.ERRORS}); band: its crossing with its 90 per cent interval. Below: shares of data \
sets whose first and last crossing lies below n."
    figure, axes = draw.sheet(draw.PAGE, 3.8, 2, len(pairs), caption, sharex="col", height_ratios=[1.6, 1])
    for (top, bottom), (a, b, of, own) in zip(axes.T, pairs, strict=True):
        top.plot(of.x, own.T, color="0.6", lw=0.5)
        top.fill_between(of.x, of.value - of.stderr, of.value + of.stderr, color=draw.STYLES[0].colour, alpha=0.3, lw=0)
        top.plot(of.x, of.value, color=draw.STYLES[0].colour, lw=1.8)
        top.axhline(0, color="black", lw=0.6)
        draw.label_axis(bottom, "n", of.x)
        top.set_xlim(of.x[0], of.x[-1])
        top.set(title=rf"${a} \to {b}$", ylabel=f"$F_{a} - F_{b}$ (nats)")
        single = paths.paths(of.x, own)
        for ends, style, name in ((single.first, draw.STYLES[1], "first"), (single.last, draw.STYLES[3], "last")):
            seen = np.sort(ends[np.isfinite(ends)])
            share = np.arange(1, len(seen) + 1) / len(ends)
            bottom.step([of.x[0], *seen, of.x[-1]], [0, *share, share[-1] if len(seen) else 0], where="post",
                        color=style.colour, ls=style.line, label=name)  # fmt: skip
        at = quantity(crossing.crossings(of).only(upward=True))
        mark(top, at)
        mark(bottom, at)
        bottom.set(ylim=(0, 1.02), ylabel="share of data sets")
    axes[1, -1].legend(loc="lower right")
    return figure
