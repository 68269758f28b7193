"""Crossings from the shares of draws that ladders of replica exchange spend in each phase.

The walkers of a ladder move between the phases, so that F_a - F_b = log(share of b / share of a), and ladders are
independent of one another. Shares of chains that are trapped where they started say nothing of this kind.
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float

from slt.transitions.crossing import Crossing, Difference, crossings, difference
from slt.typing import InputError

LEAST = 0.01  # share of both phases together below which a point of the grid says nothing of the two


def difference_of(x: Any, shares: Any, a: int, b: int, draws: int) -> Difference | None:
    """F_a - F_b from shares [data, ladder, x, phase] of `draws` draws each, at the x where the two phases are met.

    Each data set's is the log of the ratio of its mean shares; ladders enter by their influence on it, to first order.
    A phase that was met nowhere counts as half a draw. None where fewer than two points are left.
    """
    x, shares = np.asarray(x, np.float64), np.asarray(shares, np.float64)
    if shares.ndim != 4 or shares.shape[2] != x.size or not (shares >= 0).all():
        raise InputError("shares", shares.shape, f"give shares [data, ladder, x, phase] at the {x.size} values of x")
    pair = shares[..., [a, b]]
    some = pair.sum(-1).mean((0, 1)) >= LEAST
    if some.sum() < 2:
        return None
    pair = pair[:, :, some]
    half = 0.5 / (draws * pair.shape[1])
    mean = pair.mean(1, keepdims=True) + half
    value = (
        np.log(mean[..., 1] / mean[..., 0])
        + (pair[..., 1] + half) / mean[..., 1]
        - (pair[..., 0] + half) / mean[..., 0]
    )
    return difference(x[some], value, np.zeros_like(value), paired=True)


def critical(
    x: Any, shares: Float[np.ndarray, "data ladder x phase"], draws: int
) -> dict[tuple[int, int], tuple[Crossing, ...]]:
    """Crossings (a, b) -> those where a gives way to b, of all phases that follow one another as the most likely.

    x ascending; at least two ladders. See `difference_of`.
    """
    leader = shares.mean((0, 1)).argmax(-1)
    found: dict[tuple[int, int], tuple[Crossing, ...]] = {}
    pairs = {(int(min(p)), int(max(p))) for p in itertools.pairwise(leader.tolist()) if p[0] != p[1]}
    for a, b in sorted(pairs):
        d = difference_of(x, shares, a, b, draws)
        for each in () if d is None else crossings(d).found:
            way = (a, b) if each.upward else (b, a)
            found[way] = (*found.get(way, ()), each)
    return found
