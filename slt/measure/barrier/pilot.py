"""The pilot: fronts of chains driven from each end to the other, the bias made from them, and the windows placed by it.

From the mean force that holds each front comes a bias V(x), about the profile itself, under which the production's
windows are flat to a nat or so, however high the barrier.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import PchipInterpolator

from slt.estimators import profile
from slt.measure.barrier.umbrella import KNOTS, Bias, flat, flattening, stage
from slt.posterior import Position, Posterior
from slt.samplers.base import Sampler
from slt.typing import InputError, Key

CHAINS, BURN_IN, DRAWS = 16, 32, 64
ADVANCE = 1.2  # standard deviations that a front moves at a time: neighbouring windows overlap
SURPRISE = 1.2  # how far, in nats a standard deviation, a mean force may be from the one foreseen: at a kink it is
MOST_STAGES = 4000


class Front(NamedTuple):
    """The accepted windows of one front: [stage] means, standard deviations, mean forces F', and positions."""

    mean: np.ndarray
    spread: np.ndarray
    force: np.ndarray
    positions: list[Position]
    begin: int
    "the stage at which it turned towards the other end"
    arrived: bool


@dataclass
class _Walker:
    """One front as it is driven.

    A window that works is followed by one ADVANCE further on, one that fails by one of four times the stiffness and so
    half the advance.
    """

    sign: float
    softest: float
    stiffest: float
    centre: float
    stiffness: float
    tilt: float = 0.0
    expected: float = 0.0
    curvature: float = 0.0
    outward: bool = True
    done: bool = False
    arrived: bool = False
    begin: int = 0
    fails: int = 0

    def __post_init__(self) -> None:
        self.means: list[float] = []
        self.spreads: list[float] = []
        self.forces: list[float] = []
        self.curvatures: list[float] = []
        self.positions: list[Position] = []
        self.expected = self.stiffness**-0.5

    def seen(self, orders: np.ndarray) -> bool:
        """Judge the window just sampled from its orders [draw, chain]; whether it is accepted."""
        mean, spread = float(orders.mean()), float(orders.std())
        good = (
            bool(np.isfinite(orders).all())
            and abs(mean - self.centre) < 2 * self.expected
            and spread < 2.2 * self.expected
            and bool((np.abs(orders - self.centre) < 8 * self.expected).all())
        )
        first = not self.means
        headed = -self.sign if self.outward else self.sign
        good = good and (first or headed * (mean - self.means[-1]) > 0.1 * self.expected)
        force = -(self.tilt + self.stiffness * (mean - self.centre))
        if good and not first:
            foreseen = self.forces[-1] + self.curvature * (mean - self.means[-1])
            good = abs(force - foreseen) * self.expected < SURPRISE
        if not good:
            self.fails += 1
            self.stiffness *= 4
            if self.stiffness > self.stiffest:
                self._turn_or_stop()
            elif not first:
                self._aim()
            else:
                self.expected = self.stiffness**-0.5
            return False
        self.fails = 0
        self.means.append(mean)
        self.spreads.append(max(spread, 1e-30))
        self.forces.append(force)
        self.curvatures.append(1 / self.spreads[-1] ** 2 - self.stiffness)
        if self.outward and self.sign * self.forces[-1] * self.spreads[-1] < 0.5:
            self._turn()
        self.stiffness = max(self.softest, self.stiffness / 3)
        self._aim()
        return True

    def _turn(self) -> None:
        self.outward, self.begin = False, len(self.means) - 1

    def _turn_or_stop(self) -> None:
        if self.outward and self.means:
            self._turn()
            self.stiffness = self.softest
            self._aim()
        else:
            self.done = True

    def _aim(self) -> None:
        """The next window: its tilt cancels the force expected where it is centred."""
        self.curvature = float(np.clip(self.curvatures[-1], -self.stiffness / 2, None))
        self.expected = (self.stiffness + self.curvature) ** -0.5
        headed = -self.sign if self.outward else self.sign
        self.centre = self.means[-1] + headed * ADVANCE * self.expected
        self.tilt = -(self.forces[-1] + self.curvature * (self.centre - self.means[-1]))


