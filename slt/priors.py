"""Priors over parameter pytrees and likelihoods of network outputs: what the built-in models are made of."""

import abc
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slt.typing import InputError, Key, Params, Scalar


@dataclass(frozen=True)
class Prior(abc.ABC):
    """Independent, identical density on every scalar parameter of a pytree."""

    @abc.abstractmethod
    def log_density(self, params: Params) -> Scalar:
        """log phi(w), summed over all parameters."""

    @abc.abstractmethod
    def sample(self, key: Key, like: Params) -> Params:
        """A draw with the shapes and dtypes of `like`."""

    @property
    def support(self) -> tuple[float, float] | None:
        """(low, high) of the box outside which the density vanishes, or None."""
        return None


@dataclass(frozen=True)
class Normal(Prior):
    """N(0, scale^2) on every parameter, normalised."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError("prior.scale", self.scale, "must be positive")

    def log_density(self, params: Params) -> Scalar:
        leaves = jax.tree.leaves(params)
        size = sum(leaf.size for leaf in leaves)
        square = sum(jnp.sum(jnp.square(leaf)) for leaf in leaves)
        return -0.5 * square / self.scale**2 - size * (jnp.log(self.scale) + 0.5 * math.log(2 * math.pi))

    def sample(self, key: Key, like: Params) -> Params:
        return jax.tree.map(lambda noise: self.scale * noise, _normal_like(key, like))


@dataclass(frozen=True)
class Uniform(Prior):
    """Uniform on the box [low, high] for every parameter, normalised."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError("prior", (self.low, self.high), "the box needs low < high")

    def log_density(self, params: Params) -> Scalar:
        leaves = jax.tree.leaves(params)
        size = sum(leaf.size for leaf in leaves)
        inside = jnp.stack([jnp.all((leaf >= self.low) & (leaf <= self.high)) for leaf in leaves]).all()
        dtype = jnp.result_type(*leaves)
        level = jnp.asarray(-size * jnp.log(self.high - self.low), dtype)
        return jnp.where(inside, level, jnp.asarray(-jnp.inf, dtype))

    def sample(self, key: Key, like: Params) -> Params:
        leaves, treedef = jax.tree.flatten(like)
        keys = jax.random.split(key, len(leaves))
        draws = [
            jax.random.uniform(k, leaf.shape, leaf.dtype, self.low, self.high)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, draws)

    @property
    def support(self) -> tuple[float, float] | None:
        return (self.low, self.high)


@dataclass(frozen=True)
class Flat(Prior):
    """The improper density 1. It has no draws and no absolute free energy; only for posteriors localised by gamma.

    `start_scale` sets the normal draws that chains start from.
    """

    start_scale: float = 1.0

    def log_density(self, params: Params) -> Scalar:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))

    def sample(self, key: Key, like: Params) -> Params:
        return jax.tree.map(lambda noise: self.start_scale * noise, _normal_like(key, like))


def _normal_like(key: Key, like: Params) -> Params:
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


@dataclass(frozen=True)
class Gaussian:
    """Likelihood of an observation y around a prediction f with known noise: log N(y; f, sigma^2 I), per sample."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError("likelihood.sigma", self.sigma, "must be positive")

    def log_density(self, prediction: Float[Array, "b ..."], y: Float[Array, "b ..."]) -> Float[Array, " b"]:
        """-(y - f)^2 / (2 sigma^2) - (k/2) log(2 pi sigma^2) of every sample, k outputs."""
        if prediction.shape != y.shape:
            raise InputError(
                "prediction", prediction.shape, f"the network's output must have the shape of y, {y.shape}"
            )
        square = jnp.sum(jnp.square(y - prediction).reshape(y.shape[0], -1), axis=-1)
        outputs = math.prod(y.shape[1:])
        return -0.5 * square / self.sigma**2 - outputs * (jnp.log(self.sigma) + 0.5 * math.log(2 * math.pi))

    def sample(self, key: Key, prediction: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """One observation around every prediction."""
        return prediction + self.sigma * jax.random.normal(key, prediction.shape, prediction.dtype)


@dataclass(frozen=True)
class Categorical:
    """Likelihood of integer classes y under logits f: log softmax(f)[y], per sample."""

    def log_density(self, prediction: Float[Array, "b k"], y: Array) -> Float[Array, " b"]:
        """log softmax(f_i)[y_i] of every sample."""
        return jnp.take_along_axis(jax.nn.log_softmax(prediction, axis=-1), y[:, None], axis=-1)[:, 0]

    def sample(self, key: Key, prediction: Float[Array, "b k"]) -> Array:
        """One class for every row of logits."""
        return jax.random.categorical(key, prediction, axis=-1)
