"""From a config to a finished run: builds the engine's jobs, runs them chunk by chunk into a store, and quenches."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from slt import observables as watch
from slt.cells import beta_text, grid
from slt.config import RunConfig, SweepConfig, instantiate
from slt.engine import Chunk, Job, Schedule, Start, prepare
from slt.model import Model, Truth
from slt.observables import Observable
from slt.phases import Phases
from slt.posterior import Posterior
from slt.samplers.base import Sampler
from slt.typing import InputError, Params

MAIN = "main"
"""Name of the part that stands at the top level of a config."""


@dataclass(frozen=True)
class Part:
    """One sweep of a run, checked and ready: its job, the labels of its chains' starts, and its phases."""

    name: str
    job: Job
    starts: tuple[str, ...]
    phases: Phases | None
    betas: tuple[str, ...]

    @property
    def chain_starts(self) -> tuple[str, ...]:
        """Where each chain starts."""
        return tuple(self.starts[c % len(self.starts)] for c in range(self.job.schedule.chains))


class Progress(Protocol):
    """Told of each chunk as it is saved; raising from it ends the run with everything up to that chunk kept."""

    def __call__(self, part: Part, chunk: Chunk) -> None: ...


class PartStore(Protocol):
    """What sampling needs of a store (slt.results.Store)."""

    def write(self, part: str, chunk: Chunk) -> None: ...

    def restore(self, part: str) -> Any: ...

    def finish(self, part: str, trace: Any) -> None: ...


def parts(config: RunConfig) -> list[Part]:
    """All sweeps of a run, the further parts first and the main one last; raises InputError before any compute."""
    named = {**config.parts, MAIN: config}
    return [part(name, sweep, config.seed) for name, sweep in named.items()]


def part(name: str, sweep: SweepConfig, seed: int) -> Part:
    """One sweep made ready to run. Each part's keys differ, and depend on its name and the run's seed alone."""
    prefix = "" if name == MAIN else f"parts.{name}."
    model: Model = instantiate(sweep.model, f"{prefix}model")
    if not isinstance(model, Model):
        raise InputError(f"{prefix}model", model, "its _target_ must give an slt.Model")
    sampler: Sampler = instantiate(sweep.sampler, f"{prefix}sampler")
    if not isinstance(sampler, Sampler):
        raise InputError(f"{prefix}sampler", sampler, "its _target_ must give an slt sampler; see `slt list`")
    truth = model.truth() or Truth()
    phases = truth.phases if sweep.phases is None else instantiate(sweep.phases, f"{prefix}phases")
    axes = {name: value for name, value in vars(sweep.grid).items() if value is not None}
    job = prepare(
        model,
        sampler,
        grid(model, **axes),
        _observables(sweep, phases, sampler, prefix),
        Schedule(**{name: value for name, value in vars(sweep.schedule).items() if name != "keep_params"}),
        key=jax.random.fold_in(jax.random.key(seed), _word(name)),
        start=_start(sweep, model, truth),
        centres=[_point(sweep.centre, model, truth, "centre")],
        data=None if sweep.data is None else instantiate(sweep.data, f"{prefix}data"),
    )
    return Part(name, job, tuple(sweep.start), phases, tuple(beta_text(label) for label in sweep.grid.beta or ["1"]))


def _word(name: str) -> int:
    return int.from_bytes(name.encode()[:4].ljust(4, b"\0"), "little") ^ (len(name) << 3)


def _observables(sweep: SweepConfig, phases: Phases | None, sampler: Sampler, prefix: str) -> dict[str, Observable]:
    chosen = {
        "delta": watch.trace(watch.loss),
        "distance": watch.trace(watch.distance),
        "acceptance": watch.trace(watch.acceptance),
    }
    if phases is not None:
        chosen["phase"] = watch.trace(watch.phase(phases))
    if sweep.schedule.keep_params:
        chosen["params"] = watch.trace(watch.parameters, every=sweep.schedule.keep_params)
    for name in sampler.diagnostics:
        chosen[name] = watch.trace(watch.diagnostic(name))
    for name, node in sweep.observables.items():
        made = instantiate(node, f"{prefix}observables.{name}")
        if name in chosen or not isinstance(made, Observable):
            raise InputError(f"{prefix}observables.{name}", made, "must be an slt Observable under a new name")
        chosen[name] = made
    return chosen


def _point(name: str, model: Model, truth: Truth, field: str) -> Params:
    if name == "prior" or (name == "optimum" and truth.params is None):
        return model.init(jax.random.key(0))
    if name == "optimum":
        return truth.params
    try:
        return truth.basin(name).params
    except InputError as error:
        raise InputError(field, name, error.cure) from error


def _start(sweep: SweepConfig, model: Model, truth: Truth) -> Start:
    if not sweep.start:
        raise InputError("start", sweep.start, "is empty: name at least one of 'prior', 'optimum', or a basin")
    points = [_point(name, model, truth, "start") for name in sweep.start]
    cast = functools.partial(jnp.asarray, dtype=jnp.result_type(float))
    stacked = jax.tree.map(lambda *leaves: jnp.stack([cast(leaf) for leaf in leaves]), *points)
    return Start(stacked, jnp.array([name == "prior" for name in sweep.start]), float(sweep.jitter))


