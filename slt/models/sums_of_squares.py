"""The potential K(w) = sum_i a_i (w_i - shift)^2 over the first coordinates: the regular landscape, and soft ones."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Potential
from slt.models._truth import known
from slt.priors import Normal, Prior
from slt.theory import elementary
from slt.typing import InputError, Number, Scalar


@dataclass(frozen=True)
class SumOfSquares:
    """K(w) = sum_i a_i (w_i - shift)^2 over as many coordinates as there are `scales` a_i."""

    scales: tuple[float, ...]

    def __call__(self, w: Float[Array, " d"], shift: Number = 0.0) -> Scalar:
        return jnp.sum(jnp.asarray(self.scales, w.dtype) * jnp.square(w[: len(self.scales)] - shift))


_PRIOR = Normal()


def make(
    d: int = 4, squares: int | None = None, condition: float = 1.0, shift: float = 0.0, prior: Prior = _PRIOR
) -> Potential:
    """`squares` of d coordinates count (all unless given), scales from 1 to `condition` evenly in log.

    lambda = squares/2, m = 1. With scales 1, shift 0 and the N(0, 1) prior F = (squares/2) log(1 + 2t). Control: shift.
    """
    squares = d if squares is None else squares
    if not condition > 0:
        raise InputError("condition", condition, "must be positive")
    coefficient = elementary.sum_of_squares(squares, d)
    fn = SumOfSquares(tuple(float(a) for a in np.geomspace(1.0, condition, squares)))
    best = jnp.where(jnp.arange(d) < squares, shift, 0.0)
    truth = known(
        coefficient,
        params=best,
        loss=0.0,
        population_loss=lambda w: fn(w, shift),
    )
    return Potential(fn, d, prior, (("shift", shift),), truth)
