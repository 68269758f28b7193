"""The exact targets themselves: each against a second route or against science.md's tables."""

import numpy as np
import pytest
import truth


@pytest.mark.parametrize(
    "target",
    [
        truth.gaussian_location([[0.3], [1.1], [-0.4]], beta=0.7, noise=0.5, gamma=2.0, centre=0.2),
        truth.gaussian_location([[0.3, 1.0], [1.1, -1.0]], prior_scale=2.0, prior_mean=0.5),
        truth.linear_regression(truth.REGRESSION_X, truth.REGRESSION_Y, beta=0.5, gamma=1.0, centre=(0.0, 1.0)),
        truth.stiff(2, nbeta=3.0, prior_scale=1.5),
    ],
)
def test_gaussian_closed_forms_against_quadrature(target):
    d = len(target.optimum)

    def loss(w):
        offset = w - target.optimum
        return target.least + np.einsum("...i,ij,...j->...", offset, target.hessian, offset) / 2

    def prior(w):
        offset = w - target.prior_mean
        log = -np.einsum("...i,ij,...j->...", offset, target.prior_precision, offset) / 2
        log = log + np.linalg.slogdet(target.prior_precision)[1] / 2 - d / 2 * np.log(2 * np.pi)
        return log - target.gamma / 2 * np.sum((w - target.centre) ** 2, axis=-1)

    reach = 9 * np.sqrt(np.diag(target.cov))
    edges = [np.linspace(m - r, m + r, 41) for m, r in zip(target.mean, reach, strict=True)]
    found = truth.quadrature(loss, prior, edges, target.nbeta)
    np.testing.assert_allclose(found.mean, target.mean, atol=1e-9)
    np.testing.assert_allclose(found.cov, target.cov, rtol=1e-8, atol=1e-11)
    assert target.nbeta * (found.energy - target.least) == pytest.approx(target.llc(), rel=1e-8)
    assert target.nbeta**2 * found.energy_variance == pytest.approx(target.heat_capacity, rel=1e-8)
    assert found.free_energy == pytest.approx(target.free_energy, rel=1e-10)
    shift = loss(np.zeros(d)) - target.least
    assert target.llc(np.zeros(d)) == pytest.approx(target.llc() - target.nbeta * shift, rel=1e-10)


def test_stiff_is_stiff_and_correlated():
    target = truth.stiff(4, 100.0)
    assert np.linalg.cond(target.cov) == pytest.approx(100, rel=1e-9)
    correlation = target.cov / np.sqrt(np.outer(np.diag(target.cov), np.diag(target.cov)))
    assert np.abs(correlation[np.triu_indices(4, 1)]).max() > 0.5
    assert target.llc() == pytest.approx(2.0)
    draws = target.draws(np.random.default_rng(1), (200_000,))
    np.testing.assert_allclose(draws.mean(0), target.mean, atol=4 / np.sqrt(200_000))
    np.testing.assert_allclose(np.cov(draws.T), target.cov, atol=4 * np.sqrt(2 / 200_000))


def test_regression_has_the_numbers_of_the_notes():
    found = truth.regression_criteria(truth.REGRESSION_X, truth.REGRESSION_Y, (0.0, 1.0))
    assert found.keys() == truth.REGRESSION.keys()
    for name, exact in truth.REGRESSION.items():
        np.testing.assert_allclose(found[name], exact, atol=6e-9, err_msg=name)


@pytest.mark.parametrize("t", truth.TWO_BASINS)
def test_two_basins_has_the_numbers_of_the_notes(t):
    u, v, mass = truth.two_basins(float(t))
    np.testing.assert_allclose([u.free_energy, v.free_energy, mass], truth.TWO_BASINS[t], atol=1e-9)


CHAINS = {
    (2, 0.0): [(0.900633, 0.290274), (1.649844, 0.354204), (2.510647, 0.390273), (3.436555, 0.412337)],
    (2, 0.1): [(0.942014, 0.323729), (1.892128, 0.515270), (3.128261, 0.512475), (4.289803, 0.501055)],
    (2, 1.0): [(2.524175, 0.569681), (3.733910, 0.506135), (4.890699, 0.500608), (6.042539, 0.500061)],
    (3, 0.0): [(0.597943, 0.195569), (1.125575, 0.259502), (1.779141, 0.305554), (2.522606, 0.338419)],
    (3, 0.1): [(0.658246, 0.248834), (1.541119, 0.565176), (2.925157, 0.529485), (4.100152, 0.502400)],
    (3, 1.0): [(2.932777, 0.607912), (4.169118, 0.508519), (5.328015, 0.500838), (6.480062, 0.500084)],
}
"""science.md B4 at t = 10, 100, 1000, 10000: (F, lam)."""


@pytest.mark.parametrize("depth,s", CHAINS)
def test_scalar_chains_have_the_numbers_of_the_notes(depth, s):
    found = [truth.scalar_chain(t, depth, s) for t in (10.0, 100.0, 1000.0, 10000.0)]
    np.testing.assert_allclose(found, CHAINS[depth, s], atol=1.1e-6)


def test_quadrature_in_three_dimensions():
    edges = [np.linspace(-7, 7, 15)] * 3
    found = truth.quadrature(lambda w: np.sum(w**2, axis=-1), truth.normal_log_prior, edges, 2.0, order=8)
    np.testing.assert_allclose([found.free_energy, 2 * found.energy], truth.sum_of_squares(2.0, 3), rtol=1e-9)
    np.testing.assert_allclose(found.cov, np.eye(3) / 5, atol=1e-9)


def test_quantiles_invert_the_distribution():
    uniform = (np.arange(100_000) + 0.5) / 100_000
    w = truth.quantiles(truth.two_basins_potential, -2.0, 2.0, 300.0, uniform)
    u, v, mass = truth.two_basins(300.0)
    assert np.mean(w > truth.TWO_BASINS_BOUNDARY) == pytest.approx(mass, abs=2e-5)
    energy = (1 - mass) * u.energy + mass * v.energy
    assert np.mean(truth.two_basins_potential(w[:, None])) == pytest.approx(energy, rel=1e-4)
