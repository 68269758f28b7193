"""The exact landscape of the toy model of superposition: population loss, k-gons, and the partitions they define.

Parameters are W (2 x c) and biases b (c), either as {"W", "b"} or as one flat array of 3 c numbers, W[0], W[1], b.
A k-gon has k columns of W at the corners of a regular polygon; each column left over has W_i = 0 and is '+' (constant
output b_i = 1/(2c)) or dead (b_i < 0, no output). '5+' of c = 6 is the pentagon with its spare feature '+'.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Bool, Float

from slt.phases import Basin, Phases
from slt.typing import InputError, Integer, Params, Scalar

_LARGEST = 9  # local minima, by the Hessian, up to here; beyond not looked into
_SMALL = 0.1


def split(params: Params) -> tuple[Float[Array, "2 c"], Float[Array, " c"]]:
    """(W, b) of parameters given as {"W", "b"} or as one flat array of 3 c numbers."""
    if isinstance(params, Mapping):
        return params["W"], params["b"]
    c = params.shape[0] // 3
    return params[: 2 * c].reshape(2, c), params[2 * c :]


def flat(params: Params) -> Float[Array, " d"]:
    """The parameters as one array of 3 c numbers: W[0], W[1], b."""
    weights, bias = split(params)
    return jnp.concatenate([weights[0], weights[1], bias])


# ------------------------------------------------------------------------------------------------------ population loss


def _moments(tau: Any, s: Any, b: Any, xp: Any = jnp) -> tuple[Any, Any, Any]:
    """I(tau, s, b) = int_0^1 (tau mu - (s mu + b)_+)^2 dmu with its derivatives in s and b; tau is 0 or 1.

    The activation at the ends of [0, 1] and the length of the active interval [lo, hi] give every branch as sums of
    squares, without cancellation. At s = b = 0 the length is 0/0 and the integrals do not depend on it.
    """
    left, right = xp.maximum(b, 0.0), xp.maximum(s + b, 0.0)
    length = (left + right) / xp.maximum(xp.abs(b) + xp.abs(s + b), 1e-30)
    hi = xp.where(s + b > 0, 1.0, length)
    lo = hi - length
    r_lo, r_hi = tau * lo - left, tau * hi - right  # the residual is linear between these
    value = (length * (r_lo * r_lo + r_lo * r_hi + r_hi * r_hi) + tau * (lo**3 + (1 - hi) * (1 + hi + hi * hi))) / 3
    by_s = -length * (lo * (2 * r_lo + r_hi) + hi * (r_lo + 2 * r_hi)) / 3
    by_b = -length * (r_lo + r_hi)
    return value, by_s, by_b


@jax.jit  # traced once, not at every use
def loss_and_grad(w: Float[Array, " d"]) -> tuple[Scalar, Float[Array, " d"]]:
    """L(W, b) and its gradient in one pass; see `population_loss`."""
    weights, bias = split(w)
    c = bias.shape[0]
    rows = []
    for i in range(c):  # output by output: up to twice as fast as the c x c array, vmapped over chains on a CPU
        gram = weights[0] * weights[0][i] + weights[1] * weights[1][i]
        rows.append(_moments(jnp.asarray(np.arange(c) == i, w.dtype), gram, bias[i]))
    value, by_gram, by_b = (jnp.stack(parts) for parts in zip(*rows, strict=True))
    by_w = jnp.sum(weights[:, None, :] * (by_gram + by_gram.T), axis=-1)
    return jnp.sum(value) / c, jnp.concatenate([by_w[0], by_w[1], jnp.sum(by_b, axis=1)]) / c


@jax.custom_jvp
def _loss(w: Float[Array, " d"]) -> Scalar:
    return loss_and_grad(w)[0]


@_loss.defjvp
def _loss_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value, grad = loss_and_grad(primals[0])
    return value, jnp.vdot(grad, tangents[0])


def population_loss(params: Params) -> Scalar:
    """L(W, b) = E |x - ReLU(W^T W x + b)|^2 over x = mu e_i, i uniform on c features, mu ~ U[0, 1]: exact.

    L = (1/c) [sum_i I(1, G_ii, b_i) + sum_{i != j} I(0, G_ij, b_i)], G = W^T W (science.md C1). No factor 1/2 and no
    noise constant. Continuously differentiable, with kinks of the gradient where G_ij = 0 and b_i = 0.
    """
    return _loss(flat(params) if isinstance(params, Mapping) else params)


# --------------------------------------------------------------------------------------------------------------- k-gons


@functools.cache
def regular(k: int) -> tuple[float, float, float]:
    """(length, bias, k L_k) of the regular k-gon with all c = k features: stationary in length and bias (C2)."""
    if not 0 <= k <= _LARGEST:
        raise InputError("k", k, f"the known k-gons have k from 0 to {_LARGEST}")
    if k <= 4:  # exact: no two corners at less than a right angle
        return 1.0, 0.0, 0.0
    cosines, tau = np.cos(2 * np.pi * np.arange(k) / k), (np.arange(k) == 0) * 1.0

    def gradient(point: np.ndarray) -> list[float]:
        _, by_s, by_b = _moments(tau, point[0] ** 2 * cosines, np.full(k, point[1]), np)
        return [float(np.sum(by_s * cosines)), float(np.sum(by_b))]

    root = scipy.optimize.root(gradient, (1.17 + 0.12 * (k - 5), -0.28 - 0.32 * (k - 5)), tol=1e-14).x
    value = _moments(tau, root[0] ** 2 * cosines, np.full(k, root[1]), np)[0]
    return float(root[0]), float(root[1]), k * float(np.sum(value))


def kgon(k: int, plus: int = 0, c: int = 6, dead: float = -1.0) -> Float[Array, " d"]:
    """The k-gon with `plus` of its unused features '+', the others dead with bias `dead`; flat, first corner along x.

    A critical point of the population loss for every k but 1 (with '+'), a local minimum where `minima` lists it.
    """
    if not 0 <= k <= c or not 0 <= plus <= c - k:
        raise InputError("kgon", (k, plus, c), "needs 0 <= k and k + plus <= c")
    length, bias, _ = regular(k)
    angle = 2 * np.pi * np.arange(k) / max(k, 1)
    w = np.zeros((3, c))
    w[0, :k], w[1, :k] = length * np.cos(angle), length * np.sin(angle)
    w[2] = np.concatenate([np.full(k, bias), np.full(plus, 1 / (2 * c)), np.full(c - k - plus, dead)])
    return jnp.asarray(w.reshape(-1), jnp.result_type(float))


def level(k: int, plus: int, c: int) -> float:
    """Population loss of a k-gon: (k L_k + (c - k)/3)/c - plus/(4 c^2)."""
    return (regular(k)[2] + (c - k) / 3) / c - plus / (4 * c**2)


def minima(c: int) -> tuple[tuple[int, int], ...]:
    """The (k, plus) known to be local minima: any plus at k = 4; above it all or none of the spare features are '+'."""
    if c < 4:
        return ((c, 0),)
    found = []
    for k in range(min(c, _LARGEST), 3, -1):
        spare = c - k
        found += [(k, plus) for plus in (range(spare + 1) if k == 4 else sorted({0, spare}))]
    return tuple(found)


def local_lambda(k: int, plus: int, c: int) -> float | None:
    """Half the rank of the Hessian at one of the `minima`: 3 c - 1, less 3 for a dead feature (1 when k = 4). C3."""
    if k < 4:
        return None
    dead = c - k - plus
    return (3 * c - 1 - dead * (1 if k == 4 else 3)) / 2


def basins(
    c: int, phase: Mapping[tuple[int, int], str], *, as_dict: bool, loss: Callable[[float], float] = float
) -> tuple[Basin, ...]:
    """The known minima, with lambda and `loss` of their level, under the phase names of a partition."""
    found = []
    for k, plus in minima(c):
        w = kgon(k, plus, c)
        params = dict(zip(("W", "b"), split(w), strict=True)) if as_dict else w
        lam = local_lambda(k, plus, c)
        multiplicity = None if lam is None else 1
        found.append(Basin(_name(k, plus), params, phase[k, plus], loss(level(k, plus, c)), lam, multiplicity))
    return tuple(found)


# --------------------------------------------------------------------------------------------------------------- phases


def _name(k: int, plus: int) -> str:
    return f"{k}" + "+" * plus


def phase_names(c: int, merged: bool) -> dict[tuple[int, int], str]:
    """Phase of each (k, plus): 'k' with a '+' each, from k = c down to 4, then 'fewer'; merged: all of k = 4 as one."""
    least = min(4, c)
    return {
        (k, plus): "fewer" if k < least else "4 family" if merged and k == 4 else _name(k, plus)
        for k in range(c, -1, -1)
        for plus in range(c - k + 1)
    }


def _lookup(c: int, merged: bool) -> np.ndarray:
    names = phase_names(c, merged)
    order = list(dict.fromkeys(names.values()))
    table = np.full((c + 1, c + 1), -1, np.int32)
    for (k, plus), name in names.items():
        table[k, plus] = order.index(name)
    return table


def hull_vertices(weights: Float[Array, "2 c"], small: float = _SMALL) -> Bool[Array, " c"]:
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


@dataclass(frozen=True)
class ByHull:
    """Label of a draw as it stands: k hull vertices, and the positive biases among the other columns."""

    c: int
    merged: bool

    def __call__(self, params: Params) -> Integer:
        return jnp.asarray(_lookup(self.c, self.merged))[_count(*split(params))]


@dataclass(frozen=True)
class ByDescent:
    """Label of the minimum that gradient descent on the population loss leads to; -1 off every known level.

    `steps` of size `rate`, none longer than `longest`. At the end features that give no output (|W_i|^2 + b_i <= 0)
    are set aside, the rest is counted as in ByHull, and the loss must be within `tolerance` of that k-gon's.
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
        k, plus = _count(jnp.where(alive, weights, 0.0), bias)
        known = np.full((self.c + 1, self.c + 1), np.inf, np.float32)
        for i in range(min(self.c, _LARGEST) + 1):
            for p in range(self.c - i + 1):
                known[i, p] = level(i, p, self.c)
        near = jnp.abs(loss_and_grad(end)[0] - jnp.asarray(known, end.dtype)[k, plus]) < self.tolerance
        return jnp.where(near, jnp.asarray(_lookup(self.c, self.merged))[k, plus], -1)


def partition(c: int = 6, rule: str = "hull", *, merged: bool = True) -> Phases:
    """The phases of the model with c features, by rule 'hull' or 'descent'; merged: the k = 4 family as one phase.

    A rule moves critical values by several per cent, so state which. Names as in `phase_names`. Descent costs 1000
    gradients a label.
    """
    names = tuple(dict.fromkeys(phase_names(c, merged).values()))
    if rule == "hull":
        label, text = ByHull(c, merged), "convex-hull vertices of the columns of W, and positive biases of the others"
    elif rule == "descent":
        label, text = ByDescent(c, merged), "k-gon reached by gradient descent on the population loss"
    else:
        raise InputError("rule", rule, "must be 'hull' or 'descent'")
    return Phases(names, label, text)
