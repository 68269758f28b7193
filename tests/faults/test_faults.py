"""What can go wrong under a run, done to real ones: kills, full and read-only disks, clocks, numbers, interrupts.

After each: nothing lost but the chunk in flight, results those of an undisturbed run bit by bit, a documented exit
code. `make faults` runs this; some tests mount a small tmpfs and skip where that is not allowed.
"""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults.processes import ALLOW, TINY, same, slt, start

from slt import cli, config, results, runs
from slt.engine import program
from slt.results import checkpoint

pytestmark = pytest.mark.faults

KILLS = 20


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight chains whose every draw is kept, and whose model is finite everywhere."""
    place = tmp_path_factory.mktemp("whole") / "run"
    assert slt("run", TINY, *EIGHT, "--out", place)[0] == 0
    return place


EIGHT = ["schedule.chains=8", "schedule.draws=256", "schedule.keep_params=1"]


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("which", ["one chain at a chosen draw", "every chain"])
def test_numbers_from_the_model_that_are_not_finite(whole: Path, tmp_path: Path, which: str, value: str) -> None:
    """Broken chains are frozen and named, the others go on as if nothing had happened; no broken one is averaged.

    The chosen draw: the highest that any chain comes to after draw 64 for the first time. The model fails above it, so
    every chain breaks at its first draw there.
    """
    fine = results.load(whole)
    w = fine.data["main"]["params.w"].values
    before = np.maximum.accumulate(w, axis=-1)[..., :-1]
    record = np.where((w[..., 1:] > before) & (np.arange(1, w.shape[-1]) >= 64), w[..., 1:], -np.inf)
    chosen = np.unravel_index(np.argmax(record), record.shape)
    limit = float((np.float64(record[chosen]) + before[chosen]) / 2) if which.startswith("one") else -1e9
    above = w > limit
    expected = np.where(above.any(axis=-1), above.argmax(axis=-1), -1)
    overrides = [*EIGHT, f"model.fails_with={value}", f"model.fails_above={limit!r}"]
    code, err = slt("run", TINY, *overrides, "--out", tmp_path / "run")
    assert code == 0, err
    assert "its loss became infinite or NaN" in err
    broken = results.load(tmp_path / "run")
    status, at = (broken.data["main"][name].values for name in ("status", "broken_at"))
    delta, other = (run.data["main"]["delta"].values for run in (broken, fine))
    loss = broken.quantities["loss"]
    np.testing.assert_array_equal(at, expected)
    np.testing.assert_array_equal(status != 0, expected >= 0)
    assert broken.health["main"]["broken"] == (expected >= 0).sum()
    lasts = np.where(expected < 0, delta.shape[-1], expected)[..., None]
    np.testing.assert_array_equal(delta, np.where(np.arange(delta.shape[-1]) < lasts, other, np.nan))
    if which.startswith("every"):
        assert (expected == 0).all()
        assert np.isnan(loss.value).all()
        assert all(v is None for v in np.ravel(_json(tmp_path / "run")["quantities"]["loss"]["value"]))
    else:
        assert expected[chosen[:-1]] == chosen[-1] + 1 >= 64
        assert (expected < 0).any()
        named = [chain for chain in broken.health["main"]["broken_chains"] if chain["draw"] == chosen[-1] + 1]
        assert chosen[-2] in [chain["chain"] for chain in named]


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


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, float]:
    """Overrides of a run whose chunks take seconds, the run that nothing disturbed, and the seconds of a chunk."""
    place = tmp_path_factory.mktemp("slow")
    config_of = [f"parts.wells.schedule.{key}" for key in ("draws=48", "chunk=16")]

    def seconds(thin: int, name: str) -> float:
        assert slt("run", TINY, *config_of, f"parts.wells.schedule.thin={thin}", "--out", place / name)[0] == 0
        return chunks(place / name)[-1]["seconds"]

    thin = round(8 / seconds(20_000, "probe") * 20_000)
    took = seconds(thin, "run")
    return [*config_of, f"parts.wells.schedule.thin={thin}"], place / "run", took


def chunks(place: Path) -> list[dict]:
    """What the manifest says of the chunks of the part `wells`."""
    lines = (json.loads(line) for line in (place / "manifest.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "chunk" and line["part"] == "wells"]


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted(slow: tuple[list[str], Path, float], tmp_path: Path, times: int) -> None:
    """Ctrl-C once: the chunk is finished and saved; twice: stops now. Either way the command to go on is told."""
    overrides, reference, took = slow
    place = tmp_path / "run"
    process = start("run", TINY, *overrides, "--out", place)
    assert process.stderr is not None
    told = ""
    while "draw 16/48" not in told:
        told += (line := process.stderr.readline())
        assert line, told
    began = time.monotonic()
    for _ in range(times):
        time.sleep(0.5)  # the next chunk is in flight
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    err = told + err
    elapsed = time.monotonic() - began
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"slt resume {place}" in err
    assert "this chunk is finished and saved first" in err
    done = [line["stop"] for line in chunks(place)]
    if times == 1:
        assert done == [16, 32]  # the chunk in flight was finished
        assert checkpoint.steps(place / "checkpoints" / "wells" / "0") == [32]
        assert "stopped at once" not in err
    else:
        assert done == [16]
        assert elapsed < took / 2
        assert "stopped at once" in err
    assert slt("resume", place, *ALLOW)[0] == 0
    same(place, reference)
