"""One run over processes on loopback equals one process; it may go on with others; a lost one ends it in a sentence."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from slt import config, results, runs
from slt.cli import distributed
from slt.cli.seats import Seat, seat
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


def started(*words, count=2, ranks=None):
    """`slt WORDS` as processes on loopback, one device each: all of them, or those of some ranks."""
    port, environment = free_port(), {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "slt.cli", *map(str, words), f"distributed=127.0.0.1:{port},{rank},{count}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (range(count) if ranks is None else ranks)
    ]


def close(one, other):
    assert one.data.children.keys() == other.data.children.keys()
    for name in one.data.children:
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


@contextlib.contextmanager
def stopped_at_once(parts):
    def stop(part, chunk):
        raise KeyboardInterrupt

    yield stop


@pytest.mark.slow
def test_what_one_process_began_two_end(tmp_path):
    watching: Any = stopped_at_once
    with pytest.raises(KeyboardInterrupt):
        runs.begin(config.compose(str(TINY), SHORT), tmp_path / "run", watching)
    assert not results.load(tmp_path / "run").complete
    children = started("resume", tmp_path / "run", "--allow-import", TINY.parent)
    said = [child.communicate(timeout=PATIENCE) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    run = results.load(tmp_path / "run", verify=True)
    assert run.complete
    close(run, runs.begin(config.compose(str(TINY), SHORT), tmp_path / "one"))


def until_a_chunk(place, parents):
    deadline = time.monotonic() + PATIENCE
    while not ((place / "manifest.jsonl").exists() and b'"event":"chunk"' in (place / "manifest.jsonl").read_bytes()):
        assert all(parent.poll() is None for parent in parents), [parent.communicate() for parent in parents]
        assert time.monotonic() < deadline
        time.sleep(0.1)


SLOW = ["schedule.draws=24", "schedule.chunk=2", "schedule.thin=20000", "schedule.keep_params=0", "~parts"]


@pytest.mark.slow
def test_one_that_is_told_to_stop_stops_all_and_three_go_on(tmp_path):
    """SIGTERM to the second of two: both save and end, and three processes do the rest."""
    place = tmp_path / "run"
    parents = started("run", TINY, *SLOW, "--out", place)
    until_a_chunk(place, parents)
    parents[1].send_signal(signal.SIGTERM)
    said = [parent.communicate(timeout=60)[1] for parent in parents]
    assert [parent.returncode for parent in parents] == [3, 3], said
    for text in said:
        assert f"what was sampled is saved. Go on with: slt resume {place}" in text
        assert "Traceback" not in text
    assert 2 <= results.load(place, verify=True).health["main"]["draws"] < 24
    parents = started("resume", place, "--allow-import", TINY.parent, count=3)
    said = [parent.communicate(timeout=PATIENCE) for parent in parents]
    assert [parent.returncode for parent in parents] == [0, 0, 0], said
    run = results.load(place, verify=True)
    assert run.complete
    close(run, runs.begin(config.compose(str(TINY), SLOW), tmp_path / "one"))


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]


def test_interrupted_while_it_waits_for_the_others(tmp_path):
    (parent,) = started("run", TINY, *LONG, "--out", tmp_path / "run", ranks=[0])
    while not (parent.poll() is not None or children_of(parent.pid)):
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 130, said
    assert "interrupted; nothing was written" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "lost, how, said_how",
    [
        pytest.param(1, signal.SIGKILL, "killed by SIGKILL", marks=pytest.mark.slow),
        pytest.param(0, signal.SIGKILL, "killed by SIGKILL", marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, "it hangs: no sign of life for 24 s", marks=pytest.mark.slow),
    ],
)
def test_a_lost_process_ends_the_run_in_a_sentence(lost, how, said_how, tmp_path):
    place = tmp_path / "run"
    parents = started("run", TINY, *LONG, "--out", place)
    until_a_chunk(place, parents)
    (worker,) = children_of(parents[lost].pid)
    before = time.monotonic()
    os.kill(worker, how)
    said = [parent.communicate(timeout=60)[1] for parent in parents]
    assert time.monotonic() - before < 30
    assert [parent.returncode for parent in parents] == [3, 3], said
    for text in said:
        assert f"process {lost} of 2 on {socket.gethostname()} was lost ({said_how})" in text
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
        assert time.monotonic() < before + PATIENCE
        time.sleep(0.5)
    resumed.send_signal(signal.SIGINT)
    said_then = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 130, said_then


STRAY = [
    b"GET / HTTP/1.0\r\n\r\n",
    b'{"rank":1,"ended":1}\n',
    b'{"rank":1,"host":"x","token":"y"}\n{"ended":1}\n',
    b'{"rank":9,"host":"x","token":"known"}\n{"ended":1}\n',
    b'{"rank":[],"host":"x","token":"known"}\n{"ended":1}\n',
    b"[" * 100_000,
    b"[" * 4_000 + b"\n",
    b"7\n",
    b"\xff\xfe\n",
    b"",
]


def test_strangers_on_the_line_are_sent_away():
    own, codes = Seat("127.0.0.1", free_port(), 0, 2), dict.fromkeys(range(2))
    hub = distributed._Hub(own, "known")
    workers = [cast(distributed._Worker, SimpleNamespace(ended=partial(codes.get, rank))) for rank in range(2)]
    with ThreadPoolExecutor() as pool:
        verdict = pool.submit(hub.watch, workers[0])
        for text in STRAY:
            with (
                socket.create_connection((own.host, own.port + 1), timeout=10) as stranger,
                contextlib.suppress(ConnectionError),
            ):
                stranger.sendall(text)
                stranger.shutdown(socket.SHUT_WR)
                assert b"beat" not in stranger.recv(1000) + stranger.recv(1000)
        assert not hub.links
        spoke = distributed._Spoke(own._replace(rank=1), "another", Console())
        with pytest.raises(InputError, match="runs another command"):
            spoke.watch(workers[1])
        spoke.token = "known"
        known = pool.submit(spoke.watch, workers[1])
        codes.update({0: 0, 1: 0})
        assert verdict.result(timeout=10) == known.result(timeout=10) == distributed.Verdict(0)


def test_what_processes_of_a_run_know():
    one, two = Seat("x", 9000, 0, 2), Seat("x", 9000, 1, 2)
    words, slurm = ["run", "a", "--out", "b"], {"SLURM_JOB_ID": "7"}
    known = distributed._token(one, [*words, "distributed=x:9000,0,2", "devices=4"], {})
    assert known == distributed._token(two, [*words, "distributed=x:9000,1,2"], slurm)
    assert known != distributed._token(two, [*words, "seed=1", "distributed=x:9000,1,2"], {})
    auto = [*words, "distributed=auto"]
    assert distributed._token(one, auto, slurm) != distributed._token(one, auto, {"SLURM_JOB_ID": "8"})


def test_a_worker_without_a_sign_of_life_hangs(monkeypatch):
    monkeypatch.setattr(distributed, "HANGS", 0.5)
    here, there = socket.socketpair()
    with here, there, subprocess.Popen(["sleep", "60"]) as child:
        worker = distributed._Worker(child, here)
        time.sleep(0.6)
        assert worker.ended() is None  # it has not said a thing yet
        there.send(b".")
        assert worker.ended() is None
        time.sleep(0.6)
        assert worker.ended() == distributed.HUNG
        there.send(b".")
        assert worker.ended() is None
        child.kill()
        child.wait()
        assert worker.ended() == -signal.SIGKILL


@pytest.mark.parametrize("busy", [0, 1])
def test_a_port_that_is_taken_is_bad_input(busy):
    own = Seat("127.0.0.1", free_port(), 0, 2)
    with (
        socket.create_server((own.host, own.port + busy)),
        pytest.raises(InputError, match=rf":{own.port + busy}.* cannot be listened on \(Address already in use\)"),
    ):
        distributed.supervise(own, [], Console(), str)


def test_a_host_that_is_none_is_bad_input():
    with pytest.raises(InputError, match="no host that is known here"):
        distributed.supervise(Seat("no.such.host.invalid", 9400, 1, 2), [], Console(), str)


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
