"""Criteria of a Bayes posterior from what chains fold per sample: WAIC, PSIS-LOO, losses, functional variance, and
Watanabe's equations of state over data sets.

Notation (Watanabe 2009, 2010): l_i(w) = log p(z_i|w); E_w over the posterior at inverse temperature beta.
T_n = -(1/n) sum_i log E_w[p(z_i|w)], V_n = sum_i Var_w[l_i(w)], WAIC = T_n + V_n/n at beta = 1, nu = (beta/2) V_n.

Two errors are kept apart. The Monte Carlo error (`Estimate.stderr`) counts autocorrelation and disagreement of chains,
because it comes from the spread of whole chains: a jackknife over them, whose pseudo-values also take the bias of order
1/draws out of log E_w[p] and of the variance. The data error is that of a sum over samples, sd_i/sqrt(n), as ArviZ
states it; it takes the posterior as given.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from slt.estimators import diagnostics
from slt.typing import Estimate, InputError

HIGH_VARIANCE = 0.4
"""A sample whose Var_w[l_i] is above this makes WAIC doubtful (Vehtari, Gelman and Gabry 2017)."""
HIGH_PARETO_K = 0.7
"""A sample whose Pareto k is above this makes PSIS-LOO doubtful (Vehtari et al. 2024)."""

PerChain = Float[np.ndarray, "chain n"]


class Folded(NamedTuple):
    """What each chain folds of each sample's l_i over its draws; chains of equal length, broken ones left out."""

    log_mean: PerChain
    """log of the mean of p(z_i|w)."""
    mean: PerChain
    """mean of l_i."""
    variance: PerChain
    """variance of l_i over the chain's own draws, divided by their number."""


class Pseudo(NamedTuple):
    """Jackknife pseudo-values over chains: their mean is the estimate, their spread its Monte Carlo error. Whatever is
    linear in these three is so chain by chain.
    """

    log_predictive: PerChain
    """log E_w[p(z_i|w)]."""
    mean: PerChain
    """E_w[l_i]."""
    variance: PerChain
    """Var_w[l_i]."""


class Criterion(NamedTuple):
    """A sum or mean over samples: the Estimate with its Monte Carlo error, the data error, and the terms [n]."""

    estimate: Estimate
    data_stderr: float
    pointwise: Float[np.ndarray, " n"]


class Loo(NamedTuple):
    """PSIS leave-one-out, a loss per sample like WAIC, with each sample's Pareto k."""

    estimate: Estimate
    data_stderr: float
    pointwise: Float[np.ndarray, " n"]
    pareto_k: Float[np.ndarray, " n"]


class EquationsOfState(NamedTuple):
    """Averages over data sets, errors from their spread. Losses are less L(w0) and L_n(w0), which cancel noise."""

    bayes_gap: Estimate
    """E[G_n] - E[T_n]."""
    gibbs_gap: Estimate
    """The same of the Gibbs losses."""
    fluctuation: Estimate
    """2 nu/n = beta E[V_n]/n, which both gaps equal for large n."""
    bayes_excess: Estimate
    """bayes_gap - 2 nu/n, of which each data set gives one: its error is far below that of either term."""
    gibbs_excess: Estimate
    scaled_error: Estimate
    """n (E[G_n] - L(w0)), which tends to lambda where the truth is realisable and beta = 1."""
    scaled_training_error: Estimate
    """n (E[T_n] - L(w0)), which tends to lambda - 2 nu."""
    singular_fluctuation: Estimate
    """nu = (beta/2) E[V_n]."""
    bayes_z: float
    """bayes_excess in its standard errors."""
    gibbs_z: float


