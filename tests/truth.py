"""Targets whose posteriors are known exactly. It shares no code with slt: closed forms and quadrature in numpy and
scipy.

Everywhere t = n beta, K = L - min L, F = -log E_prior[exp(-t K)] (or of t L where it says so), lam(t) = t <K>_t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import special

Array = np.ndarray


# ------------------------------------------------------------------------------------------------ Gaussian posteriors


@dataclass(frozen=True)
class Gaussian:
    """The posterior of L(w) = least + (w - optimum)' hessian (w - optimum) / 2 at t = nbeta, Gaussian prior and
    localiser.

    Density exp(-t L) N(w; prior_mean, prior_precision^-1) exp(-gamma/2 |w - centre|^2). A zero prior precision is flat.
    """

    hessian: Array
    optimum: Array
    nbeta: float
    prior_precision: Array
    prior_mean: Array
    gamma: float
    centre: Array
    least: float

    @property
    def precision(self) -> Array:
        return self.nbeta * self.hessian + self.prior_precision + self.gamma * np.eye(len(self.optimum))

    @property
    def cov(self) -> Array:
        return np.linalg.inv(self.precision)

    @property
    def mean(self) -> Array:
        pull = self.nbeta * self.hessian @ self.optimum + self.prior_precision @ self.prior_mean
        return self.cov @ (pull + self.gamma * self.centre)

    def llc(self, reference: Array | None = None) -> float:
        """E[t (L(w) - L(reference))]; the reference is the optimum unless given."""
        offset = self.mean - self.optimum
        value = np.trace(self.hessian @ self.cov) + offset @ self.hessian @ offset
        if reference is not None:
            value -= (reference - self.optimum) @ self.hessian @ (reference - self.optimum)
        return float(self.nbeta * value / 2)

    @property
    def heat_capacity(self) -> float:
        """t^2 Var(L)."""
        product, offset = self.hessian @ self.cov, self.mean - self.optimum
        spread = np.trace(product @ product) / 2 + offset @ self.hessian @ self.cov @ self.hessian @ offset
        return float(self.nbeta**2 * spread)

    @property
    def free_energy(self) -> float:
        """-log int exp(-t L) prior(w) exp(-gamma/2 |w - centre|^2) dw, with the constant `least` of L in it; proper
        priors."""
        mean = self.mean
        exponent = self.nbeta * (self.least + (mean - self.optimum) @ self.hessian @ (mean - self.optimum) / 2)
        exponent += (mean - self.prior_mean) @ self.prior_precision @ (mean - self.prior_mean) / 2
        exponent += self.gamma * np.sum((mean - self.centre) ** 2) / 2
        return float(exponent + (np.linalg.slogdet(self.precision)[1] - np.linalg.slogdet(self.prior_precision)[1]) / 2)

    def draws(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Independent draws [*shape, d]."""
        return self.mean + rng.standard_normal((*shape, len(self.mean))) @ np.linalg.cholesky(self.cov).T


def gaussian(
    hessian: Any,
    optimum: Any,
    nbeta: float,
    prior_scale: float | None = 1.0,
    prior_mean: Any = 0.0,
    gamma: float = 0.0,
    centre: Any = 0.0,
    least: float = 0.0,
) -> Gaussian:
    """A quadratic loss with the prior N(prior_mean, prior_scale^2 I), flat where the scale is None."""
    hessian, optimum = np.asarray(hessian, float), np.asarray(optimum, float)
    precision = np.zeros_like(hessian) if prior_scale is None else np.eye(len(optimum)) / prior_scale**2
    means = (np.broadcast_to(np.asarray(point, float), optimum.shape) for point in (prior_mean, centre))
    start, anchor = means
    return Gaussian(hessian, optimum, float(nbeta), precision, start, gamma, anchor, least)


def gaussian_location(z: Any, beta: float = 1.0, noise: float = 1.0, **prior: Any) -> Gaussian:
    """z_i ~ N(w, noise^2 I), z [n, d]: L_n(w) = mean |z_i - w|^2 / (2 noise^2) + (d/2) log(2 pi noise^2)."""
    z = np.asarray(z, float)
    n, d = z.shape
    centre = z.mean(0)
    least = float(np.sum((z - centre) ** 2) / (2 * n * noise**2) + d / 2 * np.log(2 * np.pi * noise**2))
    return gaussian(np.eye(d) / noise**2, centre, n * beta, least=least, **prior)


