"""Figures that suit any run, and saving them. What is drawn on the axes of each comes from slt.plots.draw.

A figure's label (`Figure.get_label`) is its caption. What a run lacks is left out, never an error.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from slt.config import RunConfig, instantiate, nodes, plain
from slt.estimators import occupancy
from slt.plots.draw import (
    COLUMN,
    ERRORS,
    OUTSIDE,
    PAGE,
    RC,
    STYLES,
    average,
    beside,
    curve,
    equation,
    frame,
    label_axis,
    legend,
    levels,
    logarithmic,
    numbers,
    palette,
    panels,
    phase_mass,
    sheet,
    slices,
    strip,
    styled,
    table,
    traces,
)
from slt.results.place import replace


def quantities(run: Any, part: str = "main") -> dict[str, xr.Dataset]:
    """The quantities of one part of a run, as tables, by their names without the part's prefix."""
    prefix, others = (f"{part}.", ()) if part != "main" else ("", tuple(f"{p}." for p in sweeps(run) if p != "main"))
    chosen = {k: q for k, q in run.quantities.items() if k.startswith(prefix) and not k.startswith(others)}
    return {name.removeprefix(prefix): table(quantity) for name, quantity in chosen.items()}


def by_phase(tables: Mapping[str, xr.Dataset], name: str) -> dict[str, xr.Dataset]:
    """Of `quantities`, those called name[PHASE] that hold any number, by phase."""
    found = {key[len(name) + 1 : -1]: value for key, value in tables.items() if key.startswith(f"{name}[")}
    return {phase: value for phase, value in found.items() if not np.isnan(value["value"]).all()}


def sweeps(run: Any) -> dict[str, xr.Dataset]:
    """The datasets of a run's parts that hold draws."""
    found = {str(name): node.to_dataset() for name, node in run.data.children.items()}
    return {name: data for name, data in found.items() if data.sizes.get("draw", 0) > 0}


def basins(run: Any, part: str = "main") -> tuple[Any, ...]:
    """The basins known exactly of a part's model; none where any of it is from outside slt: that is not run to draw."""
    config = plain(run.config) if isinstance(run.config, RunConfig) else run.config
    node = (config if part == "main" else config["parts"][part])["model"]
    if next(nodes.foreign(node), None) is not None:
        return ()
    nodes.trust(node, "model" if part == "main" else f"parts.{part}.model")
    truth = instantiate(node, "model").truth()
    return () if truth is None else truth.basins


def phase_names(data: xr.Dataset) -> list[str]:
    """Names of the phases of a part, in the order of the labels; none if it has no classifier."""
    return [str(name) for name in data["phase"].attrs["names"]] if "phase" in data else []


def x_axis(data: xr.Dataset) -> str:
    """The axis of a part that figures are drawn along: t or n, else the longest; those of one value come last."""
    others = {"chain", "draw", "kept", "rung", "basin", "data_seed"}
    axes = [str(dim) for dim in data["delta"].dims if dim not in others]
    return max(axes, key=lambda dim: (data.sizes[dim] > 1, dim in ("t", "n"), data.sizes[dim]))


