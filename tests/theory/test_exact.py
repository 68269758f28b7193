import numpy as np
import pytest
import truth
from scipy import special

from slt.theory import asymptotics, elementary, exact
from slt.theory.quadrature import quadrature
from slt.typing import InputError

T = np.array([10.0, 100.0, 1000.0, 10000.0])
NOTES = {
    "squares": (
        lambda t: exact.gaussian_squares(t, 4),
        [(6.08904488, 1.904762), (10.60660982, 1.990050), (15.20280467, 1.999000), (19.80707510, 1.999900)],
    ),
    "x^4": (
        lambda t: exact.monomial(t, 2),
        [(0.67392019, 0.249978), (1.24956438, 0.25), (1.82521066, 0.25), (2.40085693, 0.25)],
    ),
    "x^6": (
        lambda t: exact.monomial(t, 3),
        [(0.45879133, 0.166655), (0.84255440, 0.166667), (1.22631858, 0.166667), (1.61008276, 0.166667)],
    ),
    "(xy)^2": (
        lambda t: exact.normal_crossing(t, 2),
        [(0.51452289, 0.265595), (1.23420158, 0.347762), (2.08498962, 0.387277), (3.00552334, 0.410505)],
    ),
    "(x^2 y)^2": (
        lambda t: exact.crossing(t, [2, 1]),
        [(0.30223326, 0.155215), (0.72435601, 0.204284), (1.22301151, 0.226197), (1.75783221, 0.237150)],
    ),
    "(xyz)^2": (
        lambda t: exact.normal_crossing(t, 3),
        [(0.21019695, 0.131190), (0.62989346, 0.226774), (1.22764949, 0.287855), (1.93947825, 0.327816)],
    ),
}
"""science.md B1 at t = 10, 100, 1000, 10000: (F, lam)."""


@pytest.mark.parametrize("name", NOTES)
def test_tables_of_the_notes(name):
    curve, table = NOTES[name]
    found = curve(T)
    np.testing.assert_allclose(found.free_energy, [f for f, _ in table], atol=6e-9)
    np.testing.assert_allclose(found.lam, [lam for _, lam in table], atol=6e-7)


@pytest.mark.parametrize("t", [0.0, 1e-9, 0.3, 0.999, 1.001, 37.0, 1e5])
def test_against_quadrature(t):
    for k in (1, 2, 5):
        found = exact.monomial(t, k)
        np.testing.assert_allclose(
            (found.free_energy, found.lam), truth.monomial(t, k), rtol=1e-8, atol=1e-14, err_msg=f"x^{2 * k}"
        )
    found, reference = exact.normal_crossing(t, 2), truth.normal_crossing(t, 2)  # d = 3: test_quadrature.py
    np.testing.assert_allclose((found.free_energy, found.lam), reference, rtol=2e-5, atol=1e-13)
    found = exact.gaussian_squares(t, 3)
    np.testing.assert_allclose((found.free_energy, found.lam), truth.sum_of_squares(t, 3), rtol=1e-12, atol=3e-16)


def test_gaussian_squares_of_another_width():
    target = truth.gaussian(2 * np.eye(2), np.zeros(2), 7.0, prior_scale=0.3)
    found = exact.gaussian_squares(7.0, 2, 0.3)
    assert found.free_energy == pytest.approx(target.free_energy, rel=1e-12)
    assert found.lam == pytest.approx(target.llc(), rel=1e-12)


def test_normal_crossing_against_one_factor_integrated_exactly():
    """Z_2(t) = int_0^1 sqrt(pi/(4 t x^2)) erf(sqrt(t) x) dx, and its asymptotic form at large t."""
    assert exact.normal_crossing(1e8, 2).free_energy == pytest.approx(
        -np.log(np.sqrt(np.pi) / 4e4 * (np.log(1e8) + np.euler_gamma + 2 * np.log(2))), abs=1e-8
    )
    nodes, weights = np.polynomial.legendre.leggauss(200)
    for t in (2.0, 300.0):
        x = (1 + nodes) / 2
        z = np.sum(weights / 2 * np.sqrt(np.pi) * special.erf(np.sqrt(t) * x) / (2 * np.sqrt(t) * x))
        assert exact.normal_crossing(t, 2).free_energy == pytest.approx(-np.log(z), rel=1e-12)
    one = exact.normal_crossing(T, 1)
    np.testing.assert_allclose(one.free_energy, exact.monomial(T, 1).free_energy, rtol=1e-10)


