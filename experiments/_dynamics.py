"""Training beside the posterior: trajectories with their phases, shares of phases over steps and over t, passages.

For any run with a measure `slt.experiments._training.Training`; what its config calls it goes before its names.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slt import plots
from slt.dynamics import plateaus
from slt.plots import draw
from slt.typing import Quantity

from . import _training as measure
from ._shared import labels

NEAR = 0.1  # of the range of the catalogue's losses: how near its phase's a plateau's loss is that has settled there
LEAST = 0.05  # the share of draws that a phase must have somewhere to count as one that the posterior visits


def trainings(run: Any) -> dict[str, xr.Dataset]:
    """The measures of a run that are runs of training, by name."""
    return {name: data for name, data in run.measures.items() if "plateau_run" in data}


def names(data: xr.Dataset) -> list[str]:
    """The phases."""
    return [str(name) for name in data["phase_name"].values]


# ---------------------------------------------------------------------------------------------------------- quantities


def summarise(run: Any) -> dict[str, Quantity]:
    """What training did, of each measure <m> of it: "<m>.<name>", plain names where it is called "training".

    critical_step[a->b]: median over runs, its error and 90 per cent interval; quantiles_step[a->b]: 5 and 95 per cent
    of the runs themselves; runs_moving: share of runs that go from one phase to another at all; of these: rising, with
    loss falling and catalogue lambda rising at every transition; not_falling, the same with lambda rising or equal;
    lambda_falls, with lambda falling at some transition; posterior_order, with no transition against the order in t in
    which phases have their most mass in the posterior of its part. settled_: the same where only plateaus count whose
    loss is that of their phase, to a tenth of the range of the catalogue's losses. Shares carry binomial errors and
    Wilson intervals. ends[P]: share of runs whose last plateau is in P.
    """
    found: dict[str, Quantity] = {}
    for name, data in trainings(run).items():
        prefix = "" if name == "training" else f"{name}."
        order = posterior_order(run, data)
        for way, one in measure.critical_steps(data).items():
            found |= {f"{prefix}{key}_step[{way}]": value for key, value in median(one).items()}
        found |= {f"{prefix}{key}": _share(value) for key, value in shares(data, order).items()}
    return found


def median(found: plateaus.Middle | plateaus.Critical) -> dict[str, Quantity]:
    """critical: a median with its error and interval; quantiles: of what it is the median of."""
    ends = np.array([found.low, found.high])
    spread = Quantity(np.array(found.spread), np.full(2, np.nan), {"quantile": [0.05, 0.95]})
    return {"critical": Quantity(np.array(found.median), np.array(found.stderr), {}, ends), "quantiles": spread}


def _share(found: plateaus.Share) -> Quantity:
    return Quantity(np.array(found.value), np.array(found.stderr), {}, np.array([found.low, found.high]))


def shares(data: xr.Dataset, order: dict[int, float]) -> dict[str, plateaus.Share]:
    """The shares that `summarise` lists; order: a number for each phase that the posterior visits, rising with t."""
    everything = [path for path, good in zip(measure.paths(data), data["ok"].values, strict=True) if good]
    everything = [path for path in everything if len(path.start)]
    loss = np.append(data["phase_loss"].values, np.nan)
    least = NEAR * (np.nanmax(loss) - np.nanmin(loss)) if np.isfinite(loss).any() else 0.0
    found = _counted(data, everything, order)
    settled = [_kept(path, np.abs(path.level - loss[path.phase]) <= least) for path in everything]
    found |= {f"settled_{name}": value for name, value in _counted(data, settled, order).items()}
    last = [int(path.phase[-1]) for path in everything]
    for label, name in enumerate(names(data)):
        found[f"ends[{name}]"] = plateaus.share(last.count(label), len(last))
    return found


def _kept(path: plateaus.Path, keep: np.ndarray) -> plateaus.Path:
    """The plateaus of a path that are kept; `at` is then where each but the last of them is left."""
    left = np.flatnonzero(keep)[:-1]
    own = {name: getattr(path, name)[keep] for name in measure.PLATEAU}
    return plateaus.Path(**own, at=path.at[left], width=path.width[left])


def _counted(
    data: xr.Dataset, everything: Sequence[plateaus.Path], order: dict[int, float]
) -> dict[str, plateaus.Share]:
    lam = data["phase_lam"].values
    steps = [_moves(path) for path in everything]
    moving = [moves for moves in steps if moves]
    known = [moves for moves in moving if all(np.isfinite([lam[a], lam[b]]).all() for a, b, _, _ in moves)]

    def count(test: Any, among: Sequence[Any]) -> plateaus.Share:
        return plateaus.share(sum(all(test(*move) for move in moves) for moves in among), len(among))

    found = {
        "runs_moving": plateaus.share(len(moving), len(steps)),
        "rising": count(lambda a, b, before, after: after < before and lam[b] > lam[a], known),
        "not_falling": count(lambda a, b, before, after: after < before and lam[b] >= lam[a], known),
    }
    some = sum(any(lam[b] < lam[a] for a, b, _, _ in moves) for moves in known)
    found["lambda_falls"] = plateaus.share(some, len(known))
    if order:
        visited = [moves for moves in moving if all(a in order and b in order for a, b, _, _ in moves)]
        found["posterior_order"] = count(lambda a, b, _, __: order[b] >= order[a], visited)
    return found


def _moves(path: plateaus.Path) -> list[tuple[int, int, float, float]]:
    """(from, to, loss before, loss after) of each transition between phases."""
    rows = zip(path.phase[:-1], path.phase[1:], path.level[:-1], path.level[1:], strict=True)
    return [(int(a), int(b), float(before), float(after)) for a, b, before, after in rows if a != b]


def part_of(data: xr.Dataset) -> str:
    """The sweep beside which a training is shown."""
    return str(data.attrs.get("part", "main"))


def masses(run: Any, training: xr.Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """(t or n, shares of draws [phase, t]) of the sweep beside a training; None where it has no phases by its names."""
    part, wanted = part_of(training), names(training)
    data = plots.sweeps(run).get(part)
    if data is None or "phase" not in data or set(plots.phase_names(data)) != set(wanted):
        return None
    x = plots.x_axis(data)
    found, others = labels(data, x)
    found = found.reshape(-1, *found.shape[-3:]) if others else found[None]
    own = [plots.phase_names(data).index(name) for name in wanted]
    return data[x].values.astype(float), np.array([(found == label).mean((0, 2, 3)) for label in own])


def posterior_order(run: Any, training: xr.Dataset) -> dict[int, float]:
    """log t (or n) of the grid at which each phase has most mass, of those with more than 5 per cent somewhere."""
    found = masses(run, training)
    if found is None:
        return {}
    t, mass = found
    return {i: float(np.log(t[row.argmax()])) for i, row in enumerate(mass) if row.max() > LEAST}


# -------------------------------------------------------------------------------------------------------------- figures


def figures(run: Any) -> dict[str, Figure]:
    """All figures of the trainings of a run, by file name."""
    found: dict[str, Figure | None] = {}
    for name, data in trainings(run).items():
        found[f"{name}_trajectories"] = trajectories(data)
        found[f"{name}_beside_posterior"] = beside(run, data)
        found[f"{name}_transitions"] = transitions(run, data)
    return {name: figure for name, figure in found.items() if figure is not None}


@draw.styled
def trajectories(data: xr.Dataset, columns: int = 4) -> Figure | None:
    """Single runs: the loss coloured by phase, lambda of the phase, the signed local value, curvature."""
    kept = data.sizes.get("kept", 0)
    if kept == 0:
        return None
    styles, told = draw.palette(names(data)), measure.paths(data)
    chosen = sorted(range(kept), key=lambda run: -len(told[run].sequence))[:columns]
    has = "local_llc" in data
    rows = 4 if has else 2
    caption = f"Single runs, those of the first {kept} with most transitions: excess loss in the colour of the phase \
(grey: drops between plateaus), lambda of the phase from the catalogue"
    caption += ", the signed local value and the lowest curvature at raw iterates." if has else "."
    figure, axes = draw.sheet(draw.PAGE, 1.3 * rows + 0.5, rows, len(chosen), caption, sharex=True, sharey="row")
    floor = min(float(np.nanmin(data["curve"])), float(np.fmin(data.attrs["floor"], np.inf)))
    seen: set[str] = set()
    for column, run in enumerate(chosen):
        excess = data["curve"].values[run] - floor
        seen |= _coloured(axes[0, column], data["curve_step"].values, excess, told[run], styles, names(data))
        for start, stop, label in zip(told[run].start, told[run].stop, told[run].phase, strict=True):
            lam = data["phase_lam"].values[label] if label >= 0 else np.nan
            colour = styles[names(data)[label]].colour if label >= 0 else draw.OUTSIDE.colour
            axes[1, column].plot([start, stop], [lam, lam], color=colour, lw=3, solid_capstyle="butt")
        if has:
            one = data.isel(kept=run)
            where = one["point_step"].values
            axes[2, column].errorbar(
                where, one["local_llc"], one["local_llc_stderr"], color="black", marker=".", lw=0.7
            )
            axes[2, column].axhline(0, color="0.6", lw=0.6)
            axes[3, column].plot(where, one["local_lowest"], ".-", color="black", lw=0.7)
            axes[3, column].axhline(0, color="0.6", lw=0.6)
        axes[0, column].set_title(f"run {run}")
        axes[-1, column].set_xlabel("step")
    axes[0, 0].set(xscale="log", yscale="log", ylabel="excess loss", xlim=(1, data["step"].values[-1]))
    spread = float(np.nanmax(data["curve"].values[chosen][:, -1] - floor))
    axes[0, 0].set_ylim(bottom=max(1e-4 * (np.nanmax(data["curve"].values) - floor), 0.3 * spread * 1e-2))
    axes[1, 0].set_ylabel(r"$\lambda$ of the phase")
    if has:
        axes[2, 0].set_ylabel(rf"$\hat\lambda$ ($t = {data.attrs['t']:g}$)")
        axes[2, 0].set_yscale("symlog", linthresh=10)
        axes[3, 0].set_ylabel("lowest curvature")
    draw.legend(figure, {n: s for n, s in styles.items() if n in seen}, loc="outside lower center", ncols=len(seen))
    return figure


def _coloured(
    ax: Axes, steps: np.ndarray, loss: np.ndarray, path: plateaus.Path, styles: Any, named: Sequence[str]
) -> set[str]:
    """The loss as a line in the colours of the plateaus' phases, grey between them; which phases were drawn."""
    line = np.stack([np.maximum(steps, 1), np.maximum(loss, 1e-12)], axis=1)
    pieces, seen = np.stack([line[:-1], line[1:]], axis=1), set()
    colours = np.full(len(pieces), draw.OUTSIDE.colour, object)
    for start, stop, label in zip(path.start, path.stop, path.phase, strict=True):
        if label >= 0:
            colours[(steps[:-1] >= start * 0.99) & (steps[1:] <= stop * 1.01)] = styles[named[label]].colour
            seen.add(named[label])
    ax.add_collection(LineCollection(list(pieces), colors=list(colours), lw=1.6))
    ax.autoscale_view()
    return seen


