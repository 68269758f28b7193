"""Models from Flax Linen, Flax NNX and NumPyro, against the libraries' own numbers and each other."""

import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import stats
from flax import nnx
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import potential_energy

from slt.adapters import Frozen, from_linen, from_nnx, from_numpyro
from slt.model import check
from slt.priors import Categorical, Gaussian, Normal
from slt.typing import InputError


class Small(nn.Module):
    """Two dense layers."""

    outputs: int = 2
    sizes: Any = (4,)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for size in self.sizes:
            x = jnp.tanh(nn.Dense(size)(x))
        return nn.Dense(self.outputs)(x)


class SmallNnx(nnx.Module):
    """The same network."""

    def __init__(self, rngs: nnx.Rngs):
        self.one, self.two = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.two(jnp.tanh(self.one(x)))


def inputs(key: Any, num: int) -> Any:
    return jax.random.normal(key, (num, 3))


@dataclass(frozen=True)
class Turned:
    """A target with a control: the direction that matters."""

    angle: float = 0.0

    def __call__(self, x: Any) -> Any:
        return jnp.stack([jnp.cos(self.angle) * x[:, 0], jnp.sin(self.angle) * x[:, 1]], axis=1)


LINEN = {"one": "Dense_0", "two": "Dense_1"}
EXAMPLE = jnp.zeros((1, 3))

# ----------------------------------------------------------------------------------------------------------------- Flax


def test_linen_and_nnx_are_the_same_model(key: jax.Array) -> None:
    linen, other = (
        make(module, EXAMPLE, likelihood=Gaussian(0.5), prior=Normal(2.0), inputs=inputs, target=Turned(0.3))
        for make, module in ((from_linen, Small()), (from_nnx, SmallNnx))
    )
    params = other.init(key)
    same = {LINEN[name]: leaf for name, leaf in params.items()}
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, linen.init(key))
    batch = linen.sample(key, 6)
    check(linen, same, batch)
    check(other, params, batch)
    np.testing.assert_allclose(linen.log_likelihood(same, batch), other.log_likelihood(params, batch), rtol=1e-5)
    np.testing.assert_allclose(linen.log_prior(same), other.log_prior(params), rtol=1e-6)
    x, y = batch
    residual = y - np.asarray(Small().apply({"params": same}, x))
    by_hand = -0.5 * np.sum(residual**2, axis=1) / 0.25 - np.log(2 * np.pi * 0.25)
    np.testing.assert_allclose(linen.log_likelihood(same, batch), by_hand, rtol=1e-4)
    np.testing.assert_allclose(linen.predict(same, x), other.predict(params, x), rtol=1e-4, atol=1e-6)


def test_nnx_modules_and_constructors_are_alike(key: jax.Array) -> None:
    made = from_nnx(SmallNnx(nnx.Rngs(5)), EXAMPLE)
    assert made == from_nnx(SmallNnx, EXAMPLE)
    assert hash(made) == hash(from_nnx(SmallNnx, EXAMPLE))


def test_made_twice_it_compiles_once(key: jax.Array) -> None:
    traces = 0

    @functools.partial(jax.jit, static_argnums=0)
    def prior(model: Any, params: Any) -> Any:
        nonlocal traces
        traces += 1
        return model.log_prior(params)

    params = from_linen(Small(), EXAMPLE).init(key)
    for _ in range(2):
        prior(from_linen(Small(), EXAMPLE, inputs=inputs, teacher=params), params)
    assert traces == 1
    prior(from_linen(Small(), EXAMPLE, inputs=inputs, teacher=jax.tree.map(jnp.zeros_like, params)), params)
    assert traces == 2


def test_target_controls_reach_the_data(key: jax.Array) -> None:
    model = from_linen(Small(), EXAMPLE, inputs=inputs, target=Turned(), controls=("target.angle",))
    assert model.controls == ("prior.scale", "likelihood.sigma", "target.angle")
    bound = model.bind({"target.angle": jnp.pi / 2, "likelihood.sigma": 1e-6})
    x, y = jax.jit(bound.sample, static_argnums=1)(key, 5)
    np.testing.assert_allclose(y, np.stack([np.zeros(5), x[:, 1]], axis=1), atol=1e-4)
    with pytest.raises(InputError, match=r"target\.slope"):
        from_linen(Small(), EXAMPLE, target=Turned(), controls=("target.slope",))


def test_teacher_is_the_truth(key: jax.Array) -> None:
    teacher = from_linen(Small(), EXAMPLE).init(key)
    model = from_linen(Small(), EXAMPLE, likelihood=Gaussian(0.1), inputs=inputs, teacher=teacher)
    truth = model.truth()
    assert truth is not None
    assert truth.loss == truth.entropy == pytest.approx(np.log(2 * np.pi * np.e * 0.01))
    nll = -np.asarray(model.log_likelihood(teacher, model.sample(key, 4000)))
    assert abs(nll.mean() - truth.loss) < 4 * nll.std() / 4000**0.5
    with pytest.raises(InputError, match="not both"):
        from_linen(Small(), EXAMPLE, inputs=inputs, teacher=teacher, target=Turned())