def sample(ready: Sequence[Part], store: PartStore, progress: Progress) -> float:
    """Run every part into the store, resuming where the store has checkpoints; seconds spent sampling."""
    began = time.perf_counter()
    for one in ready:

        def save(chunk: Chunk, one: Part = one) -> None:
            store.write(one.name, chunk)
            progress(one, chunk)

        trace = one.job.run(on_chunk=save, restore=store.restore(one.name), keep=False)
        store.finish(one.name, trace)
    return time.perf_counter() - began


class Check(NamedTuple):
    """What one part would cost. seconds: estimated from one timed step of every bucket; None when not timed."""

    part: str
    cells: int
    extra_rungs: int
    chains: int
    parameters: int
    buckets: tuple[tuple[int, int], ...]
    draws: int
    steps: int
    trace_bytes: int
    seconds: float | None


def check(ready: Sequence[Part], *, timed: bool = True) -> list[Check]:
    """Size and cost of every part. Times a few steps of every bucket; nothing is kept."""
    return [_check(one, timed) for one in ready]


def _check(one: Part, timed: bool) -> Check:
    job, schedule = one.job, one.job.schedule
    free = jax.tree.leaves(job.centres[0] if job.restriction is None else job.restriction.free(job.centres[0]))
    rows = [len(bucket.rows) * len(bucket.rows[0]) for bucket in job.plan.buckets]
    seconds = sum(job.time_draw(bucket) for bucket in job.plan.buckets) * schedule.draws if timed else None
    return Check(
        part=one.name,
        cells=job.plan.grid,
        extra_rungs=len(job.plan.cells) - job.plan.grid,
        chains=schedule.chains,
        parameters=sum(leaf.size for leaf in free),
        buckets=tuple((bucket.size, count) for bucket, count in zip(job.plan.buckets, rows, strict=True)),
        draws=schedule.draws,
        steps=schedule.draws * schedule.thin,
        trace_bytes=schedule.draws * sum(job.bytes_per_draw(bucket) for bucket in job.plan.buckets),
        seconds=seconds,
    )


def quench(job: Job, points: Mapping[str, Params], *, steps: int = 300) -> dict[str, tuple[np.ndarray, Any]]:
    """Minimise the empirical loss L_n of every cell from each named point, by L-BFGS (optax), vmapped over cells.

    Returns, by name, delta(w*) = L_n(w*) - L_n(w_ref) [cells] and the minima w* (leaves [cells, ...]): the baseline of
    a learning coefficient on data is the minimum of the same data's loss, not the population's optimum.
    """
    cells = len(job.plan.cells)
    found: dict[str, tuple[np.ndarray, Any]] = {}
    for name, point in points.items():
        deltas, minima = np.full(cells, np.nan), None
        for bucket in job.plan.buckets:
            posteriors = job.posteriors(bucket)
            if job.plan.coupled is not None:
                posteriors = jax.tree.map(lambda leaf: jnp.concatenate(list(leaf)), posteriors)
            rows = np.array([i for row in bucket.rows for i in row])
            delta, params = _quench(posteriors, point, steps)
            deltas[rows] = np.asarray(delta, np.float64)
            if minima is None:
                minima = jax.tree.map(lambda leaf: np.zeros((cells, *leaf.shape[1:]), leaf.dtype), params)
            jax.tree.map(lambda store, leaf, r=rows: store.__setitem__(r, np.asarray(leaf)), minima, params)
        found[name] = deltas, minima
    return found


@functools.partial(jax.jit, static_argnums=2)
def _quench(posteriors: Posterior, point: Params, steps: int) -> tuple[Float[Array, " cells"], Params]:
    def one(posterior: Posterior) -> tuple[Array, Params]:
        solver = optax.lbfgs(memory_size=10)
        value_and_grad: Callable[..., Any] = jax.value_and_grad(posterior.delta)
        first = posterior.position(jax.tree.map(lambda leaf, c: jnp.asarray(leaf, c.dtype), point, posterior.centre))

        def step(_: Array, loop: tuple[Any, ...]) -> tuple[Any, ...]:
            at, state, best, lowest = loop
            value, grad = value_and_grad(at)
            better = value < lowest
            best = jax.tree.map(lambda a, b: jnp.where(better, a, b), at, best)
            moves, state = solver.update(grad, state, at, value=value, grad=grad, value_fn=posterior.delta)
            return optax.apply_updates(at, moves), state, best, jnp.where(better, value, lowest)

        start = first, solver.init(first), first, posterior.delta(first)
        at, _, best, lowest = jax.lax.fori_loop(0, steps, step, start)
        last = posterior.delta(at)
        best = jax.tree.map(lambda a, b: jnp.where(last < lowest, a, b), at, best)
        return jnp.fmin(last, lowest), posterior.params(best)

    return jax.vmap(one)(posteriors)
