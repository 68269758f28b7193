"""Steps along a line of coexistence and the points of note on it; `slt.transitions.lines.follow` puts them together."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from slt.typing import InputError

LEAST_GAP = 0.05
"""Nats per e-fold of t (and per unit of h) below which D has no gradient left: the two phases are one."""


class Local(NamedTuple):
    """What is measured at one (h, t), phase by phase; arrays [P].

    free_energy: F_a up to a constant common to all phases; loss: <K>_a; force: <dK/dh>_a; each with its standard
    errors (0: exact). barrier: between the two phases followed, in nats, from the shallower side (NaN: not known), with
    its standard error (infinite: the barrier is a lower bound).
    """

    free_energy: Any
    loss: Any
    force: Any
    free_energy_stderr: Any = 0.0
    loss_stderr: Any = 0.0
    force_stderr: Any = 0.0
    barrier: float = math.nan
    barrier_stderr: float = 0.0


Expectations = Callable[[float, float], Local]
"""expectations(h, t) -> Local."""


class Mark(NamedTuple):
    """A point of note on a line: `end` (the phases become one), `triple` (a third phase, `phase`, is as likely),
    `edge` (the box ends), `lost` (the corrector could not come back to the line, or time was up); reason says it in
    words. Errors are those of ends (from the barrier's) and triple points (from the free energies'); 0 elsewhere.
    """

    kind: str
    h: float
    t: float
    reason: str
    phase: str = ""
    h_stderr: float = 0.0
    t_stderr: float = 0.0


class Point(NamedTuple):
    """A place in the plane, what is measured there, and the gradient of D."""

    u: np.ndarray
    "(h / unit, log t)"
    found: Local
    gradient: np.ndarray


class Walk:
    """One line in one plane: evaluations, tangents, corrections."""

    def __init__(self, expectations: Expectations, pair: tuple[int, int], unit: float, tolerance: float):
        self.expectations, self.pair, self.unit, self.tolerance = expectations, pair, unit, tolerance

    def look(self, u: np.ndarray) -> Point:
        found = self.expectations(float(u[0] * self.unit), float(np.exp(u[1])))
        size = np.shape(found.free_energy)
        if len(size) != 1 or max(self.pair) >= size[0]:
            raise InputError("expectations", size, f"give arrays over phases, with phases {self.pair} among them")
        t = float(np.exp(u[1]))
        gradient = t * np.array([self.difference(found.force) * self.unit, self.difference(found.loss)])
        return Point(u, found, gradient)

    def difference(self, values: Any, phase: int | None = None) -> float:
        """Of phase a and b, or of a and a third phase."""
        return float(values[self.pair[0]] - values[self.pair[1] if phase is None else phase])

    def error(self, found: Local) -> float:
        every = np.broadcast_to(np.asarray(found.free_energy_stderr, float), np.shape(found.free_energy))
        return float(np.hypot(every[self.pair[0]], every[self.pair[1]]))

    def corrected(self, u: np.ndarray, most: float, held: int | None = None) -> Point | None:
        """The nearest point of the line, by Newton's steps along the gradient, or along one axis with the other `held`;
        None if it lies farther than `most`.
        """
        start, free = u, np.ones(2)
        if held is not None:
            free[held] = 0.0
        for _ in range(12):
            point = self.look(u)
            off = self.difference(point.found.free_energy)
            way = free * point.gradient
            size = float(way @ way)
            if not math.isfinite(off) or not size > 0:
                return None
            if abs(off) <= max(self.tolerance, 0.05 * self.error(point.found)):
                return point
            move = -off * way / size
            u = u + move * min(1.0, most / float(np.hypot(*move)))
            if float(np.hypot(*(u - start))) > 2 * most:
                return None
        return None

    def met(self, u: np.ndarray, phase: int, most: float) -> tuple[np.ndarray, np.ndarray]:
        """Where a third phase is as likely as the pair, by Newton's steps from u, and the standard errors (nats of all
        three F taken as independent); u itself with infinite errors if that is farther than `most`.
        """
        start, infinite = u, np.full(2, np.inf)
        for _ in range(12):
            point = self.look(u)
            t, found = float(np.exp(u[1])), point.found
            off = np.array([self.difference(found.free_energy), self.difference(found.free_energy, phase)])
            third = t * np.array([self.difference(found.force, phase) * self.unit, self.difference(found.loss, phase)])
            matrix = np.stack([point.gradient, third])
            if not (np.isfinite(off).all() and np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > LEAST_GAP**2):
                return start, infinite
            back = np.linalg.inv(matrix)
            error = np.broadcast_to(np.asarray(found.free_energy_stderr, float), np.shape(found.free_energy))
            a, b, c = np.square(error[[*self.pair, phase]])
            spread = back @ np.array([[a + b, a], [a, a + c]]) @ back.T
            if np.all(np.abs(off) <= np.maximum(self.tolerance, 0.05 * np.sqrt([a + b, a + c]))):
                return u, np.sqrt(np.diag(spread))
            u = u - back @ off
            if float(np.hypot(*(u - start))) > most:
                return start, infinite
        return start, infinite


class Rules(NamedTuple):
    """How a line is followed and where it stops; limits [axis, (low, high)]; otherwise as the arguments of `follow`."""

    step: float
    limits: np.ndarray
    least_barrier: float
    names: Sequence[str]
    most: int
    stop: Callable[[], str]


def half(walk: Walk, first: Point, sign: float, rules: Rules) -> tuple[list[Point], Mark]:
    """The points of the line after the first in one direction, and why it stopped."""
    here, heading, step = first, sign * _tangent(first.gradient), rules.step
    points: list[Point] = []
    length = step
    while len(points) < rules.most:
        reason = _ended(here, rules.least_barrier)
        if reason:
            return points, _mark("end", walk, here.u, reason)
        reason = rules.stop()
        if reason:
            return points, _mark("lost", walk, here.u, reason)
        middle = walk.look(here.u + 0.5 * length * heading)  # the midpoint rule: second order
        along = _tangent(middle.gradient)
        along = along if along @ heading > 0 else -along
        there = walk.corrected(here.u + length * along, most=length)
        if there is None:
            if length < step / 30:
                return points, _mark("lost", walk, here.u, "the corrector did not come back to the line")
            length /= 2
            continue
        outside = (there.u < rules.limits[:, 0]) | (there.u > rules.limits[:, 1])
        if outside.any():
            there = _on_edge(walk, here, there, rules.limits, length)
            if there is None:
                return points, _mark("edge", walk, here.u, "the line leaves the box here")
        share, phase = _rival(walk, here.found, there.found)
        if share is not None:
            u, error = walk.met(here.u + share * (there.u - here.u), phase, most=length)
            reason = f"{rules.names[phase]} is as likely as both from here on"
            return points, _mark("triple", walk, u, reason, rules.names[phase], error)
        if there.found.barrier < rules.least_barrier <= here.found.barrier:
            u, error = _fallen([first, *points, there], rules.least_barrier)
            return points, _mark("end", walk, u, f"the barrier falls to {rules.least_barrier:g} nats", "", error)
        points.append(there)
        if outside.any():
            return points, _mark("edge", walk, there.u, "the line leaves the box here")
        heading = (there.u - here.u) / np.hypot(*(there.u - here.u))
        here, length = there, min(step, 1.5 * length)
    return points, _mark("lost", walk, here.u, f"not at its end after {rules.most} points")


def _on_edge(walk: Walk, here: Point, there: Point, limits: np.ndarray, length: float) -> Point | None:
    """The point of the line on the edge of the box that it crosses first from here to there, outside."""
    move = there.u - here.u
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(move > 0, limits[:, 1] - here.u, limits[:, 0] - here.u) / move
    axis = int(np.nanargmin(np.where(move == 0, np.nan, shares)))
    u = here.u + max(float(shares[axis]), 0.0) * move
    u[axis] = limits[axis, 0 if move[axis] < 0 else 1]
    if float(np.hypot(*(u - here.u))) < 1e-6:
        return None
    found = walk.corrected(u, most=length, held=axis)
    return None if found is None or np.any((found.u < limits[:, 0]) | (found.u > limits[:, 1])) else found


def _fallen(points: Sequence[Point], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the barrier falls to the level, and its errors: by a straight line through it at the last points, weighted;
    between the last two alone where barriers are exact. Neighbours rest on the same draws, so the line is as uncertain
    as one of its points.
    """
    some = [each for each in points[-5:] if math.isfinite(each.found.barrier_stderr)]
    some = some if len(some) > 1 else list(points[-2:])
    error = np.array([each.found.barrier_stderr for each in some])
    sampled = bool((error > 0).all() and np.isfinite(error).all())
    some = some if sampled else list(points[-2:])
    x = np.concatenate([[0.0], np.cumsum([np.hypot(*(b.u - a.u)) for a, b in itertools.pairwise(some)])])
    value = np.array([each.found.barrier for each in some]) - level
    weight = 1 / np.square(error) if sampled else np.ones(len(some))
    middle = float(weight @ x / weight.sum())
    wide = float(weight @ np.square(x - middle))
    slope = float(weight @ ((x - middle) * value) / wide)
    height = float(weight @ value / weight.sum())
    before, last = some[-2].u, some[-1].u
    if not slope < 0:
        return last, np.full(2, np.inf)
    place = min(max(middle - height / slope, x[0]), 2 * x[-1] - x[-2])
    exact = 0.0 if (error == 0).any() else math.inf
    spread = float(np.sqrt(np.mean(np.square(error)))) / -slope if sampled else exact  # one error: the same draws
    known = np.array([each.u for each in some])
    u = np.array([np.interp(place, x, column) for column in known.T])
    way = (last - before) / np.hypot(*(last - before))
    return u + max(0.0, place - x[-1]) * way, np.abs(way) * spread


