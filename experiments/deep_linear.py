"""Deep linear networks learn rank by rank: in t (the posterior) and in training time (gradient descent).

The number it should show: the order of modes is that of their singular values in both, critical_t[r->r+1] rising with
1/s and critical_step[r->r+1] like 1/s; the coefficient of each truncated truth within 3 per cent of its lam(t).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slt import plots
from slt.dynamics import plateaus
from slt.measure.llc import llc
from slt.model import Potential
from slt.models import deep_linear
from slt.models.deep_linear import Squares
from slt.plots import draw
from slt.theory import linear_networks
from slt.theory.reference import two_layer_reference
from slt.theory.two_layer import two_layer
from slt.transitions import masses
from slt.transitions.masses import Shown
from slt.transitions.predictions import Form
from slt.typing import InputError, Quantity

from . import _dynamics, _shared


@dataclass(frozen=True)
class Coefficients:
    """lam(t) of the potentials whose truth is M truncated to each rank, by `slt.llc` over the whole prior (gamma = 0).

    Beside each its exact value, where two layers let one factor be integrated out: by quadrature, or with the other one
    sampled in double precision by code of its own (slt.theory.reference); and lambda (Aoyagi 2024).
    """

    widths: Sequence[int] = (5, 5, 5)
    singular_values: Sequence[float] = (4.0, 2.0, 1.0)
    t: Sequence[float] = (10.0, 100.0, 1000.0)
    error: float = 0.006
    seconds: float = 8.0
    draws: int = 600

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for what is no network, no truth of it, or no t."""
        _shared.whole(self, widths=1, draws=1)
        _shared.finite(self, "t", "error", "seconds", "singular_values", positive=True)
        deep_linear.population(tuple(self.widths), tuple(self.singular_values))

    def __call__(self, site: Any) -> xr.Dataset:
        """llc, stderr, exact, exact_stderr (rank, t) and lam (rank)."""
        ranks, t = range(len(self.singular_values) + 1), [float(each) for each in self.t]
        rows = [site.once(f"rank {rank}", lambda rank=rank: self._rank(rank, t)) for rank in ranks]
        names = ("llc", "stderr", "exact", "exact_stderr")
        variables: dict[str, Any] = {name: (("rank", "t"), np.stack([row[name] for row in rows])) for name in names}
        lam = [linear_networks.deep_linear(tuple(self.widths), rank).lam for rank in ranks]
        return xr.Dataset(variables | {"lam": ("rank", lam)}, {"rank": list(ranks), "t": t})

    def _rank(self, rank: int, t: list[float]) -> dict[str, np.ndarray]:
        values = tuple(self.singular_values[:rank])
        model = deep_linear.population(tuple(self.widths), values)
        truth = model.truth()
        if truth is None:
            raise InputError("model", model, "has no truth")
        found = llc(model, truth.params, t=t, gamma=0.0, error=self.error, seconds=self.seconds, seed=rank)
        exact = np.array([self._exact(values, each) for each in t])
        return {
            "llc": np.asarray(found.llc.value),
            "stderr": np.asarray(found.llc.stderr),
            "exact": exact[:, 0],
            "exact_stderr": exact[:, 1],
        }

    def _exact(self, values: Sequence[float], t: float) -> tuple[float, float]:
        if len(self.widths) != 3:
            return np.nan, np.nan
        target = np.zeros((self.widths[0], self.widths[-1]))
        np.fill_diagonal(target[: len(values), : len(values)], values)
        try:
            return float(two_layer(t, target, self.widths[1]).lam), 0.0
        except ValueError:  # none of the cases that quadrature can do
            found = two_layer_reference(t, target, self.widths[1], draws=self.draws)
            return found.lam, found.stderr


def landscape(run: Any) -> Squares:
    """The potential that a run sampled."""
    model = _shared.model(run)
    if not (isinstance(model, Potential) and isinstance(model.fn, Squares)):
        raise InputError("model", model, "this experiment needs slt.models.deep_linear.population")
    return model.fn


