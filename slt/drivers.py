"""From a config to a finished run: builds the engine's jobs, runs them chunk by chunk into a store, and quenches."""

import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from slt import observables as watch
from slt.cells import checked_seed, grid
from slt.config import RunConfig, SweepConfig, instantiate, sweeps
from slt.engine import Chunk, Job, Schedule, Start, prepare, room
from slt.engine.mesh import spread
from slt.engine.schedule import Plan, plan
from slt.measure.llc import Llc, llc
from slt.model import Model, Rounded, Truth
from slt.observables import Observable
from slt.phases import Phases
from slt.quench import baselines, quench
from slt.results.layout import Block, Layout
from slt.results.store import Store
from slt.samplers.base import Sampler
from slt.samplers.mcmc import HMC
from slt.typing import Batch, InputError, Params

MAIN = "main"
"""Name of the part that stands at the top level of a config."""


@dataclass(frozen=True)
class Part:
    """One sweep of a run, checked and ready: its job, the labels of its chains' starts, and its phases."""

    name: str
    job: Job
    starts: tuple[str, ...]
    phases: Phases | None

    @property
    def chain_starts(self) -> tuple[str, ...]:
        """Where each chain starts."""
        return tuple(self.starts[c % len(self.starts)] for c in range(self.job.schedule.chains))


class Progress(Protocol):
    """Told of each chunk and piece of a measure as it is saved; raising from it ends the run with all that kept."""

    def __call__(self, part: Part, chunk: Chunk) -> None: ...

    def measured(self, name: str, piece: str) -> None:
        """A piece of the measure `name` was saved ("": the whole)."""


def parts(config: RunConfig, devices: int | str | None = None) -> list[Part]:
    """All sweeps of a run, the further parts first and the main one last; raises InputError before any compute.

    devices: see slt.engine.mesh.spread.
    """
    named = {prefix.removeprefix("parts.").rstrip(".") or MAIN: sweep for prefix, sweep in sweeps(config)}
    order = [*(name for name in named if name != MAIN), *(name for name in named if name == MAIN)]
    return [part(name, named[name], config.seed, devices, config.precision) for name in order]


def part(
    name: str, sweep: SweepConfig, seed: int, devices: int | str | None = None, precision: str = "highest"
) -> Part:
    """One sweep of a config made ready to run; `precision` of its likelihood, where it has one on data."""
    prefix = "" if name == MAIN else f"parts.{name}."
    made = {key: instantiate(node, f"{prefix}{key}") for key, node in _components(sweep).items() if node is not None}
    model = made["model"]
    if precision != "highest" and isinstance(model, Model) and not model.is_potential:
        model = Rounded(model, precision)
    watched = {key: instantiate(node, f"{prefix}observables.{key}") for key, node in sweep.observables.items()}
    schedule = {key: value for key, value in vars(sweep.schedule).items() if key != "keep_params"}
    return assemble(
        model,
        made["sampler"],
        Schedule(**schedule),
        axes={axis: value for axis, value in vars(sweep.grid).items() if value is not None},
        phases=made.get("phases"),
        start=sweep.start,
        jitter=sweep.jitter,
        centre=sweep.centre,
        keep_params=sweep.schedule.keep_params,
        observables=watched,
        data=made.get("data"),
        seed=seed,
        name=name,
        devices=devices,
    )


def _components(sweep: SweepConfig) -> dict[str, Any]:
    return {key: getattr(sweep, key) for key in ("model", "sampler", "phases", "data")}


