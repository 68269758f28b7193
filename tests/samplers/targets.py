"""Posteriors with closed forms, of one shape so that one program samples them all, and what samplers make of them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slt.model import Model
from slt.posterior import Posterior
from slt.priors import Normal, Prior

DIM, SIZE, PRIOR = 2, 8, Normal(2.0)


@dataclass(frozen=True)
class Linear(Model):
    """y_i ~ N(X_i w, I): X_i = I is gaussian location, one row is linear regression, else a correlated Gaussian."""

    prior: Prior = PRIOR

    def init(self, key):
        return self.prior.sample(key, jnp.zeros(DIM))

    def log_prior(self, params):
        return self.prior.log_density(params)

    def log_likelihood(self, params, batch):
        design, y = batch
        return -0.5 * jnp.sum(jnp.square(y - jnp.einsum("bij,j->bi", design, params)), axis=-1)


class Exact(NamedTuple):
    """The Gaussian N(mean, inverse of precision), and E[n beta (L_n - L_n(centre))] = energy."""

    mean: np.ndarray
    precision: np.ndarray
    covariance: np.ndarray
    energy: float
    second: np.ndarray
    centre: np.ndarray
    likelihood: np.ndarray

    @property
    def curvature(self) -> float:
        return float(np.linalg.eigvalsh(self.precision)[-1])

    def with_covariance(self, covariance: np.ndarray) -> "Exact":
        """What a sampler measures whose stationary covariance is another: variances and energy."""
        return exact_at(self.mean, self.precision, covariance, self.centre, self.likelihood)


def exact_at(mean, precision, covariance, centre, likelihood) -> Exact:
    offset = mean - centre
    energy = 0.5 * (np.trace(likelihood @ covariance) + offset @ likelihood @ offset)
    return Exact(mean, precision, covariance, float(energy), np.diag(covariance), centre, likelihood)


def designs(size: int = SIZE) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fixed data: nothing here is random from run to run."""
    rng = np.random.default_rng(2)
    eye = np.broadcast_to(np.eye(DIM), (size, DIM, DIM)).copy()
    z = rng.normal(0, 1, (size, DIM))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T, ddof=0)).T)
    location = (eye, 0.5 + z)  # of sample covariance 1, so that the noise of minibatches is alike in all directions
    x = np.linspace(-1.5, 2, size)
    rows = np.zeros((size, DIM, DIM))
    rows[:, 0] = np.stack([np.ones(size), x], -1)
    y = np.zeros((size, DIM))
    y[:, 0] = x + rng.normal(0, 1, size)
    regression = (rows, y)
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    root = turn @ np.diag(np.sqrt([100.0, 1.0])) @ turn.T  # precision of condition number 100, correlated
    stiff = (np.broadcast_to(root, (size, DIM, DIM)).copy(), rng.normal(0, 1, (size, DIM)) + root @ [0.3, -0.2])
    return {"location": location, "regression": regression, "stiff": stiff}


NAMES = ("location", "regression", "stiff")


def posteriors(
    names: tuple[str, ...] = NAMES, beta: float = 1.0, control_variate: bool = False, size: int = SIZE
) -> tuple[Posterior, list[Exact]]:
    """(posteriors with leaves [cells, ...], closed forms): the centre is the maximum of the likelihood."""
    model, built, exacts = Linear(), [], []
    for name in names:
        design, y = designs(size)[name]
        likelihood = beta * np.einsum("bij,bik->jk", design, design)
        centre = np.linalg.solve(likelihood, beta * np.einsum("bij,bi->j", design, y))
        precision = likelihood + np.eye(DIM) / 4
        mean = np.linalg.solve(precision, likelihood @ centre)
        exacts.append(exact_at(mean, precision, np.linalg.inv(precision), centre, likelihood))
        data = (jnp.asarray(design, jnp.result_type(float)), jnp.asarray(y, jnp.result_type(float)))
        at = jnp.asarray(centre, jnp.result_type(float))
        built.append(Posterior.build(model, data, size, beta, centre=at, control_variate=control_variate))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *built)
    return stacked, exacts


def starts(exacts: list[Exact], chains: int, seed: int = 1) -> jax.Array:
    """Exact draws of the posterior to start from: [cells, chains, DIM]."""
    rng = np.random.default_rng(seed)
    draws = [e.mean + rng.normal(size=(chains, DIM)) @ np.linalg.cholesky(e.covariance).T for e in exacts]
    return jnp.asarray(np.stack(draws), jnp.result_type(float))


def moments(posterior: Posterior, position: jax.Array, info: Any) -> dict[str, jax.Array]:
    """Deviations from the centre, their squares, and n beta delta."""
    deviation = position - posterior.centre
    return {
        "mean": deviation,
        "outer": jnp.outer(deviation, deviation),
        "energy": posterior.nbeta * posterior.delta(position),
    }