def pilot(
    sampler: Sampler, posterior: Posterior, ends: tuple[Position, Position], orders: tuple[float, float], key: Key
) -> tuple[Front, Front]:
    """A front from each of two points to the other: windows placed one after the other, each where the last one's mean
    force and spread say.

    orders: those of the two points, the first the smaller. A front first walks outwards while the profile falls there.
    """
    width = orders[1] - orders[0]
    softest, stiffest = (8 / width) ** 2, (1e6 / width) ** 2
    walkers = [_Walker(sign, softest, stiffest, at, softest) for sign, at in zip((1.0, -1.0), orders, strict=True)]
    positions = jax.tree.map(lambda *each: np.stack([np.broadcast_to(x, (CHAINS, *x.shape)) for x in each]), *ends)
    dtype = jnp.result_type(float)
    steps = np.full(2, width / 8, dtype)
    knots = jnp.asarray(np.broadcast_to(flat(), (2, 3, KNOTS)), dtype)
    for number in range(MOST_STAGES):
        rows = np.array([[w.centre, w.tilt, w.stiffness] for w in walkers], dtype)
        bias = Bias(rows[:, 0], rows[:, 0], rows[:, 0], rows[:, 1], rows[:, 2], knots)
        one = jax.random.fold_in(key, number)
        seen, moved, tuned = stage(sampler, posterior, bias, steps, positions, one, burn_in=BURN_IN, draws=DRAWS)
        host, tuned = np.asarray(seen, np.float64), np.asarray(tuned)
        positions, steps = jax.tree.map(np.copy, positions), steps.copy()
        for i, w in enumerate(walkers):
            if not w.done and w.seen(host[:, i]):
                for old, new in zip(jax.tree.leaves(positions), jax.tree.leaves(moved), strict=True):
                    old[i] = np.asarray(new)[i]
                w.positions.append(jax.tree.map(lambda leaf, i=i: leaf[i].copy(), positions))
                if np.isfinite(tuned[i]) and tuned[i] > 0:
                    steps[i] = tuned[i]
        if all(not w.outward for w in walkers):
            goals = [walkers[1].means[walkers[1].begin], walkers[0].means[walkers[0].begin]]
            for w, goal in zip(walkers, goals, strict=True):
                if not w.done and w.sign * (w.means[-1] - goal) >= 0:
                    w.done = w.arrived = True
        if all(w.done for w in walkers) or any(w.done and not w.means for w in walkers):
            break
    for w, at in zip(walkers, orders, strict=True):
        if not w.means:
            raise InputError("between", at, "no window holds the chains here: is the order parameter continuous?")
    a, b = (
        Front(np.array(w.means), np.array(w.spreads), np.array(w.forces), w.positions, w.begin, w.arrived)
        for w in walkers
    )
    return a, b


def bias_from(a: Front, b: Front) -> np.ndarray:
    """The knots [3, KNOTS] of V, from one turning point to the other: the mean forces of both fronts, integrated."""
    low, high = a.mean[a.begin], b.mean[b.begin]
    x, force = np.concatenate([a.mean, b.mean]), np.concatenate([a.force, b.force])
    order = np.argsort(x)
    x, force = x[order], force[order]
    inside = (x >= low) & (x <= high)
    x, force = x[inside], force[inside]
    distinct = np.concatenate([[True], np.diff(x) > 1e-7 * (high - low)])
    x, force = x[distinct], force[distinct]
    if len(x) < 2:
        raise InputError("between", (low, high), "the two ends are not apart along the order parameter")
    at = np.interp(np.linspace(0, len(x) - 1, KNOTS), np.arange(len(x)), x)
    slope = np.interp(at, x, force)
    value = np.concatenate([[0.0], np.cumsum(np.diff(at) * (slope[1:] + slope[:-1]) / 2)])
    return np.stack([at, slope, value])


