"""Signals that come while Python still loads."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"


FRESH = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in the background
os.execv(sys.executable, [sys.executable, "-m", "slt.cli", *sys.argv[1:]])
"""


def loading(*words, **environment):
    """`slt WORDS --preemptible`, from when it has set its handlers on."""
    child = subprocess.Popen(
        [sys.executable, "-c", FRESH, *map(str, words), "--preemptible"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not _caught(child.pid) >> (signal.SIGUSR2 - 1) & 1:
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
    return child


def _caught(pid):
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return int(line.split()[1], 16)


@pytest.mark.parametrize("seconds", [0, 1])
def test_interrupted(seconds, tmp_path):
    child = loading("run", TINY, "--out", tmp_path / "run")
    time.sleep(seconds)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err == "interrupted; nothing was written\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_preempted(number, tmp_path):
    fake = tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    path = f"{fake.parent}:{os.environ['PATH']}"
    child = loading("run", TINY, "--out", tmp_path / "run", PATH=path, SLURM_JOB_ID="17")
    child.send_signal(number)
    child.send_signal(number)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 3, err
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    assert "stopped; nothing was written" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
