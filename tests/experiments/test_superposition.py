"""The toy model of superposition: Laplace against the catalogue and particles, crossings by two rules, the demos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from stats import assert_close

from experiments import _superposition as k_gons
from experiments import _superposition_theory as foretold
from experiments import superposition as superposition_figures
from slt import config, runs
from slt.models import superposition
from slt.models._kgon import Shape, regular
from slt.transitions import crossing

LOG_DET = {"6": -22.817939, "5+": -19.097787, "5": -16.350230}  # science.md C3, of the Hessian's levels but the zeros


def test_laplace_has_the_catalogue_rank_and_hessian():
    for (k, plus), copies in {(6, 0): 120, (5, 1): 144, (5, 0): 144}.items():
        shape = Shape(k, plus)
        form, asymptotic = foretold.laplace(shape, 6), foretold.forms(6, k)[shape][0]
        assert form is not None
        assert form.loss == asymptotic.loss
        assert form.lam == asymptotic.lam
        length, bias, _ = regular(k)
        norm = k * (length**2 + bias**2) + plus / 144
        fixed = 3 * k + 3 * plus
        constant = 0.5 * norm + fixed / 2 * np.log(2 * np.pi) - np.log(2 * np.pi * np.sqrt(k) * length * copies)
        constant += 0.5 * LOG_DET[shape.name] - form.lam * np.log(2 * np.pi)
        if fixed == 18:
            assert form.constant == pytest.approx(constant, abs=1e-3)
        else:  # what a dead feature may do: |W|^2 + b < 0 and no output of or by the corners, counted by itself
            share = np.exp(constant - form.constant)
            assert share == pytest.approx(dead_share(length, bias), rel=0.1)


def dead_share(length: float, bias: float) -> float:
    """The prior's share of one dead feature beside a pentagon, from the inequalities themselves."""
    rng = np.random.default_rng(7)
    w, b = rng.standard_normal((400_000, 2)), rng.standard_normal(400_000)
    angle = 2 * np.pi * np.arange(5) / 5
    most = (length * w @ np.stack([np.cos(angle), np.sin(angle)])).max(1)
    quiet = (np.square(w).sum(1) + b <= 0) & (most + b <= 0) & (most + bias <= 0)
    return float(quiet.mean())


@pytest.mark.slow
def test_theory_misses_in_opposite_directions():
    at = crossing.Crossing(270.0, 2.0, (266.0, 274.0), True, np.nan, np.nan, True, 7.0)
    leading, laplace = foretold.theory(6, 5, 6, at)
    assert leading.t == pytest.approx(445.1, rel=1e-3)  # t 0.02055 = 1.5 log t
    assert laplace.t == pytest.approx(151, rel=0.03)
    assert leading.miss > 0.5
    assert laplace.miss < -0.3
    x = np.geomspace(100, 600, 12)
    low, high = (np.min([form.at(x) for form, _ in foretold.forms(6, k).values()], axis=0) for k in (5, 6))
    fitted = foretold.theory(6, 5, 6, at, crossing.estimated(x, low - high + 2.0, stderr=0.1))[2]
    assert (fitted.name, fitted.note) == ("constant_fitted", "constant fitted")
    assert fitted.t < leading.t  # two nats more for hexagons
    assert np.isnan(foretold.theory(8, 5, 6)[1].t)  # with several dead features the constant is not known
    assert np.isnan(foretold.theory(6, 4, 5)[0].t)  # pentagons have less loss and less lambda: nothing to cross


def told(label: np.ndarray, names: tuple[str, ...], x: np.ndarray, axis: str = "t") -> k_gons.Told:
    return k_gons.Told("main", "hull", axis, x, label, names, 6)


def test_families_cross_where_their_shares_are_equal():
    """Shares made from F_5 - F_6 = 3 log(x/200): the crossing at 200 within its errors, at most 3 per cent."""
    x, rng = np.geomspace(50, 800, 9), np.random.default_rng(0)
    six = 1 / (1 + (200 / x) ** 3)
    draws = rng.random((1, 9, 8, 4000))
    label = np.where(draws < six[:, None, None], 2, np.where(rng.random(draws.shape) < 0.5, 0, 1))
    one = told(label, ("5", "5+", "6", "fewer"), x)
    assert one.families == {5: [0, 1], 6: [2]}
    assert one.pairs() == [(5, 6)]
    of = one.difference(5, 6)
    assert of is not None
    at = crossing.crossings(of).only()
    assert at is not None
    assert at.stderr < 6
    assert abs(at.value - 200) < 4 * at.stderr