def modes(fn: Squares, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """(strengths u_i' W v_i [..., mode], singular values [..., k]) of the products of flat parameters [..., d]."""
    product = np.asarray(deep_linear.product(np.asarray(params, np.float32), fn.widths), np.float64)
    strengths = np.diagonal(product, axis1=-2, axis2=-1)[..., : len(fn.target.singular_values)]
    return strengths, np.linalg.svd(product, compute_uv=False)


def form(fn: Squares, rank: int) -> Form:
    """F of a rank to leading order: that of the truth truncated to it, sum_(i > rank) s_i^2 below the truth."""
    known = linear_networks.deep_linear(fn.widths, rank)
    return Form(float(np.sum(np.square(fn.target.singular_values[rank:]))), known.lam, known.m, np.nan)


def posterior_modes(run: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, strengths [t, draw, mode], singular values [t, draw, k]) of the draws kept after burn-in."""
    data = plots.sweeps(run)["main"]
    after = int((~data["burn_in"].values).argmax())
    kept = data["params"].isel(kept=data["kept_draw"].values >= after)
    rest = [str(dim) for dim in kept.dims if dim not in ("t", "chain", "kept")]
    params = kept.isel(dict.fromkeys(rest[:-1], 0)).transpose("t", "chain", "kept", rest[-1]).values
    strengths, values = modes(landscape(run), params.reshape(params.shape[0], -1, params.shape[-1]))
    return data["t"].values, strengths, values


def learned_steps(fn: Squares, data: xr.Dataset) -> np.ndarray:
    """The first checkpoint at which each mode has half its singular value [run kept, mode]; inf if none."""
    strengths, _ = modes(fn, data["params"].values)
    has = strengths >= np.array(fn.target.singular_values) / 2
    return np.where(has.any(1), data["step"].values[has.argmax(1)].astype(float), np.inf)


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_t[r->r+1], its kind and what theory says of it; what training did (see `_dynamics`), the order of modes,
    and the coefficients.

    in_order: share of the runs kept in which no mode passes half its singular value before a larger one. posterior_in_
    order: 1 where the t at which the strengths' mean passes half the singular value rises from mode to mode, mode_t.
    """
    found: dict[str, Quantity] = {}
    fn, data = landscape(run), plots.sweeps(run)["main"]
    seen, _ = _shared.labels(data, "t")
    seen = seen.reshape(-1, *seen.shape[-2:])
    count = len(fn.target.singular_values)
    for rank in range(count):
        low, high = list(range(rank + 1)), list(range(rank + 1, count + 1))
        of = masses.difference_of(data["t"].values, seen[None], low, high)
        at, way = _shared.crossed(of), f"{rank}->{rank + 1}"
        found[f"critical_t[{way}]"] = _shared.quantity(at)
        guesses = _shared.theory(form(fn, rank), form(fn, rank + 1), at, of)
        found |= _shared.foretold("t", way, guesses, at)

    def groups(part: str, a: str, b: str) -> tuple[list[int], list[int]]:
        return list(range(int(a) + 1)), list(range(int(b), count + 1))

    found |= _shared.kinds(run, found, lambda part, data, axis: _shown(fn, data, axis), groups)
    times = mode_times(run)
    found["mode_t"] = Quantity(times, np.full(count, np.nan), {"mode": list(range(1, count + 1))})
    found["posterior_in_order"] = _shared.known(float(bool(np.all(np.diff(times) > 0))))
    found |= _dynamics.summarise(run)
    for name, one in _dynamics.trainings(run).items():
        steps = learned_steps(fn, one)[one["ok"].values[: one.sizes["kept"]]]
        share = plateaus.share(int((steps[:, 1:] >= steps[:, :-1]).all(1).sum()), len(steps))
        prefix = "" if name == "training" else f"{name}."
        found[f"{prefix}in_order"] = Quantity(
            np.array(share.value), np.array(share.stderr), {}, np.array([share.low, share.high])
        )
    if "coefficients" in run.measures:
        table = run.measures["coefficients"]
        coords = {name: table[name].values.tolist() for name in ("rank", "t")}
        value, stderr, exact, own = (table[n].values for n in ("llc", "stderr", "exact", "exact_stderr"))
        found["coefficient"] = Quantity(value, stderr, coords)
        found["coefficient_exact"] = Quantity(exact, own, coords)
        found["coefficient_off"] = Quantity(value / exact - 1, np.hypot(stderr, own) / exact, coords)
    return found


def _shown(fn: Squares, data: xr.Dataset, axis: str) -> Shown | None:
    """Draws told by the strengths of all modes, each in units of its singular value."""
    found = _shared.kept(data, axis)
    if found is None:
        return None
    strengths, _ = modes(fn, found.places)
    return Shown(found.labels, strengths / np.array(fn.target.singular_values))


def mode_times(run: Any) -> np.ndarray:
    """t at which the mean strength of each mode passes half its singular value for good; NaN if it does not."""
    t, strengths, _ = posterior_modes(run)
    share = strengths.mean(1) / np.array(landscape(run).target.singular_values)
    found = []
    for curve in share.T:
        below = np.flatnonzero(curve < 0.5)
        if below.size in (0, len(curve)) or below[-1] + 1 == len(curve):
            found.append(np.nan)
            continue
        a, b = below[-1], below[-1] + 1
        weight = (0.5 - curve[a]) / (curve[b] - curve[a])
        found.append(float(np.exp((1 - weight) * np.log(t[a]) + weight * np.log(t[b]))))
    return np.array(found)


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found: dict[str, Figure | None] = {"coefficients": coefficients(run), "order": order(run)}
    for name, data in _dynamics.trainings(run).items():
        found[f"{name}_modes"] = learning(run, data)
    found["ladder"] = plots.ladder_figure(plots.sweeps(run)["main"])
    return {name: figure for name, figure in found.items() if figure is not None}


@draw.styled
def learning(run: Any, data: xr.Dataset) -> Figure | None:
    """Strengths of the modes, singular values of the product and shares of ranks: over t, and over training steps."""
    if "params" not in plots.sweeps(run)["main"]:
        return None
    fn = landscape(run)
    t, *posterior = posterior_modes(run)
    inside = data["step"].values >= 1
    runs = modes(fn, data["params"].values[:, inside])
    training = [np.moveaxis(each, 0, 1) for each in runs]  # [step, run, mode]
    start = "model.init" if data.attrs["start"] == "prior" else f"basin {data.attrs['start']}"
    caption = (
        f"Modes learned one after another: over t by the posterior (left), over steps by {data.attrs['optimiser']} \
from {data.attrs['scale']:g} times {start} (right). Medians, bands hold 80 per cent of draws or runs; dashed: M."
    )
    figure, axes = draw.sheet(draw.PAGE, 5.2, 3, 2, caption, sharex="col", sharey="row")
    styles = list(draw.palette([str(i) for i in range(max(fn.widths) + 1)]).values())
    steps = data["step"].values[inside]
    for column, (x, (strengths, values)) in enumerate(((t, posterior), (steps, training))):
        _modes(axes[0, column], x, strengths / np.array(fn.target.singular_values), styles[1:])
        axes[0, column].axhline(1, color="0.4", lw=0.7, ls=(0, (4, 3)))
        _modes(axes[1, column], x, values, styles[1:])
        for value in fn.target.singular_values:
            axes[1, column].axhline(value, color="0.4", lw=0.7, ls=(0, (4, 3)))
        axes[2, column].set(xscale="log", ylim=(-0.02, 1.02))
    axes[0, 0].set(ylabel=r"strength $u_i^{\top}Wv_i/s_i$", ylim=(-0.6, 2.1))
    axes[1, 0].set(ylabel="singular values of $W$", ylim=(0, 2.2 * max(fn.target.singular_values)))
    axes[2, 0].set(ylabel="share", xlabel=draw.AXES["t"])
    axes[2, 1].set_xlabel("training step")
    axes[0, 0].set_title("posterior")
    axes[0, 1].set_title("training")
    names = _dynamics.names(data)
    found = _dynamics.masses(run, data)
    good = data["phase"].values[data["ok"].values][:, inside]
    for label in range(len(names)):
        if found is not None:
            draw.curve(axes[2, 0], t, found[1][label], np.zeros(len(t)), styles[label])
        axes[2, 1].plot(steps, (good == label).mean(0), color=styles[label].colour, ls=styles[label].line)
    shown = {f"{name} mode{'' if name == '1' else 's'} learned": styles[i] for i, name in enumerate(names)}
    draw.legend(figure, shown, loc="outside lower center", ncols=len(shown))
    return figure


@draw.styled
def order(run: Any) -> Figure | None:
    """The step at which each mode is learned, over 1/s, by every training of a run: optimisers and starts together."""
    told = _dynamics.trainings(run)
    if not told:
        return None
    caption = (
        "The first step at which a mode has half its singular value s: medians over runs, bars hold 90 per cent of \
them; dotted: as 1/s. In brackets: the share of runs in which no mode comes before a larger one."
    )
    figure, axes = draw.sheet(draw.COLUMN * 1.35, 3.6, 1, 1, caption)
    ax, fn = axes[0, 0], landscape(run)
    x = 1 / np.array(fn.target.singular_values)
    for i, (data, style) in enumerate(zip(told.values(), itertools.cycle(draw.STYLES))):
        steps = learned_steps(fn, data)[data["ok"].values[: data.sizes["kept"]]]
        seen = np.where(np.isfinite(steps), steps, np.nan)
        if not np.isfinite(seen).any():
            continue
        low, middle, high = np.nanquantile(seen, [0.05, 0.5, 0.95], axis=0)
        share = float((steps[:, 1:] >= steps[:, :-1]).all(1).mean())
        label = f"{data.attrs['optimiser']} from {data.attrs['scale']:g} ({share:.0%})"
        at = x * 1.04 ** (i - (len(told) - 1) / 2)
        ax.errorbar(at, middle, [middle - low, high - middle], color=style.colour, marker=style.marker, ls=style.line,
                    label=label)  # fmt: skip
        if i == 0:
            ax.plot(x, middle[0] * x / x[0], color="0.4", lw=0.8, ls=(0, (1, 2)))
    draw.logarithmic(ax, "x", x)
    ax.set(yscale="log", xlabel="$1/s$ of the mode", ylabel="step at which it is learned")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
    return figure


def _modes(ax: Axes, x: np.ndarray, values: np.ndarray, styles: Sequence[draw.Style]) -> None:
    """Median and the middle 80 per cent of values [x, draw, mode]."""
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9], axis=1)
    for i in range(values.shape[-1]):
        style = styles[i % len(styles)]
        ax.fill_between(x, low[:, i], high[:, i], color=style.colour, alpha=0.2, lw=0)
        ax.plot(x, middle[:, i], color=style.colour, ls=style.line)


