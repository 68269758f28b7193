"""Exact free energies at finite t of potentials, in float64: F(t) = -log Z(t), Z(t) = E_prior[exp(-t K)], and lam(t)
= t dF/dt.

lam(t) = t <K>_t is what an unbiased estimator of the learning coefficient returns at n beta = t where min K = 0; it
tends to lambda - (m - 1)/log t. Every function takes a number or an array of t >= 0 and returns arrays of its shape.
Chains, factorisations and two-layer linear networks are in `factorisation` and `two_layer`, any K of one to three
variables in `quadrature`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from slt.theory.coefficient import integer, refusal

Values = Float[np.ndarray, "*t"]


class Curve(NamedTuple):
    """F(t), in nats and 0 at t = 0 (the priors are normalised), and lam(t)."""

    free_energy: Values
    lam: Values


class TwoBasins(NamedTuple):
    """The two-basin landscape at t: free energies of the regions U and V, the mass of V, and both together."""

    free_energy_u: Values
    free_energy_v: Values
    mass_v: Values
    free_energy: Values
    lam: Values


def _curve(free_energy: Any, lam: Any) -> Curve:
    return Curve(np.asarray(free_energy), np.asarray(lam))


def times(t: Any) -> Values:
    """An array of finite t >= 0, or an InputError."""
    t = np.asarray(t, dtype=np.float64)
    if not (np.isfinite(t) & (t >= 0)).all():
        raise refusal("t", t, "give finite numbers >= 0")
    return t


def _unit(x: Any, a: float) -> tuple[Values, Values]:
    """M(x) = int_0^1 exp(-x u^(1/a)) du = a x^-a gamma(a, x), and -x M'/M = a (1 - exp(-x)/M) without cancellation.

    gamma is the lower incomplete gamma function; near 0 through M = exp(-x) 1F1(1; a + 1; x) (DLMF 8.5.1).
    """
    small = np.minimum(x, 1.0)
    series = special.hyp1f1(1, a + 1, small)
    slope = a * small / (a + 1) * special.hyp1f1(1, a + 2, small) / series
    large = np.maximum(x, 1.0)
    value = special.gammainc(a, large) * special.gamma(a + 1) * large**-a
    near = x < 1
    return np.where(near, np.exp(-small) * series, value), np.where(near, slope, a * (1 - np.exp(-large) / value))


def gaussian_squares(t: Any, d: int, scale: float | int = 1) -> Curve:
    """K = w_1^2 + .. + w_d^2 under N(0, scale^2): F = (d/2) log(1 + 2 t scale^2), a Gaussian integral (lambda = d/2,
    m = 1).

    Coordinates that K does not depend on change nothing.
    """
    t = times(t)
    integer("d", d, 1)
    if not scale > 0:
        raise refusal("scale", scale, "give the prior's standard deviation, > 0")
    x = 2 * t * scale**2
    return _curve(d / 2 * np.log1p(x), d / 2 * x / (1 + x))


def monomial(t: Any, k: int) -> Curve:
    """K = x^2k, x uniform on [-1, 1]: Z = t^(-1/2k) gamma(1/2k, t)/(2k), gamma the lower incomplete.

    lambda = 1/2k, m = 1.
    """
    t = times(t)
    integer("k", k, 1)
    value, slope = _unit(t, 1 / (2 * k))
    return _curve(-np.log(value), slope)


def normal_crossing(t: Any, d: int) -> Curve:
    """K = (w_1 .. w_d)^2, w uniform on [0, 1]^d or [-1, 1]^d: lambda = 1/2, m = d.

    Z is the hypergeometric dFd(1/2, ..; 3/2, ..; -t).
    """
    integer("d", d, 1)
    return crossing(t, [1] * d)


def _phases(rates: Float[np.ndarray, " d"], v: Float[np.ndarray, " v"]) -> Float[np.ndarray, "v d d"]:
    """exp(S v), S the generator that leaves phase i for i + 1 at rates[i]: the power series of S + max rates,
    positive.
    """
    most = float(rates.max())
    positive = np.diag(most - rates) + np.diag(rates[:-1], 1)
    term = np.broadcast_to(np.eye(len(rates)), (len(v), len(rates), len(rates)))
    total = term
    for k in range(1, 80):  # most v <= 4
        term = (term @ positive) * (v / k)[:, None, None]
        total = total + term
    return total * np.exp(-most * v)[:, None, None]


def crossing(t: Any, k: Sequence[int], h: Sequence[float | int] | None = None) -> Curve:
    """K = prod w_i^(2 k_i) on [0, 1]^d under the density prod (h_i + 1) w_i^h_i, or on [-1, 1]^d under prod |w_i|^h_i.

    h is 0, uniform, unless given. lambda = min (h_i + 1)/(2 k_i), m how often. v = -log K is a sum of exponentials with
    rates (h_i + 1)/(2 k_i); its density p(v), of phase type, is carried from panel to panel by matrix exponentials of
    positive terms alone, and Z = int p(v) exp(-t e^-v) dv by Gauss-Legendre, cut where p has fallen by 1e-17.
    """
    t = times(t)
    for each in k:
        integer("k", each, 1)
    h = [0.0] * len(k) if h is None else h
    if not k or len(h) != len(k):
        raise refusal("h", h, f"give one exponent of the prior for each of {len(k)} variables, at least one")
    for each in h:
        if not (np.isfinite(each) and each > -1):
            raise refusal("h", each, "give exponents > -1")
    rates = np.sort([(prior + 1) / (2 * power) for power, prior in zip(k, h, strict=True)])[::-1]
    nodes, weights = special.roots_legendre(20)
    panel = min(0.5, 4 / rates[0])
    top = np.log(max(1.0, float(t.max(initial=0.0)))) + (45 + 4 * len(k)) / rates[-1]
    panels = int(np.ceil(top / panel))
    *inside, step = _phases(rates, np.append(panel / 2 * (1 + nodes), panel))
    density = np.array(inside)[:, :, -1] * rates[-1]
    phases = np.zeros((panels, len(k)))
    phases[0, 0] = 1.0
    for i in range(1, panels):
        phases[i] = phases[i - 1] @ step
    v = (panel * np.arange(panels)[:, None] + panel / 2 * (1 + nodes)).ravel()
    mass = ((phases @ density.T) * (panel / 2 * weights)).ravel()
    energy = np.exp(-v)
    exponent = t[..., None] * energy
    z = np.exp(-exponent) @ mass
    near = np.log1p(np.expm1(-np.minimum(exponent, 1.0)) @ mass)  # exact to the last digit near t = 0
    f = np.where(t < 1, -near, -np.log(z))
    return _curve(f, t * (np.exp(-exponent) @ (mass * energy)) / z)


TWO_BASINS_BOUNDARY = 0.49783673071612594
"""Where 0.01 + (w + 1)^4 = 20 (w - 1)^2 between the minima: U lies to the left, V to the right."""


def two_basins(t: Any) -> TwoBasins:
    """K = min(0.01 + (w + 1)^4, 20 (w - 1)^2), w uniform on [-2, 2].

    U is degenerate (loss 0.01, lambda 1/4), V sharp (loss 0, lambda 1/2). With b the boundary, gamma the lower
    incomplete: Z_U = (1/4) e^(-0.01 t) t^(-1/4) (1/4) [gamma(1/4, t) + gamma(1/4, t (1 + b)^4)], Z_V = (1/4) (1/2)
    sqrt(pi/(20 t)) [erf(sqrt(20 t) (1 - b)) + erf(sqrt(20 t))].
    """
    t = times(t)
    b = TWO_BASINS_BOUNDARY
    # Each half of a basin, of length l and depth c l^(1/a), contributes (1/4) l M(t c l^(1/a)).
    sides = [(1.0, 1.0, 0.25), (1 + b, (1 + b) ** 4, 0.25), (1 - b, 20 * (1 - b) ** 2, 0.5), (1.0, 20.0, 0.5)]
    parts = [(length / 4, *_unit(t * depth, a)) for length, depth, a in sides]
    masses = [length * value for length, value, _ in parts]
    slopes = [slope for _, _, slope in parts]
    u = 0.01 * t - np.log(masses[0] + masses[1])
    v = -np.log(masses[2] + masses[3])
    lam_u = 0.01 * t + (masses[0] * slopes[0] + masses[1] * slopes[1]) / (masses[0] + masses[1])
    lam_v = (masses[2] * slopes[2] + masses[3] * slopes[3]) / (masses[2] + masses[3])
    mass_v = special.expit(u - v)
    both = (-np.logaddexp(-u, -v), (1 - mass_v) * lam_u + mass_v * lam_v)
    return TwoBasins(*(np.asarray(values) for values in (u, v, mass_v, *both)))


@functools.cache
def two_basins_critical_t() -> float:
    """The t at which both basins of `two_basins` carry half the mass, F_U = F_V: 294.139."""

    def gap(t: float) -> float:
        at = two_basins(t)
        return float(at.free_energy_u - at.free_energy_v)

    return float(optimize.root_scalar(gap, bracket=(100.0, 1000.0), xtol=1e-10).root)
