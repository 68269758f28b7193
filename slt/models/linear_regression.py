"""Linear regression with known noise, y = x . w + N(0, sigma^2): conjugate, on a given or a random design."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Model, Truth, linear_rows
from slt.models._truth import known
from slt.priors import Gaussian, Normal, Prior
from slt.theory.elementary import sum_of_squares
from slt.typing import Batch, InputError, Key, Scalar

EXAMPLE_DESIGN = tuple((1.0, x / 2) for x in range(-3, 5))
"""Eight rows (1, x), x = -1.5 .. 2."""
EXAMPLE_Y = (-2.1, -0.7, -1.2, 0.4, 0.9, 1.1, 2.6, 2.2)


def example() -> Batch:
    """Eight observations whose evidence, losses and criteria are known to nine digits (science.md B3): (x, y)."""
    return jnp.asarray(EXAMPLE_DESIGN), jnp.asarray(EXAMPLE_Y)


@dataclass(frozen=True)
class LinearRegression(Model):
    """Parameters w: f[d]; a batch is (x: f[b, d], y: f[b]).

    weights: the true w, d numbers, multiplied by `signal`. design: rows of d numbers that samples take in turn, over
    and over; None draws x ~ N(0, I), with intercept=True the first column being 1.
    """

    weights: tuple[float, ...] = (0.0, 1.0)
    signal: float = 1.0
    design: tuple[tuple[float, ...], ...] | None = None
    intercept: bool = True
    prior: Prior = field(default_factory=Normal)
    likelihood: Gaussian = field(default_factory=Gaussian)

    controls: ClassVar[tuple[str, ...]] = ("signal", "prior.scale", "likelihood.sigma")

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("weights", self.weights, "give at least one true coefficient")
        if self.design is not None:
            widths = sorted({len(row) for row in self.design})
            if widths != [len(self.weights)]:
                raise InputError("design", f"rows of {widths} numbers", f"every row needs {len(self.weights)}")

    def init(self, key: Key) -> Float[Array, " d"]:
        return self.prior.sample(key, jnp.zeros(len(self.weights)))

    def log_prior(self, params: Float[Array, " d"]) -> Scalar:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Float[Array, " d"], batch: Batch) -> Float[Array, " b"]:
        x, y = batch
        return self.likelihood.log_density(x @ params, y)

    def sample(self, key: Key, num: int) -> Batch:
        input_key, noise_key = jax.random.split(key)
        if self.design is None:
            x = jax.random.normal(input_key, (num, len(self.weights)))
            x = x.at[:, 0].set(1.0) if self.intercept else x
        else:
            x = jnp.asarray(self.design)[jnp.arange(num) % len(self.design)]
        return x, self.likelihood.sample(noise_key, x @ self._truth)

    def compress(self, batch: Batch, count: Any) -> Batch | None:
        x, y = batch
        return linear_rows(x, y, count)

    def truth(self) -> Truth:
        """On a given design the population is one sample of each row."""
        d = len(self.weights)
        rows = np.eye(d) * np.sqrt(d) if self.design is None else np.asarray(self.design)  # E[x x^T] = rows' rows / #
        coefficient = sum_of_squares(int(np.linalg.matrix_rank(rows)), d)
        entropy = 0.5 * np.log(2 * np.pi * np.e) + np.log(self.likelihood.sigma)

        def loss(w: Float[Array, " d"]) -> Scalar:
            offset = jnp.asarray(rows, w.dtype) @ (w - self._truth)
            return 0.5 * jnp.mean(jnp.square(offset / self.likelihood.sigma)) + entropy

        return known(
            coefficient,
            params=self._truth,
            loss=float(entropy),
            entropy=float(entropy),
            population_loss=loss,
        )

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support

    @property
    def _truth(self) -> Float[Array, " d"]:
        return self.signal * jnp.asarray(self.weights, jnp.result_type(float))


make = LinearRegression
