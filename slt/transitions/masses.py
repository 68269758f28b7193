"""Crossings from the shares of draws that ladders of replica exchange spend in each phase.

The walkers of a ladder move between the phases, so that F_a - F_b = log(share of b / share of a), and ladders are
independent of one another. Shares of chains that are trapped where they started say nothing of this kind.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from slt.transitions.crossing import Crossing, Difference, crossings, difference
from slt.transitions.kind import Height, Kind, classify, height, heights
from slt.typing import Estimate, InputError

LEAST = 0.01  # share of both phases together below which a point of the grid says nothing of the two
STRETCHES = 4
"""Into how many each ladder's draws are cut, so that a few ladders tell their error well."""
MOST = 1.25
ENOUGH = 100
"""Draws of either phase below which they tell of no barrier."""
BLOCKS, LONG = 16, 25
"""Blocks, at most, into which the draws of a phase are cut as if they were runs, and their least length."""


def stretches(inside: Bool[np.ndarray, "... draw"]) -> Float[np.ndarray, "... stretch"]:
    """Share of the draws that are inside, in each of STRETCHES runs of successive draws (fewer of fewer draws)."""
    count = min(STRETCHES, inside.shape[-1])
    return np.stack([part.mean(-1) for part in np.array_split(inside, count, axis=-1)], axis=-1)


def replicates(value: Float[np.ndarray, "... x ladder stretch"]) -> Float[np.ndarray, "... x replicate"]:
    """Independent replicates of a mean over ladders, about 0: all stretches of all ladders.

    Or whole ladders, where their variance is, on average over x, more than MOST times what stretches tell of it: then
    one stretch remembers the one before.
    """
    ladders, count = value.shape[-2:]
    value = value - value.mean((-2, -1), keepdims=True)
    whole = value.mean(-1)
    if ladders > 1 and count > 1:
        told = value.var(-1, ddof=1).mean(-1) / count
        ratio = whole.var(-1, ddof=1)[told > 0] / told[told > 0]
        if ratio.size and ratio.mean() <= MOST:
            return value.reshape(*value.shape[:-2], -1)
    return whole


def difference_of(
    x: Any, labels: Int[np.ndarray, "data x ladder draw"], a: Sequence[int], b: Sequence[int]
) -> Difference | None:
    """F_a - F_b of two sets of labels, at the x where draws of either are met.

    Each data set's is the log of the ratio of its mean shares; ladders and stretches of them (`replicates`) enter by
    their influence on it, to first order. A phase that was met nowhere counts as half a draw. None where fewer than two
    points are left, or where one ladder of one data set is all there is, which tells nothing of its error.
    """
    x, labels = np.asarray(x, np.float64), np.asarray(labels)
    if labels.shape[1] != x.size or not labels.size:
        raise InputError("labels", labels.shape, f"give labels [data, x, ladder, draw] at the {x.size} values of x")
    inside = np.stack([np.isin(labels, list(each)) for each in (a, b)])  # [2, data, x, ladder, draw]
    some = inside.mean((1, 3, 4)).sum(0) >= LEAST
    if some.sum() < 2 or labels.shape[0] * labels.shape[2] < 2:
        return None
    inside = inside[:, :, some]
    mean = inside.mean((-2, -1)) + 0.5 / (labels.shape[2] * labels.shape[3])
    low, high = stretches(inside) / mean[..., None, None]
    value = np.log(mean[1] / mean[0])[..., None] + replicates(high - low)
    value = value.swapaxes(1, 2)
    return difference(x[some], value, np.zeros_like(value), paired=True)


def drift(labels: Int[np.ndarray, "data x ladder draw"], a: Sequence[int], b: Sequence[int]) -> tuple[float, float]:
    """How much F_a - F_b changes from the first half of the draws to the second, and its standard error: in nats.

    To first order in the shares, averaged over x with weights p_a p_b/(p_a + p_b)^2, so that it is what happens about
    the crossing that counts; ladders are what varies. Ladders that have forgotten where they started drift by some of
    their errors: beyond 4 of them the burn-in is too short, and the crossing is where the start puts it.
    """
    labels = np.asarray(labels)
    half = labels.shape[-1] // 2
    inside = np.stack([np.isin(labels, list(each)) for each in (a, b)])  # [2, data, x, ladder, draw]
    mean = inside.mean((-2, -1)) + 0.5 / (labels.shape[2] * labels.shape[3])
    low, high = (inside[..., half:].mean(-1) - inside[..., :half].mean(-1)) / mean[..., None]
    weight = (mean[0] * mean[1] / np.square(mean.sum(0)))[..., None]
    change = (weight * (high - low)).sum(1) / weight.sum(1)  # [data, ladder]
    return float(change.mean()), float(change.std(ddof=1) / np.sqrt(change.size)) if change.size > 1 else np.nan


