"""Table B3 of science.md to all digits, and the closed forms against sampling from the posterior and against refits."""

import numpy as np
import pytest
import truth
from hypothesis import given
from hypothesis import strategies as st

from slt.theory.quadrature import quadrature
from slt.theory.regression import generalisation, linear_regression, wbic
from slt.typing import InputError

X, Y = truth.REGRESSION_X, truth.REGRESSION_Y


def test_science_b3():
    found = linear_regression(X, Y)
    np.testing.assert_allclose(found.mean, (0.09423077, 1.17596154), atol=6e-9)
    table = {
        "free_energy": 11.17480948,
        "training_loss": 1.10111213,
        "functional_variance": 0.60587892,
        "singular_fluctuation": 0.30293946,
        "waic": 1.17684699,
        "gibbs_training_loss": 1.13197125,
    }
    for name, value in table.items():
        assert getattr(found, name) == pytest.approx(value, abs=6e-9), name
    assert found.n * found.least_loss == pytest.approx(8.09293684, abs=6e-9)
    assert wbic(X, Y) == pytest.approx(10.01128110, abs=6e-9)
    new = generalisation(found, X, (0.0, 1.0))
    assert new.bayes_error == pytest.approx(0.03392861, abs=6e-9)
    assert new.gibbs_error == pytest.approx(0.14225147, abs=6e-9)
    assert new.gibbs_loss - new.gibbs_error == pytest.approx((np.log(2 * np.pi) + 1) / 2)
    assert new.bayes_loss - new.bayes_error == pytest.approx((np.log(2 * np.pi) + 1) / 2)
    # (WBIC - n L(w_hat))/log n is not d/2 here.
    assert (wbic(X, Y) - 8.09293684) / np.log(8) == pytest.approx(0.9225, abs=5e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 0.4, "noise": 0.7, "prior_scale": 2.0, "gamma": 3.0, "centre": (0.2, 1.1)},
        {"beta": 5, "gamma": 1, "centre": 0.5},
        {"prior_scale": np.inf, "gamma": 2.0},
    ],
)
def test_against_draws_and_quadrature(settings):
    found = linear_regression(X, Y, **settings)
    noise, beta = settings.get("noise", 1.0), settings.get("beta", 1.0)
    rng = np.random.default_rng(3)
    draws = rng.multivariate_normal(found.mean, found.cov, 400_000)
    log = -((Y - draws @ X.T) ** 2) / (2 * noise**2) - np.log(2 * np.pi * noise**2) / 2
    loss = -log.mean(1)
    assert found.gibbs_training_loss == pytest.approx(loss.mean(), abs=5 * loss.std() / 632)
    assert found.llc == pytest.approx(8 * beta * (loss.mean() - found.least_loss), rel=0.01)
    assert found.heat_capacity == pytest.approx(64 * beta**2 * loss.var(), rel=0.02)
    assert found.training_loss == pytest.approx(-np.log(np.exp(log).mean(0)).mean(), rel=0.002)
    assert found.functional_variance == pytest.approx(log.var(0).sum(), rel=0.01)
    assert found.waic == pytest.approx(found.training_loss + beta * found.functional_variance / 8, rel=1e-14)
    scale = settings.get("prior_scale", 1.0)
    if np.isinf(scale):
        assert np.isnan(found.free_energy)
        return
    gamma, centre = settings.get("gamma", 0.0), np.broadcast_to(settings.get("centre", 0.0), 2)

    def log_prior(w):
        prior = -np.sum(w**2, axis=-1) / (2 * scale**2) - np.log(2 * np.pi * scale**2)
        return prior - gamma / 2 * np.sum((w - centre) ** 2, axis=-1)

    def potential(w):
        return np.mean((Y - w @ X.T) ** 2, axis=-1) / (2 * noise**2) + np.log(2 * np.pi * noise**2) / 2

    direct = quadrature(potential, 8.0 * beta, [(-8, 8)] * 2, log_prior=log_prior)
    assert found.free_energy == pytest.approx(float(direct.free_energy), abs=1e-8)
    assert found.llc == pytest.approx(float(direct.lam) - 8 * beta * found.least_loss, abs=1e-7)


