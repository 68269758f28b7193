"""The potential K(w) = sum_i |a_i b_i - s_i e_1|^2, s_i = i^-alpha: matrix factorisation with decoupled modes.

Modes are learned one after another, mode i at t ~ 8.5/s_i^2 (q = 8), and lam(t) has no plateau before the last one is.
F(t) and lam(t) are exact by one-dimensional quadrature: slt.theory.factorisation.power_law (science.md B5).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Potential
from slt.models._truth import known
from slt.priors import Normal, Prior
from slt.theory import elementary
from slt.typing import InputError, Scalar


@dataclass(frozen=True)
class PowerLaw:
    """K of parameters w = (a_1 .. a_modes, b_1 .. b_modes), b_i in R^q."""

    modes: int
    alpha: float
    q: int

    @property
    def strengths(self) -> Float[np.ndarray, " modes"]:
        """s_i = i^-alpha."""
        return np.arange(1, self.modes + 1) ** -float(self.alpha)

    def __call__(self, w: Float[Array, " d"]) -> Scalar:
        a, b = w[: self.modes], w[self.modes :].reshape(self.modes, self.q)
        first = a * b[:, 0] - jnp.asarray(self.strengths, w.dtype)
        return jnp.sum(jnp.square(first)) + jnp.sum(jnp.square(a[:, None] * b[:, 1:]))


_PRIOR = Normal()


def make(modes: int = 64, alpha: float = 0.4, q: int = 8, prior: Prior = _PRIOR) -> Potential:
    """modes (q + 1) parameters; at last lambda = modes q/2, m = 1. With the prior N(0, 1), F and lam(t) are exact."""
    for name, value in (("modes", modes), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(name, value, "must be a whole number, at least 1")
    if not alpha >= 0:
        raise InputError("alpha", alpha, "must be at least 0")
    fn = PowerLaw(modes, alpha, q)
    root = np.sqrt(fn.strengths)
    best = np.concatenate([root, (root[:, None] * (np.arange(q) == 0)).ravel()])
    truth = known(
        elementary.sum_of_squares(modes * q, modes * (q + 1)),
        params=jnp.asarray(best, jnp.result_type(float)),
        loss=0.0,
        population_loss=fn,
    )
    return Potential(fn, modes * (q + 1), prior, known=truth)
