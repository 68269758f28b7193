"""The posterior: densities against hand-written ones, restriction and masks, unbiased estimates, small differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_engine import Location

from slt.model import potential
from slt.models import deep_linear, linear_regression
from slt.posterior import Posterior, Restriction
from slt.priors import Normal, Uniform
from slt.typing import InputError

DATA = jax.random.normal(jax.random.key(3), (16, 2)) + 0.5
CENTRE = jnp.array([0.3, -0.2])


def build(**kwargs):
    return Posterior.build(Location(), DATA, 10, 0.7, **({"centre": CENTRE, "gamma": 2.0} | kwargs))


def by_hand(w):
    """-n beta (L_n(w) - L_n(c)) + log prior - gamma/2 |w - c|^2 in float64 numpy, from its definition."""
    w, c, z = (np.asarray(x, np.float64) for x in (w, CENTRE, DATA[:10]))
    loss = lambda at: 0.5 * np.square(z - at).sum(axis=1).mean()  # noqa: E731
    prior = -0.5 * np.square(w).sum() - np.log(2 * np.pi)
    return -7.0 * (loss(w) - loss(c)) + prior - 1.0 * np.square(w - c).sum()


def test_density_and_gradient():
    posterior, w = build(), jnp.array([1.0, -0.7])
    np.testing.assert_allclose(posterior.log_density(w), by_hand(w), rtol=1e-5)
    delta, grad = posterior.value_and_grad(w)
    steps = np.eye(2) * 1e-5
    numeric = [(by_hand(np.asarray(w) + s) - by_hand(np.asarray(w) - s)) / 2e-5 for s in steps]
    np.testing.assert_allclose(grad, numeric, rtol=1e-3)
    np.testing.assert_allclose(delta, posterior.delta(w), rtol=1e-6)
    assert float(posterior.delta(CENTRE)) == 0.0
    assert float(posterior.nbeta) == pytest.approx(7.0)


@pytest.mark.parametrize("control_variate", [False, True])
def test_minibatch_estimates_are_unbiased(control_variate):
    posterior, w = build(control_variate=True), jnp.array([0.5, 0.1])
    keys = jax.random.split(jax.random.key(0), 20_000)
    deltas, grads = jax.vmap(lambda k: posterior.estimate(w, k, 3, control_variate))(keys)
    exact = posterior.value_and_grad(w)
    for found, true in zip(jax.tree.leaves((deltas, grads)), jax.tree.leaves(exact), strict=True):
        stderr = np.asarray(found).std(axis=0, ddof=1) / np.sqrt(len(keys))
        assert np.all(stderr < 0.1)
        assert np.all(np.abs(found.mean(axis=0) - true) <= 4 * stderr + 1e-5)


def test_the_control_variate_removes_the_noise_at_the_centre():
    posterior = build(control_variate=True)
    keys = jax.random.split(jax.random.key(0), 50)
    _, plain = jax.vmap(lambda k: posterior.estimate(CENTRE, k, 2, False))(keys)
    _, controlled = jax.vmap(lambda k: posterior.estimate(CENTRE, k, 2, True))(keys)
    assert plain.std(axis=0).min() > 0.5
    assert controlled.std(axis=0).max() < 1e-5


def test_control_variate_must_be_asked_for():
    with pytest.raises(InputError, match="control_variate"):
        build().estimate(CENTRE, jax.random.key(0), 2, True)


def test_restriction_leaves_the_conditional_density():
    restricted, full = build(restriction=Restriction(np.array([True, False]))), build()
    position = restricted.position(jnp.array([1.4, 9.0]))
    assert [leaf.shape for leaf in jax.tree.leaves(position)] == [(1,)]
    np.testing.assert_array_equal(restricted.params(position), jnp.array([1.4, -0.2]))
    np.testing.assert_allclose(restricted.log_density(position), full.log_density(jnp.array([1.4, -0.2])), rtol=1e-6)


def test_restriction_over_a_pytree():
    params = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2), "c": jnp.zeros(())}
    restriction = Restriction({"a": np.array([[True, False, False], [False, False, True]]), "b": True, "c": False})
    position = restriction.free(params)
    assert [leaf.tolist() for leaf in position] == [[0.0, 5.0], [1.0, 1.0]]
    moved = restriction.merge(jax.tree.map(lambda leaf: leaf + 10, position), params)
    assert moved["a"].tolist() == [[10, 1, 2], [3, 4, 15]]
    assert moved["b"].tolist() == [11, 11]
    assert moved["c"] == 0
    same = Restriction({"a": np.array([[True, False, False], [False, False, True]]), "b": True, "c": False})
    assert restriction == same
    assert hash(restriction) == hash(same)


@pytest.mark.parametrize("mask", [np.array([1.0, 0.0]), np.array([False, False])])
def test_unusable_restrictions_are_named(mask):
    with pytest.raises(InputError, match="restriction"):
        Restriction(mask)


def test_a_traced_mask_freezes_and_gives_the_frozen_an_auxiliary_density():
    masked, restricted = build(mask=jnp.array([True, False])), build(restriction=Restriction(np.array([True, False])))
    w = jnp.array([1.4, 0.9])
    np.testing.assert_array_equal(masked.params(w), jnp.array([1.4, -0.2]))
    expected = restricted.log_density(restricted.position(w)) - 0.5 * 0.9**2
    np.testing.assert_allclose(masked.log_density(w), expected, rtol=1e-6)


def test_small_differences_survive_float32():
    """At n beta = 1e6 a difference of two float32 mean losses would be wrong by some 10 per cent; this one is not."""
    data = 3.0 + jax.random.normal(jax.random.key(0), (1024, 2))
    centre = data.mean(axis=0)
    posterior = Posterior.build(Location(), data, 1024, 1000.0, centre=centre)
    w = centre + 1e-3
    exact = 0.5 * np.square(np.asarray(w, np.float64) - np.asarray(centre, np.float64)).sum()
    assert abs(float(posterior.delta(w)) / exact - 1) < 0.01


@pytest.mark.parametrize(
    "model",
    [deep_linear.make((3, 4, 2), (1.5, 1.0)), linear_regression.make(weights=(1.0, -2.0, 0.5))],
    ids=["net", "1d"],
)
@pytest.mark.parametrize("n", [2, 20, 50])
def test_fewer_samples_have_the_loss_of_all(model, n):
    """Linear models are computed from as many rows as inputs: against the samples one by one, in double precision."""
    data, centre = model.sample(jax.random.key(5), 64), model.truth().params
    points = [jax.tree.map(lambda leaf, s=s: leaf + s * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), centre)
              for s in (1.0, 1e-3)]  # fmt: skip
    make = lambda data, centre: Posterior.build(model, data, n, 0.7, centre=centre, control={"likelihood.sigma": 0.5})  # noqa: E731
    single = make(data, centre)
    assert jax.tree.leaves(single.fewer[0])[0].shape == (3, 3)
    found = [float(single.total(at)) for at in points]
    with jax.enable_x64():
        double = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)  # noqa: E731
        posterior = make(double(data), double(centre))
        for at, value, close in zip(map(double, points), found, (1e-5, 1e-3), strict=True):
            exact = jnp.sum(posterior.differences(at)[:n])
            np.testing.assert_allclose(posterior.total(at), exact, rtol=1e-9)
            np.testing.assert_allclose(value, exact, rtol=close)


class Heavy(linear_regression.LinearRegression):
    """Another noise, of which the inherited `compress` knows nothing."""

    def log_likelihood(self, params, batch):
        return -jnp.abs(batch[0] @ params - batch[1])


def test_another_likelihood_is_not_compressed():
    model = Heavy()
    posterior = Posterior.build(model, model.sample(jax.random.key(0), 8), 8, 1.0, centre=model.truth().params)
    assert posterior.fewer is None


def test_too_few_samples_are_taken_as_they_are():
    model = deep_linear.make((5, 3, 5), (1.0,))
    posterior = Posterior.build(model, model.sample(jax.random.key(0), 8), 8, 1.0, centre=model.truth().params)
    assert posterior.fewer is None


def test_controls_reach_the_model():
    model = potential(lambda w, h: h * jnp.sum(w), 2, Normal(), controls={"h": 0.0})
    posterior = Posterior.build(model, jnp.zeros((1, 0)), 1, 3.0, centre=jnp.zeros(2), control={"h": 2.0})
    assert float(posterior.delta(jnp.ones(2))) == pytest.approx(4.0)
    with pytest.raises(InputError, match="not a control"):
        model.bind({"angle": 1.0})


def test_x64():
    with jax.enable_x64():
        posterior = Posterior.build(
            Location(), np.asarray(DATA, np.float64), 10, 0.7, centre=np.asarray(CENTRE, np.float64), gamma=2.0
        )
        value = posterior.log_density(jnp.array([1.0, -0.7]))
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, by_hand([1.0, -0.7]), rtol=1e-12)


def test_uniform_prior_has_no_mass_outside_its_box():
    prior = Uniform(-1.0, 2.0)
    assert float(prior.log_density(jnp.array([0.0, 2.5]))) == -np.inf
    assert float(prior.log_density(jnp.array([0.0, 1.5]))) == pytest.approx(-2 * np.log(3))