@pytest.mark.parametrize("t", [1e-6, 0.5, 30.0, 1e6])
def test_crossings_with_a_prior(t):
    """K = (x^3 y)^2 under 2x (3/2) y^(1/2), and the other way round."""

    def log_prior(w):
        return np.log(3 * w[..., 0]) + np.log(w[..., 1]) / 2

    tiny = 1e-12  # log 0 at the ends
    direct = quadrature(lambda w: (w[..., 0] ** 3 * w[..., 1]) ** 2, t, [(tiny, 1)] * 2, log_prior=log_prior, rtol=1e-8)
    found = exact.crossing(t, [3, 1], [1, 0.5])
    np.testing.assert_allclose(found, (direct.free_energy, direct.lam), atol=1e-10)
    np.testing.assert_allclose(exact.crossing(t, [1, 3], [0.5, 1]), found, rtol=1e-12)


def test_crossings_reach_their_lambda_and_m():
    t = np.array([1e60, 1e80])
    for k, h in (([2, 1], [0, 0]), ([2, 1], [1, 0]), ([1, 3, 2], [0, 0, 0.5]), ([4, 4, 4], None)):
        known = elementary.normal_crossing(k, h)
        f = exact.crossing(t, k, h).free_energy - asymptotics.free_energy(known, t)
        assert abs(f[1] - f[0]) < 0.01 * known.m**2
        np.testing.assert_allclose(exact.crossing(t, k, h).lam, asymptotics.lam(known, t), atol=2e-3)


def test_two_basins_table():
    t = np.array(list(truth.TWO_BASINS), float)
    found = exact.two_basins(t)
    table = np.array(list(truth.TWO_BASINS.values()))
    np.testing.assert_allclose(found.free_energy_u, table[:, 0], atol=6e-10)
    np.testing.assert_allclose(found.free_energy_v, table[:, 1], atol=6e-10)
    np.testing.assert_allclose(found.mass_v, table[:, 2], atol=6e-10)
    assert exact.two_basins_critical_t() == pytest.approx(truth.TWO_BASINS_CRITICAL_T, abs=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.5, 20.0, 294.0, 3000.0])
def test_two_basins_against_quadrature(t):
    u, v, mass = truth.two_basins(t)
    found = exact.two_basins(t)
    assert found.mass_v == pytest.approx(mass, rel=1e-9)
    assert found.free_energy == pytest.approx(-np.logaddexp(-u.free_energy, -v.free_energy), rel=1e-9, abs=1e-12)
    assert found.lam == pytest.approx(t * ((1 - mass) * u.energy + mass * v.energy), rel=1e-8)


@pytest.mark.parametrize(
    "curve",
    [
        lambda t: exact.gaussian_squares(t, 4),
        lambda t: exact.monomial(t, 2),
        lambda t: exact.normal_crossing(t, 3),
        exact.two_basins,
    ],
)
def test_lam_is_the_slope_of_the_free_energy(curve):
    t = np.array([[1e-3, 0.7, 0.99], [1.01, 30.0, 5000.0]])
    found = curve(t)
    assert found.free_energy.shape == found.lam.shape == t.shape
    step = 1e-4
    slope = (curve(t * (1 + step)).free_energy - curve(t * (1 - step)).free_energy) / (2 * step)
    np.testing.assert_allclose(found.lam, slope, rtol=1e-6, atol=1e-9)
    at_zero = curve(0.0)
    assert at_zero.free_energy == pytest.approx(0, abs=1e-14)
    assert at_zero.lam == 0


def test_bad_input():
    for call in (
        lambda: exact.two_basins(-1.0),
        lambda: exact.monomial(np.nan, 1),
        lambda: exact.monomial(1.0, 0),
        lambda: exact.normal_crossing(1.0, True),
        lambda: exact.crossing(1.0, []),
        lambda: exact.crossing(1.0, [1, 0]),
        lambda: exact.crossing(1.0, [1], [-1]),
        lambda: exact.crossing(1.0, [1], [0, 0]),
        lambda: exact.gaussian_squares(1.0, 2, 0.0),
    ):
        with pytest.raises(InputError):
            call()
