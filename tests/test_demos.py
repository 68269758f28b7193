"""The demos themselves, run as a user runs them, against what they promise."""

import numpy as np
import pytest
import truth
from stats import Estimate, assert_close

from slt import config, runs

FREE_ENERGY = "population.free_energy"
TWO_BASINS = 60.0  # seconds that two_basins/demo may sample on 2 cores, compilation included


@pytest.mark.statistics
def test_two_basins_demo_finds_the_exact_masses(tmp_path):
    """Mass of the sharp basin within 0.03 of quadrature at every t of the grid, standard errors at most 0.01."""
    run = runs.begin(config.compose("two_basins/demo"), tmp_path / "run")
    mass = run.quantities["mass[V]"]
    exact = np.array([truth.two_basins(t)[2] for t in mass.coords["t"]])
    assert len(exact) == 12
    assert np.max(np.abs(mass.value - exact)) <= 0.03
    assert_close(mass, exact, 0.01, what="mass of V")


@pytest.mark.statistics
def test_two_basins_demo_is_fast(tmp_path):
    run = runs.begin(config.compose("two_basins/demo"), tmp_path / "run")
    assert run.summary.wall_s < TWO_BASINS


@pytest.mark.statistics
def test_superposition_population_of_two_seeds_and_two_routes_agree(tmp_path):
    """Phases in the order 4 -> 5 -> 6; masses of two seeds agree; thermodynamic integration agrees with MBAR."""
    found = []
    for seed in (1, 2):
        made = config.compose("superposition/demo", [f"seed={seed}", "grid.n=[30]", "grid.data_seed=[0]"])
        found.append(runs.begin(made, tmp_path / str(seed)).quantities)
    names = [name for name in found[0] if name.startswith("population.mass[")]
    assert len(names) == 5
    for name in names:
        a, b = found[0][name], found[1][name]
        gap = Estimate(np.subtract(a.value, b.value), np.hypot(a.stderr, b.stderr))
        assert_close(gap, 0.0, 0.2, what=name)
    for quantities in found:
        gap = quantities["population.free_energy_difference"]
        assert_close(gap, 0.0, 0.05, what="thermodynamic integration against MBAR")
        masses = {name: np.asarray(quantities[f"population.mass[{name}]"].value) for name in ("4 family", "5", "6")}
        leader = [max(masses, key=lambda name, i=i: masses[name][i]) for i in range(len(masses["6"]))]
        order = [name for i, name in enumerate(leader) if i == 0 or name != leader[i - 1]]
        assert order == ["4 family", "5", "6"]
    first, second = (Estimate(q.value, q.stderr) for q in (found[0][FREE_ENERGY], found[1][FREE_ENERGY]))
    gap = Estimate(first.value - second.value, np.hypot(first.stderr, second.stderr))
    assert_close(gap, 0.0, 0.2, what="free energy of two seeds")