@draw.styled
def beside(run: Any, data: xr.Dataset) -> Figure | None:
    """Shares of runs in each phase over training, beside the posterior's shares of it over t (or n)."""
    named, part = names(data), part_of(data)
    posterior = masses(run, data)
    if posterior is None or not named:
        return None
    styles = draw.palette(named)
    good = data["phase"].values[data["ok"].values]
    count = max(len(good), 1)
    caption = f"The same phases in training ({count} runs, {draw.ERRORS}) and in the posterior."
    figure, axes = draw.sheet(draw.PAGE, 2.9, 1, 2, caption, sharey=True)
    left, right = axes[0]
    steps = data["step"].values
    t, mass = posterior
    shown = [label for label in range(len(named)) if max((good == label).mean(0).max(), mass[label].max()) > LEAST]
    for label in shown:
        style = styles[named[label]]
        share = (good == label).mean(0)
        error = np.sqrt(share * (1 - share) / count)
        inside = steps >= 1
        left.fill_between(
            steps[inside], (share - error)[inside], (share + error)[inside], color=style.colour, alpha=0.25, lw=0
        )
        left.plot(steps[inside], share[inside], color=style.colour, ls=style.line)
    tables = plots.quantities(run, part)
    for label in shown:
        style, table = styles[named[label]], plots.by_phase(tables, "mass").get(named[label])
        flat = table is not None and table["value"].ndim == 1
        error = table["stderr"].values if table is not None and flat else np.zeros(len(t))
        draw.curve(right, t, mass[label], error, style)
    left.set(xscale="log", xlabel="training step", ylabel="share of runs", ylim=(-0.02, 1.02))
    left.set_title("training")
    right.set(ylabel="posterior mass")
    right.set_title("posterior")
    draw.label_axis(right, plots.x_axis(plots.sweeps(run)[part]), t)
    draw.legend(figure, {named[label]: styles[named[label]] for label in shown}, loc="outside lower center",
                ncols=len(shown), title="phase")  # fmt: skip
    return figure


