"""Sampling for predictions: chains whose per-sample log-likelihoods, of the data and of test samples, are folded."""

import dataclasses
import math
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt import observables as watch
from slt.cells import Cell, data_words
from slt.engine import Chunk, Job, Schedule, Start, prepare
from slt.engine.program import draw_data
from slt.estimators import criteria as estimators
from slt.estimators import diagnostics
from slt.estimators.criteria import Folded
from slt.model import Model, Truth, Wrapped, compressed
from slt.observables import Observable
from slt.posterior import Posterior, Restriction
from slt.samplers.base import Info, Sampler
from slt.typing import Batch, Estimate, InputError, Key, Params, Scalar, Status

FEWEST_CHAINS = 4
_TEST = 0x7E57  # folded into the key of a data set for its test samples; beyond what `split` would ever give


@dataclass(frozen=True)
class HeldOut(Wrapped):
    """`inner` with `per_sample` test samples beside each sample: batches are (data [b, ...], test [b, k, ...]).

    The posterior is that of `inner` on the data; test samples ride along, so that every cell has its own.
    """

    per_sample: int

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        return self.inner.log_likelihood(params, batch[0])

    def compress(self, batch: Batch, count: Any) -> Batch | None:
        fewer = compressed(self.inner, batch[0], count)
        return None if fewer is None else (fewer, batch[1])

    def sample(self, key: Key, num: int) -> Batch:
        return self.inner.sample(key, num), self._laid_out(self._test(key, num), num)

    def pair(self, data: Batch | int, n: int, test: Batch | int, data_seed: int) -> Batch | None:
        """Data and test as one batch, where one is given and the other to be drawn; None where both are drawn."""
        if isinstance(data, int) and isinstance(test, int):
            return None
        if isinstance(data, int):
            drawn = draw_data(self.inner, data_words(data_seed)[None], {}, n)
            data = jax.tree.map(lambda leaf: leaf[0], drawn)
        if isinstance(test, int):
            test = self._test(jax.random.key(data_seed), n)
        return jax.tree.map(jnp.asarray, data), self._laid_out(test, n)

    def _test(self, key: Key, num: int) -> Batch:
        return self.inner.sample(jax.random.fold_in(key, _TEST), num * self.per_sample)

    def _laid_out(self, test: Batch, num: int) -> Batch:
        """[M, ...] as [num, k, ...]; the last sample fills up, and is not counted."""

        def lay(leaf: Any) -> Array:
            leaf = jnp.asarray(leaf)
            missing = num * self.per_sample - leaf.shape[0]
            full = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]) if missing > 0 else leaf
            return full.reshape(num, self.per_sample, *leaf.shape[1:])

        return jax.tree.map(lay, test)


def held_out_log_likelihoods(posterior: Posterior, params: Params, info: Info) -> Float[Array, " n_test"]:
    """log p(z|w) of the test samples of a `HeldOut` model, those beside padded samples last."""
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), posterior.data[1])
    model: Any = posterior.bound
    return model.inner.log_likelihood(params, flat)


def population_loss(posterior: Posterior, params: Params, info: Info) -> Scalar:
    """L(w) in closed form."""
    with jax.ensure_compile_time_eval():  # a truth computes with numbers, this is traced
        truth: Any = posterior.model.truth()
    return truth.population_loss(params)


# Made once: an observable made anew would be a new program.
TRAIN, TEST = watch.pointwise(watch.differences), watch.pointwise(held_out_log_likelihoods)
DELTA, POPULATION = watch.trace(watch.full_loss), watch.trace(population_loss)


class Seen(NamedTuple):
    """What the chains of one cell that ran to the end saw after burn-in. `train` and `delta` are less the reference."""

    n: int
    beta: float
    delta: Float[np.ndarray, "chain draw"]
    """L_n(w) - L_n(w_ref)."""
    population: Float[np.ndarray, "chain draw"] | None
    """L(w)."""
    train: Folded
    """log p(z_i|w) - log p(z_i|w_ref)."""
    test: Folded | None
    """log p(z|w) of the test samples."""
    reference: Float[np.ndarray, " n"]
    """log p(z_i|w_ref)."""
    test_reference: Float[np.ndarray, " n_test"] | None
    differences: Float[np.ndarray, "chain draw n"] | None
    """log p(z_i|w) - log p(z_i|w_ref) of thinned draws, of the first cell."""
    broken: int
    sentence: str
    """What befell the worst chain."""


