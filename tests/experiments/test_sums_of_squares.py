"""Levels of several numbers of squares: the closed forms, and the transitions that the demo finds."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from experiments import _shared
from experiments import sums_of_squares as experiment
from slt import config, runs
from slt.models import sums_of_squares
from slt.typing import InputError

EXACT = {"8->9": 100.05994, "9->10": 1000.21245}


def test_closed_free_energies_are_those_of_the_minimum_of_paraboloids():
    """Levels of one and two squares, integrated over the plane."""
    fn = sums_of_squares.levels((1, 2), (0.2, 0.0), (0.0, 1.5), 20.0).fn
    assert isinstance(fn, sums_of_squares.Levels)
    t = 10.0

    def density(y: float, x: float, level: int) -> float:
        heights = np.array([0.2 + 20 * x**2, 20 * (x - 1.5) ** 2 + y**2])
        own = heights.argmin() == level
        return own * np.exp(-t * heights.min() - (x**2 + y**2) / 2) / (2 * np.pi)

    for level, closed in enumerate(fn.free_energies(t)):
        middle = (0.0, 1.5)[level]
        mass, _ = integrate.dblquad(density, middle - 0.6, middle + 0.6, -5, 5, args=(level,), epsabs=1e-8)
        assert -np.log(mass) == pytest.approx(closed, abs=1e-5)


def test_levels_meet_where_their_closed_forms_say():
    fn = sums_of_squares.levels().fn
    assert isinstance(fn, sums_of_squares.Levels)
    found = {f"{fn.squares[a]}->{fn.squares[b]}": (a, b) for a, b in experiment.steps(fn)}
    for name, (a, b) in found.items():
        assert experiment.last_crossing(fn.free_energies, a, b) == pytest.approx(EXACT[name], rel=1e-6)
        rough = experiment.last_crossing(lambda t: experiment.leading(fn, t), a, b)
        gap = rough * (fn.losses[a] - fn.losses[b]) - np.log(rough) / 2
        assert gap == pytest.approx(0, abs=1e-6)


def test_forms_of_levels_foretell_all_but_terms_in_one_over_t():
    fn = sums_of_squares.levels().fn
    assert isinstance(fn, sums_of_squares.Levels)
    t = np.array([1e3, 1e5])
    for j in range(3):
        np.testing.assert_allclose(experiment.form(fn, j).at(t), fn.free_energies(t)[j], atol=0.01)
    for (a, b), exact in zip(experiment.steps(fn), EXACT.values(), strict=True):
        told = {one.name: one.t for one in _shared.theory(experiment.form(fn, a), experiment.form(fn, b), None)}
        assert told["constant"] == pytest.approx(exact, rel=2e-3)
        assert told["leading"] == pytest.approx(experiment.last_crossing(lambda t: experiment.leading(fn, t), a, b))


def test_every_level_is_a_phase_with_its_minimum():
    model = sums_of_squares.levels()
    truth = model.truth()
    assert truth is not None
    assert truth.phases is not None
    assert truth.phases.names == ("8", "9", "10")
    for j, basin in enumerate(truth.basins):
        assert truth.phases.label(basin.params) == j
        assert model.fn(basin.params) == pytest.approx(basin.loss)
        assert model.fn(jnp.asarray(basin.params) + 0.01) > basin.loss
    assert (truth.lam, truth.loss) == (5.0, 0.0)


@pytest.mark.parametrize("wrong", [{"squares": (8, 9)}, {"squares": (8, 8, 9)}, {"along": 0.0}])
def test_levels_that_make_no_landscape_are_refused(wrong):
    with pytest.raises(InputError):
        sums_of_squares.levels(**wrong)


@pytest.mark.statistics
def test_demo_finds_both_transitions(tmp_path):
    """Within 4 standard errors of exact, themselves at most 10 per cent; the interval is about 3.3 of them wide."""
    run = runs.begin(config.compose("sums_of_squares/demo"), tmp_path / "run")
    for name, exact in EXACT.items():
        found = run.quantities[f"critical_t[{name}]"]
        assert found.stderr <= 0.1 * exact
        assert abs(found.value - exact) <= 4 * found.stderr
        low, high = found.interval
        assert low < found.value < high
