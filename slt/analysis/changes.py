"""slt.change_points: where the curves of a sweep change along an axis, with a false-alarm probability for it all."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr

from slt.analysis.draws import SEED, Draws
from slt.results import Run
from slt.results.words import label
from slt.transitions.changepoints import SLACK, Scan, detect
from slt.transitions.falls import SHARES, kind
from slt.typing import Estimate, InputError, Quantity

PHYSICAL = ("t", "n", "beta")
"""Axes along which theory says what one phase does; all others are controls."""
FEWEST = 5
"""Points that a scan needs."""
CHAINS = 4
"""Chains, or data sets, whose spread tells an error: fewer leave Student's t without a variance."""
MIXED = 5.0
"""Effective draws a chain below which chains that are no ladders disagree (R-hat beyond 1.1)."""


@dataclass(frozen=True)
class Changes:
    """Change points of the curves of a sweep along one of its axes, at every point of the others.

    coords: the other axes; scans: a point of them (its values in their order; () where there are none) -> its `Scan`,
    for all points that have enough of the axis; curves: what was scanned, over coords and the axis, NaN where left
    out. All probabilities are those of an alarm anywhere in this result.
    """

    along: str
    coords: dict[str, list]
    scans: dict[tuple, Scan]
    curves: dict[str, Quantity]

    @property
    def false_alarm(self) -> float:
        """The probability that without any transition anything here alarms as loudly as the loudest scan."""
        return min(scan.false_alarm for scan in self.scans.values())

    @property
    def quantities(self) -> dict[str, Quantity]:
        """change_<axis> with 90 per cent intervals, NaN where there is no change point or are several, and false_alarm,
        over `coords`; changes_<axis>, how many there are, where some point has several.
        """
        shape = tuple(map(len, self.coords.values()))
        where, several, alarm = np.full((*shape, 4), np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
        for index, at in _points(self.coords):
            if at not in self.scans:
                continue
            scan = self.scans[at]
            alarm[index], several[index] = scan.false_alarm, len(scan.change_points)
            if len(scan.change_points) == 1:
                (one,) = scan.change_points
                stderr = one.stderr * (one.x if self.along in PHYSICAL else 1.0)
                where[index] = one.x, stderr, *one.interval
        blank = np.full(shape, np.nan)
        found = {
            f"change_{self.along}": Quantity(where[..., 0], where[..., 1], self.coords, where[..., 2:]),
            "false_alarm": Quantity(alarm, blank, self.coords),
        }
        if np.nanmax(several) > 1:
            found[f"changes_{self.along}"] = Quantity(several, blank, self.coords)
        return found

    @property
    def verdict(self) -> str:
        """A sentence for each point of the other axes."""
        said = []
        for at, scan in self.scans.items():
            there = zip(self.coords.items(), at, strict=True)
            place = ", ".join(f"{name} = {label(value)}" for (name, values), value in there if len(values) > 1)
            said.append(f"{place}: {scan.verdict}" if place else scan.verdict)
        return "\n".join(said)

    def __str__(self) -> str:
        return self.verdict


def change_points(
    data: xr.Dataset | Run,
    along: str | None = None,
    *,
    part: str = "main",
    data_sets: Literal["average", "each"] | None = None,
    level: float = 0.02,
    slack: float = SLACK,
    scale: float | None = None,
    simulations: int = 4000,
    seed: int = 0,
) -> Changes:
    """Where the posterior changes along an axis of a sweep, told from its curves as `Changes`.

    data: what `slt.sweep` gives, or a loaded run, of which `part` is meant. The curves are E[L_n], the heat capacity
    (n beta)^2 Var(L_n), the learning coefficient n beta (E[L_n] - L_n(w*)) where a minimum is known everywhere, and
    each phase's share of the draws. along: `t`, `n`, `beta` or a control; by default the ladders' axis, else the one of
    these with the most values. In t, n or beta, curves are held against what one phase can do, as
    slt.transitions.changepoints tells: so a change point is where more than one phase, or a bump of the size of one, is
    needed; what the two are `slt.transition` tells. Along a control they are held against smooth curves.

    data_sets: `average` over data seeds, with the larger of their spread's error and their own (the default with 4 or
    more; the only way along n, where one data set's curve moves by itself), or `each`. level: probability of any alarm
    without a transition, over all curves and all points of the other axes together. slack (nats that lam may fall),
    scale (of the smooth null along a control), simulations, seed: as of slt.transitions.changepoints.detect.

    Errors count as known to as many degrees of freedom as there are chains (ladders; data sets where averaged), less
    one. Left out are points where no chain is well, where chains that are no ladders disagree (fewer than 5 effective
    draws of E[L_n] a chain: they are trapped, and tell of their starts), and, averaged, where this holds for any data
    set. A ladder started in one phase only, which never left it, is not seen to.

    InputError for an unknown axis or part, and where no sweep has 5 points and 4 chains (or data sets) that count.
    """
    if isinstance(data, Run):
        if part not in data.data.children:
            raise InputError("part", part, f"the run has: {', '.join(data.data.children)}")
        data = data.data[part].to_dataset()
    if not isinstance(data, xr.Dataset) or "delta" not in data:
        raise InputError("data", type(data).__name__, "give the dataset of slt.sweep, or a run that slt.load gave")
    if data_sets not in (None, "average", "each"):
        raise InputError("data_sets", data_sets, "choose average or each")
    view = Draws(data)
    axis = _axis(view) if along is None else along
    if axis not in view.grid or axis == SEED:
        known = [name for name in view.grid if name != SEED]
        raise InputError("along", axis, f"give an axis of {FEWEST} values or more; the grid has: {', '.join(known)}")
    test = functools.partial(detect, level=level, slack=slack, scale=scale, simulations=simulations, seed=seed)
    found = _scan(view, axis, data_sets, test)
    if not found.scans:
        cure = f"no sweep has {FEWEST} points and {CHAINS} chains (along n: data sets) that agree: nothing can be told"
        raise InputError("data", {name: data.sizes[name] for name in (*view.grid, "chain")}, cure)
    return found


def quantities(view: Draws) -> dict[str, Quantity]:
    """`Changes.quantities` along the default axis; none where nothing can be told."""
    axis = _axis(view)
    if axis is None:
        return {}
    try:
        found = _scan(view, axis, None, functools.partial(detect, simulations=1000))
    except InputError:  # values of n beta that coincide, or do not ascend with n
        return {}
    return found.quantities if found.scans else {}


def _axis(view: Draws) -> str | None:
    """The axis of the ladders, else that of t, n and beta with the most values, else the longest control."""
    length = {name: view.data.sizes[name] for name in view.grid if name != SEED}
    long = [name for name in length if length[name] >= FEWEST]
    ladder = str(view.data.attrs.get("coupled"))
    physical = [name for name in PHYSICAL if name in long]
    return ladder if ladder in long else max(physical or long, key=lambda name: length[name], default=None)


class _Sweeps(NamedTuple):
    """Curves [others..., x], x as the grid has it, those of each chain or data set [others..., x, replicate], and at
    each of the others the degrees of freedom of the curves' errors.
    """

    coords: dict[str, list]
    values: list
    x: np.ndarray
    nbeta: np.ndarray
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    replicates: dict[str, np.ndarray]
    dof: np.ndarray


def _scan(view: Draws, axis: str, data_sets: str | None, test: Callable[..., Scan]) -> Changes:
    found = _sweeps(view, axis, data_sets)
    ready = {}
    for index, at in _points(found.coords):
        told = {name: (one[0][index], one[1][index]) for name, one in found.curves.items()}
        told = {name: pair for name, pair in told.items() if _tells(name, *pair)}
        if found.dof[index] >= CHAINS - 1 and "loss" in told:
            ready[at] = index, told
    scans = {
        at: test(
            found.x[index], told, axis=axis if axis in PHYSICAL else "control", nbeta=found.nbeta[index],
            dof=float(found.dof[index]), sweeps=len(ready),
            replicates={name: table[index] for name, table in found.replicates.items()},
        )
        for at, (index, told) in ready.items()
    }  # fmt: skip
    coords = found.coords | {axis: found.values}
    return Changes(axis, found.coords, scans, {name: Quantity(*one, coords) for name, one in found.curves.items()})


def _tells(name: str, value: np.ndarray, stderr: np.ndarray) -> bool:
    """Whether a curve has enough points; a share that never moves has nothing to tell."""
    known = np.isfinite(value) & np.isfinite(stderr)
    return known.sum() >= FEWEST and not (kind(name) in SHARES and np.ptp(value[known]) == 0)


def _sweeps(view: Draws, axis: str, data_sets: str | None) -> _Sweeps:
    """The curves of a part along one axis. A share that follows from another, as of two phases, is left out."""
    chains, estimates = view.ok.sum(-1), view.curves
    curves = {name: (np.asarray(one.value, float), np.asarray(one.stderr, float)) for name, one in estimates.items()}
    shares = [name for name in curves if kind(name) in SHARES]
    if len(shares) == 2 and np.allclose(curves[shares[0]][0] + curves[shares[1]][0], 1.0, equal_nan=True):
        del curves[shares.pop()]
    if axis in PHYSICAL:  # up to L_n(w_ref), which along n is another for each n
        curves["loss"] = curves["loss"][0] - view.offset, curves["loss"][1]
    if not view.laddered:
        for name, (value, stderr) in curves.items():
            few = [_few(estimates[one], MIXED * chains) for one in {"loss", name if name in shares else "loss"}]
            curves[name] = np.where(np.any(few, axis=0), np.nan, value), stderr
    dims, x = list(view.grid), view.on_grid("beta_value" if axis == "beta" else axis).astype(float)
    nbeta, dof = view.nbeta.astype(float), chains - 1
    sets, several = view.data.sizes.get(SEED, 1), view.by_chain
    if SEED in dims and (data_sets == "average" or (data_sets is None and sets >= CHAINS)):
        at = dims.index(SEED)
        several = {name: np.moveaxis(curves[name][0], at, -1) for name in several if name in curves}
        for name, (value, stderr) in curves.items():
            mean = view.over_seeds(Estimate(value, stderr))
            curves[name] = np.where(np.isfinite(value).all(at), mean.value, np.nan), mean.stderr
        x, nbeta, dof = (each.take(0, at) for each in (x, nbeta, np.full(chains.shape, sets - 1)))
        dims.remove(SEED)
    elif axis == "n":
        dof = np.zeros_like(dof)  # one data set's curve moves by itself along n, by more than its chains can tell
    where = dims.index(axis)
    dof = dof.min(where)
    x, nbeta = (np.moveaxis(each, where, -1) for each in (x, nbeta))
    order = np.argsort(x.reshape(-1, x.shape[-1])[0])
    order = order[(x[..., order] > 0).reshape(-1, order.size).all(0)] if axis in PHYSICAL else order
    curves = {name: (np.moveaxis(v, where, -1)[..., order], np.moveaxis(s, where, -1)[..., order])
              for name, (v, s) in curves.items()}  # fmt: skip
    several = {name: np.moveaxis(each, where, -2)[..., order, :] for name, each in several.items()}
    coords = {name: view.coords[name] for name in dims if name != axis}
    values = [view.coords[axis][i] for i in order]
    return _Sweeps(coords, values, x[..., order], nbeta[..., order], curves, several, dof)


def _few(estimate: Estimate, than: np.ndarray) -> np.ndarray:
    """Where an ESS is known and less."""
    return np.nan_to_num(np.asarray(estimate.ess, float), nan=np.inf) < than


def _points(coords: dict[str, list]) -> Iterator[tuple[tuple[int, ...], tuple]]:
    """(index, values) of every point."""
    shape = tuple(map(len, coords.values()))
    return zip(np.ndindex(shape), itertools.product(*coords.values()), strict=True)
