"""Plateaus and drops of a loss curve, the sequence of phases that they visit, and when a run passes between them.

The curve is read on a logarithmic axis of steps as y = log((L - floor)/(L_0 - floor) + soft), L_0 its start and floor
the least loss known: `soft` keeps the approach to the floor from falling for ever. A plateau is a stretch in which y
falls by less than `slope` for each e-fold of steps, at least `least` e-folds long; what lies between two is a drop. A
run that begins by falling at full speed is at no plateau then, however short that stretch is in steps: see `path`.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

GRID = 0.01  # e-folds of steps between two points at which curves are read
RARE = 0.05  # share of the runs that must make a transition for it to be dated: of fewer the median is anybody's


class Path(NamedTuple):
    """The plateaus of one run, in order of time; P of them.

    start, stop [P]: steps between which it stays; level [P]: median loss there; phase [P]: the label that most of its
    checkpoints have (evenly in log(step)), pure [P]: their share. at [P - 1]: the step at which the loss passes the
    middle, in y, of two plateaus; width [P - 1]: e-folds within which that step is known.
    """

    start: Float[np.ndarray, " P"]
    stop: Float[np.ndarray, " P"]
    level: Float[np.ndarray, " P"]
    phase: Int[np.ndarray, " P"]
    pure: Float[np.ndarray, " P"]
    at: Float[np.ndarray, " P-1"]
    width: Float[np.ndarray, " P-1"]

    @property
    def sequence(self) -> tuple[int, ...]:
        """Phases in the order in which plateaus visit them, repetitions left out."""
        kept = np.append(True, np.diff(self.phase) != 0)[: len(self.phase)]
        return tuple(int(label) for label in self.phase[kept])

    @property
    def transitions(self) -> list[tuple[int, int, float, float]]:
        """(from, to, step, width) for each two plateaus in a row that lie in different phases."""
        rows = zip(self.phase[:-1], self.phase[1:], self.at, self.width, strict=True)
        return [(int(a), int(b), float(step), float(width)) for a, b, step, width in rows if a != b]


_NONE = np.zeros(0)
NOWHERE = Path(_NONE, _NONE, _NONE, _NONE.astype(int), _NONE, _NONE, _NONE)
"""The path of a run that has no plateau."""


class Middle(NamedTuple):
    """The median of some numbers, and how they spread.

    stderr; low, high: the standard error and the 90 per cent interval of the median, by the bootstrap; spread: the 5
    and 95 per cent quantiles of the numbers themselves, which more of them do not narrow.
    """

    median: float
    stderr: float
    low: float
    high: float
    spread: tuple[float, float]


class Critical(NamedTuple):
    """The step at which runs go from one phase to another: a `Middle` over the runs that do.

    Its error and interval also count the grid of steps. runs: how many make the transition; of: how many there are.
    """

    median: float
    stderr: float
    low: float
    high: float
    spread: tuple[float, float]
    runs: int
    of: int


def path(
    curve_steps: Int[np.ndarray, " C"],
    curve: Float[np.ndarray, " C"],
    steps: Int[np.ndarray, " K"],
    phase: Int[np.ndarray, " K"],
    floor: float,
    *,
    slope: float = 0.3,
    least: float = 0.15,
    drop: float = 0.05,
    soft: float = 0.01,
    window: float = 0.06,
    rest: float = 0.1,
) -> Path:
    """Plateaus of one curve of losses at `curve_steps`, with the labels `phase` of its checkpoints at `steps`.

    slope, least, soft: see the module; window: e-folds to either side over which the slope is taken; drop: two
    plateaus in a row whose y differ by less are one. rest: a first plateau counts only where the loss falls, per step,
    at most this share as fast as in the drop after it (a run at rest, not one just begun).
    """
    y_of = np.log(np.maximum((curve - floor) / max(curve[0] - floor, 1e-300), 0) + soft)
    inside = curve_steps >= 1
    logs = np.log(curve_steps[inside])
    x = np.arange(0, logs[-1] + GRID / 2, GRID)
    y = ndimage.median_filter(np.interp(x, logs, y_of[inside]), 5, mode="nearest")
    reach = max(1, round(window / GRID))
    padded = np.concatenate([np.full(reach, y[0]), y, np.full(reach, y[-1])])
    spans = np.minimum(np.arange(len(y)), reach) + np.minimum(np.arange(len(y))[::-1], reach)
    steep = (padded[: len(y)] - padded[2 * reach :]) / np.maximum(spans * GRID, GRID)
    found = _merged(_runs(np.abs(steep) < slope, least), y, drop)
    if len(found) > 1 and not _rests(found, x, np.interp(x, logs, curve[inside]), rest):
        found = found[1:]
    if not found:
        return NOWHERE
    middles = [
        float(np.exp(x[b + int(np.argmax(y[b : c + 1] <= (np.median(y[a:b]) + np.median(y[c:d])) / 2))]))
        for (a, b), (c, d) in itertools.pairwise(found)
    ]
    held = [_within(x[a], x[b - 1], logs, curve[inside], steps, phase) for a, b in found]
    level, label, pure = (np.array(each) for each in zip(*held, strict=True))
    ends = np.exp([(x[a], x[b - 1]) for a, b in found])
    return Path(ends[:, 0], ends[:, 1], level, label, pure, np.array(middles), np.full(len(middles), GRID))


def by_labels(
    steps: Int[np.ndarray, " K"], phase: Int[np.ndarray, " K"], loss: Float[np.ndarray, " K"], *, least: float = 0.05
) -> Path:
    """The stretches of equal label instead of plateaus: for classifiers that are sharp enough to date a passage alone.

    Stretches shorter than `least` e-folds of steps are left out, and the neighbours of one phase joined; `at` is the
    geometric middle between the last checkpoint before and the first one after.
    """
    inside = steps >= 1
    x, phase, loss = np.log(steps[inside]), phase[inside], loss[inside]
    ends = [0, *(np.flatnonzero(np.diff(phase)) + 1).tolist(), len(phase)]
    middle = np.concatenate([[x[0]], (x[1:] + x[:-1]) / 2, [x[-1]]])
    found: list[tuple[int, int]] = []
    for a, b in itertools.pairwise(ends):
        if middle[b] - middle[a] < least:
            continue
        if found and phase[found[-1][0]] == phase[a]:
            found[-1] = found[-1][0], b
        else:
            found.append((a, b))
    if not found:
        return NOWHERE
    starts, stops = (np.array(each) for each in zip(*found, strict=True))
    at = np.exp((x[stops[:-1] - 1] + x[starts[1:]]) / 2)
    level = np.array([np.median(loss[a:b]) for a, b in found])
    pure = np.array([np.mean(phase[a:b] == phase[a]) for a, b in found])
    return Path(
        np.exp(x[starts]), np.exp(x[stops - 1]), level, phase[starts], pure, at, x[starts[1:]] - x[stops[:-1] - 1]
    )


def _runs(flat: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Stretches [a, b) of True that are long enough."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if (b - a) * GRID >= least]


def _merged(found: list[tuple[int, int]], y: np.ndarray, drop: float) -> list[tuple[int, int]]:
    kept: list[tuple[int, int]] = []
    for a, b in found:
        if kept and abs(np.median(y[kept[-1][0] : kept[-1][1]]) - np.median(y[a:b])) < drop:
            kept[-1] = kept[-1][0], b
        else:
            kept.append((a, b))
    return kept


def _rests(found: list[tuple[int, int]], x: np.ndarray, loss: np.ndarray, rest: float) -> bool:
    """Whether the run stays at its first plateau, instead of just beginning to fall there."""
    (a, b), (c, _) = found[:2]
    if x[a] > GRID:
        return True
    speed = -np.diff(loss) / np.diff(np.exp(x))
    held = (loss[a] - loss[b - 1]) / (np.exp(x[b - 1]) - np.exp(x[a]))
    return bool(held <= rest * speed[b - 1 : max(c, b)].max(initial=0.0))


def _within(
    low: float, high: float, logs: np.ndarray, curve: np.ndarray, steps: np.ndarray, phase: np.ndarray
) -> tuple[float, int, float]:
    """(median loss, most frequent label, its share) between two log steps."""
    at = np.log(np.maximum(steps, 1))
    inside = (at >= low) & (at <= high) & (steps >= 1)
    if not inside.any():
        inside[np.argmin(np.abs(at - (low + high) / 2))] = True
    label, count = Counter(phase[inside].tolist()).most_common(1)[0]
    grid = np.linspace(low, high, 50)
    return float(np.median(np.interp(grid, logs, curve))), int(label), count / int(inside.sum())


def critical_steps(paths: Sequence[Path], names: Sequence[str], fewest: int = 5) -> dict[str, Critical]:
    """`Critical` of every transition "a->b" that at least `fewest` of the runs make, and RARE of them all, the most
    frequent first.

    A run that makes one several times counts with the first. Label -1 is called "none".
    """
    seen: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for one in paths:
        firsts = {(a, b): (step, width) for a, b, step, width in reversed(one.transitions)}
        for way, when in firsts.items():
            seen.setdefault(way, []).append(when)
    found = {}
    for (a, b), each in sorted(seen.items(), key=lambda item: -len(item[1])):
        if len(each) >= max(fewest, RARE * len(paths)):
            values, widths = np.array(each).T
            name = f"{named(names, a)}->{named(names, b)}"
            found[name] = Critical(*middle(values, float(np.median(widths))), len(values), len(paths))
    return found


def middle(values: Float[np.ndarray, " R"], width: float = 0.0, draws: int = 2000) -> Middle:
    """`Middle` of finite numbers; NaN of fewer than two.

    width: e-folds within which each is known; as the grid that they were read on is one for all, every replicate is
    moved as a whole, evenly within it.
    """
    if len(values) < 2:
        return Middle(np.nan, np.nan, np.nan, np.nan, (np.nan, np.nan))
    rng = np.random.default_rng(0)
    again = np.median(rng.choice(values, (draws, len(values))), axis=1)
    again *= np.exp(width * (rng.random(draws) - 0.5))
    low, high, least, most = (float(end) for each in (again, values) for end in np.quantile(each, [0.05, 0.95]))
    return Middle(float(np.median(values)), float(again.std(ddof=1)), low, high, (least, most))


def named(names: Sequence[str], label: int) -> str:
    """The name of a label."""
    return names[label] if label >= 0 else "none"


class Share(NamedTuple):
    """A share of runs: how many of how many, with its binomial standard error and 90 per cent interval (Wilson)."""

    value: float
    stderr: float
    low: float
    high: float
    hits: int
    of: int


def share(count: int, of: int) -> Share:
    """`Share` of `count` among `of`; NaN of none. At 0 and 1 the standard error is that of (count + 1)/(of + 2)."""
    if of == 0:
        return Share(np.nan, np.nan, np.nan, np.nan, 0, 0)
    z, value = 1.6448536269514722, count / of
    inner = value if 0 < count < of else (count + 1) / (of + 2)
    centre = (value + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * np.sqrt(value * (1 - value) / of + z**2 / (4 * of**2))
    return Share(
        value, float(np.sqrt(inner * (1 - inner) / of)), max(0.0, centre - half), min(1.0, centre + half), count, of
    )