def pseudo_values(folded: Folded) -> Pseudo:
    """Jackknife over chains of log E_w[p], E_w[l] and Var_w[l], every sample by itself, in float64.

    InputError for fewer than two chains or values that are not finite.
    """
    log_mean, mean, variance = (np.asarray(part, dtype=np.float64) for part in folded)
    chains = len(log_mean)
    if chains < 2 or not all(part.shape == log_mean.shape and np.isfinite(part).all() for part in (mean, variance)):
        raise InputError("folded", log_mean.shape, "give [chain, n] alike, at least two chains, all of them finite")
    if not np.isfinite(log_mean).all():
        raise InputError("folded.log_mean", "not finite", "a sample has probability 0 under every draw of a chain")
    whole = logsumexp(log_mean, axis=0) - np.log(chains)
    without = _log_sum_of_others(log_mean) - np.log(chains - 1)
    offset = mean - mean.mean(0)  # about the common mean, so that little cancels
    square = variance + np.square(offset)
    spread = (square.sum(0) - square) / (chains - 1) - np.square(offset / (chains - 1))
    return Pseudo(chains * whole - (chains - 1) * without, mean, chains * square.mean(0) - (chains - 1) * spread)


def _log_sum_of_others(values: PerChain) -> PerChain:
    """log sum of exp over all rows but one, for every row; nothing is subtracted, so a row may dominate."""
    least = np.full((1, values.shape[1]), -np.inf)
    before = np.concatenate([least, np.logaddexp.accumulate(values[:-1], axis=0)])
    after = np.concatenate([np.logaddexp.accumulate(values[:0:-1], axis=0)[::-1], least])
    return np.logaddexp(before, after)


def chains_disagree(folded: Folded) -> float:
    """R-hat of the predictions: sqrt(1 + sum_i Var over chains of E[l_i] / sum_i Var inside chains of l_i).

    Chains in modes of one loss but of different predictions pass the R-hat of the loss and not this one.
    """
    within, between = float(folded.variance.mean(0).sum()), float(folded.mean.var(0, ddof=1).sum())
    return float(np.sqrt(1 + between / within)) if within > 0 else (1.0 if between == 0 else float("inf"))


def over_chains(values: Float[np.ndarray, "chain *rest"]) -> Estimate:
    """The mean of one value a chain, with the error of their spread, by the rule of `diagnostics.mean` for few."""
    found = diagnostics.mean(np.moveaxis(np.asarray(values, dtype=np.float64), 0, -1)[..., None])
    return Estimate(found.value, found.stderr)


def summed(terms: PerChain, scale: float) -> Criterion:
    """scale x the sum over samples of pseudo-values, with both errors."""
    pointwise = scale * terms.mean(0)
    error = float(np.sqrt(len(pointwise)) * pointwise.std(ddof=1)) if len(pointwise) > 1 else float("nan")
    return Criterion(over_chains(scale * terms.sum(1)), error, pointwise)


def training_loss(pseudo: Pseudo) -> Criterion:
    """T_n = -(1/n) sum_i log E_w[p(z_i|w)]."""
    return summed(pseudo.log_predictive, -1 / pseudo.mean.shape[1])


def functional_variance(pseudo: Pseudo) -> Criterion:
    """V_n = sum_i Var_w[l_i]."""
    return summed(pseudo.variance, 1.0)


def waic(pseudo: Pseudo, beta: float = 1.0, force: bool = False) -> Criterion:
    """WAIC per sample, T_n + V_n/n (Watanabe 2010). At beta != 1 refused unless forced, and then T_n + beta V_n/n."""
    if beta != 1 and not force:
        raise InputError("beta", beta, "WAIC is defined at beta = 1: sample that posterior, or pass force=True")
    return summed(beta * pseudo.variance - pseudo.log_predictive, 1 / pseudo.mean.shape[1])


