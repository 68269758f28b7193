"""The toy model of superposition: figures of phases, free energies, learning coefficients and the k-gons themselves.

The population loss L has no factor 1/2: a Gaussian likelihood of unit variance gives exp(-n beta L_n) = exp(-t L)
at n beta = 2 t.
"""

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slt import plots
from slt.plots import draw

T_LABEL = r"$t$ (density $\propto e^{-tL(W,b)}\,\varphi$)"
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
    return {name: figure for name, figure in found.items() if figure is not None}


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