def test_classification(key: jax.Array) -> None:
    teacher = jax.tree.map(lambda leaf: 3 * leaf, from_linen(Small(3), EXAMPLE).init(key))
    model = from_linen(Small(3), EXAMPLE, likelihood=Categorical(), inputs=inputs, teacher=teacher)
    assert model.controls == ("prior.scale",)
    params, batch = model.init(jax.random.fold_in(key, 1)), model.sample(key, 2000)
    check(model, params, batch)
    x, y = batch
    logits = np.asarray(Small(3).apply({"params": params}, x), np.float64)
    by_hand = logits[np.arange(2000), y] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(model.log_likelihood(params, batch), by_hand, rtol=1e-4, atol=1e-4)
    probability = jax.nn.softmax(Small(3).apply({"params": teacher}, x))  # pyright: ignore[reportArgumentType]
    shares = np.asarray([jnp.mean(y == k) for k in range(3)])
    np.testing.assert_array_less(np.abs(shares - np.asarray(probability).mean(axis=0)), 4 * 0.5 / 2000**0.5)
    truth = model.truth()
    assert truth is not None
    assert truth.loss is None


@pytest.mark.usefixtures("x64")
def test_double_precision_reaches_the_networks(key: jax.Array) -> None:
    for model in (from_linen(Small(), EXAMPLE, inputs=inputs, target=Turned()), from_nnx(SmallNnx, EXAMPLE)):
        params = model.init(key)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
        assert model.predict(params, inputs(key, 4)).dtype == jnp.float64


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.BatchNorm(use_running_average=False)(x)


class NormalisedNnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(x)


def test_networks_with_state_are_refused() -> None:
    with pytest.raises(InputError, match="batch_stats"):
        from_linen(Normalised(), EXAMPLE)
    with pytest.raises(InputError, match="BatchStat"):
        from_nnx(NormalisedNnx, EXAMPLE)
    with pytest.raises(InputError, match="hashable"):
        from_linen(Small(sizes=[4]), EXAMPLE)


class Product(nn.Module):
    """x A B: linear in x; plus c where told."""

    shift: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2, use_bias=self.shift)(nn.Dense(4, use_bias=False)(x))


def test_linear_networks_are_known_as_such_and_others_refused() -> None:
    model = from_linen(Product(), EXAMPLE, linear=True)
    assert model.compress((jnp.ones((8, 3)), jnp.ones((8, 2))), 5)[0].shape == (3, 3)
    assert from_linen(Product(), EXAMPLE).compress((jnp.ones((8, 3)), jnp.ones((8, 2))), 5) is None
    for module in (Product(shift=True), Small()):
        with pytest.raises(InputError, match="not linear"):
            from_linen(module, EXAMPLE, linear=True)
    with pytest.raises(InputError, match="Gaussian"):
        from_linen(Product(), EXAMPLE, likelihood=Categorical(), linear=True)
    with pytest.raises(InputError, match="samples, inputs"):
        from_linen(Product(), jnp.zeros((1, 2, 3)), linear=True)


def test_frozen_trees_are_equal_by_content() -> None:
    tree = {"a": np.arange(3.0, dtype=np.float32), "b": (np.ones((2, 1), np.float32),)}
    assert Frozen(tree) == Frozen(jax.tree.map(np.copy, tree))
    assert hash(Frozen(tree)) == hash(Frozen(jax.tree.map(np.copy, tree)))
    assert Frozen(tree) != Frozen({**tree, "a": tree["a"] + 1})
    assert Frozen(tree) != Frozen({**tree, "a": tree["a"].reshape(3, 1)})
    jax.tree.map(np.testing.assert_array_equal, Frozen(tree).tree, tree)


# -------------------------------------------------------------------------------------------------------------- NumPyro


def regression(x: Any, y: Any = None, width: Any = 1.0) -> None:
    weights = numpyro.sample("w", dist.Normal(0, width).expand([2]).to_event(1))
    noise = numpyro.sample("s", dist.HalfNormal(2.0))
    shares = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    bound = numpyro.sample("u", dist.Uniform(0.0, noise))  # a support that moves with another site
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ weights + shares[0] * bound, noise), obs=y)


def data(key: jax.Array, num: int = 12) -> Any:
    x = jax.random.normal(key, (num, 2))
    return x, x @ jnp.array([1.0, -0.5]) + 0.3 * jax.random.normal(jax.random.fold_in(key, 1), (num,))


def test_program_has_numpyros_density(key: jax.Array) -> None:
    batch = data(key)
    model = from_numpyro(regression, batch, controls={"width": 1.0})
    assert model == from_numpyro(regression, batch, controls={"width": 1.0})
    for i in range(3):
        params = model.init(jax.random.fold_in(key, i))
        assert {name: jnp.shape(leaf) for name, leaf in params.items()} == {"w": (2,), "s": (), "p": (2,), "u": ()}
        check(model, params, batch)
        for width in (1.0, 2.5):
            bound = model.bind({"width": width})
            ours = jax.jit(lambda w, bound=bound: bound.log_prior(w) + jnp.sum(bound.log_likelihood(w, batch)))(params)
            with jax.numpy_dtype_promotion("standard"):
                theirs = -potential_energy(regression, batch, {"width": width}, params)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        sites = model.constrain(params)
        by_hand = dist.Normal(batch[0] @ sites["w"] + sites["p"][0] * sites["u"], sites["s"]).log_prob(batch[1])
        np.testing.assert_allclose(model.log_likelihood(params, batch), by_hand, rtol=1e-5)
        part = jax.tree.map(lambda leaf: leaf[3:7], batch)
        np.testing.assert_allclose(model.log_likelihood(params, part), by_hand[3:7], rtol=1e-5)