@styled
def trace_figure(data: xr.Dataset, picks: int = 3) -> Figure:
    """Loss traces of one chain from each start, and the phase of every chain, at a few values of the part's axis."""
    x, names = x_axis(data), phase_names(data)
    styles, chosen = palette(names), np.unique(np.linspace(0, data.sizes[x] - 1, picks).astype(int))
    one = data[["delta", "phase"] if names else ["delta"]]
    one = one.isel({d: 0 for d in one["delta"].dims if d not in (x, "chain", "draw")}).transpose(x, "chain", "draw")
    starts = data["start"].values.astype(str) if "start" in data.coords else np.full(data.sizes["chain"], "")
    various = len(set(starts)) > 1
    first = np.unique(starts, return_index=True)[1] if various else np.arange(min(4, len(starts)))
    draws = data["draw"].values
    burnt = draws[data["burn_in"].values]
    fixed = [equation(d, one[d].values[()]) for d in ("beta",) if d in one.coords and d != x]
    caption = (
        "Loss of one chain from each start, in the colour of its phase, and phases of all chains. Shaded: burn-in."
    )
    rows = 2 if names else 1
    figure, axes = sheet(PAGE, 1.9 + 1.6 * (rows - 1), rows, len(chosen), caption, sharex="col")
    for column, at in enumerate(chosen):
        values, value = one["delta"].values[at], one[x].values[at]
        labels = one["phase"].values[at] if names else np.full(values.shape, -1)
        axes[0, column].set_title(", ".join([equation(x, value), *fixed]))
        traces(axes[0, column], draws, values[first], labels[first], list(styles.values()))
        if len(burnt):
            axes[0, column].axvspan(burnt[0], burnt[-1], color="0.92", zorder=-1, lw=0)
        if names:
            strip(axes[1, column], draws, labels, list(styles.values()), starts if various and column == 0 else None)
        axes[-1, column].set_xlabel("draw")
    axes[0, 0].set_ylabel(r"$K(w) - K(w_{\rm ref})$" if "t" in data.dims else r"$L_n(w) - L_n(w_{\rm ref})$")
    if names:
        axes[1, 0].set_ylabel("chain, by start" if various else "ladder" if data.attrs.get("coupled") else "chain")
        seen = {name: style for k, (name, style) in enumerate(styles.items()) if (one["phase"] == k).any()}
        outside = {"none": OUTSIDE} if (one["phase"].where(one["delta"].notnull()) == -1).any() else {}
        legend(figure, seen | outside, filled=True, loc="outside upper center", ncols=max(1, len(seen | outside)))
    return figure


def _row(count: int, rows: int, height: float, caption: str) -> tuple[Any, Any]:
    width = COLUMN if count == 1 else PAGE
    return sheet(width, height, rows, count, caption, sharex=True, sharey="row")


@styled
def share_figure(run: Any, part: str) -> Figure | None:
    """Mass of the phases where chains provably move, otherwise occupancy, against the part's axis."""
    data, tables = sweeps(run)[part], quantities(run, part)
    mass, x = by_phase(tables, "mass"), x_axis(data)
    shown = panels(mass or by_phase(tables, "occupancy"), x)
    if not shown:
        return None
    names = dict.fromkeys([*phase_names(data), *shown[0][1]])  # a summary may know phases that the draws do not
    styles, rule = palette(list(names)), data["phase"].attrs.get("rule", "") if "phase" in data else ""
    what = (
        "Posterior mass of the phases" if mass else "Share of draws in each phase, chains started where they were told"
    )
    figure, axes = _row(len(shown), 1, 2.5, f"{what}, {ERRORS}. Phases by {rule}.")
    for ax, (title, curves) in zip(axes[0], shown, strict=True):
        phase_mass(ax, x, curves, styles)
        ax.set_title(title)
    axes[0, 0].set_ylabel(f"posterior mass ({ERRORS})" if mass else f"occupancy, share of draws ({ERRORS})")
    keys = {name: styles[name] for name in shown[0][1]}
    legend(figure, keys, loc="outside upper center", ncols=len(keys) if len(shown) > 1 else 3)
    return figure


