"""Levels using 8, 9 and 10 squares: the posterior climbs a staircase from degenerate to deep as t grows.

The number it should show: critical_t[8->9] = 100.06 and critical_t[9->10] = 1000.2, exact, within the intervals;
leading-order theory, t Delta L = Delta lambda log t, says 66.7 and 894, since it leaves out their prior mass.
"""

import itertools
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from slt import plots
from slt.model import Potential
from slt.models.sums_of_squares import Levels
from slt.plots import draw
from slt.transitions import masses
from slt.transitions.predictions import Form
from slt.typing import InputError, Quantity

from . import _shared

WIDE = (1.0, 1e5)
"""Where predictions of a critical t are looked for."""


def landscape(run: Any) -> Levels:
    """The levels that a run sampled."""
    model = _shared.model(run)
    if not (isinstance(model, Potential) and isinstance(model.fn, Levels)):
        raise InputError("model", model, "this experiment needs slt.models.sums_of_squares.levels")
    return model.fn


def steps(fn: Levels) -> list[tuple[int, int]]:
    """Pairs of levels that follow one another as t grows, by their places: those of falling loss."""
    order = sorted(range(len(fn.squares)), key=lambda j: -fn.losses[j])
    return list(itertools.pairwise(order))


def leading(fn: Levels, t: Any) -> np.ndarray:
    """t loss_j + lambda_j log t of every level [level, t]: singular learning theory to leading order."""
    t = np.asarray(t, float)
    return np.stack([t * loss + count / 2 * np.log(t) for loss, count in zip(fn.losses, fn.squares, strict=True)])


def form(fn: Levels, j: int) -> Form:
    """F of a level as t grows, its constant by Laplace: all that is left of the closed form, but for terms in 1/t."""
    far = 1e6
    bare = Form(fn.losses[j], fn.squares[j] / 2)
    return bare._replace(constant=float(fn.free_energies(far)[j] - bare.at(far)))


def last_crossing(free_energies: Any, a: int, b: int) -> float:
    """The largest t at which two levels are as likely as each other, NaN if none."""
    t = np.geomspace(*WIDE, 2000)

    def gap(at: Any) -> Any:
        values = free_energies(at)
        return values[a] - values[b]

    before = np.flatnonzero((gap(t)[:-1] < 0) & (gap(t)[1:] >= 0))
    if not before.size:
        return float("nan")
    found = optimize.brentq(lambda at: float(gap(at)), t[before[-1]], t[before[-1] + 1])
    return float(found)  # pyright: ignore[reportArgumentType]


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_t[a->b] of every step and its kind; beside it, with how far each misses, what is exact, what theory says
    to leading order, and with the constant term.
    """
    fn, data = landscape(run), plots.sweeps(run)["main"]
    found, _ = _shared.labels(data, "t")
    numbers: dict[str, Quantity] = {}
    for a, b in steps(fn):
        name = f"[{fn.squares[a]}->{fn.squares[b]}]"
        seen = _shared.between(data["t"].values, found[None], [a], [b])
        numbers[f"critical_t{name}"] = _shared.quantity(seen)
        guesses = _shared.theory(form(fn, a), form(fn, b), seen, exact=last_crossing(fn.free_energies, a, b))
        numbers |= _shared.foretold("t", name.strip("[]"), guesses, seen)
    return numbers | _shared.kinds(run, numbers, lambda part, data, axis: _shared.kept(data, axis))


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    data = plots.sweeps(run)["main"]
    found = {"staircase": staircase(run), "levels": levels(run)}
    found |= {"traces": plots.trace_figure(data), "ladder": plots.ladder_figure(data)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _names(fn: Levels) -> list[str]:
    return [str(count) for count in fn.squares]


@draw.styled
def staircase(run: Any) -> Figure:
    """Mass of every level against t, and lam(t) with the level's own lambda, over the exact curves."""
    fn, tables = landscape(run), plots.quantities(run)
    t = np.asarray(plots.sweeps(run)["main"]["t"].values, float)
    fine = np.geomspace(t.min(), t.max(), 400)
    energies = fn.free_energies(fine)
    share = np.exp(energies.min(0) - energies)
    share /= share.sum(0)
    styles = draw.palette(_names(fn))
    caption = f"Levels by their number of squares: posterior mass; below, lam(t) = t(<K> - min K) of the whole and \
t(<K> - L) of each level that carries over 5 per cent; by replica exchange ({draw.ERRORS}), lines: exact. Vertical: \
critical t with 90 per cent intervals."
    figure, axes = draw.sheet(draw.COLUMN, 4.0, 2, 1, caption, sharex=True)
    top, below = axes[:, 0]
    for j, name in enumerate(_names(fn)):
        style = styles[name]
        top.plot(fine, share[j], color=style.colour, ls=style.line)
        if f"mass[{name}]" in tables:
            one = tables[f"mass[{name}]"]
            draw.curve(top, t, one["value"], one["stderr"], style, f"{name} squares", ls="none")
    # lam(t) = t dF/dt - t min K, of the whole: the levels' own, weighed by their masses
    whole = energies.min(0) - np.log(np.exp(energies.min(0) - energies).sum(0))
    own = np.gradient(whole - fine * min(fn.losses), np.log(fine), edge_order=2)
    below.plot(fine, own, color="black", lw=0.9, label="exact")
    if "llc" in tables:
        one = tables["llc"]
        draw.curve(below, t, one["value"], one["stderr"], draw.STYLES[-1], "replica exchange", ls="none")
    for j, name in enumerate(_names(fn)):
        style = styles[name]
        lam = np.gradient(energies[j] - fine * fn.losses[j], np.log(fine), edge_order=2)
        below.plot(fine, lam, color=style.colour, ls=style.line)
        if f"llc[{name}]" in tables and f"mass[{name}]" in tables:
            one = tables[f"llc[{name}]"].where(tables[f"mass[{name}]"]["value"] > 0.05)
            draw.curve(below, t, one["value"], one["stderr"], style, ls="none")
    top.set(ylabel=f"posterior mass ({draw.ERRORS})", ylim=(-0.03, 1.03))
    top.legend(loc="center left")
    below.set_ylabel(r"$t\,(\langle K\rangle_t - L)$: whole, levels")
    below.legend()
    draw.label_axis(below, "t", t)
    for ax in (top, below):
        for a, b in steps(fn):
            _shared.mark(ax, run.quantities.get(f"critical_t[{fn.squares[a]}->{fn.squares[b]}]"))
    return figure


