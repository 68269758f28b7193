"""Every sampler against closed forms: gaussian location, linear regression and a stiff correlated Gaussian, all in one
program. Exact samplers get no allowance; the others a bias bound stated here, from the step size alone."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from samplers import targets
from samplers.harness import Outcome, run, spread
from stats import Estimate, assert_close

import slt.samplers as ss
from slt.posterior import Posterior
from slt.samplers import Sampler

CHAINS = 256


def measured(
    sampler: Sampler,
    exacts: list[targets.Exact],
    draws: int,
    per: int = 1,
    burn_in: int = 0,
    names: tuple[str, ...] = targets.NAMES,
    size: int = targets.SIZE,
    **columns: Any,
) -> list[tuple[Estimate, Estimate, Estimate]]:
    """Per target: deviations of the mean in posterior standard deviations, variances along the eigenvectors of the
    posterior over the true ones, and E[n beta (L - L*)] over the true one."""
    posteriors, _ = targets.posteriors(names, control_variate=sampler.wants_reference_grad, size=size)
    outcome = run(
        spread(sampler, len(exacts), **columns), posteriors, targets.starts(exacts, CHAINS), targets.moments,
        draws=draws, per=per, burn_in=burn_in,
    )  # fmt: skip
    return against(outcome, exacts)


def against(outcome: Outcome, exacts: list[targets.Exact]) -> list[tuple[Estimate, Estimate, Estimate]]:
    """What `measured` returns, from a run that folded `targets.moments`."""
    means = {name: np.asarray(leaf, np.float64) for name, leaf in outcome.chain_means.items()}
    found = []
    for cell, exact in enumerate(exacts):
        values, vectors = np.linalg.eigh(exact.precision)
        offset = exact.mean - exact.centre
        deviation = (means["mean"][cell] - offset) @ vectors * np.sqrt(values)
        about = means["outer"][cell] - 2 * means["mean"][cell][:, :, None] * offset + np.outer(offset, offset)
        variance = np.einsum("cij,ik,jk->ck", (about + about.transpose(0, 2, 1)) / 2, vectors, vectors) * values
        found.append((_over(deviation), _over(variance), _over(means["energy"][cell][:, None] / exact.energy)))
    return found


def _over(chains: np.ndarray) -> Estimate:
    return Estimate(chains.mean(0), chains.std(0, ddof=1) / np.sqrt(len(chains)))


def assert_within(estimate: Estimate, exact: Any, bias: Any, max_stderr: float, what: str) -> None:
    """Within [exact - bias, exact + bias] up to 4 standard errors, themselves bounded."""
    nearest = np.clip(estimate.value, exact - np.asarray(bias), exact + np.asarray(bias))
    assert_close(estimate, nearest, max_stderr, what=what)


EXACT = {
    "mala": (ss.MALA(), 4000),
    "hmc": (ss.HMC(), 600),
    "hmc-diagonal": (ss.HMC(diagonal=True), 600),
    "nuts": (ss.NUTS(), 150),
    "mclmc": (ss.MCLMC(), 1000),
}


def tuned(posterior: Posterior, position: Any, info: Any) -> dict[str, Any]:
    step = jnp.log(info.diagnostics["step_size"])
    return targets.moments(posterior, position, info) | {"rate": info.acceptance, "step": step}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("hmc", "mala") else pytest.mark.statistics) for name in EXACT]
)
def test_exact_samplers_have_no_bias_and_tune_themselves(name: str) -> None:
    sampler, draws = EXACT[name]
    assert sampler.exact
    posteriors, exacts = targets.posteriors()
    # from a step a million times too small, at three curvatures at once
    outcome = run(
        spread(sampler, 3, step_size=[1e-8] * 3), posteriors, targets.starts(exacts, CHAINS), tuned,
        draws=draws, burn_in=300,
    )  # fmt: skip
    for target, (mean, variance, energy) in zip(targets.NAMES, against(outcome, exacts), strict=True):
        assert_close(mean, 0.0, 0.03, what=f"mean of {target}")
        assert_close(variance, 1.0, 0.05, what=f"variances of {target}")
        assert_close(energy, 1.0, 0.03, what=f"energy of {target}")
    rate = np.asarray(outcome.chain_means["rate"]).mean(1)
    assert (np.abs(rate - sampler.target) < 0.15).all(), rate
    # one step per chain, constant after burn-in but for the first draw, which still has the exploring one
    last = np.log(np.asarray(outcome.info.diagnostics["step_size"]))
    assert np.abs(np.asarray(outcome.chain_means["step"]) - last).max() < 0.05
    assert np.unique(last).size > CHAINS


# eps times the largest curvature, by target. The stiff one has a hundred times slower direction, so a larger step.
STEP = np.array([0.04, 0.04, 0.2])


def sghmc_bias(step: np.ndarray) -> np.ndarray:
    """1/(1 - eps h / (1 + a)) - 1 at friction sqrt(h): see SGHMC."""
    return 1 / (1 - step / (1 + np.exp(-np.sqrt(2 * step)))) - 1


# sampler -> (sampler, bias of variances and energy as a function of eps h). Stated from the step before any run.
BIASED = {
    "sgld": (ss.SGLD(), lambda step: 1 / (1 - step / 2) - 1),
    # G has mean 1 over two coordinates, so the preconditioned curvature is at most twice the curvature
    "psgld-frozen": (ss.PSGLD(), lambda step: 1 / (1 - step) - 1),
    "sghmc": (ss.SGHMC(), sghmc_bias),
    "baoab": (ss.BAOAB(), np.zeros_like),
    # a fluctuating xi adds to the bias of a steady one, which is SGHMC's: allow as much again
    "sgnht": (ss.SGNHT(xi=0.0), lambda step: 2 * sghmc_bias(step)),
    "badodab": (ss.BADODAB(xi=0.0), lambda step: step / 2),
}


def columns_of(sampler: Sampler, step: np.ndarray, exacts: list[targets.Exact]) -> dict[str, np.ndarray]:
    curvature = np.array([exact.curvature for exact in exacts])
    rates = {"friction": np.sqrt(curvature)} if hasattr(sampler, "friction") else {}
    return {"step_size": step / curvature, **rates}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("sgld", "baoab") else pytest.mark.statistics) for name in BIASED]
)
def test_biased_samplers_keep_their_stated_bound(name: str) -> None:
    sampler, bound = BIASED[name]
    assert not sampler.exact
    _, exacts = targets.posteriors()
    found = measured(sampler, exacts, 3000, 3, burn_in=300, **columns_of(sampler, STEP, exacts))
    for target, bias, (mean, variance, energy) in zip(targets.NAMES, bound(STEP), found, strict=True):
        assert_close(mean, 0.0, 0.04, what=f"mean of {target}")
        assert_within(variance, 1.0, bias, 0.03, f"variances of {target}")
        assert_within(energy, 1.0, bias, 0.02, f"energy of {target}")


def discretised(name: str, step: float, ratio: np.ndarray) -> np.ndarray:
    """Stationary variance over the true one along directions whose curvatures are `ratio` of the largest: exact."""
    if name == "sgld":
        return 1 / (1 - step * ratio / 2)
    if name == "sghmc":
        return 1 / (1 - step * ratio / (1 + np.exp(-np.sqrt(2 * step))))
    return np.ones_like(ratio)


@pytest.mark.statistics
@pytest.mark.parametrize("name", ["sgld", "sghmc", "baoab"])
@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_linear_schemes_have_the_variance_that_theory_gives_them(name: str, shrink: int) -> None:
    # at three steps, so the order of the bias in the step is tested too
    sampler, _ = BIASED[name]
    _, exacts = targets.posteriors()
    step = 2 * STEP / shrink
    found = measured(sampler, exacts, 5000, 8, burn_in=300, **columns_of(sampler, step, exacts))
    for at, exact, (_, variance, _) in zip(step, exacts, found, strict=True):
        ratio = np.linalg.eigvalsh(exact.precision) / exact.curvature
        assert_close(variance, discretised(name, at, ratio), 0.03, what=f"variances at eps h = {at}")


def test_rmsprop_is_biased_unless_frozen() -> None:
    # the drift leaves out div G, which a smaller step does not mend: see PSGLD
    _, exacts = targets.posteriors()
    step = np.array([0.01, 0.01, 0.05])
    moving = measured(ss.PSGLD(frozen=False), exacts, 1000, 9, burn_in=300, **columns_of(ss.PSGLD(), step, exacts))
    _, variance, _ = moving[0]
    assert (variance.value - 1 > 0.05).all()
    assert (variance.stderr < 0.02).all()


def test_thermostats_start_at_zero_and_settle_at_the_friction() -> None:
    _, exacts = targets.posteriors()
    for cls in (ss.SGNHT, ss.BADODAB):
        sampler = cls(xi=0.0)
        columns = columns_of(sampler, STEP, exacts)
        posteriors, _ = targets.posteriors()
        outcome = run(
            spread(sampler, 3, **columns), posteriors, targets.starts(exacts, CHAINS),
            lambda posterior, position, info: info.diagnostics["xi"], draws=2000, burn_in=500,
        )  # fmt: skip
        settled = np.asarray(outcome.chain_means).mean(1) / columns["friction"]
        assert (np.abs(settled - 1) < 0.25).all(), settled