def test_localised_llc_against_the_independent_library():
    for gamma, centre in ((1.0, (0.3, 0.9)), (10.0, 0.0)):
        mine = linear_regression(X, Y, beta=0.5, gamma=gamma, centre=centre)
        other = truth.linear_regression(X, Y, beta=0.5, gamma=gamma, centre=centre)
        assert mine.llc == pytest.approx(other.llc(), rel=1e-12)
        assert mine.free_energy == pytest.approx(other.free_energy, rel=1e-12)
        assert mine.heat_capacity == pytest.approx(other.heat_capacity, rel=1e-12)


def test_leave_one_out_by_leaving_one_out():
    settings = {"noise": 0.8, "prior_scale": 1.5, "gamma": 0.5, "centre": (0.0, 1.0)}
    losses = []
    for i in range(len(Y)):
        rest = linear_regression(np.delete(X, i, 0), np.delete(Y, i), **settings)
        mean, width = X[i] @ rest.mean, X[i] @ rest.cov @ X[i] + 0.8**2
        losses.append((np.log(2 * np.pi * width) + (Y[i] - mean) ** 2 / width) / 2)
    found = linear_regression(X, Y, **settings)
    assert found.loo == pytest.approx(np.mean(losses), rel=1e-12)
    assert linear_regression(X, Y, beta=0.5).loo is None


def test_generalisation_by_monte_carlo(rng):
    posterior = linear_regression(X, Y, noise=0.6)
    inputs = rng.standard_normal((3, 2))
    found = generalisation(posterior, inputs, (0.2, 1.0), noise=0.6)
    y = inputs @ [0.2, 1.0] + 0.6 * rng.standard_normal((200_000, 3))
    w = rng.multivariate_normal(posterior.mean, posterior.cov, 200_000)
    gibbs = np.mean((y - w @ inputs.T) ** 2) / (2 * 0.36) + np.log(2 * np.pi * 0.36) / 2
    assert found.gibbs_loss == pytest.approx(gibbs, abs=0.01)
    width = np.einsum("ni,ij,nj->n", inputs, posterior.cov, inputs) + 0.36
    bayes = np.mean((y - inputs @ posterior.mean) ** 2 / width + np.log(2 * np.pi * width)) / 2
    assert found.bayes_loss == pytest.approx(bayes, abs=0.01)


def test_equations_of_state():
    """Over data sets of the truth, n large: E[G] - E[T] = 2 nu/n, Bayes and Gibbs, and n E[G error] = d/2."""
    n, d, sets = 400, 3, 2000
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, d))
    truth_w = np.array([0.3, -0.2, 0.5])
    gaps = []
    for _ in range(sets):
        noise = rng.standard_normal(n)
        found = linear_regression(x, x @ truth_w + noise)
        new = generalisation(found, x, truth_w)
        baseline = np.mean(noise**2) / 2 + np.log(2 * np.pi) / 2  # L_n(w0)
        two_nu = 2 * found.singular_fluctuation
        bayes = n * (new.bayes_error - (found.training_loss - baseline)) - two_nu
        gibbs = n * (new.gibbs_error - (found.gibbs_training_loss - baseline)) - two_nu
        gaps.append((bayes, gibbs, n * new.bayes_error - d / 2))
    gaps = np.array(gaps)
    error = gaps.std(0) / np.sqrt(sets)
    assert (error < 0.08).all()
    assert (np.abs(gaps.mean(0)) < 4 * error + 10 * d / n).all()  # of order 1/n beside


@given(st.integers(3, 20), st.integers(1, 4), st.integers(0, 1000))
def test_invariances(n, d, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    found = linear_regression(x, y)
    order, turn = rng.permutation(n), np.linalg.qr(rng.standard_normal((d, d)))[0]
    wider = np.concatenate([x @ turn, np.zeros((n, 2))], axis=1)  # inputs that are always 0 say nothing
    other = linear_regression(wider[order], y[order])
    for name in ("free_energy", "llc", "training_loss", "functional_variance", "waic", "loo", "heat_capacity"):
        assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-9, abs=1e-10), name


@pytest.mark.parametrize(
    "call",
    [
        lambda: linear_regression(X, Y[:-1]),
        lambda: linear_regression(Y, Y),
        lambda: linear_regression(X, Y * np.nan),
        lambda: linear_regression(X, Y, beta=0),
        lambda: linear_regression(X, Y, noise=-1),
        lambda: linear_regression(X, Y, gamma=-1),
        lambda: linear_regression(X * 0, Y, prior_scale=np.inf),
        lambda: wbic(X[:2], Y[:2]),
        lambda: generalisation(linear_regression(X, Y), X, (1.0, 2.0, 3.0)),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
