"""The calibrated learning coefficient against quadrature and closed forms, with no setting given."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import slt
from slt import observables
from slt.estimators import diagnostics
from slt.estimators import llc as estimators
from slt.measure import curvature
from slt.measure.llc import Llc
from slt.measure.losses import as_model
from slt.models import _kgon, power_law
from slt.samplers import HMC
from slt.typing import Estimate, InputError


def close(found: Llc, exact: float, error: float) -> None:
    """Within 4 standard errors, and the standard error within its bound."""
    assert found.stderr <= error
    assert abs(found.value - exact) <= 4 * found.stderr, (found.value, found.stderr, exact)


def on_a_line(loss, t: float, centre: float, gamma: float = 1.0) -> float:
    w = np.linspace(-6, 6, 400_001)
    weight = np.exp(-t * loss(w) - gamma / 2 * (w - centre) ** 2)
    return float(t * ((loss(w) - loss(centre)) * weight).sum() / weight.sum())


def product(t: float, gamma: float = 1.0) -> float:
    """lam(t) of (x y)^2 under N(0, 1/gamma)^2: y by hand, x by quadrature."""
    points = [1e-4, 1e-3, 1e-2, 0.1]
    weight = lambda x: np.exp(-gamma / 2 * x * x) / np.sqrt(gamma + 2 * t * x * x)  # noqa: E731
    loss = lambda x: weight(x) * t * x * x / (gamma + 2 * t * x * x)  # noqa: E731
    return integrate.quad(loss, 0, 9, points=points)[0] / integrate.quad(weight, 0, 9, points=points)[0]


def quartic(w):
    return w[0] ** 4


def crossing(w):
    return (w[0] * w[1]) ** 2


def linear(w, data):
    x, y = data
    return 0.5 * jnp.square(y - x @ w["slope"] - w["offset"])


@pytest.mark.slow
def test_a_potential_as_a_function() -> None:
    close(slt.llc(quartic, jnp.zeros(1), t=1000.0), on_a_line(lambda w: w**4, 1000.0, 0.0), 0.003)


def test_a_singular_potential_where_the_asymptote_is_far() -> None:
    found = slt.llc(crossing, jnp.zeros(2), t=[100.0, 1000.0, 1e4])
    exact = np.array([product(t) for t in found.t])
    assert np.all(np.asarray(found.llc.stderr) < 0.004)
    np.testing.assert_array_less(np.abs(found.value - exact), 4 * found.stderr)
    heat = np.asarray(found.heat_capacity.value)  # C = lam - dlam/dlog t
    slope = np.array([(product(t * 1.01) - product(t / 1.01)) / (2 * np.log(1.01)) for t in found.t])
    np.testing.assert_array_less(np.abs(heat - (exact - slope)), 4 * np.asarray(found.heat_capacity.stderr))
    gamma = np.array([(product(t, 1.01) - product(t, 1 / 1.01)) / (2 * np.log(1.01)) for t in found.t])
    np.testing.assert_array_less(
        np.abs(np.asarray(found.by_log_gamma.value) - gamma), 4 * np.asarray(found.by_log_gamma.stderr)
    )


def _regression(n: int, seed: int, batch_size: int | None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    y = x @ [1.0, -0.5, 0.0] + 0.3 + rng.normal(size=n)
    design = np.hstack([x, np.ones((n, 1))])
    best = np.linalg.lstsq(design, y, rcond=None)[0]
    t = n / np.log(n)
    hessian = design.T @ design / n
    exact = 0.5 * np.trace(t * hessian @ np.linalg.inv(t * hessian + np.eye(4)))  # centred at the minimum itself
    params = {"slope": jnp.asarray(best[:3]), "offset": jnp.asarray(best[3])}
    return slt.llc(linear, params, (jnp.asarray(x), jnp.asarray(y)), batch_size=batch_size, error=0.01), exact


def test_numbers_of_any_type() -> None:
    """Python's, NumPy's and half precision's, in one pytree; sampled in single precision."""
    y = np.random.default_rng(0).normal(3, 1, size=20)
    params = {"a": float(y.mean()) - 1, "b": jnp.asarray(0.5, jnp.bfloat16), "c": np.float64(0.5)}
    found = slt.llc(lambda w, y: 0.5 * jnp.square(w["a"] + w["b"] + w["c"] - y), params, y, error=0.01, seconds=3.0)
    t = 20 / np.log(20)
    close(found, 1.5 * t / (3 * t + 1), 0.02)


