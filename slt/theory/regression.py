"""Linear regression in closed form: y_i = x_i.w + N(0, noise^2), Gaussian prior and localiser, any inverse temperature.

Everything the criteria estimate is known here: evidence, LLC, WAIC, WBIC, leave-one-out, functional variance, training
and generalisation losses of Bayes and Gibbs. At beta the predictive of x is N(m, s^2 + noise^2), m and s^2 the mean and
variance of x.w under the tempered posterior.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from slt.theory.coefficient import refusal

Number = float | int


class Regression(NamedTuple):
    """The tempered posterior of a data set of n points, and what follows. Losses are per point, and include
    constants.
    """

    mean: Float[np.ndarray, " d"]
    cov: Float[np.ndarray, "d d"]
    n: int
    beta: float
    free_energy: float
    """-log int exp(-n beta L_n) N(prior) exp(-gamma/2 |w - centre|^2): at beta = 1, gamma = 0, -log evidence."""
    least_loss: float
    """L_n at the maximum likelihood estimate w_hat."""
    llc: float
    """n beta (E[L_n] - L_n(w_hat)): lam(t) of this data set."""
    heat_capacity: float
    """(n beta)^2 Var L_n."""
    training_loss: float
    """T_n = -(1/n) sum_i log E[p(y_i|w)] (Bayes)."""
    gibbs_training_loss: float
    """E[L_n(w)]."""
    functional_variance: float
    """V_n = sum_i Var[log p(y_i|w)]."""
    singular_fluctuation: float
    """nu = (beta/2) V_n, of this data set."""
    waic: float
    """T_n + beta V_n/n."""
    loo: float | None
    """-(1/n) sum_i log p(y_i | the others), at beta = 1; None elsewhere."""


class Generalisation(NamedTuple):
    """Losses of Bayes and Gibbs on new data at given inputs, and as errors, less the loss of the truth."""

    bayes_loss: float
    gibbs_loss: float
    bayes_error: float
    gibbs_error: float


def _design(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        raise refusal("x", (x.shape, y.shape), "give inputs [n, d], with a column of ones for an intercept, and y [n]")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise refusal("x", x.shape, "give finite data")
    return x, y


def linear_regression(
    x: Any,
    y: Any,
    beta: Number = 1,
    noise: Number = 1,
    prior_scale: Number = 1,
    gamma: Number = 0,
    centre: Any = 0.0,
) -> Regression:
    """The posterior prop. to prod p(y_i|w)^beta N(w; 0, prior_scale^2) exp(-gamma/2 |w - centre|^2), inputs x [n,
    d].

    A column of ones gives an intercept. The prior may be flat, prior_scale = inf: F has then no absolute value and
    is NaN.
    """
    x, y = _design(x, y)
    for field, value in (("beta", beta), ("noise", noise), ("prior_scale", prior_scale)):
        if not value > 0:
            raise refusal(field, value, "give a number > 0")
    if not gamma >= 0:
        raise refusal("gamma", gamma, "give a number >= 0")
    n, d = x.shape
    prior = 1 / prior_scale**2
    centre = np.broadcast_to(np.asarray(centre, dtype=np.float64), (d,))
    if prior + gamma == 0 and np.linalg.matrix_rank(x) < d:
        raise refusal("prior_scale", prior_scale, "these inputs do not determine w: give a prior or a localiser")
    gram = x.T @ x / noise**2
    precision = beta * gram + (prior + gamma) * np.eye(d)
    cov = np.linalg.inv(precision)
    mean = cov @ (beta * x.T @ y / noise**2 + gamma * centre)
    optimum = np.linalg.lstsq(x, y, rcond=None)[0]
    constant = 0.5 * np.log(2 * np.pi * noise**2)
    least = float(np.mean((y - x @ optimum) ** 2) / (2 * noise**2) + constant)
    offset = mean - optimum
    llc = beta / 2 * float(np.trace(gram @ cov) + offset @ gram @ offset)
    product = gram @ cov
    heat = beta**2 * float(np.trace(product @ product) / 2 + offset @ gram @ cov @ gram @ offset)
    exponent = n * beta * least + beta / 2 * offset @ gram @ offset
    exponent += (prior * mean @ mean + gamma * np.sum((mean - centre) ** 2)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = np.linalg.slogdet(precision)[1] - d * np.log(prior)
    free_energy = float(exponent + determinant / 2) if prior > 0 else float("nan")
    spread, residual = np.einsum("ni,ij,nj->n", x, cov, x), y - x @ mean
    width = spread + noise**2
    training = float(np.mean(np.log(2 * np.pi * width) + residual**2 / width) / 2)
    variance = float(np.sum(spread**2 / 2 + spread * residual**2) / noise**4)
    loo = None
    if beta == 1:
        # Without point i: residual and spread of its prediction by the rank-one downdate of the precision.
        kept = 1 - spread / noise**2
        apart, predictive = residual / kept, spread / kept + noise**2
        loo = float(np.mean(np.log(2 * np.pi * predictive) + apart**2 / predictive) / 2)
    return Regression(
        mean=mean,
        cov=cov,
        n=n,
        beta=float(beta),
        free_energy=free_energy,
        least_loss=least,
        llc=llc,
        heat_capacity=heat,
        training_loss=training,
        gibbs_training_loss=least + llc / (n * beta),
        functional_variance=variance,
        singular_fluctuation=beta / 2 * variance,
        waic=training + beta * variance / n,
        loo=loo,
    )


def wbic(x: Any, y: Any, noise: Number = 1, prior_scale: Number = 1) -> float:
    """n E[L_n] at beta = 1/log n (Watanabe 2013)."""
    n = len(_design(x, y)[1])
    if n < 3:
        raise refusal("x", n, "give at least 3 points: beta = 1/log n must be below 1 and finite")
    found = linear_regression(x, y, 1 / float(np.log(n)), noise, prior_scale)
    return n * found.gibbs_training_loss


def generalisation(posterior: Regression, x: Any, truth: Any, noise: Number = 1) -> Generalisation:
    """Losses on new y = x.truth + N(0, noise^2) at the inputs x [m, d], averaged over them, for a posterior found
    above.

    Bayes: -E log E_w[p(y|w)]; Gibbs: E_w of the loss.
    """
    x, truth = np.asarray(x, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim != 2 or truth.shape != (x.shape[1],) or truth.shape != posterior.mean.shape:
        raise refusal("truth", (x.shape, truth.shape), f"give inputs [m, {len(posterior.mean)}] and a truth to match")
    spread, off = np.einsum("ni,ij,nj->n", x, posterior.cov, x), (x @ (posterior.mean - truth)) ** 2
    width = spread + noise**2
    entropy = 0.5 * (np.log(2 * np.pi * noise**2) + 1)
    bayes = float(np.mean(np.log(2 * np.pi * width) + (noise**2 + off) / width) / 2)
    gibbs_error = float(np.mean(spread + off) / (2 * noise**2))
    return Generalisation(bayes, float(entropy + gibbs_error), bayes - float(entropy), gibbs_error)
