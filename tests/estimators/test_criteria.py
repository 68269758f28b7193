"""Criteria against the conjugate regression, whose posterior is drawn exactly, with any autocorrelation asked for."""

import numpy as np
import pytest
from scipy.special import logsumexp
from stats import assert_close, assert_coverage, autoregressive

from slt.estimators import criteria
from slt.estimators.criteria import Folded
from slt.theory.regression import linear_regression
from slt.typing import Estimate, InputError

X = np.array([[1.0, -1.5], [1.0, -0.2], [1.0, 0.4], [1.0, 1.1], [1.0, 2.0], [1.0, -0.9]])
Y = np.array([-1.2, 0.9, -0.3, 1.6, 1.1, -2.0])
EXACT = linear_regression(X, Y)


def drawn(rng, chains, draws, rho=0.0, stuck=0.0):
    """log p(y_i|w) [chain, draw, n] at draws of the posterior; `stuck` moves whole chains by so many of its sds."""
    normal = autoregressive(rng, rho, (chains, 2, draws)) + stuck * rng.standard_normal((chains, 2, 1))
    w = EXACT.mean + np.moveaxis(normal, 1, 2) / np.sqrt(1 + stuck**2) @ np.linalg.cholesky(EXACT.cov).T
    return -0.5 * np.log(2 * np.pi) - 0.5 * np.square(Y - w @ X.T)


def folded(terms):
    draws = terms.shape[1]
    return Folded(logsumexp(terms, axis=1) - np.log(draws), terms.mean(1), terms.var(1))


def measured(terms):
    """The numbers of one run, and their exact values."""
    pseudo = criteria.pseudo_values(folded(terms))
    found = criteria.training_loss(pseudo), criteria.functional_variance(pseudo), criteria.waic(pseudo)
    return [one.estimate for one in found], [EXACT.training_loss, EXACT.functional_variance, EXACT.waic]


def test_criteria_of_the_exact_posterior():
    terms = drawn(np.random.default_rng(0), 32, 20_000, 0.3)
    found, exact = measured(terms)
    for estimate, value, bound in zip(found, exact, (5e-4, 0.01, 1e-3), strict=True):
        assert_close(estimate, value, bound, sigmas=3)
    loo = criteria.loo(terms[:, ::50])
    assert_close(loo.estimate, EXACT.loo, 0.005, sigmas=3)
    assert (loo.pareto_k < 0.7).all()


@pytest.mark.parametrize(
    "chains,draws,rho,stuck",
    [
        (4, 200, 0.0, 0.0),
        (32, 50, 0.5, 1.0),
        pytest.param(32, 50, 0.5, 0.0, marks=pytest.mark.statistics),
        pytest.param(16, 400, 0.95, 0.0, marks=pytest.mark.statistics),
    ],
)
def test_errors_cover(chains, draws, rho, stuck):
    """Also where draws are few, and where the chains stand at places of their own and only together are right."""
    rng = np.random.default_rng([1, chains])
    runs = [measured(drawn(rng, chains, draws, rho, stuck)) for _ in range(250)]
    exact = runs[0][1]
    for i, name in enumerate(("T_n", "V_n", "WAIC")):
        estimate = Estimate(*(np.array([getattr(run[0][i], part) for run in runs]) for part in ("value", "stderr")))
        assert_coverage(estimate, exact[i], least=0.91, most=0.99, far=0.02, what=name)


def test_chains_that_predict_differently_are_seen():
    rng = np.random.default_rng(11)
    assert criteria.chains_disagree(folded(drawn(rng, 16, 500, 0.5))) < 1.01
    assert criteria.chains_disagree(folded(drawn(rng, 16, 500, 0.5, stuck=0.5))) > 1.1
    still = np.ones((4, 6))
    assert criteria.chains_disagree(Folded(still, still, 0 * still)) == 1
    assert criteria.chains_disagree(Folded(still, still * np.arange(4)[:, None], 0 * still)) == np.inf


def test_few_draws_leave_no_bias_of_first_order():
    """log E[p] and variances of few draws are biased by a share 1/draws; the jackknife takes that out."""
    rng = np.random.default_rng(2)
    runs = [drawn(rng, 8, 4) for _ in range(3000)]
    pseudo = [criteria.pseudo_values(folded(terms)) for terms in runs]
    training = np.array([-one.log_predictive.mean() for one in pseudo])
    plain_training = np.array([np.log(32) - logsumexp(terms, axis=(0, 1)).mean() for terms in runs])
    variance = np.array([one.variance.mean(0).sum() for one in pseudo])
    plain_variance = np.array([terms.var((0, 1)).sum() for terms in runs])
    for corrected, plain, exact in (
        (training, plain_training, EXACT.training_loss),
        (variance, plain_variance, EXACT.functional_variance),
    ):
        error = corrected.std() / np.sqrt(len(corrected))
        assert abs(corrected.mean() - exact) < 3 * error
        assert abs(plain.mean() - exact) > 5 * error, "the case is too easy"


def test_pseudo_values_are_the_jackknife():
    terms = drawn(np.random.default_rng(3), 5, 30) * 40  # some chains dominate a sample by many nats
    whole, parts = folded(terms), [folded(np.delete(terms, c, axis=0)) for c in range(5)]

    def pooled(one):
        variance = one.variance.mean(0) + one.mean.var(0)
        return np.array([logsumexp(one.log_mean, axis=0) - np.log(len(one.mean)), one.mean.mean(0), variance])

    expected = np.array([5 * pooled(whole) - 4 * pooled(part) for part in parts])
    found = criteria.pseudo_values(whole)
    np.testing.assert_allclose(np.stack(found, axis=1), expected, rtol=1e-9, atol=1e-9)


