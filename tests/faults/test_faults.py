"""What can go wrong under a run, done to real ones: kills, full and read-only disks, damaged files, clocks, numbers.

After each: nothing lost but the chunk in flight, results those of an undisturbed run bit by bit, a documented exit
code. `make faults` runs this; some tests mount a small tmpfs and skip where that is not allowed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slt import cli, config, results, runs
from slt.engine import program

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
SWEEP = ["schedule.draws=512", "parts.wells.schedule.draws=256"]
WRITES = ["schedule.draws=512", "schedule.chunk=2", "schedule.keep_params=2", "parts.wells.schedule.chunk=2"]
ALLOW = ["--allow-import", str(TINY.parent)]
KILLS = 20


def start(*args: object) -> subprocess.Popen[str]:
    """`slt ARGS` in a process of its own."""
    command = [sys.executable, "-m", "slt.cli", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def slt(*args: object) -> tuple[int, str]:
    """`slt ARGS` to its end: exit code and standard error, in which there is never a traceback."""
    process = start(*args)
    _, err = process.communicate(timeout=300)
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


@pytest.fixture(scope="module", params=[SWEEP, WRITES], ids=["sweep", "writes"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Overrides of a run, and the run that nothing disturbed."""
    place = tmp_path_factory.mktemp("undisturbed") / "run"
    assert slt("run", TINY, *request.param, "--out", place)[0] == 0
    return request.param, place