def test_a_network_of_any_pytree_on_data() -> None:
    found, exact = _regression(500, 0, None)
    close(found, exact, 0.02)
    assert found.healthy, found.verdict
    assert found.n == 500
    np.testing.assert_allclose(found.beta, 1 / np.log(500))


@pytest.mark.slow
def test_minibatches_with_a_control_variate() -> None:
    found, exact = _regression(500, 1, 64)
    close(found, exact, 0.06)
    assert found.settings["batch_size"] == 64


@pytest.mark.slow
def test_a_mean_loss_gives_what_its_samples_do() -> None:
    x = jnp.linspace(-1, 1, 64)[:, None]
    each = functools.partial(_square, mean=False)
    whole = functools.partial(_square, mean=True)
    one, other = (slt.llc(fn, jnp.zeros(2), x, beta=1.0, error=0.01) for fn in (each, whole))
    assert one.t == other.t == 64
    assert abs(one.value - other.value) < 4 * np.hypot(one.stderr, other.stderr)


def _square(w, x, mean):
    loss = jnp.square(w[0] * x[:, 0] + w[1])
    return loss.mean() if mean else loss


@pytest.mark.slow
def test_a_dead_unit() -> None:
    def loss(w, x):
        return 0.5 * jnp.square(w[0] * jax.nn.relu(w[1] * x[:, 0] + w[2]))

    x = jnp.linspace(-1, 1, 256)[:, None]
    found = slt.llc(loss, jnp.array([1.0, 0.5, -1.0]), x, t=587.0, error=0.01)
    rng = np.random.default_rng(0)  # plain importance sampling from the localiser: no chain, no gradient
    w = rng.normal((1.0, 0.5, -1.0), size=(200_000, 3))
    unit = w[:, :1] * np.maximum(w[:, 1:2] * np.linspace(-1, 1, 256) + w[:, 2:], 0)
    values = 0.5 * np.square(unit).mean(1)
    weight = np.exp(-587 * values)
    exact = float(587 * (values * weight).sum() / weight.sum())
    assert abs(found.value - exact) < 0.02
    assert found.healthy


def test_at_a_saddle_it_says_so() -> None:
    found = slt.llc(lambda w: (w[0] * w[1] - 1) ** 2, jnp.zeros(2), t=100.0, seconds=2.0)
    assert abs(found.value + 99.5) < 0.1
    assert "not a minimum" in found.flags
    assert "lowest curvature -2" in found.verdict
    assert not found.healthy


@pytest.mark.slow
def test_on_a_slope_it_says_so() -> None:
    found = slt.llc(lambda w: jnp.sum(w**2), jnp.array([0.5, 0.0]), t=100.0, seconds=2.0)
    assert "not a minimum" in found.flags
    assert "gradient norm 1" in found.verdict


@pytest.mark.slow
def test_a_minimum_with_a_kink_or_at_an_edge_is_one() -> None:
    found = slt.llc(jnp.abs, 0.0, t=100.0, error=0.02, seconds=2.0)  # JAX's gradient at 0 is 1
    close(found, 1.0, 0.08)
    assert found.healthy, found.verdict
    found = slt.llc(jnp.linalg.norm, jnp.zeros(2), t=100.0, error=0.02, seconds=2.0)  # and here NaN
    close(found, 2.0, 0.16)
    assert found.healthy, found.verdict
    edge = slt.llc(lambda w: w[0], -jnp.ones(1), t=100.0, prior=slt.Uniform(-1, 1), error=0.02, seconds=2.0)
    close(edge, 1.0, 0.08)
    assert edge.healthy, edge.verdict


def test_a_loss_too_large_for_single_precision() -> None:
    found = slt.llc(lambda w: 1000.0 + jnp.sum(w**2), jnp.zeros(1), t=1e4, seconds=1.0)
    assert "rounding" in found.flags
    assert "subtract L_n(w*) = 1000 from the loss" in found.verdict


def test_soft_directions_cut_by_gamma() -> None:
    found = slt.llc(lambda w: 0.01 * jnp.sum(w**2), jnp.zeros(3), t=10.0, seconds=2.0)
    exact = 1.5 * 0.2 / 1.2  # d/2 of t h/(t h + gamma), h = .02
    close(found, exact, 0.01)
    assert "gamma" in found.flags
    assert abs(float(found.by_log_gamma.value[0]) + 1.5 * 0.2 / 1.2**2) < 0.02


