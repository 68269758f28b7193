"""Crossings from shares of ladders' draws."""

import numpy as np
import pytest
import xarray as xr

from slt import analysis
from slt.results.words import drifting
from slt.theory import exact
from slt.transitions import masses
from slt.typing import InputError, Quantity

X = np.array([50.0, 100, 200, 250, 300, 400, 500, 1000])


def drawn(rng, mass, ladders=12, draws=400):
    """Labels [1, x, ladder, draw] of independent draws from given masses [x, phase]."""
    edges = mass.cumsum(-1)[:, None, None]
    return (rng.random((1, len(mass), ladders, draws, 1)) > edges).sum(-1)


def telegraph(rng, mass, stay, ladders, draws):
    """Labels [1, x, ladder, draw] that are 1 with the given mass [x], and drawn anew with probability 1 - stay."""
    anew = rng.random((len(mass), ladders, draws)) > stay
    anew[..., 0] = True
    fresh = rng.random(anew.shape) < mass[:, None, None]
    last = np.maximum.accumulate(np.where(anew, np.arange(draws), 0), axis=-1)
    return np.take_along_axis(fresh, last, axis=-1).astype(int)[None]


def test_two_basins_from_shares(rng):
    v = exact.two_basins(X).mass_v
    held = []
    for _ in range(300):
        found = masses.critical(X, drawn(rng, np.stack([1 - v, v], -1)), 2)
        assert list(found) == [(0, 1)]
        ((one,),) = found.values()
        held.append(one.interval[0] <= 294.139 <= one.interval[1])
    assert 0.85 <= np.mean(held) <= 0.95


def test_only_phases_that_follow_one_another_cross(rng):
    x = np.linspace(1, 10, 10)
    f = np.stack([x, 3 + 0 * x, 9 - x], -1)  # leaders: 0 up to 3, 1 up to 6, then 2
    mass = np.exp(-f) / np.exp(-f).sum(-1, keepdims=True)
    found = masses.critical(x, drawn(rng, mass, draws=4000), 3)
    assert sorted(found) == [(0, 1), (1, 2)]
    np.testing.assert_allclose([found[0, 1][0].value, found[1, 2][0].value], [3, 6], atol=0.3)
    assert masses.critical([1.0, 2, 3], np.zeros((1, 3, 4, 100), int), 2) == {}


def test_mirror_images_do_not_cross(rng):
    """Two phases of equal mass at every x lead in turn; the third gives way to both."""
    b = 1 / (1 + np.exp((X - 250) / 60)) / 2 + 0.01
    mass = np.stack([1 - 2 * b, b, b], -1)
    names = [tuple(masses.critical(X, drawn(rng, mass), 3)) for _ in range(60)]
    assert sum((1, 2) in found or (2, 1) in found for found in names) <= 2
    assert all((1, 0) in found or (2, 0) in found for found in names)


@pytest.mark.parametrize("stay, spread", [(0.0, 0.22), (0.95, 0.4), (0.995, 1.0)])
def test_few_ladders_tell_their_error(rng, stay, spread):
    """8 ladders whose draws are forgotten at once, in a tenth of a stretch, or hardly within one."""
    v = exact.two_basins(X).mass_v
    held, errors = [], []
    for _ in range(300):
        found = masses.critical(X, telegraph(rng, v, stay, 8, 2000), 2).get((0, 1), ())
        if len(found) == 1:
            held.append(found[0].interval[0] <= 294.139 <= found[0].interval[1])
            errors.append(found[0].stderr)
    assert len(held) > 270
    assert 0.85 <= np.mean(held) <= 0.96
    assert np.std(errors) / np.mean(errors) < spread  # of ladders alone, at once: .27


def test_ladders_that_still_remember_their_start_are_seen_to_drift(rng):
    """Of 300 stationary sweeps hardly one drifts by 4 errors (Student's 7 degrees: .005); of relaxing ones most do."""
    v = exact.two_basins(X).mass_v
    still, started = [], []
    for _ in range(300):
        labels = telegraph(rng, v, 0.98, 8, 2000)
        still.append(masses.drift(labels, [0], [1]))
        late = np.arange(2000) < rng.geometric(1 / 400, size=(1, X.size, 8, 1))  # in U until then
        started.append(masses.drift(np.where(late, 0, labels), [0], [1]))
    z, away = ([value / error for value, error in each] for each in (still, started))
    assert abs(np.mean(z)) < 4 * np.std(z) / np.sqrt(300)
    assert np.mean(np.abs(z) > 4) <= 0.02
    assert np.mean(np.array(away) > 4) > 0.5
    low, high = np.array(still)[:, 0].std() * np.array([0.85, 1.15])
    assert low < np.sqrt(np.square(np.array(still)[:, 1]).mean()) < high


