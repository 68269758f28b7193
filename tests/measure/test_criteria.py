"""Criteria by sampling against closed forms: regressions, that of science.md B3 first; one tanh unit by quadrature."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_close, assert_coverage

from slt import samplers
from slt.engine import Schedule, Start
from slt.engine.program import programs
from slt.measure import predictive
from slt.measure.criteria import Criteria, criteria
from slt.measure.equations_of_state import equations_of_state
from slt.model import Model, potential
from slt.models import superposition, tanh
from slt.models.linear_regression import EXAMPLE_DESIGN, LinearRegression, example
from slt.posterior import Restriction
from slt.priors import Normal
from slt.theory.regression import generalisation, linear_regression, wbic
from slt.typing import Estimate, InputError

B3 = LinearRegression(design=EXAMPLE_DESIGN)
SHORT = Schedule(draws=600, chains=16, burn_in=200)
LONGER = Schedule(draws=2200, chains=16, burn_in=200)


def assert_regression(found: Criteria, x, y, truth=None, inputs=None, **bounds) -> None:
    """Every number against its closed form, within 3 standard errors that are bounded."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    exact = linear_regression(x, y)
    known = {
        "bayes_training_loss": exact.training_loss,
        "gibbs_training_loss": exact.gibbs_training_loss,
        "functional_variance": exact.functional_variance,
        "singular_fluctuation": exact.singular_fluctuation,
        "waic": exact.waic,
        "wbic": wbic(x, y),
        "loo": left_out(x, y),
    }
    if truth is not None:
        new = generalisation(exact, inputs, truth)
        for kind in ("bayes", "gibbs"):
            known[f"{kind}_generalisation_loss"] = getattr(new, f"{kind}_loss")
            known[f"{kind}_generalisation_error"] = getattr(new, f"{kind}_error")
    for name, value in known.items():
        assert_close(getattr(found, name), value, bounds.get(name, 0.005), sigmas=3, what=name)


def left_out(x, y):
    """Exact leave-one-out loss: the posterior without sample i, and its predictive at i, for every i."""
    losses = []
    for i in range(len(y)):
        rest, others = np.delete(x, i, axis=0), np.delete(y, i)
        cov = np.linalg.inv(rest.T @ rest + np.eye(x.shape[1]))
        width, off = 1 + x[i] @ cov @ x[i], y[i] - x[i] @ cov @ rest.T @ others
        losses.append(0.5 * np.log(2 * np.pi * width) + 0.5 * off**2 / width)
    return np.mean(losses)


def test_the_regression_of_b3():
    """With the constants of science.md, written out: they are not this package's own."""
    found = criteria(B3, example(), test=1280, schedule=Schedule(draws=4000, chains=32, burn_in=500), loo_draws=8000)
    assert_regression(found, *example(), truth=[0.0, 1.0], inputs=EXAMPLE_DESIGN, wbic=0.015)
    for name, value in {
        "waic": 1.17684699,
        "bayes_training_loss": 1.10111213,
        "functional_variance": 0.60587892,
        "singular_fluctuation": 0.30293946,
        "gibbs_training_loss": 1.13197125,
        "wbic": 10.01128110,
        "bayes_generalisation_error": 0.03392861,
        "gibbs_generalisation_error": 0.14225147,
    }.items():
        assert_close(getattr(found, name), value, 0.015 if name == "wbic" else 0.005, sigmas=3, what=name)
    assert found.warnings == ()
    assert found.rhat < 1.01
    assert found.draws == 32 * 3500


@pytest.mark.slow
@pytest.mark.parametrize("case", [1, *(pytest.param(c, marks=pytest.mark.statistics) for c in (0, 2))])
def test_regressions_of_other_designs(case, seed):
    """Designs with and without an intercept, from 5 to 60 samples, one with a sample that nothing explains."""
    rng = np.random.default_rng([seed, case])
    n, d = ((5, 1), (20, 3), (60, 4))[case]
    x = rng.standard_normal((n, d)) * np.linspace(1, 0.3, d)
    truth = rng.standard_normal(d)
    y = x @ truth + rng.standard_normal(n)
    if case == 1:
        y[0] += 6
    design = tuple(map(tuple, x.tolist()))
    model = LinearRegression(weights=tuple(truth.tolist()), design=design)
    data = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    found = criteria(model, data, test=20 * n, schedule=Schedule(draws=3500, chains=32, burn_in=500), seed=case)
    bounds = {"functional_variance": 0.05, "singular_fluctuation": 0.025, "wbic": 0.1}
    gap = 0.3 / np.sqrt(20 * n)  # of a Bayes loss: the noise of its test samples
    bounds |= {f"bayes_generalisation_{kind}": np.hypot(0.005, gap) for kind in ("loss", "error")}
    assert_regression(found, *data, truth=truth, inputs=x, **bounds)
    if case == 1:
        assert found.high_variance == (0,)
        assert any(
            "WAIC is doubtful: 1 of 20 samples have posterior variance above 0.4 (0)" in w for w in found.warnings
        )


