"""The (n, beta) diagram: free-energy perturbation against quadrature, and the order in beta of what data add."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ordering as experiment
from slt import config, runs
from slt.models import tanh


def _free_energy(square, cross, level, t):
    """-log int exp(-t [a^2 square(b)/2 - a cross(b) + level]) over a, b ~ N(0, 1), a in closed form."""
    b = np.linspace(-7, 7, 1401)
    spread = 1 + t * square
    exponent = -b * b / 2 - np.log(spread) / 2 + (t * cross) ** 2 / (2 * spread) - t * level
    top = exponent.max()
    return -(top + np.log(np.exp(exponent - top).sum() * (b[1] - b[0]) / np.sqrt(2 * np.pi)))


def test_perturbation_gives_the_free_energy_of_data():
    """From draws of the population posterior on a lattice with its weights: both sides by quadrature."""
    rng = np.random.default_rng(0)
    t, n, b = 16.0, np.array([32, 64]), np.linspace(-7, 7, 1401)
    x, noise = rng.uniform(-1, 1, 64), rng.normal(size=64)
    y = 2 * np.tanh(x) + noise
    nodes, weights = np.polynomial.legendre.leggauss(64)
    shape, truth = np.tanh(b[:, None] * nodes), 2 * np.tanh(nodes)
    square, cross, level = shape**2 @ weights / 2, shape @ (weights * truth) / 2, truth**2 @ weights / 4
    spread = 1 + t * square
    log_mass = -b * b / 2 - np.log(spread) / 2 + (t * cross) ** 2 / (2 * spread)
    places = rng.choice(b, size=20000, p=np.exp(log_mass - log_mass.max()) / np.exp(log_mass - log_mass.max()).sum())
    at = np.searchsorted(b, places)
    heights = t * cross[at] / spread[at] + rng.normal(size=20000) / np.sqrt(spread[at])
    kept = jnp.asarray(np.stack([heights, places], axis=-1), jnp.float32)[None]
    model, potential = (make(1, (2.0,), (1.0,)) for make in (tanh.units, tanh.population))
    loss = np.array([[float(potential.fn(w)) for w in kept[0][:1]]])
    by_hand = heights[0] ** 2 * square[at[0]] / 2 - heights[0] * cross[at[0]] + level
    assert loss[0, 0] == pytest.approx(by_hand, abs=1e-4)
    potentials = (heights**2 * square[at] / 2 - heights * cross[at] + level)[None]
    batch = (jnp.asarray(x[:, None], jnp.float32), jnp.asarray(y[:, None], jnp.float32))
    found = experiment.perturbed(model, batch, kept, potentials, n, t / n[None])
    for j, size in enumerate(n):
        own = np.tanh(b[:, None] * x[:size])
        data = _free_energy(
            (own**2).mean(1), (own * y[:size]).mean(1), (y[:size] ** 2 - noise[:size] ** 2).mean() / 2, t
        )
        expected = data - _free_energy(square, cross, level, t)
        assert found["gap"][0, j] == pytest.approx(expected, abs=0.06)
    assert (found["ess"][0] > 2000).all()


@pytest.mark.statistics
def test_demo_finds_an_excess_of_order_beta(tmp_path):
    """Its exponent is 1, and its size -(beta/2) t V(t): at t = 16, -0.56 beta by quadrature."""
    run = runs.begin(config.compose("ordering/demo"), tmp_path / "run")
    power = run.quantities["excess_power"]
    assert power.stderr <= 0.1
    assert abs(power.value - 1) <= 4 * power.stderr
    slope = run.quantities["excess_slope"]
    assert np.all(slope.stderr <= 0.05)
    assert slope.value == pytest.approx([-0.42, -0.56, -0.57], abs=4 * 0.02)
    found = run.quantities["excess[t=16]"]
    z = (found.value - slope.value[1] * np.array(found.coords["beta"])) / found.stderr
    assert np.all(np.abs(z[1:]) <= 4)
