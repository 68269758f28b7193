"""Units and components in use, and which number of them the criteria choose: the models' pieces, and both demos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import integrate, special

from experiments import _sizes
from experiments import mixture as components
from experiments import tanh as units
from slt import config, runs
from slt.cells import data_words
from slt.engine.program import draw_data
from slt.models import mixture, tanh
from slt.typing import InputError


def test_population_of_tanh_units_is_the_expected_square():
    potential = tanh.population(2, (1.0, -0.5), (1.0, 3.0))
    w = jnp.array([0.7, -0.2, 1.5, 0.4])

    def square(x):
        truth = np.tanh(x) - 0.5 * np.tanh(3 * x)
        return 0.25 * (0.7 * np.tanh(1.5 * x) - 0.2 * np.tanh(0.4 * x) - truth) ** 2

    assert float(potential.fn(w)) == pytest.approx(integrate.quad(square, -1, 1)[0], rel=1e-5)
    truth = potential.truth()
    assert truth is not None
    assert float(potential.fn(truth.params)) == pytest.approx(0, abs=1e-10)


def test_least_losses_and_lambdas_of_fewer_units():
    potential = tanh.population(3, (-2.0, 2.0), (1.0, 5.0))
    forms = units.forms(potential)
    nothing = jnp.zeros(6)
    assert forms[0].loss == pytest.approx(float(potential.fn(nothing)), rel=1e-5)
    assert forms[0].loss > forms[1].loss > 1e-3
    assert forms[2].loss == forms[3].loss == 0
    best = min(float(potential.fn(jnp.array([a, 0, 0, b, 0, 0]))) for a in np.linspace(0, 2, 41) for b in (2, 5, 9, 14))
    assert forms[1].loss <= best * 1.001
    assert [forms[k].lam for k in range(4)] == pytest.approx([5 / 6, 1.5, 2.25, 3.0])
    assert units.forms(tanh.make(2)) == {}


def test_a_spare_tanh_unit_doubles_the_truths():
    """lambda of two units where the truth has one tends to 5/4, below the 3/2 of an idle one: t <K> by quadrature over
    the slopes, the heights in closed form. It is 1.21 at t = 1e7, and was 1.03 at 1e5.
    """
    x, weights = np.polynomial.legendre.leggauss(64)
    b = 1 + 0.0005 * np.sinh(9.2 * np.linspace(-1, 1, 700))
    b, step = b[b > 0], np.gradient(b)[b > 0]
    values, wanted = np.tanh(b[:, None] * x), np.tanh(x)
    gram, cross, whole = (values * weights / 2) @ values.T, values @ (weights / 2 * wanted), weights / 2 @ wanted**2
    i, j = np.triu_indices(len(b))
    prior = np.log(step[i] * step[j]) - (b[i] ** 2 + b[j] ** 2) / 2

    def log_z(t):
        one, two, both = 1 + t * gram[i, i], 1 + t * gram[j, j], t * gram[i, j]
        det = one * two - both**2
        met = (cross[i] ** 2 * two - 2 * cross[i] * cross[j] * both + cross[j] ** 2 * one) / det
        return special.logsumexp(prior - np.log(det) / 2 - t / 2 * (whole - t * met))

    lam = [(log_z(t / 1.5) - log_z(t * 1.5)) / np.log(2.25) for t in (1e5, 1e6, 1e7)]
    assert np.all(np.diff(lam) > 0)
    assert 1.15 < lam[-1] < 1.3


def test_least_losses_and_lambdas_of_fewer_components():
    model = mixture.Components(3, (-0.8, 0.8), weight_prior=0.2)
    forms = components.forms(model)
    y = np.linspace(-12, 12, 4001)
    density = (np.exp(-((y + 0.8) ** 2) / 2) + np.exp(-((y - 0.8) ** 2) / 2)) / np.sqrt(8 * np.pi)
    one = np.exp(-(y**2) / 2) / np.sqrt(2 * np.pi)  # the best single component lies in the middle
    assert forms[1].loss == pytest.approx(integrate.trapezoid(density * np.log(density / one), y), abs=2e-5)
    assert forms[2].loss == forms[3].loss == 0
    assert [forms[k].lam for k in (1, 2, 3)] == pytest.approx([0.7, 1.6, 2.5])
    assert components.forms(mixture.Components(3, weight_prior=1.0)) == {}


@pytest.mark.parametrize(
    "a, b, used",
    [
        ((-2.0, 2.0, 0.0), (1.0, 5.0, 2.0), 2),
        ((2.0, -2.0, 0.1), (-1.0, -5.0, 0.1), 2),
        ((1.0, 1.0, 1.0), (1.0, 1.05, -0.95), 1),
        ((1.0, -1.0, 0.0), (1.0, 1.0, 1.0), 0),
        ((2.0, -2.0, 2.0), (0.7, 2.5, 20.0), 3),
    ],
)
def test_tanh_units_that_share_a_shape_count_once(a, b, used):
    phases, params = tanh.counted(3), {"a": jnp.array(a), "b": jnp.array(b)}
    assert int(phases.label(params)) == used
    assert int(phases.label(jnp.array([*a, *b]))) == used


def test_mixture_of_any_number_agrees_with_the_one_of_two():
    two, several = mixture.make(), mixture.components(2)
    y = jnp.linspace(-2, 3, 7)
    means = jnp.array([-0.3, 1.1])
    expected = two.log_likelihood({"logit": jnp.asarray(0.4), "means": means}, y)
    found = several.log_likelihood({"logits": jnp.array([-0.1, 0.3]), "means": means}, y)
    assert np.asarray(found) == pytest.approx(np.asarray(expected), abs=1e-6)
    truth = several.truth()
    assert truth.params is not None
    assert truth.population_loss is not None
    assert float(truth.population_loss(truth.params)) == pytest.approx(truth.entropy, abs=1e-5)
    assert truth.phases is not None
    assert truth.phases.names[int(truth.phases.label(truth.params))] == "2 components"


def test_prior_of_the_weights_is_dirichlet_and_normalised():
    model = mixture.components(1, weight_prior=0.7)
    u = jnp.linspace(-60, 5, 4001)
    log_prior = jax.jit(jax.vmap(lambda x: model.log_prior({"logits": x[None], "means": jnp.zeros(1)})))(u)
    mass = np.trapezoid(np.exp(np.asarray(log_prior, np.float64)), np.asarray(u))
    assert mass * 2 * np.sqrt(2 * np.pi) == pytest.approx(1, abs=1e-3)
    drawn = jax.vmap(mixture.components(3).init)(jax.random.split(jax.random.key(0), 4000))
    weights = np.asarray(jax.nn.softmax(drawn["logits"], axis=-1))
    assert weights.mean(0) == pytest.approx(1 / 3, abs=0.02)
    assert weights.var(0) == pytest.approx(1 / 18, abs=0.006)  # of Dirichlet(1, 1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: tanh.units(0),
        lambda: tanh.units(2, (1.0,), (1.0, 2.0)),
        lambda: tanh.units(2, (1.0, 1.0), (1.0, 1.0)),
        lambda: mixture.components(0),
        lambda: mixture.components(2, centres=()),
    ],
)
def test_what_makes_no_model_is_refused(wrong):
    with pytest.raises(InputError):
        wrong()


def test_choices_and_their_agreement():
    free, waic = np.array([[3.0, 3, 1, 2], [1, 2, 2, 1]]), np.array([[3.0, 1, 1, 2], [1, 2, 2, 1]])
    dims = ("size", "n", "data_seed")
    data = xr.Dataset(
        {name: (dims, value[:, None]) for name, value in (("free_energy", free), ("wbic", free), ("waic", waic))},
        {"size": [1, 2], "n": [50], "data_seed": np.arange(4)},
    )
    found = _sizes.summary(data, 2)
    assert found["chosen[free_energy]"].value == pytest.approx([0.75])
    assert found["chosen[waic]"].value == pytest.approx([0.5])
    assert found["agreement[free_energy, wbic]"].value == pytest.approx([1.0])
    assert found["agreement[free_energy, waic]"].value == pytest.approx([0.75])
    assert (found["agreement[free_energy, wbic]"].stderr > 0).all()


def _evidence(model, seed: int) -> tuple[float, float]:
    """F_n of a data set of 50 samples by importance sampling from the prior, and its error from five parts."""
    data = jax.tree.map(lambda leaf: leaf[0], draw_data(model, jnp.asarray(data_words(seed))[None], {}, 50))
    total = jax.jit(jax.vmap(lambda key: model.log_likelihood(model.init(key), data).sum()))
    drawn = [np.asarray(total(jax.random.split(jax.random.key(i), 100_000)), np.float64) for i in range(5)]
    parts = np.log(100_000) - special.logsumexp(drawn, axis=1)
    return float(np.log(5) - special.logsumexp(-parts)), float(parts.std(ddof=1) / np.sqrt(5))


@pytest.mark.statistics
@pytest.mark.parametrize("name, size, low, high", [("tanh", "hidden", 25, 100), ("mixture", "count", 10, 45)])
def test_demos_use_two_as_n_grows(tmp_path, name, size, low, high):
    """The first unit or component alone leads, then two, where importance sampling from the prior has it; and at n = 50
    it has the same F_n of every size on every data set, and the same choice where two sizes do not tie.
    """
    run = runs.begin(config.compose(f"{name}/demo"), tmp_path / "run")
    found = run.quantities["critical_n[1->2]"]
    assert low < found.value < high
    assert found.interval[0] <= found.value <= found.interval[1]
    family = config.instantiate(config.compose(f"{name}/demo").measures["choice"]["family"], "family")
    free, noise = np.moveaxis([[_evidence(family(**{size: k}), seed) for k in (1, 2, 3)] for seed in range(8)], -1, 0)
    choice = run.measures["choice"].isel(n=0).transpose("data_seed", "size")
    own, error = choice["free_energy"].values, np.hypot(choice["free_energy_stderr"].values, np.sqrt((noise**2).mean()))
    assert error.max() < 0.12
    assert np.abs((own - free) / error).max() < 4
    best, second = np.sort(free, axis=1)[:, :2].T
    clear = second - best > 4 * np.sqrt(2) * error.max(1)
    np.testing.assert_array_equal(own.argmin(1)[clear], free.argmin(1)[clear])
    assert clear.mean() >= 0.25
    assert run.quantities["chosen[free_energy]"].value[0] == np.mean(own.argmin(1) == 1)
    spare = next(q for key, q in run.quantities.items() if key.startswith("mass[3 "))
    assert np.mean(spare.value[-1]) < 0.3