def one_unit_exactly(x, y, nodes=801, reach=5.5):
    """(T, Gibbs training, V, G, Gibbs generalisation) of y = a tanh(b x) + noise, truth 0, less the losses at w0 = 0.

    Given b the posterior of a is Gaussian; what is left is one integral over b, and for G those over new x and y.
    """
    b = np.linspace(-reach, reach, nodes)
    outer = np.tanh(np.multiply.outer(b, x))
    spread = 1 / (1 + np.square(outer).sum(1))
    centre = outer @ y * spread
    weight = 0.5 * np.log(spread) + 0.5 * centre**2 / spread - 0.5 * b**2
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()

    def predictive(t, y):
        m, v = centre[:, None] * t, spread[:, None] * t**2
        density = weight @ (np.exp(0.5 * y**2 - 0.5 * (y - m) ** 2 / (1 + v)) / np.sqrt(1 + v))
        return m, v, np.log(density)

    m, v, density = predictive(outer, y)
    mean = 0.5 * y**2 - 0.5 * ((y - m) ** 2 + v)
    variance = weight @ (v**2 / 2 + v * (y - m) ** 2 + (mean - weight @ mean) ** 2)
    new, at = np.polynomial.legendre.leggauss(24)
    noise, with_noise = np.polynomial.hermite_e.hermegauss(24)
    t = np.tanh(np.multiply.outer(b, new))
    bayes = [-predictive(t, value)[2] @ at / 2 for value in noise]
    gibbs = 0.5 * weight @ (np.square(centre[:, None] * t) + spread[:, None] * t**2) @ at / 2
    losses = -density.mean(), -(weight @ mean).mean(), variance.sum()
    return *losses, np.array(bayes) @ with_noise / with_noise.sum(), gibbs


@pytest.mark.slow
def test_one_tanh_unit_by_quadrature():
    """A singular posterior, lambda = 1/2 and m = 2: two crossing valleys, both of which chains must fill."""
    model = tanh.make(1)
    data = model.sample(jax.random.key(3), 64)
    found = criteria(model, data, test=256, which=("waic",), schedule=Schedule(draws=1500, chains=32, burn_in=500))
    training, gibbs, variance, bayes_error, gibbs_error = one_unit_exactly(*(np.asarray(z[:, 0], float) for z in data))
    at_truth = float(np.mean(0.5 * np.log(2 * np.pi) + 0.5 * np.square(np.asarray(data[1], float))))
    assert_close(found.bayes_training_loss, at_truth + training, 2e-4, sigmas=3)
    assert_close(found.gibbs_training_loss, at_truth + gibbs, 2e-4, sigmas=3)
    assert_close(found.functional_variance, variance, 0.03, sigmas=3)
    assert_close(found.waic, at_truth + training + variance / 64, 2e-4, sigmas=3)
    assert_close(found.bayes_generalisation_error, bayes_error, 6e-4, sigmas=3)
    assert_close(found.gibbs_generalisation_error, gibbs_error, 2e-4, sigmas=3)
    assert found.loo is None
    assert found.wbic is None


