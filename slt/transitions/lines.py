"""Lines of coexistence of two phases in the plane of a control h and t = n beta, followed by Clausius-Clapeyron.

On the line D(h, t) = F_a - F_b = 0. As dF_a = <K>_a dt + t <dK/dh>_a dh, its slope needs only expectations inside the
phases, where chains mix:

    dt/dh = -t (<dK/dh>_a - <dK/dh>_b) / (<K>_a - <K>_b)

Steps go along the line in the plane of (h / unit, log t), where D has the gradient (t D<dK/dh> unit, t D<K>), so that
lines may be steep in either direction; D itself, from the caller, pulls each point back onto the line.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import interpolate

from slt.transitions.walk import Expectations, Local, Mark, Point, Rules, Walk, half
from slt.typing import Estimate, InputError

__all__ = ["Line", "Local", "Mark", "clausius_clapeyron", "finite_difference", "follow", "meet"]


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
        if not _one_way(self.t):
            return np.full(np.shape(t), np.nan)
        return np.interp(np.log(t), np.log(self.t[order]), self.h[order], left=np.nan, right=np.nan)

    def at_h(self, h: Any) -> tuple[Estimate, Estimate]:
        """(t, slope) of the line at h; NaN beyond its ends or where t is no function of h.

        log t by cubic interpolation that knows the slopes at the points; the slope linear in log t on a log scale.
        """
        h, order = np.asarray(h, float), np.argsort(self.h)
        x, slope = self.h[order], self.slope[order]
        if len(x) < 2 or not _one_way(self.h) or not np.isfinite(slope).all():
            blank = Estimate(np.full(h.shape, np.nan), np.full(h.shape, np.nan))
            return blank, blank
        log_t = np.log(self.t[order])
        inside = (h >= x[0]) & (h <= x[-1])
        at = np.where(inside, interpolate.CubicHermiteSpline(x, log_t, slope / self.t[order])(h), np.nan)
        places = log_t if np.all(np.diff(log_t) > 0) else x
        here = at if places is log_t else h
        signs = np.sign(slope)
        same = bool(np.all(signs == signs[0])) and signs[0] != 0
        steep = np.interp(here, places, np.log(np.abs(slope)) if same else slope)
        steep = signs[0] * np.exp(steep) if same else steep
        errors = [np.interp(here, places, each[order]) for each in (self.t_stderr / self.t, self.slope_stderr)]
        known = np.where(inside, 1.0, np.nan)
        return Estimate(np.exp(at), np.exp(at) * errors[0]), Estimate(steep * known, errors[1] * known)


def _one_way(x: np.ndarray) -> bool:
    step = np.diff(x)
    return bool(np.all(step > 0) or np.all(step < 0))


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
    stop: Callable[[], str] | None = None,
) -> Line:
    """The line of coexistence through (about) `start` = (h, t), both ways, until it ends or leaves the box.

    box: ((h low, high), (t low, high)); pair: the two phases followed, indices into the arrays that `expectations`
    gives, which may hold further phases: where one of them becomes as likely as the pair, the line stops at a triple
    point. step: length of a step in the plane (h / unit, log t), unit a tenth of the box's width unless given. A line
    ends where the barrier falls below `least_barrier` nats, or where D loses its gradient. tolerance: of D, in nats.
    stop: asked before every step; a reason ends the walk there, `lost`. InputError if no point of the line is near the
    start.
    """
    (h_low, h_high), (t_low, t_high) = box
    if not (h_low < h_high and 0 < t_low < t_high):
        raise InputError("box", box, "give ((h low, h high), (t low, t high)) with low < high and t > 0")
    if not step > 0 or pair[0] == pair[1]:
        raise InputError("step", (step, pair), "needs a positive step and two different phases")
    unit = (h_high - h_low) / 10 if unit is None else unit
    walk = Walk(expectations, pair, unit, tolerance)
    first = walk.corrected(np.array([start[0] / unit, np.log(start[1])]), most=20 * step)
    if first is None:
        raise InputError("start", start, "no point of the line near it: start where the two free energies are closer")
    named = [names[i] if i < len(names) else f"phase {i}" for i in range(len(np.asarray(first.found.free_energy)))]
    limits = np.array([[h_low / unit, h_high / unit], [np.log(t_low), np.log(t_high)]])
    halves, marks = [], []
    rules = Rules(step, limits, least_barrier, named, most, stop or (lambda: ""))
    for sign in (-1.0, 1.0):
        points, mark = half(walk, first, sign, rules)
        halves.append(points)
        marks.append(mark)
    return _line(walk, [*halves[0][::-1], first, *halves[1]], (named[pair[0]], named[pair[1]]), tuple(marks))


def _line(walk: Walk, points: list[Point], names: tuple[str, str], marks: tuple[Mark, ...]) -> Line:
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