@pytest.mark.slow
def test_some_parameters_only() -> None:
    found = slt.llc(lambda w: jnp.sum(w**2), jnp.zeros(3), t=1e4, free=jnp.array([True, False, True]))
    close(found, 2 * 1e4 / (2e4 + 1), 0.01)


def test_the_asymptote_or_a_reason() -> None:
    t = np.geomspace(1e2, 1e6, 9)
    lam = Estimate(2 - 1 / np.log(t), np.full(9, 0.002))
    found = estimators.extrapolate(t, lam)
    assert abs(float(found.value) - 2) < 1e-6
    with pytest.raises(InputError, match="at least 4"):
        estimators.extrapolate(t[:3], Estimate(np.ones(3), np.ones(3)))
    bump = Estimate(2 + np.exp(-((np.log(t) - 8) ** 2)), np.full(9, 0.002))
    with pytest.raises(InputError, match="not on its asymptote"):
        estimators.extrapolate(t, bump)
    with pytest.raises(InputError, match="no plateau"):
        estimators.extrapolate(t, lam, Estimate(lam.value * 1.5, lam.stderr))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"model": quartic, "params": jnp.zeros(1)}, "t = None"),
        ({"model": 3.0, "params": jnp.zeros(1)}, "model = 3.0"),
        ({"model": quartic, "params": jnp.zeros(1), "t": 10.0, "gamma": 0.0}, "flat prior"),
        ({"model": lambda w: w, "params": jnp.zeros(2), "t": 1.0}, "must return a scalar"),
        ({"model": lambda w, d: d[:2, 0], "params": jnp.zeros(2), "data": jnp.zeros((5, 1))}, "loss of every sample"),
        ({"model": quartic, "params": jnp.zeros(1), "t": -1.0}, "grid.t"),
        ({"model": quartic, "params": jnp.zeros(1), "t": 1.0, "error": 0.0}, "error = 0.0: must be"),
        ({"model": quartic, "params": {}, "t": 1.0}, "params = {}: holds no numbers"),
        ({"model": quartic, "params": ["a"], "t": 1.0}, r"params\[0\] = 'a'"),
        ({"model": quartic, "params": jnp.zeros(1), "t": "x"}, "t = 'x'"),
        ({"model": quartic, "params": jnp.zeros(1), "t": 1.0, "beta": 0.1}, "beta = 0.1: give beta or t"),
        ({"model": quartic, "params": jnp.zeros(1), "t": 1.0, "gamma": [1.0]}, "gamma = "),
        ({"model": quartic, "params": jnp.zeros(1), "t": 1.0, "prior": 3}, "prior = 3"),
        ({"model": quartic, "params": jnp.zeros(1), "t": 1.0, "batch_size": 4}, "batch_size = 4: minibatches need"),
        ({"model": lambda w, d: w[3] * d, "params": {"a": 0.0}, "data": jnp.zeros(5)}, "loss = 'KeyError: 3': fails"),
        ({"model": lambda w, d: w * d, "params": 0.0, "data": jnp.zeros(5), "batch_size": 6}, "at most n = 5"),
        ({"model": lambda w, d: w * d, "params": 0.0, "data": [1.0, 2.0]}, "one leading axis"),
        ({"model": lambda w, d: w * d, "params": 0.0, "data": jnp.array([1.0, jnp.nan])}, r"samples \[1\]"),
        ({"model": slt.potential(quartic, 1, slt.Normal()), "params": jnp.zeros(2), "t": 1.0}, "needs the shapes"),
    ],
)
def test_bad_input(given, said) -> None:
    with pytest.raises(InputError, match=said):
        slt.llc(**given)


