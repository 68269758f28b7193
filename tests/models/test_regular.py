"""Gaussian location and linear regression against conjugate closed forms (tests/truth.py, science.md B3)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth

from slt.model import Model
from slt.models import gaussian_location, linear_regression
from slt.priors import Gaussian, Normal
from slt.typing import InputError


def minus_log_evidence(model: Model, batch: object, exact: truth.Gaussian, w: np.ndarray) -> float:
    """log posterior - log likelihood - log prior at any one w: the model's densities against the exact posterior."""
    offset = w - exact.mean
    posterior = -0.5 * offset @ exact.precision @ offset + 0.5 * np.linalg.slogdet(exact.precision / (2 * np.pi))[1]
    ours = jnp.sum(model.log_likelihood(jnp.asarray(w), batch)) + model.log_prior(jnp.asarray(w))
    return float(posterior - ours)


@pytest.mark.usefixtures("x64")
def test_evidence_of_the_example() -> None:
    """At any parameters the evidence comes out the same, and is the nine digits of science.md."""
    model, batch = linear_regression.make(), linear_regression.example()
    exact = truth.linear_regression(truth.REGRESSION_X, truth.REGRESSION_Y)
    np.testing.assert_allclose(batch[0], truth.REGRESSION_X)
    np.testing.assert_allclose(batch[1], truth.REGRESSION_Y)
    for w in (np.zeros(2), exact.mean, np.array([1.5, -0.3])):
        np.testing.assert_allclose(minus_log_evidence(model, batch, exact, w), truth.REGRESSION["evidence"], atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_evidence_of_drawn_data(key: jax.Array) -> None:
    location = gaussian_location.make(d=3, mean=0.4, prior=Normal(1.7), likelihood=Gaussian(0.6))
    y = location.sample(key, 25)
    exact = truth.gaussian_location(y, noise=0.6, prior_scale=1.7)
    regression = linear_regression.make((0.3, -1.0, 2.0), prior=Normal(0.8), likelihood=Gaussian(1.3))
    x, z = regression.sample(key, 30)
    np.testing.assert_array_equal(np.asarray(x)[:, 0], 1.0)
    known = truth.linear_regression(x, z, noise=1.3, prior_scale=0.8)
    for w in (np.zeros(3), np.array([0.5, 1.0, -2.0])):
        np.testing.assert_allclose(minus_log_evidence(location, y, exact, w), exact.free_energy, rtol=1e-10)
        np.testing.assert_allclose(minus_log_evidence(regression, (x, z), known, w), known.free_energy, rtol=1e-10)


def test_population_losses_in_closed_form() -> None:
    location = gaussian_location.make(d=2, mean=1.0, likelihood=Gaussian(2.0)).truth()
    assert location.population_loss is not None
    entropy = np.log(2 * np.pi * np.e * 4)
    np.testing.assert_allclose(location.entropy, entropy)
    np.testing.assert_allclose(location.population_loss(jnp.array([1.0, 3.0])), entropy + 4 / 8, rtol=1e-6)
    assert (location.lam, location.multiplicity) == (1.0, 1)
    design = linear_regression.make(design=linear_regression.EXAMPLE_DESIGN).truth()
    assert design.population_loss is not None
    offset = np.array([0.5, -0.25])
    expected = 0.5 * np.mean((truth.REGRESSION_X @ offset) ** 2) + 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(design.population_loss(jnp.array([0.5, 0.75])), expected, rtol=1e-6)


def test_a_design_is_taken_in_turn_and_may_be_degenerate(key: jax.Array) -> None:
    rows = ((1.0, 2.0), (2.0, 4.0), (-1.0, -2.0))
    model = linear_regression.make(design=rows, intercept=False)
    x, y = model.sample(key, 7)
    np.testing.assert_array_equal(x, np.asarray(rows * 3)[:7])
    assert y.shape == (7,)
    assert model.truth().lam == 0.5  # the design has rank 1


def test_signal_scales_the_truth(key: jax.Array) -> None:
    model = linear_regression.make((1.0, 2.0))
    x, y = model.sample(key, 5)
    moved = model.bind({"signal": 3.0}).sample(key, 5)[1]
    np.testing.assert_allclose(moved - y, 2 * x @ jnp.array([1.0, 2.0]), rtol=1e-4, atol=1e-5)


def test_input_errors() -> None:
    with pytest.raises(InputError, match="design"):
        linear_regression.make(design=((1.0,), (2.0,)))
    with pytest.raises(InputError, match="weights"):
        linear_regression.make(())
    with pytest.raises(InputError, match="d = 0"):
        gaussian_location.make(0)
