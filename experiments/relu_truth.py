"""ReLU nodes whose truth an angle deforms until two nodes are one: node-degenerate against non-degenerate phase.

The number it should show: on the population potential the degenerate phase leads at first, and critical_t[degenerate->
three nodes] falls as theta grows: about 470 and 120 at theta = 0.5 and 0.7, a third and a quarter of what leading-order
theory says, t K = (3/2) log t (1378 and 454). The two orientations, 'right' and 'left', which reversing all nodes
exchanges, share what is not degenerate in equal parts at every t. On data, critical_n over theta over data sets.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from slt import plots
from slt.models import relu
from slt.plots import draw
from slt.transitions import masses
from slt.transitions.crossing import Difference
from slt.transitions.predictions import Form
from slt.typing import Quantity

from . import _shared

LOW, HIGH = [0], [1, 2]
"""Labels of the degenerate phase and of the two orientations of the other."""
ORBITS = {"right": "three nodes", "left": "three nodes"}
"""Phases that reversing all nodes exchanges: they cross as one."""
NAME = "degenerate->three nodes"
DELTA_LAMBDA = 9 / 2 - 3.0
"""Three nodes of three parameters, against two of them and a dead one."""


def leading(theta: float, sigma: float = 0.5) -> float:
    """The t > e at which t K_degenerate(theta) = Delta lambda log t; NaN where there is none."""
    height = relu.degenerate(theta, sigma)[1]

    def gap(log_t: float) -> float:
        return np.exp(log_t) * height - DELTA_LAMBDA * log_t

    least = np.log(DELTA_LAMBDA / height)
    if least <= 1 or gap(least) >= 0:
        return float("nan")
    return float(np.exp(optimize.brentq(gap, least, 40.0)))  # pyright: ignore[reportCallIssue, reportArgumentType]


def forms(theta: float) -> tuple[Form, Form]:
    """F of the degenerate phase and of three nodes to leading order; what their dead nodes may do has no constant."""
    low = Form(relu.degenerate(theta)[1], 9 / 2 - DELTA_LAMBDA, 1, np.nan)
    return low, Form(0.0, 9 / 2, 1, np.nan)


def angles(data: Any) -> list[float]:
    """The angles of a part."""
    return [float(theta) for theta in data["theta"].values]


def differences(run: Any) -> dict[str, tuple[str, list[float], list[Difference | None]]]:
    """Of every part: its axis (n, or t of the population), its angles, and F of both phases' difference at each."""
    found = {}
    for part, data in plots.sweeps(run).items():
        x = "t" if "t" in data.dims else "n"
        seen, others = _shared.labels(data, x)
        seen = np.moveaxis(seen, others.index("theta"), 0)
        rest = tuple(dim for dim in others if dim != "theta")
        own = [masses.difference_of(data[x].values, _shared.seeds_last(each, rest), LOW, HIGH) for each in seen]
        found[part] = (x, angles(data), own)
    return found