def test_data_errors_are_those_of_a_sum():
    pseudo = criteria.pseudo_values(folded(drawn(np.random.default_rng(4), 8, 500)))
    waic, variance = criteria.waic(pseudo), criteria.functional_variance(pseudo)
    assert waic.data_stderr == pytest.approx((6 * waic.pointwise).std(ddof=1) / np.sqrt(6))
    assert variance.data_stderr == pytest.approx(variance.pointwise.std(ddof=1) * np.sqrt(6))
    assert waic.pointwise.sum() == pytest.approx(float(waic.estimate.value))


def test_loo_is_that_of_arviz():
    from arviz_stats.base.array import array_stats

    terms = drawn(np.random.default_rng(5), 4, 500)
    loo = criteria.loo(terms)
    elpd, k, _ = array_stats.loo(np.moveaxis(terms, 2, 0), chain_axis=-2, draw_axis=-1)
    np.testing.assert_allclose(loo.pointwise, -elpd, rtol=1e-10)
    np.testing.assert_allclose(loo.pareto_k, k, rtol=1e-10)


@pytest.mark.parametrize("chains,draws,rho", [pytest.param(4, 500, 0.0, marks=pytest.mark.statistics), (16, 60, 0.7)])
def test_errors_of_loo_cover(chains, draws, rho):
    rng = np.random.default_rng([6, chains])
    runs = [criteria.loo(drawn(rng, chains, draws, rho)).estimate for _ in range(200)]
    estimate = Estimate(*(np.array([getattr(run, part) for run in runs]) for part in ("value", "stderr")))
    assert_coverage(estimate, EXACT.loo, least=0.88, most=0.99, far=0.02, what="LOO")


def test_loo_of_samples_whose_terms_have_atoms():
    """A sample that no parameter moves; one whose tail is an atom; one with an atom at the tail's edge."""
    terms = drawn(np.random.default_rng(7), 4, 250)
    plain = criteria.loo(terms)
    terms[:, :, 0] = -1.3
    low, edge = terms[:, :, 1], terms[:, :, 2]
    low[:] = np.maximum(low, np.median(low))
    order = np.sort(edge, axis=None)
    edge[(edge > order[60]) & (edge < order[160])] = order[60]  # the tail has 94
    loo = criteria.loo(terms)
    assert loo.pointwise[0] == pytest.approx(1.3)
    assert (loo.pareto_k[:2] == -np.inf).all()
    assert np.isfinite(loo.pareto_k[2:]).all()
    assert abs(loo.pointwise[2] - plain.pointwise[2]) < 0.05
    assert np.isfinite(loo.estimate.stderr)


def test_beta_other_than_one_is_refused_unless_forced():
    terms = drawn(np.random.default_rng(8), 4, 100)
    pseudo = criteria.pseudo_values(folded(terms))
    with pytest.raises(InputError, match=r"beta = 0.5: WAIC"):
        criteria.waic(pseudo, 0.5)
    with pytest.raises(InputError, match=r"beta = 0.5: LOO"):
        criteria.loo(terms, beta=0.5)
    plain, forced = criteria.waic(pseudo), criteria.waic(pseudo, 0.5, force=True)
    variance = criteria.functional_variance(pseudo).estimate.value
    assert plain.estimate.value - forced.estimate.value == pytest.approx(0.5 * variance / 6)
    assert criteria.loo(terms, beta=0.5, force=True).estimate.value == criteria.loo(terms).estimate.value


@pytest.mark.parametrize("chains,spoil", [(1, 0.0), (4, np.nan)])
def test_folds_that_cannot_be_used(chains, spoil):
    found = folded(drawn(np.random.default_rng(9), chains, 50))
    found.mean[0, 0] += spoil
    with pytest.raises(InputError, match="folded"):
        criteria.pseudo_values(found)


def test_equations_of_state_from_their_terms():
    """Errors with the covariance that theory says cancels: each data set's own noise moves G and T apart."""
    rng = np.random.default_rng(10)
    n, sets, nu, lam = 100, 4000, 0.3, 0.5
    noise, variance = rng.standard_normal((2, sets))
    variance = 2 * nu * (1 + 0.1 * variance)
    bayes = np.stack([lam + noise, lam - 2 * nu - noise], axis=1) / n
    gibbs = np.stack([lam + nu + noise, lam - nu - noise], axis=1) / n
    found = criteria.equations_of_state(bayes, gibbs, variance, n)
    assert_close(found.bayes_gap, 2 * nu / n, 4e-4)
    assert_close(found.fluctuation, 2 * nu / n, 1e-4)
    assert_close(found.scaled_error, lam, 0.02)
    assert_close(found.scaled_training_error, lam - 2 * nu, 0.02)
    assert_close(found.singular_fluctuation, nu, 0.001)
    assert max(abs(found.bayes_z), abs(found.gibbs_z)) < 3
    wrong = criteria.equations_of_state(bayes, gibbs, variance + 0.5, n)
    assert wrong.bayes_z < -8
    with pytest.raises(InputError, match="replicates"):
        criteria.equations_of_state(bayes[:1], gibbs[:1], variance[:1], n)