def test_refusals_name_what_is_wrong():
    well = potential(lambda w: jnp.sum(w**2), 1, Normal())
    fixed = Restriction(jnp.array([True, False]))
    for model, options, message in (
        (well, {}, r"model = 'Potential': is a potential"),
        (B3, {"gamma": 1.0}, r"gamma = 1.0: localises"),
        (B3, {"restriction": fixed}, r"restriction = 'given': freezes parameters"),
        (B3, {"beta": 0.5}, r"beta = 0.5: WAIC is defined at beta = 1"),
        (B3, {"beta": 0.5, "which": ("loo",)}, r"beta = 0.5: LOO is defined at beta = 1"),
        (B3, {"wbic_beta": 1.0}, r"wbic_beta = 1.0: WBIC is defined at beta = 1/log n"),
        (B3, {"wbic_beta": "2/log n"}, r"wbic_beta = 0.9\d+: WBIC"),
        (B3, {"sampler": samplers.SGLD()}, r"sampler = 'SGLD': is biased by its step size"),
        (B3, {"sampler": "hmc"}, r"sampler = 'hmc': give one of slt.samplers"),
        (len, {}, r"model = .*: must be an slt.Model"),
        (B3, {"which": ("dic",)}, r"which = 'dic': known are waic, wbic, loo"),
        (B3, {"beta": -1.0, "which": ()}, r"beta = -1.0: give a positive number"),
        (B3, {"schedule": Schedule(draws=100, chains=2)}, r"schedule.chains = 2: errors are the chains' spread"),
        (B3, {"loo_draws": 0}, "loo_draws = 0"),
        (B3, {"loo_draws": 2**26}, "PSIS-LOO would keep 5.4e\\+08 numbers"),
        (B3, {"test": 0}, "test = 0"),
    ):
        before = programs["begin"]
        with pytest.raises(InputError, match=message):
            criteria(model, 8 if model is well else example(), **options)
        assert programs["begin"] == before
    with pytest.raises(InputError, match=r"data = 2: WBIC needs n >= 3"):
        criteria(B3, 2)
    with pytest.raises(InputError, match="data = "):
        criteria(B3, (jnp.ones((3, 2)), jnp.ones(4)))
    for model, options, message in (
        (well, {}, "a potential has no data sets"),
        (B3, {"sampler": samplers.SGLD()}, "biased"),
        (B3, {"replicates": 1}, "replicates = 1"),
        (Unknown(), {}, "no optimum w0"),
    ):
        with pytest.raises(InputError, match=message):
            equations_of_state(model, 8, **options)


@pytest.mark.slow
def test_what_is_forced_is_said():
    found = criteria(B3, example(), beta=0.5, which=("waic",), schedule=LONGER, force=True)
    exact = linear_regression(*(np.asarray(part, float) for part in example()), beta=0.5)
    assert_close(found.waic, exact.waic, 0.01)
    assert_close(found.singular_fluctuation, exact.singular_fluctuation, 0.02)
    assert found.warnings[0].startswith("forced: beta = 0.5: WAIC")
    near = criteria(
        B3,
        example(),
        gamma=20.0,
        restriction=Restriction(jnp.array([True, False])),
        which=(),
        schedule=SHORT,
        force=True,
    )
    assert near.functional_variance.value < 0.3 * found.functional_variance.value
    assert [warning.split(" = ")[0] for warning in near.warnings[:2]] == ["forced: gamma", "forced: restriction"]


@dataclass(frozen=True)
class Unknown(Model):
    """y = sum of x^k w_k + noise, as a user has it: no truth, no way to sample data."""

    degree: int = 2

    def init(self, key):
        return 3 * jax.random.normal(key, (self.degree,))

    def log_prior(self, params):
        return -0.5 * jnp.sum(params**2) - 0.5 * self.degree * jnp.log(2 * jnp.pi)

    def log_likelihood(self, params, batch):
        return -0.5 * jnp.square(batch["y"] - batch["x"] @ params) - 0.5 * jnp.log(2 * jnp.pi)


@dataclass(frozen=True)
class Half(Unknown):
    """`Unknown` without a likelihood where w_0 > 2.5, far beyond the posterior but where an eighth of chains start."""

    def log_likelihood(self, params, batch):
        return jnp.where(params[0] > 2.5, jnp.nan, super().log_likelihood(params, batch))