def assemble(
    model: Model,
    sampler: Sampler,
    schedule: Schedule,
    *,
    axes: Mapping[str, Any],
    phases: Phases | None = None,
    start: Sequence[str] = ("prior",),
    jitter: float = 0.0,
    centre: str = "optimum",
    keep_params: int = 0,
    observables: Mapping[str, Observable] | None = None,
    data: Any = None,
    seed: int = 0,
    name: str = MAIN,
    devices: int | str | None = None,
) -> Part:
    """One sweep, checked and ready to run; arguments as the fields of a sweep's config, as objects.

    devices: that share its chains, see slt.engine.mesh.spread; default all accelerators, or one CPU. Each
    part's keys depend on its name and the run's seed alone.
    """
    prefix = "" if name == MAIN else f"parts.{name}."
    if not isinstance(model, Model):
        raise InputError(f"{prefix}model", model, "must be an slt.Model (its _target_ must give one)")
    if not isinstance(sampler, Sampler):
        raise InputError(f"{prefix}sampler", sampler, "must be an slt sampler; see `slt list`")
    if phases is not None and not isinstance(phases, Phases):
        raise InputError(f"{prefix}phases", phases, "must be an slt.Phases, such as slt.phases.by_rank gives")
    cells, shared = grid(model, **axes), spread(devices)
    data = None if data is None else _batch(f"{prefix}data", model, data)
    room.check(model, sampler, cells, schedule, data, shared)
    truth = model.truth() or Truth()
    phases = truth.phases if phases is None else phases
    if phases is not None:
        _shape(f"{prefix}phases", phases.rule, phases.label, model)  # what it gives, the observable of it checks
    job = prepare(
        model,
        sampler,
        cells,
        _observables(observables or {}, phases, sampler, keep_params, prefix),
        schedule,
        key=jax.random.fold_in(jax.random.key(checked_seed(seed)), zlib.crc32(name.encode())),
        start=_start(start, jitter, model, truth),
        centres=[_point(centre, model, truth, "centre")],
        data=data,
        spread=shared,
    )
    return Part(name, job, tuple(start), phases)


def sweep(
    model: Model, sampler: Sampler, schedule: Schedule, *, start: str | Sequence[str] = ("prior",), **options: Any
) -> xr.Dataset:
    """Run one sweep in memory and return its dataset, as a run directory would hold it (docs/format.md).

    options: the axes of the grid (n, beta, t, gamma, data_seed, control; see `slt.grid`) and those of `assemble`.
    """
    names = ("n", "beta", "t", "gamma", "data_seed", "control")
    axes = {axis: options.pop(axis) for axis in names if axis in options}
    one = assemble(model, sampler, schedule, axes=axes, start=[start] if isinstance(start, str) else start, **options)
    layout = Layout.of(one.job, one.chain_starts, one.phases)
    arrays = {
        variable.name: np.full(layout.shape(variable), variable.fill, variable.dtype) for variable in layout.variables
    }

    def fill(blocks: Iterable[Block]) -> None:
        for block in blocks:
            layout.put(arrays[block.variable.name], block)

    trace = one.job.run(on_chunk=lambda chunk: fill(layout.blocks(chunk)), keep=False)
    fill(layout.ended(trace))
    variables = {v.name: (v.dims, arrays[v.name], v.attrs) for v in layout.variables}
    return xr.Dataset(variables, coords=layout.coords | layout.growing, attrs=layout.attrs).merge(
        baselines(one.job, layout)
    )


def _batch(field: str, model: Model, data: Any) -> Batch:
    """Data given to a run as arrays; InputError where they are none, or not such as the model takes."""
    if model.is_potential:
        raise InputError(field, "given", "a potential has no data: leave it out")
    try:
        arrays = jax.tree.map(jnp.asarray, data)
    except (TypeError, ValueError) as error:
        raise InputError(field, data, "must be a batch: arrays whose leading axis counts samples") from error
    shapes = [leaf.shape for leaf in jax.tree.leaves(arrays)]
    if not shapes or len({shape[:1] for shape in shapes}) != 1 or shapes[0][:1] in ((), (0,)):
        raise InputError(field, shapes, "must be arrays with one leading axis, of the same number of samples")
    _shape(field, shapes, model.log_likelihood, model, arrays)
    return arrays


def _shape(field: str, value: object, fn: Any, model: Model, *rest: Any) -> Any:
    """Shape and dtype of fn(params, *rest) at the model's parameters; InputError where it cannot take them."""
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    try:
        return jax.eval_shape(fn, params, *rest)
    except InputError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise InputError(field, value, f"does not fit {type(model).__name__} ({said})") from error


def _observables(
    further: Mapping[str, Observable], phases: Phases | None, sampler: Sampler, keep_params: int, prefix: str
) -> dict[str, Observable]:
    chosen = {
        "delta": watch.trace(watch.loss),
        "distance": watch.trace(watch.distance),
        "acceptance": watch.trace(watch.acceptance),
    }
    if phases is not None:
        chosen["phase"] = watch.trace(watch.phase(phases))
    if isinstance(keep_params, bool) or not isinstance(keep_params, int) or keep_params < 0:
        raise InputError(f"{prefix}schedule.keep_params", keep_params, "must be a whole number of draws, 0 for never")
    if keep_params:
        chosen["params"] = watch.trace(watch.parameters, every=keep_params)
    for name in sampler.diagnostics:
        chosen[name] = watch.trace(watch.diagnostic(name))
    for name, made in further.items():
        if name in chosen or not isinstance(made, Observable):
            raise InputError(f"{prefix}observables.{name}", made, "must be an slt Observable under a new name")
        if not made.every >= 1:
            raise InputError(f"{prefix}observables.{name}.every", made.every, "must be a whole number, at least 1")
        chosen[name] = made
    return chosen


