"""The k-gons as families: crossings by two rules of what a draw belongs to.

The family of a phase is the number k of its corners: '5', '5+' and '5*' are all "5".
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from slt import plots
from slt.config import RunConfig, plain
from slt.dynamics import plateaus
from slt.model import Truth
from slt.models._kgon_phases import partition
from slt.models.superposition import Superposition
from slt.transitions import crossing, masses, paths
from slt.transitions.crossing import Crossing, Difference
from slt.transitions.masses import Shown
from slt.typing import InputError, Quantity

from . import _dynamics, _superposition_theory
from ._shared import foretold, kept, kind, kinds, known, labels, quantity, seeds_last

LEAST = 0.05  # share of draws from which on a phase is shown


@dataclass(frozen=True)
class Unquenched(Superposition):
    """The model on data without its basins, so that no empirical minimum of each is sought in every cell (minutes)."""

    def truth(self) -> Truth:
        """As of `Superposition`, with no basins."""
        return dataclasses.replace(super().truth(), basins=())


# ------------------------------------------------------------------------------------------------------------ a measure


@dataclass(frozen=True)
class Relabelled:
    """Kept draws of sweeps told by another rule of `slt.models.superposition.partition`; see `relabel`.

    parts: names of sweeps. rule: "descent" goes 1000 steps down the population loss from every draw. Pieces are kept
    by part.
    """

    parts: Sequence[str] = ("main",)
    rule: str = "descent"

    reads_draws: ClassVar[bool] = True

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for an unknown rule, and for sweeps that there are not or that keep no parameters."""
        partition(rule=self.rule)
        for part in self.parts:
            if part not in parts or "params" not in parts[part].job.observables:
                raise InputError("parts", part, f"no sweep that keeps parameters ({', '.join(parts)}): see keep_params")

    def __call__(self, site: Any) -> xr.Dataset:
        """Per part <p>: <p>.label (<p>.x, <p>.chain, <p>.kept), and its phases' names as an attribute."""
        found: dict[str, Any] = {}
        for part in self.parts:
            if part not in site.run.data.children:
                raise InputError("parts", part, f"no such sweep in this run ({', '.join(site.parts)})")
            data = site.run.data[part].to_dataset()
            phases = partition(features(data), self.rule, merged=False)
            draws = str(data.sizes["draw"])

            def make(data: xr.Dataset = data, phases: Any = phases) -> dict[str, np.ndarray]:
                return {"label": relabel(data, phases.label)}

            label = site.once(f"{part} of {draws} draws", make)["label"]
            dims = [f"{part}.{dim}" for dim in (*_grid(data), "chain", "kept")]
            found[f"{part}.label"] = xr.Variable(dims, label, {"names": list(phases.names), "rule": phases.rule})
        return xr.Dataset(found)


def features(data: xr.Dataset) -> int:
    """c of a part."""
    return data.sizes["params.W_1"] if "params.W" in data else data.sizes["params_0"] // 3


def _grid(data: xr.Dataset) -> list[str]:
    return [str(dim) for dim in data["offset"].dims]


def relabel(data: xr.Dataset, label: Any) -> Int[np.ndarray, "... chain kept"]:
    """Labels of the draws kept after burn-in, -1 for those of chains that broke."""
    grid = _grid(data)
    late = np.isin(data["kept_draw"].values, data["draw"].values[~data["burn_in"].values])
    if "params.W" in data:
        leaves = [data[name].isel(kept=late) for name in ("params.W", "params.b")]
    else:
        leaves = [data["params"].isel(kept=late)]
    arrays = [one.transpose(*grid, "chain", "kept", ...).values for one in leaves]
    shape = arrays[0].shape[: len(grid) + 2]
    flat = np.concatenate([one.reshape(*shape, -1) for one in arrays], axis=-1)
    flat = flat.reshape(-1, *shape[-2:], flat.shape[-1])
    one = jax.jit(jax.vmap(label))
    rows = [np.asarray(one(each.reshape(-1, each.shape[-1]))).reshape(shape[-2:]) for each in flat if each.size]
    found = np.array(rows, np.int32).reshape(shape)
    return np.where((data["status"].transpose(*grid, "chain").values == 0)[..., None], found, -1)