@draw.styled
def transitions(run: Any, data: xr.Dataset) -> Figure | None:
    """The phases in the plane of lambda and loss: what runs pass between, and the posterior's way through them."""
    named, styles = names(data), draw.palette(names(data))
    loss, lam = data["phase_loss"].values, data["phase_lam"].values
    counts = Counter((a, b) for path in measure.paths(data) for a, b, _, _ in _moves(path) if a >= 0 and b >= 0)
    places = [i for i in range(len(named)) if np.isfinite([loss[i], lam[i]]).all()]
    if len(places) < 2:
        return None
    caption = "Passages of training runs between phases (arrows, their number beside), and the order in which the \
posterior visits phases as t grows (black)."
    figure, axes = draw.sheet(draw.PAGE * 0.62, 3.4, 1, 1, caption)
    ax = axes[0, 0]
    top = max(counts.values(), default=1)
    for (a, b), number in sorted(counts.items(), key=lambda item: item[1]):
        if a in places and b in places:
            curved = 0.18 if a < b else 0.3
            look: dict[str, Any] = {
                "arrowstyle": "-|>",
                "color": styles[named[b]].colour,
                "lw": 0.6 + 2.6 * number / top,
            }
            look |= {"connectionstyle": f"arc3,rad={curved}", "shrinkA": 7, "shrinkB": 7, "alpha": 0.85}
            ax.annotate("", (lam[b], loss[b]), (lam[a], loss[a]), arrowprops=look)
            if number >= 0.25 * top:
                at = np.array([2 * lam[a] + lam[b], 2 * loss[a] + loss[b]]) / 3
                ax.annotate(
                    str(number),
                    tuple(at),
                    fontsize=7,
                    color=styles[named[b]].colour,
                    xytext=(4, 4),
                    textcoords="offset points",
                )
    order = posterior_order(run, data)
    way = [i for i in sorted(order, key=lambda i: order[i]) if i in places]
    for a, b in itertools.pairwise(way):
        look = {"arrowstyle": "-|>", "color": "black", "lw": 1.0, "ls": "--", "shrinkA": 8, "shrinkB": 8}
        ax.annotate("", (lam[b], loss[b]), (lam[a], loss[a]), arrowprops=look)
    for i in places:
        ax.plot(lam[i], loss[i], styles[named[i]].marker, color=styles[named[i]].colour, ms=8)
        ax.annotate(named[i], (lam[i], loss[i]), xytext=(8, -10), textcoords="offset points")
    ax.margins(0.15)
    ax.set(xlabel=r"$\lambda$ of the phase", ylabel="loss of the phase (nats)")
    if way:
        ax.legend(handles=[Line2D([], [], color="black", ls="--", label="order in the posterior, $t$ rising")])
    return figure
