"""Landau's potentials: the (h, t) diagram of the sixth-order one, its line followed by Clausius-Clapeyron, its end.

Main part: K = w^6 - b w^4 + h w^2 over h and t by replica exchange, first order where b > 0. Part "pitchfork": the
fourth-order potential, continuous. Exact curves are one-dimensional integrals (slt.theory.quadrature, and sums).
"""

from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Int
from matplotlib.figure import Figure

from slt import plots
from slt.analysis import Draws
from slt.observables import Observable, trace
from slt.phases import Threshold
from slt.plots import draw
from slt.priors import Normal
from slt.transitions import lines
from slt.transitions.crossing import Crossing
from slt.transitions.lines import Line
from slt.typing import InputError, Quantity

from . import _hysteresis, _scaling
from . import _shared as shared
from ._landau import ORIGIN, OUTER, Exact, coexistence, exact_h, exact_t, followed

NAMES = ("origin", "outer")
STYLES = draw.palette(NAMES)


ONLY = {"slope": ()}
"""Figures that no config draws when it is made small: a slope needs a line of several crossings."""


def square() -> Observable:
    """w^2 of every draw: dK/dh up to a constant, and all that K depends on."""
    return trace(_square)


def _square(posterior: Any, params: Any, info: Any) -> Any:
    return params[0] ** 2


def _exact(run: Any) -> Exact:
    model = shared.model(run)
    known = model.truth()
    prior = getattr(model, "prior", None)
    rule = None if known is None or known.phases is None else known.phases.label
    if not isinstance(rule, Threshold) or not isinstance(prior, Normal):
        raise InputError("model", model, "the exact curves need a normal prior and phases divided at a radius")
    return Exact(model.control_value("b"), prior.scale, rule.threshold)


def _main(run: Any) -> xr.Dataset | None:
    data = plots.sweeps(run).get("main")
    return data if data is not None and {"phase", "square", "h", "t"} <= {*data.variables} else None


def _labels(data: xr.Dataset) -> Int[np.ndarray, "h t ladder draw"]:
    found, others = shared.labels(data, "t")
    at = others.index("h")
    return np.moveaxis(found, at, 0).reshape(found.shape[at], *found.shape[-3:])


def _crossings(run: Any) -> tuple[list[Crossing | None], list[Crossing | None]]:
    """Crossings in t at every h, from origin to outer, and in h at every t, from outer to origin."""
    data = _main(run)
    if data is None:
        return [], []
    found, h, t = _labels(data), data["h"].values, data["t"].values

    along_t = [shared.between(t, one[None], [ORIGIN], [OUTER]) for one in found]
    return along_t, [shared.between(h, found[None, :, i], [OUTER], [ORIGIN]) for i in range(len(t))]


def summarise(run: Any) -> dict[str, Quantity]:
    """Of the line followed by slt.line: critical_t[origin->outer] and slope[clausius_clapeyron] over h, end_h, end_t.
    Of the ladders' shares: ladder_t[origin->outer] over h, with slope[line] by finite differences, and
    critical_h[outer->origin] over t. Exact values; the loop between sweeps of t up and down (hysteresis); the order
    along t (first_order[..]). Of the fourth-order part pitchfork.critical_h[origin->outer] over t. Beside every
    critical_ its kind: coexistence, barrier and label_entropy.
    """
    data = _main(run)
    if data is None:
        return {}
    h, t = data["h"].values, data["t"].values
    along_t, along_h = _crossings(run)
    exact = _exact(run)
    t_c = np.array([exact_t(exact, each, t) for each in h])
    found = {
        "ladder_t[origin->outer]": shared.row([shared.quantity(one) for one in along_t], "h", h.tolist()),
        "critical_h[outer->origin]": shared.row([shared.quantity(one) for one in along_h], "t", t.tolist()),
        "exact_t[origin->outer]": shared.known(t_c, {"h": h.tolist()}),
        "exact_h[outer->origin]": shared.known([exact_h(exact, each) for each in t], {"t": t.tolist()}),
    }
    found |= followed(run) | _slopes(exact, h, t_c, along_t) | pitchfork(run)
    found |= shared.kinds(run, run.quantities | found, _shown)
    return found | _hysteresis.quantities(run) | _scaling.quantities(run)


def pitchfork(run: Any) -> dict[str, Quantity]:
    """Where along h the pair of the fourth-order potential outweighs the origin, over t."""
    data = plots.sweeps(run).get("pitchfork")
    if data is None or not {"phase", "h", "t"} <= {*data.variables}:
        return {}
    found, t = _labels(data), data["t"].values
    own = [shared.between(data["h"].values, found[None, :, i], [ORIGIN], [OUTER]) for i in range(len(t))]
    row = shared.row([shared.quantity(one) for one in own], "t", t.tolist())
    return {"pitchfork.critical_h[origin->outer]": row}


def _shown(part: str, data: xr.Dataset, axis: str) -> Any:
    """Draws told by |w|."""
    return shared.watched(data, axis, "square", np.sqrt) if "square" in data else None


