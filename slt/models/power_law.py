"""The potential K(w) = sum_i |a_i b_i - s_i e_1|^2, s_i = i^-alpha: matrix factorisation with decoupled modes.

Modes are learned one after another, mode i at t ~ 8.5/s_i^2 (q = 8), and lam(t) has no plateau before the last one is.
F(t) and lam(t) are exact by one-dimensional quadrature: slt.theory.factorisation.power_law (science.md B5).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from slt.model import Potential
from slt.models._truth import known
from slt.phases import Phases
from slt.priors import Normal, Prior
from slt.theory import elementary
from slt.typing import InputError, Integer, Scalar

LABELS = 127  # that a run keeps, in one byte


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
        return jnp.sum(self.squares(w))

    def squares(self, w: Float[Array, " d"]) -> Float[Array, " modes"]:
        """|a_i b_i - s_i e_1|^2 of every mode."""
        a, b = w[: self.modes], w[self.modes :].reshape(self.modes, self.q)
        first = a * b[:, 0] - jnp.asarray(self.strengths, w.dtype)
        return jnp.square(first) + jnp.sum(jnp.square(a[:, None] * b[:, 1:]), axis=1)

    def cut_off(self, t: Any, learned: int, constant: bool = True) -> Float[np.ndarray, "*t"]:
        """What singular learning theory says of F(t) if the truth ended after `learned` modes:

        t sum_{i > learned} s_i^2 + lambda log t (+ constant), lambda = (learned q + modes - learned)/2, m = 1 (q > 1).

        The constant is that of the truth so cut off, exact as t grows: -log of (4 pi)^(-1/2) B(1/2, (q-1)/2) for each
        mode of strength 0, and of 2^(-q/2) (2/pi)^(1/2) s^((1-q)/2) K_((q-1)/2)(s) for each learned one.
        """
        if self.q < 2 or not 0 <= learned <= self.modes:
            raise InputError("learned", learned, f"give 0 to {self.modes} modes, and q of at least 2 (then m = 1)")
        t, s = np.asarray(t, np.float64), self.strengths
        value = t * np.sum(np.square(s[learned:])) + (learned * self.q + self.modes - learned) / 2 * np.log(t)
        if not constant:
            return value
        zero = special.betaln(0.5, (self.q - 1) / 2) - np.log(4 * np.pi) / 2
        order, own = (self.q - 1) / 2, s[:learned]
        bessel = np.log(special.kve(order, own)) - own - order * np.log(own)
        return value - (self.modes - learned) * zero - np.sum(bessel + np.log(2 / np.pi) / 2 - self.q / 2 * np.log(2))


@dataclass(frozen=True)
class Learned:
    """How many modes a draw has learned: of how many |a_i b_i - s_i e_1| < s_i/2.

    Of the product whose blocks are a_i b_i', one a mode, so many singular values |a_i||b_i| are then above s_i/2: it is
    counted which modes are there, and not whether smaller ones come after larger ones.
    """

    fn: PowerLaw

    def __call__(self, w: Float[Array, " d"]) -> Integer:
        least = jnp.asarray(np.square(self.fn.strengths / 2), w.dtype)
        return jnp.sum(self.fn.squares(w) < least, dtype=jnp.int32)


def learned(fn: PowerLaw) -> Phases:
    """The phases "rank 0", "rank 1", .. of draws that have learned so many modes: see `Learned`."""
    text = "modes whose row a_i b_i of the product lies within half their strength s_i of s_i e_1"
    return Phases(tuple(f"rank {k}" for k in range(fn.modes + 1)), Learned(fn), text)


_PRIOR = Normal()


def make(modes: int = 64, alpha: float = 0.4, q: int = 8, prior: Prior = _PRIOR) -> Potential:
    """modes (q + 1) parameters; at last lambda = modes q/2, m = 1. With the prior N(0, 1), F and lam(t) are exact.

    Phases, of fewer than 127 modes: how many are learned, see `Learned`.
    """
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
    truth = dataclasses.replace(truth, phases=learned(fn) if modes < LABELS else None)
    return Potential(fn, modes * (q + 1), prior, known=truth)
