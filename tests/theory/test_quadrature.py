"""Adaptive quadrature against closed forms to 1e-8 up to t = 1e6, its own errors, regions, and peaks hard to find."""

import numpy as np
import pytest
import truth
from scipy import special

from slt.theory import exact, newton
from slt.theory.quadrature import normal_log_prior, quadrature
from slt.typing import InputError

TOLERANCE = 1e-8


def close(found, free_energy, lam=None):
    assert abs(found.free_energy - free_energy) < TOLERANCE
    assert abs(found.free_energy - free_energy) <= max(found.error, 1e-12)
    assert found.error < 1e-6
    if lam is not None:
        assert abs(found.lam - lam) < TOLERANCE * max(1, abs(lam))
        assert abs(found.lam - lam) <= max(found.lam_error, 1e-11 * max(1, abs(lam)))


def two_basins(w):
    return np.minimum(0.01 + (w[..., 0] + 1) ** 4, 20 * (w[..., 0] - 1) ** 2)


@pytest.mark.parametrize("t", [0.0, 1.0, 300.0, 1e4, 1e6])
def test_two_basins_and_their_regions(t):
    found = quadrature(two_basins, t, [(-2, 2)], region=lambda w: w[..., 0] > exact.TWO_BASINS_BOUNDARY)
    known = exact.two_basins(t)
    close(found, known.free_energy, known.lam)
    regions = [known.free_energy_u, known.free_energy_v]
    np.testing.assert_allclose(found.region_free_energy, regions, rtol=1e-11, atol=1e-10)
    assert np.exp(found.free_energy - found.region_free_energy[1]) == pytest.approx(known.mass_v, abs=1e-10)


def test_two_basins_over_many_t():
    t = np.array([[1.0, 294.138961658], [1e3, 1e5]])
    found = quadrature(two_basins, t, [(-2, 2)])
    known = exact.two_basins(t)
    np.testing.assert_allclose(found.free_energy, known.free_energy, atol=1e-9)
    np.testing.assert_allclose(found.lam, known.lam, atol=1e-8)
    assert found.free_energy.shape == found.evaluations.shape == t.shape
    assert found.region_lam.shape == (2, 2, 1)
    # C = lam - dlam/dlog t
    h = 1e-4
    ends = [quadrature(two_basins, 400 * np.exp(sign * h), [(-2, 2)]).lam for sign in (1, -1)]
    middle = quadrature(two_basins, 400.0, [(-2, 2)])
    assert middle.heat_capacity == pytest.approx(float(middle.lam - (ends[0] - ends[1]) / (2 * h)), rel=1e-6)


@pytest.mark.parametrize("t", [10.0, 1e3, 1e6])
def test_science_b1(t):
    close(quadrature(lambda w: w[..., 0] ** 4, t, [(-1, 1)]), *exact.monomial(t, 2))
    close(quadrature(lambda w: w[..., 0] ** 6, t, [(-1, 1)]), *exact.monomial(t, 3))
    close(quadrature(lambda w: np.prod(w, axis=-1) ** 2, t, [(0, 1)] * 2), *exact.normal_crossing(t, 2))
    gauss = quadrature(lambda w: np.prod(w, axis=-1) ** 2, t, [(-9, 9)] * 2, log_prior=normal_log_prior)
    close(gauss, -np.log(special.k0e(1 / (8 * t)) / np.sqrt(4 * np.pi * t)))
    known = {10.0: (0.30223326, 0.155215), 1e3: (1.22301151, 0.226197)}
    found = quadrature(lambda w: (w[..., 0] ** 2 * w[..., 1]) ** 2, t, [(0, 1)] * 2)
    if t in known:
        assert found.free_energy == pytest.approx(known[t][0], abs=6e-9)
        assert found.lam == pytest.approx(known[t][1], abs=6e-7)


