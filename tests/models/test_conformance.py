"""Every built-in model keeps the contract of slt.model.Model and agrees with what its truth() says. New files in
slt/models are found by themselves."""

import dataclasses
import functools
import importlib
import pkgutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slt.models
from slt.model import Model, check
from slt.priors import Normal, Uniform

MODULES = [info.name for info in pkgutil.iter_modules(slt.models.__path__) if not info.name.startswith("_")]

# Beside make() of every module: (module, function, arguments).
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("gaussian_location", "make", {"d": 3, "mean": 0.5}),
    ("linear_regression", "make", {"design": ((1.0, -1.0), (1.0, 0.0), (1.0, 3.0)), "signal": 2.0}),
    ("sums_of_squares", "make", {"d": 3, "squares": 2, "condition": 100.0, "shift": 0.3, "prior": Uniform(-1.0, 1.0)}),
    ("normal_crossing", "make", {"k": (2, 1), "h": (0.5, 2.0)}),
    ("normal_crossing", "make", {"k": (1, 1, 1), "s": 0.1, "prior": Normal()}),
    ("two_basins", "make", {"gap": 0.0}),
    ("superposition", "make", {"c": 5, "rule": "descent", "merged": False}),
    ("superposition", "population", {}),
    ("superposition", "population", {"c": 9, "rule": "descent", "merged": False}),
    ("superposition", "population", {"c": 3}),
    ("deep_linear", "make", {"widths": (3, 2, 2, 4), "singular_values": ()}),
    ("tanh", "make", {"hidden": 1, "height": 1.0}),
    ("mixture", "make", {"means": "one"}),
    ("mixture", "make", {"separation": 2.0, "weight_prior": 2.0}),
]
CASES = [(name, "make", {}) for name in MODULES] + VARIANTS
NAMED = [
    pytest.param(
        case,
        id=".".join([*case[:2], *(f"{k}={v}" for k, v in case[2].items())]),
        marks=[pytest.mark.slow] if case[2] else [],
    )
    for case in CASES
]
each_model = pytest.mark.parametrize("case", NAMED)
SIZE = 64


def build(case: tuple[str, str, dict[str, Any]]) -> Model:
    module, function, arguments = case
    return getattr(importlib.import_module(f"slt.models.{module}"), function)(**arguments)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def close(a: Any, b: Any, tolerance: float) -> None:
    np.testing.assert_allclose(flat(a), flat(b), rtol=tolerance, atol=tolerance)


@functools.partial(jax.jit, static_argnums=0)
def losses(model: Model, params: Any, batch: Any) -> Any:
    """Of one batch: per-sample log-likelihoods, log prior, and the gradient of their sum, at a stack of parameters."""

    def total(w: Any) -> Any:
        return jnp.sum(model.log_likelihood(w, batch)) + model.log_prior(w)

    return jax.vmap(lambda w: (model.log_likelihood(w, batch), model.log_prior(w), jax.grad(total)(w)))(params)


@functools.partial(jax.jit, static_argnums=(0, 2))
def drawn(model: Model, key: jax.Array, num: int) -> Any:
    return model.sample(key, num)


@each_model
def test_contract(case: Any, key: jax.Array) -> None:
    model = build(case)
    assert model == build(case), "made twice it must be equal, or it compiles twice"
    assert hash(model) == hash(build(case))
    assert model != dataclasses.replace(model, prior=Normal(3.5))
    params = jax.jit(jax.vmap(model.init))(jax.random.split(key, 8))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    batch = drawn(model, jax.random.fold_in(key, 1), SIZE)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    check(model, first, batch)
    values, prior, grad = losses(model, params, batch)
    assert values.shape == (8, SIZE)
    assert prior.shape == (8,)
    assert all(np.isfinite(flat(part)).all() for part in (values, prior, grad))
    # Samples are independent: a part of the batch has the same values.
    some = jax.tree.map(lambda leaf: leaf[5:9], batch)
    close(jax.jit(model.log_likelihood)(first, some), values[0, 5:9], 2e-5)
    if model.support is not None:
        low, high = model.support
        assert (flat(params) >= low).all()
        assert (flat(params) <= high).all()
        outside = jax.tree.map(lambda leaf: leaf + 2 * (high - low), first)
        assert model.log_prior(outside) == -np.inf


