"""Training: exact recursions, known local coefficients at raw iterates, plateaus of made curves."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stats import assert_close

import slt
from slt.dynamics import plateaus, program, store
from slt.dynamics.local import local
from slt.model import Potential, potential
from slt.models import deep_linear, superposition
from slt.priors import Normal
from slt.typing import InputError

CURVATURE = np.array([0.5, 2.0], np.float32)


def bowl(w: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.asarray(CURVATURE, w.dtype) * jnp.square(w))


def chain(w: jax.Array) -> jax.Array:
    return jnp.square(w[0] * w[1] - 1)


BOWL = potential(bowl, 2, Normal())


def test_sgd_and_momentum_follow_their_recursions() -> None:
    for optimiser in ("sgd", "momentum"):
        found = slt.train(BOWL, optimiser=optimiser, learning_rate=[0.1, 0.3], momentum=0.8, steps=20, runs=2,
                          checkpoints=list(range(21)), fine=1)  # fmt: skip
        w = found.params[:, 0].astype(float)
        trace, mass = np.zeros_like(w), 0.8 if optimiser == "momentum" else 0.0
        for step in range(21):
            np.testing.assert_allclose(found.params[:, step], w, rtol=2e-5, atol=1e-6)
            np.testing.assert_allclose(found.loss[:, step], (0.5 * CURVATURE * w**2).sum(1), rtol=1e-4, atol=1e-9)
            trace = mass * trace + CURVATURE * w
            w = w - found.rate[:, None] * trace
    assert found.steps.tolist() == list(range(21))
    assert found.rate.tolist() == [0.1, 0.1, 0.3, 0.3]


@pytest.mark.standard_promotion
def test_adam_is_optax_adam() -> None:
    found = slt.train(BOWL, optimiser="adam", learning_rate=0.05, steps=15, runs=1, checkpoints=[15])
    rule, w = optax.adam(0.05), jnp.asarray(found.params[0, 0])
    state = rule.init(w)
    for _ in range(15):
        moves, state = rule.update(jax.grad(bowl)(w), state, w)
        w = optax.apply_updates(w, moves)
    np.testing.assert_allclose(found.params[0, -1], w, rtol=1e-5)
    own = slt.train(BOWL, optimiser=optax.adam, learning_rate=0.05, steps=15, runs=1, checkpoints=[15])
    np.testing.assert_allclose(own.params, found.params, rtol=1e-6)


def test_a_run_alone_equals_the_same_run_among_others_and_new_numbers_compile_nothing() -> None:
    model = deep_linear.make((3, 2, 3), (1.0,))
    arguments = {"batch_size": 8, "n": 64, "steps": 30, "checkpoints": [10, 30]}
    many = slt.train(model, loss="data", learning_rate=[0.01, 0.05], runs=3, scale=[1.0, 0.1], **arguments)
    programs = program.advance._cache_size()
    again = slt.train(
        model, loss="data", learning_rate=[0.02, 0.03], momentum=0.1, runs=3, scale=[2.0, 0.3], **arguments
    )
    assert program.advance._cache_size() == programs
    assert not np.allclose(again.params["w0"][:, -1], many.params["w0"][:, -1])
    alone = slt.train(model, loss="data", learning_rate=0.05, runs=1, scale=0.1, **arguments)
    row = np.flatnonzero((many.rate == 0.05) & (many.scale == 0.1))[0]
    np.testing.assert_allclose(alone.params["w1"][0], many.params["w1"][row], rtol=1e-4, atol=1e-6)
    finals = many.params["w0"][:, -1].reshape(len(many.ok), -1)
    assert len(np.unique(finals.round(5), axis=0)) == len(finals), "runs share their noise"


def test_minibatches_descend_the_loss_they_are_drawn_from() -> None:
    model = deep_linear.make((3, 3), (1.0, 0.5))
    data = slt.train(model, loss="data", batch_size=16, n=512, learning_rate=0.05, steps=400, runs=4, checkpoints=8)
    fresh = slt.train(model, loss="online", batch_size=16, learning_rate=0.05, steps=400, runs=4, checkpoints=8)
    whole = slt.train(model, learning_rate=0.05, steps=400, runs=4, checkpoints=8)
    entropy = model.truth().loss
    assert (fresh.curve[:, -1] - entropy < 0.4).all()
    assert (fresh.curve[:, 0] - entropy > 1).all()
    assert (whole.curve[:, -1] - entropy < 1e-3).all()
    assert (np.abs(data.curve[:, -1] - entropy) < 0.5).all()


def test_a_run_that_diverges_is_frozen_and_said_so() -> None:
    steep = potential(lambda w: jnp.sum(w**4), 1, Normal())
    found = slt.train(steep, learning_rate=[0.01, 5.0], steps=50, runs=4, checkpoints=10, start=jnp.ones(1), scale=0.1)
    assert found.ok[:4].all()
    assert not found.ok[4:].any()
    assert (found.broken_at[4:] >= 0).all()
    assert np.isfinite(found.params).all()
    assert all(path is plateaus.NOWHERE for path in found.paths()[4:])


def staircase(steps: np.ndarray, levels: list[float], times: list[float], sharp: float = 12.0) -> np.ndarray:
    x, y = np.log(np.maximum(steps, 0.5)), np.full(len(steps), np.log(levels[0]))
    for time, a, b in zip(times, levels[:-1], levels[1:], strict=True):
        y += (np.log(b) - np.log(a)) / (1 + np.exp(-sharp * (x - np.log(time))))
    return np.exp(y)


def test_plateaus_and_drops_of_a_staircase() -> None:
    steps = np.unique(np.concatenate([[0], np.geomspace(1, 1e5, 400).astype(int)]))
    rng = np.random.default_rng(1)
    labels = np.searchsorted([30, 800, 9000], steps, side="right")
    for _ in range(20):
        curve = staircase(steps, [2.0, 1.0, 0.6, 0.2], [30, 800, 9000]) * np.exp(
            0.003 * rng.standard_normal(len(steps))
        )
        path = plateaus.path(steps, curve, steps, labels, 0.0)
        assert path.sequence == (0, 1, 2, 3)
        np.testing.assert_allclose(path.at, [30, 800, 9000], rtol=0.06)
        np.testing.assert_allclose(path.level, [2.0, 1.0, 0.6, 0.2], rtol=0.03)
        assert (path.pure > 0.9).all()


def test_a_power_law_has_no_plateau_and_a_run_just_begun_is_at_none() -> None:
    steps = np.unique(np.concatenate([[0], np.geomspace(1, 1e5, 400).astype(int)]))
    nothing = np.zeros(len(steps), int)
    falling = plateaus.path(steps, 2.0 / (1 + steps) ** 0.7, steps, nothing, 0.0, soft=1e-6)
    assert len(falling.start) == 0
    path = plateaus.path(steps, 0.5 + 2 * np.exp(-steps / 50), steps, nothing, 0.0)  # exponential from the start
    assert len(path.start) == 1
    assert path.start[0] > 50
    rest = plateaus.path(steps, staircase(steps, [2.0, 0.5], [50]), steps, nothing, 0.0)  # a saddle, left late
    assert len(rest.start) == 2


def test_label_paths_and_critical_steps() -> None:
    steps = np.concatenate([[0], np.round(np.geomspace(1, 1e4, 200)).astype(int)])
    rng = np.random.default_rng(2)
    times = np.exp(np.log(100) + 0.3 * rng.standard_normal(400))
    paths = [plateaus.by_labels(steps, (steps > t).astype(int), 1.0 * (steps <= t)) for t in times]
    found = plateaus.critical_steps(paths, ("a", "b"))["a->b"]
    assert found.runs == found.of == 400
    assert abs(found.median - np.median(times)) < 0.05 * found.median
    np.testing.assert_allclose(found.spread, np.quantile(times, [0.05, 0.95]), rtol=0.1)
    error = 1.2533 * 0.3 / np.sqrt(400) * 100  # of the median of a normal in log t
    assert 0.6 * error < found.stderr < 2.0 * error
    detours = [plateaus.by_labels(steps, np.where(steps > t, 2, 0), 1.0 * (steps <= t)) for t in times[:30]]
    names = ("a", "b", "c")
    assert set(plateaus.critical_steps(paths[:370] + detours, names)) == {"a->b", "a->c"}
    assert set(plateaus.critical_steps(paths[:370] + detours[:19], names)) == {"a->b"}  # 19 of 389: below 5 per cent
    assert set(plateaus.critical_steps(paths[:20] + detours[:4], names)) == {"a->b"}  # nor are 4 runs enough
    flicker = plateaus.by_labels(steps, np.where(steps == steps[100], 1, 0), np.ones(len(steps)))
    assert flicker.sequence == (0,)


def test_the_interval_of_a_median_covers_it_and_narrows_with_more_runs() -> None:
    """Of 60 numbers, over 400 repetitions: 90 per cent give or take 4 standard errors; as sqrt(runs) narrower."""
    rng = np.random.default_rng(3)
    found = [plateaus.middle(np.exp(rng.standard_normal(60)), draws=400) for _ in range(400)]
    covered = np.mean([one.low <= 1 <= one.high for one in found])
    assert abs(covered - 0.9) < 0.06
    few, many = (np.mean([one.high - one.low for one in (plateaus.middle(np.exp(rng.standard_normal(k)), draws=400)
                                                         for _ in range(50))]) for k in (60, 960))  # fmt: skip
    assert few / many == pytest.approx(4, rel=0.25)
    assert np.isnan(plateaus.middle(np.ones(1)).high)
    coarse = plateaus.middle(np.full(9, 100.0), width=0.2)
    np.testing.assert_allclose([coarse.low, coarse.high], 100 * np.exp([-0.09, 0.09]), rtol=0.01)


def test_share_and_its_interval() -> None:
    found = plateaus.share(30, 120)
    assert found.value == 0.25
    assert found.stderr == pytest.approx(np.sqrt(0.25 * 0.75 / 120))
    assert found.low < 0.25 < found.high
    none = plateaus.share(0, 50)
    assert none.value == 0
    assert none.stderr > 0
    assert 0 < none.high < 0.1


def test_modes_of_a_deep_linear_network_are_learned_in_the_order_of_singular_values() -> None:
    values = (4.0, 2.0, 1.0)
    model = deep_linear.population((4, 4, 4), values)
    found = slt.train(model, learning_rate=0.01, steps=6000, runs=16, scale=1e-6, checkpoints=200)
    paths = found.paths()
    assert all(path.sequence == (0, 1, 2, 3) for path in paths)
    critical = found.critical_steps(paths)
    # From a small start mode i grows as exp(4 s_i r step) on K = |A B - M|^2: its time goes as 1/s_i.
    times = [critical[f"{i}->{i + 1}"].median for i in range(3)]
    assert times[1] / times[0] == pytest.approx(2, rel=0.15)
    assert times[2] / times[0] == pytest.approx(4, rel=0.15)
    np.testing.assert_allclose(found.levels[:, 0], [21, 5, 1, 0], atol=1e-6)
    assert np.isfinite(found.lam).all()


def test_local_quantities_at_a_saddle() -> None:
    made = potential(chain, 2, Normal())
    points = jnp.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    found = local(made, points, t=100.0, gamma=1.0, chains=32, draws=600)
    assert -100 < found.llc.value[0] < -99
    np.testing.assert_allclose(found.loss, [1, 0.5625, 0], atol=1e-6)
    np.testing.assert_allclose(found.gradient, [0, np.hypot(0.75, 0.75), 0], atol=1e-5)
    np.testing.assert_allclose(found.lowest, [-2, -0.5, 0], atol=1e-4)
    np.testing.assert_allclose(found.highest, [2, 1.5, 4], atol=1e-4)
    assert found.negative.tolist() == [1, 1, 0]
    assert found.rank.tolist() == [2, 2, 1]
    assert found.llc.value[1] < 0 < found.llc.value[2]


@pytest.mark.slow
def test_local_coefficients_of_all_basins_at_once(key: jax.Array) -> None:
    model = superposition.population(6, merged=False)
    chosen = [model.truth().basin(name) for name in ("6", "5", "5+")]
    found = local(model, jnp.stack([b.params for b in chosen]), t=1e5, gamma=1.0, chains=32, draws=400, key=key)
    assert found.rank.tolist() == [17, 14, 17]
    assert (found.negative == 0).all()
    np.testing.assert_allclose(found.loss, [b.loss for b in chosen], atol=1e-6)
    exact = np.array([b.lam for b in chosen])
    np.testing.assert_allclose(found.quadratic, exact, atol=0.03)
    for value, stderr, lam in zip(found.llc.value, found.llc.stderr, exact, strict=True):
        assert_close(slt.Estimate(value, stderr), lam, 0.06)


def test_ends_of_the_spectrum_without_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    made = potential(chain, 2, Normal())
    points = jnp.array([[0.0, 0.3], [1.5, 0.2]])
    whole = local(made, points, t=10.0, chains=2, draws=8)
    monkeypatch.setattr("slt.dynamics.local.DENSE", 1)
    ends = local(made, points, t=10.0, chains=2, draws=8)
    np.testing.assert_allclose(ends.lowest, whole.lowest, rtol=1e-3)
    np.testing.assert_allclose(ends.highest, whole.highest, rtol=1e-3)
    assert np.isnan(ends.rank).all()


def test_trajectories_are_kept_by_orbax(tmp_path: Path) -> None:
    model = deep_linear.make((3, 2, 3), (1.0,))
    found = slt.train(model, steps=20, runs=2, checkpoints=5)
    found.save(tmp_path / "kept")
    back = slt.dynamics.Trajectories.load(tmp_path / "kept", model)
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(back, field.name)
        assert jax.tree.structure(a) == jax.tree.structure(b)
        assert all(np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind == "f")
                   for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), field.name  # fmt: skip
    with pytest.raises(InputError, match="not the one trained"):
        store.load(tmp_path / "kept", deep_linear.make((3, 3, 3), (1.0,)))
    with pytest.raises(InputError, match="nothing is overwritten"):
        store.save(found, tmp_path / "kept")
    with pytest.raises(InputError, match="no such folder"):
        store.load(tmp_path / "lost", model)


def test_training_that_was_killed_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = deep_linear.make((3, 2, 3), (1.0,))
    asked = {"optimiser": "adam", "loss": "data", "batch_size": 4, "n": 32, "steps": 60, "runs": 3, "checkpoints": 8}
    whole, place = slt.train(model, **asked), tmp_path / "training"
    forward, calls = program.advance, []

    def dying(*args: object) -> object:
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return forward(*args)

    monkeypatch.setattr("slt.dynamics.advance", dying)
    with pytest.raises(KeyboardInterrupt):
        slt.train(model, **asked, folder=place, every=0)
    assert [entry.name for entry in place.iterdir()] == ["4"]
    again = slt.train(model, **asked, folder=place, every=0)
    intervals = len(whole.steps) - 1
    assert len(calls) == 5 + intervals - 4
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.curve, again.curve)
    slt.train(model, **asked, folder=place)
    assert len(calls) == 5 + intervals - 4, "a finished training is only read"
    for other in ({"momentum": 0.5}, {"runs": 2}, {"key": jax.random.key(1)}, {"data_seed": 1}):
        with pytest.raises(InputError, match="another training"):
            slt.train(model, **(asked | other), folder=place)
    with pytest.raises(InputError, match="another training"):
        slt.train(deep_linear.make((3, 2, 3), (2.0,)), **asked, folder=place)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        slt.train(model, **asked, folder=tmp_path / "file")


BAD = [
    ({"every": -1.0}, "every"),
    ({"optimiser": "newton"}, "optimiser"),
    ({"learning_rate": -1.0}, "learning_rate"),
    ({"steps": 0}, "steps"),
    ({"loss": "online"}, "loss"),
    ({"batch_size": 4}, "loss"),
    ({"checkpoints": [5, 10**9]}, "checkpoints"),
    ({"scale": -0.1}, "scale"),
]


@pytest.mark.parametrize("arguments, field", BAD, ids=[str(arguments) for arguments, _ in BAD])
def test_bad_input_is_refused(arguments: dict, field: str) -> None:
    with pytest.raises(InputError) as error:
        slt.train(BOWL, **arguments)
    assert error.value.field == field


def test_bad_points_are_refused() -> None:
    with pytest.raises(InputError, match="points"):
        local(BOWL, jnp.zeros(2), t=1.0)
    model = deep_linear.make((3, 2, 3), (1.0,))
    points = jax.tree.map(lambda w: w[None], model.truth().params)
    with pytest.raises(InputError, match="needs either data or n"):
        local(model, points, t=1.0)


def test_population_of_a_deep_linear_network() -> None:
    widths, values = (3, 4, 2, 5), (3.0, 1.5)
    model = deep_linear.population(widths, values)
    assert isinstance(model, Potential)
    for basin in model.truth().basins:
        rank = int(basin.phase)
        assert float(model.fn(basin.params)) == pytest.approx(sum(s**2 for s in values[rank:]), abs=1e-5)
        assert int(model.truth().phases.label(basin.params)) == rank
        assert basin.lam == slt.models.deep_linear.linear_networks.deep_linear(widths, rank).lam
        truncated = deep_linear.population(widths, values[:rank])
        assert truncated.truth().lam == basin.lam
        assert float(truncated.fn(basin.params)) == pytest.approx(0, abs=1e-5)
    w = model.init(jax.random.key(3))
    parts = np.split(np.asarray(w), [12, 20])
    product = parts[0].reshape(3, 4) @ parts[1].reshape(4, 2) @ parts[2].reshape(2, 5)
    target = np.zeros((3, 5))
    target[[0, 1], [0, 1]] = values
    assert float(model.fn(w)) == pytest.approx(float(((product - target) ** 2).sum()), rel=1e-4)
    with pytest.raises(InputError, match="largest first"):
        deep_linear.population(widths, (1.0, 3.0))