def test_population_and_data_stand_side_by_side_over_c():
    """Of three c, made so that 5 gives way to 6 at t = 200 and, on 20 data sets, about n = 500: 25 per cent late."""
    rng, every = np.random.default_rng(1), []
    for c in (6, 7, 8):
        for axis, at, sets in (("t", 200.0, 1), ("n", 500.0, 20)):
            x = at * np.geomspace(0.3, 3, 6)
            own = at * np.exp(0.1 * (sets > 1) * rng.standard_normal(sets))[:, None, None, None]
            label = (rng.random((sets, 6, 8, 400)) < 1 / (1 + (own / x[:, None, None]) ** 3)).astype(int)
            every.append(k_gons.Told(f"{axis}{c}", "hull", axis, x, label, ("5", "6"), c))
    rows = k_gons.beside(every[::-1])
    assert [data.c for _, data in rows] == [6, 7, 8]
    for population, data in rows:
        assert population.axis == "t"
        before, after = population.crossing(5, 6), data.crossing(5, 6)
        assert abs(before.value - 200) < 4 * before.stderr
        assert abs(after.value - 500) < 4 * after.stderr
        assert np.isfinite(data.single(5, 6).first).all()
        assert population.single(5, 6) is None
    assert superposition_figures.over_widths(rows) is not None
    assert superposition_figures.widths(rows) is not None


def test_relabelled_draws_are_those_after_burn_in_of_whole_chains():
    phases = superposition.partition(6, "descent", merged=False)
    names = ("6", "5+", "4")
    basins = {basin.name: basin.params for basin in superposition.population(6, merged=False).truth().basins}
    w = np.stack([np.asarray(basins[name]) for name in names])
    noisy = w + 0.02 * np.asarray(jax.random.normal(jax.random.key(0), w.shape))
    data = xr.Dataset(
        {
            "params": (("chain", "t", "kept", "params_0"), np.stack([noisy[:, None]] * 2).transpose(0, 2, 1, 3)),
            "offset": ("t", [0.0]),
            "status": (("t", "chain"), [[0, 1]]),
        },
        {"draw": np.arange(6), "burn_in": ("draw", np.arange(6) < 2), "kept_draw": ("kept", [1, 3, 5])},
    )
    found = k_gons.relabel(data, phases.label)
    assert found.shape == (1, 2, 2)
    assert [phases.names[i] for i in found[0, 0]] == ["5+", "4"]
    assert (found[0, 1] == -1).all()
    assert phases.names[int(phases.label(jnp.asarray(noisy[0])))] == "6"


@pytest.mark.statistics
def test_population_crosses_where_the_header_says(tmp_path):
    run = runs.begin(config.compose("superposition/population"), tmp_path / "run")
    assert_close(run.quantities["critical_t[5->6]"], 275.8, 4.0, what="5 -> 6 by the hull")
    assert_close(run.quantities["critical_t[4->5]"], 45.5, 3.0, what="4 -> 5 by the hull")
    assert_close(run.quantities["descent.critical_t[5->6]"], 260.0, 4.0, what="5 -> 6 by descent")
    assert float(run.quantities["descent.outside"].value) < 0.05


@pytest.mark.statistics
def test_data_cross_later_than_the_population_and_single_data_sets_about_their_mean(tmp_path):
    """20 data sets: the averaged crossing where the header says; each first crossing before the last, both about it."""
    run = runs.begin(config.compose("superposition/data"), tmp_path / "run")
    assert run.data["main"].sizes["data_seed"] >= 20
    at = run.quantities["critical_n[5->6]"]
    assert_close(at, 682.0, 30.0, what="5 -> 6 averaged over data sets")
    assert at.value - 551 > 2 * at.stderr, "2 t of the population: see population"
    first, last = run.quantities["first_n[5->6]"], run.quantities["last_n[5->6]"]
    for one, name in ((first, "first"), (last, "last")):
        low, high = run.quantities[f"quantiles_{name}_n[5->6]"].value
        assert low <= one.interval[0] <= one.value <= one.interval[1] <= high
    assert first.value <= last.value
    assert first.interval[0] < at.interval[1]
    assert last.interval[1] > at.interval[0]


@pytest.mark.statistics
def test_training_visits_phases_in_its_own_order(tmp_path):
    """Of at least 200 runs: the share with loss falling and lambda rising at every passage, with its error."""
    run = runs.begin(config.compose("superposition/dynamics"), tmp_path / "run")
    assert run.measures["training"].sizes["run"] >= 200
    assert run.measures["training"]["ok"].all()
    told = run.quantities
    assert_close(told["rising"], 0.27, 0.05, what="loss falls and lambda rises")
    assert_close(told["not_falling"], 0.34, 0.05, what="loss falls and lambda does not fall")
    assert told["rising"].interval[1] < 0.5, "most runs do not go the posterior's way"
    assert told["rising"].value <= told["not_falling"].value
    assert told["ends[6]"].interval[1] < 0.25, "hexagons, where all of the posterior ends"
