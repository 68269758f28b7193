"""The command line, as a person and as a program meet it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slt import catalogue, cli, tables
from slt.nodes import locate
from slt.results import Quantity

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"


def slt(*args: object, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """`slt ARGS` in a process of its own."""
    command = [sys.executable, "-m", "slt.cli", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """`slt ARGS` in this process: exit code, standard output, standard error."""
    code = cli.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_help_is_quick(tmp_path: Path) -> None:
    slt("--help", cwd=tmp_path)  # once, so that bytecode is there
    times = []
    for _ in range(3):
        before = time.perf_counter()
        assert "slt list" in slt("--help", cwd=tmp_path).stdout
        times.append(time.perf_counter() - before)
    assert min(times) < 0.5


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"slt {name}" in shown.split("examples:")[1]
    assert "exit codes: 0 done" in shown


@pytest.mark.parametrize("line", ["", "runn x", "run", "show a --fresh", "list x", "run x --ou y", "compare a"])
def test_a_wrong_command_line_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_overrides_stand_anywhere() -> None:
    args = cli.parse(["run", "two_basins/demo", "a=1", "--out", "x", "b=[2]", "--x64", "~c", "+d=3"])
    assert args.overrides == ["a=1", "b=[2]", "~c", "+d=3"]
    assert (args.out, args.x64, args.fresh, args.name) == ("x", True, False, "two_basins/demo")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    for items in (catalogue.configs(), catalogue.experiments(), catalogue.models()):
        assert items
        assert all(item.name in out for item in items)
    for item in catalogue.samplers():
        assert item.summary[:40] in out


def test_what_is_listed_is_there() -> None:
    for item in (*catalogue.models(), *catalogue.samplers(), *(i for g in catalogue.options().values() for i in g)):
        assert item.target == "" or callable(locate(item.target, item.name))
        assert item.summary


def test_check_samples_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "check", TINY, "grid.n=[10,40,50]", "--no-time")
    assert code == 0
    assert "n: [10, 40, 50]" in out
    line = next(line.split() for line in out.splitlines() if line.startswith("main "))
    assert line[1:5] == ["6", "2", "1", "64"]
    assert "runs/tiny-" in out
    assert list(tmp_path.iterdir()) == []


def test_check_times_a_draw(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "check", TINY)
    assert code == 0
    assert "under 1 s" in out


@pytest.mark.parametrize(
    "args, message",
    [
        (["superposition/dem"], "config = 'superposition/dem': unknown; nearest is 'superposition/demo'"),
        ([TINY, "grid.m=3"], "grid.m = 3: unknown key"),
        ([TINY, "sampler=nosuch"], "sampler = 'nosuch': "),
        ([TINY, "grid.n=0"], "grid.n = 0: must be finite and at least 1"),
        ([TINY, "grid.n=[]"], "grid.n = []: is empty"),
        ([TINY, "grid.beta=-1"], "grid.beta = -1.0: must be finite and at least 0"),
        ([TINY, "grid.beta=1/log m"], "grid.beta = '1/log m': give a number"),
        ([TINY, "schedule.draws=many"], "schedule.draws = 'many': must be a whole number"),
        ([TINY, "schedule.burn_in=64"], "schedule.burn_in = 64: must be less than"),
        ([TINY, "sampler.step_size=-1"], "sampler.step_size = -1"),
        ([TINY, "model._target_=tiny_model.Summed"], "log_likelihood = (): must return one value a sample"),
        ([TINY, "start=sevengon"], "start = 'sevengon': no such basin"),
        ([TINY, "grid.t=3"], "grid.t = "),
        (["nosuch.yaml"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    args: list[object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("check", "run"):
        code, out, err = call(capsys, command, *args)
        assert code == 2
        assert message in err
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1
        assert out == ""
        assert list(tmp_path.iterdir()) == []


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code == 0, out
    assert "exact 0.9" in out
    assert str(ROOT / "slt") in out


def test_numbers_as_a_person_reads_them() -> None:
    assert tables.estimate(1.23456, 0.0567) == "1.235 ± 0.057"
    assert tables.estimate(0.5, float("nan")) == "0.5"
    assert tables.estimate(float("nan"), 1.0) == "-"
    assert tables.estimate(1234.5, 21.0) == "1234 ± 21"
    assert (tables.memory(0), tables.memory(2048), tables.memory(3 * 2**30)) == ("0 B", "2.0 KiB", "3.0 GiB")
    quantity = Quantity([[1.0, 2.0], [3.0, 4.0]], [[0.1] * 2] * 2, {"n": [10, 20], "beta": ["1", "1/log n"]})
    assert [point.value for point in tables.points(quantity)] == [1.0, 2.0, 3.0, 4.0]
    assert tables.points(quantity)[2].where == {"n": 20, "beta": "1"}
    assert tables.chosen(["mass[6]", "mass[5+]", "llc"], ["mass[*"]) == ["mass[6]", "mass[5+]"]
    assert tables.chosen(["mass[6]", "mass[5+]", "llc"], ["mass[5+]", "ll?"]) == ["mass[5+]", "llc"]
    assert tables.main_names(["mass[6]", "wells.rhat[left]", "rhat", "wells.llc"]) == ["mass[6]", "wells.llc"]
