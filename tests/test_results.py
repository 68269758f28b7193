"""Runs on disk: what is written is what the engine saw, whatever is killed, lengthened, damaged or held by another."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from slt import observables
from slt.cells import grid
from slt.engine import Job, prepare
from slt.engine.schedule import Schedule
from slt.model import Model, potential
from slt.phases import by_threshold
from slt.priors import Normal
from slt.results import (
    Layout,
    Quantity,
    Store,
    checkpoint,
    chunk_lengths,
    compare,
    events,
    load,
    manifest,
    provenance,
    read_summary,
    store,
    write_summary,
)
from slt.samplers.base import Algorithm, Info, Sampler, sampler, static
from slt.samplers.sgld import SGLD
from slt.typing import InputError, Status

PHASES = by_threshold(("left", "right"), lambda w: w[0], 0.0, "sign of w_0")
WATCH = {
    "delta": observables.trace(observables.loss),
    "phase": observables.trace(observables.phase(PHASES)),
    "params": observables.trace(observables.parameters, every=5),
    "moments": observables.mean(observables.parameters),
}
ATTRS = {"config": {"seed": 0}, "digest": "abc"}
CONFIG = "seed: 0\nmodel:\n  dim: 2\n"


def quadratic(w):
    return 0.5 * jnp.sum(jnp.square(w))


@dataclasses.dataclass(frozen=True)
class Location(Model):
    """z ~ N(w, 1) in two dimensions, prior N(0, 1), the true mean a control."""

    shift: float = 0.0
    controls = ("shift",)

    def init(self, key):
        return jax.random.normal(key, (2,))

    def log_prior(self, params):
        return Normal().log_density(params)

    def log_likelihood(self, params, batch):
        return -0.5 * jnp.sum(jnp.square(batch - params), axis=-1)

    def sample(self, key, num):
        return self.shift + jax.random.normal(key, (num, 2))


@sampler
class Ladder(Sampler):
    """SGLD on every rung, no swaps: the shapes of a coupled sampler. The first ladder value is halved twice below."""

    step_size: float = 0.01
    axis: str = static(default="t")

    @property
    def coupled(self):
        return self.axis

    @property
    def diagnostics(self):
        return ("rung", "walker")

    def ladder(self, values):
        return [values[0] / 4, values[0] / 2, *values], [False, False, *([True] * len(values))]

    def __call__(self, posterior):
        inner = SGLD(step_size=self.step_size)
        rungs = posterior.beta.shape[0]

        def init(position, key):
            return jax.vmap(lambda p, w, k: inner(p).init(w, k))(posterior, position, jax.random.split(key, rungs))

        def step(key, state):
            new, info = jax.vmap(lambda p, k, s: inner(p).step(k, s))(posterior, jax.random.split(key, rungs), state)
            told = {"rung": posterior.beta, "walker": jnp.arange(rungs, dtype=jnp.int32)}
            return new, Info(delta=info.delta, diagnostics=told)

        return Algorithm(init, step)


def watch(kernel: Sampler) -> dict:
    return WATCH | {name: observables.trace(observables.diagnostic(name)) for name in kernel.diagnostics}


def potential_job(draws: int = 60, chunk: int = 20, *, kernel: Sampler | None = None, t=(10.0, 100.0), **kwargs) -> Job:
    model = potential(quadratic, 2, Normal(), scale_note="n beta = t")
    schedule = Schedule(draws=draws, chains=3, burn_in=10, chunk=chunk)
    kernel = SGLD(step_size=1e-3) if kernel is None else kernel
    return prepare(model, kernel, grid(model, t=list(t), **kwargs), watch(kernel), schedule, key=jax.random.key(1))


def data_job(draws: int = 60, chunk: int = 20, *, kernel: Sampler | None = None, **kwargs) -> Job:
    axes = {"n": [100, 10, 12], "beta": ["1", "1/log n"], "data_seed": [0, 1], **kwargs}
    schedule = Schedule(draws=draws, chains=3, burn_in=10, chunk=chunk)
    kernel = SGLD(step_size=0.1, per_nbeta=True) if kernel is None else kernel
    return prepare(Location(), kernel, grid(Location(), **axes), watch(kernel), schedule, key=jax.random.key(1))


JOBS = {
    "potential": potential_job,
    "potential over gamma": lambda **kw: potential_job(gamma=[0.0, 1.0], **kw),
    "data": data_job,
    "data over a control": lambda **kw: data_job(control={"shift": [0.0, 3.0]}, gamma=[0.0, 1.0], **kw),
    "ladder over t": lambda **kw: potential_job(kernel=Ladder(), **kw),
    "ladders over t": lambda **kw: potential_job(kernel=Ladder(), t=[100.0, 10.0], gamma=[0.0, 1.0], **kw),
    "ladders over beta": lambda **kw: data_job(kernel=Ladder(axis="beta"), **kw),
    "ladders over n": lambda **kw: data_job(kernel=Ladder(step_size=1e-4, axis="n"), beta=["1"], n=[40, 100], **kw),
}


def layout(job: Job) -> Layout:
    return Layout.of(job, starts=("a", "b", "a"), phases=PHASES)


def run(path: Path, job: Job, parts=None):
    parts = {"main": layout(job)} if parts is None else parts
    with Store.create(path, parts, CONFIG, ATTRS) as one:
        trace = job.run(on_chunk=lambda chunk: one.write("main", chunk), restore=one.restore("main"), keep=True)
        one.finish("main", trace)
    return trace


def resume(path: Path, job: Job, parts=None, **kwargs):
    with Store.open(path, {"main": layout(job)} if parts is None else parts, **kwargs) as one:
        one.finish("main", job.run(on_chunk=lambda c: one.write("main", c), restore=one.restore("main"), keep=False))


def files(path: Path) -> dict[str, bytes]:
    stored = [file for file in (path / store.DATA).rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in stored}


def died(path: Path) -> None:
    """What a killed process leaves: its lock, which names a process that is gone."""
    (path / manifest.LOCK).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": "then"}))


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in ("data", "ladders over t") else pytest.mark.slow) for kind in JOBS],
)
def test_what_is_read_is_what_the_engine_saw(tmp_path, kind):
    job = JOBS[kind]()
    trace = run(tmp_path / "run", job)
    opened = load(tmp_path / "run", verify=True)
    data = opened.data["main"].to_dataset()
    cells, count = job.plan.cells[: job.plan.grid], job.plan.grid
    dims = data["offset"].dims
    assert opened.complete
    assert data["delta"].dims == (*dims, "chain", "draw")
    assert data["params"].dims == (*dims, "chain", "kept", "params_0")
    assert data["fold.moments.mean"].dims == data["fold.moments.square"].dims == (*dims, "chain", "moments_0")
    for name in ("delta", "phase", "params"):
        leaf = trace.traces[name][:count]
        np.testing.assert_array_equal(data[name].values.reshape(leaf.shape), leaf)
    np.testing.assert_array_equal(
        data["fold.moments.mean"].values.reshape(count, 3, 2), trace.folds["moments"].mean[:count]
    )
    np.testing.assert_array_equal(data["offset"].values.reshape(-1), trace.offset[:count])
    np.testing.assert_array_equal(data["status"], 0)
    np.testing.assert_array_equal(data["broken_at"], -1)
    np.testing.assert_array_equal(data["kept_draw"], np.arange(0, 60, 5))
    np.testing.assert_array_equal(data["burn_in"], np.arange(60) < 10)
    assert data["start"].values.tolist() == ["a", "b", "a"]
    assert data["phase"].dtype == np.int8
    assert data["phase"].attrs["names"] == ["left", "right"]
    for field in ("t",) if job.model.is_potential else ("n", "beta_value", "data_seed"):
        wide = data[field].broadcast_like(data["offset"]).transpose(*dims).values.reshape(-1)
        wanted = [cell.beta if field in ("t", "beta_value") else getattr(cell, field) for cell in cells]
        np.testing.assert_array_equal(wide, wanted)
    if job.model.is_potential:
        assert "n beta = t" in data["t"].attrs["scale_note"]
    else:
        assert data["beta"].values.tolist()[:1] == ["1"]
        one = data.sel(n=100, beta="1", data_seed=1)
        np.testing.assert_array_equal(one["nbeta"], 100)
    for coordinate in data.coords.values():
        assert {"units", "long_name"} <= coordinate.attrs.keys()
    assert opened.data.attrs["digest"] == "abc"
    assert opened.config == {"seed": 0, "model": {"dim": 2}}


@pytest.mark.parametrize("kind", [kind for kind in JOBS if kind.startswith("ladder")])
def test_ladders_keep_all_their_rungs(tmp_path, kind):
    job = JOBS[kind]()
    trace = run(tmp_path / "run", job)
    data = load(tmp_path / "run").data["main"].to_dataset()
    axis = data.attrs["coupled"]
    assert axis == kind.split()[-1]
    others = [dim for dim in data["offset"].dims if dim != axis]
    assert data["rung_delta"].dims == (*others, "chain", "rung", "draw")
    np.testing.assert_array_equal(data["rung_on_grid"], [False, False] + [True] * data.sizes[axis])
    rows = [row for bucket in job.plan.buckets for row in bucket.rows]
    assert len(rows) == np.prod([data.sizes[dim] for dim in others], dtype=int)
    for row in rows:
        first = job.plan.cells[min(row)]
        where = {"n": first.n, "beta": first.beta_label, "data_seed": first.data_seed, "gamma": first.gamma}
        ladder = data.sel({dim: where[dim] for dim in others})
        for rung, cell in enumerate(row):
            np.testing.assert_array_equal(ladder["rung_delta"].isel(rung=rung), trace.traces["delta"][cell])
            np.testing.assert_array_equal(ladder["walker"].isel(rung=rung), rung)
            if axis != "n":
                np.testing.assert_array_equal(
                    ladder["rung_value"].isel(rung=rung), np.float32(job.plan.cells[cell].beta)
                )


@pytest.mark.slow
def test_ladders_of_different_lengths(tmp_path):
    @sampler
    class Uneven(Ladder):
        def ladder(self, values):
            return ([values[0] / 2, *values], [False, True, True]) if values[0] < 0.2 else (list(values), [True, True])

    job = data_job(kernel=Uneven(axis="beta"), beta=["0.3", "1/log n"], n=[10, 3000])
    trace = run(tmp_path / "run", job)
    data = load(tmp_path / "run").data["main"].to_dataset()
    assert data["rung_on_grid"].dims == ("n", "data_seed", "rung")
    np.testing.assert_array_equal(data["rung_on_grid"].isel(data_seed=0), [[True, True, False], [False, True, True]])
    assert np.isnan(data["rung_delta"].sel(n=10).isel(rung=2)).all()
    assert (data["walker"].sel(n=10).isel(rung=2) == -1).all()
    row = next(row for bucket in job.plan.buckets for row in bucket.rows if job.plan.cells[row[1]].n == 3000)
    seed = job.plan.cells[row[1]].data_seed
    found = data["rung_delta"].sel(n=3000, data_seed=seed).transpose("rung", "chain", "draw")
    np.testing.assert_array_equal(found, trace.traces["delta"][list(row)])
    along_n = data_job(kernel=Ladder(axis="n", step_size=1e-4))
    cells = along_n.plan.cells
    for bucket in along_n.plan.buckets:
        for row in bucket.rows:
            assert len({(cells[i].beta_label, cells[i].data_seed) for i in row}) == 1
    assert layout(along_n).axes.coupled == "n"


class KilledError(BaseException):
    """The process died here."""


@pytest.fixture
def dying(monkeypatch):
    """Make the process die before the k-th step of writing: a file replaced or removed, a line, a checkpoint."""
    steps = {"left": -1, "seen": 0}

    def step():
        steps["seen"] += 1
        if steps["seen"] == steps["left"]:
            raise KilledError

    def around(owner, name):
        inner = getattr(owner, name)

        def wrapped(*args, **kwargs):
            step()
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    around(store, "replace")
    around(manifest.Manifest, "append")
    around(checkpoint, "save")
    around(shutil, "rmtree")
    around(Path, "rename")

    def after(number: int | None):
        steps["left"], steps["seen"] = -1 if number is None else number, 0
        return steps

    return after


def small(draws: int = 45, n=(100, 10)) -> Job:
    return data_job(draws, 20, n=list(n), beta=["1"], data_seed=[0])


def test_a_kill_between_any_two_steps_loses_nothing(tmp_path, dying):
    job = small(35, n=[10])
    parts, steps = {"main": layout(job)}, dying(None)
    run(tmp_path / "whole", job, parts)
    whole, total = files(tmp_path / "whole"), steps["seen"]
    assert total > 20
    reference = load(tmp_path / "whole")
    shown = 0
    for number in range(1, total + 1):
        path = tmp_path / f"killed{number}"
        dying(number)
        with pytest.raises(KilledError):
            run(path, job, parts)
        dying(None)
        if not path.exists():  # died before the directory was there
            continue
        died(path)
        partial = load(path, verify=True)
        data, draws = partial.data["main"], partial.data["main"].attrs["draws"]
        shown += draws > 0
        assert not partial.complete
        xr.testing.assert_equal(data["delta"], reference.data["main"]["delta"].isel(draw=slice(0, draws)))
        assert not any(str(name).startswith("fold.") for name in data.variables)
        resume(path, job, parts)
        xr.testing.assert_identical(load(path, verify=True).data, reference.data)
        assert files(path) == whole
        assert not list(tmp_path.glob(".*"))
        shutil.rmtree(path)
    assert shown > 10


def test_nothing_but_the_chunk_in_flight_is_computed_again(tmp_path, dying, monkeypatch):
    job = small()
    steps = dying(None)
    run(tmp_path / "whole", job)
    for number in (steps["seen"] // 3, steps["seen"] // 2, 2 * steps["seen"] // 3):
        path = tmp_path / f"killed{number}"
        dying(number)
        with pytest.raises(KilledError):
            run(path, job)
        dying(None)
        died(path)
        done = list(manifest.Manifest(path).parts["main"].done)
        seen: list[tuple[int, int]] = []
        with Store.open(path, {"main": layout(job)}) as one:
            job.run(on_chunk=lambda c, seen=seen: seen.append((c.bucket, c.first)), restore=one.restore("main"))
        assert all(first >= done[bucket] - job.chunk_length for bucket, first in seen)
        assert sum(first < done[bucket] for bucket, first in seen) <= 1


@pytest.mark.parametrize("old", [40, 45, 47])
def test_extending_equals_a_longer_run(tmp_path, old):
    run(tmp_path / "long", small(draws=90))
    run(tmp_path / "run", small(draws=old))
    assert chunk_lengths(tmp_path / "run") == {"main": 20}
    before = load(tmp_path / "run").data["main"]["delta"].values
    longer = small(draws=90)
    resume(tmp_path / "run", longer, config_text="seed: 0\n", attrs=ATTRS | {"digest": "new"})
    extended, whole = load(tmp_path / "run", verify=True), load(tmp_path / "long")
    np.testing.assert_array_equal(before, extended.data["main"]["delta"].values[..., :old])
    xr.testing.assert_identical(extended.data["main"].to_dataset(), whole.data["main"].to_dataset())
    assert extended.data.attrs["digest"] == "new"
    assert extended.config == {"seed": 0}
    with pytest.raises(InputError, match="can only grow"):
        Store.open(tmp_path / "run", {"main": layout(small(draws=old))})
    assert not (tmp_path / "run" / manifest.LOCK).exists()


@pytest.mark.slow
def test_a_kill_while_extending_loses_nothing(tmp_path, dying):
    short, longer = small(25, n=[10]), small(45, n=[10])
    parts = {"main": layout(longer)}
    dying(None)
    run(tmp_path / "long", longer)
    run(tmp_path / "short", short)
    reference = load(tmp_path / "long").data["main"].to_dataset()
    shutil.copytree(tmp_path / "short", tmp_path / "probe")
    steps = dying(None)
    resume(tmp_path / "probe", longer, parts, config_text=CONFIG, attrs=ATTRS)
    for number in range(1, steps["seen"] + 1):
        path = tmp_path / f"killed{number}"
        shutil.copytree(tmp_path / "short", path)
        dying(number)
        with pytest.raises(KilledError):
            resume(path, longer, parts, config_text=CONFIG, attrs=ATTRS)
        dying(None)
        died(path)
        data = load(path, verify=True).data["main"]
        assert data.attrs["draws"] >= 25
        xr.testing.assert_equal(data["delta"], reference["delta"].isel(draw=slice(0, data.attrs["draws"])))
        resume(path, longer, parts)
        xr.testing.assert_identical(load(path, verify=True).data["main"].to_dataset(), reference)
        shutil.rmtree(path)


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    with jax.numpy_dtype_promotion("strict"):  # as in the tests, else they would compile anew
        run(path, small())
    return path


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("file", ["delta/c/1/0/0/0/0", "fold.moments.mean/c/0/0/0/0/0", "n/c/0", "draw/c/1"])
def test_damage_is_found_and_mended(tmp_path, finished, file, how):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    whole = files(path)
    assert f"{store.DATA}/main/{file}" in whole
    damage(path / store.DATA / "main" / file, how)
    with pytest.raises(InputError, match=rf"{file}.*slt resume"):
        load(path, verify=True)
    if how != "altered":
        with pytest.raises(InputError, match=file):
            load(path)
    resume(path, small())
    assert files(path) == whole
    load(path, verify=True)


def test_a_flipped_bit_fails_to_decode_without_slt(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    content = bytearray((path / store.DATA / "main/delta/c/1/0/0/0/0").read_bytes())
    content[len(content) // 2] ^= 4
    with pytest.raises(RuntimeError, match=r"checksum|decompression"):
        store.Zstd().decode(bytes(content))


def test_metadata_and_checkpoints_are_mended(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    whole = files(path)
    damage(path / store.DATA / "zarr.json", "truncated")
    with pytest.raises(InputError, match=r"zarr.json.*slt resume"):
        load(path)
    for file in [entry for entry in (path / "checkpoints/main/0").rglob("*") if entry.is_file()]:
        damage(file, "truncated")
    resume(path, small())
    assert files(path) == whole


def test_data_are_readable_without_slt(finished):
    data = xr.open_dataset(finished / store.DATA, group="main", engine="zarr", chunks=None)
    xr.testing.assert_equal(data["delta"], load(finished).data["main"].to_dataset()["delta"])
    assert data.sel(beta="1").sizes["n"] == 2


def test_only_the_newest_checkpoint_stays(finished):
    kept = [
        entry.relative_to(finished / "checkpoints").as_posix() for entry in (finished / "checkpoints").glob("*/*/*")
    ]
    assert sorted(kept) == ["main/0/45", "main/1/45"]


def test_what_is_no_run_directory(tmp_path, finished):
    with pytest.raises(InputError, match="no run directory"):
        load(tmp_path)
    with pytest.raises(InputError, match="no run directory"):
        load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / manifest.FILE).write_text("")
    with pytest.raises(InputError, match="nothing was committed"):
        load(tmp_path / "empty")
    copied = tmp_path / "run"
    shutil.copytree(finished, copied)
    lines = (copied / manifest.FILE).read_text().splitlines()
    (copied / manifest.FILE).write_text("\n".join([*lines[:4], "{", *lines[5:]]) + "\n")
    with pytest.raises(InputError, match="line 5 cannot be read"):
        load(copied)
    (copied / manifest.FILE).write_text("\n".join(lines) + "\n" + lines[-1][:20])
    assert load(copied).complete


def flipped(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def bits(file: Path, number: int) -> list[int]:
    """Some bits of a file, the same each time."""
    return np.random.default_rng(0).choice(8 * file.stat().st_size, number, replace=False).tolist()


def test_no_flipped_bit_of_the_manifest_goes_unseen(tmp_path, finished):
    copied = tmp_path / "run"
    shutil.copytree(finished, copied)
    content = (copied / manifest.FILE).read_bytes()
    last = 8 * (len(content) - 1)  # the last line's end: that line does not count then
    for bit in [*bits(copied / manifest.FILE, 200), *range(8 * content.rindex(b'"crc"'), last)]:
        flipped(copied / manifest.FILE, bit)
        with pytest.raises(InputError, match=r"(line \d+ cannot be read).*(slt resume|slt run)"):
            load(copied)
        (copied / manifest.FILE).write_bytes(content)


@pytest.mark.parametrize("how, line", [("flipped", 2), ("flipped", 4), ("removed", 3), ("zeros", -1), ("cut", -1)])
def test_what_follows_a_bad_line_is_computed_again(tmp_path, finished, how, line):
    path, reference = tmp_path / "run", load(finished).data
    shutil.copytree(finished, path)
    whole, file = files(path), path / manifest.FILE
    lines = file.read_bytes().splitlines(keepends=True)
    if how == "flipped":
        flipped(file, 8 * len(b"".join(lines[:line])) + 100)
    elif how == "removed":
        file.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    else:
        file.write_bytes(b"".join(lines) + b"\0" * 40 + b"\n" * (how == "zeros"))
    if how == "cut":
        assert load(path).complete
    else:
        with pytest.raises(InputError, match=r"manifest.jsonl.*slt resume"):
            load(path)
    resume(path, small())
    assert files(path) == whole
    xr.testing.assert_identical(load(path, verify=True).data, reference)


@pytest.mark.parametrize("line", [0, 1])
def test_a_run_is_lost_without_its_first_lines(tmp_path, finished, line):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    content = (path / manifest.FILE).read_bytes()
    flipped(path / manifest.FILE, 8 * line * (content.index(b"\n") + 1) + 80)
    with pytest.raises(InputError, match=rf"line {line + 1} cannot be read.*config.yaml elsewhere"):
        Store.open(path, {"main": layout(small())})
    assert not (path / manifest.LOCK).exists()
    assert (path / manifest.FILE).stat().st_size == len(content)


CHUNK = {"event": "chunk", "part": "main", "bucket": 0, "first": 0, "stop": 20, "seconds": 1,
         "broken": [], "files": {}}  # fmt: skip
FILES = {"event": "files", "part": "main"}
MEASURE = {"event": "measure", "measure": "m", "draws": 1, "seconds": 1, "files": {}}
RECORD = [1, "0" * 32]


@pytest.mark.parametrize(
    "event",
    [
        *(CHUNK | one for one in (
            {"broken": [[0, 0, 1, 99]]}, {"broken": [[0, 55, 1, 1]]}, {"broken": [[99, 0, 1, 1]]}, {"broken": 3},
            {"broken": [[0, -1, 1, 1]]}, {"bucket": -1}, {"bucket": 7}, {"first": -1}, {"stop": 46}, {"seconds": "x"},
            {"part": "unknown"}, {"part": []}, {"files": []}, {"files": {"../x": RECORD}}, {"files": {"x": [1]}},
        )),
        *(FILES | {"files": {file: RECORD}} for file in ("/dev/zero", "../../dev/zero", "a/../../b", "", "a//b", ".")),
        *(MEASURE | one for one in ({"measure": "../../x"}, {"measure": "/x"}, {"measure": 3}, {"files": None},
                                    {"seconds": None})),
        {"event": "forget", "measure": "../../x"},
        {"event": "piece", "measure": "m", "file": "../x", "record": RECORD},
        {"event": "piece", "measure": "m", "file": "x", "record": 3},
        {"event": "create", "part": "main"},
        {"event": "extend", "part": "main", "draws": 3, "rewritten": []},
        {"event": "add", "part": "main", "variables": {"x": 3}},
        {"event": "attrs", "attrs": []},
        {"event": "unknown", "part": "main"},
        {},
    ],
    ids=str,
)  # fmt: skip
def test_no_line_leads_astray(tmp_path, finished, event):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    file = path / manifest.FILE
    content = file.read_bytes()
    file.write_bytes(content + events.sealed(event, zlib.crc32(content)))
    with pytest.raises(InputError, match=r"line \d+ cannot be read.*slt resume"):
        load(path)
    with Store.open(path, {"main": layout(small())}):
        pass
    assert file.read_bytes() == content
    assert load(path).complete


def test_sound_lines_are_taken(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    content = (path / manifest.FILE).read_bytes()
    for event in (CHUNK | {"broken": [[0, 2, -1, 1]]}, FILES | {"files": {"a/b": RECORD}}, MEASURE):
        (path / manifest.FILE).write_bytes(content + events.sealed(event, zlib.crc32(content)))
        assert not manifest.Manifest(path).lost


def test_a_manifest_of_before_has_no_checksums(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    lines = [json.loads(line) for line in (path / manifest.FILE).read_text().splitlines()]
    old = "".join(json.dumps({key: one[key] for key in one if key != "crc"}) + "\n" for one in lines)
    (path / manifest.FILE).write_text(old)
    assert load(path).complete
    resume(path, small(60), attrs=ATTRS)
    assert load(path, verify=True).data["main"].attrs["draws"] == 60
    flipped(path / manifest.FILE, 8 * 10)
    with pytest.raises(InputError, match="line"):
        load(path)


METADATA = ["zarr.json", "main/zarr.json", "main/delta/zarr.json", "main/n/zarr.json"]


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("file", METADATA)
def test_damaged_metadata_are_named_and_mended(tmp_path, finished, file, how):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    whole = files(path)
    damage(path / store.DATA / file, how)
    with pytest.raises(InputError, match=rf"{file}.*slt resume"):
        load(path, verify=True)
    with Store.open(path, {"main": layout(small())}):
        pass
    assert files(path) == whole


def test_no_flipped_bit_of_the_metadata_goes_unseen(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    file = path / store.DATA / "zarr.json"
    content, seen, told = file.read_bytes(), json.loads(file.read_bytes()), 0
    for bit in bits(file, 100):
        flipped(file, bit)
        try:
            assert json.loads(file.read_bytes()) == seen or not store.readable(path)
        except ValueError:
            assert not store.readable(path)
        told += not store.readable(path)
        file.write_bytes(content)
    assert told > 50


@pytest.mark.parametrize(
    "content", ["", "\0", "{}", "[]", "null", '{"pid":1}', '{"pid":"1","host":"h","started":null}',
                '{"pid":1,"host":"h","started":null,"job":3}'])  # fmt: skip
def test_a_lock_that_names_no_process(tmp_path, finished, content):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    (path / manifest.LOCK).write_text(content)
    with pytest.raises(InputError, match=r"run/lock.*if none does, delete this file"):
        Store.open(path, {"main": layout(small())})
    assert (path / manifest.LOCK).read_text() == content
    assert not list(path.glob("lock.*"))


@pytest.mark.parametrize(
    "name", ["summary.json", "summary.json.partial", "config.yaml", "manifest.jsonl", "lock", "log", "checkpoints",
             "checkpoints/main", "figures", ".skeleton", "data.zarr", "data.zarr/main/delta/c", "measures"],
)  # fmt: skip
def test_a_run_directory_that_leads_elsewhere_is_refused(tmp_path, finished, name):
    path, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished, path)
    outside.mkdir()
    (outside / "mine").write_text("mine")
    if (path / name).exists():
        (path / name).rename(tmp_path / "moved")
    (path / name).symlink_to(tmp_path / "moved" if (tmp_path / "moved").exists() else outside)
    for way in (load, lambda path: Store.open(path, {"main": layout(small())})):
        with pytest.raises(InputError, match=rf"{name}.*link"):
            way(path)
    assert [file.name for file in outside.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "name, kind",
    [("summary.json", "pipe"), ("log", "pipe"), ("manifest.jsonl", "pipe"), ("config.yaml", "folder"),
     ("summary.json", "folder"), ("checkpoints", "file"), ("figures", "file")],
)  # fmt: skip
def test_what_is_of_another_kind_is_refused(tmp_path, finished, name, kind):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    if (path / name).exists():
        (path / name).rename(tmp_path / "moved")
    {"pipe": os.mkfifo, "folder": Path.mkdir, "file": Path.touch}[kind](path / name)
    with pytest.raises(InputError, match=name):
        load(path)


def test_a_run_directory_may_be_reached_by_a_link(tmp_path, finished):
    (tmp_path / "link").symlink_to(finished)
    assert load(tmp_path / "link").complete


def test_a_file_is_replaced_where_it_lies(tmp_path):
    victim, file = tmp_path / "victim", tmp_path / "file"
    victim.write_text("mine")
    (tmp_path / "file.partial").symlink_to(victim)
    for content in (b"one", b"two"):
        store.replace(file, content)
        assert file.read_bytes() == content
        (tmp_path / "file.partial").write_text("left by a kill")
    assert not file.is_symlink()
    assert victim.read_text() == "mine"


def test_a_directory_is_never_overwritten_or_half_made(tmp_path, finished):
    parts = {"main": layout(small())}
    with pytest.raises(InputError, match="never overwritten"):
        Store.create(finished, parts, CONFIG, ATTRS)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="never overwritten"):
        Store.create(tmp_path / "file", parts, CONFIG, ATTRS)
    with pytest.raises(InputError, match="cannot be written"):
        Store.create(tmp_path / "file" / "run", parts, CONFIG, ATTRS)
    with pytest.raises(TypeError):
        Store.create(tmp_path / "run", parts, CONFIG, {"config": object()})
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_another_shape_is_refused(tmp_path, finished):
    for job, match in (
        (data_job(45, 10, n=[100, 10], beta=["1"], data_seed=[0]), "schedule.chunk = 10: the run has 20"),
        (small(45, n=[100, 12]), "other cells"),
        (small(40), "can only grow"),
    ):
        with pytest.raises(InputError, match=match):
            Store.open(finished, {"main": layout(job)})
    with pytest.raises(InputError, match="the run has"):
        Store.open(finished, {"other": layout(small())})
    assert not (finished / manifest.LOCK).exists()
    with Store.open(finished, {"main": layout(small())}) as one:
        chunk = next(iter(chunks(small())))
        with pytest.raises(InputError, match="chunks of 20 draws"):
            one.write("main", chunk._replace(first=10, stop=30))


def chunks(job: Job) -> list:
    seen: list = []
    job.run(on_chunk=seen.append, keep=False)
    return seen


def test_another_program_cannot_take_a_checkpoint(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    with Store.open(path, {"main": layout(small())}) as one, pytest.raises(InputError, match="another sampler"):
        one.restore("main")(0, jax.eval_shape(lambda: {"other": jnp.zeros(3)}))


def test_one_writer_at_a_time(tmp_path, finished, caplog):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    parts = {"main": layout(small())}
    with Store.open(path, parts), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        Store.open(path, parts)
    assert not (path / manifest.LOCK).exists()
    other = {"pid": os.getpid(), "host": "elsewhere", "started": None}
    (path / manifest.LOCK).write_text(json.dumps(other))
    with pytest.raises(InputError, match="on elsewhere"):
        Store.open(path, parts)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for dead in ({"pid": gone.pid, "started": "x"}, {"pid": os.getpid(), "started": "before"}):
        (path / manifest.LOCK).write_text(json.dumps({"host": socket.gethostname()} | dead))
        with Store.open(path, parts):
            assert json.loads((path / manifest.LOCK).read_text())["pid"] == os.getpid()
        assert f"process {dead['pid']}, which held it, is gone" in caplog.text
    assert not list(path.glob("lock*"))


def exploding(draws: int = 45) -> Job:
    model = potential(lambda w, height: height * jnp.sum(w**4), 2, Normal(), controls={"height": 1.0})
    cells = grid(model, t=[10.0, 20.0], control={"height": [1.0, 1e6]})
    schedule = Schedule(draws=draws, chains=3, burn_in=5, chunk=20)
    return prepare(model, SGLD(step_size=1e-2), cells, WATCH, schedule, key=jax.random.key(0))


def test_broken_chains_are_named(tmp_path):
    trace = run(tmp_path / "run", exploding())
    opened = load(tmp_path / "run")
    data, health = opened.data["main"], opened.health["main"]
    np.testing.assert_array_equal(data["status"].values.reshape(4, 3), trace.status)
    np.testing.assert_array_equal(data["broken_at"].values.reshape(4, 3), trace.broken_at)
    assert (data["status"].sel(height=1e6) != 0).all()
    assert (data["status"].sel(height=1.0) == 0).all()
    assert (health["chains"], health["broken"], health["draws"], health["planned"]) == (12, 6, 45, 45)
    first = health["broken_chains"][0]
    assert first["cell"] == "t = 10, height = 1e+06"
    assert first["sentence"].startswith("main: t = 10, height = 1e+06, chain 0 broke at draw ")
    assert Status(int(trace.status[1, 0])).sentence in first["sentence"]
    broken = data["delta"].sel(height=1e6, t=10.0, chain=0).values
    assert np.isnan(broken[first["draw"] :]).all()
    np.testing.assert_array_equal(data["phase"].sel(height=1e6, t=10.0, chain=0).values[first["draw"] :], -1)


def test_a_broken_rung_is_named_once(tmp_path):
    job = potential_job(kernel=Ladder(step_size=0.5))
    run(tmp_path / "run", job)
    health = load(tmp_path / "run").health["main"]
    assert (health["chains"], health["broken"]) == (3, 3)
    assert {one["cell"] for one in health["broken_chains"]} <= {"t = 100", "t = 10", "t = 5", "t = 2.5"}
    assert all("another rung" not in one["reason"] for one in health["broken_chains"])


def test_several_parts_and_added_variables(tmp_path):
    jobs = {"population": potential_job(), "main": small()}
    parts = {name: layout(job) for name, job in jobs.items()}
    extra = xr.Dataset(
        {"baseline": (("n", "beta", "data_seed", "basin"), np.array([1.0, np.nan]).repeat(2).reshape(2, 1, 1, 2))},
        {"basin": ["left", "right"], "basin_phase": ("basin", ["a", "b"])},
    )
    with Store.create(tmp_path / "run", parts, CONFIG, ATTRS) as one:
        for name, job in jobs.items():
            trace = job.run(on_chunk=lambda c, name=name: one.write(name, c), restore=one.restore(name), keep=False)
            one.finish(name, trace)
        one.add("main", extra * 2)
        one.add("main", extra)
        lines = len((tmp_path / "run" / manifest.FILE).read_text().splitlines())
        one.add("main", extra)
        assert len((tmp_path / "run" / manifest.FILE).read_text().splitlines()) == lines
    opened = load(tmp_path / "run", verify=True)
    assert list(opened.data.children) == ["population", "main"]
    found = opened.data["main"].to_dataset()[[*extra.variables]]
    xr.testing.assert_equal(found.drop_vars(set(found.coords) - set(extra.coords)), extra)
    longer = {"population": layout(potential_job(80)), "main": parts["main"]}
    with Store.open(tmp_path / "run", longer):
        pass
    partial = load(tmp_path / "run", verify=True)
    assert (partial.health["population"]["planned"], partial.health["population"]["done"]) == (80, 0.75)
    assert partial.data["population"].attrs["incomplete"] == "60 of 80 draws are there: `slt resume` makes the others"
    assert partial.data["main"].attrs["complete"]
    xr.testing.assert_equal(partial.data["main"]["baseline"], opened.data["main"]["baseline"])


QUANTITIES = {
    "mass[V]": Quantity(np.array([0.25, np.nan]), np.array([0.01, np.inf]), {"t": [10.0, 100.0]}),
    "llc": Quantity(np.array(2.5), np.array(0.3), {}),
    "table": Quantity(np.ones((2, 1)), np.full((2, 1), 0.5), {"n": [10, 30], "beta": ["1/log n"]}),
}


def test_summary_is_plain_json(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    health = load(path).health
    write_summary(path, QUANTITIES, health, np.float64(1.5), "abc")

    def refuse(constant):
        raise AssertionError(constant)

    plain = json.loads((path / "summary.json").read_text(), parse_constant=refuse)
    assert plain["quantities"]["mass[V]"] == {
        "value": [0.25, None],
        "stderr": [0.01, None],
        "coords": {"t": [10.0, 100.0]},
    }
    assert plain["quantities"]["table"]["value"] == [[1.0], [1.0]]
    assert (plain["wall_s"], plain["digest"], plain["health"]) == (1.5, "abc", health)
    read = read_summary(path)
    np.testing.assert_array_equal(read.quantities["mass[V]"].value, [0.25, np.nan])
    assert read.quantities["table"].coords == {"n": [10, 30], "beta": ["1/log n"]}
    assert load(path).quantities.keys() == QUANTITIES.keys()
    with pytest.raises(InputError, match="shape of coords"):
        write_summary(path, {"bad": Quantity(np.ones(3), np.ones(3), {"t": [1.0]})}, {}, 0.0, "")


def test_no_damage_to_a_summary_goes_unseen(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    write_summary(path, QUANTITIES, {}, 1.5, "abc")
    file = path / "summary.json"
    content, seen = file.read_bytes(), json.loads(file.read_bytes())
    for bit in bits(file, 100):
        flipped(file, bit)
        with contextlib.suppress(ValueError):
            if json.loads(file.read_bytes()) == seen:  # white space
                file.write_bytes(b"")
        with pytest.raises(InputError, match=r"summary.json.*slt resume"):
            read_summary(path)
        file.write_bytes(content)
    plain = {key: value for key, value in seen.items() if key != "checksum"}
    file.write_text(json.dumps(plain))  # of before there were checksums
    assert read_summary(path).wall_s == 1.5
    bad = {"value": [1.0, 2.0], "stderr": [0.1], "coords": {"t": [1.0]}}
    for wrong in ([], {}, plain | {"quantities": {"x": bad}}, plain | {"quantities": []}, plain | {"health": 3}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"summary.json.*slt resume"):
            load(path)
    with Store.open(path, {"main": layout(small())}):
        pass
    assert load(path).summary is None  # written anew at the run's end


def test_compare_sets_numbers_side_by_side(tmp_path, finished):
    runs = []
    for name, shift in (("a", 0.0), ("b", 0.5)):
        shutil.copytree(finished, tmp_path / name)
        value, stderr, coords, _ = QUANTITIES["table"]
        rest = {"only": QUANTITIES["llc"]} if name == "a" else {}
        other = coords if name == "a" else {"n": [10, 100], "beta": ["1/log n"]}
        shown = {"table": Quantity(value + shift, stderr, coords), "moved": Quantity(value, stderr, other)} | rest
        write_summary(tmp_path / name, shown, {}, 1.0, "")
        (tmp_path / name / store.CONFIG).write_text(
            f"seed: {int(2 * shift)}\nmodel: {{dim: 2}}\n" + ("x: []\n" if shift else "")
        )
        runs.append(load(tmp_path / name))
    found = compare(*runs)
    assert found.config == [("seed", 0, 1), ("x", None, [])]
    table = [row for row in found.rows if row.name == "table"]
    assert [row.coords for row in table] == [{"n": 10, "beta": "1/log n"}, {"n": 30, "beta": "1/log n"}]
    np.testing.assert_allclose([row.z for row in table], -0.5 / np.sqrt(0.5))
    moved = {row.coords["n"]: row.z for row in found.rows if row.name == "moved"}
    assert moved[10] == 0
    assert np.isnan([moved[30], moved[100]]).all()
    only = next(row for row in found.rows if row.name == "only")
    assert (only.a, np.isnan(only.b), np.isnan(only.z)) == (2.5, True, True)


def test_provenance_tells_no_paths():
    found = provenance()
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert found["versions"]["jax"] == jax.__version__
    assert found["device"]["platform"] == "cpu"
    assert found["x64"] is False
    assert found["git"] is None or len(found["git"]["revision"]) == 40


def test_double_precision(tmp_path, x64):
    job = potential_job()
    trace = run(tmp_path / "run", job)
    data = load(tmp_path / "run").data["main"]
    assert data["delta"].dtype == np.float64
    np.testing.assert_array_equal(data["delta"], trace.traces["delta"])


def test_names_that_clash_are_refused():
    for name, watch, match in (
        ("draw", observables.trace(observables.loss), "name is taken"),
        ("offset", observables.trace(observables.loss), "name is taken"),
        ("a/b", observables.trace(observables.loss), "slash"),
        ("flag", observables.trace(lambda p, w, i: w[0] > 0), "signed integers"),
    ):
        job = potential_job()
        with pytest.raises(InputError, match=match):
            Layout.of(dataclasses.replace(job, observables={**WATCH, name: watch}))
    scattered = dataclasses.replace(data_job(), plan=data_job().plan._replace(grid=11))
    with pytest.raises(InputError, match="no product"):
        Layout.of(scattered)
    with pytest.raises(InputError, match="one label"):
        Layout.of(potential_job(), starts=("a",))


def test_checkpoints_hold_random_keys_and_find_damage(tmp_path):
    carry = {"key": jax.random.split(jax.random.key(3), (2, 3)), "w": jnp.arange(6.0), "count": jnp.int32(4)}
    like = jax.eval_shape(lambda: carry)
    for step in (10, 20):
        checkpoint.save(tmp_path, step, carry)
    assert checkpoint.steps(tmp_path) == [20]
    found = checkpoint.read(tmp_path, 20, like)
    np.testing.assert_array_equal(jax.random.key_data(found["key"]), jax.random.key_data(carry["key"]))
    assert found["key"].dtype == carry["key"].dtype
    np.testing.assert_array_equal(found["w"], carry["w"])
    for file in [entry for entry in (tmp_path / "20").rglob("*") if entry.is_file()]:
        damage(file, "truncated")
    with pytest.raises((ValueError, OSError)):
        checkpoint.read(tmp_path, 20, like)