@pytest.mark.slow
def test_a_users_model_with_test_data_of_its_own():
    """Nothing is known of the truth: the reference is found by a pilot, and G comes from the test batch alone."""
    x, y = (np.asarray(part, float) for part in example())
    rng = np.random.default_rng(5)
    new = rng.standard_normal((300, 2))
    new_y = new @ [0.5, 1.0] + rng.standard_normal(300)
    data, test = (
        {"x": jnp.asarray(a, jnp.float32), "y": jnp.asarray(b, jnp.float32)} for a, b in ((x, y), (new, new_y))
    )
    found = criteria(Unknown(), data, test=test, schedule=SHORT)
    exact = linear_regression(x, y)
    width, off = 1 + np.einsum("ni,ij,nj->n", new, exact.cov, new), new_y - new @ exact.mean
    terms = 0.5 * np.log(2 * np.pi * width) + 0.5 * off**2 / width
    noise = terms.std(ddof=1) / np.sqrt(300)
    error = found.bayes_generalisation_loss
    assert error.stderr == pytest.approx(noise, rel=0.02)  # of the test batch, which the exact value shares
    assert abs(error.value - terms.mean()) < 0.01  # so what is left is Monte Carlo
    assert_close(found.waic, exact.waic, 0.01)
    assert_close(found.loo, exact.loo, 0.02)
    assert_close(found.wbic, wbic(x, y), 0.1)
    assert found.bayes_generalisation_error is None
    with pytest.raises(InputError, match="no true distribution"):
        criteria(Unknown(), 8)


def test_no_draws_times_samples_without_loo(monkeypatch):
    """A draw brings two numbers to the host, unless LOO needs each sample's."""

    class Seen(Exception):
        pass

    def look(*args, **kwargs):
        job = predictive_prepare(*args, **kwargs)
        raise Seen(sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(job.emitted[0])))

    predictive_prepare = predictive.prepare
    monkeypatch.setattr(predictive, "prepare", look)
    for which, numbers in ((("waic", "wbic"), 2), (("loo",), 2 + 64)):
        with pytest.raises(Seen) as seen:
            criteria(LinearRegression(), 64, which=which, schedule=SHORT)
        assert seen.value.args == (numbers,)


@pytest.fixture(scope="module")
def brief():
    """Every number of B3 from few draws."""
    return criteria(B3, example(), test=64, schedule=SHORT)


@pytest.mark.slow
def test_new_numbers_need_no_new_program():
    x, y = example()
    first = criteria(B3, (x, y), test=64, schedule=SHORT)
    before = programs["advance"]
    again = criteria(B3, (x, 2 * y), test=64, schedule=SHORT, seed=1)
    assert programs["advance"] == before
    assert abs(again.waic.value - first.waic.value) > 0.05


def test_what_it_says(brief):
    text = str(brief)
    for name in ("n = 8, beta = 1, 6400 draws", "waic", "wbic", "loo", "bayes_generalisation_loss", "(data "):
        assert name in text
    assert brief.data_stderr["waic"] == pytest.approx(brief.pointwise["waic"].std(ddof=1) / np.sqrt(8))
    assert brief.pointwise["loo"].mean() == pytest.approx(float(brief.loo.value))
    assert brief.pointwise["variance"].sum() == pytest.approx(float(brief.functional_variance.value))
    assert brief.pointwise["pareto_k"].shape == (8,)
    x, y = (np.asarray(part, float) for part in example())
    cov = np.linalg.inv(x.T @ x / np.log(8) + np.eye(2))
    off = y - x @ cov @ x.T @ y / np.log(8)
    losses = 0.5 * np.square(off) + 0.5 * np.einsum("ni,ij,nj->n", x, cov, x)
    assert brief.data_stderr["wbic"] == pytest.approx(np.sqrt(8) * losses.std(ddof=1), rel=0.1)


def test_broken_chains_are_left_out_by_name():
    """A likelihood that is NaN far out: chains that start there are broken from the start."""
    data = {"x": jnp.asarray(EXAMPLE_DESIGN), "y": example()[1]}
    found = criteria(Half(), data, centre=jnp.zeros(2), which=(), schedule=SHORT)
    assert any("chains at beta = 1 were left out: its loss became infinite or NaN" in w for w in found.warnings)
    assert found.draws % 400 == 0
    assert 4 * 400 <= found.draws < 16 * 400
    exact = linear_regression(*(np.asarray(part, float) for part in example()))
    assert_close(found.bayes_training_loss, exact.training_loss, 0.01)


