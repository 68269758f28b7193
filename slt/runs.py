"""A run from its config to its summary on disk: begun, resumed or extended, by the command line or from Python."""

import contextlib
import dataclasses
import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import xarray as xr

from slt import analysis, config, drivers, results
from slt.config import RunConfig
from slt.drivers import Part
from slt.engine import Chunk
from slt.quench import baselines
from slt.results import Origin, Run, Store, crew, measures
from slt.results.layout import Layout
from slt.results.manifest import Manifest
from slt.typing import InputError, Key

LOG = logging.getLogger("slt.runs")

Watching = Callable[[Sequence[Part]], contextlib.AbstractContextManager[drivers.Progress]]
"""Given the parts of a run, a context in which it is told of each saved chunk."""


@dataclass(frozen=True)
class Site:
    """Where a measure works: the run's sweeps by name, what was sampled and measured before it, its key and its folder.

    folder: of its own, where a piece that takes long may keep checkpoints until it is done.
    """

    parts: Mapping[str, Part]
    run: Run
    key: Key
    folder: Path
    _piece: Callable[[str, Callable[[], Mapping[str, np.ndarray]]], dict[str, np.ndarray]]

    def once(self, label: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays that make() gives, kept on disk under `label`: a run that is resumed does not make them again."""
        return self._piece(label, make)


class Measure(Protocol):
    """Computed once after a run's sweeps, by name under `measures` in its config; costly ones go piece by piece.

    One with the attribute `reads_draws = True` is made anew when the run is extended. One may have besides a method

        check(self, parts: Mapping[str, Part]) -> None

    called before anything is sampled: InputError names the field of the measure that cannot be used with these sweeps.
    """

    def __call__(self, site: Site) -> xr.Dataset:
        """What was found, to be read as run.measures[name]."""
        ...


def default_place(made: RunConfig) -> Path:
    """runs/<experiment>-<name>-<first 8 digits of the digest>."""
    name = "-".join(part for part in (made.experiment, made.name, config.digest(made)[:8]) if part)
    return Path("runs") / re.sub(r"[^\w.+=-]+", "_", name)


def free_place(made: RunConfig, place: Path, *, fresh: bool = False) -> Path:
    """`place` if nothing is there; with `fresh` the next free of place, place.2, place.3, ...; else InputError."""
    taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    if not taken:
        return place
    if fresh:
        number = 2
        while (found := place.with_name(f"{place.name}.{number}")).exists():
            number += 1
        return found
    same = holds(place, made)
    ways = f"`slt resume {place}` goes on with it, `slt extend {place} schedule.draws=N` gives it more draws, "
    cure = f"holds this very run (same digest): {ways}" if same else "exists, and is never overwritten: "
    raise InputError("out", str(place), f"{cure}--fresh starts another beside it, --out DIR elsewhere")


def holds(place: Path, made: RunConfig) -> bool:
    """Whether a directory holds this very run, finished or not."""
    try:
        return results.recorded(place).get("digest") == config.digest(made)
    except InputError:
        return False


def begin(made: RunConfig, place: Path, watching: Watching | None = None, *, devices: int | str | None = None) -> Run:
    """Run a config into a new directory; InputError before any of it is written where it cannot be run.

    ExperimentError (of `resume` and `extend` too) at the end, all else written, where its experiment cannot summarise.

    devices: "auto" (all accelerators here), a number, or "NxP" (slt.engine.mesh.spread); no part of what a run is.
    """
    (parts, layouts), kind = ready(made, devices), _crew()
    attrs = _attrs(made)
    store = kind.create(place, layouts, config.dump(made), attrs) if crew.first() else crew.Follower(place, layouts)
    return _go_on(made, parts, store, watching)


def resume(
    place: Path,
    *,
    allow_import: Sequence[str] = (),
    watching: Watching | None = None,
    devices: int | str | None = None,
) -> Run:
    """Go on with a run from its last checkpoints, by its own config; a finished run gets its summary written anew.

    A config.yaml that is lost is restored from the manifest; InputError where it is not what the draws were made with.
    """
    made, found = _own(place, allow_import)
    (parts, layouts), kind = ready(made, devices), _crew()
    if not crew.first():
        store = crew.Follower(place, layouts)
    elif found.longer:  # an extension that was killed before the manifest knew of it
        store = kind.open(place, layouts, config_text=config.dump(made), attrs=_attrs(made))
    else:
        store = kind.open(place, layouts, config_text=config.dump(found.config) if found.lost else None)
    return _go_on(made, parts, store, watching)


def extend(
    place: Path,
    overrides: Sequence[str],
    *,
    allow_import: Sequence[str] = (),
    watching: Watching | None = None,
    devices: int | str | None = None,
) -> Run:
    """Give a run more draws: overrides as for `slt.config.extended`. What is there stays."""
    longer = config.extended(_own(place, allow_import)[0], overrides)
    chunks = results.chunk_lengths(place)
    for prefix, sweep in config.sweeps(longer):
        if sweep.schedule.chunk is None:  # then it depends on the draws, and stored chunks keep their length
            sweep.schedule.chunk = chunks[prefix.removeprefix("parts.").rstrip(".") or drivers.MAIN]
    (parts, layouts), kind = ready(longer, devices), _crew()
    if crew.first():
        store = kind.open(place, layouts, config_text=config.dump(longer), attrs=_attrs(longer))
    else:
        store = crew.Follower(place, layouts)
    return _go_on(longer, parts, store, watching)


def _own(place: Path, allow_import: Sequence[str]) -> tuple[RunConfig, Origin]:
    """The config of a run directory, and where it was found."""
    found = results.origin(Manifest(place))
    if found.lost and crew.first():
        LOG.warning("%s %s: restored from the manifest", place / config.FILE, found.lost)
    return config.trusted(found.config, str(place / config.FILE), allow_import), found


def ready(made: RunConfig, devices: int | str | None = None) -> tuple[list[Part], dict[str, Layout]]:
    """A run's sweeps and how their results lie, checked with its measures: InputError before anything is written."""
    arithmetic(made)
    parts = drivers.parts(made, devices)
    for name, measure in _measures(made).items():
        check = getattr(measure, "check", None)
        if check is not None:
            try:
                check({one.name: one for one in parts})
            except InputError as error:
                raise InputError(
                    config.nodes.placed(error.field, f"measures.{name}"), error.value, error.cure
                ) from error
    return parts, {one.name: Layout.of(one.job, one.chain_starts, one.phases) for one in parts}


def arithmetic(made: RunConfig) -> None:
    """Have JAX compute as a config wants it: in double precision or not, 32-bit matrix products without rounding.

    Accelerators round the factors of these products unless told; a config's `precision` lets them, in likelihoods.
    """
    jax.config.update("jax_enable_x64", made.x64)
    jax.config.update("jax_default_matmul_precision", "highest")


def _measures(made: RunConfig) -> dict[str, Measure]:
    built = {name: config.instantiate(node, f"measures.{name}") for name, node in config.measures(made).items()}
    for name, measure in built.items():
        if not callable(measure):
            raise InputError(f"measures.{name}", measure, "must be a callable that takes an slt.runs.Site")
    return built


class ExperimentError(Exception):
    """A run's experiment failed on it: the run is whole, its summary (or its figures) but what suits any run."""

    def __init__(self, name: str, run: Run, cause: Exception):
        said = f"{cause}" if isinstance(cause, InputError) else f"{type(cause).__name__}: {cause}"
        cure = f"mend it and `slt resume {run.path}`, or leave experiment out"
        super().__init__(f"experiment {name!r} does not suit this run ({said}); what suits any run is kept: {cure}")
        self.name, self.run, self.cause = name, run, cause
        self.drawn: list[Path] = []  # figures that suit any run, once they are saved


class Dismissed(BaseException):
    """This process is not the first of its run, and its work is done."""


def _crew() -> type[Store]:
    """The kind of the first process's store, once all processes have read what there is."""
    crew.exchange(None)
    return Store if jax.process_count() == 1 else crew.Head


def _attrs(made: RunConfig) -> dict[str, Any]:
    made_by = results.provenance()
    notes = {"config": json.dumps(config.plain(made)), "digest": config.digest(made), "seed": made.seed}
    notes["precision"] = made.precision
    return notes | {key: json.dumps(value) for key, value in made_by.items()}


def _go_on(made: RunConfig, ready: Sequence[Part], store: Store, watching: Watching | None) -> Run:
    watched = contextlib.nullcontext(_Unwatched()) if watching is None else watching(ready)
    with store, watched as progress:
        drivers.sample(ready, store, progress)
        if not crew.first():
            raise Dismissed
        for one in ready:
            store.add(one.name, baselines(one.job, store.layouts[one.name]))
        _measure(_measures(made), made.seed, ready, store, progress)
        seconds = store.manifest.seconds
    run = results.load(store.path)
    home, failed = config.experiment(made), None
    numbers = analysis.summarise(run.data, getattr(home, "ORBITS", None))
    told = results.Summary(dict(numbers), run.health, seconds, config.digest(made))

    def write(more: Mapping[str, Any]) -> None:
        results.write_summary(store.path, {**told.quantities, **more}, run.health, seconds, told.digest)

    if home is None or not hasattr(home, "summarise"):
        write({})
    else:
        try:
            write(home.summarise(dataclasses.replace(run, summary=told, config=config.nodes.Trusted(run.config))))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it raises, what was sampled is there to be read
            failed = error
            write({})
    found = results.load(store.path)
    if failed is not None:
        raise ExperimentError(str(made.experiment), found, failed) from failed
    return found


def _measure(
    nodes: Mapping[str, Measure], seed: int, ready: Sequence[Part], store: Store, progress: drivers.Progress
) -> None:
    """Every measure that is missing, damaged, or older than the draws that it reads."""
    manifest = store.manifest
    draws = sum(part.draws for part in manifest.parts.values())
    for name, measure in nodes.items():
        known = manifest.measures.get(name)
        stale = known is not None and known["draws"] != draws and getattr(measure, "reads_draws", False)
        if stale or next(measures.damaged(manifest, name), None) is not None:
            measures.forget(manifest, name)
    for name in [name for name in nodes if name not in manifest.measures]:

        def piece(label: str, make: Callable[[], Mapping[str, np.ndarray]], name: str = name) -> dict[str, np.ndarray]:
            found = measures.piece(manifest, name, label, make)
            progress.measured(name, label)
            return found

        began = time.monotonic()
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(f"measures.{name}".encode()))
        sweeps, folder = {one.name: one for one in ready}, store.path / measures.FOLDER / name
        found = nodes[name](Site(sweeps, results.load(store.path), key, folder, piece))
        measures.save(manifest, name, found, draws, time.monotonic() - began)
        progress.measured(name, "")


class _Unwatched:
    """No one is told."""

    def __call__(self, part: Part, chunk: Chunk) -> None:
        pass

    def measured(self, name: str, piece: str) -> None:
        pass