@draw.styled
def coefficients(run: Any) -> Figure | None:
    """The coefficient of each truncated truth over t, its exact value, and lambda."""
    if "coefficients" not in run.measures:
        return None
    table = run.measures["coefficients"]
    styles = list(draw.palette([str(rank) for rank in table["rank"].values]).values())
    caption = f"Coefficients of the potentials whose truth is M truncated to rank r: by slt.llc ({draw.ERRORS}), exact \
lam(t) by elimination of one layer (lines), lambda (dashed), and the relative difference."
    figure, axes = draw.sheet(draw.COLUMN * 1.25, 4.2, 2, 1, caption, sharex=True, height_ratios=[3, 1.4])
    top, below = axes[:, 0]
    t, seen = table["t"].values, []
    for i, rank in enumerate(table["rank"].values):
        one = table.isel(rank=i)
        top.plot(t, one["exact"], color=styles[i].colour, lw=0.9)
        draw.curve(top, t, one["llc"], one["stderr"], styles[i], f"rank {rank}", ls="none")
        top.axhline(float(one["lam"]), color=styles[i].colour, lw=0.7, ls=(0, (4, 3)))
        off = 100 * (one["llc"] / one["exact"] - 1)
        error = 100 * np.hypot(one["stderr"], one["exact_stderr"]) / one["exact"]
        draw.curve(below, t * 1.03 ** (i - 1.5), off, error, styles[i], ls="none")
        seen.append(float(np.nanmax(np.abs(off) + error)) if np.isfinite(off).any() else 0.0)
    below.axhspan(-3, 3, color="0.5", alpha=0.15, lw=0)
    below.axhline(0, color="black", lw=0.7)
    below.set(ylabel="off by (%)", ylim=(-max(4, *seen), max(4, *seen)))
    top.set_ylabel(r"$\lambda(t) = t\,\langle K\rangle$")
    top.legend(ncols=2)
    draw.label_axis(below, "t", t)
    return figure
