"""What the experiments on model size share: how many units a posterior uses over n, and which size the criteria choose.

`Choice` measures F_n, WBIC and WAIC of models of several sizes on the same data sets; the rest draws and sums up.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slt import analysis, plots
from slt import observables as watch
from slt.drivers import sweep
from slt.engine import Schedule
from slt.estimators import criteria
from slt.estimators.criteria import Folded
from slt.model import Model
from slt.plots import draw
from slt.samplers import HMC, ReplicaExchange
from slt.transitions import masses
from slt.transitions.predictions import Form
from slt.typing import InputError, Quantity

from . import _shared

SYMLOG = (-100, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300, 1000)
CRITERIA = {"free_energy": "$F_n$", "wbic": "WBIC", "waic": r"$n\,$WAIC"}


@dataclass(frozen=True)
class Choice:
    """F_n (MBAR), WBIC = n E[L_n] at 1/log n, and n WAIC of every size and data set, each from ladders over beta.

    family(**{size: k}) makes the model of size k; all share the true distribution, and so the data of a data seed.
    One program, and one piece of the measure, for every size and n.
    """

    family: Callable[..., Model]
    size: str
    sizes: Sequence[int] = (1, 2, 3)
    n: Sequence[int] = (50, 200)
    data_sets: int = 8
    draws: int = 1500
    burn_in: int = 500
    chains: int = 4
    rungs: int = 6

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for numbers that count nothing, and sizes that the family does not have."""
        _shared.whole(self, sizes=1, n=2, data_sets=1)
        Schedule(draws=self.draws, burn_in=self.burn_in, chains=self.chains).check()
        ReplicaExchange(axis="beta", rungs=self.rungs).check()
        for k in self.sizes:
            try:
                self.family(**{self.size: k})
            except TypeError as error:
                raise InputError("size", self.size, f"is no argument of the family: {error}") from error

    def __call__(self, site: Any) -> xr.Dataset:
        seed = int(jax.random.randint(site.key, (), 0, 2**30))
        schedule = Schedule(draws=self.draws, burn_in=self.burn_in, chains=self.chains)

        def one(k: int, n: int) -> dict[str, np.ndarray]:
            return compared(self.family(**{self.size: k}), n, self.data_sets, schedule, self.rungs, seed)

        rows = [
            [site.once(f"{self.size} {k}, n = {n}", lambda k=k, n=n: one(k, n)) for n in self.n] for k in self.sizes
        ]
        stacked = {key: np.stack([np.stack([cell[key] for cell in row]) for row in rows]) for key in rows[0][0]}
        coords = {"size": list(self.sizes), "n": list(self.n), "data_seed": np.arange(self.data_sets)}
        return xr.Dataset({key: (("size", "n", "data_seed"), value) for key, value in stacked.items()}, coords)


