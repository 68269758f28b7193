"""One run over two processes on loopback equals one process; a lost process ends it in a sentence; resume with one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slt import config, results, runs
from slt.cli.distributed import Seat, seat
from slt.typing import InputError

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
SHORT = [
    "schedule.draws=32",
    "schedule.burn_in=8",
    "schedule.chunk=16",
    "schedule.chains=3",
    "parts.wells.schedule.draws=32",
]
LONG = ["schedule.draws=200000", "schedule.burn_in=8", "schedule.chunk=50", "~parts", "schedule.keep_params=0"]
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "gpu[003-005,9],x1"}
PATIENCE = 500  # seconds for two processes to start and compile, beside other tests


def free_port():
    """A port that is free, with its neighbour."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def started(*words):
    """`slt WORDS` as two processes on loopback, one device each."""
    port, environment = free_port(), {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "slt.cli", *map(str, words), f"distributed=127.0.0.1:{port},{rank},2"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def close(one, other):
    for name in ("main", "wells"):
        a, b = one.data[name].to_dataset(), other.data[name].to_dataset()
        assert a.sizes == b.sizes
        for key, variable in a.data_vars.items():
            if key != "baseline":
                np.testing.assert_allclose(variable.values, b[key].values, rtol=2e-3, atol=2e-4, err_msg=str(key))


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(TINY.parent)])


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path):
    children = started("run", TINY, *SHORT, "--out", tmp_path / "two")
    said = [child.communicate(timeout=PATIENCE) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert said[0][0].startswith("results: ")
    assert said[1][0] == ""
    two = results.load(tmp_path / "two", verify=True)
    one = runs.begin(config.compose(str(TINY), SHORT), tmp_path / "one")
    assert two.complete
    close(one, two)
    assert two.quantities.keys() == one.quantities.keys()
    longer = runs.extend(tmp_path / "two", ["schedule.draws=48"], allow_import=["tiny_model"])  # by one process
    assert longer.complete
    close(longer, runs.extend(tmp_path / "one", ["schedule.draws=48"], allow_import=["tiny_model"]))


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]


@pytest.mark.parametrize("lost", [pytest.param(1, marks=pytest.mark.slow), pytest.param(0, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_run_in_a_sentence(lost, tmp_path):
    place = tmp_path / "run"
    parents = started("run", TINY, *LONG, "--out", place)
    deadline = time.monotonic() + PATIENCE
    while not ((place / "manifest.jsonl").exists() and b'"event":"chunk"' in (place / "manifest.jsonl").read_bytes()):
        assert all(parent.poll() is None for parent in parents), [parent.communicate() for parent in parents]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (worker,) = children_of(parents[lost].pid)
    before = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    said = [parent.communicate(timeout=60)[1] for parent in parents]
    assert time.monotonic() - before < 30
    assert [parent.returncode for parent in parents] == [3, 3], said
    for text in said:
        assert f"process {lost} of 2 on {socket.gethostname()} was lost (killed by SIGKILL)" in text
        assert "slt resume" in text
        assert "Traceback" not in text
        assert "Check failure" not in text
    stored = results.load(place).health["main"]["draws"]
    assert stored >= 50
    resumed = subprocess.Popen(
        [sys.executable, "-m", "slt.cli", "resume", str(place), "--allow-import", str(TINY.parent)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while results.load(place).health["main"]["draws"] <= stored:
        assert resumed.poll() is None, resumed.communicate()
        assert time.monotonic() < deadline + PATIENCE
        time.sleep(0.5)
    resumed.send_signal(signal.SIGINT)
    said_then = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 130, said_then


@pytest.mark.parametrize(
    "text, environment, found",
    [
        ("node1:9000,1,4", {}, Seat("node1", 9000, 1, 4)),
        ("auto", SLURM | {"SLURM_JOB_ID": "7"}, Seat("gpu003", 20014, 3, 4)),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "x1"}, Seat("x1", 20000, 0, 1)),
        ("auto", {"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "1"}, Seat("t0", 8476, 1, 2)),
    ],
)  # fmt: skip
def test_where_a_process_sits(text, environment, found):
    assert seat(text, environment) == found


@pytest.mark.parametrize("text", ["auto", "node1", "node1:9000", "node1:9000,4,4", "node1:80,0,2", "a:9000,0,2,3"])
def test_a_seat_that_is_none(text):
    with pytest.raises(InputError, match="distributed"):
        seat(text, {})
