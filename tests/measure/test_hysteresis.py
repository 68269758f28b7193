"""Sweeps of t up and down: one hill has no loop, that of two basins stays open, a low barrier lags less the slower."""

import numpy as np
import pytest

import slt
from slt.measure import hysteresis as measured
from slt.models import landau, two_basins
from slt.phases import by_threshold
from slt.typing import InputError


def above(w):
    return w[0]


@pytest.mark.slow
def test_one_hill_that_moves_has_no_loop():
    """K = (w - 3)^2 under N(0, 1): half of the mass is beyond 3/2 at t = 1/2 exactly, up and down."""
    model = slt.potential(lambda w: (w[0] - 3) ** 2, 1, slt.Normal())
    halves = by_threshold(("left", "right"), above, 1.5, "w > 3/2")
    found = slt.hysteresis(model, halves, t=(0.05, 5.0), moves=(2, 4, 8), chains=256)
    assert found.share.shape == (3, 2, measured.LEVELS)
    for one in (found.up, found.down):
        value, stderr = np.asarray(one.value)[-1], np.asarray(one.stderr)[-1]
        assert abs(value - 0.5) < 4 * stderr < 0.4
    assert abs(float(found.slow.value)) < 4 * float(found.slow.stderr) < 1.2
    assert "closes" in str(found)


@pytest.mark.statistics
def test_two_basins_stay_open():
    found = slt.hysteresis(two_basins.make(), t=(50.0, 2000.0), moves=(1, 2, 4), chains=32)
    assert np.isinf(found.slow.value)
    assert np.isnan(found.width.value).all()
    assert (found.share[:, 0] < 0.2).all()
    assert (found.share[:, 1] > 0.9).all()
    assert "stays open" in str(found)


@pytest.mark.parametrize(
    "share, width, said",
    [
        ([[0.80, 0.90, 0.99], [0.79, 0.91, 1.00]], np.nan, "No loop and no crossing"),  # beyond it all: no memory
        ([[0.10, 0.20, 0.41], [0.12, 0.19, 0.40]], np.nan, "most chains are in a"),
        ([[0.00, 0.00, 0.10], [0.02, 0.90, 1.00]], np.inf, "stays open"),  # up stays behind
        ([[0.00, 0.60, 1.00], [0.95, 0.99, 1.00]], np.inf, "stays open"),  # down stays behind
    ],
)
def test_open_is_what_remembers_its_start(share, width, said):
    grid, chains = np.array([1.0, 3.0, 9.0]), 128
    number = np.round(np.array(share) * chains)[None].repeat(3, 0)
    labels = (np.arange(chains) < number[..., None]).astype(int)
    found = measured._read(labels, (0, 1), ("a", "b"), grid, np.array([1, 2, 4]), np.random.default_rng(0))
    np.testing.assert_equal(float(found.slow.value), width)
    assert said in str(found)


def test_crossings_are_read_at_one_half():
    grid = np.geomspace(1.0, 100.0, 5)
    share = np.array([[0.0, 0.2, 0.4, 0.6, 1.0], [0.6, 0.4, 0.6, 0.4, 0.8], [0.0, 0.0, 0.0, 0.0, 0.4], [1.0] * 5])
    at = np.exp(measured._crossed(grid, share))
    np.testing.assert_allclose(at[0], np.sqrt(10.0 * 31.622777))
    assert 31.6 < at[1] < 100  # for good, not the first time
    assert np.isnan(at[2:]).all()


def test_bad_input():
    model = two_basins.make()
    with pytest.raises(InputError, match="two values"):
        slt.hysteresis(model, t=[10.0])
    with pytest.raises(InputError, match="at least three"):
        slt.hysteresis(model, t=[10.0, 100.0], moves=[4, 4, 8])
    with pytest.raises(InputError, match="at least 8"):
        slt.hysteresis(model, t=[10.0, 100.0], chains=4)


@pytest.mark.statistics
def test_a_low_barrier_lags_less_the_slower_the_sweep():
    """Landau's sixth order at h = 0.9: either way lags behind t_c = 31.24 (quadrature), the faster the more."""
    found = slt.hysteresis(landau.make(h=0.9), t=(4.0, 300.0), moves=(16, 32, 64, 128, 256))
    width = np.asarray(found.width.value)
    known = width[np.isfinite(width)]
    assert known.size >= 3
    assert known[-1] < known[0]
    fastest = int(np.flatnonzero(np.isfinite(width))[0])  # there the lag is more than noise
    assert np.asarray(found.down.value)[fastest] < 31.24 < np.asarray(found.up.value)[fastest]
    up, down = ([float(np.asarray(part)[-1]) for part in way[:2]] for way in (found.up, found.down))
    assert max(up[1], down[1]) < 0.1 * 31.24
    assert down[0] - 4 * down[1] < 31.24 < up[0] + 4 * up[1]
    assert float(found.slow.value) - 2 * float(found.slow.stderr) < known[-1]
