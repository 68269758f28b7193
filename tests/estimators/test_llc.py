import numpy as np
import pytest
from stats import assert_close, assert_coverage, autoregressive

from slt.estimators.llc import heat_capacity, llc, llc_by_phase
from slt.typing import InputError


def gamma_losses(rng, lam, nbeta, shape, rho=0.0):
    """K with t K ~ Gamma(lam, 1), the law of a posterior with K ~ sum of 2 lam squares: t <K> = t^2 Var K = lam."""
    squares = sum(autoregressive(rng, rho, shape) ** 2 for _ in range(round(2 * lam)))
    return squares / 2 / nbeta


def test_llc_and_heat_capacity_of_a_regular_model():
    rng = np.random.default_rng(1)
    nbeta = np.array([10.0, 1000.0])
    delta = gamma_losses(rng, 1.5, nbeta[:, None, None], (2, 16, 4000), rho=0.8)
    assert_close(llc(delta, nbeta), 1.5, 0.02)
    assert_close(heat_capacity(delta, nbeta), 1.5, 0.04)


@pytest.mark.parametrize("chains,rho", [(1, 0.5), (4, 0.0), (4, 0.9), (16, 0.9)])
def test_errors_cover(chains, rho):
    rng = np.random.default_rng([2, chains])
    delta = gamma_losses(rng, 1.5, 50.0, (400, chains, 2400 // chains), rho)
    assert_coverage(llc(delta, 50.0), 1.5, least=0.92, most=0.995, what="llc")
    assert_coverage(heat_capacity(delta, 50.0), 1.5, least=0.88, most=0.995, far=0.02, what="heat capacity")


def test_baseline_noise_counts():
    """w_ref is not w*: the baseline is measured with an error as large as the draws'."""
    rng = np.random.default_rng(3)
    nbeta, offset, noise = 50.0, 0.3, 0.0007
    delta = gamma_losses(rng, 1.5, nbeta, (400, 4, 500)) + offset
    measured = offset + noise * rng.standard_normal(400)
    assert_coverage(llc(delta, nbeta, measured, noise), 1.5, least=0.93, most=0.99)
    blind = llc(delta, nbeta, measured)
    assert np.median(llc(delta, nbeta, measured, noise).stderr) > 1.3 * np.median(blind.stderr)


def test_by_phase_uses_its_draws_and_its_baseline():
    rng = np.random.default_rng(4)
    t = np.array([20.0, 200.0])
    labels = np.repeat(rng.integers(0, 3, (2, 8, 40)), 50, axis=-1) - 1  # -1, 0 or 1, in visits of 50 draws
    parts = [gamma_losses(rng, lam, t[:, None, None], labels.shape, 0.5) + shift for lam, shift in [(0.5, 1), (2, 3)]]
    delta = np.where(labels == 0, parts[0], np.where(labels == 1, parts[1], 99.0))
    found = llc_by_phase(delta, labels, 3, t, baseline=[1.0, 3.0, 0.0], baseline_stderr=[0.0, 1e-4, 0.0])
    assert found.value.shape == (2, 3)
    assert_close(type(found)(found.value[:, :2], found.stderr[:, :2]), [0.5, 2.0], 0.1)
    assert np.isnan(found.value[:, 2]).all()
    np.testing.assert_allclose(found.value[1, 0], 200 * (delta[1][labels[1] == 0].mean() - 1))
    alone = llc(delta[1], 200.0, 1.0, keep=labels[1] == 0)
    np.testing.assert_allclose([alone.value, alone.stderr], [found.value[1, 0], found.stderr[1, 0]])


def test_by_phase_covers_when_chains_are_trapped():
    rng = np.random.default_rng(5)
    labels = np.broadcast_to(np.repeat([0, 1], [6, 2])[:, None], (400, 8, 300))
    delta = np.where(labels == 0, gamma_losses(rng, 1.0, 10.0, labels.shape, 0.8), 5.0)
    found = llc_by_phase(delta, labels, 1, 10.0)
    assert_coverage(type(found)(found.value[:, 0], found.stderr[:, 0]), 1.0, least=0.92, most=0.99)


def test_heat_capacity_sees_both_phases():
    """Two levels of loss 0 and 1 of equal mass, moved between at every draw: Var K = 1/4."""
    rng = np.random.default_rng(6)
    level = rng.integers(0, 2, (8, 5000)).astype(np.float64)
    assert_close(heat_capacity(level, 3.0), 9 / 4, 0.05)  # an indicator's square about its mean is all but constant
    assert heat_capacity(level, 3.0, keep=level == 1).value == 0.0


def test_broken_chains_and_bad_numbers():
    rng = np.random.default_rng(7)
    delta = gamma_losses(rng, 1.0, 10.0, (3, 4, 100))
    delta[0, 1, 5:] = np.nan
    ok = np.ones((3, 4), bool)
    ok[0, 1] = False
    with pytest.raises(InputError):
        llc(delta, 10.0)
    labels = np.zeros(delta.shape, int)
    assert np.isfinite(llc(delta, 10.0, ok=ok).value).all()
    assert np.isfinite(llc_by_phase(delta, labels, 1, 10.0, ok=ok).stderr).all()
    assert np.isfinite(heat_capacity(delta, 10.0, ok=ok).value).all()
    for field, call in {
        "nbeta": lambda: llc(delta, -1.0, ok=ok),
        "baseline": lambda: llc(delta, 1.0, np.nan, ok=ok),
        "baseline_stderr": lambda: llc(delta, 1.0, 0.0, -1.0, ok=ok),
        "labels": lambda: llc_by_phase(delta, labels[0], 1, 10.0, ok=ok),
        "delta": lambda: llc_by_phase(delta, labels, 1, 10.0),
    }.items():
        with pytest.raises(InputError) as error:
            call()
        assert error.value.field == field
    with pytest.raises(InputError, match="broadcast"):
        llc(delta, np.ones(2), ok=ok)
