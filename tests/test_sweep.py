"""`slt sweep` and `slt merge`: jobs that change shapes, by Hydra's launchers, stopped, queued anew, joined."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from slt import cli, results

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
SWEPT = [
    "sampler._target_=slt.samplers.sgld.SGLD,slt.samplers.baoab.BAOAB",
    "model._target_=tiny_model.Location,tiny_model.Plane",
]
SHORT = ["schedule.draws=8", "schedule.burn_in=2", "schedule.chunk=4", "schedule.keep_params=2", "~parts"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def call(capsys, *args):
    code = cli.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep over samplers and models of other shapes, by joblib's launcher."""
    place = tmp_path_factory.mktemp("sweep") / "all"
    assert (
        cli.main(["sweep", str(TINY), *SWEPT, *SHORT, "launcher=workers", "launcher.n_jobs=1", "--out", str(place)])
        == 0
    )
    return place


def test_every_combination_is_a_run(swept):
    jobs = json.loads((swept / "sweep.json").read_text())["overrides"]
    assert len(jobs) == 4
    for name, overrides in jobs.items():
        run = results.load(swept / name, verify=True)
        assert run.complete
        assert f"sampler._target_={run.config['sampler']['_target_']}" in overrides
        assert run.data["main"]["params.w"].shape[5:] == (
            (2,) if run.config["model"]["_target_"].endswith("Plane") else ()
        )


def test_again_does_only_what_is_missing(swept, capsys):
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("manifest.jsonl")}
    code, out, _ = call(capsys, "sweep", TINY, *SWEPT, *SHORT, "--out", swept)
    assert code == 0
    assert out.count("complete") == 4
    assert before == {path: path.stat().st_mtime_ns for path in swept.rglob("manifest.jsonl")}
    code, _, err = call(capsys, "sweep", TINY, SWEPT[0], *SHORT, "--out", swept)
    assert code == 2
    assert "another sweep" in err


def test_merged_along_settings(swept, tmp_path, capsys):
    code, out, _ = call(capsys, "merge", swept, "--out", tmp_path / "merged")
    assert code == 0, out
    assert "4 runs" in out
    merged = xr.open_datatree(tmp_path / "merged" / "data.zarr", engine="zarr", chunks=None)["main"]
    assert merged.sizes["run"] == 4
    assert set(
        merged["sampler"].values.tolist() if "sampler" in merged.coords else merged["sampler._target_"].values
    ) == {"SGLD", "BAOAB"}
    jobs = list(json.loads((swept / "sweep.json").read_text())["overrides"])
    for number, name in enumerate(jobs):
        run = results.load(swept / name)
        np.testing.assert_array_equal(merged["delta"].values[number], run.data["main"]["delta"].values)
        assert merged["status"].dtype == np.int8
    summary = results.read_summary(tmp_path / "merged")
    assert summary.quantities["loss"].value.shape[0] == 4
    assert next(iter(summary.quantities["loss"].coords)) == "run"
    code, _, err = call(capsys, "merge", swept, "--out", tmp_path / "merged")
    assert code == 2
    assert "never overwritten" in err


@pytest.mark.slow
def test_merged_along_the_grid(tmp_path, capsys):
    for n in (10, 16):
        assert call(capsys, "run", TINY, *SHORT, f"grid.n=[{n}]", "--out", tmp_path / str(n))[0] == 0
    assert call(capsys, "run", TINY, *SHORT, "--out", tmp_path / "whole")[0] == 0
    assert call(capsys, "merge", "16", "10", "--out", "joined")[0] == 0
    merged = xr.open_datatree(tmp_path / "joined" / "data.zarr", engine="zarr", chunks=None)["main"].to_dataset()
    whole = results.load(tmp_path / "whole").data["main"].to_dataset()
    assert "run" not in merged.dims
    for name in ("delta", "offset", "params.w", "status"):
        mine = merged[name].sel(n=whole["n"]).transpose(*whole[name].dims)
        assert mine.dtype == whole[name].dtype
        np.testing.assert_allclose(mine, whole[name], rtol=1e-4, atol=1e-6)
    loss = results.read_summary(tmp_path / "joined").quantities["loss"]
    assert loss.coords["n"] == [10, 16]
    assert np.all(np.isfinite(loss.value))


def test_a_run_is_not_merged_with_itself(swept, tmp_path, capsys):
    job = swept / next(iter(json.loads((swept / "sweep.json").read_text())["overrides"]))
    (tmp_path / "link").symlink_to(job)
    for words in ([job, job], [swept, job], [job, tmp_path / "link"]):
        code, _, err = call(capsys, "merge", *words, "--out", "merged")
        assert code == 2
        assert f"runs = '{job}': is named twice" in err
    assert not Path("merged").exists()


