"""The toy model of superposition: x = mu e_i is rebuilt as ReLU(W^T W x + b) through two dimensions (science.md C).

`make` is the model on data, `population` the potential of its exact population loss, `partition` the phases of either.
"""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from slt.model import Model, Potential, Truth
from slt.models._kgon import basins, kgon, population_loss
from slt.models._kgon_phases import partition, phase_names
from slt.priors import Gaussian, Normal, Prior
from slt.typing import InputError, Key, Params, Scalar

__all__ = ["Autoencoder", "Superposition", "kgon", "make", "partition", "population", "population_loss"]

SCALE = "L has no factor 1/2: at noise sigma, n beta = 2 sigma^2 t"


class Autoencoder(nn.Module):
    """x -> ReLU(W^T W x + b) with W of shape (2, c); features first inside, which is several times faster on a CPU."""

    c: int

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """Reconstruction of every sample."""
        weights = self.param("W", nn.initializers.normal(1.0), (2, self.c))
        bias = self.param("b", nn.initializers.normal(1.0), (self.c,))
        return nn.relu(weights.T @ (weights @ x.T) + bias[:, None]).T


def _residual(weights: Array, bias: Array, x: Array) -> tuple[Array, Array]:
    hidden, xt = weights @ x.T, x.T
    before = weights[0][:, None] * hidden[0] + weights[1][:, None] * hidden[1] + bias[:, None]
    residual = xt - nn.relu(before)
    return residual, jnp.where(before > 0, -2 * residual, 0.0)  # with the derivative of residual^2 by `before`


@jax.custom_jvp
def squared_error(weights: Float[Array, "2 c"], bias: Float[Array, " c"], x: Float[Array, "b c"]) -> Float[Array, " b"]:
    """|x_i - ReLU(W^T W x_i + b)|^2 of every sample.

    The derivative goes through the Gram matrix, so that its transpose is one matrix product over the samples.
    """
    return jnp.sum(jnp.square(_residual(weights, bias, x)[0]), axis=0)


def _squared_error_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    weights, bias, x = primals
    residual, slope = _residual(weights, bias, x)
    by_weights, by_bias, by_x = (None if isinstance(leaf, SymbolicZero) else leaf for leaf in tangents)
    ones = jnp.ones((x.shape[0], 1), x.dtype)
    half = jnp.zeros((bias.shape[0],) * 2, x.dtype) if by_weights is None else by_weights.T @ weights
    shift = jnp.zeros_like(bias) if by_bias is None else by_bias
    before = jnp.concatenate([half + half.T, shift[:, None]], axis=1) @ jnp.concatenate([x, ones], axis=1).T
    change = slope * before
    if by_x is not None:
        change += slope * (weights.T @ (weights @ by_x.T)) + 2 * residual * by_x.T
    return jnp.sum(jnp.square(residual), axis=0), jnp.sum(change, axis=0)


squared_error.defjvp(_squared_error_jvp, symbolic_zeros=True)


@dataclass(frozen=True)
class Superposition(Model):
    """p(x|w) = N(x; ReLU(W^T W x + b), sigma^2 I) on x = mu e_i, i uniform on c features, mu ~ U[0, 1].

    Parameters {"W": f[2, c], "b": f[c]}; a batch is x: f[b, c]. -log p = |residual|^2 / (2 sigma^2) + constant, so
    n beta L_n tends to t L(w) with n beta = 2 sigma^2 t, L the `population_loss`. rule, merged: how `partition` draws
    the phases.
    """

    c: int = 6
    prior: Prior = field(default_factory=Normal)
    likelihood: Gaussian = field(default_factory=Gaussian)
    _: KW_ONLY
    rule: str = "hull"
    merged: bool = True

    controls: ClassVar[tuple[str, ...]] = ("prior.scale", "likelihood.sigma")

    def __post_init__(self) -> None:
        _check(self.c)
        partition(self.c, self.rule, merged=self.merged)

    @property
    def network(self) -> Autoencoder:
        """The network, in Flax."""
        return Autoencoder(self.c)

    def init(self, key: Key) -> Params:
        like = jax.eval_shape(self.network.init, key, jnp.zeros((1, self.c)))["params"]
        return self.prior.sample(key, like)

    def log_prior(self, params: Params) -> Scalar:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Params, batch: Float[Array, "b c"]) -> Float[Array, " b"]:
        return -self._nll(squared_error(params["W"], params["b"], batch))

    def sample(self, key: Key, num: int) -> Float[Array, "num c"]:
        which, size = jax.random.split(key)
        hot = jax.nn.one_hot(jax.random.randint(which, (num,), 0, self.c), self.c)
        return hot * jax.random.uniform(size, (num, 1))

    def truth(self) -> Truth:
        names = phase_names(self.c, self.merged, self.rule)
        known = basins(self.c, names, as_dict=True, loss=lambda value: float(self._nll(value)))
        return _truth(self.c, known, partition(self.c, self.rule, merged=self.merged), self._loss)

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support

    def _nll(self, square: Any) -> Any:
        sigma = self.likelihood.sigma
        return 0.5 * square / sigma**2 + self.c * (jnp.log(sigma) + 0.5 * math.log(2 * math.pi))

    def _loss(self, params: Params) -> Scalar:
        return self._nll(population_loss(params))


def _truth(c: int, known: Any, phases: Any, loss: Any) -> Truth:
    best = min(known, key=lambda basin: basin.loss) if c <= 8 else None  # of more features it is not known which
    if best is None:
        return Truth(population_loss=loss, basins=known, phases=phases)
    return Truth(
        params=best.params,
        loss=best.loss,
        lam=best.lam,
        multiplicity=best.multiplicity,
        source="rank of the Hessian at the lowest of the minima found, checked by localised HMC at c = 6",
        population_loss=loss,
        basins=known,
        phases=phases,
    )


def _check(c: int) -> None:
    if c < 2:
        raise InputError("c", c, "the model needs at least 2 features")


make = Superposition
_PRIOR = Normal()


def population(c: int = 6, prior: Prior = _PRIOR, *, rule: str = "hull", merged: bool = True) -> Potential:
    """The potential exp(-t L(w)) prior(w) of the exact population loss; parameters are W[0], W[1], b in one array."""
    _check(c)
    known = basins(c, phase_names(c, merged, rule), as_dict=False)
    truth = _truth(c, known, partition(c, rule, merged=merged), population_loss)
    return Potential(population_loss, 3 * c, prior, known=truth, scale_note=SCALE)