# ------------------------------------------------------------------------------------------------------------ crossings


@dataclass(frozen=True)
class Told:
    """Draws of one part by one rule: label [data, x, ladder, draw] into `names`; axis t or n, its values x."""

    part: str
    rule: str
    axis: str
    x: Float[np.ndarray, " x"]
    label: Int[np.ndarray, "data x ladder draw"]
    names: tuple[str, ...]
    c: int

    @property
    def families(self) -> dict[int, list[int]]:
        """Labels of each family, by k."""
        found: dict[int, list[int]] = {}
        for place, name in enumerate(self.names):
            if digits := re.match(r"\d+", name):
                found.setdefault(int(digits[0]), []).append(place)
        return dict(sorted(found.items()))

    def share(self, wanted: Sequence[int]) -> tuple[Float[np.ndarray, " x"], Float[np.ndarray, " x"]]:
        """Mean share of draws in some phases, and its error: over data sets, or over ladders where there is one set."""
        own = np.isin(self.label, wanted).mean(-1)
        rows = own.mean(2) if len(own) > 1 else own[0].T
        return rows.mean(0), rows.std(0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan * rows[0]

    def difference(self, a: int, b: int) -> Difference | None:
        """F_a - F_b of two families, None where too few draws are in them, or one ladder is all there is."""
        own = self.families
        if not {a, b} <= own.keys() or not self.label.size:
            return None
        return masses.difference_of(self.x, self.label, own[a], own[b])

    def crossing(self, a: int, b: int) -> Crossing | None:
        """Where family a gives way to b; None where it does not, or more than once."""
        of = self.difference(a, b)
        return None if of is None else crossing.crossings(of).only(upward=True)

    def single(self, a: int, b: int) -> paths.Paths | None:
        """First and last crossings of each data set; None of a single one."""
        of = self.difference(a, b)
        return None if of is None or of.paths is None or len(of.paths) < 2 else paths.paths(of.x, of.paths)

    def pairs(self) -> list[tuple[int, int]]:
        """Families k and k + 1 of which each has more than 5 per cent somewhere."""
        seen = [k for k, own in self.families.items() if self.label.size and self.share(own)[0].max() > LEAST]
        return [(a, b) for a, b in itertools.pairwise(seen) if b == a + 1]


def told(run: Any) -> list[Told]:
    """What the run's ladders say: of every part by its own rule, then as measures relabelled it."""
    found = []
    for part, data in plots.sweeps(run).items():
        axis = plots.x_axis(data)
        if data.attrs.get("coupled") != axis or "phase" not in data:
            continue
        own, others = labels(data, axis)
        if set(others) - {"data_seed"}:
            continue
        rule, x = _word(data["phase"].attrs["rule"]), data[axis].values.astype(float)
        c = _width(run, part)
        found.append(Told(part, rule, axis, x, seeds_last(own, others), tuple(plots.phase_names(data)), c))
        for measure in getattr(run, "measures", {}).values():
            if f"{part}.label" in measure:
                other = measure[f"{part}.label"]
                dims = _grid(data)
                rows = other.values.transpose(*(dims.index(d) for d in (*others, axis)), *_rest(dims, others, axis))
                rows = (
                    rows.reshape(-1, x.size, *rows.shape[-2:]) if others else rows.reshape(1, x.size, *rows.shape[-2:])
                )
                names = tuple(str(name) for name in other.attrs["names"])
                found.append(Told(part, _word(other.attrs["rule"]), axis, x, rows, names, c))
    return found


def shown(run: Any, one: Told, k: int) -> Shown | None:
    """Kept draws of a potential told by what each feature gets back of itself, |W_i|^2 + b_i, the largest first; and by
    the output of the k-th, below 0 of which all networks are one.
    """
    data = plots.sweeps(run)[one.part]
    found = kept(data, one.axis, _returned) if one.axis == "t" else None
    if found is None:
        return None
    label = one.label if one.label.shape[1:] == found.labels.shape else found.labels[None]
    places = found.places[None]
    return Shown(label, places, None, {"output of the feature gained": np.maximum(places[..., k - 1], 0.0)})


def _returned(w: Array) -> Array:
    *weights, bias = w.reshape(3, -1)
    return -jnp.sort(-(weights[0] ** 2 + weights[1] ** 2 + bias))


def beside(every: Sequence[Told]) -> list[tuple[Told, Told]]:
    """(population, data) of equal c by the hull, for every c of which a run has both, c rising."""
    own = {axis: {one.c: one for one in every if one.axis == axis and one.rule == "hull"} for axis in ("t", "n")}
    return [(own["t"][c], own["n"][c]) for c in sorted(own["t"].keys() & own["n"].keys())]


def _rest(dims: Sequence[str], others: Sequence[str], axis: str) -> list[int]:
    return [*(i for i, dim in enumerate(dims) if dim not in (*others, axis)), len(dims), len(dims) + 1]


def _width(run: Any, part: str) -> int:
    """The number of features of a part's model."""
    config = plain(run.config) if isinstance(run.config, RunConfig) else run.config
    return int((config if part == "main" else config["parts"][part])["model"].get("c", 6))


def _word(rule: str) -> str:
    return "descent" if "descent" in rule else "hull"


def summarise(run: Any) -> dict[str, Quantity]:
    """Of every part with ladders, "<part>." before the names of all but "main", "<part>.descent." by descent:

    critical_t[a->b] (critical_n) of families, and its kind: coexistence, barrier, label_entropy; by the part's own rule
    also critical_t_leading[a->b] and _laplace[a->b], with miss_leading[a->b], miss_laplace[a->b], by what part of the
    measured one they miss (potentials of unit noise);
    on data first_n[a->b] and last_n[a->b], the median over the data sets that cross of the first and the last crossing
    of each, quantiles_first_n[a->b] and quantiles_last_n[a->b], 5 and 95 per cent of the data sets themselves,
    and spread_data[a->b], spread_chains[a->b]: the error of critical_n by source;
    by descent, outside: the largest share of draws at any value that is in no phase of the catalogue. Of a part on data
    beside which the run has the population loss of as many features, late[a->b]: critical_n/(2 critical_t) - 1.
    """
    found = kinds(run, run.quantities, lambda part, data, axis: kept(data, axis, _returned) if axis == "t" else None)
    every = told(run)
    for population, data in beside(every):
        for a, b in data.pairs():
            before, after = population.crossing(a, b), data.crossing(a, b)
            if before is not None and after is not None:
                ratio = after.value / (2 * before.value)
                error = ratio * math.hypot(after.stderr / after.value, before.stderr / before.value)
                prefix = "" if data.part == "main" else f"{data.part}."
                found[f"{prefix}late[{a}->{b}]"] = Quantity(np.array(ratio - 1), np.array(error), {})
    for one in every:
        prefix = "" if one.part == "main" else f"{one.part}."
        if one.rule == "descent":
            prefix += "descent."
            found[f"{prefix}outside"] = known(one.share([-1])[0].max() if one.label.size else np.nan)
        for a, b in one.pairs():
            at = one.crossing(a, b)
            way = f"[{a}->{b}]"
            found[f"{prefix}critical_{one.axis}{way}"] = quantity(at)
            own = (one.families[a], one.families[b])
            told_by = kind(one.x, at, one.label, *own, len(one.names), shown(run, one, b))
            found |= {f"{prefix}{name}{way}": value for name, value in told_by.items()}
            if one.axis == "t" and one.rule == "hull":
                guesses = _superposition_theory.theory(one.c, a, b, at, one.difference(a, b))
                told_by = foretold("t", f"{a}->{b}", guesses, at)
                found |= {f"{prefix}{name}": value for name, value in told_by.items()}
            single = one.single(a, b) if one.axis == "n" else None
            if single is not None:
                for name, ends in (("first", single.first), ("last", single.last)):
                    own = _dynamics.median(plateaus.middle(ends[np.isfinite(ends)]))
                    found[f"{prefix}{name}_n{way}"], found[f"{prefix}quantiles_{name}_n{way}"] = own.values()
                if at is not None:
                    found[f"{prefix}spread_data{way}"] = known(at.data)
                    found[f"{prefix}spread_chains{way}"] = known(at.chains)
    return found
