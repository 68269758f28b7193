"""The draws of one part of a run that count, and what is estimated from them at every point of its grid."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from slt.estimators import diagnostics, free_energy, llc, occupancy
from slt.transitions import masses
from slt.typing import Estimate, Quantity

SEED = "data_seed"
ROUTES = {
    "free_energy": free_energy.thermodynamic,
    "free_energy_mbar": free_energy.mbar,
    "free_energy_difference": free_energy.difference,
}


class Draws:
    """The draws of one part that count: after burn-in, of chains that did not break."""

    def __init__(self, data: xr.Dataset):
        self.data = data
        self.grid = tuple(str(dim) for dim in data["offset"].dims)
        self.keep = ~data["burn_in"].values
        self.ok = data["status"].transpose(*self.grid, "chain").values == 0
        self.delta = self.draws("delta")
        self.nbeta = self.on_grid("nbeta" if "nbeta" in data.coords else "t")
        self.offset = data["offset"].transpose(*self.grid).values
        self.coords = {str(name): data[name].values.tolist() for name in self.grid}

    def draws(self, name: str) -> np.ndarray:
        """A traced number [grid..., chain, draw] after burn-in."""
        return self.data[name].transpose(*self.grid, "chain", "draw").values[..., self.keep]

    def on_grid(self, name: str) -> np.ndarray:
        """A coordinate or variable over grid axes, broadcast to all of them."""
        shape = [self.data.sizes[dim] for dim in self.grid]
        aligned = self.data[name].broadcast_like(self.data["offset"]).transpose(*self.grid)
        return np.broadcast_to(aligned.values, shape)

    def quantity(self, value: Any, stderr: Any) -> Quantity:
        """A quantity over the whole grid."""
        return Quantity(np.asarray(value, float), np.asarray(stderr, float), self.coords)

    def over_seeds(self, estimate: Estimate) -> Quantity:
        """Mean over data seeds where the grid has them: the error is the larger of their spread's and their own."""
        value, stderr = np.asarray(estimate.value, float), np.asarray(estimate.stderr, float)
        if SEED not in self.grid:
            return self.quantity(value, stderr)
        axis = self.grid.index(SEED)
        known = np.isfinite(value) & np.isfinite(stderr)
        count = known.sum(axis)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, value, 0).sum(axis) / count
            spread = np.where(known, np.square(value - np.expand_dims(mean, axis)), 0).sum(axis) / (count - 1) / count
            own = np.where(known, np.square(stderr), 0).sum(axis) / np.square(count)
            error = np.sqrt(np.fmax(spread, own))
        coords = {name: values for name, values in self.coords.items() if name != SEED}
        return Quantity(np.where(count > 0, mean, np.nan), np.where(count > 0, error, np.nan), coords)

    def baseline(self, phase: str | None = None) -> np.ndarray:
        """delta(w*) [grid...] of the lowest minimum that was quenched, of one phase or of all; NaN where none was."""
        if "baseline" not in self.data:
            return np.full(self.offset.shape, np.nan)
        table = self.data["baseline"].transpose(*self.grid, "basin").values
        if phase is not None:
            table = table[..., self.data["basin_phase"].values == phase]
        blank = np.full((*self.offset.shape, 1), np.inf)
        lowest = np.min(np.concatenate([table, blank], axis=-1), axis=-1)
        return np.where(np.isfinite(lowest), lowest, np.nan)

    @functools.cached_property
    def names(self) -> list[str]:
        """The phases' names, none where no phases are told."""
        return list(self.data["phase"].attrs["names"]) if "phase" in self.data else []

    @functools.cached_property
    def laddered(self) -> bool:
        """Whether chains are ladders, whose walkers move."""
        return "rung_delta" in self.data

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Phase labels [grid..., chain, draw]."""
        return self.draws("phase").astype(int)

    @functools.cached_property
    def curves(self) -> dict[str, Estimate]:
        """What `slt.change_points` follows, each [grid...]: loss, heat_capacity, llc, and mass[P] or occupancy[P]."""
        mean = diagnostics.mean(self.delta, ok=self.ok)
        found = {"loss": Estimate(mean.value + self.offset, mean.stderr, mean.ess)}
        if self.delta.shape[-1] > 1:
            found["heat_capacity"] = llc.heat_capacity(self.delta, self.nbeta, ok=self.ok)
        lowest = self.baseline()
        if np.isfinite(lowest).all():
            value = self.nbeta * (mean.value - lowest)
            found["llc"] = Estimate(value, self.nbeta * np.asarray(mean.stderr), mean.ess)
        if self.names:
            trips = self.round_trips() if self.laddered else None
            share = occupancy.occupancy(self.labels, len(self.names), ok=self.ok, independent=trips)
            kind = "mass" if self.laddered else "occupancy"
            found |= {f"{kind}[{name}]": _member(share, k) for k, name in enumerate(self.names)}
        return found

    @functools.cached_property
    def by_chain(self) -> dict[str, np.ndarray]:
        """The loss less its offset, heat_capacity and llc as each chain alone has them [grid..., chain]; NaN where it
        broke. Heat capacities are about the mean of all chains, so that their mean is that of all.
        """
        delta = np.where(self.ok[..., None], self.delta, np.nan).astype(float)
        loss, scale = delta.mean(-1), self.nbeta[..., None]
        middle = np.asarray(self.curves["loss"].value - self.offset)[..., None]
        found = {"loss": loss, "llc": scale * (loss - self.baseline()[..., None])}
        return found | {"heat_capacity": np.square(scale) * np.square(delta - middle[..., None]).mean(-1)}

    def over_all(self) -> dict[str, Quantity]:
        """Quantities that need no phases."""
        found = {
            "loss": self.quantity(*self.curves["loss"][:2]),
            "rhat": self.quantity(diagnostics.rhat(self.delta, ok=self.ok), np.nan * self.offset),
            "ess": self.quantity(diagnostics.ess(self.delta, ok=self.ok), np.nan * self.offset),
        }
        found |= {
            name: self.quantity(*self.curves[name][:2]) for name in ("heat_capacity", "llc") if name in self.curves
        }
        if "acceptance" in self.data and self.data["acceptance"].notnull().any():
            rate = diagnostics.mean(self.draws("acceptance"), ok=self.ok)
            found["acceptance"] = self.quantity(rate.value, rate.stderr)
        return found

    def by_phase(self) -> dict[str, Quantity]:
        """Quantities of each phase."""
        labels, count = self.labels, len(self.names)
        inside = diagnostics.within_phases(self.delta, labels, count, ok=self.ok)
        dwell = occupancy.mean_dwell(occupancy.dwell(labels, ok=self.ok), count)
        baselines = np.stack([self.baseline(name) for name in self.names], axis=-1)
        known = np.isfinite(baselines)
        local = llc.llc_by_phase(self.delta, labels, count, self.nbeta, np.where(known, baselines, 0.0), ok=self.ok)
        level = llc.llc_by_phase(self.delta, labels, count, np.ones_like(self.nbeta), ok=self.ok)
        found = {}
        for k, name in enumerate(self.names):
            share = f"{'mass' if self.laddered else 'occupancy'}[{name}]"
            found[share] = self.quantity(*self.curves[share][:2])
            seen, own = _member(level, k), _member(local, k)
            found[f"loss[{name}]"] = self.over_seeds(Estimate(seen.value + self.offset, seen.stderr))
            found[f"llc[{name}]"] = self.over_seeds(
                Estimate(np.where(known[..., k], own.value, np.nan), np.where(known[..., k], own.stderr, np.nan))
            )
            found[f"rhat[{name}]"] = self.quantity(inside.rhat[..., k], np.nan * self.offset)
            found[f"ess[{name}]"] = self.quantity(inside.ess[..., k], np.nan * self.offset)
            if not self.laddered:
                found[f"dwell[{name}]"] = self.over_seeds(_member(dwell, k))
        return found

    def critical(self, orbits: Mapping[str, str] | None = None) -> dict[str, Quantity]:
        """critical_t[a->b] (t the axis of the ladders) with 90 per cent intervals, at every point of the other axes.

        Averaged over data sets where there are several. NaN where there is no such crossing, or more than one: then
        crossings[a->b] counts them. Beside each, drift[a->b]: what F_a - F_b changes about it from the first half of
        the draws to the second (`masses.drift`). Ladders that broke anywhere on the axis do not count. orbits: phases
        that cross as one, by name -> the name of them all.
        """
        axis, called = str(self.data.attrs["coupled"]), [(orbits or {}).get(name, name) for name in self.names]
        names = list(dict.fromkeys(called))
        x = self.data["beta_value" if axis == "beta" else axis]
        others = [name for name in self.grid if name not in (axis, SEED)]
        order = [*others, *([SEED] if SEED in self.grid else []), axis]
        if x.ndim > 1 or x.size < 2:
            return {}
        label = np.array([*(names.index(name) for name in called), -1])[self.labels]
        labels = label.transpose([*(self.grid.index(d) for d in order), -2, -1])
        ok = self.ok.transpose([*(self.grid.index(d) for d in order), -1])
        if SEED not in self.grid:
            labels, ok = np.expand_dims(labels, len(others)), np.expand_dims(ok, len(others))
        rising = np.argsort(x.values)
        coords = {name: self.coords[name] for name in others}
        shape = labels.shape[: len(others)]
        tables: dict[str, np.ndarray] = {}
        for index in np.ndindex(shape):
            use = ok[index].all((0, 1))
            if use.sum() < 2:
                continue
            own = labels[index][:, rising][:, :, use]
            for (a, b), several in masses.critical(x.values[rising], own, len(names)).items():
                table = tables.setdefault(f"[{names[a]}->{names[b]}]", np.full((*shape, 7), np.nan))
                one = several[0]
                table[(*index, 0)] = len(several)
                if len(several) == 1:
                    moved = masses.drift(own, [a], [b])
                    table[index][1:] = one.value, one.stderr, *one.interval, *moved
        found = {}
        for name, table in tables.items():
            found[f"critical_{axis}{name}"] = Quantity(table[..., 1], table[..., 2], coords, table[..., 3:5])
            found[f"drift{name}"] = Quantity(table[..., 5], table[..., 6], coords)
            if not (table[..., 0] == 1).all():
                counts = np.nan_to_num(table[..., 0])
                found[f"crossings{name}"] = Quantity(counts, np.full(counts.shape, np.nan), coords)
        return found

    def round_trips(self) -> np.ndarray:
        """Round trips of all ladders of a cell after burn-in [grid...]: independent looks; at least one a ladder."""
        trips = self.data["round_trips"].isel(draw=self.keep)
        made = (trips.isel(draw=-1) - trips.isel(draw=0)).clip(min=0).sum(("rung", "chain"))  # a broken one has -1
        whole = made.broadcast_like(self.data["offset"]).transpose(*self.grid).values
        return np.maximum(whole, self.data.sizes["chain"])

    def ladders(self) -> dict[str, Quantity]:
        """Free energies and exchange rates of ladders along t or beta."""
        axis = str(self.data.attrs["coupled"])
        others = tuple(dim for dim in self.grid if dim != axis)
        rungs = self.data[["rung_value", "rung_delta", "swap", "round_trips"]]
        rungs = rungs.transpose(*others, "chain", "rung", "draw").isel(draw=self.keep)
        swaps = rungs["swap"].mean(("draw", "chain")).transpose(*others, "rung")
        coords = {name: self.coords[name] for name in others} | {"rung": list(range(self.data.sizes["rung"]))}
        trips = rungs["round_trips"].isel(draw=-1).sum("rung").transpose(*others, "chain").values
        several = trips.shape[-1] > 1  # one ladder alone says nothing of its error
        spread = trips.std(-1, ddof=1) / np.sqrt(trips.shape[-1]) if several else np.full(trips.shape[:-1], np.nan)
        found = {
            "swap": Quantity(swaps.values, np.full(swaps.shape, np.nan), coords),
            "round_trips": Quantity(trips.mean(-1), spread, {k: self.coords[k] for k in others}),
        }
        if axis == "n" or float(rungs["rung_value"].min()) > 0:
            return found
        where = self.grid.index(axis)
        last = [*(i for i in range(len(self.grid)) if i != where), where]
        offset, ok = self.offset.transpose(last)[..., 0], self.ok.transpose([*last, len(self.grid)]).all(axis=-2)
        blank = np.full(self.offset.transpose(last).shape, np.nan)
        tables = {name: (blank.copy(), blank.copy()) for name in ROUTES}
        for index in np.ndindex(offset.shape):
            cell = dict(zip(others, index, strict=True))
            one, at = rungs.isel(cell), self.data["beta_value" if axis == "beta" else axis]
            at = np.asarray(at.isel({dim: i for dim, i in cell.items() if dim in at.dims}).values, float)
            scale = float(self.data["n"].values[index[others.index("n")]]) if axis == "beta" else 1.0
            energies = one["rung_delta"].values.astype(float) + offset[index]
            values = one["rung_value"].isel(draw=-1).values.astype(float) * scale
            for name, route in ROUTES.items():
                estimate = route(energies, values, at * scale, ok=ok[index])
                tables[name][0][index], tables[name][1][index] = estimate.value, estimate.stderr
        back = np.argsort(last)
        return found | {name: self.quantity(*(t.transpose(back) for t in pair)) for name, pair in tables.items()}


def _member(estimate: Estimate, k: int) -> Estimate:
    """The k-th phase of an estimate [..., phase]."""
    ess = None if estimate.ess is None else np.asarray(estimate.ess)[..., k]
    return Estimate(np.asarray(estimate.value)[..., k], np.asarray(estimate.stderr)[..., k], ess)
