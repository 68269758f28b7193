"""Two tests along t that the theory of one phase gives: lam and C do not fall, and shares turn no faster than C allows.

The theory is told in slt.transitions.changepoints.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from slt.typing import InputError

LENGTHS = (1, 2, 3, 4, 6, 8, 12)
"""Points of the windows that are compared, and `GAPS` between them."""
GAPS = (0, 1, 2, 4, 8)
ANGLE = 0.05
"""Least error of an angle: where no draw left a phase its share has no error of its own."""
BLOCK = 250
"""Simulations made at once, and `ENOUGH` beyond what was seen: more would not make it any louder."""
ENOUGH = 25
FALLING = {"llc": 1.0, "heat_capacity": 2.0, "loss": 2.0}
"""How many times the slack each curve may fall."""
SHARES = ("occupancy", "mass")


def kind(name: str) -> str:
    """The name of a curve without its phase."""
    return name.partition("[")[0]


class Curve(NamedTuple):
    """A curve as tested: y = matrix @ values on places x [m], errors of the values, how far it may fall."""

    x: np.ndarray
    values: np.ndarray
    stderr: np.ndarray
    matrix: np.ndarray
    slack: float
    ends: np.ndarray
    "grid values [m, 2] that each y spans"

    @property
    def y(self) -> np.ndarray:
        return self.matrix @ self.values

    @property
    def error(self) -> np.ndarray:
        return np.sqrt(np.square(self.matrix) @ np.square(self.stderr))


def made(x: np.ndarray, given: Any, t: np.ndarray, slack: float) -> dict[str, Curve]:
    """The curves that must not fall."""
    made = {}
    for name, (value, stderr) in given.items():
        if kind(name) not in FALLING:
            continue
        use = np.flatnonzero(np.isfinite(value))
        matrix, ends = np.eye(len(use)), np.stack([use, use], axis=1)
        if kind(name) == "loss":
            gap = 1 / t[use[:-1]] - 1 / t[use[1:]]
            matrix = (np.eye(len(use))[:-1] - np.eye(len(use))[1:]) / gap[:, None]
            ends = np.stack([use[:-1], use[1:]], axis=1)
        at = np.sqrt(x[ends[:, 0]] * x[ends[:, 1]])
        made[name] = Curve(at, value[use], stderr[use], matrix, slack * FALLING[kind(name)], ends)
    return made


class Test(NamedTuple):
    """The largest statistic z, what it was in simulations of the null, the probability there of one as large, and the
    grid values that it lies between.
    """

    z: float
    null: np.ndarray
    tail: float
    at: tuple[int, int]


class Noise(NamedTuple):
    """How nulls are simulated: Student noise of `dof`, at least `simulations` times where z is loud, and as often as it
    takes to tell probabilities of `each`.
    """

    dof: float
    simulations: int
    each: float
    rng: np.random.Generator


def falls(curve: Curve, noise: Noise) -> Test:
    """The largest fall between two windows in standard errors, against a constant curve."""
    left, right, last, first = _windows(len(curve.x))
    weight = 1 / np.square(curve.error)
    before, after = left * weight, right * weight
    contrasts = (before / before.sum(1)[:, None] - after / after.sum(1)[:, None]) @ curve.matrix
    spread = np.sqrt(np.square(contrasts) @ np.square(curve.stderr))
    z = (contrasts @ curve.values - curve.slack) / spread
    loudest = int(np.argmax(z))
    scaled = contrasts * (curve.stderr / spread[:, None])
    at = int(curve.ends[last[loudest], 0]), int(curve.ends[first[loudest], 1])
    return _against(scaled, float(z[loudest]), noise, 1, at)


@functools.lru_cache(maxsize=64)
def _windows(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of windows in `count` points: which points are in the left and in the right ones [pair, count], the
    last point of the left ones and the first of the right ones [pair].
    """
    table = np.array(list(itertools.product(range(count), LENGTHS, GAPS, LENGTHS)))
    start, before, gap, after = table[table.sum(1) <= count].T
    last, first, at = start + before, start + before + gap, np.arange(count)
    left = (at >= start[:, None]) & (at < last[:, None])
    right = (at >= first[:, None]) & (at < (first + after)[:, None])
    return left, right, last - 1, first


def _against(rows: np.ndarray, z: float, noise: Noise, sides: int, at: tuple[int, int]) -> Test:
    """z against the largest of rows @ noise, or of its absolute value if there are two sides.

    Simulations end where `ENOUGH` have exceeded z: the share of those beyond is a valid probability then too (Besag and
    Clifford 1991). What is too loud for them is bounded by the sum over rows of P(T > z): a row has norm 1, and a mean
    of Student noise has lighter tails than one of its terms.
    """
    found, beyond, rows = [], 0, rows.astype(np.float32)
    most = len(rows) * sides * float(special.stdtr(noise.dof, -z))
    number = noise.simulations if most <= noise.each else max(noise.simulations, math.ceil(2 / noise.each))
    for start in range(0, number, BLOCK):
        drawn = noise.rng.standard_t(noise.dof, (rows.shape[1], min(BLOCK, number - start))).astype(np.float32)
        table = rows @ drawn
        found.append(table.max(0) if sides == 1 else np.maximum(table.max(0), -table.min(0)))
        beyond += int((found[-1] >= z).sum())
        if beyond >= ENOUGH:
            break
    null = np.concatenate(found)
    return Test(z, null, min((1 + beyond) / (1 + len(null)), most), at)


def bound(made: Mapping[str, Curve], slack: float) -> tuple[np.ndarray, np.ndarray]:
    """(x, the most that C may be there without a transition): the least that lam, or C, is measured at or beyond x."""
    for wanted in ("llc", "heat_capacity", "loss"):
        for name, curve in made.items():
            if kind(name) == wanted:
                most = curve.y + 2 * curve.error
                return curve.x, np.minimum.accumulate(most[::-1])[::-1].clip(0) + slack * FALLING[wanted]
    cure = "add the llc, heat capacity or loss: a share alone cannot tell a transition from the edge of its own region"
    raise InputError("curves", SHARES, cure)


def turns(
    x: np.ndarray, value: np.ndarray, stderr: np.ndarray, bound: tuple[np.ndarray, np.ndarray], noise: Noise
) -> Test:
    """The largest turn of the angle 2 arcsin sqrt(p) beyond what C allows, against no turn."""
    use = np.flatnonzero(np.isfinite(value))
    share, error = value[use].clip(0, 1), stderr[use]
    angle = 2 * np.arcsin(np.sqrt(share))
    inside = share.clip(np.maximum(error, 1e-9), 1 - np.maximum(error, 1e-9)) if np.all(error < 0.5) else share
    errors = np.maximum(error / np.sqrt((inside * (1 - inside)).clip(1e-6)), ANGLE)
    u = np.log(x[use])
    speed = np.sqrt(np.interp(u, np.log(bound[0]), bound[1]))
    allowed = np.concatenate([[0.0], np.cumsum(np.diff(u) * np.maximum(speed[1:], speed[:-1]))])
    first, last = np.triu_indices(len(use), 1)
    spread = np.hypot(errors[first], errors[last])
    z = (np.abs(angle[last] - angle[first]) - (allowed[last] - allowed[first])) / spread
    rows = np.zeros((len(first), len(use)))
    rows[np.arange(len(first)), first] = -errors[first] / spread
    rows[np.arange(len(first)), last] = errors[last] / spread
    loudest = int(np.argmax(z))
    at = int(use[first[loudest]]), int(use[last[loudest]])
    return _against(rows, float(z[loudest]), noise, 2, at)