def critical(
    x: Any, labels: Int[np.ndarray, "data x ladder draw"], phases: int
) -> dict[tuple[int, int], tuple[Crossing, ...]]:
    """Crossings (a, b) -> those where a gives way to b, of all phases that follow one another as the most likely.

    Only those that are certain (`Crossing`): mirror images of one phase lead in turn by chance, and cross nowhere. x
    ascending; at least two ladders. See `difference_of`.
    """
    leader = np.stack([(labels == k).mean((0, 2, 3)) for k in range(phases)], axis=-1).argmax(-1)
    found: dict[tuple[int, int], tuple[Crossing, ...]] = {}
    pairs = {(int(min(p)), int(max(p))) for p in itertools.pairwise(leader.tolist()) if p[0] != p[1]}
    for a, b in sorted(pairs):
        d = difference_of(x, labels, [a], [b])
        for each in () if d is None else (one for one in crossings(d).found if one.certain):
            way = (a, b) if each.upward else (b, a)
            found[way] = (*found.get(way, ()), each)
    return found


class Shown(NamedTuple):
    """Draws of ladders that tell where a phase lies, each [data, x, ladder, draw]: labels, and places [.., d] that are
    the same under all symmetries of the model; or losses, where they are not and a phase may lie in several places.
    orders: further order parameters, by name.
    """

    labels: Int[np.ndarray, "data x ladder draw"]
    places: Float[np.ndarray, "data x ladder draw d"]
    losses: Float[np.ndarray, "data x ladder draw"] | None = None
    orders: Mapping[str, Float[np.ndarray, "data x ladder draw"]] = {}


def kind_at(
    x: Any,
    at: float,
    labels: Int[np.ndarray, "data x ladder draw"],
    a: Sequence[int],
    b: Sequence[int],
    phases: int,
    shown: Shown | None = None,
    hysteresis: Estimate | None = None,
) -> Kind:
    """The kind of the crossing of two sets of labels at `at`, told between the values of x on either side of it.

    The label entropy is of the shares of all phases, averaged over data sets. Barriers are told from ENOUGH draws of
    either set or more, of one data set: where several differ, draws of all of them together would fill the gap between
    the phases of each; then, and without `shown`, the kind is unresolved.
    """
    x, labels = np.asarray(x, np.float64), np.asarray(labels)
    order = np.argsort(x)
    shares = [(labels == k).mean((0, 2, 3))[order] for k in range(phases)]
    masses = [float(np.interp(at, x[order], share)) for share in shares]
    right = int(np.clip(np.searchsorted(x[order], at), 1, x.size - 1)) if x.size > 1 else 0
    both = order[[right - 1, right]] if x.size > 1 else order
    found = [
        (abs(float(x[i]) - at), barriers)
        for i in both
        if shown is not None and len(labels) == 1 and (barriers := _barriers(labels[0, i], shown, int(i), a, b))
    ]
    return classify(_between(found), masses=masses if sum(masses) > 0 else None, hysteresis=hysteresis)


def _barriers(
    labels: Int[np.ndarray, "ladder draw"], shown: Shown, i: int, a: Sequence[int], b: Sequence[int]
) -> list[Height]:
    """Barriers by all order parameters at one x; none with too few draws.

    Off the crossing one phase is tilted against the other by F_a - F_b, and weighing them alike makes a step of it at
    the border, which lies between their modes: half of it is taken off.
    """
    inside = [np.isin(shown.labels[0, i], list(each)) for each in (a, b)]
    if min(each.sum() for each in inside) < ENOUGH:
        return []
    losses = shown.losses
    found, _ = heights(
        [_blocks(shown.places[0, i][each]) for each in inside],
        None if losses is None else [_blocks(losses[0, i][each]) for each in inside],
    )
    for name, values in shown.orders.items():
        low, high = (_blocks(values[0, i][each]) for each in inside)
        found.append(height(low, high, name))
    low, high = (np.isin(labels, list(each)).sum() + 0.5 for each in (a, b))
    tilt = abs(float(np.log(low / high))) / 2
    return [
        each._replace(value=max(0.0, each.value - tilt), stderr=float(np.hypot(each.stderr, tilt / 2)))
        for each in found
    ]


def _between(found: Sequence[tuple[float, list[Height]]]) -> list[Height]:
    """Barriers (distance from the crossing, barriers) on either side of it, as they are there."""
    if len(found) < 2:
        return found[0][1] if found else []
    (far, low), (near, high) = found
    share = far / (far + near)
    return [
        Height(
            (1 - share) * one.value + share * other.value,
            float(np.hypot((1 - share) * one.stderr, share * other.stderr)),
            one.order,
            one.bound or other.bound,
        )
        for one, other in zip(low, high, strict=True)
    ]


def _blocks(values: Float[np.ndarray, "i ..."]) -> Float[np.ndarray, "run k ..."]:
    """Draws, those of a ladder in a row, as blocks of equal length; some of the last are left out."""
    count = min(BLOCKS, len(values) // LONG)
    length = len(values) // count
    return np.asarray(values[: count * length], np.float64).reshape(count, length, *values.shape[1:])
