"""What is read off the production's draws: the profile, its top and minima, the basins, and whether halves agree."""

from typing import Any, NamedTuple

import jax
import numpy as np

from slt.estimators import profile
from slt.estimators.profile import Curve
from slt.measure.barrier.pilot import Layout
from slt.measure.barrier.umbrella import Bias, Draws
from slt.typing import Estimate, InputError

INNER = 256  # bins between the ends
OUTER = 24  # bins beyond each end
NEEDED = 10  # draws that a bin needs to be shown


class Reading(NamedTuple):
    """The curve and what is read off it; low and high are the lower and the upper basin along the order parameter."""

    curve: Curve
    top: profile.Extremum
    low: profile.Extremum
    high: profile.Extremum
    numbers: Estimate
    """[13]: x and F of the top, of the low and of the high minimum; F of the low and of the high basin; F_high - F_low;
    the top over the low and over the high minimum, and over the low and over the high basin"""
    goals: tuple[float, float]
    "where the upper basin's core begins, and where the lower one's ends: within a nat of the minimum"
    hysteresis: tuple[Estimate, Estimate]


def found_curve(layout: Layout, bias: Bias, drawn: Draws, outer: int) -> Curve:
    """The profile of the finite replicates in INNER bins between the ends, `outer` beyond each; NaN where few fell."""
    kept = drawn.orders[drawn.finite]
    if kept.shape[0] < 4:
        raise InputError("sampler", kept.shape[0], "fewer than 4 replicates stayed finite: look at the model's loss")
    reach = float(np.quantile(kept[:, 0], 1e-3)), float(np.quantile(kept[:, -1], 1 - 1e-3))

    def reduced(x: np.ndarray) -> np.ndarray:
        return layout.reduced(bias, x)

    found = profile.curve(kept, reduced, layout.edges(INNER, outer, reach), layout.table(kept))
    known = found.drawn[1:-1] >= NEEDED
    return found._replace(value=np.where(known, found.value, np.nan), stderr=np.where(known, found.stderr, np.nan))


def read(layout: Layout, bias: Bias, drawn: Draws) -> Reading:
    """Everything that is read off the curve, with errors by the jackknife over replicates."""
    curve = found_curve(layout, bias, drawn, OUTER)
    x, noise = curve.x, curve.stderr
    between = (x >= layout.low) & (x <= layout.high)
    top = profile.extremum(x[between], curve.value[between], noise[between], top=True)
    below, above = x < top.x, x > top.x
    low = profile.extremum(x[below], curve.value[below], noise[below], top=False)
    high = profile.extremum(x[above], curve.value[above], noise[above], top=False)
    inner = np.concatenate([[True], below, [False]]), np.concatenate([[False], ~below, [True]])

    def numbers(f: np.ndarray) -> np.ndarray:
        value = f[1:-1]
        found = [
            profile.extremum(x[part], value[part], noise[part], top=up, kink=known.kink)
            for part, up, known in ((between, True, top), (below, False, low), (above, False, high))
        ]
        shift = f - base
        basins = [-np.log(np.nansum(curve.mass[part] * np.exp(-shift[part]))) for part in inner]
        first = [*(v for e in found for v in (e.x, e.value)), *basins, basins[1] - basins[0]]
        return np.array([*first, first[1] - first[3], first[1] - first[5], first[1] - first[6], first[1] - first[7]])

    with np.errstate(divide="ignore", invalid="ignore"):
        base = curve.whole
        every = profile.jackknife(curve, numbers)
    error = np.array(every.stderr)
    for place, x_there in ((0, top.x), (2, low.x), (4, high.x)):  # no place is known better than its bin is wide
        bin_ = np.clip(np.searchsorted(curve.edges, x_there) - 1, 0, len(x) - 1)
        error[place] = np.hypot(error[place], np.diff(curve.edges)[bin_] / np.sqrt(12))
    every = every._replace(stderr=error)
    goals = _core(x[above], curve.value[above], high.value)[0], _core(x[below], curve.value[below], low.value)[1]
    halves = _halves(curve, drawn.finite, numbers)
    return Reading(curve, top, low, high, every, goals, halves)


def _core(x: np.ndarray, value: np.ndarray, least: float) -> tuple[float, float]:
    inside = np.flatnonzero(value < least + 1)
    return float(x[inside[0]]), float(x[inside[-1]])


def _halves(curve: Curve, finite: np.ndarray, numbers: Any) -> tuple[Estimate, Estimate]:
    """Top over the mean of both basins, and preference: replicates from the lower end minus those from the upper."""
    from_low = (np.arange(len(finite)) < len(finite) // 2)[finite]
    if from_low.sum() < 2 or (~from_low).sum() < 2:
        nothing = Estimate(np.array(np.nan), np.array(np.nan))
        return nothing, nothing
    sides = []
    for rows in (from_low, ~from_low):
        part = curve._replace(replicates=curve.replicates[:, rows])
        deviation = part.replicates.mean(1)
        part = part._replace(replicates=part.replicates - deviation[:, None])

        def pair(f: np.ndarray, d: np.ndarray = deviation) -> np.ndarray:
            every = numbers(f + d)
            return np.array([every[1] - (every[6] + every[7]) / 2, every[8]])

        sides.append(profile.jackknife(part, pair))
    one, other = sides
    gap, error = one.value - other.value, np.hypot(np.asarray(one.stderr), np.asarray(other.stderr))
    return Estimate(gap[0], error[0]), Estimate(gap[1], error[1])


def cores(reading: Reading, drawn: Draws, chains: int) -> Any:
    """Starts [2, chain, ...] of escapes: the end windows' last positions inside the core of their basin, or nearest."""
    goals = reading.goals
    last = drawn.orders[..., -1]
    replicates, windows = last.shape
    rows = []
    for inside, distance in (
        ((last <= goals[1]), np.abs(last - reading.low.x)),
        ((last >= goals[0]), np.abs(last - reading.high.x)),
    ):
        good = np.flatnonzero((inside & drawn.finite[:, None]).reshape(-1))
        if not len(good):
            good = np.array([int(np.nanargmin(distance))])
        rows.append(good[np.arange(chains) % len(good)])
    chosen = np.stack(rows)
    return jax.tree.map(lambda leaf: leaf.reshape(replicates * windows, *leaf.shape[2:])[chosen], drawn.positions)


def near_top(reading: Reading, drawn: Draws, count: int = 8) -> Any:
    """The last positions [count, ...] whose order is nearest to the top."""
    away = np.abs(np.where(np.isfinite(drawn.orders[..., -1]), drawn.orders[..., -1], np.inf) - reading.top.x)
    chosen = np.argsort(away.reshape(-1))[:count]
    return jax.tree.map(lambda leaf: leaf.reshape(away.size, *leaf.shape[2:])[chosen], drawn.positions)