@dataclass(frozen=True)
class Folded(Unknown):
    """y = |w . x| + noise with far less overlap of the modes w and -w than chains cross; all predict alike."""

    shift: float = 0.0

    def log_likelihood(self, params, batch):
        return -8 * jnp.square(
            batch["y"] - jnp.abs(batch["x"] @ params) - self.shift * jnp.sign(params[0]) * batch["z"]
        )


@pytest.mark.statistics
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_modes_of_one_loss(shift):
    """Chains in two modes that no chain leaves: harmless where both predict alike, and said where they do not."""
    rng = np.random.default_rng(6)
    x, noise = np.abs(rng.standard_normal((30, 2))) + 0.5, 0.3 * rng.standard_normal(30)
    x, noise, z = np.tile(x, (2, 1)), np.tile(noise, 2), np.repeat([1.0, -1.0], 30)  # z tells the modes' losses nothing
    data = {"x": x, "y": x @ [2.0, 1.0] + noise, "z": z}
    data = {name: jnp.asarray(value, jnp.float32) for name, value in data.items()}
    start = Start(jnp.array([[2.0, 1.0], [-2.0, -1.0]]), jnp.array([False, False]))
    found = criteria(Folded(shift=shift), data, which=("waic",), schedule=SHORT, start=start)
    assert any("chains disagree" in warning for warning in found.warnings) == bool(shift)


@pytest.mark.statistics
def test_superposition():
    """A truth that computes, 18 parameters, dead units, several basins to start in."""
    found = criteria(superposition.make(), 100, schedule=LONGER)
    assert found.gibbs_generalisation_error.value > found.bayes_generalisation_error.value > 0
    both = np.hypot(found.waic.stderr, found.loo.stderr)
    assert abs(found.waic.value - found.loo.value) < 4 * both + 0.05 * found.functional_variance.value / 100


@pytest.mark.statistics
def test_double_precision(x64):
    data = tuple(jnp.asarray(np.asarray(part), float) for part in example())
    found = criteria(B3, data, schedule=Schedule(draws=6500, chains=32, burn_in=500), loo_draws=8000)
    assert found.waic.value.dtype == np.float64
    assert_regression(found, *data, wbic=0.01)


@pytest.mark.statistics
def test_stated_errors_cover():
    """The Monte Carlo error of every number over 240 seeds of one data set."""
    x, y = (np.asarray(part, float) for part in example())
    runs = [criteria(B3, example(), seed=s, schedule=Schedule(draws=700, chains=16, burn_in=300)) for s in range(240)]
    exact = linear_regression(x, y)
    for name, value in {
        "waic": exact.waic,
        "loo": left_out(x, y),
        "wbic": wbic(x, y),
        "bayes_training_loss": exact.training_loss,
        "gibbs_training_loss": exact.gibbs_training_loss,
        "functional_variance": exact.functional_variance,
        "gibbs_generalisation_error": generalisation(exact, x, [0.0, 1.0]).gibbs_error,
    }.items():
        found = Estimate(
            *(np.array([getattr(getattr(run, name), part) for run in runs]) for part in ("value", "stderr"))
        )
        assert_coverage(found, value, least=0.90, most=0.99, far=0.02, what=name)


@pytest.mark.statistics
def test_equations_of_state_of_a_singular_model():
    """One tanh unit at zero truth, n = 1000, 200 data sets; and the same against each data set's exact posterior."""
    found = equations_of_state(tanh.make(1), 1000, 200)
    equations = found.equations
    assert found.holds
    assert_close(equations.bayes_excess, 0.0, 1e-4, sigmas=3)
    assert_close(equations.gibbs_excess, 0.0, 1e-4, sigmas=3)
    # lambda - (m - 1)/log n is where n (E[G] - L0) stands at n = 1000
    assert_close(equations.scaled_error, 0.5 - 1 / np.log(1000), 0.05, sigmas=3)
    assert found.lam == 0.5


@pytest.mark.slow
def test_equations_of_state_of_a_regression():
    """Against the averages of the exact numbers over the same data sets, in passes of a few data sets."""
    model = LinearRegression(weights=(1.0, -0.5), intercept=False)
    found = equations_of_state(model, 32, 40, memory=10**5, schedule=Schedule(draws=400, chains=4, burn_in=200))
    assert abs(found.equations.bayes_z) < 4
    assert len(found.per_set["rhat"]) == 40
    assert "z of the equations" in str(found)