def dwell_times(data: xr.Dataset) -> dict[str, xr.Dataset]:
    """Mean number of draws before a chain first leaves the phase where it began, by phase; inf where none left.

    From the draws after burn-in of chains that did not break, pooled over data seeds.
    """
    own = {"chain", "draw", "data_seed"}
    grid = [str(dim) for dim in data["phase"].dims if dim not in own]
    flat = data[["phase", "status"]].stack(pooled=[d for d in data["status"].dims if d in own], create_index=False)
    labels = flat["phase"].transpose(*grid, "pooled", "draw").values[..., ~data["burn_in"].values]
    names = phase_names(data)
    ok = flat["status"].transpose(*grid, "pooled").values == 0
    found = occupancy.mean_dwell(occupancy.dwell(labels, ok=ok), len(names))
    coords = {dim: data[dim].values for dim in grid}
    parts = {"value": np.asarray(found.value), "stderr": np.asarray(found.stderr)}
    tables = {
        name: xr.Dataset({key: (grid, array[..., k]) for key, array in parts.items()}, coords)
        for k, name in enumerate(names)
    }
    return {name: one for name, one in tables.items() if not np.isnan(one["value"]).all()}


@styled
def dwell_figure(data: xr.Dataset) -> Figure | None:
    """`dwell_times` against the part's axis; None where chains exchange their places, or there are no phases."""
    x = x_axis(data)
    free = "phase" in data and not data.attrs.get("coupled") and (~data["burn_in"].values).sum() > 1
    shown = panels(dwell_times(data), x) if free else []
    if not shown:
        return None
    styles = palette(phase_names(data))
    caption = f"Mean number of draws after burn-in before a chain first leaves its phase, {ERRORS} of the logarithm; \
open, at the top: no chain left."
    figure, axes = _row(len(shown), 1, 2.5, caption)
    for ax, (title, curves) in zip(axes[0], shown, strict=True):
        for k, (name, one) in enumerate(curves.items()):
            finite = one.where(np.isfinite(one["value"]))
            at = beside(one[x], k, len(curves))
            curve(ax, at, finite["value"], finite["stderr"], styles[name], log=True)
            stayed = at[np.isposinf(one["value"])]
            look = {"marker": styles[name].marker, "mec": styles[name].colour, "mfc": "none", "ls": "none"}
            ax.plot(stayed, np.full(len(stayed), 0.98 - 0.06 * k), transform=ax.get_xaxis_transform(), **look)
        ax.set_title(title)
        label_axis(ax, x, data[x].values)
    found = np.concatenate([one["value"].values for _, curves in shown for one in curves.values()])
    top = max([2.0, *found[np.isfinite(found)]])
    logarithmic(axes[0, 0], "y", [1, top])
    axes[0, 0].set_ylim(0.6, (3 * top) ** (1.2 if np.isposinf(found).any() else 1.0))
    axes[0, 0].set_ylabel(f"mean dwell, draws ({ERRORS})")
    keys = {name: styles[name] for name in shown[0][1]}
    legend(figure, keys, loc="outside upper center", ncols=len(keys) if len(shown) > 1 else 3)
    return figure


