"""Crossings of free energies: values against the closed form, coverage of the intervals, and none that is invented."""

import numpy as np
import pytest

from slt.theory import exact
from slt.transitions import crossing
from slt.transitions.paths import paths
from slt.typing import InputError

CRITICAL = 294.138961658
GRID = np.array([10.0, 20, 50, 100, 150, 200, 250, 300, 400, 500, 700, 1000])


def curves(t):
    e = exact.two_basins(t)
    return np.asarray(e.free_energy_u), np.asarray(e.free_energy_v)


def noisy(rng, curve, x, chains, scale=(0.08, 0.03, 0.01)):
    """Replicates whose errors are as smooth along x as those of one run of SMC."""
    shape = np.stack([np.ones_like(x), np.log(x / x.mean()), (x - x.mean()) / x.mean()])
    return curve + rng.normal(size=(chains, 3)) * np.asarray(scale) @ shape


def test_interpolation_finds_the_root_of_coarse_grids():
    u, v = curves(GRID)
    one = crossing.crossings(crossing.estimated(GRID, u - v, stderr=1e-9)).only()
    assert one is not None
    np.testing.assert_allclose(one.value, CRITICAL, rtol=1e-6)
    coarse = GRID[[0, 3, 5, 8, 11]]
    u, v = curves(coarse)
    one = crossing.crossings(crossing.estimated(coarse, u - v, stderr=1e-9)).only()
    assert one is not None
    np.testing.assert_allclose(one.value, CRITICAL, rtol=3e-3)
    e = exact.two_basins(coarse)
    h = 1e-4 * coarse
    slope = np.subtract(*(a - b for a, b in zip(curves(coarse + h), curves(coarse - h), strict=True))) / (2 * h)
    with_slope = crossing.crossings(crossing.estimated(coarse, u - v, stderr=1e-9, slope=slope)).only()
    assert with_slope is not None
    np.testing.assert_allclose(with_slope.value, CRITICAL, rtol=1e-3)
    assert e.mass_v.size == coarse.size


def test_small_t_mass_is_no_crossing():
    """The mass of V falls and rises again below t = 100, and F_U stays below F_V all the while."""
    t = np.array([1.0, 2, 5, 10, 20, 50, 100, 150])
    u, v = curves(t)
    found = crossing.crossings(crossing.estimated(t, u - v, stderr=0.05))
    assert not found.found
    assert "No crossing" in found.sentence
    assert "F_a < F_b" in found.sentence


@pytest.mark.parametrize("chains", [4, 16])
def test_intervals_cover(rng, chains):
    x = np.geomspace(255, 340, 5)
    u, v = curves(x)
    held = []
    for _ in range(500):
        d = crossing.difference(x, noisy(rng, u, x, chains), noisy(rng, v, x, chains))
        (one,) = crossing.crossings(d).found
        held.append(one.interval[0] <= CRITICAL <= one.interval[1])
    assert 0.86 <= np.mean(held) <= 0.94


def test_intervals_over_data_sets_cover_and_the_spread_is_split(rng):
    """Random walks over the data with mean 0.01 n - 0.5 log n + 1, seen through chains."""
    n = np.arange(50, 451, 50)
    mean = 0.01 * n - 0.5 * np.log(n) + 1.2
    root = crossing.crossings(crossing.estimated(n, mean, stderr=1e-9)).only()
    assert root is not None
    held, data, chains = [], [], []
    for _ in range(400):
        walk = np.cumsum(rng.normal(size=(8, n.size)) * 0.05 * np.sqrt(np.diff(n, prepend=0)) / np.sqrt(50) * 3, axis=1)
        seen = (mean + walk)[:, None] + rng.normal(size=(8, 6, 1)) * 0.2
        found = crossing.crossings(crossing.difference(n, seen, np.zeros_like(seen), paired=True))
        same = [each for each in found.found if each.upward]
        if len(same) != 1:
            continue
        held.append(same[0].interval[0] <= root.value <= same[0].interval[1])
        data.append(same[0].data)
        chains.append(same[0].chains)
    assert len(held) > 380
    assert 0.86 <= np.mean(held) <= 0.94
    assert 2 < np.median(data) / np.median(chains) < 4  # 0.081 and 0.029 nats at the crossing


