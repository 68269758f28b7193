"""One hidden layer of tanh units, x -> sum_h a_h tanh(b_h x): the simplest nonlinear singular network.

`make` has a truth of one unit or none, `units` one of several; `population` is the potential of the latter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.adapters import Network, from_linen
from slt.model import Potential, Truth
from slt.models._truth import UniformInputs, known
from slt.models._units import set_apart
from slt.phases import Phases, by_units
from slt.priors import Gaussian, Normal, Prior
from slt.theory import elementary
from slt.typing import InputError, Number, Params, Scalar

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class Tanh(nn.Module):
    """sum_h a_h tanh(b_h x) of scalar inputs, without biases; parameters a: [hidden], b: [hidden]."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "n 1"]) -> Float[Array, "n 1"]:
        """Output of every sample; units first inside."""
        a = self.param("a", nn.initializers.normal(1.0), (self.hidden,))
        b = self.param("b", nn.initializers.normal(1.0), (self.hidden,))
        return (a @ jnp.tanh(b[:, None] * x[:, 0]))[:, None]


@dataclass(frozen=True)
class OneUnit:
    """x -> height tanh(slope x)."""

    height: Number = 0.0
    slope: Number = 1.0

    def __call__(self, x: Float[Array, "n 1"]) -> Float[Array, "n 1"]:
        return self.height * jnp.tanh(self.slope * x)


@dataclass(frozen=True)
class Units:
    """x -> sum_h heights_h tanh(slopes_h x)."""

    heights: tuple[float, ...]
    slopes: tuple[float, ...]

    def __call__(self, x: Float[Array, "n 1"]) -> Float[Array, "n 1"]:
        heights, slopes = (jnp.asarray(each, x.dtype) for each in (self.heights, self.slopes))
        return (heights @ jnp.tanh(slopes[:, None] * x[:, 0]))[:, None]


@dataclass(frozen=True)
class TanhLoss:
    """L(w) for x uniform on [-1, 1], by 64 Gauss-Legendre nodes: exact in float32 while no |b_h| exceeds about 15."""

    hidden: int
    target: Callable[[Any], Any]
    sigma: float
    entropy: float

    def excess(self, params: Params) -> Scalar:
        """K(w) = L(w) - entropy."""
        nodes = jnp.asarray(_NODES, params["a"].dtype)[:, None]
        weights = jnp.asarray(_WEIGHTS / 2, params["a"].dtype)
        error = jnp.asarray(Tanh(self.hidden).apply({"params": params}, nodes)) - self.target(nodes)
        return 0.5 * weights @ jnp.square(error / self.sigma)[:, 0]

    def __call__(self, params: Params) -> Scalar:
        return self.excess(params) + self.entropy


@dataclass(frozen=True)
class Flat:
    """K of the parameters as one array w = (a_1 .. a_H, b_1 .. b_H)."""

    loss: TanhLoss

    def __call__(self, w: Float[Array, " d"]) -> Scalar:
        return self.loss.excess({"a": w[: self.loss.hidden], "b": w[self.loss.hidden :]})


@dataclass(frozen=True)
class Shapes:
    """What each unit contributes, its root mean square over x in [-1, 1] signed as a b, and its shape, of size one.

    Of parameters as a tree or as one array (`Flat`). For `slt.phases.by_units`: units of one shape act as one, but for
    idle ones, of root mean square below `idle`.
    """

    idle: float = 0.1

    def __call__(self, params: Any) -> tuple[Float[Array, " h"], Float[Array, "h nodes"]]:
        a, b = (params["a"], params["b"]) if isinstance(params, dict) else jnp.split(params, 2)
        slope = jnp.maximum(jnp.abs(b), 1e-3)  # below it a unit is a line already
        root = jnp.asarray(np.sqrt(_WEIGHTS / 2), b.dtype)
        values = jnp.tanh(slope[:, None] * jnp.asarray(_NODES, b.dtype)) * root
        size = jnp.sqrt(jnp.sum(jnp.square(values), axis=1, keepdims=True))
        amplitude = a * jnp.sign(b) * jnp.where(jnp.abs(b) < 1e-3, jnp.abs(b) * 1e3, 1) * size[:, 0]
        return amplitude, set_apart(amplitude, values / size, self.idle)


_PRIOR, _LIKELIHOOD = Normal(), Gaussian()


