"""The BlackJAX samplers: what burn-in tunes and what it leaves alone, the edges, and an outside reference."""

import functools
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from numpyro.infer import NUTS as Outside
from samplers import targets
from samplers.harness import run, spread
from stats import Estimate, assert_close

import slt.samplers as ss
from slt.model import potential
from slt.posterior import Posterior
from slt.priors import Normal, Uniform
from slt.typing import InputError


def acceptance(posterior: Posterior, position: jax.Array, info: Any) -> dict[str, jax.Array]:
    return {"rate": info.acceptance, "step": jnp.log(info.diagnostics["step_size"])}


def test_an_untuned_step_is_the_one_given() -> None:
    posteriors, exacts = targets.posteriors()
    sampler = spread(ss.MALA(tune=False), 3, step_size=[0.001, 0.002, 0.0001])
    outcome = run(sampler, posteriors, targets.starts(exacts, 4), acceptance, draws=10, burn_in=10)
    np.testing.assert_allclose(
        np.exp(np.asarray(outcome.chain_means["step"])), np.full((3, 4), [[0.001], [0.002], [0.0001]]), rtol=1e-5
    )


def test_a_diagonal_metric_learns_the_scales() -> None:
    # axes of standard deviations .01 and 1: with the metric HMC mixes in both
    scale = jnp.array([0.01, 1.0])
    model = potential(lambda w: 0.5 * jnp.sum(jnp.square(w / scale)), 2, Normal(100.0))
    one = Posterior.build(model, jnp.zeros((1, 0)), 1, 1.0, centre=jnp.zeros(2))
    posterior = jax.tree.map(lambda leaf: leaf[None], one)
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 2)), jnp.result_type(float)) * scale

    def variance(posterior: Posterior, position: jax.Array, info: Any) -> jax.Array:
        return jnp.square(position / scale)

    outcome = run(spread(ss.HMC(diagonal=True), 1), posterior, starts, variance, draws=400, burn_in=1000)
    assert_close(outcome.estimates(), 1.0, 0.03, what="variances under the learned metric")
    metric = np.asarray(outcome.state.metric.inverse_mass)[0]
    ratio = np.median(metric[:, 1] / metric[:, 0])
    assert 0.5e4 < ratio < 2e4, ratio


def test_mclmc_refuses_one_dimension_before_any_compute() -> None:
    model = potential(lambda w: w[0] ** 4, 1, Normal())
    posterior = Posterior.build(model, jnp.zeros((1, 0)), 1, 1.0, centre=jnp.zeros(1))
    with pytest.raises(InputError, match="at least two free parameters"):
        ss.MCLMC()(posterior)


@pytest.mark.parametrize("cls", [ss.HMC, pytest.param(ss.MALA, marks=pytest.mark.statistics)])
def test_a_flat_density_in_a_box_is_sampled(cls: type[ss.Sampler]) -> None:
    # t = 0: every step is accepted, so the search for one must stop by itself
    model = potential(lambda w: w[0] ** 4, 1, Uniform(-1.0, 1.0))
    one = Posterior.build(model, jnp.zeros((1, 0)), 1, 0.0, centre=jnp.zeros(1))
    outcome = run(
        spread(cls(), 1), jax.tree.map(lambda leaf: leaf[None], one), jnp.zeros((1, 500, 1)),
        lambda posterior, position, info: position[0] ** 2, draws=100, burn_in=200,
    )  # fmt: skip
    assert_close(outcome.estimates(), 1 / 3, 0.01)


@pytest.mark.parametrize(
    "sampler",
    [
        ss.from_blackjax(
            functools.partial(blackjax.hmc, inverse_mass_matrix=np.ones(2), num_integration_steps=5), step_size=0.1
        ),
        ss.from_blackjax(blackjax.mala, step_size=0.05),
    ],
    ids=["hmc", "mala"],
)
def test_any_blackjax_algorithm_in_one_line(sampler: ss.Sampler) -> None:
    posteriors, [exact] = targets.posteriors(("location",))
    outcome = run(
        spread(sampler, 1), posteriors, targets.starts([exact], 256),
        lambda posterior, position, info: jnp.square(position - posterior.centre), draws=500, burn_in=10,
    )  # fmt: skip
    offset = exact.mean - exact.centre
    assert_close(outcome.estimates(), np.diag(exact.covariance) + offset**2, 0.05 * exact.covariance.max())
    assert outcome.info.acceptance is not None


def test_unadjusted_mclmc_through_the_bridge() -> None:
    # the sampler whose init needs a key, and whose bias is its own: variances within 5 per cent at this step
    sampler = ss.from_blackjax(blackjax.mclmc, L=1.0, step_size=0.1)
    posteriors, [exact] = targets.posteriors(("location",))
    outcome = run(
        spread(sampler, 1), posteriors, targets.starts([exact], 256),
        lambda posterior, position, info: jnp.square(position - posterior.centre), draws=1000, burn_in=100,
    )  # fmt: skip
    offset = exact.mean - exact.centre
    ratio = outcome.estimates().value / (np.diag(exact.covariance) + offset**2)
    assert (np.abs(ratio - 1) < 0.05).all()


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_numpyro_agrees_on_a_banana() -> None:
    # no closed form: w0 ~ N(0, 2), y = 1 seen as w1 + w0^2 / 4 with noise .5; NumPyro's NUTS is the outside reference
    def program() -> None:
        w0 = numpyro.sample("w0", dist.Normal(0.0, 2.0))
        w1 = numpyro.sample("w1", dist.Normal(0.0, 2.0))
        numpyro.sample("y", dist.Normal(w1 + w0**2 / 4, 0.5), obs=1.0)

    outside = MCMC(
        Outside(program), num_warmup=500, num_samples=1500, num_chains=16, chain_method="vectorized", progress_bar=False
    )
    outside.run(jax.random.key(0))
    theirs = outside.get_samples(group_by_chain=True)
    chains = np.stack([np.asarray(theirs["w1"]).mean(1), np.square(np.asarray(theirs["w0"])).mean(1)], -1)

    model = potential(lambda w: 2 * jnp.square(1 - w[1] - jnp.square(w[0]) / 4), 2, Normal(2.0))
    one = Posterior.build(model, jnp.zeros((1, 0)), 1, 1.0, centre=jnp.array([0.0, 1.0]))
    outcome = run(
        spread(ss.HMC(), 1), jax.tree.map(lambda leaf: leaf[None], one), jnp.zeros((1, 128, 2)),
        lambda posterior, position, info: jnp.stack([position[1], jnp.square(position[0])]), draws=1500, burn_in=400,
    )  # fmt: skip
    ours = outcome.estimates()
    joint = np.sqrt(ours.stderr[0] ** 2 + chains.var(0, ddof=1) / 16)
    assert_close(Estimate(ours.value[0] - chains.mean(0), joint), 0.0, [0.03, 0.1], what="HMC less NumPyro's NUTS")