def _tangent(gradient: np.ndarray) -> np.ndarray:
    return np.array([gradient[1], -gradient[0]]) / np.hypot(*gradient)


def _ended(point: Point, least_barrier: float) -> str:
    if point.found.barrier < least_barrier:
        return f"the barrier is below {least_barrier:g} nats"
    if np.hypot(*point.gradient) < LEAST_GAP:
        return "the phases differ neither in loss nor in force: they have become one"
    return ""


def _rival(walk: Walk, here: Local, there: Local) -> tuple[float | None, int]:
    """How far along the step, 0 to 1, a third phase becomes as likely as the pair, and which; None if none does."""
    soonest: tuple[float | None, int] = (None, -1)
    for c in range(len(np.asarray(there.free_energy))):
        if c in walk.pair:
            continue
        above = [float(one.free_energy[c]) - float(np.mean([one.free_energy[i] for i in walk.pair]))
                 for one in (here, there)]  # fmt: skip
        if (
            (above[0] > 0) != (above[1] > 0)
            and np.isfinite(above).all()
            and (soonest[0] is None or above[0] / (above[0] - above[1]) < soonest[0])
        ):
            soonest = above[0] / (above[0] - above[1]), c
    return soonest


def _mark(kind: str, walk: Walk, u: np.ndarray, reason: str, phase: str = "", error: np.ndarray | None = None) -> Mark:
    h, t = float(u[0] * walk.unit), float(np.exp(u[1]))
    error = np.zeros(2) if error is None else error
    return Mark(kind, h, t, reason, phase, float(error[0] * walk.unit), float(t * error[1]))
