"""ReLU nodes: orientations that exchange, dead nodes, and the phase diagram of the demo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import relu_truth as experiment
from slt import config, runs
from slt.models import relu
from slt.transitions.predictions import predictions
from slt.typing import InputError


@pytest.mark.parametrize("theta", [0.5, 1.2])
def test_reversing_all_orientations_changes_nothing_where_the_vectors_sum_to_nothing(theta):
    fn, phases = relu.Excess(0.5), relu.phases()
    for reverse, name in ((False, "right"), (True, "left")):
        w = jnp.asarray(relu.optimum(theta, reverse), jnp.float32)
        assert float(fn(w, theta)) == pytest.approx(0, abs=1e-10)
        assert phases.names[int(phases.label(w))] == name
    w = jax.random.normal(jax.random.key(1), (9,))
    assert float(fn(w, theta)) == pytest.approx(float(fn(w * jnp.array([-1.0] * 6 + [1.0] * 3), theta)), rel=1e-5)


def test_orientations_are_one_orbit():
    names = relu.phases().names
    assert set(experiment.ORBITS) == {names[i] for i in experiment.HIGH}
    assert set(experiment.ORBITS.values()) == {experiment.NAME.split("->")[1]}


def test_two_nodes_are_worse_the_wider_the_angle():
    fn, phases, heights = relu.Excess(0.5), relu.phases(), []
    for theta in (0.5, 0.9, 1.5):
        w, height = relu.degenerate(theta)
        assert float(fn(jnp.asarray(w, jnp.float32), theta)) == pytest.approx(height, rel=1e-4)
        assert int(phases.label(jnp.asarray(w, jnp.float32))) == 0
        heights.append(height)
    assert heights == pytest.approx([0.00787, 0.03643, 0.13216], rel=0.01)
    assert experiment.leading(0.9) == pytest.approx(222.6, rel=0.01)
    (told,) = predictions(*experiment.forms(0.9))
    assert told.t == pytest.approx(experiment.leading(0.9))


def test_model_and_potential_are_one():
    """The mean of the samples' losses over the whole lattice, noise apart, is the potential's."""
    model, potential = relu.make(0.8), relu.population(0.8)
    w = jax.random.normal(jax.random.key(0), (9,))
    params = {"w": w[:6].reshape(3, 2), "b": w[6:]}
    x = jnp.asarray(relu.lattice(), jnp.float32)
    y = relu.network(relu.nodes(jnp.asarray(0.8)), jnp.zeros(3), x)
    constant = float(model.log_likelihood(relu_tree(relu.optimum(0.8)), (x, y)).mean())
    found = constant - float(model.log_likelihood(params, (x, y)).mean())
    assert found == pytest.approx(float(potential.fn(w, 0.8)), rel=1e-4)
    drawn, seen = model.sample(jax.random.key(2), 4000)
    noise = np.asarray(seen - relu.network(relu.nodes(jnp.asarray(0.8)), jnp.zeros(3), drawn))
    assert noise.std() == pytest.approx(0.5, abs=0.03)


def relu_tree(w):
    flat = jnp.asarray(w, jnp.float32)
    return {"w": flat[:6].reshape(3, 2), "b": flat[6:]}


@pytest.mark.parametrize("theta", [0.0, 3.2])
def test_angles_that_deform_nothing_are_refused(theta):
    with pytest.raises(InputError):
        relu.make(theta)
    with pytest.raises(InputError):
        relu.population(theta)


@pytest.mark.statistics
def test_demo_draws_the_line_between_the_phases(tmp_path):
    run = runs.begin(config.compose("relu_truth/demo"), tmp_path / "run")
    line = run.quantities[f"population.critical_t[{experiment.NAME}]"]
    predicted = run.quantities[f"population.critical_t_leading[{experiment.NAME}]"].value
    known = np.isfinite(line.value)
    assert known.sum() >= 3
    assert np.all(np.diff(line.value[known]) < 0)
    ratio = line.value[known] / predicted[known]
    assert np.all((ratio > 0.1) & (ratio < 0.6)), "leading-order theory is some 3 to 6 times too late"
    share = run.quantities["population.orientation"]
    sure = share.stderr < 0.06
    assert sure.sum() >= 20
    assert np.all(np.abs(share.value[sure] - 0.5) <= 4 * share.stderr[sure])
