"""The (n, beta) diagram of one model: the population knows t = n beta alone, data add an excess of order beta.

The number it should show: at fixed t the excess of F on data over the population's, averaged over data sets, is
-(beta/2) t V(t), V the functional variance of one sample: `excess_power` = 1 within its error, and the excess at t = 16
is about -0.56 beta (two parameters, truth 2 tanh(x)). A regular model of d parameters has -(d/2) beta at large t.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from slt import plots
from slt.cells import data_words
from slt.engine.program import draw_data
from slt.model import Model
from slt.plots import draw
from slt.transitions import masses
from slt.typing import InputError, Quantity

from . import _shared, tanh

RESAMPLES = 400


@dataclass(frozen=True)
class Excess:
    """F of data sets over the population's at fixed t = n beta, from the population's own draws.

    With G(w) = sum_i [l_i(w_0) - l_i(w)] - n K(w), F_n(beta) - n beta L_n(w_0) - F(t) = -log <exp(-beta G)>_t over the
    part "population" (free-energy perturbation: exact, and sharp while beta G varies by a few nats). `first` is beta
    <G>_t, whose mean over data sets is 0; the rest is the excess, with far less noise. ess: of the weights.
    """

    n: Sequence[int] = (16, 64, 256, 1024, 4096)
    t: Sequence[float] = (4.0, 16.0, 64.0)
    data_sets: int = 24
    draws: int = 2000

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for numbers that count nothing, and without the sweeps `main` and `population`, params kept."""
        _shared.whole(self, n=1, data_sets=1, draws=1)
        _shared.finite(self, "t", positive=True)
        _shared.sweep_of(parts, "main")
        if "params" not in _shared.sweep_of(parts, "population").observables:
            raise InputError("part", "population", "keeps no parameters: set parts.population.schedule.keep_params")

    def __call__(self, site: Any) -> xr.Dataset:
        model, data = site.parts["main"].job.model, site.run.data["population"].to_dataset()
        n, size = np.array(sorted(self.n)), max(self.n)
        t = [float(x) for x in data["t"].values if min(abs(x - y) for y in self.t) < 1e-6 * x]
        after = data["kept_draw"].values >= int((~data["burn_in"].values).sum() and (~data["burn_in"].values).argmax())
        kept = data["params"].sel(t=t).isel(kept=after).transpose("t", "chain", "kept", ...).values
        kept = kept.reshape(len(t), -1, kept.shape[-1])
        kept = jnp.asarray(kept[:, :: max(1, kept.shape[1] // self.draws)])
        loss = site.parts["population"].job.model.fn
        heights = np.asarray(jax.vmap(jax.vmap(loss))(kept), np.float64)  # K(w) [t, draw]
        beta = np.array(t)[:, None] / n

        def one(seed: int) -> dict[str, np.ndarray]:
            batch = jax.tree.map(lambda leaf: leaf[0], draw_data(model, data_words(seed)[None], {}, size))
            return perturbed(model, batch, kept, heights, n, beta)

        found = [site.once(f"data set {seed}", lambda seed=seed: one(seed)) for seed in range(self.data_sets)]
        stacked = {key: np.stack([each[key] for each in found], axis=-1) for key in found[0]}
        dims = {key: ("t", "data_seed") if key == "variance" else ("t", "n", "data_seed") for key in stacked}
        coords = {"t": t, "n": n, "data_seed": np.arange(self.data_sets), "beta": (("t", "n"), beta)}
        return xr.Dataset({key: (dims[key], stacked[key]) for key in stacked}, coords)


def perturbed(
    model: Model,
    batch: Any,
    kept: Float[Array, "t draw d"],
    heights: Float[np.ndarray, "t draw"],
    n: np.ndarray,
    beta: Float[np.ndarray, "t n"],
) -> dict[str, np.ndarray]:
    """gap, first and ess [t, n] of one data set, NaN where beta > 1, and the functional variance of a sample [t]."""
    truth = model.truth()
    unravel = ravel_pytree(model.init(jax.random.key(0)))[1]
    reference = model.log_likelihood(truth.params if truth is not None else None, batch)
    gap, first, ess = (np.full(beta.shape, np.nan) for _ in range(3))
    variance = np.empty(len(beta))
    losses = jax.jit(jax.vmap(lambda w: reference - model.log_likelihood(unravel(w), batch)))
    for i, points in enumerate(kept):
        each = np.asarray(losses(points))  # l(w_0) - l(w) of every draw and sample
        variance[i] = each.var(0).mean()
        sums = np.add.reduceat(each.astype(np.float64), [0, *n[:-1]], axis=1).cumsum(1)
        for j, size in enumerate(n):
            if beta[i, j] > 1:
                continue
            exponent = -beta[i, j] * (sums[:, j] - size * heights[i])
            top = exponent.max()
            weight = np.exp(exponent - top)
            gap[i, j], first[i, j] = -top - np.log(weight.mean()), -exponent.mean()
            ess[i, j] = weight.sum() ** 2 / np.square(weight).sum()
    return {"gap": gap, "first": first, "ess": ess, "variance": variance}


def rest(data: xr.Dataset) -> xr.DataArray:
    """The excess [t, n, data_seed] without its first-order term."""
    return data["gap"] - data["first"]


def power(data: xr.Dataset, over: np.ndarray) -> float:
    """The exponent p of |excess| = c(t) beta^p over the data sets `over`: least squares in logarithms."""
    mean = np.abs(rest(data).isel(data_seed=over).mean("data_seed").values)
    x, y = [], []
    for i, row in enumerate(mean):
        known = np.isfinite(row) & (row > 0)
        at, value = np.log(data["beta"].values[i][known]), np.log(row[known])
        if known.sum() > 1:
            x, y = [*x, *(at - at.mean())], [*y, *(value - value.mean())]
    return float(np.dot(x, y) / np.dot(x, x)) if x else float("nan")


def foretold(run: Any) -> dict[str, Quantity]:
    """What theory says of where the population's posterior takes up its first unit, and how far it misses."""
    data = plots.sweeps(run).get("population")
    if data is None or "phase" not in data or "t" not in data.dims:
        return {}
    names, own = plots.phase_names(data), tanh.forms(_shared.model(run, "population"))
    seen, _ = _shared.labels(data, "t")
    if len(names) < 2 or not {0, 1} <= own.keys() or not seen.size:
        return {}
    of = masses.difference_of(data["t"].values, seen.reshape(1, *seen.shape[-3:]), [0], [1])
    at = _shared.crossed(of)
    told = _shared.foretold("t", f"{names[0]}->{names[1]}", _shared.theory(own[0], own[1], at, of), at)
    return {f"population.{name}": one for name, one in told.items()}


def summarise(run: Any) -> dict[str, Quantity]:
    """excess[t=..] over beta, excess_slope (excess/beta as predicted, -t V/2) over t, and excess_power, which is 1; the
    kind of every crossing of phases, and what theory says of the population's.
    """
    found = _shared.kinds(run, run.quantities, functools.partial(_shared.units, run)) | foretold(run)
    if "excess" not in run.measures:
        return found
    data = run.measures["excess"]
    sets = data.sizes["data_seed"]
    for i, t in enumerate(data["t"].values):
        known = np.isfinite(data["gap"].values[i]).all(-1)
        own = rest(data).values[i][known]
        error = own.std(-1, ddof=1) / np.sqrt(sets) if sets > 1 else np.full(len(own), np.nan)
        found[f"excess[t={t:g}]"] = Quantity(own.mean(-1), error, {"beta": data["beta"].values[i][known].tolist()})
    slope = -data["t"] / 2 * data["variance"]
    error = slope.std("data_seed", ddof=1) / np.sqrt(sets) if sets > 1 else slope.mean("data_seed") * np.nan
    found["excess_slope"] = Quantity(slope.mean("data_seed").values, error.values, {"t": data["t"].values.tolist()})
    rng = np.random.default_rng(0)
    again = [power(data, rng.integers(sets, size=sets)) for _ in range(RESAMPLES)] if sets > 1 else [np.nan]
    value, spread = power(data, np.arange(sets)), float(np.std(again))
    interval = np.quantile(again, [0.05, 0.95])
    return found | {"excess_power": Quantity(np.array(value), np.array(spread), {}, interval)}


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found = {"diagram": diagram(run), "collapse": collapse(run), "excess": excess(run)}
    parts = plots.sweeps(run)
    found |= {"traces": plots.trace_figure(parts["main"]), "ladder": plots.ladder_figure(parts["population"])}
    return {name: figure for name, figure in found.items() if figure is not None}


def _phase(run: Any) -> str:
    """The phase that the posterior ends in: the last of the partition."""
    return plots.phase_names(plots.sweeps(run)["main"])[-1]


def _share(run: Any) -> xr.Dataset:
    """Mass of the last phase [n, beta], averaged over data sets."""
    return draw.average(plots.quantities(run)[f"mass[{_phase(run)}]"])


@draw.styled
def diagram(run: Any) -> Figure:
    """The mass of the phase of most units over the plane of n and beta, with lines of equal t."""
    share = _share(run).transpose("beta", "n")
    n, beta = share["n"].values.astype(float), draw.numbers(share["beta"])
    caption = f"Posterior mass of '{_phase(run)}' over n and beta, averaged over data sets; lines: t = n beta."
    figure, axes = draw.sheet(draw.COLUMN, 2.7, 1, 1, caption)
    ax = axes[0, 0]
    mesh = ax.pcolormesh(n, beta, share["value"], cmap="cividis", vmin=0, vmax=1, shading="nearest", rasterized=True)
    for t in np.unique(np.outer(n, beta)):
        if np.sum(np.isclose(np.outer(n, beta), t)) > 1:
            ax.plot(n, t / n, color="white", lw=0.7, ls=(0, (3, 2)))
    ax.set(xscale="log", yscale="log", xlabel=draw.AXES["n"], ylabel=draw.AXES["beta"])
    ax.set(xlim=_edges(n), ylim=_edges(beta))
    figure.colorbar(mesh, ax=ax, label=f"mass of '{_phase(run)}'")
    return figure


def _edges(values: np.ndarray) -> tuple[float, float]:
    values = np.sort(values)
    steps = (values[1] / values[0], values[-1] / values[-2]) if len(values) > 1 else (2.0, 2.0)
    return float(values[0] / steps[0] ** 0.5), float(values[-1] * steps[1] ** 0.5)


@draw.styled
def collapse(run: Any) -> Figure:
    """Mass of the last phase and n beta (E[L_n] - L_n(w_0)) against t for every beta: they fall on the population's."""
    parts, tables, known = plots.sweeps(run), plots.quantities(run), plots.quantities(run, "population")
    data, phase = parts["main"], _phase(run)
    above = tables["loss"] - data["offset"]
    above["stderr"] = tables["loss"]["stderr"]
    scale = data["n"] * data["beta_value"] if "beta_value" in data else data["nbeta"]
    rows = {"mass": _share(run), "lam": draw.average(xr.Dataset({k: above[k] * scale for k in ("value", "stderr")}))}
    share, level = known.get(f"mass[{phase}]"), known["loss"]
    limit = {"mass": share, "lam": level.assign(value=level["value"] * level["t"], stderr=level["stderr"] * level["t"])}
    caption = f"Mass of '{phase}', and t (E[L_n] - L_n(w_0)), over t = n beta at every beta, averaged over data sets \
({draw.ERRORS}); black: the population posterior, which depends on t alone."
    figure, axes = draw.sheet(draw.COLUMN, 4.0, 2, 1, caption, sharex=True)
    betas = draw.numbers(data["beta"])
    order = np.argsort(betas)
    for ax, key in zip(axes[:, 0], rows, strict=True):
        for at, colour in zip(order, _shared.shades(len(order)), strict=True):
            one = rows[key].isel(beta=at)
            style = draw.STYLES[0]._replace(colour=colour, line="-")
            t = one["n"].values * float(betas[at])
            draw.curve(ax, t, one["value"], one["stderr"], style, draw.equation("beta", float(betas[at])))
        if limit[key] is not None:
            one = limit[key]
            draw.curve(ax, one["t"].values, one["value"], one["stderr"], draw.STYLES[-1], "population")
    axes[0, 0].set_ylabel(f"mass of '{phase}'")
    axes[1, 0].set_ylabel(r"$n\beta\,(\mathrm{E}[L_n] - L_n(w_0))$")
    axes[1, 0].axhline(0, color="0.5", lw=0.5)
    draw.label_axis(axes[1, 0], "t", parts["population"]["t"].values)
    axes[1, 0].set_xlabel(r"$t = n\beta$")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    return figure


@draw.styled
def excess(run: Any) -> Figure | None:
    """Minus the excess of F over the population's against beta at fixed t, over the lines that theory predicts."""
    found = {name: q for name, q in run.quantities.items() if name.startswith("excess[")}
    if not found:
        return None
    slope = run.quantities["excess_slope"]
    caption = f"What F on data lies below the population's at fixed t, averaged over data sets ({draw.ERRORS}; the \
first-order term, of mean 0, taken off); lines: (beta/2) t V(t)."
    figure, axes = draw.sheet(draw.COLUMN, 2.7, 1, 1, caption)
    ax = axes[0, 0]
    for (name, one), level, style in zip(found.items(), np.atleast_1d(slope.value), draw.STYLES, strict=False):
        beta = np.array(one.coords["beta"])
        label = name.removeprefix("excess[").removesuffix("]").replace("=", " = ")
        draw.curve(ax, beta, -one.value, one.stderr, style, f"${label}$", ls="none")
        ax.plot(beta, -level * beta, color=style.colour, ls=style.line, lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel=draw.AXES["beta"])
    ax.set_ylabel(r"$F(t) + n\beta L_n(w_0) - F_n(\beta)$ (nats)")
    ax.legend(title=r"$t = n\beta$")
    return figure
