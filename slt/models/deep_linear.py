"""Deep linear networks, x -> x W_0 W_1 .. W_{L-1}: singular, and with known lambda and multiplicity (Aoyagi 2024).

`make` is the model on data, `population` the potential |W_0 .. W_{L-1} - M|^2, `learned` counts the modes
of M that a draw has.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.adapters import Network, from_linen
from slt.model import Potential
from slt.models._truth import NormalInputs, known
from slt.phases import Basin, Phases
from slt.priors import Gaussian, Normal, Prior
from slt.theory import linear_networks
from slt.theory.coefficient import Coefficient
from slt.typing import InputError, Integer, Number, Params, Scalar


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
        return 0.5 * jnp.sum(jnp.square((product(params, ()) - self.target.matrix) / self.sigma)) + self.entropy


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


def shapes(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Of the matrices W_0 .. W_{L-1}."""
    return list(itertools.pairwise(widths))


def product(params: Params, widths: Sequence[int]) -> Float[Array, "*batch i o"]:
    """W_0 .. W_{L-1} of parameters as {"w0", "w1", ..} or as one flat vector [..., d], with any leading axes."""
    if isinstance(params, Mapping):
        return functools.reduce(jnp.matmul, [params[f"w{i}"] for i in range(len(params))])
    ends = np.cumsum([a * b for a, b in shapes(widths)])
    parts = jnp.split(params, ends[:-1], axis=-1)
    return functools.reduce(
        jnp.matmul, [w.reshape(*w.shape[:-1], *shape) for w, shape in zip(parts, shapes(widths), strict=True)]
    )


@dataclass(frozen=True)
class Squares:
    """K(w) = |W_0 .. W_{L-1} - M|_F^2 of flat parameters, without a factor 1/2."""

    widths: tuple[int, ...]
    target: LinearTarget

    def __call__(self, w: Float[Array, " d"]) -> Scalar:
        return jnp.sum(jnp.square(product(w, self.widths) - self.target.matrix))


@dataclass(frozen=True)
class Learned:
    """How many of the leading modes of M a draw has learned.

    Mode i, of singular value s_i, is learned where the product's entry along it, u_i' W v_i, lies within s_i/2 of s_i;
    the label is the number of modes before the first that is not.
    """

    widths: tuple[int, ...]
    singular_values: tuple[float, ...]

    def __call__(self, params: Params) -> Integer:
        strength = jnp.diagonal(product(params, self.widths))[: len(self.singular_values)]
        values = jnp.asarray(self.singular_values, strength.dtype)
        has = jnp.abs(strength - values) < values / 2
        return jnp.sum(jnp.cumprod(has.astype(jnp.int32))).astype(jnp.int32)


def learned(widths: Sequence[int], singular_values: Sequence[float]) -> Phases:
    """The phases "0", "1", .., of a network that has learned so many modes of M: see `Learned`."""
    widths, values = tuple(widths), tuple(float(value) for value in singular_values)
    text = (
        "leading modes of M whose strength u_i' W v_i in the product W (no singular value of W) is within s_i/2 of s_i"
    )
    return Phases(tuple(str(r) for r in range(len(values) + 1)), Learned(widths, values), text)


def population(
    widths: Sequence[int] = (5, 5, 5), singular_values: Sequence[float] = (4.0, 2.0, 1.0), prior: Prior = _PRIOR
) -> Potential:
    """The potential exp(-t K(w)) prior(w), K = |W_0 .. W_{L-1} - M|_F^2, M of the given singular values, largest first.

    Parameters are one flat vector, the matrices row by row. On data of noise sigma n beta L_n tends to t K with
    n beta = 2 sigma^2 t. Basins "r": the balanced optimum of M truncated to rank r (a saddle of K for r below the
    number of singular values), its loss sum_(i>r) s_i^2 and the lambda of the potential whose truth is that truncation.
    The potential of a truncated truth is `population(widths, singular_values[:r])`. With two layers and the prior
    N(0, 1) lam(t) is known: slt.theory.two_layer, and slt.theory.reference by elimination of one layer.
    """
    widths, values = tuple(widths), tuple(float(value) for value in singular_values)
    if sorted(values, reverse=True) != list(values) or not all(value > 0 for value in values):
        raise InputError("singular_values", values, "must be positive, the largest first")
    of_rank = [linear_networks.deep_linear(widths, r) for r in range(len(values) + 1)]
    fn = Squares(widths, LinearTarget(widths[0], widths[-1], values))
    best = [jnp.concatenate([w.ravel() for w in balanced(widths, values[:r])]) for r in range(len(values) + 1)]
    basins = tuple(
        Basin(str(r), best[r], str(r), float(np.sum(np.square(values[r:]))), c.lam, c.m)
        for r, c in reversed(list(enumerate(of_rank)))
    )
    truth = known(of_rank[-1], params=best[-1], loss=0.0, population_loss=fn)
    truth = dataclasses.replace(truth, basins=basins, phases=learned(widths, values))
    note = "K has no factor 1/2: at noise sigma, n beta = 2 sigma^2 t"
    return Potential(fn, sum(a * b for a, b in shapes(widths)), prior, known=truth, scale_note=note)


def balanced(widths: Sequence[int], singular_values: Sequence[float]) -> list[Float[Array, "i o"]]:
    """The matrices of an optimum: the L-th roots of the singular values on their diagonals, unused blocks all zero."""
    rank, factors = len(singular_values), []
    for shape in shapes(widths):
        factor = np.zeros(shape)
        np.fill_diagonal(factor[:rank, :rank], np.power(singular_values, 1 / (len(widths) - 1)) if rank else 0.0)
        factors.append(jnp.asarray(factor, jnp.result_type(float)))
    return factors


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
    target = LinearTarget(widths[0], widths[-1], tuple(float(value) for value in singular_values))
    entropy = float(widths[-1] * (0.5 * np.log(2 * np.pi * np.e) + np.log(likelihood.sigma)))
    params = {f"w{i}": factor for i, factor in enumerate(balanced(widths, singular_values))}
    truth = known(
        coefficient,
        params=params,
        loss=entropy,
        entropy=entropy,
        population_loss=LinearLoss(target, likelihood.sigma, entropy),
    )
    made = from_linen(
        DeepLinear(tuple(widths)),
        jnp.zeros((1, widths[0])),
        likelihood=likelihood,
        prior=prior,
        inputs=NormalInputs(widths[0]),
        target=target,
        truth=truth,
        controls=("target.scale",),
    )
    return dataclasses.replace(made, linear=True)