def two_axes(y: Any, z: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("outputs", 3, dim=-2), numpyro.plate("data", y.shape[0], dim=-1):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y.T)
    numpyro.sample("z", dist.Normal(mean, 2.0).expand([2]).to_event(1), obs=z)
    numpyro.factor("tilt", 0.1 * mean * z[:, 0])


def test_axis_of_samples_is_that_of_the_plate(key: jax.Array) -> None:
    """Observed sites of any layout, and factors, add up sample by sample."""
    y, z = jax.random.normal(key, (5, 3)), jax.random.normal(key, (5, 2))
    model = from_numpyro(two_axes, {"y": y, "z": z})
    params = {"mean": jnp.float32(0.4)}
    by_hand = dist.Normal(0.4, 1.0).log_prob(y).sum(1) + dist.Normal(0.4, 2.0).log_prob(z).sum(1) + 0.04 * z[:, 0]
    np.testing.assert_allclose(model.log_likelihood(params, {"y": y, "z": z}), by_hand, rtol=1e-5)


def test_program_samples_when_told_how(key: jax.Array) -> None:
    model = from_numpyro(regression, data(key), sample=data)
    jax.tree.map(np.testing.assert_array_equal, model.sample(key, 7), data(key, 7))
    with pytest.raises(InputError, match="give data"):
        from_numpyro(regression, data(key)).sample(key, 7)


def subsampled(x: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0, 1))
    with numpyro.plate("data", x.shape[0], subsample_size=2):
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y[:2])


def one_each(x: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0, 1))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(w, 1)), 1.0), obs=y)


def summed(x: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(w, 1.0).expand(y.shape).to_event(1), obs=y)


def discrete(x: Any, y: Any) -> None:
    numpyro.sample("y", dist.Normal(numpyro.sample("k", dist.Poisson(1.0)), 1.0), obs=y)


def no_parameters(x: Any, y: Any) -> None:
    numpyro.sample("y", dist.Normal(0, 1.0), obs=y)


def no_data(x: Any, y: Any) -> None:
    numpyro.sample("w", dist.Normal(0, 1.0))


def point_parameter(x: Any, y: Any) -> None:
    w = numpyro.param("v", 1.0) + numpyro.sample("w", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


def improper(x: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


REFUSED = [
    (subsampled, "data, 2 of 12"),
    (one_each, "'z'"),
    (summed, "site y"),
    (discrete, "'k'"),
    (no_parameters, "no parameters"),
    (no_data, "observes nothing"),
    (point_parameter, "'v'"),
    (improper, "cannot be sampled"),
]


@pytest.mark.parametrize("program, shown", REFUSED, ids=[program.__name__ for program, _ in REFUSED])
def test_programs_that_are_refused(program: Any, shown: str, key: jax.Array) -> None:
    with pytest.raises(InputError, match=shown):
        from_numpyro(program, data(key))


def scale_model(y: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(mean, noise), obs=y)


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_nuts_of_numpyro_draws_from_our_density(key: jax.Array) -> None:
    """NUTS on the program itself, by NumPyro, and the exact moments of our density, by quadrature, agree."""
    y = 0.5 + 0.8 * jax.random.normal(key, (10,))
    model = from_numpyro(scale_model, y)
    means, noises = np.linspace(-2, 3, 301), np.linspace(-3, 2.5, 301)
    grid = {"mean": jnp.repeat(means, 301), "noise": jnp.tile(noises, 301)}  # noise on its unconstrained scale
    log_density = jax.jit(jax.vmap(lambda w: model.log_prior(w) + jnp.sum(model.log_likelihood(w, y))))(grid)
    mass = np.exp(np.asarray(log_density, np.float64) - float(jnp.max(log_density)))
    mass /= mass.sum()
    values = {"mean": np.asarray(grid["mean"]), "noise": np.exp(np.asarray(grid["noise"]))}
    sampler = MCMC(NUTS(scale_model), num_warmup=500, num_samples=2000, progress_bar=False)
    sampler.run(jax.random.fold_in(key, 2), y)
    for name, draws in sampler.get_samples().items():
        for power in (1, 2):
            blocks = np.asarray(draws, np.float64).reshape(40, 50) ** power  # longer than the autocorrelation
            estimate = stats.Estimate(blocks.mean(), blocks.mean(axis=1).std(ddof=1) / 40**0.5)
            stats.assert_close(estimate, mass @ values[name] ** power, max_stderr=0.05, what=f"{name}^{power}")
