"""Change points along a sweep, with the probability of a false alarm over the whole run and all detectors together.

What no transition looks like (the null). In one phase, K ~ prod w_i^{2 k_i} with a prior w^h on a box, |w|^2, x^{2k}
and the like, the density of log K is log-concave. Then lam(t) = t <K - K_min> never falls as t grows. (By parts lam(t)
= E_t[s'], s the log density of e = log K under the prior; d/dlog t tilts the law by -t exp(e), so that dlam/dlog t =
-Cov_t(s', t exp(e)) >= 0 where s' does not increase.) As dlam/dlog t = lam - C, that says that the heat capacity C =
t^2 Var K is at most lam, as for a Gamma law; C itself does not fall either (checked by quadrature over 14 such K).
Smooth drifts, lam from 0.1 to 0.5 for (xyz)^2, are rises and never count.

What a transition looks like. With two phases the odds of the one of lower loss grow as d log odds/dlog t = Delta, the
gap of their t<K>; where Delta > 2 the law of K has two peaks and Z(t) a zero in the right half-plane. lam rises with
the upper phase and falls by about Delta - 1 as that is left: t<K> and C must fall. Smooth learning of one mode (the
scalar chain, s < 1.5; q = 8 columns) lets lam fall too, by at most 0.47 nats, and C by 0.94. So falls within `slack` =
0.5 nats of lam, and twice that of C, are no transition: that is the null tested. In it a constant curve at the very
edge is the worst case (every contrast of a non-falling curve is at most 0), so simulated constants bound the false
alarms of all.

A prior far from the minimum makes a fall too as it lets go: for |w - w0|^2/2 in d dimensions, under N(0, 1), lam falls
by F = |w0|^2/8 - d/4 or so. That is slow: half of F takes 1.4 e-folds of t at least where all curvatures are one, and
more where they differ, while of twelve pairs of phases it takes 0.3 to 0.5. So a fall of which no half passes within
SWIFT e-folds is a release and no change point.

Detectors: `llc` and `heat_capacity` fall; `loss` (E[L_n], no baseline needed) gives C as its slope against 1/t; the
`occupancy` or `mass` of a phase moves faster than the null allows: as |dp/dlog t|^2 <= p (1-p) C, the angle 2 arcsin
sqrt(p) turns by at most sqrt(C) an e-fold. Other curves, and all curves along a control, are held against a smooth
random curve of a given scale instead (slt.transitions.smooth).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ruptures
from ruptures.base import BaseCost
from scipy import optimize

from slt.transitions import falls, maxwell, smooth
from slt.transitions.falls import FALLING, SHARES, Curve, Noise, Test, kind
from slt.typing import InputError

SLACK = 0.5
SWIFT = 0.7
"""e-folds of t within which half of the fall of lam passes at a change of phase."""


class Detector(NamedTuple):
    """One curve's test: z, its largest statistic, in standard errors beyond what the null allows; `between` which x;
    false_alarm: the probability of as large a z anywhere on this curve without a transition; critical: the z at which
    the run alarms, as far as simulations of a quiet curve go.
    """

    z: float
    between: tuple[float, float]
    false_alarm: float
    critical: float


class ChangePoint(NamedTuple):
    """Where the sweep changes its phase.

    x with its `interval` (90 per cent); stderr of log x (of x along a control). sharpness: Delta, nats by which t<K>
    jumps at x (NaN along a control): above 2 the law of K has two peaks there, below it is a bump. between: the grid
    values of the fall. detectors: those that alarmed there. method: `two phases` (the fit of slt.transitions.maxwell)
    or `bracket` (no such fit: the middle of `between`).
    """

    x: float
    stderr: float
    interval: tuple[float, float]
    sharpness: float
    between: tuple[float, float]
    detectors: tuple[str, ...]
    method: str


@dataclass(frozen=True)
class Scan:
    """What a scan found. false_alarm: the probability that without a transition any detector (of any sweep, where
    several were scanned) alarms as loudly as this one; change_points is empty where it exceeds `level`. releases:
    (top, bottom) x of falls that a prior makes as it lets go, see the module; with nothing else false_alarm is 1.
    """

    change_points: tuple[ChangePoint, ...]
    false_alarm: float
    level: float
    detectors: dict[str, Detector]
    verdict: str
    releases: tuple[tuple[float, float], ...] = ()


def detect(
    x: Any,
    curves: Mapping[str, tuple[Any, Any]],
    *,
    axis: str = "t",
    nbeta: Any = None,
    level: float = 0.02,
    slack: float = SLACK,
    scale: float | None = None,
    dof: float = 15.0,
    replicates: Mapping[str, Any] | None = None,
    sweeps: int = 1,
    simulations: int = 4000,
    seed: int = 0,
) -> Scan:
    """Change points of the curves of one sweep, at a run-wise probability `level` of any false alarm.

    x [k]: ascending; curves: name -> (value [k], stderr [k]); a name may carry a phase, `occupancy[U]`. NaN leaves a
    point out. axis: `t`, `n`, `beta` (the physics of the module's docstring, in log x) or `control`. nbeta [k]: n beta
    at each x, by which the loss is differentiated; x itself unless given. scale: of the smooth null, in e-folds of x
    (1) or units of the control (a quarter of its range). dof: how well the errors are known (chains less 1, about).
    Errors must hold everything that moves the curve: on data sets, pass means over several with the spread's error.
    replicates: name -> [k, r], the curve as each of r independent ladders, chains or data sets has it; by these the
    error of a change point counts that neighbouring points go up and down together, as on a ladder.
    sweeps: how many are scanned for one statement, this one among them: probabilities are those of an alarm in any.

    Each detector's null law of its largest statistic over all positions is simulated with Student noise of the stated
    errors, at least `simulations` times where that is loud and fewer where it plainly is not (far beyond them it is
    bounded by the sum over positions); over detectors (and sweeps) the probabilities are joined by Sidak's rule, which
    overstates them as all see the same draws.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 1 or len(x) < 5 or not np.isfinite(x).all() or np.any(np.diff(x) <= 0):
        raise InputError("x", x, "give at least 5 ascending finite values")
    if axis not in ("t", "n", "beta", "control"):
        raise InputError("axis", axis, "choose t, n, beta or control")
    if axis != "control" and x[0] <= 0:
        raise InputError("x", float(x[0]), f"values of {axis} must be positive")
    if not 0 < level < 1 or not dof > 2 or not slack >= 0 or simulations < 100 or sweeps < 1:
        cure = "needs 0 < level < 1, dof > 2, slack >= 0, 100 simulations, sweeps >= 1"
        raise InputError("level", (level, dof, slack, simulations, sweeps), cure)
    given = {name: _checked(x, name, pair) for name, pair in curves.items()}
    if not given:
        raise InputError("curves", {}, "give at least one curve")
    times = x if nbeta is None else np.asarray(nbeta, np.float64)
    if axis != "control" and (times.shape != x.shape or not np.all(np.diff(times) > 0)):
        raise InputError("nbeta", times, "give n beta at each x, ascending")
    made = {} if axis == "control" else falls.made(x, given, times, slack)
    shares = [] if axis == "control" else [name for name in given if kind(name) in SHARES]
    rng = np.random.default_rng(seed)
    tests = len(given) * sweeps
    each = 1 - (1 - level) ** (1 / tests)
    noise = Noise(dof, simulations, each, rng)
    found: dict[str, Detector] = {}
    places = x if axis == "control" else np.log(x)
    width = scale if scale is not None else float(np.ptp(places)) / 4 if axis == "control" else 1.0
    for name, (value, stderr) in given.items():
        if name in made:
            test = falls.falls(made[name], noise)
        elif name in shares:
            test = falls.turns(x, value, stderr, falls.bound(made, slack), noise)
        else:
            number = max(300, simulations // 8, math.ceil(2 / each))
            z, null, at = smooth.steps(places, value, stderr, width, dof, number, rng)
            test = Test(z, null, float((1 + np.sum(null >= z)) / (1 + len(null))), at)
        critical = float(np.quantile(test.null, 1 - each))
        found[name] = Detector(test.z, (float(x[test.at[0]]), float(x[test.at[1]])), test.tail, critical)
    least = min(one.false_alarm for one in found.values())
    false_alarm = 1 - (1 - least) ** tests
    loud = tuple(name for name, one in found.items() if one.false_alarm <= each)
    if false_alarm > level:
        told = f"No change point at a run-wise {level:.3g}: false alarms as loud have probability {false_alarm:.2g}."
        return Scan((), false_alarm, level, found, told)
    several = {kind(n): np.asarray(each, np.float64) for n, each in (replicates or {}).items() if kind(n) in FALLING}
    points, releases = _located(x, times, given, made, found, loud, slack, places, several)
    let_go = "; ".join(f"{axis} = {top:.4g} to {bottom:.4g}" for top, bottom in releases)
    let_go = f" lam falls at {let_go} as slowly as a prior lets go of a single phase." if releases else ""
    if not points:
        return Scan((), 1.0, level, found, f"No change point at a run-wise {level:.3g}:{let_go}", releases)
    told = "; ".join(_say(point, axis) for point in points)
    told = f"{told}. Probability of a false alarm in the run: {false_alarm:.2g}.{let_go}"
    return Scan(points, false_alarm, level, found, told, releases)


def _checked(x: np.ndarray, name: str, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    value, stderr = (np.array(each, np.float64) for each in pair)
    stderr = np.broadcast_to(stderr, x.shape).copy() if stderr.ndim == 0 else stderr
    if value.shape != x.shape or stderr.shape != x.shape or np.any(stderr < 0):
        raise InputError(f"curves.{name}", (value.shape, stderr.shape), f"give value and stderr >= 0, both {x.shape}")
    bad = ~(np.isfinite(value) & np.isfinite(stderr))
    if (~bad).sum() < 5:
        raise InputError(f"curves.{name}", int((~bad).sum()), "needs at least 5 points with a value and an error")
    known = np.flatnonzero(~bad)
    # an error that came out small by chance must not make its point loud: at least the median of it and its neighbours
    padded = np.pad(stderr[known], 1, mode="edge")
    stderr[known] = np.maximum(stderr[known], np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0))
    stderr[known] = np.maximum(stderr[known], 1e-4 * np.ptp(value[known]) + 1e-9)
    return np.where(bad, np.nan, value), np.where(bad, np.nan, stderr)


class _Monotone(BaseCost):
    """Weighted squares that non-decreasing curves leave of a segment, summed over curves; signal [k, 2 curves] holds
    each curve and its error, to which a quarter of the slack is added.
    """

    signal: np.ndarray
    min_size = 1

    @property
    def model(self) -> Any:
        return "monotone"

    def fit(self, signal: Any) -> Any:
        self.signal = signal
        return self

    def error(self, start: Any, end: Any) -> Any:
        total = 0.0
        for y, s in zip(self.signal[start:end, ::2].T, self.signal[start:end, 1::2].T, strict=True):
            use = np.isfinite(y)
            if use.any():
                fitted = optimize.isotonic_regression(y[use], weights=1 / np.square(s[use])).x
                total += float(np.square((y[use] - fitted) / s[use]).sum())
        return total


def _located(
    x: np.ndarray, t: np.ndarray, given: Any, made: Mapping[str, Curve], found: Mapping[str, Detector],
    loud: tuple[str, ...], slack: float, places: np.ndarray, several: Mapping[str, np.ndarray],
) -> tuple[tuple[ChangePoint, ...], tuple[tuple[float, float], ...]]:  # fmt: skip
    """Change points of the detectors that alarmed, and releases: falls are segmented by ruptures, the rest stand where
    they peaked.
    """
    falling = {name: made[name] for name in loud if name in made}
    points: list[ChangePoint] = []
    releases: list[tuple[float, float]] = []
    for top, bottom in _segments(x, falling, max((found[name].critical for name in falling), default=0.0)):
        if _released(t, given, top, bottom):
            releases.append((float(x[top]), float(x[bottom])))
            continue
        near = tuple(n for n in loud if found[n].between[0] <= x[bottom] and found[n].between[1] >= x[top])
        with np.errstate(over="ignore", invalid="ignore"):  # where the fit strays
            fit = maxwell.fit(t, {kind(n): given[n] for n in given if kind(n) in FALLING}, top, bottom, several)
        if fit is not None:
            log_x = float(np.interp(np.log(fit.t), np.log(t), np.log(x)))
            wide = 1.6449 * fit.stderr
            interval = float(np.exp(log_x - wide)), float(np.exp(log_x + wide))
            ends = float(x[top]), float(x[bottom])
            points.append(ChangePoint(np.exp(log_x), fit.stderr, interval, fit.sharpness, ends, near, "two phases"))
        else:
            points.append(_bracket(x, (top, bottom), near, np.log(x)))
    for name in loud:
        low, high = found[name].between
        taken = [p.between for p in points] + releases
        if name not in made and not any(a <= high and low <= b for a, b in taken):
            ends = tuple(int(np.searchsorted(x, each)) for each in (low, high))
            points.append(_bracket(x, (ends[0], ends[1]), (name,), places))
    return tuple(sorted(points, key=lambda point: point.x)), tuple(releases)


def _released(t: np.ndarray, given: Mapping[str, tuple[np.ndarray, np.ndarray]], top: int, bottom: int) -> bool:
    """Whether no half of the fall of lam passes within SWIFT e-folds of t; False where lam is not given."""
    lam = next((pair for name, pair in given.items() if kind(name) == "llc"), None)
    use = np.arange(top, bottom + 1)
    use = use[np.isfinite(lam[0][use])] if lam is not None else use[:0]
    if lam is None or len(use) < 2:
        return False
    y = optimize.isotonic_regression(lam[0][use], weights=1 / np.square(lam[1][use]), increasing=False).x
    down = (y[0] - y) / max(y[0] - y[-1], 1e-9) + 1e-9 * np.arange(len(y))  # from 0 to 1, strictly rising
    at = np.interp(np.linspace(0, 1, 51), down, np.log(t[use]))
    return bool(np.min(at[25:] - at[:26]) > SWIFT)


def _bracket(x: np.ndarray, ends: tuple[int, int], names: tuple[str, ...], places: np.ndarray) -> ChangePoint:
    """A change point of which only the grid values about it are known."""
    low, high = places[ends[0]], places[ends[1]]
    between = float(x[ends[0]]), float(x[ends[1]])
    middle = float(np.interp((low + high) / 2, places, x))
    return ChangePoint(middle, float(high - low) / 3.29, between, float("nan"), between, names, "bracket")


def _segments(x: np.ndarray, falling: Mapping[str, Curve], critical: float) -> list[tuple[int, int]]:
    """(top, bottom) grid indices of every fall: where PELT begins a new non-decreasing piece. Falls with no rise beyond
    the slack between them are one.
    """
    if not falling:
        return []
    signal = np.full((len(x), 2 * len(falling)), np.nan)
    for j, curve in enumerate(falling.values()):
        at = curve.ends[:, 0]
        signal[at, 2 * j], signal[at, 2 * j + 1] = curve.y, np.hypot(curve.error, curve.slack / 4)
    cost = _Monotone()
    breaks = ruptures.Pelt(custom_cost=cost, min_size=1, jump=1).fit(signal).predict(pen=max(critical, 3.0) ** 2)[:-1]
    y, slack = signal[:, 0], next(iter(falling.values())).slack
    known = np.flatnonzero(np.isfinite(y))
    groups: list[list[int]] = []
    for each in breaks:
        inside = known[(known >= groups[-1][-1]) & (known < each)] if groups else known[:0]
        if groups and not (len(inside) and y[inside].max() - y[inside[0]] > slack):
            groups[-1].append(each)
        else:
            groups.append([each])
    found = []
    for k, group in enumerate(groups):
        first = groups[k - 1][-1] if k else 0
        last = groups[k + 1][0] if k + 1 < len(groups) else len(x)
        before, after = known[(known >= first) & (known < group[-1])], known[(known >= group[0]) & (known < last)]
        if len(before) and len(after):
            top = int(before[np.argmax(y[before])])
            low = after[after > top]
            settled = low[np.flatnonzero(y[low] <= y[low].min() + 0.2 * (y[top] - y[low].min()))] if len(low) else low
            if len(settled):
                found.append((top, int(settled[0])))
    return found


def _say(point: ChangePoint, axis: str) -> str:
    sharp = "" if not np.isfinite(point.sharpness) else f", t<K> jumps by {point.sharpness:.2g} nats there"
    return f"{axis} = {point.x:.4g} ({point.interval[0]:.4g} to {point.interval[1]:.4g}){sharp}"