def compared(model: Model, n: int, data_sets: int, schedule: Schedule, rungs: int, seed: int) -> dict[str, np.ndarray]:
    """The criteria [data set] of one model at one n, and their Monte Carlo errors."""
    sampler = ReplicaExchange(inner=HMC(leapfrogs=8), axis="beta", rungs=rungs, between=1)
    data = sweep(
        model, sampler, schedule, n=[n], beta=["1/log n", "1"], data_seed=list(range(data_sets)),
        observables={"train": watch.pointwise(watch.differences)}, seed=seed,
    )  # fmt: skip
    found = analysis.Draws(data)
    ladders, level = found.ladders()["free_energy_mbar"], found.over_all()["loss"]

    def pick(quantity: Quantity, beta: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        axis = list(quantity.coords).index("beta")
        value, stderr = (scale * np.take(x, beta, axis=axis).ravel() for x in (quantity.value, quantity.stderr))
        return value, stderr

    result: dict[str, np.ndarray] = dict(zip(("free_energy", "free_energy_stderr"), pick(ladders, 1), strict=True))
    result |= dict(zip(("wbic", "wbic_stderr"), pick(level, 0, n), strict=True))
    waic = [_waic(data.isel(n=0, beta=1, data_seed=i), n) for i in range(data_sets)]
    result["waic"], result["waic_stderr"] = n * np.array([w[0] for w in waic]), n * np.array([w[1] for w in waic])
    return result


def _waic(cell: xr.Dataset, n: int) -> tuple[float, float]:
    """WAIC per sample of one posterior from its folds, with its Monte Carlo error; NaN with fewer than two ladders."""
    ok = cell["status"].values == 0
    if ok.sum() < 2:
        return float("nan"), float("nan")

    def leaf(name: str) -> np.ndarray:
        return cell[f"fold.train.{name}"].values[ok].astype(np.float64)

    draws = leaf("moments.draws")[:, None]
    mean, square = leaf("moments.mean")[:, :n], leaf("moments.square")[:, :n]
    log_mean = leaf("density.peak")[:, :n] + np.log(leaf("density.total")[:, :n] / draws)
    estimate = criteria.waic(criteria.pseudo_values(Folded(log_mean, mean, square / draws))).estimate
    return float(estimate.value) + float(cell["offset"].values), float(estimate.stderr)


# ------------------------------------------------------------------------------------------------------------- in use


def used(run: Any, part: str = "main", forms: Mapping[int, Form] | None = None) -> dict[str, Quantity]:
    """critical_n[k->k+1] (critical_t for a potential): where one more unit in use becomes likelier than k.

    On data from D = log(share of k + 1/share of k) averaged over data sets, on a potential from all ladders together.
    forms: F of k units to leading order; what theory then says of the crossing, and how far it misses it, see
    `_shared.foretold`.
    """
    data = plots.sweeps(run)[part]
    x = "t" if "t" in data.dims else "n"
    found, others = _shared.labels(data, x)
    names, sets = plots.phase_names(data), _shared.seeds_last(found, others)
    numbers: dict[str, Quantity] = {}
    for low, high in itertools.pairwise(range(len(names))):
        way = f"{names[low].split()[0]}->{names[high].split()[0]}"
        seen = [np.isin(sets, phase).any() for phase in (low, high)]
        most = [np.isin(sets, phase).mean((0, 2, 3)).max() for phase in (low, high)]
        if not all(seen) or min(most) < 0.05:
            continue
        of = masses.difference_of(data[x].values, sets, [low], [high])
        at = _shared.crossed(of)
        numbers[f"critical_{x}[{way}]"] = _shared.quantity(at)
        known = (forms or {}).get
        numbers |= _shared.foretold(x, way, _shared.theory(known(low), known(high), at, of), at)
    return numbers


def kinds(run: Any, found: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """The kind of every crossing of numbers of units, those of `used` (phases by their numbers) and all others."""

    def groups(part: str, a: str, b: str) -> tuple[list[int], list[int]] | None:
        names = [name.split()[0] for name in plots.phase_names(plots.sweeps(run)[part])]
        return ([names.index(a)], [names.index(b)]) if {a, b} <= set(names) else None

    return _shared.kinds(run, run.quantities | found, functools.partial(_shared.units, run), groups)


@draw.styled
def in_use(run: Any, what: str) -> Figure:
    """Share of each number of units in use over n, averaged over data sets, and below it the population's over t."""
    parts = [part for part in ("main", "population") if part in plots.sweeps(run)]
    where = " (top), and of the population (below)" if len(parts) > 1 else ""
    caption = f"Number of {what} in use: posterior mass averaged over data sets{where}, {draw.ERRORS}. Vertical: \
critical n (t) with 90 per cent intervals."
    figure, axes = draw.sheet(draw.COLUMN, 0.6 + 1.8 * len(parts), len(parts), 1, caption)
    keys: dict[str, Any] = {}
    for ax, part in zip(axes[:, 0], parts, strict=True):
        data, tables = plots.sweeps(run)[part], plots.quantities(run, part)
        x = "t" if "t" in data.dims else "n"
        styles = draw.palette(plots.phase_names(data))
        shown = {name: _shared.along(one, x) for name, one in plots.by_phase(tables, "mass").items()}
        shown = {name: one for name, one in shown.items() if float(one["value"].max()) > 0.01}
        keys |= {name: styles[name] for name in shown}
        draw.phase_mass(ax, x, shown, styles)
        ax.set_ylabel(f"posterior mass ({draw.ERRORS})")
        if x == "t":
            ax.set_xlabel(r"$t = n\beta$, population")
        prefix = "" if part == "main" else f"{part}."
        for name, quantity in run.quantities.items():
            if name.startswith(f"{prefix}critical_{x}["):
                _shared.mark(ax, quantity)
    draw.legend(figure, dict(sorted(keys.items())), loc="outside upper center", ncols=2)
    return figure


# ------------------------------------------------------------------------------------------------------------- choice


def chosen(data: xr.Dataset, criterion: str) -> xr.DataArray:
    """The size of least criterion [n, data_seed]."""
    return data["size"][data[criterion].argmin("size")]


def summary(data: xr.Dataset, truth: int) -> dict[str, Quantity]:
    """chosen[criterion]: share of data sets whose choice is the truth's size; agreement[a, b]: of equal choices.

    Errors are binomial, with two successes and two failures added (Agresti and Coull).
    """
    picks = {name: chosen(data, name) for name in CRITERIA}
    coords, count = {"n": data["n"].values.tolist()}, data.sizes["data_seed"]

    def share(hits: xr.DataArray) -> Quantity:
        value = hits.mean("data_seed").values
        shrunk = (count * value + 2) / (count + 4)
        return Quantity(value, np.sqrt(shrunk * (1 - shrunk) / (count + 4)), coords)

    found = {f"chosen[{name}]": share(pick == truth) for name, pick in picks.items()}
    pairs = itertools.combinations(picks, 2)
    return found | {f"agreement[{a}, {b}]": share(picks[a] == picks[b]) for a, b in pairs}


@draw.styled
def agreement(data: xr.Dataset, what: str, truth: int) -> Figure:
    """Which size each criterion chooses, as shares of the data sets, for every n."""
    sizes, n = data["size"].values, data["n"].values
    caption = f"Number of {what} that each criterion chooses: share of {data.sizes['data_seed']} data sets; box: the \
truth's. Right of each table: share on which the criterion agrees with F_n."
    figure, axes = draw.sheet(draw.PAGE, 0.75 + 0.28 * len(CRITERIA), 1, len(n), caption, sharey=True)
    for ax, at in zip(axes[0], n, strict=True):
        one = data.sel(n=at)
        picks = {name: chosen(one, name).values for name in CRITERIA}
        table = np.array([[np.mean(pick == size) for size in sizes] for pick in picks.values()])
        ax.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            ink = "black" if value > 0.55 else "white"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
        for i, pick in enumerate(picks.values()):
            same = np.mean(pick == picks["free_energy"])
            ax.text(len(sizes) - 0.4, i, f"{same:.2f}", ha="left", va="center", fontsize=8, color="0.3")
        if truth in sizes:
            place = int(np.flatnonzero(sizes == truth)[0])
            box = (place - 0.48, -0.48), 0.96, len(CRITERIA) - 0.04
            ax.add_patch(Rectangle(*box, fill=False, ec=draw.STYLES[1].colour, lw=1.4))
        ax.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        ax.set(title=draw.equation("n", int(at)), xlabel=what)
        ax.tick_params(length=0)
    axes[0, 0].set_yticks(range(len(CRITERIA)), list(CRITERIA.values()))
    return figure


@draw.styled
def differences(data: xr.Dataset, what: str, truth: int) -> Figure:
    """Every criterion less its value at the truth's size, averaged over data sets, for every n."""
    n, sizes = data["n"].values, data["size"].values
    caption = f"Criteria less their value at the truth's {truth} {what}: mean over data sets, {draw.ERRORS}."
    figure, axes = draw.sheet(draw.PAGE, 2.3, 1, len(n), caption)
    base = truth if truth in sizes else int(sizes[-1])
    for ax, at in zip(axes[0], n, strict=True):
        for (name, label), style in zip(CRITERIA.items(), draw.STYLES, strict=False):
            gap = (data[name] - data[name].sel(size=base)).sel(n=at)
            spread = gap.std("data_seed", ddof=1) / np.sqrt(gap.sizes["data_seed"])
            draw.curve(ax, sizes, gap.mean("data_seed"), spread, style, label)
        ax.axhline(0, color="0.5", lw=0.5)
        ax.set_yscale("symlog", linthresh=2)
        ax.set_yticks([tick for tick in SYMLOG if ax.get_ylim()[0] <= tick <= ax.get_ylim()[1]])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks(sizes)
        ax.set(title=draw.equation("n", int(at)), xlabel=what)
    axes[0, 0].set_ylabel(f"difference to {base} (nats)")
    axes[0, -1].legend()
    return figure