@pytest.mark.parametrize("t", [10.0, 1e6])
def test_oblique_and_curved_valleys(t):
    """Rotations and shears change nothing that is known in other coordinates."""
    oblique = quadrature(lambda w: np.sum(w, axis=-1) ** 2, t, [(-9, 9)] * 2, log_prior=normal_log_prior)
    close(oblique, np.log1p(4 * t) / 2, 2 * t / (1 + 4 * t))
    # (y - x^2)^2 with y uniform on [-3, 3]: the inner integral over y does not see its ends.
    curved = quadrature(lambda w: (w[..., 1] - w[..., 0] ** 2) ** 2, t, [(-1, 1), (-3, 3)])
    inner = special.erf(np.sqrt(t) * 3)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    z = np.sum(weights * (special.erf(np.sqrt(t) * (3 - nodes**2)) + special.erf(np.sqrt(t) * (3 + nodes**2)))) / 4
    assert inner == 1
    close(curved, -np.log(z * np.sqrt(np.pi / t) / 6), 0.5)
    # The circle: in polar coordinates int r exp(-t (r^2 - 1/2)^2) dr has u = r^2; cut by nothing inside [-1.5, 1.5]^2.
    circle = quadrature(lambda w: (np.sum(w**2, axis=-1) - 0.5) ** 2, 1e4 + t, [(-1.5, 1.5)] * 2)
    assert circle.free_energy == pytest.approx(-np.log(np.pi * np.sqrt(np.pi / (1e4 + t)) / 9), abs=TOLERANCE)


