"""The contract of a model: what `check` refuses, what a user's own model needs, controls, potentials, truths."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt.model import PRECISIONS, Model, Rounded, Truth, check, potential
from slt.models import deep_linear
from slt.phases import Basin, by_threshold
from slt.posterior import Posterior
from slt.priors import Flat, Gaussian, Normal, Uniform
from slt.typing import InputError


@dataclass(frozen=True)
class Slope(Model):
    """The model a user would write: y = w x + N(0, sigma^2), no truth, no data of its own."""

    prior: Normal | Uniform = Normal()  # noqa: RUF009  (frozen)
    likelihood: Gaussian = Gaussian()  # noqa: RUF009
    factor: float = 1.0
    controls: ClassVar[tuple[str, ...]] = ("factor", "prior.scale", "likelihood.sigma")

    def init(self, key: Any) -> Any:
        return {"w": self.prior.sample(key, jnp.zeros(()))}

    def log_prior(self, params: Any) -> Any:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Any, batch: Any) -> Any:
        x, y = batch
        return self.likelihood.log_density(self.factor * params["w"] * x, y)


class Summed(Slope):
    def log_likelihood(self, params: Any, batch: Any) -> Any:
        return jnp.sum(super().log_likelihood(params, batch))


class Loose(Slope):
    def log_prior(self, params: Any) -> Any:
        return params["w"] * jnp.ones(3)


@dataclass(frozen=True)
class Listed(Slope):
    widths: Any = ()


BATCH = (jnp.ones(5), jnp.arange(5.0))
START = {"w": jnp.float32(0.3)}


def test_check_accepts_a_users_model() -> None:
    check(Slope(), START, BATCH)
    check(Listed(widths=(3, 4)), START, BATCH)


REFUSED = [
    (Slope, START, BATCH, "Model", "slt.Model"),
    (Listed(widths=[3]), START, BATCH, "hashable", "tuples"),
    (Slope(), START, (jnp.ones(5), jnp.ones(4)), "same length", "[4, 5]"),
    (Summed(), START, BATCH, "one value a sample", "log_likelihood = ()"),
    (Loose(), START, BATCH, "scalar", "log_prior = (3,)"),
    (Slope(prior=Uniform(0.5, 1.0)), START, BATCH, "not finite at the start", "log_prior = -inf"),
]


@pytest.mark.parametrize("model, params, batch, cure, shown", REFUSED, ids=[case[3] for case in REFUSED])
def test_check_refuses(model: Any, params: Any, batch: Any, cure: str, shown: str) -> None:
    with pytest.raises(InputError) as error:
        check(model, params, batch)
    assert cure in str(error.value)
    assert shown in str(error.value)


def test_binding_a_control_replaces_it_and_nothing_else() -> None:
    model = Slope()
    bound = model.bind({"prior.scale": 2.0, "factor": 3.0})
    assert bound == Slope(prior=Normal(2.0), factor=3.0)
    assert model == Slope()
    assert model.bind({}) == model
    assert (bound.control_value("prior.scale"), bound.control_value("likelihood.sigma")) == (2.0, 1.0)
    with pytest.raises(InputError, match="prior\\.low"):
        model.bind({"prior.low": 1.0})


def test_bound_controls_may_be_traced_and_differentiated() -> None:
    """d/dscale log N(w; 0, scale^2) = (w/scale)^2/scale - 1/scale; no validation is run on the tracer."""
    grad = jax.jit(jax.grad(lambda scale: Slope().bind({"prior.scale": scale}).log_prior(START)))
    np.testing.assert_allclose(grad(2.0), 0.3**2 / 8 - 0.5, rtol=1e-5)
    many = jax.vmap(lambda factor: Slope().bind({"factor": factor}).log_likelihood(START, BATCH))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(many[1], Slope(factor=2.0).log_likelihood(START, BATCH))


def test_a_model_without_a_truth_asks_for_data(key: jax.Array) -> None:
    assert Slope().truth() is None
    with pytest.raises(InputError, match="give data"):
        Slope().sample(key, 3)


def hill(w: Any, field: Any = 0.0) -> Any:
    return jnp.sum(jnp.square(w)) - field * w[0]


def test_potential_is_a_model_of_one_sample(key: jax.Array) -> None:
    """Its posterior at beta = t has log density -t (K(w) - K(w_ref)) + log prior(w)."""
    model = potential(hill, 2, Normal(), controls={"field": 0.5}, scale_note="a note")
    assert model == potential(hill, 2, Normal(), controls={"field": 0.5}, scale_note="a note")
    assert model.is_potential
    assert model.controls == ("field",)
    params, batch = model.init(key), model.sample(key, 1)
    check(model, params, batch)
    centre = jnp.zeros(2)
    posterior = Posterior.build(model, batch, 1, 7.0, centre=centre, control={"field": 2.0})
    expected = -7.0 * (hill(params, 2.0) - hill(centre, 2.0)) + model.log_prior(params)
    np.testing.assert_allclose(posterior.log_density(params), expected, rtol=1e-5)
    assert model.bind({"field": 2.0}).control_value("field") == 2.0
    assert model.control_value("field") == 0.5
    with pytest.raises(InputError, match="slope"):
        model.bind({"slope": 1.0})
    with pytest.raises(InputError, match="dim"):
        potential(hill, 0, Normal())


def test_priors_of_potentials_bound_their_support() -> None:
    assert potential(hill, 1, Uniform(-2.0, 3.0)).support == (-2.0, 3.0)
    assert potential(hill, 1, Normal()).support is None
    assert potential(hill, 1, Flat()).log_prior(jnp.ones(1)) == 0.0


def test_only_matrix_products_of_a_likelihood_are_rounded() -> None:
    """Forwards and backwards, under bound controls; not the prior, and nothing in double precision."""
    model = deep_linear.make((3, 2, 3), prior=Normal(2.0))
    rounded = Rounded(model, "bf16")
    assert hash(rounded) == hash(Rounded(model, "bf16"))
    assert rounded != Rounded(model, "tf32")

    def products(model: Model, dtype: Any) -> list[str]:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.init(jax.random.key(0)))
        batch = (jnp.ones((9, 3), dtype), jnp.ones((9, 3), dtype))
        posterior = Posterior.build(model, batch, 9, 1.0, centre=params, gamma=1.0, control={"target.scale": 2.0})
        traced = str(jax.make_jaxpr(posterior.value_and_grad)(params))
        return re.findall(r"dot_general\[.*?precision=(.*?)\n", traced, re.DOTALL)

    assert len(products(model, jnp.float32)) >= 4
    assert all("BF16_BF16_F32" in one for one in products(rounded, jnp.float32))
    with jax.enable_x64(True):
        assert not any("BF16" in one for one in products(rounded, jnp.float64))
    with pytest.raises(InputError, match="tf32"):
        Rounded(model, "half")
    assert next(iter(PRECISIONS)) == "highest"


def first(w: Any) -> Any:
    return w[0]


def test_truth_finds_basins_and_names_what_it_knows() -> None:
    phases = by_threshold(("left", "right"), first, 0.0, "sign of w[0]")
    truth = Truth(basins=(Basin("left", jnp.array([-1.0]), "left"),), phases=phases)
    assert truth.basin("left").phase == "left"
    with pytest.raises(InputError, match="known are: left"):
        truth.basin("top")
    with pytest.raises(InputError, match="known are: none"):
        Truth().basin("top")
    assert [int(phases.label(jnp.array([x]))) for x in (-0.1, 0.0)] == [0, 1]
    assert phases == by_threshold(("left", "right"), first, 0.0, "sign of w[0]")
    assert hash(phases) == hash(by_threshold(("left", "right"), first, 0.0, "sign of w[0]"))
    assert phases.index("right") == 1
    with pytest.raises(InputError, match="left, right"):
        phases.index("top")
    with pytest.raises(InputError, match="each once"):
        by_threshold(("a", "a"), first, 0.0, "")
