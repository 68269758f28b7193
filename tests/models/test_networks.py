"""Deep linear networks, reduced-rank regression, tanh networks and mixtures: losses, coefficients, normalisation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from slt.model import Truth
from slt.models import deep_linear, mixture, reduced_rank, tanh
from slt.models.deep_linear import DeepLinear
from slt.priors import Gaussian
from slt.typing import InputError


def known(model: Any) -> Truth:
    truth = model.truth()
    assert truth is not None
    return truth


def test_order_of_multiplication_changes_nothing(key: jax.Array) -> None:
    network = DeepLinear((3, 4, 2))
    params = network.init(key, jnp.zeros((1, 3)))
    x = jax.random.normal(key, (9, 3))
    many = network.apply(params, x)
    few = jnp.concatenate([jnp.asarray(network.apply(params, x[i : i + 3])) for i in (0, 3, 6)])
    np.testing.assert_allclose(many, few, rtol=1e-5, atol=1e-5)


# science.md A4: widths, rank -> lambda, m.
LINEAR = {
    ((2, 2, 2), 0): (1.5, 1),
    ((2, 2, 2), 1): (2.0, 2),
    ((10, 5, 8), 3): (27.5, 1),
    ((2, 2, 2, 2), 1): (2.0, 3),
    ((5, 5, 5, 5, 5), 2): (11.0, 4),
}


@pytest.mark.parametrize("widths, rank", LINEAR)
def test_linear_networks_carry_their_coefficient(widths: tuple[int, ...], rank: int) -> None:
    values = tuple(0.5 + i for i in range(rank))
    truth = known(deep_linear.make(widths, values))
    assert (truth.lam, truth.multiplicity) == LINEAR[widths, rank]
    assert truth.population_loss is not None
    np.testing.assert_allclose(truth.population_loss(truth.params), truth.entropy, rtol=1e-6)
    if len(widths) == 3:
        other = known(reduced_rank.make(*widths, values))
        assert (other.lam, other.multiplicity) == LINEAR[widths, rank]


def test_target_has_the_singular_values(key: jax.Array) -> None:
    model = deep_linear.make((4, 3, 5), (2.0, 0.5))
    assert isinstance(model.target, deep_linear.LinearTarget)
    np.testing.assert_allclose(np.linalg.svd(model.target.matrix)[1], [2.0, 0.5, 0, 0], atol=1e-6)
    bound = model.bind({"target.scale": 3.0, "likelihood.sigma": 1e-6})
    x, y = bound.sample(key, 6)
    np.testing.assert_allclose(y, 3 * x @ model.target.matrix, atol=1e-4)


def test_tanh_loss_is_the_integral() -> None:
    model = tanh.make(2, height=0.8, slope=2.0, likelihood=Gaussian(0.5))
    a, b = np.array([1.3, -0.7]), np.array([3.0, -12.0])

    def error(x: float) -> float:
        return float((a @ np.tanh(b * x) - 0.8 * np.tanh(2 * x)) ** 2)

    truth = known(model)
    assert truth.population_loss is not None
    exact = quad(error, 0, 1)[0] / (2 * 0.25) + 0.5 * np.log(2 * np.pi * np.e * 0.25)
    ours = truth.population_loss({"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32)})
    np.testing.assert_allclose(ours, exact, rtol=2e-6)


def test_tanh_coefficients() -> None:
    assert [known(tanh.make(hidden)).lam for hidden in (1, 2)] == [1 / 2, 2 / 3]
    assert [known(tanh.make(hidden)).multiplicity for hidden in (1, 2)] == [2, 1]
    assert known(tanh.make(1, height=1.0)).lam == 1.0
    assert known(tanh.make(2, height=1.0)).lam is None


@pytest.mark.parametrize("phi", [0.5, 3.0])
def test_weight_prior_is_normalised_on_the_logit(phi: float, key: jax.Array) -> None:
    model = mixture.make("one", weight_prior=phi)
    flat = dataclasses.replace(model.prior, scale=1 / np.sqrt(2 * np.pi))  # density 1 at the origin
    alone = dataclasses.replace(model, prior=flat)
    logits = jnp.linspace(-60, 60, 6001)
    density = jax.jit(jax.vmap(lambda x: jnp.exp(alone.log_prior({"logit": x, "means": jnp.zeros(1)}))))(logits)
    np.testing.assert_allclose(jnp.sum(density) * 0.02, 1.0, rtol=1e-5)
    weights = jax.nn.sigmoid(jax.jit(jax.vmap(model.init))(jax.random.split(key, 4000))["logit"])
    variance = 1 / (4 * (2 * phi + 1))  # of Beta(phi, phi)
    np.testing.assert_allclose(jnp.mean(weights), 0.5, atol=4 * np.sqrt(variance / 4000))
    np.testing.assert_allclose(jnp.var(weights), variance, atol=4 * np.sqrt(variance**2 / 1000))


def test_mixture_is_singular_where_components_merge() -> None:
    """K = a^2 b^2 / 2 + smaller near b = 0, one mean fixed; no trace of either parameter where the other vanishes."""
    truth = known(mixture.make("one"))
    assert truth.population_loss is not None
    with jax.enable_x64(True):
        for logit, b in ((0.0, 0.02), (-3.0, 0.05)):
            a = 1 / (1 + np.exp(-logit))
            params = {"logit": jnp.asarray(logit), "means": jnp.asarray([b])}
            k = truth.population_loss(params) - truth.loss
            np.testing.assert_allclose(k, a**2 * b**2 / 2, rtol=0.01)
        merged = {"logit": jnp.asarray(1.7), "means": jnp.zeros(1)}
        np.testing.assert_allclose(truth.population_loss(merged), truth.entropy, rtol=1e-12)
    assert (truth.lam, truth.multiplicity) == (0.5, 2)
    assert [known(mixture.make("both")).lam, known(mixture.make("both", 1.5)).lam] == [0.75, 1.5]


def test_mixture_components_may_be_exchanged(key: jax.Array) -> None:
    model = mixture.make("both", separation=3.0)
    y = model.sample(key, 20)
    params = {"logit": jnp.float32(0.8), "means": jnp.array([-1.0, 2.0])}
    swapped = {"logit": -params["logit"], "means": params["means"][::-1]}
    np.testing.assert_allclose(model.log_likelihood(params, y), model.log_likelihood(swapped, y), rtol=1e-5)
    np.testing.assert_allclose(model.log_prior(params), model.log_prior(swapped), rtol=1e-5)
    truth = known(model)
    lower = quad(lambda z: -_two(z) * np.log(_two(z)), -12, 12)[0]
    np.testing.assert_allclose(truth.entropy, lower, rtol=1e-9)


def _two(z: float) -> float:
    return float(np.mean(np.exp(-0.5 * (z - np.array([-1.5, 1.5])) ** 2)) / np.sqrt(2 * np.pi))


def test_input_errors() -> None:
    with pytest.raises(InputError, match="singular_values"):
        deep_linear.make((2, 2), (0.0,))
    with pytest.raises(InputError, match="rank"):
        deep_linear.make((2, 1, 2), (1.0, 1.0))
    with pytest.raises(InputError, match="means"):
        mixture.make("neither")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="hidden"):
        tanh.make(0)
