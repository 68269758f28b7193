"""Crossings from shares of ladders' draws."""

import numpy as np
import pytest
import xarray as xr

from slt import analysis
from slt.theory import exact
from slt.transitions import masses
from slt.typing import InputError

X = np.array([50.0, 100, 200, 250, 300, 400, 500, 1000])


def drawn(rng, mass, ladders=12, draws=400):
    """Shares of phases [1, ladder, x, phase] in independent draws from given masses [x, phase]."""
    return rng.multinomial(draws, mass, size=(1, ladders, len(mass))) / draws


def test_two_basins_from_shares(rng):
    v = exact.two_basins(X).mass_v
    held = []
    for _ in range(300):
        found = masses.critical(X, drawn(rng, np.stack([1 - v, v], -1)), 400)
        assert list(found) == [(0, 1)]
        ((one,),) = found.values()
        held.append(one.interval[0] <= 294.139 <= one.interval[1])
    assert 0.85 <= np.mean(held) <= 0.95


def test_only_phases_that_follow_one_another_cross(rng):
    x = np.linspace(1, 10, 10)
    f = np.stack([x, 3 + 0 * x, 9 - x], -1)  # leaders: 0 up to 3, 1 up to 6, then 2
    mass = np.exp(-f) / np.exp(-f).sum(-1, keepdims=True)
    found = masses.critical(x, drawn(rng, mass, draws=4000), 4000)
    assert sorted(found) == [(0, 1), (1, 2)]
    np.testing.assert_allclose([found[0, 1][0].value, found[1, 2][0].value], [3, 6], atol=0.3)
    lone = np.repeat(np.array([[[[1.0, 0.0]]]]), 4, axis=1).repeat(3, axis=2)
    assert masses.critical([1.0, 2, 3], lone, 100) == {}


def test_shares_must_fit():
    with pytest.raises(InputError, match="data, ladder, x, phase"):
        masses.difference_of([1.0, 2.0], np.zeros((4, 2, 2)), 0, 1, 10)


def test_runs_report_critical_values(rng):
    """`slt.analysis` names them by the ladders' axis, averaged over data sets, at every value of the other axes."""
    v = exact.two_basins(X).mass_v
    shape = (2, 3, X.size, 8, 150)  # h, data_seed, t, ladder, draw
    labels = rng.random(shape) < v[:, None, None]
    labels[1] = False  # one phase only
    dims = ("h", "data_seed", "t", "chain", "draw")
    data = xr.Dataset(
        {
            "phase": (dims, labels.astype(np.int8), {"names": ["U", "V"]}),
            "delta": (dims, np.zeros(shape)),
            "offset": (dims[:3], np.zeros(shape[:3])),
            "status": (dims[:4], np.zeros(shape[:4], int)),
        },
        {"h": [0.0, 1.0], "data_seed": [0, 1, 2], "t": X, "burn_in": ("draw", np.arange(150) < 50)},
        {"coupled": "t"},
    )
    found = analysis.Draws(data).critical()
    one = found["critical_t[U->V]"]
    assert one.coords == {"h": [0.0, 1.0]}
    assert one.interval is not None
    assert one.interval.shape == (2, 2)
    assert abs(one.value[0] - 294.14) < 4 * one.stderr[0] < 80
    assert one.interval[0, 0] < one.value[0] < one.interval[0, 1]
    assert np.isnan(one.value[1])
    assert found["crossings[U->V]"].value.tolist() == [1, 0]