def _slopes(exact: Exact, h: np.ndarray, t_c: np.ndarray, along_t: list[Crossing | None]) -> dict[str, Quantity]:
    """slope[line], by finite differences of the ladders' crossings, and slope[exact]."""
    here = [i for i, one in enumerate(along_t) if one is not None and np.isfinite(one.stderr)]
    value, error, truth = (np.full(len(h), np.nan) for _ in range(3))
    at = np.array([(one.value, one.stderr) for one in along_t if one is not None and np.isfinite(one.stderr)])
    if len(here):
        risen = lines.finite_difference(h[here], at[:, 0], at[:, 1])
        value[here], error[here] = np.asarray(risen.value), np.asarray(risen.stderr)
    for i in np.flatnonzero(np.isfinite(t_c)):
        known = exact(float(h[i]), float(t_c[i]))
        truth[i] = float(lines.clausius_clapeyron(t_c[i], known.loss, known.force).value)
    coords = {"h": h.tolist()}
    return {"slope[line]": Quantity(value, error, coords), "slope[exact]": shared.known(truth, coords)}


def line(run: Any, exact: Exact) -> Line | None:
    """The exact line of coexistence over the grid of a run, followed by Clausius-Clapeyron to its ends."""
    data = _main(run)
    if data is None:
        return None
    h, t = data["h"].values.astype(float), data["t"].values.astype(float)
    known = [(x, t_c) for x in h.tolist() if np.isfinite(t_c := exact_t(exact, x, t))]
    if not known or len(h) < 3:
        return None
    box = ((min(h) - 0.1, max(h) + 0.1), (min(t), max(t)))
    try:
        return lines.follow(exact, known[len(known) // 2], box=box, names=NAMES, step=0.25, unit=0.2)
    except InputError:
        return None


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found = {
        "diagram": diagram(run), "slope": slope(run), "tricritical": tricritical(run), "profiles": profiles(run),
        "ladder": plots.ladder_figure(plots.sweeps(run)["main"]), "hysteresis": _hysteresis.figure(run),
    }  # fmt: skip
    return {name: figure for name, figure in found.items() if figure is not None}


@draw.styled
def diagram(run: Any) -> Figure | None:
    """The (h, t) plane: mass of the outer pair, the line by quadrature, sampled crossings, and where it ends."""
    data = _main(run)
    if data is None:
        return None
    h, t, exact = data["h"].values, data["t"].values, _exact(run)
    caption = (
        "Posterior mass of the outer pair (colour: sampled cells); the line of equal masses by quadrature (black), "
        "followed from sampled expectations by Clausius-Clapeyron (dashed), and as crossings of the shares of ladders "
        f"(points, 90 % intervals). Circles: the barrier falls to 1 nat ({draw.ERRORS}). Dotted: h = b^2/4, its limit."
    )
    figure, axes = draw.sheet(draw.COLUMN * 1.25, 3.1, 1, 1, caption)
    ax = axes[0, 0]
    mass = (_labels(data) == OUTER).mean((-2, -1))
    tint = ax.pcolormesh(h, t, mass.T, cmap="cividis", vmin=0, vmax=1, shading="nearest", alpha=0.75, rasterized=True)
    figure.colorbar(tint, ax=ax, label="mass of the outer pair")
    true, walked, ends = line(run, exact), run.measures.get("line"), followed(run)
    if true is not None:
        ax.plot(true.h, true.t, color="black", lw=1.4, label="quadrature")
        for mark in true.marks:
            if mark.kind == "end":
                ax.plot(mark.h, mark.t, "o", mfc="white", mec="black", ms=6, label="end: barrier 1 nat", zorder=5)
    if walked is not None:
        style = {"color": "white", "lw": 1.0, "ls": (0, (4, 2)), "label": "Clausius-Clapeyron"}
        ax.plot(walked["point_h"].values, walked["point_t"].values, **style)
    if "end_h" in ends:
        (x, dx), (y, dy) = (
            (float(ends[f"end_{name}"].value), float(ends[f"end_{name}"].stderr)) for name in ("h", "t")
        )
        ax.errorbar(x, y, dy, dx, marker="o", color="C1", mec="white", mew=0.5, ms=5, zorder=6, label="end, sampled")
    along_t, _ = _crossings(run)
    where = [(x, one) for x, one in zip(h, along_t, strict=True) if one is not None]
    if where:
        values = np.array([one.value for _, one in where])
        ends = np.abs(np.clip([one.interval for _, one in where], min(t), max(t)).T - values)
        style = draw.STYLES[1]
        ax.errorbar([x for x, _ in where], values, ends, ls="none", marker=style.marker, color=style.colour,
                    mec="white", mew=0.4, label="sampled crossing")  # fmt: skip
    ax.axvline(exact.b**2 / 4, color="black", lw=0.8, ls=":")
    draw.logarithmic(ax, "y", t)
    ax.set(xlabel="field $h$", ylabel=draw.AXES["t"], ylim=(min(t) / 1.15, max(t) * 1.15))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower right", frameon=True, framealpha=0.85, edgecolor="none", fontsize=7)
    return figure


@draw.styled
def slope(run: Any) -> Figure | None:
    """dt/dh by Clausius-Clapeyron and by finite differences of the crossings, over the exact slope."""
    tables = plots.quantities(run)
    if "slope[exact]" not in tables or not np.isfinite(tables["slope[exact]"]["value"]).any():
        return None
    caption = (
        "Slope of the line: from expectations within the phases, and by finite differences of the ladders' crossings "
        f"({draw.ERRORS})."
    )
    figure, axes = draw.sheet(draw.COLUMN, 3.2, 2, 1, caption, sharex=True, height_ratios=[2, 1.1])
    top, below = axes[:, 0]
    truth = tables["slope[exact]"]["value"]
    top.plot(truth["h"].values, truth.values, color="black", label="quadrature")
    labels = {"clausius_clapeyron": "Clausius-Clapeyron", "line": "finite differences"}
    for shift, (name, label) in enumerate(labels.items()):
        if f"slope[{name}]" not in tables:
            continue
        one, style = tables[f"slope[{name}]"], draw.STYLES[shift]
        h, known = one["h"].values, truth.reindex(h=one["h"]).values
        value, error = one["value"].values, one["stderr"].values
        look: dict[str, Any] = {"ls": "none", "marker": style.marker}
        draw.curve(top, h, value, error, style, label, log=True, **look)
        draw.curve(below, h, value / known - 1, error / np.abs(known), style, **look)
    below.axhline(0, color="black")
    below.set(xlabel="field $h$", ylabel="relative error", ylim=(-0.3, 0.3))
    top.set(ylabel=r"$\mathrm{d}t/\mathrm{d}h$ of the line", yscale="log")
    top.legend(loc="upper left", title=draw.ERRORS)
    return figure


@draw.styled
def tricritical(run: Any) -> Figure | None:
    """The (h, b) plane: exact lines at several t, each up to its end, near the tricritical point h = b = 0."""
    if _main(run) is None:
        return None
    scale = _exact(run).scale
    caption = (
        "Lines of coexistence in the plane of h and b by quadrature at several t, each ending (circle) where its "
        "barrier falls to 1 nat. As t grows they tend to h = b^2/4 (black), which turns continuous (dashed, h = 0) "
        "at the tricritical point (star)."
    )
    figure, axes = draw.sheet(draw.COLUMN, 2.8, 1, 1, caption)
    ax = axes[0, 0]
    b = np.linspace(0, 2, 200)
    ax.plot(b**2 / 4, b, color="black", label=r"$t \to \infty$: $h = b^2/4$")
    ax.plot([0, 0], [-0.6, 0], color="black", ls="--", label="continuous")
    ax.plot(0, 0, "*", color="black", ms=9, zorder=6)
    for t, colour in zip((30.0, 100.0, 1000.0), shared.shades(3), strict=True):
        found = np.array([both for each in np.linspace(0.2, 2, 73) if (both := coexistence(each, t, scale))])
        if len(found):
            ax.plot(found[:, 0], found[:, 1], color=colour, label=f"$t = {t:g}$")
            ax.plot(*found[0], "o", mfc="white", mec=colour, ms=5)
    ax.set(xlabel="field $h$", ylabel="$b$", xlim=(-0.25, 1.05), ylim=(-0.6, 2.05))
    ax.legend(loc="lower right")
    return figure


@draw.styled
def profiles(run: Any) -> Figure | None:
    """Densities of |w| across both transitions: two peaks that trade weight, against one that moves."""
    shown = {name: data for name, data in plots.sweeps(run).items() if "square" in data and data.sizes.get("h", 0) > 1}
    titles = {"main": "sixth order", "pitchfork": "pitchfork"}
    shown = {name: shown[name] for name in titles if name in shown}
    if not shown:
        return None
    caption = "Densities of |w| as sampled, from low h (dark) to high h (light), across the transition at one t."
    figure, axes = draw.sheet(draw.PAGE, 2.3, 1, len(shown), caption)
    for ax, (name, data) in zip(axes[0], shown.items(), strict=True):
        view = Draws(data)
        z = np.moveaxis(view.draws("square"), [view.grid.index("h"), view.grid.index("t")], [0, 1])
        z = z.reshape(*z.shape[:2], -1)
        share = (z > np.median(z)).mean(-1)
        place = int(np.argmax(np.ptp(share, axis=0)))
        for colour, i in zip(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(z))), range(len(z)), strict=True):
            count, edges = np.histogram(np.sqrt(z[i, place]), bins=60, range=(0, 1.8), density=True)
            ax.stairs(count, edges, color=colour, label=f"{data['h'].values[i]:g}" if i in (0, len(z) - 1) else None)
        ax.set(xlabel="$|w|$", title=f"{titles[name]}, $t = {data['t'].values[place]:g}$")
        ax.legend(title="$h$")
    axes[0, 0].set_ylabel("density")
    return figure
