"""The engine: compiles once a bucket, does not mix cells, chunks and resumes exactly, freezes what breaks."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt import observables as ob
from slt.cells import grid
from slt.engine import Chunk, prepare, program, run
from slt.engine.schedule import Schedule, Start, plan
from slt.model import Model, potential
from slt.priors import Normal
from slt.samplers.sgld import SGLD
from slt.typing import InputError, Status


@dataclass(frozen=True)
class Location(Model):
    """z ~ N(w, 1) in `dim` dimensions with prior N(0, 1) and a true mean that is a control."""

    dim: int = 2
    shift: float = 0.0
    controls = ("shift",)

    def init(self, key):
        return jax.random.normal(key, (self.dim,))

    def log_prior(self, params):
        return Normal().log_density(params)

    def log_likelihood(self, params, batch):
        return -0.5 * jnp.sum(jnp.square(batch - params), axis=-1)

    def sample(self, key, num):
        return self.shift + jax.random.normal(key, (num, self.dim))


WATCH = {
    "delta": ob.trace(ob.loss),
    "params": ob.trace(ob.parameters, every=5),
    "moments": ob.mean(ob.parameters),
}
SAMPLER = SGLD(step_size=0.1, per_nbeta=True)
SCHEDULE = Schedule(draws=60, chains=3, burn_in=10, chunk=20)
KEY = jax.random.key(0)


def small_run(**kwargs):
    cells = kwargs.pop("cells", grid(Location(), n=[10, 100], beta=["1", "1/log n"], data_seed=[0, 1]))
    schedule = kwargs.pop("schedule", SCHEDULE)
    return run(Location(), kwargs.pop("sampler", SAMPLER), cells, WATCH, schedule, key=kwargs.pop("key", KEY), **kwargs)


def test_shapes_and_order_of_cells():
    trace = small_run()
    assert trace.traces["delta"].shape == (8, 3, 60)
    assert trace.traces["params"].shape == (8, 3, 12, 2)
    assert trace.folds["moments"].mean.shape == (8, 3, 2)
    np.testing.assert_array_equal(trace.folds["moments"].draws, 50)
    alone = small_run(cells=[trace.plan.cells[5]])
    np.testing.assert_allclose(alone.traces["delta"][0], trace.traces["delta"][5], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(alone.offset[0], trace.offset[5], rtol=1e-6)


def test_posterior_means_are_those_of_the_cells_own_data():
    schedule = Schedule(draws=4000, chains=8, burn_in=100)
    cells = grid(Location(), n=[10, 100], data_seed=[0, 1], control={"shift": [0.0, 3.0]})
    job = prepare(Location(), SAMPLER, cells, WATCH, schedule, key=KEY)
    trace = job.run()
    for bucket in job.plan.buckets:
        posteriors = job.posteriors(bucket)
        for i, (row,) in enumerate(bucket.rows):
            data = np.asarray(posteriors.data[i], np.float64)[: cells[row].n]
            exact = data.sum(axis=0) / (cells[row].n + 1)
            found = trace.folds["moments"].mean[row].mean(axis=0)
            spread = trace.folds["moments"].mean[row].std(axis=0, ddof=1) / np.sqrt(8)
            assert np.all(spread < 0.02)
            assert np.all(np.abs(found - exact) < 4 * 0.02)


def test_data_are_nested_by_prefix_and_follow_the_data_seed_alone():
    def data(n, seed, key):
        job = prepare(Location(), SAMPLER, grid(Location(), n=n, data_seed=seed), WATCH, SCHEDULE, key=key)
        return np.asarray(job.posteriors(job.plan.buckets[0]).data[0])

    small, large, other = data(20, 7, KEY), data(500, 7, jax.random.key(9)), data(20, 8, KEY)
    np.testing.assert_array_equal(small[:20], large[:20])
    assert not np.array_equal(small, other)


def test_padding_does_not_count():
    given = jnp.asarray(np.random.default_rng(0).normal(size=(100, 2)), jnp.float32)
    spoilt = given.at[33:].set(1e6)
    cells = grid(Location(), n=33)
    a, b = (small_run(cells=cells, data=batch) for batch in (given, spoilt))
    np.testing.assert_array_equal(a.traces["delta"], b.traces["delta"])


@pytest.mark.parametrize("n", [[1, 2, 3, 5, 64, 65, 100, 128, 1000], [30, 60, 120, 250, 500, 1000, 2000, 3000], [7]])
def test_buckets_pad_by_less_than_two_and_small_n_share_one(n):
    layout = plan(SAMPLER, grid(Location(), n=n))
    powers = [2 ** int(np.ceil(np.log2(size))) for size in n]
    padded = {row: bucket.size for bucket in layout.buckets for (row,) in bucket.rows}
    assert sorted(padded) == list(range(len(n)))
    assert sum(padded.values()) <= 6 / 5 * sum(powers)
    shared = min(padded.values())
    for row, size in padded.items():
        assert size == max(powers[row], shared)
    assert len(layout.buckets) <= len(set(powers)) - (len(n) > 1)


def test_one_compile_a_bucket_and_none_for_a_changed_value():
    def cells(scale, **other):
        return grid(Location(), n=[9 * scale, 70 * scale], beta=["1", 0.3 * scale], **other)

    small_run(cells=cells(1, gamma=[0.0]))
    before = dict(program.programs)
    assert before["advance"] >= 2
    small_run(
        cells=cells(1.0 * 1, gamma=[2.5], data_seed=[4]),
        sampler=SGLD(step_size=0.03, per_nbeta=True),
        schedule=Schedule(draws=47, chains=3, burn_in=3, thin=2, chunk=20),
        key=jax.random.key(5),
    )
    assert program.programs == before


def test_chunks_do_not_change_the_draws():
    whole, parts = small_run(schedule=Schedule(60, 3, 10, chunk=60)), small_run(schedule=Schedule(60, 3, 10, chunk=5))
    np.testing.assert_allclose(whole.traces["delta"], parts.traces["delta"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.traces["params"], parts.traces["params"], rtol=1e-5, atol=1e-6)


def test_resume_is_bitwise_the_uninterrupted_run():
    saved: dict[int, tuple] = {}
    chunks: list[Chunk] = []

    def stop_midway(chunk: Chunk) -> None:
        saved[chunk.bucket] = jax.tree.map(np.asarray, chunk.carry), chunk.stop
        chunks.append(chunk)
        if len(chunks) == 4:
            raise KeyboardInterrupt

    whole = small_run()
    with pytest.raises(KeyboardInterrupt):
        small_run(on_chunk=stop_midway)
    assert [(c.bucket, c.first, c.stop) for c in chunks] == [(0, 0, 20), (0, 20, 40), (0, 40, 60), (1, 0, 20)]
    rest: list[Chunk] = []
    small_run(on_chunk=rest.append, restore=lambda bucket, like: saved.get(bucket))
    assert [(c.bucket, c.first, c.stop) for c in rest] == [(1, 20, 40), (1, 40, 60)]
    for chunk in chunks + rest:
        np.testing.assert_array_equal(
            chunk.traces["delta"], whole.traces["delta"][list(chunk.cells), :, chunk.first : chunk.stop]
        )
    np.testing.assert_array_equal(rest[-1].carry.folds["moments"].mean, whole.folds["moments"].mean[4:])


def test_extending_equals_a_longer_run():
    saved: dict[int, tuple] = {}

    def keep(chunk: Chunk) -> None:
        saved[chunk.bucket] = jax.tree.map(np.asarray, chunk.carry), chunk.stop

    small_run(schedule=Schedule(50, 3, 10, chunk=20), on_chunk=keep)
    more: list[Chunk] = []
    small_run(schedule=Schedule(83, 3, 10, chunk=20), on_chunk=more.append, restore=lambda bucket, like: saved[bucket])
    whole = small_run(schedule=Schedule(83, 3, 10, chunk=20))
    for chunk in more:
        np.testing.assert_array_equal(
            chunk.traces["delta"], whole.traces["delta"][list(chunk.cells), :, chunk.first : chunk.stop]
        )
        kept = slice(-(-chunk.first // 5), -(-chunk.stop // 5))
        np.testing.assert_array_equal(chunk.traces["params"], whole.traces["params"][list(chunk.cells), :, kept])


def cliff(w):
    """A bowl whose value is NaN beyond w_0 = 2: chains that step there break."""
    return jnp.sum(jnp.square(w)) + jnp.where(w[0] > 2.0, jnp.nan, 0.0)


def test_a_broken_chain_freezes_alone_and_is_recorded():
    model = potential(cliff, 2, Normal())
    cells = grid(model, t=[1.0, 2.0])
    watch = {"delta": ob.trace(ob.loss), "params": ob.trace(ob.parameters), "moments": ob.mean(ob.parameters)}
    inside, outside = np.zeros(2), np.array([-40.0, 0.0])
    sampler, schedule = SGLD(step_size=0.01), Schedule(draws=80, chains=2, burn_in=0)
    key = jax.random.key(1)

    def go(second):
        start = Start(jnp.asarray(np.stack([inside, second]), jnp.float32), jnp.array([False, False]))
        return run(model, sampler, cells, watch, schedule, key=key, start=start, centres=[jnp.zeros(2)])

    good, bad = go(inside), go(np.array([2.5, 0.0]))
    np.testing.assert_array_equal(good.traces["delta"][:, 0], bad.traces["delta"][:, 0])
    assert np.all(bad.status[:, 1] == Status.NONFINITE_LOSS)
    np.testing.assert_array_equal(bad.broken_at, [[-1, 0], [-1, 0]])
    assert np.all(np.isnan(bad.traces["delta"][:, 1]))
    assert np.all(np.isfinite(bad.traces["delta"][:, 0]))
    np.testing.assert_array_equal(bad.folds["moments"].draws, [[80, 0], [80, 0]])
    diverging = run(model, SGLD(step_size=5.0), cells, watch, schedule, key=key, centres=[outside])
    assert np.all(diverging.status == Status.NONFINITE_PARAMS) or np.all(diverging.status != Status.OK)
    assert np.all(diverging.broken_at >= 0)


def test_the_folded_moments_are_those_of_the_trace():
    watch = {
        "params": ob.trace(ob.parameters),
        "moments": ob.mean(ob.parameters),
        "sum": ob.log_mean_exp(ob.log_likelihoods),
    }
    trace = run(Location(), SAMPLER, grid(Location(), n=[5]), watch, SCHEDULE, key=KEY)
    kept = trace.traces["params"][:, :, 10:].astype(np.float64)
    np.testing.assert_allclose(trace.folds["moments"].mean, kept.mean(axis=2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trace.folds["moments"].variance(), kept.var(axis=2, ddof=1), rtol=1e-4, atol=1e-5)
    job = prepare(Location(), SAMPLER, grid(Location(), n=[5]), watch, SCHEDULE, key=KEY)
    data = np.asarray(job.posteriors(job.plan.buckets[0]).data[0][:5], np.float64)
    each = -0.5 * np.square(kept[0][:, :, None, :] - data).sum(axis=-1)
    np.testing.assert_allclose(trace.folds["sum"].value()[0, :, :5], np.log(np.exp(each).mean(axis=1)), rtol=1e-4)


@pytest.mark.parametrize(
    "change, field",
    [
        ({"cells": []}, "grid"),
        ({"schedule": Schedule(0)}, "schedule.draws"),
        ({"schedule": Schedule(10, burn_in=10)}, "schedule.burn_in"),
        ({"sampler": SGLD(step_size=-1.0)}, "sampler.step_size"),
        ({"sampler": SGLD(step_size=float("nan"))}, "sampler.step_size"),
        ({"data": np.zeros((50, 2), np.float32)}, "grid.n"),
        ({"centres": [np.full(2, np.inf)]}, "log_prior"),
    ],
)
def test_bad_input_is_named(change, field):
    with pytest.raises(InputError) as error:
        small_run(**change)
    assert error.value.field == field


@pytest.mark.parametrize(
    "axes, field",
    [
        ({"n": 0}, "grid.n"),
        ({"n": []}, "grid.n"),
        ({"n": 2.5}, "grid.n"),
        ({"n": 10, "beta": -1.0}, "grid.beta"),
        ({"n": 10, "beta": "1/log m"}, "grid.beta"),
        ({"n": 1, "beta": "1/log n"}, "grid.n"),
        ({"n": 10, "t": 3.0}, "grid.t"),
        ({"n": [10, 10]}, "grid.n"),
        ({"n": 10, "control": {"angle": [1.0]}}, "grid.control.angle"),
        ({"n": 10, "gamma": float("nan")}, "grid.gamma"),
    ],
)
def test_bad_grids_are_named(axes, field):
    with pytest.raises(InputError) as error:
        grid(Location(), **axes)
    assert error.value.field == field


def test_a_likelihood_that_sums_is_refused():
    @dataclass(frozen=True)
    class Summed(Location):
        def log_likelihood(self, params, batch):
            return jnp.sum(super().log_likelihood(params, batch))

    with pytest.raises(InputError, match="one value a sample"):
        run(Summed(), SAMPLER, grid(Summed(), n=4), WATCH, SCHEDULE, key=KEY)


def test_x64_runs_under_the_same_keys():
    def go():
        return prepare(Location(), SAMPLER, grid(Location(), n=[10]), WATCH, SCHEDULE, key=jax.random.key(0))

    narrow = np.asarray(jax.random.key_data(go().keys(go().plan.buckets[0])))
    with jax.enable_x64():
        job = go()
        wide = np.asarray(jax.random.key_data(job.keys(job.plan.buckets[0])))
        trace = job.run()
    np.testing.assert_array_equal(narrow, wide)
    assert trace.traces["delta"].dtype == np.float64
    assert np.all(np.isfinite(trace.traces["delta"]))