def linear_regression(x: Any, y: Any, beta: float = 1.0, noise: float = 1.0, **prior: Any) -> Gaussian:
    """y_i = x_i . w + N(0, noise^2), design x [n, d] with a column of ones if there is an intercept."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(y)
    optimum = np.linalg.lstsq(x, y, rcond=None)[0]
    least = float(np.sum((y - x @ optimum) ** 2) / (2 * n * noise**2) + 0.5 * np.log(2 * np.pi * noise**2))
    return gaussian(x.T @ x / n / noise**2, optimum, n * beta, least=least, **prior)


def stiff(d: int = 4, condition: float = 100.0, nbeta: float = 1.0, **prior: Any) -> Gaussian:
    """A correlated quadratic loss: eigenvalues from 1 to `condition` evenly in log, along directions no axis shares."""
    directions = np.linalg.qr(np.random.default_rng(20260101).standard_normal((d, d)))[0]
    hessian = directions @ np.diag(np.geomspace(1.0, condition, d)) @ directions.T
    prior.setdefault("prior_scale", None)
    return gaussian(hessian, np.linspace(-1.0, 1.0, d), nbeta, **prior)


REGRESSION_X = np.stack([np.ones(8), np.arange(-3, 5) / 2.0], axis=1)
REGRESSION_Y = np.array([-2.1, -0.7, -1.2, 0.4, 0.9, 1.1, 2.6, 2.2])
REGRESSION = {
    "mean": (0.09423077, 1.17596154),
    "evidence": 11.17480948,
    "training_loss": 1.10111213,
    "functional_variance": 0.60587892,
    "waic": 1.17684699,
    "gibbs_training_loss": 1.13197125,
    "wbic": 10.01128110,
    "least_nll": 8.09293684,
    "generalisation_error": 0.03392861,
    "gibbs_generalisation_error": 0.14225147,
}
"""science.md B3: unit noise, prior N(0, I), n = 8; evidence = -log Z; the last two on the same design with truth
(0, 1)."""


def regression_criteria(x: Any, y: Any, truth: Any) -> dict[str, Any]:
    """The numbers of REGRESSION for any design with unit noise and the prior N(0, I)."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(y)
    posterior = linear_regression(x, y)
    centre, spread = x @ posterior.mean, np.einsum("ni,ij,nj->n", x, posterior.cov, x)
    residual = (y - centre) ** 2
    training = np.mean(np.log(2 * np.pi * (1 + spread)) + residual / (1 + spread)) / 2
    variance = np.sum(spread**2 / 2 + spread * residual)
    warm = linear_regression(x, y, beta=1 / np.log(n))
    off = (centre - x @ np.asarray(truth, float)) ** 2
    return {
        "mean": posterior.mean,
        "evidence": posterior.free_energy,
        "training_loss": training,
        "functional_variance": variance,
        "waic": training + variance / n,
        "gibbs_training_loss": posterior.least + posterior.llc() / n,
        "wbic": n * warm.least + warm.llc() * np.log(n),
        "least_nll": n * posterior.least,
        "generalisation_error": np.mean(np.log1p(spread) + (1 + off) / (1 + spread) - 1) / 2,
        "gibbs_generalisation_error": np.mean(spread + off) / 2,
    }


# -------------------------------------------------------------------------------------------- potentials by quadrature


class Moments(NamedTuple):
    """Of a potential at t: F with its constant min K in it, the mean and variance of K, the mean and covariance of
    w."""

    free_energy: float
    energy: float
    energy_variance: float
    mean: Array
    cov: Array