def test_killed_at_random_moments(undisturbed: tuple[list[str], Path], tmp_path: Path) -> None:
    """kill -9 at twenty moments, the first of them of the run itself and the others of its resumptions."""
    overrides, reference = undisturbed
    rng, place = np.random.default_rng(0), tmp_path / "run"
    before = time.monotonic()
    assert slt("run", TINY, *overrides, "--out", tmp_path / "timed")[0] == 0
    whole = time.monotonic() - before
    killed = 0
    for _ in range(5 * KILLS):
        line = ("resume", place, *ALLOW) if (place / "manifest.jsonl").exists() else (
            "run", TINY, *overrides, "--out", place)  # fmt: skip
        process = start(*line)
        try:
            _, err = process.communicate(timeout=float(rng.uniform(0.2, 1.0)) * whole)
            assert process.returncode == 0, err
            if killed >= KILLS:
                break
            shutil.rmtree(place)  # it came to its end before the blow: begin another
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        if killed >= KILLS and place.exists():
            assert slt("resume", place, *ALLOW)[0] == 0
            break
    assert killed >= KILLS
    same(place, reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def test_disk_full(undisturbed: tuple[list[str], Path], small_disk: Path) -> None:
    overrides, reference = undisturbed
    filler = small_disk / "filler"
    filler.write_bytes(bytes(200_000))
    code, err = slt("run", TINY, *overrides, "--out", small_disk / "run")
    assert code in (2, 3), err
    assert "No space left on device" in err
    assert "slt resume" in err or code == 2
    remount(small_disk, "size=64m")
    if code == 2:  # not even its first files found room
        assert not (small_disk / "run").exists()
        assert slt("run", TINY, *overrides, "--out", small_disk / "run")[0] == 0
    else:
        assert slt("resume", small_disk / "run", *ALLOW)[0] == 0
    same(small_disk / "run", reference)


def test_read_only_output(undisturbed: tuple[list[str], Path], small_disk: Path) -> None:
    overrides, reference = undisturbed
    remount(small_disk, "size=64m")
    process = start("run", TINY, *overrides, "--out", small_disk / "run")
    while not (small_disk / "run" / "manifest.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    remount(small_disk, "ro")
    code, err = slt("run", TINY, *overrides, "--out", small_disk / "other")
    assert (code, "Read-only file system" in err) == (2, True), err
    code, err = slt("resume", small_disk / "run", *ALLOW)
    assert code in (2, 3), err
    assert "Read-only file system" in err
    remount(small_disk, "rw")
    assert slt("resume", small_disk / "run", *ALLOW)[0] == 0
    same(small_disk / "run", reference)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("what", ["data.zarr/*/delta/c/**/*", "checkpoints/*/*/*/**/*"])
def test_damaged_files(undisturbed: tuple[list[str], Path], tmp_path: Path, what: str, how: str) -> None:
    """A bad chunk is named by `slt show` and computed again on resume; a checkpoint only matters while it is needed."""
    _, reference = undisturbed
    place = tmp_path / "run"
    shutil.copytree(reference, place)
    file = sorted(one for one in place.glob(what) if one.is_file() and one.stat().st_size > 8)[-1]
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        file.write_bytes(bytes(content))
    if what.startswith("data") and how != "flipped":
        code, err = slt("show", place)
        assert code == 2, err
        assert str(file.relative_to(place)) in err.replace("\n", "")
    assert slt("resume", place, *ALLOW)[0] == 0
    same(place, reference)


def test_a_second_process_is_refused_and_a_stale_lock_recognised(
    undisturbed: tuple[list[str], Path], tmp_path: Path
) -> None:
    overrides, reference = undisturbed
    place = tmp_path / "run"
    process = start("run", TINY, *overrides, "--out", place)
    while not (place / "manifest.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    code, err = slt("resume", place, *ALLOW)
    assert code == 2
    assert f"in use by process {process.pid}" in err
    process.kill()
    process.communicate()
    assert (place / "lock").exists()
    assert slt("resume", place, *ALLOW)[0] == 0
    same(place, reference)


def test_a_clock_that_goes_backwards(
    undisturbed: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, reference = undisturbed
    ticks = iter(range(10**9, 0, -37))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    assert cli.main(["run", str(TINY), *overrides, "--quiet", "--out", str(tmp_path / "run")]) == 0
    monkeypatch.undo()
    same(tmp_path / "run", reference)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("limit", [0.9, -1e9], ids=["one chain", "every chain"])
def test_numbers_from_the_model_that_are_not_finite(tmp_path: Path, limit: float, value: str) -> None:
    """Broken chains are frozen and named, the others go on as if nothing had happened; no broken one is averaged."""
    overrides = ["schedule.chains=8", f"model.fails_with={value}", "schedule.draws=256"]
    code, _ = slt("run", TINY, *overrides, "--out", tmp_path / "whole")
    assert code == 0
    code, err = slt("run", TINY, *overrides, f"model.fails_above={limit}", "--out", tmp_path / "run")
    assert code == 0, err
    assert "its loss became infinite or NaN" in err
    broken, whole = results.load(tmp_path / "run"), results.load(tmp_path / "whole")
    status = broken.data["main"]["status"].values
    delta, other = (run.data["main"]["delta"].values for run in (broken, whole))
    fine = np.broadcast_to((status == 0)[..., None], delta.shape)
    np.testing.assert_array_equal(delta[fine], other[fine])
    loss = broken.quantities["loss"]
    if limit < 0:
        assert (status != 0).all()
        assert np.isnan(loss.value).all()
        assert all(v is None for v in np.ravel(_json(tmp_path / "run")["quantities"]["loss"]["value"]))
    else:
        assert 0 < (status != 0).sum() < status.size
        assert broken.health["main"]["broken"] == (status != 0).sum()


def _json(place: Path) -> dict:
    return json.loads((place / "summary.json").read_text())


def test_out_of_memory_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A chunk too long for the device is halved until it fits, which is said; the run's files are as without."""
    monkeypatch.syspath_prepend(str(TINY.parent))
    made = config.compose(str(TINY), ["schedule.keep_params=2", "schedule.chunk=16"])
    runs.begin(made, tmp_path / "reference")
    real, seen = program.advance, []

    class Small:
        """A device on which no more than 5 draws fit."""

        lower = real.lower

        def __call__(self, *args: object, length: int, **named: object) -> object:
            seen.append(length)
            if length > 5:
                raise program.OutOfMemory("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
            return real(*args, length=length, **named)

    monkeypatch.setattr(program, "advance", Small())
    runs.begin(made, tmp_path / "run")
    assert max(seen) == 16
    assert seen[-1] == 4
    assert "out of memory" in caplog.text
    same(tmp_path / "run", tmp_path / "reference")


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted(undisturbed: tuple[list[str], Path], tmp_path: Path, times: int) -> None:
    """Ctrl-C once: the chunk is finished and saved; twice: stops now. Either way the command to go on is told."""
    overrides, reference = undisturbed
    place = tmp_path / "run"
    process = start("run", TINY, *overrides, "--out", place)
    while not (place / "manifest.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"slt resume {place}" in err
    assert slt("resume", place, *ALLOW)[0] == 0
    same(place, reference)
