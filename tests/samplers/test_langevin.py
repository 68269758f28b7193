"""What unadjusted samplers claim beyond Gaussians and exact gradients: orders, minibatches, control variates, boxes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import targets
from samplers.harness import run, spread
from samplers.test_truth import BIASED, assert_within, columns_of, measured
from scipy import special
from stats import assert_close

import slt.samplers as ss
from slt.model import potential
from slt.posterior import Posterior
from slt.priors import Flat, Prior, Uniform
from slt.samplers import Sampler


def quartic(w: jax.Array) -> jax.Array:
    return w[0] ** 4


def landscape(fn: Any, prior: Prior, cells: int, t: float = 1.0) -> Posterior:
    """The same potential `cells` times."""
    model = potential(fn, 1, prior)
    one = Posterior.build(model, jnp.zeros((1, 0)), 1, t, centre=jnp.zeros(1))
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (cells, *leaf.shape)), one)


def energy(posterior: Posterior, position: jax.Array, info: Any) -> jax.Array:
    return posterior.nbeta * posterior.delta(position)


def quartic_energy(sampler: Sampler, steps: list[float], chains: int, draws: int, **columns: Any):
    """E[w^4] at each step, started from exact draws; truth 1/4."""
    cells = len(steps)
    rng = np.random.default_rng(3)
    w = rng.gamma(0.25, size=(cells, chains, 1)) ** 0.25 * rng.choice([-1, 1], (cells, chains, 1))
    wide = spread(sampler, cells, step_size=steps, **columns)
    outcome = run(
        wide, landscape(quartic, Flat(), cells), jnp.asarray(w, jnp.result_type(float)), energy,
        draws=draws, per=4, burn_in=200,
    )  # fmt: skip
    return outcome.estimates()


@pytest.mark.slow
def test_baoab_has_a_fifth_of_the_bias_of_sgld_on_a_quartic() -> None:
    # eps = dt^2/2 <= .02, friction 2; science.md 0c: .0002 against .0114
    steps = [0.02, 0.01]
    sgld = quartic_energy(ss.SGLD(), steps, 4000, 1500)
    baoab = quartic_energy(ss.BAOAB(friction=2.0), steps, 4000, 1500)
    bias = sgld.value - 0.25
    assert_close(sgld, [0.25 + 0.0114, 0.25 + 0.0057], 0.0008, what="SGLD")  # halves with the step
    assert_within(baoab, 0.25, np.abs(bias) / 5, 0.0004, "BAOAB")


@pytest.mark.statistics
def test_orders_in_the_step_on_a_quartic() -> None:
    # all biases are of order eps; the splittings' are a fifth the size or less
    steps = [0.02, 0.01, 0.005]
    for name, factor in (("sgld", 1), ("sghmc", 1), ("sgnht", 1), ("badodab", 5), ("baoab", 5)):
        sampler, _ = BIASED[name]
        columns = {"friction": [2.0] * 3} if name != "sgld" else {}
        found = quartic_energy(sampler, steps, 8000, 6000, **columns)
        limit = np.array(steps) * 0.7 / factor
        assert_within(found, 0.25, limit, 0.0008, name)


LARGE = 64  # samples, in minibatches of 8
MINI = {"batch_size": LARGE // 8}


def minibatched(sampler: Sampler, name: str, step: float, draws: int, size: int = LARGE) -> Any:
    """(mean, variances, energy) on one target."""
    _, exacts = targets.posteriors((name,), size=size)
    columns = columns_of(sampler, np.array([step]), exacts)
    [found] = measured(sampler, exacts, draws, 4, burn_in=500, names=(name,), size=size, **columns)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("cls", [ss.SGNHT, ss.BADODAB])
def test_thermostats_take_up_isotropic_noise(cls: type[Sampler]) -> None:
    # gaussian location, n/8, eps h = .02, friction sqrt(h): variance error below half of SGLD's, which is known:
    # minibatch noise V = n^2/b makes its variance (1 + eps V/2)/(1 - eps h/2) times too large
    sgld = (1 + 0.02 / (LARGE + 0.25) * LARGE * 8 / 2) / (1 - 0.01) - 1
    mean, variance, _ = minibatched(cls(**MINI), "location", 0.02, 1500)
    assert_close(mean, 0.0, 0.02, what="mean")
    assert_within(variance, 1.0, sgld / 2 - 4 * variance.stderr.max(), 0.006, "variances")


def test_minibatch_noise_heats_sgld_as_theory_says() -> None:
    step = 0.1
    expected = (1 + step / (LARGE + 0.25) * LARGE * 8 / 2) / (1 - step / 2)
    _, variance, _ = minibatched(ss.SGLD(**MINI), "location", step, 1000)
    assert_close(variance, expected, 0.02, what="variances")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "badodab" else pytest.mark.statistics) for name in BIASED],
)
def test_control_variate_meets_the_full_batch_bound_plus_two_per_cent(name: str) -> None:
    # what noise the control variate leaves falls with the size b of the minibatch, not with n/b: here b = 32, n = 256
    sampler, bound = BIASED[name]
    noisy = type(sampler)(batch_size=32, control_variate=True)
    limit = float(bound(np.array(0.05))) + 0.02
    for target in ("location", "regression"):
        mean, variance, energy = minibatched(noisy, target, 0.05, 500, 256)
        assert_close(mean, 0.0, 0.03, what=f"mean of {target}")
        assert_within(variance, 1.0, limit, 0.03, f"variances of {target}")
        assert_within(energy, 1.0, limit, 0.03, f"energy of {target}")


@pytest.mark.statistics
def test_sghmc_makes_up_for_a_known_gradient_noise() -> None:
    precision, size = LARGE + 0.25, LARGE // 8
    noise = LARGE**2 / size  # n^2 / b times unit variance of z_i - w
    _, plain, _ = minibatched(ss.SGHMC(**MINI), "location", 0.02, 5000)
    _, corrected, _ = minibatched(ss.SGHMC(**MINI, gradient_noise=noise), "location", 0.02, 5000)
    assert (plain.value > 1.5).all()
    assert_within(corrected, 1.0, 0.15, 0.02, f"variances with the noise {noise} of precision {precision} made up for")


def test_reflection_keeps_a_box_exactly_uniform() -> None:
    # t = 0: only the prior is left, and samplers that move by reflection have it exactly
    samplers = [ss.SGLD(), ss.BADODAB()]
    rng = np.random.default_rng(0)
    starts = jnp.asarray(rng.uniform(-1, 2, (1, 2000, 1)), jnp.result_type(float))
    quantile = np.array([0.1, 0.25, 0.5, 0.9])

    def below(posterior: Posterior, position: jax.Array, info: Any) -> jax.Array:
        return (position[0] < jnp.asarray(-1 + 3 * quantile)).astype(position.dtype)

    for sampler in samplers:
        outcome = run(
            spread(sampler, 1, step_size=[0.3]), landscape(quartic, Uniform(-1.0, 2.0), 1, 0.0), starts, below,
            draws=50, burn_in=50,
        )  # fmt: skip
        assert_close(outcome.estimates(), quantile, 0.005, what=type(sampler).__name__)
        assert (np.abs(np.asarray(outcome.state.position) - 0.5) <= 1.5).all()


@pytest.mark.slow
def test_box_cuts_a_quartic_where_the_prior_ends() -> None:
    # exp(-w^4) on [-0.8, 0.5]: incomplete gamma functions
    def part(k: int, edge: float) -> float:
        return special.gammainc((k + 1) / 4, edge**4) * special.gamma((k + 1) / 4) / 4

    exact = (part(4, 0.8) + part(4, 0.5)) / (part(0, 0.8) + part(0, 0.5))
    starts = jnp.zeros((1, 1000, 1))
    for sampler, bias in ((ss.BAOAB(friction=2.0), 0.002), (ss.HMC(), 0.0)):
        outcome = run(
            spread(sampler, 1, step_size=[0.01]), landscape(quartic, Uniform(-0.8, 0.5), 1), starts, energy,
            draws=300, per=2, burn_in=200,
        )  # fmt: skip
        assert_within(outcome.estimates(), exact, bias, 0.0008, type(sampler).__name__)
