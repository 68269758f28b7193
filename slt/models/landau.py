"""Landau's potentials on the line, with the field h as a control: continuous (`pitchfork`) and first order (`make`).

K(w) = w^6 - b w^4 + h w^2, less its minimum: for b > 0 the origin and the pair of outer minima are equally deep at
h = b^2/4, with a barrier of b^3/54 between them; the line of coexistence ends at the tricritical point b = h = 0.
K(w) = w^4/4 - h w^2/2, less its minimum: the origin turns into a pair of minima w^2 = h at h = 0, with no barrier.
The pair +-w is one phase, `outer`. Everything is exact by one-dimensional quadrature (slt.theory.quadrature).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from slt.model import Potential, Truth
from slt.phases import Basin, by_threshold
from slt.priors import Normal, Prior
from slt.theory import elementary
from slt.theory.coefficient import Coefficient
from slt.typing import InputError, Number, Scalar

_NARROW = Normal(0.4)  # favours the origin by some 3 nats, so that at h < b^2/4 the outer pair wins only at large t
_PRIOR = Normal()


def size(w: Float[Array, " 1"]) -> Scalar:
    """|w|: the order parameter, alike for the pair of outer minima."""
    return jnp.abs(w[0])


def sixth_order(w: Float[Array, " 1"], h: Number = 0.9, b: Number = 2.0) -> Scalar:
    """w^6 - b w^4 + h w^2, less its minimum, in a form without cancellation: (w^2 - m)^2 (w^2 + 2 m - b) if that lies
    outside, at w^2 = m.
    """
    square = jnp.square(w[0])
    h, b = jnp.asarray(h, square.dtype), jnp.asarray(b, square.dtype)
    m = (b + jnp.sqrt(jnp.maximum(b * b - 3 * h, 0))) / 3
    outside = (b * b > 3 * h) & (m > 0) & (m * (m * (m - b) + h) < 0)
    return jnp.where(outside, jnp.square(square - m) * (square + 2 * m - b), square * (square * (square - b) + h))


def fourth_order(w: Float[Array, " 1"], h: Number = 0.5) -> Scalar:
    """w^4/4 - h w^2/2, less its minimum: (w^2 - h)^2/4 for h > 0."""
    square = jnp.square(w[0])
    h = jnp.asarray(h, square.dtype)
    return jnp.where(h > 0, jnp.square(square - h) / 4, square * (square / 4 - h / 2))


def make(h: float = 0.9, b: float = 2.0, prior: Prior = _NARROW, radius: float | None = None) -> Potential:
    """The sixth-order potential. Controls: h and b; phases `origin` and `outer`, divided at |w| = radius.

    radius: where the barrier lies when both are equally deep, sqrt(b/6), unless given; it stays there when controls
    vary. lambda is 1/2 at every minimum with curvature, 1/4 at h = 0 > b and 1/6 at the tricritical point.
    """
    _finite(h=h, b=b)
    root = math.sqrt(max(b * b - 3 * h, 0.0))
    m = (b + root) / 3
    outer = b * b > 3 * h and m > 0
    depth = m * (m * (m - b) + h) if outer else 0.0
    minima = {}
    if h > 0 or (h == 0 and b <= 0):
        power = 2 if h > 0 else 4 if b < 0 else 6
        minima["origin"] = (0.0, max(-depth, 0.0), power)
    if outer:
        minima["outer"] = (math.sqrt(m), max(depth, 0.0), 2)
    wall = radius if radius is not None else math.sqrt(b / 6) if b > 0 else 0.5 * math.sqrt(m) if outer else 0.5
    fn = functools.partial(sixth_order, h=h, b=b)
    return Potential(sixth_order, 1, prior, (("h", h), ("b", b)), _truth(minima, wall, fn))


def pitchfork(h: float = 0.5, prior: Prior = _PRIOR, radius: float | None = None) -> Potential:
    """The fourth-order potential. Control: h; phases `origin` and `outer`, divided at |w| = radius.

    radius: half the outer minima's sqrt(h), or 1/2 where there are none, unless given. lambda is 1/2, and 1/4 at h = 0.
    """
    _finite(h=h)
    minima = {"outer": (math.sqrt(h), 0.0, 2)} if h > 0 else {"origin": (0.0, 0.0, 2 if h < 0 else 4)}
    wall = radius if radius is not None else 0.5 * math.sqrt(h) if h > 0 else 0.5
    return Potential(fourth_order, 1, prior, (("h", h),), _truth(minima, wall, functools.partial(fourth_order, h=h)))


def _finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(name, value, "must be a finite number")


@dataclass(frozen=True)
class _Minimum:
    """One minimum as a basin: K ~ (w - at)^power there."""

    name: str
    at: float
    loss: float
    power: int

    def coefficient(self) -> Coefficient:
        return elementary.normal_crossing((self.power // 2,))

    def basin(self) -> Basin:
        known = self.coefficient()
        return Basin(self.name, jnp.full(1, self.at), self.name, self.loss, known.lam, known.m)


def _truth(
    minima: dict[str, tuple[float, float, int]], wall: float, fn: Callable[[Float[Array, " 1"]], Scalar]
) -> Truth:
    if not (math.isfinite(wall) and wall > 0):
        raise InputError("radius", wall, "must be a positive number")
    found = [_Minimum(name, *rest) for name, rest in minima.items()]
    best = min(found, key=lambda each: each.loss)
    known = best.coefficient()
    return Truth(
        params=jnp.full(1, best.at),
        loss=0.0,
        lam=known.lam,
        multiplicity=known.m,
        source=known.source,
        population_loss=fn,
        basins=tuple(each.basin() for each in found),
        phases=by_threshold(("origin", "outer"), size, wall, f"origin where |w| < {wall:.4g}, outer beyond"),
    )
