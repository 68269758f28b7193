"""One hidden layer of tanh units, x -> sum_h a_h tanh(b_h x): the simplest nonlinear singular network."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.adapters import Network, from_linen
from slt.models._truth import UniformInputs, known
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
class TanhLoss:
    """L(w) for x uniform on [-1, 1], by 64 Gauss-Legendre nodes: exact in float32 while no |b_h| exceeds about 15."""

    hidden: int
    target: OneUnit
    sigma: float
    entropy: float

    def __call__(self, params: Params) -> Scalar:
        nodes = jnp.asarray(_NODES, params["a"].dtype)[:, None]
        weights = jnp.asarray(_WEIGHTS / 2, params["a"].dtype)
        error = jnp.asarray(Tanh(self.hidden).apply({"params": params}, nodes)) - self.target(nodes)
        return 0.5 * weights @ jnp.square(error / self.sigma)[:, 0] + self.entropy


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