def loo(
    log_likelihood: Float[np.ndarray, "chain draw n"],
    relative_ess: float = 1.0,
    beta: float = 1.0,
    force: bool = False,
) -> Loo:
    """PSIS leave-one-out loss per sample (Vehtari, Gelman and Gabry 2017), by ArviZ, of l_i at every draw.

    Each sample's ratios 1/p(z_i|w) have their tail smoothed by a generalised Pareto; relative_ess (effective draws over
    draws) sets its length. pareto_k is -inf where the ratios are bounded by an atom, as of a sample that no parameter
    moves. The Monte Carlo error is the delta method's, smoothed weights w taken
    as given: the sum's influence of draw s, sum_i w_is (p_is/P_i - 1), averaged with its autocorrelation and spread of
    chains. At beta != 1 refused unless forced.
    """
    if beta != 1 and not force:
        raise InputError("beta", beta, "LOO reweights the posterior at beta = 1: sample that, or pass force=True")
    chains, draws, n = log_likelihood.shape
    if chains * draws < 25:
        raise InputError("log_likelihood", log_likelihood.shape, "a Pareto tail needs at least 25 draws in all")
    pointwise, k, influence = np.empty(n), np.empty(n), np.zeros((chains, draws))
    for i in range(n):
        terms = log_likelihood[:, :, i].astype(np.float64).ravel()
        weights, k[i] = _smoothed(terms, min(max(relative_ess, 1e-3), 1.0))
        value = float(np.asarray(logsumexp(weights + terms)))
        pointwise[i] = -value
        influence += (np.exp(weights) * np.expm1(terms - value)).reshape(chains, draws)
    error = float(pointwise.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    stderr = diagnostics.mean(influence * (chains * draws / n)).stderr
    return Loo(Estimate(np.asarray(pointwise.mean()), stderr), error, pointwise, k)


def _arviz() -> Any:
    from arviz_stats.base.array import array_stats  # a second, which other criteria need not spend

    return array_stats


def _smoothed(terms: Float[np.ndarray, " draws"], relative_ess: float) -> tuple[Float[np.ndarray, " draws"], float]:
    """Normalised log weights of 1/p and the tail's k, the tail beginning beyond an atom that stands at its edge."""
    draws = len(terms)
    length = int(min(draws / 5, 3 * np.sqrt(draws / relative_ess)))
    ordered = np.sort(terms)
    if ordered[length - int(length / 4 + 0.5)] == ordered[length]:
        # The law of l_i has atoms where a unit is dead; ArviZ cannot fit a Pareto to a tail whose first quarter is one
        length = int(np.searchsorted(ordered, ordered[length]))
        if length < 5:
            return -terms - np.asarray(logsumexp(-terms)), -np.inf
        relative_ess = 9 * draws / (length + 0.5) ** 2
    weights, k = _arviz().psislw(terms, r_eff=relative_ess)
    return weights, float(k)


def equations_of_state(
    bayes: Float[np.ndarray, "sets 2"],
    gibbs: Float[np.ndarray, "sets 2"],
    variance: Float[np.ndarray, " sets"],
    n: int,
    beta: float = 1.0,
) -> EquationsOfState:
    """Watanabe's equations of state from (generalisation, training) errors and V_n, one row a data set.

    E[G] - E[T] = E[Gibbs_gen] - E[Gibbs_train] = 2 nu/n for large n (Watanabe 2010, Neural
    Networks 23). Generalisation losses come less L(w0), training losses less L_n(w0). InputError for fewer than two
    data sets.
    """
    if len(variance) < 2:
        raise InputError("replicates", len(variance), "give at least two data sets: errors are the spread over them")
    double = beta * variance / n

    def mean(values: np.ndarray) -> Estimate:
        return Estimate(np.asarray(values.mean()), np.std(values, ddof=1) / np.sqrt(len(values)))

    excess = [mean(pair[:, 0] - pair[:, 1] - double) for pair in (bayes, gibbs)]
    return EquationsOfState(
        bayes_gap=mean(bayes[:, 0] - bayes[:, 1]),
        gibbs_gap=mean(gibbs[:, 0] - gibbs[:, 1]),
        fluctuation=mean(double),
        bayes_excess=excess[0],
        gibbs_excess=excess[1],
        scaled_error=mean(n * bayes[:, 0]),
        scaled_training_error=mean(n * bayes[:, 1]),
        singular_fluctuation=mean(beta / 2 * variance),
        bayes_z=float(excess[0].value / excess[0].stderr),
        gibbs_z=float(excess[1].value / excess[1].stderr),
    )
