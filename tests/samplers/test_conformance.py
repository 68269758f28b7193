"""What every sampler of slt.samplers keeps to, found by looking; and the configs that make them."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import slt.samplers as ss
from slt import observables as ob
from slt.cells import grid
from slt.engine import run
from slt.engine.schedule import Schedule
from slt.model import Model, potential
from slt.posterior import Posterior, Restriction
from slt.priors import Normal, Prior, Uniform
from slt.samplers.base import Sampler
from slt.typing import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "sampler"
SIZE = 6


@dataclasses.dataclass(frozen=True)
class Nested(Model):
    """A linear model whose parameters are a dictionary of a matrix and a scalar."""

    prior: Prior = dataclasses.field(default_factory=lambda: Uniform(-1.0, 1.0))

    def init(self, key: Any) -> Any:
        return self.prior.sample(key, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())})

    def log_prior(self, params: Any) -> Any:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Any, batch: Any) -> Any:
        return -0.5 * jnp.square(batch @ params["a"].reshape(-1) + params["b"] - 1)

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support


def make(name: str) -> Sampler:
    return (
        ss.ReplicaExchange(axis="beta", rungs=2, inner=ss.MALA())
        if name == "ReplicaExchange"
        else ss.available()[name]()
    )


NAMES = sorted(ss.available())
VARIANTS = {name: make(name) for name in NAMES} | {
    "SGLD-minibatch": ss.SGLD(batch_size=2),
    "BADODAB-control": ss.BADODAB(batch_size=2, control_variate=True, per_nbeta=True),
    "PSGLD-moving": ss.PSGLD(frozen=False),
    "HMC-diagonal": ss.HMC(diagonal=True),
    "HMC-untuned": ss.HMC(tune=False),
    "Exchange-control": ss.ReplicaExchange(
        axis="beta", rungs=2, between=1, inner=ss.SGHMC(batch_size=2, control_variate=True)
    ),
    "Exchange-n": ss.ReplicaExchange(axis="n", rungs=2, between=1, inner=ss.PSGLD()),
    "Exchange-bridge": ss.ReplicaExchange(axis="beta", rungs=1, inner=ss.from_blackjax(blackjax.mala, step_size=0.001)),
    "from_blackjax": ss.from_blackjax(blackjax.mala, step_size=0.01),
}


def posterior_for(sampler: Sampler, model: Model, **options: Any) -> Posterior:
    data = jnp.asarray(np.random.default_rng(0).normal(size=(SIZE, 6)), jnp.result_type(float))
    centre = jax.tree.map(lambda leaf: 0.1 * jnp.ones_like(leaf), model.init(jax.random.key(0)))
    build = functools.partial(
        Posterior.build, model, data, centre=centre, control_variate=sampler.wants_reference_grad, **options
    )
    if sampler.coupled is None:
        return build(SIZE, 1.0)
    values, _ = sampler.ladder([2, SIZE] if sampler.coupled == "n" else [0.5, 1.0])
    numbers = [(max(int(v), 1), 1.0) if sampler.coupled == "n" else (SIZE, v) for v in values]
    n, beta = (jnp.asarray(column) for column in zip(*numbers, strict=True))
    return jax.vmap(build)(n, beta.astype(jnp.result_type(float)))


def start_for(sampler: Sampler, posterior: Posterior) -> Any:
    place = posterior.centre if posterior.restriction is None else posterior.restriction.free(posterior.centre)
    return place if sampler.coupled is None else posterior.centre


def steps(sampler: Sampler, posterior: Posterior, start: Any, key: Any) -> Any:
    """Five steps, the first three of them burn-in."""
    algorithm = sampler(posterior)
    first, later = jax.random.split(key)
    state = algorithm.init(start, first)

    def step(i: Any, loop: Any) -> Any:
        state, info = algorithm.step(jax.random.fold_in(later, i), loop[0])
        if algorithm.adapt is not None:
            state = jax.lax.cond(i < 3, algorithm.adapt, lambda s, _: s, state, info)
        return state, info

    blank = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda s: algorithm.step(later, s), state)[1]
    )
    state, info = jax.lax.fori_loop(0, 5, step, (state, blank))
    return state, info


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in (*NAMES, "Exchange-n") else pytest.mark.statistics) for n in VARIANTS]
)
def test_contract(name: str) -> None:
    sampler = VARIANTS[name]
    sampler.check()
    posterior = posterior_for(sampler, Nested())
    start = start_for(sampler, posterior)
    program = jax.jit(steps)
    key = jax.random.key(3)
    state, info = program(sampler, posterior, start, key)
    programs = program._cache_size()
    # a position like the start's, inside the box; all finite
    position = state.position
    jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f"{a} {b}"), position, start)
    if "blackjax" not in name and "bridge" not in name:
        assert all(bool((jnp.abs(leaf) <= 1).all()) for leaf in jax.tree.leaves(position))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(position))
    # Info: shapes, and the diagnostics it promises
    shape = () if sampler.coupled is None else posterior.n.shape
    for told in (info.delta, info.acceptance, *info.diagnostics.values()):
        assert told is None or told.shape == shape
    assert set(sampler.diagnostics) <= set(info.diagnostics)
    if info.delta is not None and getattr(sampler, "batch_size", None) is None and sampler.coupled is None:
        np.testing.assert_allclose(info.delta, posterior.delta(position), rtol=1e-4, atol=1e-6)
    # the same key gives the same, another key another
    again, _ = program(sampler, posterior, start, key)
    other, _ = program(sampler, posterior, start, jax.random.key(4))
    jax.tree.map(np.testing.assert_array_equal, position, again.position)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (position, other.position)), strict=True))
    # another value of any number recompiles nothing
    changed = jax.tree.map(lambda leaf: type(leaf)(leaf * 0.9), sampler)
    different = dataclasses.replace(posterior, beta=posterior.beta * 0.9, gamma=posterior.gamma + 1)
    program(changed, different, start, key)
    assert program._cache_size() == programs


@pytest.mark.parametrize("name", VARIANTS)
def test_double_precision_stays_double(name: str, x64: None) -> None:
    sampler = VARIANTS[name]
    posterior = posterior_for(sampler, Nested())
    state, info = jax.eval_shape(steps, sampler, posterior, start_for(sampler, posterior), jax.random.key(0))
    for leaf in jax.tree.leaves((state, info)):
        assert leaf.dtype != jnp.float32, name


@pytest.mark.parametrize("name", VARIANTS)
def test_restrictions_and_masks_pass_through(name: str) -> None:
    sampler = VARIANTS[name]
    model = Nested(Normal())
    mask = {"a": np.array([[True, False, True], [False, False, True]]), "b": np.array(False)}
    traced = posterior_for(sampler, model, mask=jax.tree.map(jnp.asarray, mask))
    jax.eval_shape(steps, sampler, traced, start_for(sampler, traced), jax.random.key(0))
    if sampler.coupled is None:
        fixed = posterior_for(sampler, model, restriction=Restriction(mask))
        state, _ = jax.eval_shape(steps, sampler, fixed, start_for(sampler, fixed), jax.random.key(0))
        assert [leaf.shape for leaf in jax.tree.leaves(state.position)] == [(3,)]


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_config_that_names_its_fields_and_defaults(name: str) -> None:
    files = {yaml.safe_load(path.read_text())["_target_"]: path for path in CONFIGS.glob("*.yaml")}
    assert f"slt.samplers.{name}" in files
    node = yaml.safe_load(files[f"slt.samplers.{name}"].read_text())
    del node["_target_"]
    cls = ss.available()[name]
    fields = {field.name for field in dataclasses.fields(cls)}
    assert set(node) == fields - {"inner"}
    cls(**node).check()
    assert files[f"slt.samplers.{name}"].read_text().startswith("# ")


def test_no_config_is_left_without_a_sampler() -> None:
    for path in CONFIGS.glob("*.yaml"):
        target = yaml.safe_load(path.read_text())["_target_"]
        assert target.removeprefix("slt.samplers.") in NAMES


@pytest.mark.parametrize(
    "sampler, field",
    [
        (ss.SGLD(step_size=0.0), "sampler.step_size"),
        (ss.SGLD(step_size=float("nan")), "sampler.step_size"),
        (ss.SGLD(batch_size=0), "sampler.batch_size"),
        (ss.SGLD(control_variate=True), "sampler.control_variate"),
        (ss.PSGLD(decay=1.0), "sampler.decay"),
        (ss.PSGLD(damping=0.0), "sampler.damping"),
        (ss.BAOAB(friction=0.0), "sampler.friction"),
        (ss.SGHMC(gradient_noise=-1.0), "sampler.gradient_noise"),
        (ss.SGNHT(thermostat=0.0), "sampler.thermostat"),
        (ss.BADODAB(xi=float("inf")), "sampler.xi"),
        (ss.MALA(target=1.0), "sampler.target"),
        (ss.HMC(leapfrogs=0), "sampler.leapfrogs"),
        (ss.HMC(jitter=1.0), "sampler.jitter"),
        (ss.HMC(diagonal=True, tune=False), "sampler.diagonal"),
        (ss.NUTS(doublings=0), "sampler.doublings"),
        (ss.FromBlackJAX(), "sampler.fn"),
    ],
)
def test_bad_settings_are_refused(sampler: Sampler, field: str) -> None:
    with pytest.raises(InputError) as caught:
        sampler.check()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "BADODAB" else pytest.mark.statistics) for n in NAMES],
)
def test_the_engine_runs_each(name: str) -> None:
    sampler = make(name)
    if name == "ReplicaExchange":
        sampler = dataclasses.replace(sampler, axis="t")
    model = potential(lambda w: jnp.sum(w**2) + w[0] ** 4, 2, Normal())
    watch = {"delta": ob.trace(ob.loss), "mean": ob.mean(ob.parameters)}
    watch |= {name: ob.trace(ob.diagnostic(name)) for name in sampler.diagnostics}
    cells = grid(model, t=[1.0, 3.0])
    trace = run(model, sampler, cells, watch, Schedule(draws=40, chains=2, burn_in=10, chunk=20), key=jax.random.key(0))
    assert (trace.status == 0).all()
    assert trace.traces["delta"].shape[1:] == (2, 40)
    for name in sampler.diagnostics:
        assert trace.traces[name].shape[1:] == (2, 40)
    assert np.isfinite(trace.folds["mean"].mean).all()