@styled
def local_figure(run: Any, part: str, known: Sequence[Any] = (), constant: float = 0.0) -> Figure | None:
    """E[L_n] and the local learning coefficient per phase (of all draws where there are none) along the part's axis.

    `known`: basins (slt.phases.Basin) whose losses and lambdas are drawn as dashed lines. `constant` is taken off every
    loss: the entropy of the noise, say.
    """
    data, tables = sweeps(run)[part], quantities(run, part)
    x, styles = x_axis(data), palette(phase_names(data))
    rows = {}
    for kind in ("loss", "llc"):
        found = by_phase(tables, kind)
        rows[kind] = panels(found or {"all draws": tables[kind]} if found or kind in tables else {}, x)
    rows = {kind: shown for kind, shown in rows.items() if shown}
    if not rows:
        return None
    names = next(iter(rows.values()))[0][1]
    tone = {b.name: styles[b.phase].colour for b in known if b.phase in styles}
    caption = f"Expected loss and local learning coefficient, {ERRORS}; dashed: known minima. Triangles at an edge: \
beyond it, and uncertain."
    figure, axes = _row(len(next(iter(rows.values()))), len(rows), 0.5 + 1.9 * len(rows), caption)
    symbol = r"E$[K(w)]$" if "t" in data.dims else r"E$[L_n(w)]$"
    for row, (kind, shown) in zip(axes, rows.items(), strict=True):
        loss = kind == "loss"
        for ax, (_, curves) in zip(row, shown, strict=True):
            shifted = {n: one.assign(value=one["value"] - constant) if loss else one for n, one in curves.items()}
            for k, (name, one) in enumerate(shifted.items()):
                at = beside(one[x], k, len(shifted))
                curve(ax, at, one["value"], one["stderr"], styles.get(name, STYLES[-1]))
            label_axis(ax, x, data[x].values)
            curves |= shifted
        of = {b.name: b.lam if not loss else None if b.loss is None else b.loss - constant for b in known}
        frame(row, [(x, curves) for _, curves in shown], of.values(), styles, log=loss)
        for ax in row:
            levels(ax, of, tone, named=ax is row[-1])
        row[0].set_ylabel(f"{symbol} ({ERRORS})" if loss else rf"LLC $\hat\lambda$ ({ERRORS})")
    for ax, (title, _) in zip(axes[0], next(iter(rows.values())), strict=True):
        ax.set_title(title)
    for ax in axes[:-1].ravel():
        ax.set_xlabel("")
    keys = {name: styles.get(name, STYLES[-1]) for name in names}
    legend(figure, keys, loc="outside upper center", ncols=len(keys) if len(axes[0]) > 1 else 3)
    return figure


@styled
def free_energy_figure(tables: Mapping[str, xr.Dataset], x: str, xlabel: str | None = None) -> Figure | None:
    """F by thermodynamic integration and by MBAR over each other, and below them what parts the two."""
    names = {"free_energy": "thermodynamic integration", "free_energy_mbar": "MBAR"}
    known = {name: one for name, one in tables.items() if one["value"].notnull().any()}
    found = {label: known[name] for name, label in names.items() if name in known}
    if not found:
        return None
    caption = f"Free energy F = -log Z by two routes over the same draws, and their difference, {ERRORS}."
    both = "free_energy_difference" in known
    figure, axes = sheet(
        COLUMN, 3.2 if both else 2.2, 2 if both else 1, 1, caption, sharex=True, height_ratios=[3, 1.2][: 1 + both]
    )
    for (label, data), style in zip(found.items(), STYLES, strict=False):
        for _, one in slices(data, x):
            curve(axes[0, 0], numbers(one[x]), one["value"], one["stderr"], style, label)
            label = None
    axes[0, 0].set_ylabel(rf"$F = -\log Z$, nats ({ERRORS})")
    axes[0, 0].legend()
    if both:
        for _, one in slices(tables["free_energy_difference"], x):
            curve(axes[1, 0], numbers(one[x]), one["value"], one["stderr"], STYLES[-1])
        axes[1, 0].axhline(0, color="0.35", lw=0.6)
        axes[1, 0].set_ylabel(r"TI $-$ MBAR")
    label_axis(axes[-1, 0], x, next(iter(found.values()))[x])
    if xlabel is not None:
        axes[-1, 0].set_xlabel(xlabel)
    return figure


