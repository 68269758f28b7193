"""Tables B4 and B5 of science.md, and other routes to the same numbers."""

import numpy as np
import pytest
import truth
from scipy import special

from slt.theory import exact, factorisation
from slt.theory.factorisation import decoupled, power_law, scalar_chain
from slt.theory.quadrature import normal_log_prior, quadrature
from slt.typing import InputError

T = np.array([10.0, 100.0, 1000.0, 10000.0])
B4 = {
    (2, 0.0): [(0.900633, 0.290274), (1.649844, 0.354204), (2.510647, 0.390273), (3.436555, 0.412337)],
    (2, 0.1): [(0.942014, 0.323729), (1.892128, 0.515270), (3.128261, 0.512475), (4.289803, 0.501055)],
    (2, 1.0): [(2.524175, 0.569681), (3.733910, 0.506135), (4.890699, 0.500608), (6.042539, 0.500061)],
    (3, 0.0): [(0.597943, 0.195569), (1.125575, 0.259502), (1.779141, 0.305554), (2.522606, 0.338419)],
    (3, 0.1): [(0.658246, 0.248834), (1.541119, 0.565176), (2.925157, 0.529485), (4.100152, 0.502400)],
    (3, 1.0): [(2.932777, 0.607912), (4.169118, 0.508519), (5.328015, 0.500838), (6.480062, 0.500084)],
}


@pytest.mark.parametrize("depth,s", B4)
def test_science_b4(depth, s):
    found = scalar_chain(T, depth, s)
    np.testing.assert_allclose(np.transpose(found), B4[depth, s], atol=1.1e-6)
    np.testing.assert_allclose(np.transpose(found), [truth.scalar_chain(t, depth, s) for t in T], atol=1e-11)


def test_science_b1_gaussian_product():
    """(xy)^2: Z = exp(1/8t) K_0(1/8t)/sqrt(4 pi t)."""
    t = np.array([10.0, 1e3, 1e6, 1e12])
    found = scalar_chain(t, 2)
    np.testing.assert_allclose(
        found.free_energy, -np.log(special.k0e(1 / (8 * t)) / np.sqrt(4 * np.pi * t)), rtol=1e-11
    )
    table = [0.90063337, 1.64984427, 2.51064663, 3.43655540]
    np.testing.assert_allclose(scalar_chain(T, 2).free_energy, table, atol=6e-9)


@pytest.mark.parametrize("t", [0.5, 10.0])
def test_four_factors_by_quadrature(t):
    """One factor exactly, the other three by cubature."""

    def log_prior(w):
        a = 1 + 2 * t * np.prod(w, axis=-1) ** 2
        return normal_log_prior(w) + np.log(8) - np.log(a) / 2 - t * 0.5**2 / a  # by symmetry w > 0 is enough

    direct = quadrature(lambda w: np.zeros(len(w)), 0.0, [(0, 7)] * 3, log_prior=log_prior, rtol=1e-6, panels=3)
    assert scalar_chain(t, 4, 0.5).free_energy == pytest.approx(float(direct.free_energy), abs=1e-8)


def test_one_factor_and_signs():
    found = scalar_chain(T, 1, 0.7)
    direct = quadrature(lambda w: (w[..., 0] - 0.7) ** 2, T, [(-9, 9)], log_prior=normal_log_prior)
    np.testing.assert_allclose(found, (direct.free_energy, direct.lam), atol=1e-9)
    np.testing.assert_array_equal(scalar_chain(T, 3, -0.4), scalar_chain(T, 3, 0.4))


def test_grid_is_fine_and_wide_enough(monkeypatch):
    """Extremes of t, strength and q against half the step."""
    cases = [
        lambda: scalar_chain(1e12, 3),
        lambda: scalar_chain(1e6, 2, 200.0),
        lambda: scalar_chain(1e4, 6, 30.0),
        lambda: decoupled(1e6, [3.0, 0.0], 60),
    ]
    coarse = [case() for case in cases]
    monkeypatch.setattr(factorisation, "STEP", 0.01)
    for one, case in zip(coarse, cases, strict=True):
        np.testing.assert_allclose(one, case(), rtol=1e-11)