class Layout:
    """The bias V and where windows and bins lie: evenly in s(x), which runs from 0 to 1 over [low, high].

    A third of s is even in x, a third even in the length that the pilot's windows had, a third logarithmic about the
    top of V.
    """

    def __init__(self, knots: np.ndarray, length: np.ndarray):
        """length: places that lie evenly in the pilot's length."""
        self.knots, self.length = knots, length
        at, value = knots[0], knots[2]
        self.low, self.high = float(at[0]), float(at[-1])
        top = int(np.argmax(value))
        self.top = float(at[top])
        inside = 0 < top < len(at) - 1
        below, above = np.flatnonzero(value[:top] < value[top] - 1), np.flatnonzero(value[top:] < value[top] - 1)
        left = float(at[below[-1]]) if len(below) else self.low
        right = float(at[top + above[0]]) if len(above) else self.high
        self.near = (left, right)
        width = max((right - left) / 2, 1e-9 * (self.high - self.low))

        def focus(x: np.ndarray) -> np.ndarray:
            past = (x - self.top) / width
            return np.sign(past) * np.log1p(np.abs(past))

        away = width * np.expm1(np.linspace(0, np.log1p((self.high - self.low) / width), 400))
        x = np.unique(np.clip(np.concatenate([length, self.top - away, self.top + away]), self.low, self.high))
        parts = [(x - self.low) / (self.high - self.low), np.interp(x, length, np.linspace(0, 1, len(length)))]
        if inside:
            bent = focus(x)
            parts.append((bent - bent[0]) / (bent[-1] - bent[0]))
        self._x, self._s = x, np.mean(parts, axis=0)

    def at(self, s: np.ndarray) -> np.ndarray:
        """x of s."""
        return np.interp(s, self._s, self._x)

    def windows(self, count: int) -> tuple[Bias, np.ndarray]:
        """(windows, widths): evenly in s, each as wide as they are apart; the end ones open to the outside."""
        centres = self.at(np.linspace(0, 1, count))
        widths = np.gradient(centres)
        low, high = centres.copy(), centres.copy()
        low[0], high[-1] = -np.inf, np.inf
        return Bias(low, high, centres, np.zeros(count), widths**-2.0, self.knots), widths

    def reduced(self, bias: Bias, x: np.ndarray) -> np.ndarray:
        """B_k(x) [window, point] in float64."""
        aside = np.maximum(bias.low[:, None] - x, 0) + np.maximum(x - bias.high[:, None], 0)
        return bias.stiffness[:, None] / 2 * aside**2 - flattening(x, bias.knots, np)

    def refined(self, x: np.ndarray, value: np.ndarray, stderr: np.ndarray) -> "Layout":
        """The layout of V corrected by a profile found under it, smoothed: x [point] lie evenly in s."""
        correction = profile.smoothed(value - flattening(x, self.knots, np), stderr)
        at = self.at(np.linspace(0, 1, KNOTS))
        new = flattening(at, self.knots, np) + PchipInterpolator(x, correction, extrapolate=True)(
            np.clip(at, x[0], x[-1])
        )
        return Layout(np.stack([at, PchipInterpolator(at, new).derivative()(at), new]), self.length)

    def table(self, draws: np.ndarray) -> np.ndarray:
        """Places so close that no window's energy changes by much between them."""
        low, high = min(float(draws.min()), self.low), max(float(draws.max()), self.high)
        outside = [np.linspace(low, self.low, 513)[:-1], np.linspace(self.high, high, 513)[1:]]
        return np.unique(np.concatenate([outside[0], self.at(np.linspace(0, 1, 16385)), outside[1]]))

    def edges(self, inner: int, outer: int, reach: tuple[float, float]) -> np.ndarray:
        """Edges of bins: `inner` evenly in s, and `outer` beyond each end, evenly as far as `reach`."""
        edges = [self.at(np.linspace(0, 1, inner + 1))]
        if outer and reach[0] < self.low:
            edges.insert(0, np.linspace(reach[0], self.low, outer + 1)[:-1])
        if outer and reach[1] > self.high:
            edges.append(np.linspace(self.high, reach[1], outer + 1)[1:])
        return np.concatenate(edges)


def starts(fronts: tuple[Front, Front], centres: np.ndarray, replicates: int) -> Position:
    """Positions [replicate, window, ...], the first half from the nearest stage of the lower front, the rest upper."""
    chosen = []
    for front, count in zip(fronts, (replicates // 2, replicates - replicates // 2), strict=True):
        stages = [front.begin + int(np.argmin(np.abs(front.mean[front.begin :] - c))) for c in centres]
        for chain in range(count):
            rows = [jax.tree.map(lambda leaf, c=chain: leaf[c % CHAINS], front.positions[s]) for s in stages]
            chosen.append(jax.tree.map(lambda *leaves: np.stack(leaves), *rows))
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *chosen)


def moved(positions: Position, old: np.ndarray, new: np.ndarray) -> Position:
    """Positions [replicate, window, ...] for windows centred elsewhere: those of the nearest old one."""
    nearest = np.argmin(np.abs(old - new[:, None]), axis=1)
    return jax.tree.map(lambda leaf: leaf[:, nearest], positions)