class Bomb:
    """Unpickling it leaves a trace."""

    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_pickles_are_never_read(swept, tmp_path, capsys):
    folder = tmp_path / "sweep" / ".submitit" / "1"
    folder.mkdir(parents=True)
    jobs = json.loads((swept / "sweep.json").read_text())
    name = next(iter(jobs["overrides"]))
    (folder / "1_submitted.pkl").write_bytes(pickle.dumps(Bomb()))
    (folder / "1_0_result.pkl").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "sweep" / name).symlink_to(swept / name)
    jobs["overrides"] = {name: jobs["overrides"][name]}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(jobs))
    assert call(capsys, "merge", tmp_path / "sweep", "--out", tmp_path / "merged")[0] == 0
    assert call(capsys, "show", tmp_path / "sweep" / name)[0] == 0
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["sampler.step_sise=1e-3,2e-3"], "step_sise"),
        (["seed=0,0"], "same job twice"),
        (["seed=0,1", "launcher=slrum"], "launcher"),
        (["seed=0,1", "launcher.n_jobs=2"], "say which"),
        (["seed=0,1", "--only", "2"], "2 jobs"),
        (["seed=(0,1"], "cannot be read"),
    ],
)
def test_bad_sweeps_are_one_line(words, said, capsys):
    code, _, err = call(capsys, "sweep", TINY, *words, "--out", "here")
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("here").exists()


def test_one_job_of_an_array(tmp_path, capsys):
    words = ["sweep", TINY, "seed=3,4", *SHORT, "--out", tmp_path / "array"]
    assert call(capsys, *words, "--only", "1")[0] == 0
    assert results.load(tmp_path / "array" / "seed=4").config["seed"] == 4
    assert not (tmp_path / "array" / "seed=3").exists()
    code, out, _ = call(capsys, "merge", tmp_path / "array", "--out", tmp_path / "merged")
    assert code == 3
    assert "1 runs" in out


LONG = ["schedule.draws=4000", "schedule.chunk=20", "schedule.keep_params=0", "~parts", "grid.n=[16]"]


def process(*args, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "slt.cli", *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition, child, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def lines(place):
    path = place / "manifest.jsonl"
    return path.read_bytes().count(b'"event":"chunk"') if path.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.slow)])
def test_a_preempted_job_is_queued_anew_and_goes_on(number, tmp_path, capsys):
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "5"}
    place = tmp_path / "run"
    words = ["run", TINY, *LONG, "--preemptible", "--out", place]
    child = process(*words, PATH=f"{fake.parent}:{os.environ['PATH']}", **slurm)
    until(lambda: lines(place) >= 2, child)
    child.send_signal(number)
    child.send_signal(number)  # schedulers repeat themselves
    _, err = child.communicate(timeout=400)
    assert child.returncode == 3, err
    assert (tmp_path / "told").read_text() == "requeue 12_5\n"
    assert "SLURM job 12_5 is queued anew" in err
    assert "Traceback" not in err
    done = lines(place)
    (place / "lock").write_text(
        json.dumps({"pid": 1, "host": "gone", "started": "x", "job": ["17", "0"]})
    )  # had it been killed
    child = process(*words, SLURM_RESTART_COUNT="1", **slurm)
    until(lambda: lines(place) > done, child)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=400)
    assert child.returncode == 130, err
    assert json.loads((place / "manifest.jsonl").read_text().splitlines()[2 + done])["first"] == done * 20


@pytest.mark.slow
def test_submitit_queues_a_job_anew(tmp_path):
    place = tmp_path / "sweep"
    child = process("sweep", TINY, "seed=0", *LONG, "launcher=submitit", "--out", place)
    job = place / "run"
    until(lambda: lines(job) >= 2, child)
    pid = json.loads((job / "lock").read_text())["pid"]
    os.kill(pid, signal.SIGUSR2)
    until(lambda: (job / "lock").exists() and json.loads((job / "lock").read_text())["pid"] != pid, child)
    _, err = child.communicate(timeout=400)
    assert child.returncode == 0, err
    run = results.load(job, verify=True)
    assert run.complete
    firsts = [
        json.loads(line)["first"]
        for line in (job / "manifest.jsonl").read_text().splitlines()
        if '"chunk"' in line[:20]
    ]
    assert firsts == sorted(set(firsts)), "a chunk was computed twice"
