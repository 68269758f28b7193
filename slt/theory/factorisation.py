"""Exact F(t) and lam(t) of scalar chains w_1 .. w_L = s and of decoupled (power-law) matrix factorisation.

All parameters N(0, 1). With one factor b in R^q integrated exactly, the other side's product v of normals remains:
Z = E_v (1 + 2 t v^2)^(-q/2) exp(-t s^2/(1 + 2 t v^2)), for K = |v b - s e_1|^2. The expectation is the trapezoidal
rule in log |v|, which converges geometrically for these integrands, and the density of a product is a convolution
in log |v|.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from slt.theory.coefficient import integer, refusal
from slt.theory.exact import Curve, Values, times

STEP = 0.02
BLOCK = 2_000_000


def log_normals(
    t: float, factors: int = 1, strength: float = 0.0
) -> tuple[Float[np.ndarray, " u"], Float[np.ndarray, " u"]]:
    """Nodes u = log |v| and log weights for the expectation over v, a product of `factors` N(0, 1).

    They reach as far as integrands need for times up to t and targets s up to `strength`.
    """
    low = -(0.5 * np.log1p(2 * t) + 42 + 4 * factors)
    high = np.log(11 + 2 * np.sqrt(strength))
    u = np.arange(np.floor(low / STEP), np.ceil(high / STEP) + 1) * STEP
    log_weight = np.log(2 * STEP) + u - np.exp(2 * u) / 2 - np.log(2 * np.pi) / 2
    weight = one = np.exp(log_weight)
    for _ in range(factors - 1):
        # Both grids begin at u[0]: their convolution at 2 u[0], and is cut back. All terms are positive.
        weight = np.convolve(weight, one)[-round(u[0] / STEP) :]
    if factors > 1:
        u = u[0] + STEP * np.arange(len(weight))
        with np.errstate(divide="ignore"):
            log_weight = np.log(weight)
    return u, log_weight


def _modes(t: Values, s: Float[np.ndarray, " modes"], q: int, factors: int) -> Curve:
    """Sums over independent modes."""
    u, log_weight = log_normals(float(t.max(initial=0.0)), factors, float(np.abs(s).max()))
    v2 = np.exp(2 * u)
    f, lam = np.zeros(t.shape), np.zeros(t.shape)
    for index, each in np.ndenumerate(t):
        a = 1 + 2 * each * v2
        base = log_weight - q / 2 * np.log(a)
        slope = q * v2 / a
        for part in np.array_split(s**2, max(1, len(s) * len(u) // BLOCK)):
            exponent = base - each * part[:, None] / a
            log_z = np.asarray(special.logsumexp(exponent, axis=1))
            f[index] -= float(log_z.sum())
            share = np.exp(exponent - log_z[:, None])
            lam[index] += each * float(np.sum(share @ slope + part * (share @ a**-2.0)))
    return Curve(f, lam)


def scalar_chain(t: Any, depth: int, s: float | int = 0) -> Curve:
    """K = (w_1 .. w_L - s)^2, L = `depth` >= 1: lambda = 1/2, m = L for s = 0 (at 0), m = 1 for s != 0.

    lam(t) overshoots 1/2 near t ~ 1/s^2, where the mode is learned.
    """
    t = times(t)
    integer("depth", depth, 1)
    if not np.isfinite(s):
        raise refusal("s", s, "give a finite number")
    if depth == 1:
        a = 1 + 2 * t
        return Curve(np.asarray(np.log(a) / 2 + t * s**2 / a), np.asarray(t / a + t * s**2 / a**2))
    return _modes(t, np.array([float(s)]), 1, depth - 1)


def decoupled(t: Any, s: Any, q: int) -> Curve:
    """K = sum_i |a_i b_i - s_i e_1|^2, a_i scalar and b_i in R^q: independent modes of strengths s, q + 1
    parameters each.

    An unlearned mode has lam about 1/2 + ((q-1)/q) t s^2, a learned one q/2, with the peak between at t ~ 8.5/s^2
    (q = 8).
    """
    t = times(t)
    s = np.atleast_1d(np.asarray(s, dtype=np.float64))
    if s.ndim != 1 or not np.isfinite(s).all():
        raise refusal("s", s, "give one finite strength for each mode")
    return _modes(t, s, integer("q", q, 1), 1)


def power_law(t: Any, modes: int, alpha: float | int, q: int = 8) -> Curve:
    """`decoupled` with s_i = i^-alpha, i = 1 .. modes; at last lambda = modes q/2, m = 1 (q > 1).

    Below t ~ 8.5 modes^(2 alpha) the free energy does not look like lambda log t: lam(t) grows with t through modes
    that are still to be learned.
    """
    if not (np.isfinite(alpha) and alpha >= 0):
        raise refusal("alpha", alpha, "give an exponent >= 0")
    return decoupled(t, np.arange(1, integer("modes", modes, 1) + 1) ** -float(alpha), q)
