"""Runs as processes of their own, which can be killed, and how two runs are told to be the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from slt import results

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
ALLOW = ["--allow-import", str(TINY.parent)]


def start(*args: object) -> subprocess.Popen[str]:
    """`slt ARGS` in a process of its own."""
    command = [sys.executable, "-m", "slt.cli", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def slt(*args: object) -> tuple[int, str]:
    """`slt ARGS` to its end: exit code and standard error, in which there is never a traceback."""
    process = start(*args)
    try:
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, err


def same(first: Path, second: Path) -> None:
    """All that two runs drew is the same, bit by bit, and so is what was made of it."""
    one, other = results.load(first, verify=True), results.load(second, verify=True)
    assert one.complete
    assert other.complete
    for name in one.data.children:
        assert one.data[name].to_dataset().equals(other.data[name].to_dataset()), name
    assert one.quantities.keys() == other.quantities.keys()
    for name, quantity in one.quantities.items():
        np.testing.assert_array_equal(quantity.value, other.quantities[name].value, name)
