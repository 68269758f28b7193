"""A user's own file beside a config of theirs: a Gaussian with data, and a landscape with two wells."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import slt.model
from slt.phases import Phases, by_threshold
from slt.priors import Normal, Uniform


@dataclass(frozen=True)
class Location(slt.model.Model):
    """z ~ N(w, 1), prior N(0, 1)."""

    mean: float = 0.5
    fails_above: float = 1e9
    fails_with: float = float("nan")

    def init(self, key):
        return {"w": jax.random.normal(key, ())}

    def log_prior(self, params):
        return Normal(1.0).log_density(params)

    def log_likelihood(self, params, batch):
        value = -0.5 * jnp.square(batch - params["w"]) - 0.9189385
        return jnp.where(params["w"] > self.fails_above, self.fails_with, value)

    def truth(self):
        return slt.model.Truth(params={"w": jnp.asarray(self.mean)})

    def sample(self, key, num):
        return self.mean + jax.random.normal(key, (num,))


@dataclass(frozen=True)
class Summed(Location):
    """The mistake of returning one number for all samples."""

    def log_likelihood(self, params, batch):
        return super().log_likelihood(params, batch).sum()


def double_well(w, depth):
    return depth * jnp.sum(jnp.square(jnp.square(w) - 1))


def wells(depth: float = 1.0) -> slt.model.Potential:
    """K(w) = depth (w^2 - 1)^2 on [-2, 2]."""
    return slt.model.potential(double_well, 1, Uniform(-2.0, 2.0), controls={"depth": depth})


def sides() -> Phases:
    """Left and right of 0."""
    return by_threshold(("left", "right"), lambda w: w[0], 0.0, "sign of w")


@dataclass(frozen=True)
class Plane(Location):
    """The same with two parameters, of which the first counts."""

    def init(self, key):
        return {"w": jax.random.normal(key, (2,))}

    def log_likelihood(self, params, batch):
        return super().log_likelihood({"w": params["w"][0]}, batch)

    def log_prior(self, params):
        return jnp.sum(Normal(1.0).log_density(params))

    def truth(self):
        return slt.model.Truth(params={"w": jnp.array([self.mean, 0.0])})