def lines(run: Any) -> dict[str, tuple[str, list[float], list[Quantity]]]:
    """Of every part: its axis, its angles, and the crossing at each of them."""
    every = differences(run).items()
    return {
        part: (x, thetas, [_shared.quantity(_shared.crossed(of)) for of in own]) for part, (x, thetas, own) in every
    }


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_n (critical_t of the population) over theta; leading-order theory's, without and with a constant fitted
    to the measured F, and how far each misses; the share of 'right'.
    """
    numbers: dict[str, Quantity] = {}
    for part, (x, thetas, every) in differences(run).items():
        told = []
        for theta, of in zip(thetas, every, strict=True):
            at = _shared.crossed(of)
            guesses = _shared.theory(*forms(theta), at, of)
            told.append({f"critical_{x}[{NAME}]": _shared.quantity(at)} | _shared.foretold(x, NAME, guesses, at))
        prefix = "" if part == "main" else f"{part}."
        numbers |= {f"{prefix}{name}": one for name, one in _shared.rows(told, "theta", thetas).items()}
    parts = plots.sweeps(run)
    if "population" in parts:
        numbers["population.orientation"] = orientation(parts["population"])
    return numbers | _shared.kinds(run, numbers, groups=lambda part, a, b: (LOW, HIGH))


def orientation(data: Any) -> Quantity:
    """Share of 'right' among draws of three nodes [theta, t]: one half by symmetry. Errors over ladders, jackknifed."""
    seen, others = _shared.labels(data, "t")
    seen = np.moveaxis(seen, others.index("theta"), 0)  # [theta, t, ladder, draw]
    right, both = (np.isin(seen, phases).sum(-1).astype(float) for phases in ([1], HIGH))
    count = right.shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = right.sum(-1) / both.sum(-1)
        others = (right.sum(-1)[..., None] - right) / (both.sum(-1)[..., None] - both)
        error = np.sqrt((count - 1) / count * np.square(others - others.mean(-1, keepdims=True)).sum(-1))
    return Quantity(value, error, {"theta": angles(data), "t": data["t"].values.tolist()})


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found: dict[str, Figure | None] = {"diagram": diagram(run), "phases": shares(run), "networks": networks(run)}
    for part, data in plots.sweeps(run).items():
        prefix = "" if part == "main" else f"{part}_"
        found |= {f"{prefix}traces": plots.trace_figure(data), f"{prefix}ladder": plots.ladder_figure(data)}
    return {name: figure for name, figure in found.items() if figure is not None}


@draw.styled
def diagram(run: Any) -> Figure:
    """The plane of theta and n (t): mass of three nodes, where it overtakes the degenerate phase, leading theory."""
    parts = lines(run)
    caption = (
        "Mass of the phase of three distinct nodes over the angle between two of the truth's nodes; symbols: where \
it overtakes the node-degenerate phase, with 90 per cent intervals; dashed: t K = (3/2) log t."
    )
    figure, axes = draw.sheet(draw.COLUMN * max(1, len(parts)), 2.9, 1, len(parts), caption)
    mesh = None
    for ax, (part, (x, thetas, own)) in zip(axes[0], parts.items(), strict=True):
        tables = plots.quantities(run, part)
        mass = 1 - _shared.along(tables["mass[degenerate]"], x, "theta")["value"]
        at = mass[x].values.astype(float)
        mesh = ax.pcolormesh(thetas, at, mass, cmap="cividis", vmin=0, vmax=1, shading="nearest", rasterized=True)
        value = np.array([float(q.value) for q in own])
        low, high = (np.clip([np.asarray(q.interval)[i] for q in own], at.min(), at.max()) for i in (0, 1))
        bars = np.nan_to_num([np.maximum(value - low, 0), np.maximum(high - value, 0)])
        ax.errorbar(thetas, value, bars, fmt="o", color="white", mec="black", ecolor="white", elinewidth=1.2)
        fine = np.linspace(min(thetas), max(thetas), 12)
        ax.plot(fine, [leading(theta) for theta in fine], color="white", ls=(0, (4, 2)))
        ax.set(yscale="log", ylim=(at.min(), at.max()), xlabel=r"angle $\theta$", ylabel=f"${x}$")
        ax.set_title("data" if x == "n" else "population")
    if mesh is not None:
        figure.colorbar(mesh, ax=axes[0].tolist(), label="mass of three nodes")
    return figure


@draw.styled
def shares(run: Any) -> Figure:
    """Mass of the degenerate phase and of both orientations of the other, over t (or n), at every angle."""
    parts = plots.sweeps(run)
    part = "population" if "population" in parts else "main"
    data, tables = parts[part], plots.quantities(run, part)
    x, thetas = ("t" if "t" in data.dims else "n"), angles(data)
    styles = draw.palette(plots.phase_names(data))
    caption = f"Posterior mass of the node-degenerate phase and of both orientations of three nodes ({draw.ERRORS}), \
{part}; vertical: the crossing with its 90 per cent interval."
    figure, axes = draw.sheet(draw.PAGE, 2.3, 1, len(thetas), caption, sharey=True)
    own = lines(run)[part][2]
    for ax, theta, crossing in zip(axes[0], thetas, own, strict=True):
        every = {name: _shared.along(one, "theta", x) for name, one in plots.by_phase(tables, "mass").items()}
        shown = {name: one.sel(theta=theta) for name, one in every.items()}
        draw.phase_mass(ax, x, shown, styles)
        ax.set(title=rf"$\theta = {theta:g}$", xlabel=f"${x}$")
        _shared.mark(ax, crossing)
    axes[0, 0].set_ylabel(f"posterior mass ({draw.ERRORS})")
    draw.legend(figure, styles, loc="outside upper center", ncols=3)
    return figure


@draw.styled
def networks(run: Any) -> Figure:
    """The nodes of the truth, of its reversal and of the best degenerate network, as vectors in the plane of inputs."""
    thetas = angles(next(iter(plots.sweeps(run).values())))
    shown = sorted({thetas[0], thetas[len(thetas) // 2], thetas[-1]})
    caption = "Nodes w_j as vectors: the truth (right), all orientations reversed (left: the same function), and the \
best network of two nodes, with its loss K."
    figure, axes = draw.sheet(draw.COLUMN, 1.2 * len(shown), len(shown), 3, caption, sharex=True, sharey=True)
    styles = draw.palette(("degenerate", "right", "left"))
    for row, theta in zip(axes, shown, strict=True):
        poor, height = relu.degenerate(theta)
        every = {"right": relu.optimum(theta), "left": relu.optimum(theta, reverse=True), "degenerate": poor}
        for ax, (name, w) in zip(row, every.items(), strict=True):
            for x, y in w[:6].reshape(3, 2):
                ax.annotate(
                    "", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": styles[name].colour, "lw": 1.2}
                )
            title = f"{name}, $K = {height:.2g}$" if name == "degenerate" else name
            ax.set_title(title, fontsize=8)
            ax.set(xlim=(-2.3, 2.3), ylim=(-1.3, 1.3), aspect="equal")
        row[0].set_ylabel(rf"$\theta = {theta:g}$")
    return figure
