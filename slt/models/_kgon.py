"""The exact landscape of the toy model of superposition: population loss, and the k-gons that are its minima.

Parameters are W (2 x c) and biases b (c), either as {"W", "b"} or as one flat array of 3 c numbers, W[0], W[1], b.
A k-gon has k columns of W at the corners of a regular polygon; each column left over has W_i = 0 and is '+' (constant
output b_i = 1/(2c)) or dead (b_i < 0, no output). '5+' of c = 6 is the pentagon with its spare feature '+'. '6*' is a
hexagon with a corner at which two features lie, a minimum from c = 7 on. Where only some of the spare features are '+'
the polygon is slightly irregular: a dead column then lies between two corners, and lessens the constant outputs.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

from slt.phases import Basin
from slt.typing import InputError, Params, Scalar

LARGEST = 9  # local minima, by the Hessian, up to here; beyond not looked into
SMALL = 0.1  # columns of W shorter than this are no corners, and corners nearer than this are one


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
    if not 0 <= k <= LARGEST:
        raise InputError("k", k, f"the known k-gons have k from 0 to {LARGEST}")
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
    return jnp.asarray(_kgon(k, plus, c, dead), jnp.result_type(float))


def _kgon(k: int, plus: int, c: int, dead: float = -1.0) -> Float[np.ndarray, " d"]:
    length, bias, _ = regular(k)
    angle = 2 * np.pi * np.arange(k) / max(k, 1)
    w = np.zeros((3, c))
    w[0, :k], w[1, :k] = length * np.cos(angle), length * np.sin(angle)
    w[2] = np.concatenate([np.full(k, bias), np.full(plus, 1 / (2 * c)), np.full(c - k - plus, dead)])
    return w.reshape(-1)


def level(k: int, plus: int, c: int) -> float:
    """Population loss of a regular k-gon: (k L_k + (c - k)/3)/c - plus/(4 c^2)."""
    return (regular(k)[2] + (c - k) / 3) / c - plus / (4 * c**2)


class Shape(NamedTuple):
    """A polygon of k corners, at `doubled` of which two features lie, with `plus` features '+'; the rest are dead."""

    k: int
    plus: int
    doubled: int = 0

    @property
    def name(self) -> str:
        """k, a '*' for a doubled corner, a '+' for each such feature."""
        return f"{self.k}" + "*" * self.doubled + "+" * self.plus


@functools.cache
def minima(c: int) -> tuple[Shape, ...]:
    """The shapes known to be local minima, down to k = 4; above k = 4 irregular ones as far as they are found.

    Every one that carries more than 5 per cent of the population posterior at any t is among them and `lesser`, for
    c = 4 .. 8 (tests: discovery over replica exchange).
    """
    if c < 4:
        return (Shape(c, 0),)
    found = []
    for k in range(min(c, LARGEST), 3, -1):
        found += [Shape(k, plus) for plus in range(c - k + 1)]
        found += [Shape(k, plus, 1) for plus in sorted({0, c - k - 1}) if k > 4 and c > k]
    return tuple(shape for shape in found if not _irregular(shape, c) or _settled(shape, c) is not None)


def lesser(c: int) -> tuple[Shape, ...]:
    """Fewer than four features, the rest dead: minima where angles and dead columns are free, which hold at small t."""
    return tuple(Shape(k, 0) for k in range(min(3, c - 1), 0, -1))


def _irregular(shape: Shape, c: int) -> bool:
    return shape.doubled > 0 or (shape.k > 4 and 0 < shape.plus < c - shape.k)


@functools.cache
def minimum(shape: Shape, c: int) -> tuple[Float[np.ndarray, " d"], float]:
    """(parameters, population loss) of one of the `minima`; irregular ones by descent, to rounding error."""
    if not _irregular(shape, c):
        return _kgon(shape.k, shape.plus, c), level(shape.k, shape.plus, c)
    w = _settled(shape, c)
    if w is None:
        raise InputError("shape", shape.name, f"is no minimum of c = {c}")
    return w, _value_and_grad(w)[0]


def _value_and_grad(w: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
    weights, bias = w[: 2 * len(w) // 3].reshape(2, -1), w[2 * len(w) // 3 :]
    c = len(bias)
    value, by_gram, by_b = _moments(np.eye(c), weights.T @ weights, np.repeat(bias[:, None], c, 1), np)
    grad = np.concatenate([(weights @ (by_gram + by_gram.T)).ravel(), by_b.sum(axis=1)])
    return float(value.sum()) / c, grad / c


@functools.cache
def _settled(shape: Shape, c: int) -> Float[np.ndarray, " d"] | None:
    """The minimum of an irregular shape, None where descent from near it leads to another shape."""
    length, bias, _ = regular(shape.k)
    used, angle = shape.k + shape.doubled, 2 * np.pi / shape.k
    corner = np.append(np.arange(shape.k), np.zeros(shape.doubled, int))
    place = np.full((3, c), [[0.4 * np.cos(angle / 2)], [0.4 * np.sin(angle / 2)], [-1.5]])  # dead between two corners
    place[:, :used] = length * np.cos(angle * corner), length * np.sin(angle * corner), np.full(used, bias)
    place[:2, :used] *= np.where((corner == 0) & (shape.doubled > 0), 0.8, 1.0)
    place[:, used : used + shape.plus] = [[0.0], [0.0], [1 / (2 * c)]]
    start = place.ravel() + 1e-3 * np.random.default_rng(0).standard_normal(3 * c)  # off any saddle
    w = scipy.optimize.minimize(_value_and_grad, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(4):  # Newton's steps; the null directions stay as they are
        hessian = [_value_and_grad(w + e)[1] - _value_and_grad(w - e)[1] for e in 1e-6 * np.eye(3 * c)]
        w = w - np.linalg.lstsq(np.array(hessian) / 2e-6, _value_and_grad(w)[1], rcond=1e-6)[0]
    weights, bias = w[: 2 * c].reshape(2, c), w[2 * c :]
    size = np.square(weights).sum(axis=0)
    corners, free = (size > SMALL**2) & (size + bias > 0), size <= SMALL**2
    own = weights[:, corners]
    twice = np.sum(np.linalg.norm(own[:, :, None] - own[:, None], axis=0) < SMALL) - own.shape[1]
    found = Shape(int(corners.sum() - twice // 2), int((free & (bias > 0)).sum()), int(twice // 2))
    return w if found == shape else None


def local_lambda(shape: Shape, c: int) -> float | None:
    """Half the rank of the Hessian at one of the `minima`: 3 c - 1, less 3 for a dead feature. C3.

    Less 1 where k = 4 or a feature is '+': a dead column then bears on the others. None below k = 4.
    """
    if shape.k < 4:
        return None
    dead = c - shape.k - shape.doubled - shape.plus
    return (3 * c - 1 - dead * (1 if shape.k == 4 or shape.plus else 3)) / 2


def basins(
    c: int, phase: Mapping[Shape, str], *, as_dict: bool, loss: Callable[[float], float] = float
) -> tuple[Basin, ...]:
    """The known minima, with lambda and `loss` of their level, under the phase names of a partition."""
    found = []
    for shape in (*minima(c), *lesser(c)):
        values, height = minimum(shape, c)
        w = jnp.asarray(values, jnp.result_type(float))
        params = dict(zip(("W", "b"), split(w), strict=True)) if as_dict else w
        lam = local_lambda(shape, c)
        found.append(Basin(shape.name, params, phase[shape], loss(height), lam, None if lam is None else 1))
    return tuple(found)