def _point(name: str, model: Model, truth: Truth, field: str) -> Params:
    if name == "prior" or (name == "optimum" and truth.params is None):
        return jax.jit(model.init)(jax.random.key(0))
    if name == "optimum":
        return truth.params
    try:
        return truth.basin(name).params
    except InputError as error:
        raise InputError(field, name, error.cure) from error


def _start(names: Sequence[str], jitter: float, model: Model, truth: Truth) -> Start:
    if not 0 <= jitter <= float(np.finfo(np.float32).max):
        raise InputError("jitter", jitter, "is the standard deviation of noise: give a finite number, at least 0")
    if not names:
        raise InputError("start", names, "is empty: name at least one of 'prior', 'optimum', or a basin")
    shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    drawn = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shape)  # chains draw their own
    points = [drawn if name == "prior" else _point(name, model, truth, "start") for name in names]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.result_type(float)), *points)
    return Start(stacked, jnp.array([name == "prior" for name in names]), float(jitter))


def sample(ready: Sequence[Part], store: Store, progress: Progress) -> None:
    """Run every part into the store, resuming where the store has checkpoints."""
    for one in ready:

        def save(chunk: Chunk, one: Part = one) -> None:
            store.write(one.name, chunk)
            progress(one, chunk)

        trace = one.job.run(on_chunk=save, restore=store.restore(one.name), keep=False)
        store.finish(one.name, trace)


class Check(NamedTuple):
    """How large one part is: its own cells and the rungs a ladder adds, and the bytes of traces that it stores."""

    part: str
    cells: int
    extra_rungs: int
    chains: int
    parameters: int
    buckets: tuple[tuple[int, int], ...]
    draws: int
    steps: int
    trace_bytes: int


def check(one: Part) -> Check:
    """The size of one part; nothing is computed. What it takes: `slt.cli.progress.expected_seconds`."""
    job, schedule = one.job, one.job.schedule
    free = jax.tree.leaves(job.centres[0] if job.restriction is None else job.restriction.free(job.centres[0]))
    rows = [len(bucket.rows) * len(bucket.rows[0]) for bucket in job.plan.buckets]
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
    )


def calibrate(one: Part, **options: Any) -> Iterator[tuple[dict[str, Any], Llc]]:
    """`slt.llc` at every n (and every beta of it at once), gamma, data seed and control of a part's grid.

    w* is the minimum of the cell's own loss next to the part's centre, found by L-BFGS. Gives the coordinates, and what
    was measured there; options as for `slt.llc`.
    """
    job = one.job if one.job.plan.coupled is None else dataclasses.replace(one.job, plan=_uncoupled(one.job))
    point = quench(job, {"centre": job.centres[0]})["centre"][1]
    groups: dict[tuple, list[int]] = {}
    for i, cell in enumerate(job.plan.cells):
        groups.setdefault((cell.n, cell.gamma, cell.data_seed, cell.control), []).append(i)
    for (n, gamma, data_seed, control), members in groups.items():
        bucket = next(b for b in job.plan.buckets if any(members[0] in row for row in b.rows))
        row = next(i for i, rows in enumerate(bucket.rows) if members[0] in rows)
        posterior = jax.tree.map(lambda leaf, i=row: leaf[i], job.posteriors(bucket))
        data = None if job.model.is_potential else jax.tree.map(lambda leaf, k=n: leaf[:k], posterior.data)
        found = llc(
            job.model.bind(dict(control)),
            jax.tree.map(lambda leaf, i=members[0]: leaf[i], point),
            data,
            t=[job.plan.cells[i].n * job.plan.cells[i].beta for i in members],
            gamma=gamma,
            **options,
        )
        yield {"n": n, "gamma": gamma, "data_seed": data_seed, **dict(control)}, found


def _uncoupled(job: Job) -> Plan:
    return plan(HMC(), job.plan.cells[: job.plan.grid])
