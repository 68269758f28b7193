"""The cache of compiled programs: a run of the same config compiles nothing a second time."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from slt import cli, config, results
from slt.cli import machine

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
COUNTING = """
import collections, json, sys
import jax
from slt import cli

seen = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rsplit("/", 1)[-1]]))
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.update([event.rsplit("/", 1)[-1]]))
code = cli.main(sys.argv[1:])
print(json.dumps(seen))
sys.exit(code)
"""
ASKED, FOUND = "backend_compile_duration", "cache_hits"


def counted(*args: object, cwd: Path, cache: Path | str) -> Counter[str]:
    """How often JAX told of each event in `slt ARGS` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLT_CACHE": str(cache)}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        environment.pop(name, None)
    command = [sys.executable, "-c", COUNTING, *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return Counter(json.loads(done.stdout.splitlines()[-1]))


def test_the_second_run_of_a_config_compiles_nothing(tmp_path: Path) -> None:
    first, second = (
        counted("run", TINY, "--out", tmp_path / name, cwd=tmp_path, cache=tmp_path / "cache") for name in ("a", "b")
    )
    assert first[ASKED] > first[FOUND]  # the first run compiles, and keeps even what compiles in no time
    assert second[ASKED] == second[FOUND] > 0
    assert list((tmp_path / "cache").iterdir())


@pytest.mark.statistics
@pytest.mark.parametrize("name", ["superposition/demo", "two_basins/demo"])
def test_the_second_run_of_a_demo_compiles_nothing(name: str, tmp_path: Path) -> None:
    """At smoke size, its measures and figures included."""
    first, second = (
        counted("run", name, "--smoke", "--out", tmp_path / place, cwd=tmp_path, cache=tmp_path / "cache")
        for place in ("a", "b")
    )
    assert list((tmp_path / "b" / "figures").iterdir())
    assert set(results.load(tmp_path / "b").measures) == set(config.compose(name).measures)
    assert first[ASKED] > first[FOUND]
    assert second[ASKED] == second[FOUND] > 0


@pytest.mark.slow
def test_another_seed_length_and_step_compile_nothing_either(tmp_path: Path) -> None:
    counted("run", TINY, "--out", tmp_path / "a", cwd=tmp_path, cache=tmp_path / "cache")
    changed = ("seed=3", "sampler.step_size=2e-3", "schedule.draws=96", "schedule.burn_in=20")
    again = counted("run", TINY, *changed, "--out", tmp_path / "b", cwd=tmp_path, cache=tmp_path / "cache")
    assert again[ASKED] == again[FOUND] > 0


def test_the_cache_is_on_unless_told_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv(machine.CACHE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_folder() is not None
    monkeypatch.setenv(machine.CACHE, "off")
    assert machine.cache_folder() is None


@pytest.mark.slow
def test_a_run_without_the_cache_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(machine.CACHE, "off")
    assert cli.main(["run", str(TINY), "--out", str(tmp_path / "c")]) == 0
