"""Crossings of single data paths: where each data set's own F_a - F_b changes its sign first, and last."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from slt.transitions.crossing import grid
from slt.typing import InputError


class Paths(NamedTuple):
    """Crossings of single data paths [data]: first and last (NaN where a path never crosses) and how many."""

    first: Float[np.ndarray, " data"]
    last: Float[np.ndarray, " data"]
    changes: np.ndarray
    above: Float[np.ndarray, " x"]
    "share of the paths on which D > 0, that is which prefer b"


def paths(x: Any, value: Any) -> Paths:
    """Crossings of every single data path D [data, x], interpolated linearly (in log x where x > 0).

    On one data set D is a random walk about its mean and crosses many times where its drift is small: the first and
    the last crossing are other numbers than the crossing of the averaged D, and both are reported.
    """
    x = grid(x)
    value = np.asarray(value, np.float64)
    if value.ndim != 2 or value.shape[1] != x.size or not np.isfinite(value).all():
        raise InputError("value", value.shape, f"give finite D of every data set at the {x.size} values of x")
    u = np.log(x) if x[0] > 0 else x
    above = value > 0
    change = above[:, 1:] != above[:, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        where = u[:-1] + np.diff(u) * value[:, :-1] / (value[:, :-1] - value[:, 1:])
    count = change.sum(1)
    rows = np.arange(len(value))
    ends = (where[rows, change.argmax(1)], where[rows, change.shape[1] - 1 - change[:, ::-1].argmax(1)])
    first, last = (np.where(count > 0, np.exp(each) if x[0] > 0 else each, np.nan) for each in ends)
    return Paths(first, last, count, above.mean(0))
