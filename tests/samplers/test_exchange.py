"""Replica exchange: the swap by exact enumeration, masses of two basins, the three axes, tuning, broken rungs."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth
from samplers import targets
from samplers.harness import run, spread
from stats import assert_close

import slt.samplers as ss
from slt.model import Model, potential
from slt.posterior import Posterior
from slt.priors import Normal, Uniform
from slt.samplers.base import Algorithm, Info, Sampler, sampler
from slt.typing import InputError


def ladder(model: Model, data: Any, numbers: list[tuple[int, float]], centre: Any, copies: int = 1) -> Posterior:
    """Posteriors [copies, rungs, ...] at these (n, beta)."""
    n, beta = (jnp.asarray(column) for column in zip(*numbers, strict=True))
    one = jax.vmap(lambda n, b: Posterior.build(model, data, n, b, centre=centre))(
        n, beta.astype(jnp.result_type(float))
    )
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (copies, *leaf.shape)), one)


@sampler
class Still(Sampler):
    """Stays where it is: what is left of a step is the swap."""

    def __call__(self, posterior: Posterior) -> Algorithm:
        class Place(NamedTuple):
            position: Any

        return Algorithm(lambda position, key: Place(position), lambda key, state: (state, Info()))


@pytest.mark.parametrize("axis", ["t", "beta", "n"])
def test_swaps_are_in_detailed_balance_by_enumeration(axis: str) -> None:
    # five points as the space of each of two rungs: pi(x, y) p(swap) must equal pi(y, x) p(swap back), and p must be
    # the whole of min(1, ratio), with energies computed here from the model alone
    points = np.array([-0.4, 0.1, 0.3, 0.9, 1.4])
    if axis == "n":
        model, numbers = targets.Linear(), [(3, 1.0), (7, 0.5)]
        data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), targets.designs()["regression"])
        place = lambda x: jnp.array([0.2, x])  # noqa: E731
    else:
        model, numbers = potential(lambda w: 3 * (w[0] - 1) ** 4 + w[0], 1, Normal()), [(1, 0.5), (1, 2.0)]
        data, place = jnp.zeros((1, 0)), lambda x: jnp.array([x])
    posterior = ladder(model, data, numbers, place(0.0))
    exchange = ss.ReplicaExchange(inner=Still(), axis=axis, rungs=0, tune=False)
    pairs = list(itertools.product(points, points))
    starts = jnp.stack([jnp.stack([place(x), place(y)]) for x, y in pairs])

    def once(start: Any, key: Any) -> Any:
        algorithm = exchange(jax.tree.map(lambda leaf: leaf[0], posterior))
        state, info = algorithm.step(key, algorithm.init(start, key))
        return info.diagnostics["swap"], state.position, info.delta

    swap, moved, delta = jax.jit(jax.vmap(once))(starts, jax.random.split(jax.random.key(0), len(pairs)))
    likelihood = [
        np.asarray(jax.vmap(lambda x: model.log_likelihood(place(x), data))(jnp.asarray(points)), np.float64)
    ][0]
    energy = np.stack([-beta * likelihood[:, :n].sum(1) for n, beta in numbers])  # [rung, point]
    log_pi = -(energy[0][:, None] + energy[1][None, :])
    expected = np.minimum(1, np.exp(log_pi.T - log_pi))
    found = np.asarray(swap)[:, 0].reshape(5, 5)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    assert np.isnan(np.asarray(swap)[:, 1]).all()
    flow = np.exp(log_pi) * found
    np.testing.assert_allclose(flow, flow.T, rtol=4e-4)
    # positions are as they were or exchanged, and delta is each rung's own
    same = (np.asarray(moved) == np.asarray(starts)).all((1, 2))
    crossed = (np.asarray(moved) == np.asarray(starts)[:, ::-1]).all((1, 2))
    assert (same | crossed).all()
    assert crossed[found.reshape(-1) == 1].all()
    for rung, (n, _) in enumerate(numbers):
        at_reference = np.asarray(model.log_likelihood(place(0.0), data), np.float64)[:n].sum()
        coordinate = np.asarray(moved)[:, rung, -1].astype(np.float64)
        which = np.abs(coordinate[:, None] - points).argmin(1)
        np.testing.assert_allclose(
            np.asarray(delta)[:, rung], (at_reference - likelihood[which, :n].sum(1)) / n, atol=1e-5
        )


def test_ladder_keeps_the_grid_and_adds_zero() -> None:
    values, on_grid = ss.ReplicaExchange(rungs=3, between=2).ladder([10.0, 40.0, 1000.0])
    assert values.shape == (3 + 3 + 4,)
    assert values[0] == 0
    np.testing.assert_array_equal(values[on_grid], [10.0, 40.0, 1000.0])
    assert (np.diff(values) > 0).all()
    plain, all_grid = ss.ReplicaExchange(rungs=0).ladder([0.0, 1.0])
    assert plain.tolist() == [0.0, 1.0]
    assert all_grid.all()
    with pytest.raises(InputError, match="a ladder adds 0 itself"):
        ss.ReplicaExchange().ladder([0.0, 1.0])
    with pytest.raises(InputError, match="increasing"):
        ss.ReplicaExchange().ladder([2.0, 1.0])
    assert ss.ReplicaExchange(axis="beta").coupled == "beta"


@pytest.mark.parametrize(
    "wrong, field",
    [
        ({"axis": "gamma"}, "sampler.axis"),
        ({"rungs": -1}, "sampler.rungs"),
        ({"swap_every": 0}, "sampler.swap_every"),
        ({"inner": ss.ReplicaExchange()}, "sampler.inner"),
        ({"inner": ss.SGLD(step_size=-1.0)}, "sampler.inner.step_size"),
        ({"inner": 3}, "sampler.inner"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        ss.ReplicaExchange(**wrong).check()
    assert caught.value.field == field


GRID = [10.0, 50.0, 100.0, 200.0, 250.0, 300.0, 350.0, 400.0, 500.0, 700.0, 1000.0]
MASS = [0.119621244, 0.119372876, 0.158201773, 0.300492046, 0.401134135, 0.513416240, 0.626010676, 0.727456769,
        0.872802848, 0.978996796, 0.998833622]  # of V: science.md B2  # fmt: skip


def basins(exchange: ss.ReplicaExchange, chains: int, draws: int, burn_in: int, seed: int = 0) -> Any:
    model = potential(lambda w: jnp.minimum(0.01 + (w[0] + 1) ** 4, 20 * (w[0] - 1) ** 2), 1, Uniform(-2.0, 2.0))
    values, on_grid = exchange.ladder(GRID)
    posterior = ladder(model, jnp.zeros((1, 0)), [(1, t) for t in values], jnp.array([1.0]))
    starts = jnp.full((1, chains, len(values), 1), -1.0)  # all of them in U

    def seen(posterior: Posterior, position: jax.Array, info: Any) -> dict[str, jax.Array]:
        swap = info.diagnostics["swap"]
        return {
            "V": (position[:, 0] > 0.497836730716).astype(position.dtype),
            "tried": jnp.isfinite(swap).astype(position.dtype),
            "refused": jnp.where(jnp.isfinite(swap), 1 - swap, 0),
        }

    outcome = run(spread(exchange, 1), posterior, starts, seen, draws=draws, burn_in=burn_in, seed=seed)
    return outcome, on_grid


def check_basins(outcome: Any, on_grid: np.ndarray, exchange: ss.ReplicaExchange, max_stderr: float) -> None:
    mass = outcome.estimates()["V"]
    assert_close(
        type(mass)(mass.value[0][on_grid], mass.stderr[0][on_grid]), MASS, max_stderr, what="mass of V at the grid's t"
    )
    last = outcome.info.diagnostics
    rung = np.asarray(last["rung"])[0]
    np.testing.assert_array_equal(rung[:, on_grid], np.broadcast_to(np.float32(GRID), rung[:, on_grid].shape))
    assert (rung[:, 0] == 0).all()
    assert (np.diff(rung, axis=1) > 0).all()
    walker = np.sort(np.asarray(last["walker"])[0], axis=1)
    np.testing.assert_array_equal(walker, np.broadcast_to(np.arange(rung.shape[1]), walker.shape))
    assert (np.asarray(last["round_trips"])[0].sum(1) > 0).all()  # every ladder
    # what tuning promised: equal rejections below the grid, and every pair proposed at every second step
    tried, refused = (np.asarray(outcome.chain_means[name])[0, :, :-1] for name in ("tried", "refused"))
    np.testing.assert_allclose(tried, 0.5, atol=0.01)
    below = (refused / tried).mean(0)[: exchange.rungs]
    assert below.max() < 1.25 * below.min(), below


def test_masses_of_two_basins_and_a_ladder_that_tunes_itself() -> None:
    exchange = ss.ReplicaExchange(inner=ss.MALA(), rungs=10)
    outcome, on_grid = basins(exchange, chains=96, draws=1500, burn_in=1000)
    check_basins(outcome, on_grid, exchange, 0.02)


@pytest.mark.statistics
@pytest.mark.parametrize(
    "inner", [ss.HMC(leapfrogs=4), ss.NUTS(doublings=4), ss.MALA()], ids=lambda s: type(s).__name__
)
def test_masses_of_two_basins_around_other_samplers(inner: Sampler) -> None:
    exchange = ss.ReplicaExchange(inner=inner, rungs=10)
    outcome, on_grid = basins(exchange, chains=96, draws=6000, burn_in=1000)
    check_basins(outcome, on_grid, exchange, 0.01)


STEADY = ss.HMC(leapfrogs=5, step_size=0.3, tune=False)  # compiles faster than one that looks for its step


@pytest.mark.slow
def test_along_beta_every_rung_has_its_own_posterior() -> None:
    # linear regression at beta = .1 .. 1, against closed forms; extra rungs below and between
    grid = [0.1, 0.3, 1.0]
    exchange = ss.ReplicaExchange(inner=STEADY, axis="beta", rungs=2, between=1)
    values, on_grid = exchange.ladder(grid)
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), targets.designs()["regression"])
    check_energies(exchange, data, [(targets.SIZE, b) for b in values], on_grid, grid, [targets.SIZE] * 3, grid)


@pytest.mark.slow
def test_along_n_data_sets_are_nested() -> None:
    # the same at n = 2, 4, 8 with beta = 1; rungs below n = 2 have n = 2 and a smaller beta, those between their own n
    grid = [2, 4, 8]
    exchange = ss.ReplicaExchange(inner=STEADY, axis="n", rungs=2, between=1)
    values, on_grid = exchange.ladder(grid)
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), targets.designs()["regression"])
    numbers = [(max(2, int(np.ceil(v))), min(1.0, v / 2)) for v in values]
    check_energies(exchange, data, numbers, on_grid, grid, grid, [1.0] * 3)


def check_energies(
    exchange: ss.ReplicaExchange, data: Any, numbers: Any, on_grid: Any, grid: Any, sizes: Any, betas: Any
) -> None:
    model, centre = targets.Linear(), jnp.array([0.1, 0.9])
    posterior = ladder(model, data, numbers, centre)
    starts = jnp.broadcast_to(centre, (1, 64, len(numbers), 2))

    def seen(posterior: Posterior, position: jax.Array, info: Any) -> dict[str, jax.Array]:
        return {"delta": info.delta, "position": position}

    outcome = run(spread(exchange, 1), posterior, starts, seen, draws=800, burn_in=400)
    found = outcome.estimates()
    design, y = (np.asarray(leaf, np.float64) for leaf in data)
    for rung, n, beta in zip(np.flatnonzero(on_grid), sizes, betas, strict=True):
        exact = truth.linear_regression(design[:n, 0], y[:n, 0], beta, prior_scale=2.0)
        delta = type(found["delta"])(*(part[0, rung] * n * beta for part in found["delta"]))
        assert_close(delta, exact.llc(np.asarray(centre, float)), 0.03, what=f"n beta delta at rung {rung}")
        place = type(found["delta"])(*(part[0, rung] for part in found["position"]))
        assert_close(place, exact.mean, 0.02, what=f"mean at rung {rung}")
    rung = np.asarray(outcome.info.diagnostics["rung"])[0]
    np.testing.assert_array_equal(rung[:, on_grid], np.broadcast_to(np.float32(grid), rung[:, on_grid].shape))
    assert (np.asarray(outcome.info.diagnostics["round_trips"])[0].sum(1) > 0).all()


@pytest.mark.slow
def test_a_ladder_around_an_unadjusted_sampler_keeps_its_delta_exact() -> None:
    # minibatches: the sampler's own delta is an estimate, the ladder's is not; full batch: taken from the gradient pass
    grid = [0.2, 1.0]
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), targets.designs()["regression"])
    for inner in (ss.SGLD(per_nbeta=True, batch_size=2), ss.SGLD(per_nbeta=True)):
        exchange = ss.ReplicaExchange(inner=inner, axis="beta", rungs=1, swap_every=2)
        values, _ = exchange.ladder(grid)
        posterior = jax.tree.map(
            lambda leaf: leaf[0], ladder(targets.Linear(), data, [(8, b) for b in values], jnp.zeros(2))
        )
        algorithm = exchange(posterior)

        def steps(key: Any, algorithm: Any = algorithm) -> Any:
            first, later = jax.random.split(key)
            state = algorithm.init(jnp.ones((3, 2)), first)
            return jax.lax.fori_loop(
                0, 7, lambda i, s: algorithm.step(jax.random.fold_in(later, i), s[0]), algorithm.step(later, state)
            )

        state, info = jax.jit(steps)(jax.random.key(1))
        expected = jax.vmap(lambda p, w: p.delta(w))(posterior, state.position)
        np.testing.assert_allclose(info.delta, expected, rtol=1e-4, atol=1e-5)


def test_a_broken_rung_shows_in_position_and_delta_and_is_not_passed_on() -> None:
    model = potential(lambda w: jnp.where(w[0] > 5, jnp.nan, w[0] ** 2), 1, Normal())
    exchange = ss.ReplicaExchange(inner=ss.SGLD(step_size=1e-4), rungs=2)
    values, _ = exchange.ladder([1.0, 2.0])
    posterior = jax.tree.map(
        lambda leaf: leaf[0], ladder(model, jnp.zeros((1, 0)), [(1, t) for t in values], jnp.zeros(1))
    )
    algorithm = exchange(posterior)
    state = jax.jit(algorithm.init)(jnp.array([[0.0], [0.1], [6.0], [0.2]]), jax.random.key(0))
    step = jax.jit(algorithm.step)
    for i in range(3):
        state, info = step(jax.random.key(i), state)
    assert np.isnan(info.delta[2])
    assert np.isfinite(np.asarray(info.delta))[[0, 1, 3]].all()
    assert np.asarray(info.diagnostics["walker"])[2] == 2


def test_one_rung_alone_is_the_inner_sampler() -> None:
    exchange = ss.ReplicaExchange(inner=ss.SGLD(), rungs=0)
    posterior = jax.tree.map(
        lambda leaf: leaf[0],
        ladder(potential(lambda w: w[0] ** 2, 1, Normal()), jnp.zeros((1, 0)), [(1, 3.0)], jnp.zeros(1)),
    )
    algorithm = exchange(posterior)
    state, info = jax.jit(lambda k: algorithm.step(k, algorithm.init(jnp.zeros((1, 1)), k)))(jax.random.key(0))
    assert np.isnan(info.diagnostics["swap"]).all()
    assert state.position.shape == (1, 1)
