"""Mixtures of Gaussians on the line: singular where components merge, or get no weight.

`make` has two components, (1 - a) N(b_1, sigma^2) + a N(b_2, sigma^2), and known lambda; `components` any number.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, gammaln
from jaxtyping import Array, Float

from slt.model import Model, Truth
from slt.models._truth import known
from slt.models._units import set_apart
from slt.phases import by_units
from slt.priors import Gaussian, Normal, Prior
from slt.theory import elementary
from slt.theory.coefficient import Coefficient
from slt.typing import InputError, Key, Params, Scalar

_STEP, _REACH = 0.1, 12.0  # of the trapezoidal rule, in noise widths: it converges geometrically in 1/step


@dataclass(frozen=True)
class Mixture(Model):
    """Parameters {"logit": f[], "means": f[1] or f[2]}, a = sigmoid(logit); a batch is y: f[b].

    means "one": b_1 = 0 is fixed; "both": both are free. The weight a has the prior Beta(weight_prior, weight_prior),
    whose density is taken on the logit, Jacobian included; the means have `prior`. Truth: one component at 0, or two
    of equal weight `separation` apart, at 0 and separation ("one") or about 0 ("both").
    """

    means: Literal["one", "both"] = "both"
    separation: float = 0.0
    weight_prior: float = 1.0
    prior: Prior = field(default_factory=Normal)
    likelihood: Gaussian = field(default_factory=Gaussian)

    controls: ClassVar[tuple[str, ...]] = ("separation", "weight_prior", "prior.scale", "likelihood.sigma")

    def __post_init__(self) -> None:
        if self.means not in ("one", "both"):
            raise InputError("means", self.means, "must be 'one' (the other component is fixed at 0) or 'both'")
        if not self.weight_prior > 0:
            raise InputError("weight_prior", self.weight_prior, "must be positive: the weight's prior is a^(phi-1)")

    def init(self, key: Key) -> Params:
        mean_key, *gamma_keys = jax.random.split(key, 3)
        parts = [jax.random.loggamma(k, jnp.asarray(self.weight_prior, jnp.result_type(float))) for k in gamma_keys]
        means = self.prior.sample(mean_key, jnp.zeros(1 if self.means == "one" else 2))
        return {"logit": parts[0] - parts[1], "means": means}

    def log_prior(self, params: Params) -> Scalar:
        logit, phi = params["logit"], jnp.asarray(self.weight_prior, params["logit"].dtype)
        weight = phi * (jax.nn.log_sigmoid(logit) + jax.nn.log_sigmoid(-logit)) - betaln(phi, phi)
        return weight + self.prior.log_density(params["means"])

    def log_likelihood(self, params: Params, batch: Float[Array, " b"]) -> Float[Array, " b"]:
        first = 0.0 if self.means == "one" else params["means"][0]
        centred = jnp.stack([batch - first, batch - params["means"][-1]])
        parts = self.likelihood.log_density(centred.reshape(-1), jnp.zeros(centred.size, batch.dtype))
        one, two = parts.reshape(2, -1)
        logit = params["logit"]
        return jnp.logaddexp(jax.nn.log_sigmoid(-logit) + one, jax.nn.log_sigmoid(logit) + two)

    def sample(self, key: Key, num: int) -> Float[Array, " num"]:
        which, noise = jax.random.split(key)
        low, high = self._centres
        centres = jnp.where(jax.random.bernoulli(which, 0.5, (num,)), high, low)
        return self.likelihood.sample(noise, centres)

    def truth(self) -> Truth:
        sigma = float(self.likelihood.sigma)
        nodes = np.arange(-_REACH * sigma, _REACH * sigma + abs(self.separation), _STEP * sigma) + min(self._centres)
        density = np.mean([np.exp(-0.5 * ((nodes - c) / sigma) ** 2) for c in self._centres], axis=0)
        mass = density * _STEP / np.sqrt(2 * np.pi)
        entropy = -np.sum(mass * np.log(density / (sigma * np.sqrt(2 * np.pi))))
        coefficient = self._coefficient

        def loss(params: Params) -> Scalar:
            dtype = params["logit"].dtype
            return -jnp.asarray(mass, dtype) @ self.log_likelihood(params, jnp.asarray(nodes, dtype))

        means = jnp.asarray(self._centres if self.means == "both" else self._centres[1:], jnp.result_type(float))
        return known(
            coefficient,
            params={"logit": jnp.zeros(()), "means": means},
            loss=float(entropy),
            entropy=float(entropy),
            population_loss=loss,
        )

    @property
    def _centres(self) -> tuple[float, float]:
        shift = 0.0 if self.means == "one" else -0.5 * self.separation
        return (shift, shift + self.separation)

    @property
    def _coefficient(self) -> Coefficient:
        if self.separation == 0:
            return elementary.mixture(self.means, self.weight_prior)
        return elementary.regular(2 if self.means == "one" else 3)


make = Mixture


@dataclass(frozen=True)
class Occupied:
    """Weight and mean (in noise widths) of every component, for `slt.phases.by_units`; idle: weights that link none."""

    sigma: float
    idle: float

    def __call__(self, params: Params) -> tuple[Float[Array, " k"], Float[Array, "k 1"]]:
        weights = jax.nn.softmax(params["logits"])
        return weights, set_apart(weights, params["means"][:, None] / self.sigma, self.idle)


@dataclass(frozen=True)
class Components(Model):
    """sum_k a_k N(b_k, sigma^2) of `count` components; the truth has equal weights at `centres`.

    Parameters {"logits": f[count], "means": f[count]}, a = softmax(logits). The prior of the weights is Dirichlet
    (weight_prior, ..): logits are logarithms of independent Gamma(weight_prior) variables, whose sum the likelihood
    does not see. The means have `prior`. Phases: the number of components in use, of weight above `threshold`, those
    within `merge` noise widths of each other counting as one.
    """

    count: int = 3
    centres: tuple[float, ...] = (-1.0, 1.0)
    weight_prior: float = 1.0
    threshold: float = 0.1
    merge: float = 1.0
    prior: Prior = field(default_factory=lambda: Normal(2.0))
    likelihood: Gaussian = field(default_factory=Gaussian)

    controls: ClassVar[tuple[str, ...]] = ("weight_prior", "prior.scale", "likelihood.sigma")

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("count", self.count, "needs at least one component")
        if not self.weight_prior > 0:
            raise InputError("weight_prior", self.weight_prior, "must be positive: the weight's prior is a^(phi-1)")
        object.__setattr__(self, "centres", tuple(float(c) for c in self.centres))  # configs give lists
        if not self.centres:
            raise InputError("centres", self.centres, "needs at least one")

    def init(self, key: Key) -> Params:
        gamma_key, mean_key = jax.random.split(key)
        shape = jnp.full(self.count, self.weight_prior, jnp.result_type(float))
        return {
            "logits": jax.random.loggamma(gamma_key, shape),
            "means": self.prior.sample(mean_key, jnp.zeros(self.count)),
        }

    def log_prior(self, params: Params) -> Scalar:
        logits, phi = params["logits"], jnp.asarray(self.weight_prior, params["logits"].dtype)
        weights = jnp.sum(phi * logits - jnp.exp(logits)) - self.count * gammaln(phi)
        return weights + self.prior.log_density(params["means"])

    def log_likelihood(self, params: Params, batch: Float[Array, " b"]) -> Float[Array, " b"]:
        apart = (batch - params["means"][:, None]).reshape(-1)
        parts = self.likelihood.log_density(apart, jnp.zeros(apart.size, batch.dtype)).reshape(self.count, -1)
        return jax.nn.logsumexp(jax.nn.log_softmax(params["logits"])[:, None] + parts, axis=0)

    def sample(self, key: Key, num: int) -> Float[Array, " num"]:
        which, noise = jax.random.split(key)
        centres = jnp.asarray(self.centres, jnp.result_type(float))
        return self.likelihood.sample(noise, centres[jax.random.randint(which, (num,), 0, len(self.centres))])

    def truth(self) -> Truth:
        sigma, spread = float(self.likelihood.sigma), max(self.centres) - min(self.centres)
        nodes = np.arange(-_REACH * sigma, _REACH * sigma + spread, _STEP * sigma) + min(self.centres)
        density = np.mean([np.exp(-0.5 * ((nodes - c) / sigma) ** 2) for c in self.centres], axis=0)
        mass = density * _STEP / np.sqrt(2 * np.pi)
        entropy = float(-np.sum(mass * np.log(density / (sigma * np.sqrt(2 * np.pi)))))

        def loss(params: Params) -> Scalar:
            dtype = params["logits"].dtype
            return -jnp.asarray(mass, dtype) @ self.log_likelihood(params, jnp.asarray(nodes, dtype))

        whole, own = len(self.centres), self.count >= len(self.centres)
        means = jnp.asarray([self.centres[k % whole] for k in range(self.count)], jnp.result_type(float))
        shares = jnp.asarray([-np.log(-(-(self.count - k % whole) // whole)) for k in range(self.count)], means.dtype)
        regular = elementary.regular(2 * self.count - 1) if self.count == whole else None
        return known(
            regular,
            params={"logits": shares, "means": means} if own else None,
            loss=entropy if own else None,
            entropy=entropy,
            population_loss=loss,
            phases=by_units(
                self.count, self.threshold, Occupied(sigma, self.threshold), merge=self.merge, what="component"
            ),
        )


components = Components
