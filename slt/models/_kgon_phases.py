"""The partitions of the toy model of superposition: k-gons by their hull, or by descent on the population loss."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from slt.models._kgon import LARGEST, SMALL, Shape, flat, level, loss_and_grad, minima, minimum, split
from slt.phases import Phases
from slt.typing import InputError, Integer, Params


def phase_names(c: int, merged: bool, rule: str = "hull") -> dict[Shape, str]:
    """Phase of each shape: its name, from k = c down to 4, then 'fewer'; merged: all of k = 4 as one, '4 family'.

    By the hull a doubled corner counts as two.
    """
    least = min(4, c)
    names = {}
    for k in range(c, -1, -1):
        for plus in range(c - k + 1):
            names[Shape(k, plus)] = "fewer" if k < least else "4 family" if merged and k == 4 else Shape(k, plus).name
        for shape in (each for each in minima(c) if each.k == k and each.doubled):
            names[shape] = shape.name if rule == "descent" else names[Shape(k + 1, shape.plus)]
    return names


def _lookup(c: int, merged: bool, rule: str) -> np.ndarray:
    """Label by [k, plus, doubled]."""
    names = phase_names(c, merged, rule)
    order = list(dict.fromkeys(names.values()))
    table = np.full((c + 1, c + 1, 2), -1, np.int32)
    for shape, name in names.items():
        table[shape] = order.index(name)
    return table


def hull_vertices(weights: Float[Array, "2 c"], small: float = SMALL) -> Bool[Array, " c"]:
    """Which columns are vertices of the convex hull of all columns and the origin; those shorter than `small` are not.

    Column i is one where some other point j has every point on one side of the line i j.
    """
    squares = jnp.sum(weights * weights, axis=0)
    long = squares >= small**2
    points = jnp.where(long, weights, 0.0)
    points = jnp.concatenate([points, jnp.zeros((2, 1), weights.dtype)], axis=1)
    side = points[:, None, :] - points[:, :, None]  # [a, i, j] = from i to j
    cross = side[0][:, :, None] * side[1][:, None, :] - side[1][:, :, None] * side[0][:, None, :]
    edge = jnp.all(cross >= -1e-5 * jnp.max(squares), axis=2) & jnp.any(side != 0, axis=0)
    return jnp.any(edge, axis=1)[:-1] & long


def _count(weights: Array, bias: Array) -> tuple[Integer, Integer]:
    vertex = hull_vertices(weights)
    return jnp.sum(vertex, dtype=jnp.int32), jnp.sum((bias > 0) & ~vertex, dtype=jnp.int32)


def _first(weights: Array) -> Bool[Array, " c"]:
    """Which columns have none near them with a lower number."""
    gaps = jnp.sum(jnp.square(weights[:, :, None] - weights[:, None]), axis=0)
    return ~jnp.any(jnp.tril(gaps < SMALL**2, -1), axis=1)


@dataclass(frozen=True)
class ByHull:
    """Label of a draw as it stands: k hull vertices, and the positive biases among the other columns."""

    c: int
    merged: bool

    def __call__(self, params: Params) -> Integer:
        return jnp.asarray(_lookup(self.c, self.merged, "hull"))[(*_count(*split(params)), 0)]


@dataclass(frozen=True)
class ByDescent:
    """Label of the minimum that gradient descent on the population loss leads to; -1 off every known level.

    `steps` of size `rate`, none longer than `longest`. At the end features that give no output (|W_i|^2 + b_i <= 0)
    are set aside, the rest is counted as in ByHull but a doubled corner once, and the loss must be within `tolerance`
    of such a shape's.
    """

    c: int
    merged: bool
    steps: int = 1000
    rate: float = 0.4
    longest: float = 0.1
    tolerance: float = 2e-3

    def __call__(self, params: Params) -> Integer:
        def step(_: Any, w: Array) -> Array:
            move = self.rate * loss_and_grad(w)[1]
            return w - move * jnp.minimum(1.0, self.longest / (jnp.sqrt(jnp.vdot(move, move)) + 1e-30))

        end = jax.lax.fori_loop(0, self.steps, step, flat(params))
        weights, bias = split(end)
        alive = jnp.sum(weights * weights, axis=0) + bias > 0
        corners = jnp.where(alive, weights, 0.0)
        k, plus = _count(jnp.where(_first(corners), corners, 0.0), bias)
        known = np.full((self.c + 1, self.c + 1, 2), np.inf)
        for i in range(min(self.c, LARGEST) + 1):
            for p in range(self.c - i + 1):
                known[i, p, 0] = level(i, p, self.c)
        for shape in minima(self.c):
            known[shape] = minimum(shape, self.c)[1]
        gaps = jnp.abs(loss_and_grad(end)[0] - jnp.asarray(known, end.dtype)[k, plus])
        label = jnp.asarray(_lookup(self.c, self.merged, "descent"))[k, plus, jnp.argmin(gaps)]
        return jnp.where(jnp.min(gaps) < self.tolerance, label, -1)


def partition(c: int = 6, rule: str = "hull", *, merged: bool = True) -> Phases:
    """The phases of the model with c features, by rule 'hull' or 'descent'; merged: the k = 4 family as one phase.

    A rule moves critical values by several per cent, so state which. Names as in `phase_names`. Descent costs 1000
    gradients a label.
    """
    names = tuple(dict.fromkeys(phase_names(c, merged, rule).values()))
    if rule == "hull":
        label, text = ByHull(c, merged), "convex-hull vertices of the columns of W, and positive biases of the others"
    elif rule == "descent":
        label, text = ByDescent(c, merged), "k-gon reached by gradient descent on the population loss"
    else:
        raise InputError("rule", rule, "must be 'hull' or 'descent'")
    return Phases(names, label, text)