def test_the_bootstrap_shows_the_same_spread(rng):
    x = np.geomspace(255, 340, 5)
    u, v = curves(x)
    d = crossing.difference(x, noisy(rng, u, x, 64), noisy(rng, v, x, 64))
    (one,) = crossing.crossings(d).found
    drawn = crossing.bootstrap(d, one, rng, 500)
    np.testing.assert_allclose(np.nanstd(drawn), one.stderr, rtol=0.25)
    assert abs(np.nanmean(drawn) - one.value) < one.stderr
    with pytest.raises(InputError, match="replicates"):
        crossing.bootstrap(crossing.estimated(x, u - v, stderr=0.1), one, rng)


def test_noise_about_zero_is_no_crossing(rng):
    x = np.geomspace(1, 100, 12)
    invented = 0
    for _ in range(200):
        zero = rng.normal(size=(16, 12)) * 0.1
        found = crossing.crossings(crossing.difference(x, zero, np.zeros((16, 12)), paired=True))
        invented += any(each.certain for each in found.found)
    assert invented <= 8
    touching = np.square(np.log(x / 10)) - 0.02
    found = crossing.crossings(crossing.estimated(x, touching, stderr=0.2))
    assert not found.found
    assert "same sign" in found.sentence or "No crossing" in found.sentence


def test_several_crossings_and_open_ends_are_said():
    x = np.linspace(-3, 3, 25)
    found = crossing.crossings(crossing.estimated(x, x**3 - 2 * x, stderr=0.05))
    assert [each.upward for each in found.found] == [True, False, True]
    np.testing.assert_allclose([each.value for each in found.found], [-np.sqrt(2), 0, np.sqrt(2)], atol=0.02)
    assert found.only() is None
    assert found.only(upward=False) is not None
    assert "3 crossings" in found.sentence
    t = np.array([50.0, 100, 200, 250, 300])
    u, v = curves(t)
    (one,) = crossing.crossings(crossing.estimated(t, u - v, covariance=np.full((5, 5), 0.1**2))).found
    assert one.interval[1] == np.inf
    assert not one.certain
    assert (
        "beyond the grid" in crossing.crossings(crossing.estimated(t, u - v, covariance=np.full((5, 5), 0.01))).sentence
    )


def test_single_paths():
    x = np.array([1.0, 2, 4, 8])
    found = paths(x, np.array([[-1.0, 1, -1, 1], [-1, -1, -1, 1], [-1, -1, -1, -1]]))
    assert found.changes.tolist() == [3, 1, 0]
    np.testing.assert_allclose(found.first[:2], [np.sqrt(2), np.sqrt(32)])
    np.testing.assert_allclose(found.last[:2], [np.sqrt(32), np.sqrt(32)])
    assert np.isnan(found.first[2])
    np.testing.assert_allclose(found.above, [0, 1 / 3, 0, 2 / 3])


def test_bad_input():
    x = np.array([1.0, 2, 3])
    with pytest.raises(InputError, match="ascending"):
        crossing.estimated([1, 1, 2], [0, 0, 0], stderr=1)
    with pytest.raises(InputError, match="give one of the two"):
        crossing.estimated(x, x)
    with pytest.raises(InputError, match="one chain alone"):
        crossing.difference(x, np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="same data sets"):
        crossing.difference(x, np.zeros((2, 4, 3)), np.zeros((3, 4, 3)))
    with pytest.raises(InputError, match="not finite"):
        crossing.difference(x, np.full((4, 3), np.nan), np.zeros((4, 3)))


def test_a_difference_that_is_zero_but_for_rounding():
    """Where D at a point of the grid is 1e-17, what is interpolated there may have the other sign."""
    x = np.array([50.0, 100, 200, 250, 300, 400, 500, 1000])
    for tiny in (1e-17, -1e-17, 1e-300):
        value = np.array([-3.0, -2.1, -0.7, -0.3, tiny, 0.8, 1.4, 3.1])
        found = crossing.crossings(crossing.estimated(x, value, stderr=0.05))
        assert len(found.found) == 1
        assert found.found[0].value == pytest.approx(300, rel=1e-6)