@styled
def ladder_figure(data: xr.Dataset) -> Figure | None:
    """How well ladders exchange: rejection of swaps by rung, the way of three walkers, round trips of every ladder."""
    if "swap" not in data:
        return None
    rest = [d for d in data["swap"].dims if d not in ("chain", "rung", "draw")]
    one = data[["swap", "walker", "round_trips", "rung_value"]].isel(dict.fromkeys(rest, 0))
    one = one.transpose("chain", "rung", "draw")
    axis = str(data.attrs.get("coupled", "t"))
    settled = one.isel(draw=~data["burn_in"].values)
    caption = f"Replica exchange: share of swaps rejected between neighbours (mean over ladders, {ERRORS}; open: rungs \
added beyond the grid), three walkers of the first ladder, and round trips after burn-in."
    figure, axes = sheet(PAGE, 2.1, 1, 3, caption, width_ratios=[1.2, 1.4, 0.8])
    rejected = 1 - settled["swap"].mean("draw")
    rejected = average(xr.Dataset({"value": rejected, "stderr": 0 * rejected}), "chain")
    pairs = np.flatnonzero(rejected["value"].notnull())
    rejected = rejected.isel(rung=pairs)
    curve(axes[0, 0], pairs + 0.5, rejected["value"], rejected["stderr"], STYLES[0])
    if "rung_on_grid" in data.coords:
        added = ~data["rung_on_grid"].values[pairs]
        axes[0, 0].plot(pairs[added] + 0.5, rejected["value"][added], "o", mfc="white", mec=STYLES[0].colour, zorder=3)
    axes[0, 0].set(xlabel="rung", ylabel="swaps rejected", ylim=(0, 1))
    places = one["walker"].isel(chain=0).values
    step = max(1, places.shape[1] // 400)
    for walker, style in zip(np.linspace(0, len(places) - 1, min(3, len(places))).astype(int), STYLES, strict=False):
        way = np.where((places == walker).any(0), (places == walker).argmax(0), np.nan)
        axes[0, 1].plot(one["draw"].values[::step], way[::step], color=style.colour, lw=0.6)
    values = one["rung_value"].isel(chain=0, draw=-1).values
    shown = np.unique(np.linspace(0, len(values) - 1, 6).astype(int))
    axes[0, 1].set_yticks(shown, [f"{float(f'{values[k]:.3g}'):g}" for k in shown])
    axes[0, 1].set(xlabel="draw", ylabel=f"${axis}$ of three walkers", ylim=(-0.5, len(values) - 0.5))
    trips = settled["round_trips"].isel(draw=[0, -1]).sum("rung").diff("draw").values.ravel()
    axes[0, 2].bar(np.arange(len(trips)), trips, color=STYLES[0].colour, width=0.7)
    axes[0, 2].set(xlabel="ladder", ylabel="round trips")
    return figure


def default_figures(run: Any) -> dict[str, Figure]:
    """What suits any run: traces, phase shares, losses and learning coefficients, free energies; by file name."""
    found: dict[str, Figure | None] = {}
    for part, data in sweeps(run).items():
        prefix = "" if part == "main" else f"{part}_"
        found[f"{prefix}traces"] = trace_figure(data)
        found[f"{prefix}phases"] = share_figure(run, part)
        found[f"{prefix}dwell"] = dwell_figure(data)
        found[f"{prefix}llc"] = local_figure(run, part, basins(run, part))
        found[f"{prefix}ladder"] = ladder_figure(data)
        found[f"{prefix}free_energy"] = free_energy_figure(quantities(run, part), x_axis(data))
    return {name: figure for name, figure in found.items() if figure is not None}


def save(figures: Mapping[str, Figure], directory: str | os.PathLike[str]) -> list[Path]:
    """Write every figure as PDF (fonts embedded as TrueType) and PNG (200 dpi) and return the paths.

    Each file is written beside its place and moved there, so nobody meets half a figure. The caption goes into the
    file, the date does not: a figure drawn anew from the same run gives the same bytes.
    """
    folder = Path(directory) if isinstance(directory, str) else cast(Path, directory)  # or of an object store
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        caption = str(figure.get_label())
        facts = {
            "pdf": {"Title": name, "Subject": caption, "CreationDate": None},
            "png": {"Title": name, "Description": caption},
        }
        for kind, metadata in facts.items():
            path, content = folder / f"{name}.{kind}", io.BytesIO()
            with matplotlib.rc_context(RC):  # mathematics is set only when a figure is drawn
                figure.savefig(content, format=kind, dpi=400 if kind == "pdf" else 200, metadata=metadata)
            replace(path, content.getvalue())
            written.append(path)
    return written
