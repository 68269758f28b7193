"""The crossing of two phases from curves of the whole alone, by what thermodynamics says of their mixture.

Phase a, of higher loss by b, has t<K> = alpha + b t, phase b gamma; the odds of b obey d log odds/dlog t = the gap, so

    log odds_b(t) = b (t - t_c) + (alpha - gamma) log(t/t_c)
    lam(t) = gamma + p_a (alpha - gamma + b t),     C(t) = p_a alpha + p_b gamma + p_a p_b (alpha - gamma + b t)^2

and E[L] = L_0 + lam/t; alpha and gamma may drift a little (alpha + alpha' log(t/t_c), with what that means for the odds
and, as C = lam - dlam/dlog t in one phase, for C): six numbers (seven with a loss) fit all curves. t_c is then where
the phases weigh the same, as in Maxwell's construction, and neither the top of lam (too low) nor that of C (too high).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

REACH = (8.0, 3.0)
"""How far below the top, as a ratio of t, points take part: two windows whose difference counts as an error."""
FLOOR = 0.1
"""Least error of log t_c. Where two phases weigh the same depends, by as much, on where a classifier divides them, and
two phases are an idealisation: superposition's 5 -> 6, with sub-phases in both, is dated 12 per cent late. On nine
potentials of slt.models.landau and others t_c was off by 4 per cent at most, but by 10 to 20 where t < 15, where K
divides the phases by less than a nat."""
RISE = 0.1
"""How much lambda of a phase may drift in an e-fold of t (a normal prior's width): the prior shapes phases still."""
POOR = 25.0
"""Squares per degree of freedom, errors no smaller than 3 per cent, beyond which two phases do not describe it."""


class Fit(NamedTuple):
    """t_c, the standard error of log t_c, and the gap of t<K> there."""

    t: float
    stderr: float
    sharpness: float


def fit(
    t: np.ndarray, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], top: int, bottom: int,
    replicates: Mapping[str, np.ndarray] | None = None,
) -> Fit | None:  # fmt: skip
    """The crossing near the fall from index top to bottom; None where two phases do not describe the curves.

    curves: of `llc`, `heat_capacity` and `loss` (which counts only without an llc), (value, stderr) [k]; replicates:
    of the same, [k, r], see `slt.transitions.changepoints.detect`.
    """
    named = {name: pair for name, pair in curves.items() if name != "loss" or "llc" not in curves}
    found = [_window(t, named, top, bottom, reach, replicates or {}) for reach in REACH]
    known = [each for each in found if each is not None]
    if not known:
        return None
    apart = abs(np.log(known[0].t / known[-1].t))
    return known[0]._replace(stderr=float(np.sqrt(known[0].stderr ** 2 + (apart / 2) ** 2 + FLOOR**2)))


def _window(
    t: np.ndarray, curves: Mapping[str, tuple], top: int, bottom: int, reach: float, replicates: Mapping[str, Any]
) -> Fit | None:
    use = (t >= t[top] / reach) & (t <= max(t[bottom] * 1.5, t[top] * 3))
    parts, several = [], []
    for name, (value, stderr) in curves.items():
        keep = use & np.isfinite(value)
        scale = 1.0 if name != "loss" else 1 / t[keep]  # a loss in nats: t L
        size = np.abs(value[keep] / scale) if name != "loss" else np.ones(keep.sum())
        parts.append((name, t[keep], value[keep] / scale, np.hypot(stderr[keep] / scale, 0.03 * (size + 0.2))))
        if name in replicates:
            several.append(replicates[name][keep] / np.reshape(scale * parts[-1][3], (-1, 1)))
    number = sum(len(part[1]) for part in parts)
    floating = "loss" in curves
    if number < 6 + floating:
        return None
    lam = next((p for p in parts if p[0] == "llc"), parts[0])
    low = float(lam[2][-1]) if lam[0] != "loss" else 0.5
    level = min((p[2][-1] / p[1][-1] for p in parts if p[0] == "loss"), default=0.0)

    def residuals(v: np.ndarray) -> np.ndarray:
        log_tc, log_b, alpha, gamma, rise_a, rise_b = v[:6]
        gone = []
        for name, at, y, s in parts:
            b, tc = np.exp(log_b), np.exp(log_tc)
            u = np.log(at / tc)
            odds = b * (at - tc) + (alpha - gamma) * u + 0.5 * (rise_a - rise_b) * u**2
            upper, lower = alpha + rise_a * u, gamma + rise_b * u
            a, gap = special.expit(-odds), upper - lower + b * at
            heat = a * (upper - rise_a) + (1 - a) * (lower - rise_b) + a * (1 - a) * gap**2
            model = heat if name == "heat_capacity" else lower + a * gap
            gone.append((model + (v[6] * at if name == "loss" else 0.0) - y) / s)
        return np.concatenate([*gone, v[4:6] / RISE])

    best = None
    for gap in (2.0, 4.0, 8.0):
        for place in (t[top], np.sqrt(t[top] * t[bottom])):
            first = [np.log(place), np.log(gap / place), max(low, 0.1), max(low, 0.1), 0.0, 0.0] + [level] * floating
            try:
                one = optimize.least_squares(residuals, first, x_scale="jac", max_nfev=200)
            except (ValueError, np.linalg.LinAlgError):
                continue
            best = one if best is None or one.cost < best.cost else best
    if best is None:
        return None
    free = max(1, number + 2 - len(best.x))
    poor = 2 * best.cost / free
    cover = np.linalg.pinv(best.jac.T @ best.jac) * max(1.0, poor)
    tc, error = float(np.exp(best.x[0])), float(np.sqrt(cover[0, 0]))
    if several and len(several) == len(parts):
        error = max(error, _together(best.jac, np.concatenate(several)))
    sharpness = float(best.x[2] - best.x[3] + np.exp(best.x[1]) * tc)
    inside = t[top] / 3 <= tc <= t[bottom] * 1.5
    if not (inside and poor < POOR and np.isfinite(error) and error < 1.0 and sharpness > 0):
        return None
    return Fit(tc, error, sharpness)


def _together(jac: np.ndarray, replicates: np.ndarray) -> float:
    """The error of log t_c that the spread of replicates [residual, r] has, to first order; 0 with fewer than 4."""
    whole = replicates[:, np.isfinite(replicates).all(0)]
    count = whole.shape[1]
    if count < 4:
        return 0.0
    moved = np.linalg.pinv(jac)[0, : len(whole)] @ whole
    return float(moved.std(ddof=1) / np.sqrt(count) * special.stdtrit(count - 1, 0.95) / special.ndtri(0.95))