def test_three_dimensions():
    product = quadrature(lambda w: np.prod(w, axis=-1) ** 2, 1e4, [(0, 1)] * 3)
    close(product, *exact.normal_crossing(1e4, 3))
    assert product.free_energy == pytest.approx(1.93947825, abs=6e-9)
    squares = quadrature(lambda w: np.sum(w**2, axis=-1), 30.0, [(-7, 7)] * 3, log_prior=normal_log_prior, rtol=1e-4)
    np.testing.assert_allclose([squares.free_energy, squares.lam], exact.gaussian_squares(30.0, 3), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("t", [10.0, 1e6])
def test_three_dimensions_up_to_1e6(t):
    close(quadrature(lambda w: np.prod(w, axis=-1) ** 2, t, [(0, 1)] * 3), *exact.normal_crossing(t, 3))
    squares = quadrature(lambda w: np.sum(w**2, axis=-1), t, [(-9, 9)] * 3, log_prior=normal_log_prior)
    close(squares, *exact.gaussian_squares(t, 3))
    oblique = quadrature(lambda w: np.sum(w, axis=-1) ** 2, t, [(-9, 9)] * 3, log_prior=normal_log_prior)
    close(oblique, np.log1p(6 * t) / 2, 3 * t / (1 + 6 * t))


def test_narrow_deep_basins_are_found():
    """At t = 1e6 the deep basin is 3e-5 of the box wide; its slopes are seen by the first mesh."""

    def potential(w):
        offset = w - np.array([0.3711, -0.613])
        return np.minimum(1e3 * np.sum(offset**2, axis=-1), 0.01 + np.sum(w**2, axis=-1))

    found = quadrature(potential, 1e6, [(-1, 1)] * 2)
    close(found, -np.log(np.pi / 1e9 / 4), 1.0)


def test_basins_under_the_mesh_need_breaks():
    def potential(w):
        return np.minimum(1e15 * (w[..., 0] - 0.2468) ** 2, 0.5 + w[..., 0] ** 2)

    known = -np.log(np.sqrt(np.pi / 1e17) / 2)
    assert quadrature(potential, 100.0, [(-1, 1)], panels=8).free_energy > known + 10  # not seen
    seen = quadrature(potential, 100.0, [(-1, 1)], panels=8, breaks=[[0.2468]])
    assert (seen.free_energy, seen.lam) == pytest.approx((known, 0.5), abs=TOLERANCE)  # w itself is rounded here


def test_regions_that_cut_obliquely():
    disc = quadrature(
        lambda w: np.zeros(w.shape[:-1]), 0.0, [(-1, 1)] * 2, rtol=1e-5, region=lambda w: np.sum(w**2, -1) < 1
    )
    assert np.exp(-disc.region_free_energy[1]) == pytest.approx(np.pi / 4, abs=1e-7)
    # w_0 + w_1 > 1 of a Gaussian is a matter of one dimension; its mass e^-22 is nothing beside the other's.
    t = 10.0
    found = quadrature(
        lambda w: np.sum(w**2, axis=-1),
        t,
        [(-7, 7)] * 2,
        log_prior=normal_log_prior,
        region=lambda w: np.where(np.sum(w, axis=-1) > 2, 2, 0),
        regions=3,
        rtol=1e-7,
    )
    cut = np.log1p(2 * t) - special.log_ndtr(-2 * np.sqrt((1 + 2 * t) / 2))
    assert found.region_free_energy[2] == pytest.approx(cut, abs=1e-8)
    assert found.region_free_energy[1] == np.inf
    assert np.isnan(found.region_lam[1])
    close(found, *exact.gaussian_squares(t, 2))


def test_localised_posteriors_and_saddles():
    """(w1 w2 - 1)^2 at the saddle 0 with gamma = 1: the 'LLC' -99.5 of the notes is the chain's lam less t."""
    t = 100.0
    found = quadrature(lambda w: (np.prod(w, axis=-1) - 1) ** 2, t, [(-9, 9)] * 2, log_prior=normal_log_prior)
    assert (found.free_energy, found.lam) == pytest.approx(truth.scalar_chain(t, 2, 1.0), abs=1e-8)
    assert found.lam - t == pytest.approx(-99.5, abs=0.01)


def test_slopes_agree_with_newton_polyhedra():
    """lambda and m of singular points, from F at large t by quadrature."""
    f, k = "x^2*y - y^3 + x^5", lambda x, y: x**2 * y - y**3 + x**5
    found = quadrature(lambda w: k(w[..., 0], w[..., 1]) ** 2, [1e12, 1e15], [(-0.5, 0.5)] * 2, rtol=1e-3)
    known = newton.square(f)
    assert known.m == 1
    assert np.diff(found.free_energy) / np.log(1e3) == pytest.approx(known.lam, abs=0.01)


def test_infinite_potentials_are_outside():
    half = quadrature(lambda w: np.where(w[..., 0] > 0.3, w[..., 0] ** 2, np.inf), 2.0, [(-1, 1)])
    known = np.sqrt(np.pi / 2) / 2 * (special.erf(np.sqrt(2)) - special.erf(0.3 * np.sqrt(2))) / 2
    assert half.free_energy == pytest.approx(-np.log(known), abs=1e-8)


@pytest.mark.parametrize(
    "call",
    [
        lambda k: quadrature(k, 1.0, []),
        lambda k: quadrature(k, 1.0, [(0, 1)] * 4),
        lambda k: quadrature(k, 1.0, [(1, 1)]),
        lambda k: quadrature(k, 1.0, [(0, np.inf)]),
        lambda k: quadrature(k, -1.0, [(0, 1)]),
        lambda k: quadrature(k, np.nan, [(0, 1)]),
        lambda k: quadrature(k, 1.0, [(0, 1)], rtol=0.0),
        lambda k: quadrature(k, 1.0, [(0, 1)], panels=0),
        lambda k: quadrature(k, 1.0, [(0, 1)], breaks=[[0.5], [0.5]]),
        lambda k: quadrature(k, 1.0, [(0, 1)], region=lambda w: np.full(len(w), 2)),
        lambda k: quadrature(lambda w: np.full(len(w), np.nan), 1.0, [(0, 1)]),
        lambda k: quadrature(lambda w: np.zeros(3), 1.0, [(0, 1)]),
        lambda k: quadrature(lambda w: np.full(len(w), np.inf), 1.0, [(0, 1)]),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call(lambda w: np.sum(w**2, axis=-1))