@draw.styled
def levels(run: Any) -> Figure:
    """Loss against degeneracy, and the difference of the free energies of neighbours over t."""
    fn, t = landscape(run), np.asarray(plots.sweeps(run)["main"]["t"].values, float)
    names = _names(fn)
    styles = draw.palette(names)
    caption = "Left: loss and learning coefficient of every level. Right: difference of free energies of neighbours, \
exact (lines), to leading order (dashed), and by replica exchange; they are as likely as each other at 0."
    figure, axes = draw.sheet(draw.PAGE, 2.4, 1, 2, caption, width_ratios=[1, 1.6])
    left, right = axes[0]
    for j, name in enumerate(names):
        left.plot(
            fn.squares[j] / 2, fn.losses[j], marker=styles[name].marker, color=styles[name].colour, ls="none", ms=6
        )
        left.annotate(f"{name} squares", (fn.squares[j] / 2, fn.losses[j]), xytext=(5, 4), textcoords="offset points")
    left.set(xlabel=r"$\lambda = D'/2$", ylabel="loss of the level")
    left.margins(0.25, 0.2)
    fine = np.geomspace(t.min(), t.max(), 300)
    found, _ = _shared.labels(plots.sweeps(run)["main"], "t")
    for (a, b), style in zip(steps(fn), draw.STYLES, strict=False):
        exact, rough = fn.free_energies(fine), leading(fn, fine)
        label = f"{names[a]}" + r"$\to$" + f"{names[b]}"
        right.plot(fine, exact[a] - exact[b], color=style.colour, label=f"{label}: exact")
        right.plot(fine, rough[a] - rough[b], color=style.colour, ls=(0, (4, 2)), lw=0.8, label=f"{label}: leading")
        seen = masses.difference_of(t, found[None], [a], [b])
        if seen is not None:
            draw.curve(right, seen.x, seen.value, seen.stderr, style, ls="none")
    right.axhline(0, color="0.4", lw=0.6)
    right.set(ylabel=r"$F_a - F_b$ (nats)", ylim=(-4, 8))
    figure.legend(*right.get_legend_handles_labels(), ncols=2 * (len(names) - 1), loc="outside upper center")
    draw.label_axis(right, "t", t)
    return figure
