"""The potential K(w) = (prod_i w_i^{k_i} - s)^2: the local form of every singularity (s = 0), and its unfolding."""

import functools
import operator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slt.model import Potential
from slt.models._truth import known
from slt.priors import Prior, Uniform
from slt.theory import elementary
from slt.typing import InputError, Key, Number, Scalar


@dataclass(frozen=True)
class NormalCrossing:
    """K(w) = (prod_i w_i^{k_i} - s)^2."""

    k: tuple[int, ...]

    def __call__(self, w: Float[Array, " d"], s: Number = 0.0) -> Scalar:
        return jnp.square(functools.reduce(operator.mul, (w[i] ** power for i, power in enumerate(self.k))) - s)


@dataclass(frozen=True)
class PowerPrior(Prior):
    """The density prod_i (h_i + 1) w_i^{h_i} on [0, 1]^d."""

    h: tuple[float, ...]

    def log_density(self, params: Float[Array, " d"]) -> Scalar:
        h = jnp.asarray(self.h, params.dtype)
        inside = jnp.all((params >= 0) & (params <= 1))
        positive = jnp.where(params > 0, params, jnp.finfo(params.dtype).tiny)
        return jnp.where(inside, jnp.sum(jnp.log1p(h) + h * jnp.log(positive)), -jnp.inf)

    def sample(self, key: Key, like: Float[Array, " d"]) -> Float[Array, " d"]:
        return jax.random.uniform(key, like.shape, like.dtype) ** (1 / (1 + jnp.asarray(self.h, like.dtype)))

    @property
    def support(self) -> tuple[float, float] | None:
        return (0.0, 1.0)


def make(
    k: tuple[int, ...] = (1, 1), s: float = 0.0, h: tuple[float, ...] | None = None, prior: Prior | None = None
) -> Potential:
    """Exponents k_i >= 0; the prior is uniform on [0, 1]^d, or prod w_i^{h_i} there if h is given, or `prior`.

    s = 0: lambda = min_i (h_i + 1)/(2 k_i), m = how many i attain it. s > 0, where the prior reaches it: lambda = 1/2,
    m = 1. The lambda of a given prior is that of a density positive at 0. Control: s.
    """
    zero_set = elementary.normal_crossing(k, h)  # checks k and h
    if h is not None and prior is not None:
        raise InputError("prior", prior, "give h or prior, not both")
    if prior is None:
        prior = Uniform(0.0, 1.0) if h is None else PowerPrior(tuple(h))
    fn, d = NormalCrossing(tuple(k)), len(k)
    best = jnp.full(d, s ** (1 / sum(k)) if s > 0 else 0.0)
    reached = s >= 0 and bool(jnp.isfinite(prior.log_density(best + 1e-6)))
    coefficient = None if not reached else zero_set if s == 0 else elementary.regular(1)
    truth = known(
        coefficient,
        params=best if reached else None,
        loss=0.0 if reached else None,
        population_loss=functools.partial(fn, s=s),
    )
    return Potential(fn, d, prior, (("s", s),), truth)