def test_drift_is_told_in_words():
    def told(value, name="population.drift[5->6]"):
        return drifting({name: Quantity(np.array([0.1, value]), np.array([0.1, 0.2]), {"c": [5, 6]})}, "population")

    (sentence,) = told(-0.9)
    assert "[5->6]" in sentence
    assert "0.9 nats" in sentence
    assert not told(0.7)
    assert not told(np.nan)
    assert not told(-0.9, "drift[5->6]")  # another part's


def test_shares_must_fit():
    with pytest.raises(InputError, match="data, x, ladder, draw"):
        masses.difference_of([1.0, 2.0], np.zeros((1, 4, 2, 2), int), [0], [1])


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
    assert abs(found["drift[U->V]"].value[0]) < 4 * found["drift[U->V]"].stderr[0] < 2


def test_members_of_one_orbit_cross_together(rng):
    """Mirror images, told that they are, cross as one phase, where their masses together do."""
    b = 1 / (1 + np.exp(-(X - 250) / 60)) / 2 * 0.98 + 0.005
    labels = drawn(rng, np.stack([1 - 2 * b, b, b], -1))
    dims = ("t", "chain", "draw")
    shape = labels.shape[1:]
    data = xr.Dataset(
        {
            "phase": (dims, labels[0].astype(np.int8), {"names": ["middle", "right", "left"]}),
            "delta": (dims, np.zeros(shape)),
            "offset": (dims[:1], np.zeros(shape[:1])),
            "status": (dims[:2], np.zeros(shape[:2], int)),
        },
        {"t": X, "burn_in": ("draw", np.zeros(shape[-1], bool))},
        {"coupled": "t"},
    )
    alone = analysis.Draws(data).critical()
    assert any(name.startswith("critical_t[middle->") for name in alone)
    found = analysis.Draws(data).critical({"right": "outside", "left": "outside", "elsewhere": "outside"})
    assert set(found) == {"critical_t[middle->outside]", "drift[middle->outside]"}
    one = found["critical_t[middle->outside]"]
    assert abs(one.value - 250) < 4 * one.stderr < 40


def hills(rng, apart, share, ladders=16, draws=400):
    """(labels, values [1, x, ladder, draw]) of two normals `apart`, of the given shares of the second, cut between."""
    second = rng.random((len(share), ladders, draws)) < np.array(share)[:, None, None]
    values = rng.normal(size=second.shape) + apart * (second - 0.5)
    return (values > 0).astype(int)[None], values[None]


def test_kinds_from_draws_of_ladders(rng):
    x = [1.0, 2.0, 3.0]
    for apart, kind in ((6.0, "coexistence"), (1.0, "crossover")):
        labels, values = hills(rng, apart, [0.2, 0.45, 0.8])
        shown = masses.Shown(labels, values[..., None])
        found = masses.kind_at(x, 2.1, labels, [0], [1], 2, shown)
        assert found.kind == kind
        assert found.label_entropy == pytest.approx(np.log(2), abs=0.02)
        assert masses.kind_at(x, 2.1, labels, [0], [1], 2).kind == "unresolved"
        both = masses.Shown(np.concatenate([labels, labels]), np.concatenate([values, values])[..., None])
        assert masses.kind_at(x, 2.1, both.labels, [0], [1], 2, both).kind == "unresolved"
        few = masses.Shown(labels[..., :4], values[..., :4, None])
        assert masses.kind_at(x, 2.1, labels, [0], [1], 2, few).barrier is None


def test_barriers_off_the_crossing(rng):
    """From draws where the phases weigh 1 to 3 and 2 to 1: as high as where they weigh the same, within the error."""
    known = 2.0 - np.log(2)  # of normals 4 apart, (4/2)^2/2, both at the top
    found = []
    for _ in range(20):
        labels, values = hills(rng, 4.0, [0.25, 0.65])
        told = masses.kind_at([1.0, 2.0], 1.6, labels, [0], [1], 2, masses.Shown(labels, values[..., None]))
        assert told.barrier is not None
        found.append((told.barrier.value - known, told.barrier.stderr))
    off, error = np.array(found).T
    assert abs(off.mean()) < 0.3
    assert (np.abs(off) < 4 * error + 0.3).all()
