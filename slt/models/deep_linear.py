"""Deep linear networks, x -> x W_0 W_1 .. W_{L-1}: singular, and with known lambda and multiplicity (Aoyagi 2024)."""

import functools
import itertools
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.adapters import Network, from_linen
from slt.models._truth import NormalInputs, known
from slt.priors import Gaussian, Normal, Prior
from slt.theory import linear_networks
from slt.theory.coefficient import Coefficient
from slt.typing import InputError, Number, Params, Scalar


class DeepLinear(nn.Module):
    """x W_0 W_1 .. W_{L-1}, parameters w0: [H_0, H_1], w1: [H_1, H_2], ..."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        """Output of every sample; the matrices are multiplied first where there are more samples than units."""
        shapes = itertools.pairwise(self.widths)
        weights = [self.param(f"w{i}", nn.initializers.lecun_normal(), shape) for i, shape in enumerate(shapes)]
        if x.shape[0] > max(self.widths):
            return x @ functools.reduce(jnp.matmul, weights)
        return functools.reduce(jnp.matmul, weights, x)


@dataclass(frozen=True)
class LinearTarget:
    """x -> scale x M, M of shape (inputs, outputs) with the `singular_values` on its diagonal and 0 elsewhere."""

    inputs: int
    outputs: int
    singular_values: tuple[float, ...]
    scale: Number = 1.0

    @property
    def matrix(self) -> Float[Array, "i o"]:
        """scale M."""
        diagonal = np.zeros((self.inputs, self.outputs))
        np.fill_diagonal(diagonal, [*self.singular_values, *[0.0] * min(diagonal.shape)][: min(diagonal.shape)])
        return self.scale * jnp.asarray(diagonal, jnp.result_type(float))

    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        return x @ self.matrix


@dataclass(frozen=True)
class LinearLoss:
    """L(w) = |W_0 .. W_{L-1} - M|_F^2 / (2 sigma^2) + entropy, exact for x ~ N(0, I)."""

    target: LinearTarget
    sigma: float
    entropy: float

    def __call__(self, params: Params) -> Scalar:
        product = functools.reduce(jnp.matmul, [params[f"w{i}"] for i in range(len(params))])
        return 0.5 * jnp.sum(jnp.square((product - self.target.matrix) / self.sigma)) + self.entropy


_PRIOR, _LIKELIHOOD = Normal(), Gaussian()


def make(
    widths: tuple[int, ...] = (5, 5, 5),
    singular_values: tuple[float, ...] = (1.0, 1.0),
    prior: Prior = _PRIOR,
    likelihood: Gaussian = _LIKELIHOOD,
) -> Network:
    """y = x M + N(0, sigma^2 I), x ~ N(0, I), M with the given singular values: the true rank is their number.

    widths: H_0 .. H_L, inputs first. Controls: target.scale (of M), prior.scale, likelihood.sigma. The optimum of the
    truth is the most singular one, unused blocks all zero, where lambda is attained; at a generic optimum the local
    lambda may be larger.
    """
    return network(
        widths, singular_values, prior, likelihood, linear_networks.deep_linear(widths, len(singular_values))
    )


def network(
    widths: tuple[int, ...],
    singular_values: tuple[float, ...],
    prior: Prior,
    likelihood: Gaussian,
    coefficient: Coefficient,
) -> Network:
    """The network with its truth; the coefficient is that of its widths and the number of singular values."""
    if not all(value > 0 for value in singular_values):
        raise InputError("singular_values", singular_values, "must be positive: their number is the true rank")
    depth = len(widths) - 1
    target = LinearTarget(widths[0], widths[-1], tuple(float(value) for value in singular_values))
    entropy = float(widths[-1] * (0.5 * np.log(2 * np.pi * np.e) + np.log(likelihood.sigma)))
    params = {}
    for i, shape in enumerate(itertools.pairwise(widths)):
        factor = np.zeros(shape)
        np.fill_diagonal(factor[: len(singular_values), : len(singular_values)], np.power(singular_values, 1 / depth))
        params[f"w{i}"] = jnp.asarray(factor, jnp.result_type(float))
    truth = known(
        coefficient,
        params=params,
        loss=entropy,
        entropy=entropy,
        population_loss=LinearLoss(target, likelihood.sigma, entropy),
    )
    return from_linen(
        DeepLinear(tuple(widths)),
        jnp.zeros((1, widths[0])),
        likelihood=likelihood,
        prior=prior,
        inputs=NormalInputs(widths[0]),
        target=target,
        truth=truth,
        controls=("target.scale",),
    )