def size(batch: Batch | int, name: str) -> int:
    """How many samples a batch has, or a count asks for; InputError for what is neither."""
    if isinstance(batch, int) and not isinstance(batch, bool):
        if batch < 1:
            raise InputError(name, batch, "give a batch, or a positive number of samples")
        return batch
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(name, sorted(sizes), "all leaves of a batch need one leading axis of the same length")
    return sizes.pop()


def check_numbers(schedule: Schedule, **betas: float) -> None:
    """InputError for a schedule too small to tell errors, and for a beta that is not positive."""
    schedule.check()
    if schedule.chains < FEWEST_CHAINS:
        raise InputError("schedule.chains", schedule.chains, f"errors are the chains' spread: at least {FEWEST_CHAINS}")
    if schedule.draws - schedule.burn_in < 4:
        raise InputError("schedule.draws", schedule.draws, "keep at least 4 draws after burn-in")
    for name, value in betas.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(name, value, "give a positive number")


def sample(
    model: Model,
    data: Batch | int,
    cells: list[Cell],
    sampler: Sampler,
    schedule: Schedule,
    *,
    purpose: str,
    seed: int,
    test: Batch | int | None = None,
    population: bool = False,
    every: int = 0,
    start: Start | None = None,
    centre: Params | None = None,
    restriction: Restriction | None = None,
) -> list[Seen]:
    """Run all cells, of one n, as one program, and bring to the host what their chains folded.

    data, test: batches, or numbers of samples to draw; every: thinning of the per-sample trace of the first cell, 0 for
    none; population: whether L(w) is traced. start: default every other chain from the prior, the others from the known
    optimum and basins in turn. centre: default the known optimum, else the best point of a pilot run as long as the
    burn-in, whose ends are then the starts. The key depends on `purpose` and `seed`.
    """
    n, count = cells[0].n, 0 if test is None else size(test, "test")
    observed: dict[str, Observable] = {"delta": DELTA, "train": TRAIN}
    if population:
        observed["population"] = POPULATION
    if every:
        observed["differences"] = watch.trace(watch.differences, every=every)
    held, batch = model, None if isinstance(data, int) else data
    if test is not None:
        observed["test"] = TEST
        held = HeldOut(model, -(-count // n))
        batch = held.pair(data, n, test, cells[0].data_seed)
    if schedule.chunk is None:
        schedule = dataclasses.replace(schedule, chunk=max(1, schedule.draws // 8))

    def job(start: Start, centre: Params | None, schedule: Schedule) -> Job:
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
        return prepare(
            held, sampler, cells, observed, schedule, key=key, start=start, restriction=restriction, data=batch,
            centres=None if centre is None else [centre],
        )  # fmt: skip

    truth = model.truth() or Truth()
    centre = truth.params if centre is None else centre
    if start is None:
        start = _starts(model, truth)
        if centre is None and restriction is None and sampler.coupled is None:
            draws = max(schedule.burn_in, 2)
            start, centre = _pilot(job(start, None, dataclasses.replace(schedule, draws=draws, burn_in=draws - 1)))
    return _taken(job(start, centre, schedule), n, count)


def _starts(model: Model, truth: Truth) -> Start:
    known = [truth.params] if truth.params is not None else []
    known += [basin.params for basin in truth.basins]
    drawn = jax.tree.map(lambda leaf: np.zeros(leaf.shape), jax.eval_shape(lambda: model.init(jax.random.key(0))))
    points = [point for place in known for point in (drawn, place)] or [drawn]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.result_type(float)), *points)
    return Start(stacked, jnp.array([i % 2 == 0 for i in range(len(points))]))


def _pilot(job: Job) -> tuple[Start, Params]:
    """Where each chain of the first cell ends, and the place of the lowest loss among them."""
    last: dict[str, Any] = {}

    def note(chunk: Chunk) -> None:
        last["places"] = jax.tree.map(lambda leaf: np.asarray(leaf[0]), chunk.carry.state.position)
        last["losses"] = np.where(chunk.status[0] == Status.OK, chunk.traces["delta"][0, :, -1], np.inf)

    job.run(on_chunk=note, keep=False)
    losses = last["losses"]
    if not np.isfinite(losses).any():
        raise InputError("sampler", type(job.sampler).__name__, "every chain broke: look at the model's log_likelihood")
    # a broken chain starts again from the best place
    order = np.where(np.isfinite(losses), np.arange(len(losses)), losses.argmin())
    start = Start(jax.tree.map(lambda leaf: jnp.asarray(leaf[order]), last["places"]), jnp.zeros(len(losses), bool))
    return start, jax.tree.map(lambda leaf: leaf[losses.argmin()], last["places"])


def _taken(job: Job, n: int, count: int) -> list[Seen]:
    grid, parts = job.plan.grid, {name: [] for name in ("delta", "population", "differences")}

    def note(chunk: Chunk) -> None:
        order = np.argsort(chunk.cells)[:grid]  # a coupled sampler's extra rungs come last
        for name in parts.keys() & chunk.traces.keys():
            every = chunk.every[name]
            draws = np.arange(-(-chunk.first // every), -(-chunk.stop // every)) * every
            kept = chunk.traces[name][order[:1] if name == "differences" else order]
            parts[name].append(kept[:, :, draws >= job.schedule.burn_in])

    trace = job.run(on_chunk=note, keep=False)
    traces = {name: np.concatenate(values, axis=2) for name, values in parts.items() if values}
    reference, test_reference = _references(job)
    return [_one(i, job, trace, traces, reference[i], test_reference, n, count) for i in range(grid)]


def _one(
    i: int,
    job: Job,
    trace: Any,
    traces: dict[str, np.ndarray],
    reference: np.ndarray,
    test_reference: np.ndarray | None,
    n: int,
    count: int,
) -> Seen:
    ok = trace.status[i] == Status.OK
    sentence = Status(int(trace.status[i].max())).sentence
    if ok.sum() < FEWEST_CHAINS:
        raise InputError("sampler", type(job.sampler).__name__, f"{(~ok).sum()} of {len(ok)} chains broke: {sentence}")

    def folded(name: str, size: int) -> Folded:
        (draws, mean, square), (_, peak, total) = (
            [np.asarray(leaf[i][ok], np.float64) for leaf in part] for part in trace.folds[name]
        )
        log_mean = peak + np.log(total / draws[:, None])
        return Folded(log_mean[:, :size], mean[:, :size], (square / draws[:, None])[:, :size])

    def traced(name: str) -> np.ndarray | None:
        return traces[name][i][ok].astype(np.float64) if name in traces else None

    return Seen(
        n=n,
        beta=job.plan.cells[i].beta,
        delta=traces["delta"][i][ok].astype(np.float64),
        population=traced("population"),
        train=folded("train", n),
        test=folded("test", count) if count else None,
        reference=reference[:n],
        test_reference=None if test_reference is None else test_reference[i][:count],
        differences=traces["differences"][0][ok][..., :n] if i == 0 and "differences" in traces else None,
        broken=int((~ok).sum()),
        sentence=sentence,
    )


def _references(job: Job) -> tuple[np.ndarray, np.ndarray | None]:
    """log p(z_i|w_ref) of the grid's cells [cells, n_pad], and of their test samples."""
    bucket = job.plan.buckets[0]
    posteriors, order = job.posteriors(bucket), np.argsort([i for row in bucket.rows for i in row])[: job.plan.grid]
    if job.plan.coupled is not None:
        posteriors = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), posteriors)
    test = np.asarray(_at_centre(posteriors), np.float64)[order] if isinstance(job.model, HeldOut) else None
    return np.asarray(posteriors.reference, np.float64)[order], test


@jax.jit
def _at_centre(posteriors: Posterior) -> Float[Array, "cells n_test"]:
    return jax.vmap(lambda one: held_out_log_likelihoods(one, one.centre, Info()))(posteriors)


def generalisation(seen: Seen, less: Float[np.ndarray, " n_test"] | float) -> dict[str, Estimate]:
    """Bayes and Gibbs generalisation losses, by "bayes" and "gibbs", less `less`: one number, or one a test sample.

    With L(w) in closed form the Gibbs loss is its mean and the Bayes loss lies E_q[log E_w p - E_w log p] below, which
    varies little over test samples; without, both are means over test samples. Errors are Monte Carlo and test noise.
    """
    test = None if seen.test is None else estimators.pseudo_values(seen.test)
    found: dict[str, Estimate] = {}
    if seen.population is not None:
        mean = diagnostics.mean(seen.population)
        found["gibbs"] = Estimate(mean.value - np.mean(less), mean.stderr)
        if test is not None:
            gap = test.log_predictive - test.mean
            found["bayes"] = _over(seen.population.mean(1)[:, None] - np.mean(less) - gap)
    elif test is not None:
        found = {"bayes": _over(-test.log_predictive - less), "gibbs": _over(-test.mean - less)}
    return found


def _over(terms: Float[np.ndarray, "chain n_test"]) -> Estimate:
    """Mean of pseudo-values over chains and test samples, with both errors."""
    mean = estimators.over_chains(terms.mean(1))
    per_sample = terms.mean(0)
    noise = per_sample.std(ddof=1) / np.sqrt(len(per_sample)) if len(per_sample) > 1 else np.nan
    return Estimate(mean.value, np.hypot(mean.stderr, noise))