def _rule(edges: Any, order: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    edges = np.asarray(edges, float)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def quadrature(
    potential: Callable[[Array], Array],
    log_prior: Callable[[Array], Array],
    edges: Sequence[Any],
    t: float,
    order: int = 12,
) -> Moments:
    """Moments of exp(-t K(w)) prior(w), w [..., d] with d = 1 to 3, by Gauss-Legendre on the panels between `edges`.

    `edges` holds one increasing sequence a dimension: put one at every kink, and enough for the sharpest peak.
    """
    rules = [_rule(each, order) for each in edges]
    w = np.stack(np.meshgrid(*(nodes for nodes, _ in rules), indexing="ij"), axis=-1)
    weight = np.ones(())
    for _, weights in rules:
        weight = weight[..., None] * weights
    k = potential(w)
    log_density = -t * k + log_prior(w)
    top = log_density.max()
    mass = weight * np.exp(log_density - top)
    z = mass.sum()
    mass, w, k = (mass / z).ravel(), w.reshape(-1, len(rules)), k.ravel()
    energy = float(mass @ k)
    mean = mass @ w
    cov = (w - mean).T @ ((w - mean) * mass[:, None])
    return Moments(float(-np.log(z) - top), energy, float(mass @ (k - energy) ** 2), mean, cov)


def normal_log_prior(w: Array) -> Array:
    """log N(w; 0, I)."""
    return -np.sum(w**2, axis=-1) / 2 - w.shape[-1] / 2 * np.log(2 * np.pi)


def uniform_log_prior(lower: float, upper: float, d: int) -> Callable[[Array], Array]:
    """The log density of the box [lower, upper]^d, for points inside it."""
    return lambda w: np.full(w.shape[:-1], -d * np.log(upper - lower))


def quantiles(potential: Callable[[Array], Array], lower: float, upper: float, t: float, uniform: Array) -> Array:
    """Draws in one dimension under a uniform prior by inversion: the points whose posterior CDF is `uniform`."""
    grid = np.linspace(lower, upper, 40_001)
    density = np.exp(-t * (potential(grid[:, None]) - potential(grid[:, None]).min()))
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return np.interp(uniform, cdf / cdf[-1], grid)


# ------------------------------------------------------------------------------------------------- singular potentials


def sum_of_squares(t: Any, d: int) -> tuple[Array, Array]:
    """(F, lam) of K = w_1^2 + .. + w_d^2 under N(0, I)."""
    t = np.asarray(t, float)
    return d / 2 * np.log(1 + 2 * t), d * t / (1 + 2 * t)


def two_basins_potential(w: Array) -> Array:
    """min(0.01 + (w + 1)^4, 20 (w - 1)^2) on [-2, 2], w [..., 1]."""
    w = w[..., 0]
    return np.minimum(0.01 + (w + 1) ** 4, 20 * (w - 1) ** 2)


TWO_BASINS_BOUNDARY = 0.497836730716
TWO_BASINS_CRITICAL_T = 294.138961658
TWO_BASINS = {
    1: (0.836214917, 2.312542543, 0.185982751),
    10: (1.467066332, 3.463088101, 0.119621244),
    50: (2.269424768, 4.267807058, 0.119372876),
    100: (2.942711563, 4.614380648, 0.158201773),
    200: (4.115998359, 4.960954238, 0.300492046),
    250: (4.671784246, 5.072526014, 0.401134135),
    300: (5.217364636, 5.163686792, 0.513416240),
    350: (5.755902306, 5.240762132, 0.626010676),
    400: (6.289285154, 5.307527829, 0.727456769),
    500: (7.345071042, 5.419099604, 0.872802848),
    700: (9.429189101, 5.587335722, 0.978996796),
    1000: (12.518357837, 5.765673195, 0.998833622),
    2000: (22.691644632, 6.112246785, 0.999999937),
}
"""science.md B2: t -> (F_U, F_V, mass of V)."""


def two_basins(t: float) -> tuple[Moments, Moments, float]:
    """(U, V, mass of V) by quadrature; F of a region is -log of the integral over it, both under the prior 1/4 on
    [-2, 2]."""
    # Panels at every scale, so that the peaks of any t up to 1e6 are resolved.
    scales = np.concatenate([np.geomspace(1e-4, 1.0, 60), np.linspace(1.0, 1.5, 4)[1:]])
    left = np.concatenate([-1 - scales[scales < 1], [-1.0], -1 + scales])
    right = np.concatenate([1 - scales, [1.0], 1 + scales[scales < 1]])
    prior = uniform_log_prior(-2.0, 2.0, 1)
    below, above = (np.unique(np.clip(side, -2.0, 2.0)) for side in (left, right))
    below = np.append(np.insert(below[below < TWO_BASINS_BOUNDARY], 0, -2.0), TWO_BASINS_BOUNDARY)
    above = np.append(np.insert(above[above > TWO_BASINS_BOUNDARY], 0, TWO_BASINS_BOUNDARY), 2.0)
    u, v = (quadrature(two_basins_potential, prior, [np.unique(side)], t) for side in (below, above))
    return u, v, float(special.expit(u.free_energy - v.free_energy))


def monomial(t: float, k: int) -> tuple[float, float]:
    """(F, lam) of x^2k, uniform on [-1, 1], by quadrature graded towards 0."""
    edges = np.concatenate([[0.0], np.geomspace(1e-6, 1.0, 80)])
    found = quadrature(lambda w: w[..., 0] ** (2 * k), uniform_log_prior(0.0, 1.0, 1), [edges], t)
    return found.free_energy, t * found.energy


def normal_crossing(t: float, d: int) -> tuple[float, float]:
    """(F, lam) of (w_1 .. w_d)^2, uniform on [0, 1]^d, d = 2 or 3, by quadrature graded towards the axes."""
    edges = np.concatenate([[0.0], np.geomspace(1e-12, 1.0, 40)])
    prior = uniform_log_prior(0.0, 1.0, d)
    found = quadrature(lambda w: np.prod(w, axis=-1) ** 2, prior, [edges] * d, t, order=6 if d == 2 else 4)
    return found.free_energy, t * found.energy


def scalar_chain(t: float, depth: int, s: float) -> tuple[float, float]:
    """(F, lam) of K = (w_1 .. w_L - s)^2 under N(0, 1) priors, L = 2 or 3.

    The last factor is integrated exactly, Z = E (1 + 2 t v^2)^(-1/2) exp(-t s^2/(1 + 2 t v^2)) with v the product of
    the others; the rest is the trapezoidal rule in log |w|, which converges geometrically.
    """
    log_w = np.linspace(-36.0, 3.0, 1201 if depth == 3 else 8001)
    weight = 2 * np.exp(log_w - np.exp(2 * log_w) / 2) / np.sqrt(2 * np.pi) * (log_w[1] - log_w[0])
    if depth == 2:
        v2 = np.exp(2 * log_w)
    elif depth == 3:
        v2 = np.exp(2 * (log_w[:, None] + log_w))
        weight = weight[:, None] * weight
    else:
        raise ValueError(f"depth {depth}: 2 or 3")
    a = 1 + 2 * t * v2
    z = weight * a**-0.5 * np.exp(-t * s**2 / a)
    slope = v2 / a + s**2 / a - 2 * t * s**2 * v2 / a**2  # -d log(integrand)/dt
    return float(-np.log(z.sum())), float(t * np.sum(z * slope) / z.sum())
