"""The mean of a Gaussian with known noise: y ~ N(w, sigma^2 I). Regular, conjugate, everything in closed form."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Model, Truth
from slt.models._truth import known
from slt.priors import Gaussian, Normal, Prior
from slt.theory.elementary import regular
from slt.typing import InputError, Key, Scalar


@dataclass(frozen=True)
class GaussianLocation(Model):
    """Parameters w: f[d]; a batch is y: f[b, d]; the truth has every coordinate of the mean at `mean`.

    L(w) = |w - mean|^2 / (2 sigma^2) + (d/2) log(2 pi e sigma^2). With the N(0, s^2) prior the tempered posterior is
    Gaussian with precision n beta/sigma^2 + 1/s^2 and mean (n beta/sigma^2) ybar / precision in every coordinate.
    """

    d: int = 1
    mean: float = 0.0
    prior: Prior = field(default_factory=Normal)
    likelihood: Gaussian = field(default_factory=Gaussian)

    controls: ClassVar[tuple[str, ...]] = ("mean", "prior.scale", "likelihood.sigma")

    def __post_init__(self) -> None:
        if self.d < 1:
            raise InputError("d", self.d, "must be at least 1")

    def init(self, key: Key) -> Float[Array, " d"]:
        return self.prior.sample(key, jnp.zeros(self.d))

    def log_prior(self, params: Float[Array, " d"]) -> Scalar:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Float[Array, " d"], batch: Float[Array, "b d"]) -> Float[Array, " b"]:
        return self.likelihood.log_density(jnp.broadcast_to(params, batch.shape), batch)

    def sample(self, key: Key, num: int) -> Float[Array, "num d"]:
        return self.mean + self.likelihood.sigma * jax.random.normal(key, (num, self.d))

    def truth(self) -> Truth:
        coefficient = regular(self.d)
        entropy = self.d * (0.5 * np.log(2 * np.pi * np.e) + np.log(self.likelihood.sigma))
        return known(
            coefficient,
            params=jnp.full(self.d, self.mean),
            loss=float(entropy),
            entropy=float(entropy),
            population_loss=lambda w: 0.5 * jnp.sum(jnp.square((w - self.mean) / self.likelihood.sigma)) + entropy,
        )

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support


make = GaussianLocation