def test_science_b5():
    t = np.array([1, 10, 30, 100, 300, 1000, 1e4, 1e6])
    found = power_law(t, 64, 0.4)
    table = [91.35691, 214.32001, 341.33867, 588.19456, 883.06915, 1196.87395, 1788.02836, 2967.12869]
    np.testing.assert_allclose(found.free_energy, table, atol=6e-6)
    np.testing.assert_allclose(found.lam, [35.41, 84.91, 153.17, 254.20, 265.99, 257.98, 256.18, 256.00], atol=6e-3)


@pytest.mark.parametrize(
    "alpha,table",
    [
        (0.3, {10: 1415, 100: 4277, 1e5: 8002}),
        (0.4, {30: 1414, 1e3: 6866, 1e4: 8102}),
        (0.5, {100: 1459, 300: 2096, 1e4: 8401}),
    ],
)
def test_science_b5_2000_modes(alpha, table):
    np.testing.assert_allclose(power_law(list(table), 2000, alpha).lam, list(table.values()), atol=0.5)


@pytest.mark.slow
def test_science_b5_2000_modes_whole():
    t = [10, 30, 100, 300, 1e3, 1e4, 1e5]
    for alpha, table in {
        0.3: [1415, 2182, 4277, 7488, 8371, 8022, 8002],
        0.4: [1143, 1414, 2183, 3800, 6866, 8102, 8009],
        0.5: [1055, 1165, 1459, 2096, 3612, 8401, 8038],
    }.items():
        np.testing.assert_allclose(power_law(t, 2000, alpha).lam, table, atol=0.5)


@pytest.mark.parametrize("s", [1.0, 0.25, 0.1])
def test_learning_of_one_mode(s):
    """The crossover of q = 8: lam peaks at t ~ 8.5/s^2 with 4.43 to 4.47, from 1/2 to q/2."""
    t = 8.5 / s**2 * np.linspace(0.9, 1.1, 41)
    lam = decoupled(t, [s], 8).lam
    assert t[np.argmax(lam)] * s**2 == pytest.approx(8.5, abs=0.1)
    assert 4.425 < lam.max() < 4.475
    assert decoupled(1e9, [s], 8).lam == pytest.approx(4.0, abs=1e-3)
    little = decoupled(1.0, [0.01], 8).lam - decoupled(1.0, [0.0], 8).lam
    assert little == pytest.approx(float(1e-4 * 7 / 8), rel=0.15)


def test_modes_add_up_and_lam_is_the_slope():
    one = [np.array(decoupled(T, [s], 3)) for s in (0.3, 1.0)]
    np.testing.assert_allclose(np.array(decoupled(T, [0.3, 1.0], 3)), sum(one), rtol=1e-13)
    np.testing.assert_allclose(decoupled(T, [0.3], 1), scalar_chain(T, 2, 0.3), rtol=1e-13)
    step = 1e-5
    for curve in (lambda t: scalar_chain(t, 4, 0.3), lambda t: power_law(t, 5, 0.5, 3)):
        slope = (curve(T * np.exp(step)).free_energy - curve(T * np.exp(-step)).free_energy) / (2 * step)
        np.testing.assert_allclose(curve(T).lam, slope, rtol=1e-8)
        np.testing.assert_allclose(curve(0.0), 0, atol=1e-12)


def test_zero_chains_are_normal_crossings_far_out():
    """(w_1 .. w_L)^2 has the same lambda and m under the Gaussian and the uniform prior: F differs by a constant."""
    t = np.array([1e40, 1e60])
    for depth in (2, 3):
        gap = scalar_chain(t, depth).free_energy - exact.normal_crossing(t, depth).free_energy
        assert abs(gap[1] - gap[0]) < 0.03


@pytest.mark.parametrize(
    "call",
    [
        lambda: scalar_chain(-1.0, 2),
        lambda: scalar_chain(1.0, 0),
        lambda: scalar_chain(1.0, 2, np.inf),
        lambda: decoupled(1.0, [np.nan], 2),
        lambda: decoupled(1.0, [[1.0]], 2),
        lambda: decoupled(1.0, [1.0], 0),
        lambda: power_law(1.0, 0, 0.5),
        lambda: power_law(1.0, 3, -0.5),
        lambda: power_law(np.inf, 3, 0.5),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