@pytest.mark.parametrize(
    "case", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("superposition", "power law")), "regression"]
)
def test_single_precision_is_enough(case) -> None:
    """The same draws' L - L* in float64: the estimate moves by less than a tenth of its standard error."""
    data, axes = None, {"t": 1e4}
    if case == "superposition":
        model, params = slt.potential(_kgon.population_loss, 18, slt.Normal()), _kgon.kgon(6, 0, 6)
    elif case == "power law":
        model = power_law.make(64)
        params = model.truth().params
    else:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1000, 6))
        y = x @ rng.normal(size=6) + rng.normal(size=1000)
        params, data = jnp.asarray(np.linalg.lstsq(x, y, rcond=None)[0]), (jnp.asarray(x), jnp.asarray(y))
        model, data, n = as_model(lambda w, d: 0.5 * jnp.square(d[1] - d[0] @ w), params, data, slt.Normal())
        axes = {"n": n}
    watched = {"delta": observables.trace(observables.loss), "w": observables.trace(observables.parameters)}
    made = slt.run(
        model, HMC(leapfrogs=8), slt.grid(model, gamma=1.0, **axes), watched,
        slt.Schedule(draws=400, chains=16, burn_in=200), key=jax.random.key(0),
        start=slt.Start(params[None], jnp.array([False])), centres=[params], data=data,
    )  # fmt: skip
    single, draws = made.traces["delta"][0, :, 200:].astype(np.float64), made.traces["w"][0, :, 200:]
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), data)
        batch = jnp.zeros((1, 0)) if data is None else batch
        loss = jax.jit(jax.vmap(lambda w: -jnp.mean(model.log_likelihood(w, batch))))
        point = jnp.asarray(np.asarray(params), jnp.float64)
        double = np.asarray(loss(jnp.asarray(draws.reshape(-1, draws.shape[-1]), jnp.float64)) - loss(point[None]))
    assert abs(single.mean() - double.mean()) < 0.1 * float(diagnostics.mean(single).stderr)


@pytest.mark.statistics
@pytest.mark.parametrize("k, plus, lam", [(6, 0, 8.5), (5, 1, 8.5), (5, 0, 7.0), (4, 2, 8.5), (4, 1, 8.0), (4, 0, 7.5)])
def test_basins_of_superposition_are_told_apart(k, plus, lam) -> None:
    found = slt.llc(_kgon.population_loss, _kgon.kgon(k, plus, 6), t=1e6, prior=slt.Normal())
    assert abs(found.value - lam) < 0.1
    assert found.stderr < 0.04


@pytest.mark.parametrize("lowest", [0.0, -0.5])
def test_both_ends_of_a_spectrum_by_products_alone(lowest, monkeypatch) -> None:
    """Beyond DENSE parameters by Lanczos, which finds no eigenvalue near 0 unless it is an end of the spectrum."""
    monkeypatch.setattr(curvature, "DENSE", 0)
    scales = jnp.asarray(np.r_[np.full(40, lowest), np.linspace(0.5, 3.0, 40)], jnp.float32)
    found = slt.llc(lambda w: 0.5 * jnp.sum(scales * w**2), jnp.zeros(80), t=10.0, seconds=1.0)
    assert found.curvature.highest == pytest.approx(3.0, rel=1e-3)
    assert found.curvature.lowest == pytest.approx(lowest, abs=3e-3)
    assert ("not a minimum" in found.flags) == (lowest < 0)


def regression(n: int, d: int) -> tuple[Callable[..., jax.Array], jax.Array, tuple[jax.Array, jax.Array], float]:
    """(loss, its minimum, data, exact t (<L_n> - L_n(w*)) at t = n/log n and gamma = 1)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    y = x @ rng.normal(size=d) + rng.normal(size=n)
    hessian = n / np.log(n) * x.T @ x / n
    exact = 0.5 * np.trace(hessian @ np.linalg.inv(hessian + np.eye(d)))

    def loss(w: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return 0.5 * jnp.square(batch[0] @ w - batch[1])

    return loss, jnp.asarray(np.linalg.lstsq(x, y, rcond=None)[0]), (jnp.asarray(x), jnp.asarray(y)), float(exact)


@pytest.mark.slow
def test_the_noise_of_minibatches_leaves_no_bias() -> None:
    """It warms chains by a share that falls with the time step: 4 runs together, against linear regression's own."""
    loss, best, data, exact = regression(20_000, 20)
    found = [slt.llc(loss, best, data, batch_size=256, seed=seed) for seed in range(4)]
    error = float(np.sqrt(np.mean([np.square(each.stderr) for each in found]) / len(found)))
    assert error < 0.02 * exact
    assert abs(np.mean([each.value for each in found]) - exact) < 4 * error


@pytest.mark.slow
def test_more_data_than_full_batches_can_take() -> None:
    """Minibatches by themselves, where a full gradient takes too long for the seconds allowed."""
    loss, best, data, exact = regression(200_000, 60)
    found = slt.llc(loss, best, data)
    assert found.settings["sampler"] == "BAOAB"
    assert found.healthy, found.verdict
    assert abs(found.value - exact) < max(4 * found.stderr, 0.02 * exact)
    assert found.stderr < 0.02 * exact