@each_model
def test_truth(case: Any, key: jax.Array) -> None:
    truth = build(case).truth()
    assert truth is not None
    assert truth.population_loss is not None
    assert (truth.lam is None) == (truth.multiplicity is None)
    assert truth.lam is None or truth.source
    value_and_grad = jax.jit(jax.value_and_grad(truth.population_loss))
    points = [(truth.params, truth.loss)] if truth.params is not None else []
    for params, loss in points + [(basin.params, basin.loss) for basin in truth.basins]:
        value, grad = value_and_grad(params)
        close(value, loss, 2e-6)
        close(grad, jax.tree.map(jnp.zeros_like, grad), 2e-6)
    if truth.phases is not None:
        label = jax.jit(truth.phases.label)
        for basin in truth.basins:
            assert truth.phases.names[int(label(basin.params))] == basin.phase, basin.name
            assert truth.basin(basin.name) is basin
        assert label(points[0][0] if points else truth.basins[0].params).dtype == jnp.int32
        again = build(case).truth()
        assert again is not None
        assert hash(truth.phases) == hash(again.phases), "phases are static: equal by value"


@each_model
def test_population_loss_is_the_mean_of_samples(case: Any, key: jax.Array) -> None:
    model = build(case)
    truth = model.truth()
    assert truth is not None
    assert truth.population_loss is not None
    points = [model.init(jax.random.fold_in(key, i)) for i in range(2)]
    points += [truth.params] if truth.params is not None else []
    if truth.entropy is not None and not model.is_potential:
        assert truth.loss is None or truth.loss >= truth.entropy - 1e-6
    num = SIZE if model.is_potential else 20_000
    batch = drawn(model, jax.random.fold_in(key, 9), num)
    density, loss = jax.jit(model.log_likelihood), jax.jit(truth.population_loss)
    for params in points:
        nll = -np.asarray(density(params, batch), np.float64)
        error = max(float(nll.std(ddof=1)) / num**0.5, 2e-6 * (1 + abs(nll.mean())))
        assert error < 0.05 * (1 + nll.mean()), "too few samples to tell"
        assert abs(nll.mean() - float(loss(params))) < 4 * error


def test_controls_are_bound_without_recompiling(key: jax.Array) -> None:
    models = {name: build((name, "make", {"height": 1.0} if name == "tanh" else {})) for name in MODULES}
    assert {"target.scale", "prior.scale", "likelihood.sigma"} <= set(models["deep_linear"].controls)
    for model in models.values():
        with pytest.raises(ValueError, match="no_such"):
            model.bind({"no_such": 1.0})
        if model.controls:
            _check_controls(model, key)


def _check_controls(model: Model, key: jax.Array) -> None:
    params, batch = jax.vmap(model.init)(jax.random.split(key, 8)), drawn(model, key, 4)
    traces = 0

    @jax.jit
    def everything(control: dict[str, jax.Array]) -> Any:
        nonlocal traces
        traces += 1
        bound = model.bind(control)
        batch = bound.sample(key, 4)
        return *jax.vmap(lambda w: (bound.log_likelihood(w, batch), bound.log_prior(w)))(params), batch

    present = {name: jnp.float32(model.control_value(name)) for name in model.controls}
    before = flat(everything(present))
    close(before, (losses(model, params, batch)[:2], batch), 1e-5)
    for name, value in present.items():
        moved = flat(everything(present | {name: value + 0.25}))
        assert np.isfinite(moved).all()
        assert not np.allclose(moved, before, atol=1e-6), f"{name} changes nothing"
    assert traces == 1
    assert present == {name: model.control_value(name) for name in present}, "binding must leave the model as it was"


@pytest.mark.usefixtures("x64")
def test_double_precision(key: jax.Array) -> None:
    for case in [*CASES[: len(MODULES)], ("superposition", "population", {})]:
        model = build(case)

        @jax.jit
        def start(key: jax.Array, model: Model = model) -> Any:
            params, batch = model.init(key), model.sample(key, 4)
            return params, batch, model.log_likelihood(params, batch), model.log_prior(params)

        params, batch, *values = start(key)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves((params, values))), case
        single = functools.partial(jax.tree.map, lambda leaf: leaf.astype(jnp.float32)[None])
        with jax.enable_x64(False):
            low = losses(build(case), single(params), jax.tree.map(lambda leaf: leaf[0], single(batch)))
        close(low[:2], values, 3e-5)
