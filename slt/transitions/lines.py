"""Lines of coexistence of two phases in the plane of a control h and t = n beta, followed by Clausius-Clapeyron.

On the line D(h, t) = F_a - F_b = 0. As dF_a = <K>_a dt + t <dK/dh>_a dh, its slope needs only expectations inside the
phases, where chains mix:

    dt/dh = -t (<dK/dh>_a - <dK/dh>_b) / (<K>_a - <K>_b)

Steps go along the line in the plane of (h / unit, log t), where D has the gradient (t D<dK/dh> unit, t D<K>), so that
lines may be steep in either direction; D itself, from the caller, pulls each point back onto the line.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from slt.typing import Estimate, InputError

LEAST_GAP = 0.05
"""Nats per e-fold of t (and per unit of h) below which D has no gradient left: the two phases are one."""


class Local(NamedTuple):
    """What is measured at one (h, t), phase by phase; arrays [P].

    free_energy: F_a up to a constant common to all phases; loss: <K>_a; force: <dK/dh>_a; each with its standard
    errors (0: exact). barrier: between the two phases followed, in nats, from the shallower side (NaN: not known).
    """

    free_energy: Any
    loss: Any
    force: Any
    free_energy_stderr: Any = 0.0
    loss_stderr: Any = 0.0
    force_stderr: Any = 0.0
    barrier: float = math.nan


Expectations = Callable[[float, float], Local]
"""expectations(h, t) -> Local."""


class Mark(NamedTuple):
    """A point of note on a line: `end` (the phases become one), `triple` (a third phase, `phase`, is as likely),
    `edge` (the box ends), `lost` (the corrector could not come back to the line); reason says it in words.
    """

    kind: str
    h: float
    t: float
    reason: str
    phase: str = ""


@dataclass(frozen=True)
class Line:
    """A line of coexistence of phases `names`, its points in order along it.

    h, t [k]; h_stderr, t_stderr [k]: how far the error of D moves a point along one axis alone; slope, slope_stderr:
    dt/dh by Clausius-Clapeyron; rise, rise_stderr: dt/dh of the points themselves, by finite differences (their own
    D's errors, taken as independent; NaN at a turn); jump [k]: t (<K>_a - <K>_b), the nats by which t<K> jumps;
    barrier [k].
    """

    names: tuple[str, str]
    h: Float[np.ndarray, " k"]
    t: Float[np.ndarray, " k"]
    h_stderr: Float[np.ndarray, " k"]
    t_stderr: Float[np.ndarray, " k"]
    slope: Float[np.ndarray, " k"]
    slope_stderr: Float[np.ndarray, " k"]
    rise: Float[np.ndarray, " k"]
    rise_stderr: Float[np.ndarray, " k"]
    jump: Float[np.ndarray, " k"]
    barrier: Float[np.ndarray, " k"]
    marks: tuple[Mark, ...]

    def at_t(self, t: Any) -> Float[np.ndarray, "..."]:
        """h of the line at t, linear in log t between points; NaN beyond its ends or where h is no function of t."""
        order = np.argsort(self.t)
        if not (np.all(np.diff(self.t) > 0) or np.all(np.diff(self.t) < 0)):
            return np.full(np.shape(t), np.nan)
        return np.interp(np.log(t), np.log(self.t[order]), self.h[order], left=np.nan, right=np.nan)


def clausius_clapeyron(t: Any, loss: Any, force: Any, loss_stderr: Any = 0.0, force_stderr: Any = 0.0) -> Estimate:
    """dt/dh = -t (force_a - force_b)/(loss_a - loss_b) on the line, with its error to first order.

    loss, force [..., 2]: <K> and <dK/dh> inside phases a and b, errors taken as independent. NaN where the losses are
    equal: there the line is vertical, whatever t.
    """
    loss, force = np.asarray(loss, float), np.asarray(force, float)
    across, along = loss[..., 0] - loss[..., 1], force[..., 0] - force[..., 1]
    across_error = np.sqrt(np.square(np.broadcast_to(loss_stderr, loss.shape)).sum(-1))
    along_error = np.sqrt(np.square(np.broadcast_to(force_stderr, force.shape)).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(across == 0, np.nan, -np.asarray(t, float) * along / across)
        error = np.asarray(t, float) * np.hypot(along_error / across, along * across_error / across**2)
    return Estimate(value, np.where(across == 0, np.nan, error))


def finite_difference(h: Any, t: Any, t_stderr: Any = 0.0) -> Estimate:
    """dt/dh of points (h, t) [k] of a line in order, with the error of independent t; NaN for fewer than two points.

    By the three-point rule (one-sided at the ends) of h and log t along the chord through the points in the plane of
    h over its range and log t, so that steep and turning lines are as good as others.
    """
    h, t = np.asarray(h, float), np.asarray(t, float)
    error = np.broadcast_to(np.asarray(t_stderr, float), t.shape)
    if h.shape != t.shape or h.ndim != 1:
        raise InputError("h", (h.shape, t.shape), "give two lists of one length")
    if len(h) < 2:
        return Estimate(np.full(h.shape, np.nan), np.full(h.shape, np.nan))
    wide = max(float(np.ptp(h)), 1e-300)
    chord = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(h) / wide, np.diff(np.log(t))))])
    rule = np.gradient(np.eye(len(h)), chord, axis=0)
    across = rule @ h
    with np.errstate(divide="ignore", invalid="ignore"):
        value = t * (rule @ np.log(t)) / across
        return Estimate(value, t / np.abs(across) * np.sqrt(np.square(rule) @ np.square(error / t)))


class _Point(NamedTuple):
    u: np.ndarray
    "(h / unit, log t)"
    found: Local
    gradient: np.ndarray


class _Walk:
    """One line in one plane: evaluations, tangents, corrections."""

    def __init__(self, expectations: Expectations, pair: tuple[int, int], unit: float, tolerance: float):
        self.expectations, self.pair, self.unit, self.tolerance = expectations, pair, unit, tolerance

    def look(self, u: np.ndarray) -> _Point:
        found = self.expectations(float(u[0] * self.unit), float(np.exp(u[1])))
        size = np.shape(found.free_energy)
        if len(size) != 1 or max(self.pair) >= size[0]:
            raise InputError("expectations", size, f"give arrays over phases, with phases {self.pair} among them")
        t = float(np.exp(u[1]))
        gradient = t * np.array([self.difference(found.force) * self.unit, self.difference(found.loss)])
        return _Point(u, found, gradient)

    def difference(self, values: Any) -> float:
        return float(values[self.pair[0]] - values[self.pair[1]])

    def error(self, found: Local) -> float:
        every = np.broadcast_to(np.asarray(found.free_energy_stderr, float), np.shape(found.free_energy))
        return float(np.hypot(every[self.pair[0]], every[self.pair[1]]))

    def corrected(self, u: np.ndarray, most: float) -> _Point | None:
        """The nearest point of the line, by Newton's steps along the gradient; None if it lies farther than `most`."""
        start = u
        for _ in range(12):
            point = self.look(u)
            off = self.difference(point.found.free_energy)
            size = float(point.gradient @ point.gradient)
            if not math.isfinite(off) or not size > 0:
                return None
            if abs(off) <= max(self.tolerance, 0.05 * self.error(point.found)):
                return point
            move = -off * point.gradient / size
            u = u + move * min(1.0, most / float(np.hypot(*move)))
            if float(np.hypot(*(u - start))) > 2 * most:
                return None
        return None


def follow(
    expectations: Expectations,
    start: tuple[float, float],
    *,
    box: tuple[tuple[float, float], tuple[float, float]],
    pair: tuple[int, int] = (0, 1),
    names: Sequence[str] = ("a", "b"),
    step: float = 0.2,
    unit: float | None = None,
    least_barrier: float = 1.0,
    tolerance: float = 1e-3,
    most: int = 400,
) -> Line:
    """The line of coexistence through (about) `start` = (h, t), both ways, until it ends or leaves the box.

    box: ((h low, high), (t low, high)); pair: the two phases followed, indices into the arrays that `expectations`
    gives, which may hold further phases: where one of them becomes as likely as the pair, the line stops at a triple
    point. step: length of a step in the plane (h / unit, log t), unit a tenth of the box's width unless given. A line
    ends where the barrier falls below `least_barrier` nats, or where D loses its gradient. tolerance: of D, in nats.
    InputError if no point of the line is near the start.
    """
    (h_low, h_high), (t_low, t_high) = box
    if not (h_low < h_high and 0 < t_low < t_high):
        raise InputError("box", box, "give ((h low, h high), (t low, t high)) with low < high and t > 0")
    if not step > 0 or pair[0] == pair[1]:
        raise InputError("step", (step, pair), "needs a positive step and two different phases")
    unit = (h_high - h_low) / 10 if unit is None else unit
    walk = _Walk(expectations, pair, unit, tolerance)
    first = walk.corrected(np.array([start[0] / unit, np.log(start[1])]), most=20 * step)
    if first is None:
        raise InputError("start", start, "no point of the line near it: start where the two free energies are closer")
    named = [names[i] if i < len(names) else f"phase {i}" for i in range(len(np.asarray(first.found.free_energy)))]
    limits = np.array([[h_low / unit, h_high / unit], [np.log(t_low), np.log(t_high)]])
    halves, marks = [], []
    for sign in (-1.0, 1.0):
        points, mark = _half(walk, first, sign, step, limits, least_barrier, named, most)
        halves.append(points)
        marks.append(mark)
    return _line(walk, [*halves[0][::-1], first, *halves[1]], (named[pair[0]], named[pair[1]]), tuple(marks))


def _half(
    walk: _Walk, first: _Point, sign: float, step: float, limits: np.ndarray, least_barrier: float,
    names: Sequence[str], most: int,
) -> tuple[list[_Point], Mark]:  # fmt: skip
    """The points of the line after the first in one direction, and why it stopped."""
    here, heading = first, sign * _tangent(first.gradient)
    points: list[_Point] = []
    length = step
    while len(points) < most:
        reason = _ended(here, least_barrier)
        if reason:
            return points, _mark("end", walk, here.u, reason)
        middle = walk.look(here.u + 0.5 * length * heading)  # the midpoint rule: second order
        along = _tangent(middle.gradient)
        along = along if along @ heading > 0 else -along
        there = walk.corrected(here.u + length * along, most=length)
        if there is None:
            if length < step / 30:
                return points, _mark("lost", walk, here.u, "the corrector did not come back to the line")
            length /= 2
            continue
        if np.any(there.u < limits[:, 0]) or np.any(there.u > limits[:, 1]):
            return points, _mark("edge", walk, here.u, "the line leaves the box here")
        share, phase = _rival(walk, here.found, there.found)
        if share is not None:
            u = here.u + share * (there.u - here.u)
            return points, _mark("triple", walk, u, f"{names[phase]} is as likely as both from here on", names[phase])
        low, high = there.found.barrier, here.found.barrier
        if low < least_barrier <= high:
            u = here.u + (there.u - here.u) * (high - least_barrier) / (high - low)
            return points, _mark("end", walk, u, f"the barrier falls to {least_barrier:g} nats")
        points.append(there)
        heading = (there.u - here.u) / np.hypot(*(there.u - here.u))
        here, length = there, min(step, 1.5 * length)
    return points, _mark("lost", walk, here.u, f"not at its end after {most} points")


def _tangent(gradient: np.ndarray) -> np.ndarray:
    return np.array([gradient[1], -gradient[0]]) / np.hypot(*gradient)


def _ended(point: _Point, least_barrier: float) -> str:
    if point.found.barrier < least_barrier:
        return f"the barrier is below {least_barrier:g} nats"
    if np.hypot(*point.gradient) < LEAST_GAP:
        return "the phases differ neither in loss nor in force: they have become one"
    return ""


def _rival(walk: _Walk, here: Local, there: Local) -> tuple[float | None, int]:
    """How far along the step, 0 to 1, a third phase becomes as likely as the pair, and which; None if none does."""
    soonest: tuple[float | None, int] = (None, -1)
    for c in range(len(np.asarray(there.free_energy))):
        if c in walk.pair:
            continue
        above = [float(one.free_energy[c]) - float(np.mean([one.free_energy[i] for i in walk.pair]))
                 for one in (here, there)]  # fmt: skip
        if above[0] > 0 >= above[1] and (soonest[0] is None or above[0] / (above[0] - above[1]) < soonest[0]):
            soonest = above[0] / (above[0] - above[1]), c
    return soonest


def _mark(kind: str, walk: _Walk, u: np.ndarray, reason: str, phase: str = "") -> Mark:
    return Mark(kind, float(u[0] * walk.unit), float(np.exp(u[1])), reason, phase)


def _line(walk: _Walk, points: list[_Point], names: tuple[str, str], marks: tuple[Mark, ...]) -> Line:
    u = np.array([point.u for point in points])
    h, t = u[:, 0] * walk.unit, np.exp(u[:, 1])
    pair = list(walk.pair)

    def table(name: str) -> np.ndarray:
        shape = np.shape(points[0].found.free_energy)
        rows = [np.broadcast_to(np.asarray(getattr(point.found, name), float), shape)[pair] for point in points]
        return np.array(rows)

    error = np.hypot(*table("free_energy_stderr").T)
    loss, force = table("loss"), table("force")
    slope = clausius_clapeyron(t, loss, force, table("loss_stderr"), table("force_stderr"))
    across, along = loss[:, 0] - loss[:, 1], force[:, 0] - force[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        t_error, h_error = error / np.abs(across), error / np.abs(t * along)
    rise = finite_difference(h, t, t_error)
    barrier = np.array([point.found.barrier for point in points])
    return Line(
        names, h, t, h_error, t_error, np.asarray(slope.value), np.asarray(slope.stderr), np.asarray(rise.value),
        np.asarray(rise.stderr), t * across, barrier, marks,
    )  # fmt: skip


def meet(line: Line, other: Line) -> list[Mark]:
    """Where two lines cross, as triple points, straight between their points in the plane (h, log t)."""
    found = []
    unit = max(np.ptp(line.h), np.ptp(other.h), 1e-300)
    p, q = (np.stack([each.h / unit, np.log(each.t)], axis=1) for each in (line, other))
    for a, b in itertools.pairwise(p):
        for c, d in itertools.pairwise(q):
            matrix = np.stack([b - a, c - d], axis=1)
            if abs(np.linalg.det(matrix)) < 1e-14:
                continue
            shares = np.linalg.solve(matrix, c - a)
            if np.all((shares >= 0) & (shares <= 1)):
                h, log_t = a + shares[0] * (b - a)
                reason = f"{' and '.join(line.names)} meet {' and '.join(other.names)}"
                found.append(Mark("triple", float(h * unit), float(np.exp(log_t)), reason))
    return found