def make(
    hidden: int = 2,
    height: float = 0.0,
    slope: float = 1.0,
    prior: Prior = _PRIOR,
    likelihood: Gaussian = _LIKELIHOOD,
) -> Network:
    """y = height tanh(slope x) + N(0, sigma^2), x uniform on [-1, 1]; lambda known at height 0, and for one unit.

    Controls: target.height, target.slope, prior.scale, likelihood.sigma.
    """
    if hidden < 1:
        raise InputError("hidden", hidden, "needs at least one unit")
    target, zero_truth = OneUnit(height, slope), height == 0 or slope == 0
    entropy = float(0.5 * np.log(2 * np.pi * np.e) + np.log(likelihood.sigma))
    coefficient = elementary.tanh(hidden) if zero_truth else elementary.regular(2) if hidden == 1 else None
    first = jnp.arange(hidden) == 0
    used = first & (not zero_truth)
    truth = known(
        coefficient,
        params={"a": jnp.where(used, height, 0.0), "b": jnp.where(used, slope, 0.0)},
        loss=entropy,
        entropy=entropy,
        population_loss=TanhLoss(hidden, target, likelihood.sigma, entropy),
    )
    return from_linen(
        Tanh(hidden),
        jnp.zeros((1, 1)),
        likelihood=likelihood,
        prior=prior,
        inputs=UniformInputs(),
        target=target,
        truth=truth,
        controls=("target.height", "target.slope"),
    )


def counted(hidden: int, threshold: float = 0.3, merge: float = 0.1) -> Phases:
    """Phases by the number of units in use: those whose contribution has a root mean square above `threshold`.

    Units whose shapes tanh(b x), scaled to size one, lie within `merge` of each other act as one.
    """
    return by_units(hidden, threshold, Shapes(), merge=merge)


def units(
    hidden: int = 3,
    heights: Sequence[float] = (-2.0, 2.0),
    slopes: Sequence[float] = (1.0, 5.0),
    prior: Prior = _PRIOR,
    likelihood: Gaussian = _LIKELIHOOD,
    threshold: float = 0.3,
    merge: float = 0.1,
) -> Network:
    """y = sum_h heights_h tanh(slopes_h x) + N(0, sigma^2), x uniform on [-1, 1], by a network of `hidden` units.

    Phases: the number of units in use (`counted`). The optimum is known where the network holds the truth.
    Controls: prior.scale, likelihood.sigma.
    """
    target = _target(hidden, heights, slopes)
    entropy = float(0.5 * np.log(2 * np.pi * np.e) + np.log(likelihood.sigma))
    loss = TanhLoss(hidden, target, likelihood.sigma, entropy)
    best = _optimum(hidden, target)
    truth = Truth(
        params=None if best is None else dict(zip("ab", jnp.split(best, 2), strict=True)),
        loss=None if best is None else entropy,
        entropy=entropy,
        lam=None if hidden != len(target.heights) else float(hidden),
        multiplicity=None if hidden != len(target.heights) else 1,
        source="regular: as many units as the truth has, of different slopes",
        population_loss=loss,
        phases=counted(hidden, threshold, merge),
    )
    return from_linen(
        Tanh(hidden),
        jnp.zeros((1, 1)),
        likelihood=likelihood,
        prior=prior,
        inputs=UniformInputs(),
        target=target,
        truth=truth,
    )


def population(
    hidden: int = 3,
    heights: Sequence[float] = (-2.0, 2.0),
    slopes: Sequence[float] = (1.0, 5.0),
    prior: Prior = _PRIOR,
    sigma: float = 1.0,
    threshold: float = 0.3,
    merge: float = 0.1,
) -> Potential:
    """K(w) of `units`, parameters w = (a_1 .. a_H, b_1 .. b_H); t = n beta."""
    target = _target(hidden, heights, slopes)
    fn = Flat(TanhLoss(hidden, target, sigma, 0.0))
    best = _optimum(hidden, target)
    truth = Truth(
        params=best,
        loss=None if best is None else 0.0,
        population_loss=fn,
        phases=counted(hidden, threshold, merge),
    )
    return Potential(fn, 2 * hidden, prior, known=truth)


def _target(hidden: int, heights: Sequence[float], slopes: Sequence[float]) -> Units:
    if hidden < 1:
        raise InputError("hidden", hidden, "needs at least one unit")
    if len(heights) != len(slopes) or not heights:
        raise InputError("heights, slopes", (heights, slopes), "give one of each for every unit of the truth")
    if 0 in heights or min(slopes) <= 0 or len(set(slopes)) < len(slopes):
        raise InputError("slopes", slopes, "give heights other than 0 and positive slopes, each once, or units merge")
    return Units(tuple(map(float, heights)), tuple(map(float, slopes)))


def _optimum(hidden: int, target: Units) -> Float[Array, " d"] | None:
    """The truth's own units first, the others 0; None where there are too few."""
    spare = hidden - len(target.heights)
    if spare < 0:
        return None
    return jnp.asarray([*target.heights, *[0.0] * spare, *target.slopes, *[0.0] * spare], jnp.result_type(float))
