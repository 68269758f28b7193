"""Two basins on paper: the mass of the sharp one, free energies and densities beside their exact values."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from slt import plots
from slt.plots import draw
from slt.theory import exact

STYLES = draw.palette(["U", "V"]) | {"whole": draw.STYLES[-1]}


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found = {"mass": mass(run), "free_energy": free_energy(run), "landscape": landscape(run)}
    data = plots.sweeps(run)["main"]
    found |= {"traces": plots.trace_figure(data), "ladder": plots.ladder_figure(data)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _fine(t: Any) -> np.ndarray:
    return np.geomspace(min(t), max(t), 300) if len(t) > 1 else np.asarray(t, float)


@draw.styled
def mass(run: Any) -> Figure | None:
    """Mass of V against t over the exact curve, and how far the estimates lie from it."""
    tables = plots.quantities(run)
    if "mass[V]" not in tables:
        return None
    found = tables["mass[V]"]
    t = found["t"].values
    caption = f"Posterior mass of the sharp basin V: exact, and by replica exchange ({draw.ERRORS})."
    figure, axes = draw.sheet(draw.COLUMN, 3.0, 2, 1, caption, sharex=True, height_ratios=[3, 1.2])
    top, below = axes[:, 0]
    top.plot(_fine(t), exact.two_basins(_fine(t)).mass_v, color="black", label="exact")
    look: dict[str, Any] = {"ls": "none", "marker": "o"}
    draw.curve(top, t, found["value"], found["stderr"], STYLES["V"], f"replica exchange, {draw.ERRORS}", **look)
    draw.curve(below, t, found["value"] - exact.two_basins(t).mass_v, found["stderr"], STYLES["V"], **look)
    below.axhline(0, color="black")
    top.axvline(exact.two_basins_critical_t(), color="0.35", lw=0.7, ls=(0, (4, 3)))
    top.annotate(
        r"$t_c$", (exact.two_basins_critical_t(), 1.02), xytext=(3, -2), textcoords="offset points", color="0.35"
    )
    top.set(ylabel="posterior mass of $V$", ylim=(-0.02, 1.05))
    top.legend(loc="upper left")
    below.set_ylabel("difference")
    draw.label_axis(below, "t", t)
    return figure


@draw.styled
def free_energy(run: Any) -> Figure | None:
    """F, and F of each basin as F - log(mass), over the exact curves."""
    tables = plots.quantities(run)
    if "free_energy" not in tables:
        return None
    whole = tables["free_energy"]
    t = whole["t"].values
    truth = exact.two_basins(_fine(t))
    caption = f"Free energies of both basins and of the whole ({draw.ERRORS}); lines: exact."
    figure, axes = draw.sheet(draw.COLUMN, 2.6, 1, 1, caption)
    ax = axes[0, 0]
    curves = {"whole": truth.free_energy, "U": truth.free_energy_u, "V": truth.free_energy_v}
    for name, values in curves.items():
        style = STYLES[name]
        ax.plot(_fine(t), values, color=style.colour, ls=style.line)
        value, stderr = whole["value"], whole["stderr"]
        if name != "whole":
            if f"mass[{name}]" not in tables:
                continue
            share = tables[f"mass[{name}]"]
            known = share["value"].where(share["value"] > 0)
            value, stderr = value - np.log(known), np.hypot(stderr, share["stderr"] / known)
        draw.curve(ax, t, value, stderr, style, f"$F$, {name}", ls="none")
    ax.set_ylabel(r"$F = -\log Z$ (nats)")
    ax.legend(title=f"{draw.ERRORS}; lines: exact")
    draw.label_axis(ax, "t", t)
    return figure


@draw.styled
def landscape(run: Any, picks: int = 3) -> Figure | None:
    """K(w), and below it the draws kept at a few t beside the exact densities."""
    data = plots.sweeps(run)["main"]
    if "params" not in data or "kept_draw" not in data.coords:
        return None
    w = np.linspace(-2, 2, 2001)
    loss = np.minimum(0.01 + (w + 1) ** 4, 20 * (w - 1) ** 2)
    chosen = np.unique(np.linspace(0, data.sizes["t"] - 1, picks).astype(int))
    caption = "The landscape, and draws after burn-in at three t (bars) beside the exact densities (lines)."
    figure, axes = draw.sheet(draw.COLUMN, 1.3 + 0.8 * len(chosen), 1 + len(chosen), 1, caption, sharex=True)
    axes[0, 0].plot(w, loss, color="black")
    axes[0, 0].set(ylabel="$K(w)$", ylim=(1e-3, 20), yscale="log")
    for name, at in {"U": -1.0, "V": 1.0}.items():
        axes[0, 0].annotate(f"${name}$", (at, 3.0), color=STYLES[name].colour, ha="center")
    after = int((~data["burn_in"].values).argmax()) if "burn_in" in data.coords else 0
    kept = data["kept_draw"].values >= after
    for ax, place in zip(axes[1:, 0], chosen, strict=True):
        t = float(data["t"].values[place])
        draws = data["params"].isel(t=place, kept=kept).values.ravel()
        counts, edges = np.histogram(draws[np.isfinite(draws)], bins=np.linspace(-2, 2, 161))
        counts = counts / (max(1, counts.sum()) * 0.025)
        sharp = edges[:-1] >= exact.TWO_BASINS_BOUNDARY
        for part, name in ((~sharp, "U"), (sharp, "V")):
            ax.bar(edges[:-1][part], counts[part], 0.025, align="edge", color=STYLES[name].colour, alpha=0.5)
        density = np.exp(-t * loss + float(exact.two_basins(t).free_energy)) / 4
        ax.plot(w, density, color="black", lw=0.8)
        ax.set_ylabel("density")
        ax.text(0.02, 0.85, f"$t = {t:g}$", transform=ax.transAxes, va="top")
    axes[-1, 0].set_xlabel("$w$")
    return figure
