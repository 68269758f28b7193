"""The command line, as a person and as a program meet it."""

import contextlib
import dataclasses
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
import yaml

from experiments import _shared
from slt import cli, config, plots, results, runs
from slt.cli import catalogue, tables
from slt.config import nodes
from slt.config.nodes import locate
from slt.engine import room
from slt.typing import InputError, Quantity

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
    for items in (catalogue.configs(), catalogue.experiments(), catalogue.models(), catalogue.samplers()):
        assert items
        assert all(item.summary and f"  {item.summary}" in out for item in items)
    assert all(item.name in out for item in catalogue.configs())
    for group, items in catalogue.options().items():
        assert all(out.count(f" {group}={item.name} ") == 1 for item in items)


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
        ([TINY, "grid.m=3"], "grid.m = [3]: unknown key"),
        ([TINY, "sampler=nosuch"], "sampler = 'nosuch': "),
        ([TINY, "grid.n=0"], "grid.n = 0: must be finite and at least 1"),
        ([TINY, "grid.n=[]"], "grid.n = []: is empty"),
        ([TINY, "grid.beta=-1"], "grid.beta = -1: must be finite and at least 0"),
        ([TINY, "grid.beta=1/log m"], "grid.beta = '1/log m': give a number"),
        ([TINY, "schedule.draws=many"], "schedule.draws = 'many': must be a whole number"),
        ([TINY, "schedule.burn_in=64"], "schedule.burn_in = 64: must be less than"),
        ([TINY, "sampler.step_size=-1"], "sampler.step_size = -1"),
        ([TINY, "model._target_=tiny_model.Summed"], "log_likelihood = (): must return one value a sample"),
        ([TINY, "start=sevengon"], "start = 'sevengon': no such basin"),
        ([TINY, "grid.t=3"], "grid.t = "),
        ([TINY, "jitter=-1"], "jitter = -1.0: "),
        ([TINY, "jitter=1e39"], "jitter = 1e+39: "),
        ([TINY, "parts.wells.jitter=nan"], "jitter = nan: "),
        ([TINY, "sampler._target_=slt.samplers.HMC", "sampler.jitter=-1"], "sampler.jitter = -1.0: "),
        ([TINY, "sampler._target_=slt.samplers.HMC", "sampler.jitter=1e39"], "sampler.jitter = 1e+39: "),
        ([TINY, "devices=10000000"], "devices = '10000000': is beyond "),
        ([TINY, "devices=99x99999999999999999999"], "is beyond "),
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
    assert (room.words(0), room.words(2048), room.words(3 * 2**30)) == ("0 B", "2.0 KiB", "3.0 GiB")
    quantity = Quantity([[1.0, 2.0], [3.0, 4.0]], [[0.1] * 2] * 2, {"n": [10, 20], "beta": ["1", "1/log n"]})
    assert [point.value for point in tables.points(quantity)] == [1.0, 2.0, 3.0, 4.0]
    assert tables.points(quantity)[2].where == {"n": 20, "beta": "1"}
    assert tables.chosen(["mass[6]", "mass[5+]", "llc"], ["mass[*"]) == ["mass[6]", "mass[5+]"]
    assert tables.chosen(["mass[6]", "mass[5+]", "llc"], ["mass[5+]", "ll?"]) == ["mass[5+]", "llc"]
    assert tables.main_names(["mass[6]", "wells.rhat[left]", "rhat", "wells.llc"]) == ["mass[6]", "wells.llc"]


LONG = [
    *("grid.n=[10,40]", "schedule.draws=320", "schedule.chunk=16"),
    *("parts.wells.schedule.draws=128", "parts.wells.schedule.chunk=8"),
]


class Finished(NamedTuple):
    """A run that nothing interrupted, and what was said meanwhile."""

    place: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place, out, err = tmp_path_factory.mktemp("finished") / "run", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert cli.main(["run", str(TINY), *LONG, "--out", str(place)]) == 0
    return Finished(place, out.getvalue(), err.getvalue())


def test_a_run_leaves_its_results(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    place = finished.place
    assert finished.out.split() == ["results:", f"{place};", "figures:", f"{place / 'figures'}"]
    summary = json.loads((place / "summary.json").read_text())
    assert {"quantities", "health", "wall_s", "digest", "checksum"} == set(summary)
    assert np.shape(summary["quantities"]["loss"]["value"]) == (2, 2, 1)
    assert summary["quantities"]["wells.occupancy[left]"]["coords"] == {"t": [1.0, 10.0]}
    assert summary["digest"] == config.digest(config.load(place, ["tiny_model"]))
    assert list((place / "figures").glob("*.png"))
    assert not (place / "lock").exists()
    code, out, _ = call(capsys, "show", place)
    assert code == 0
    assert "wells.occupancy[left]" in out
    assert "main: 320 of 320 draws, 8 chains, 0 broken" in out
    code, out, _ = call(capsys, "show", place, "wells.occ*")
    assert "wells.occupancy[right]" in out
    assert "loss" not in out
    code, _, err = call(capsys, "show", place, "los")
    assert code == 2
    assert "nearest is 'loss'" in err


def test_progress_is_plain_lines_without_a_terminal(finished: Finished) -> None:
    lines = [line for line in finished.err.splitlines() if "draw " in line]
    assert len(lines) == 128 // 8 + 2 * 320 // 16
    assert all("draws/s" in line or "compiled" in line for line in lines)
    assert all("left: " in line or "right: " in line for line in lines[:16])  # phases and their counts
    assert not any("right: " in line for line in lines[16:])
    assert lines[-1].startswith("100%")


def test_a_run_is_never_overwritten(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    place = finished.place
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    code, _, err = call(capsys, "run", TINY, *LONG, "--out", place)
    assert code == 2
    assert "same digest" in err
    assert f"slt resume {place}" in err
    code, _, err = call(capsys, "run", TINY, *LONG, "seed=1", "--out", place)
    assert code == 2
    assert "never overwritten" in err
    assert "same digest" not in err
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    code, _, err = call(capsys, "run", place / "config.yaml")
    assert code == 2
    assert "belongs to a run directory" in err
    assert runs.free_place(config.load(place, ["tiny_model"]), place, fresh=True) == place.with_name("run.2")


def test_an_output_directory_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "run", TINY, "--out", tmp_path / "file" / "run")
    assert code == 2
    assert "cannot be written" in err


def started(place: Path, cwd: Path) -> subprocess.Popen[str]:
    """A run in a process of its own, once its first chunks are saved."""
    command = [sys.executable, "-m", "slt.cli", "run", str(TINY), *LONG, "--out", str(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=cwd, env=environment, text=True, stderr=subprocess.PIPE)
    manifest, deadline = place / "manifest.jsonl", time.monotonic() + 120
    while not (manifest.exists() and manifest.read_text().count('"event":"chunk"') >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def same_data(first: Path, second: Path) -> bool:
    """Whether all that two runs drew is the same, bit by bit."""
    one, other = results.load(first).data, results.load(second).data
    return all(one[name].to_dataset().equals(other[name].to_dataset()) for name in ("main", "wells"))


def test_killed_and_resumed(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process, place = started(tmp_path / "run", tmp_path), tmp_path / "run"
    process.kill()
    process.communicate()
    code, out, _ = call(capsys, "show", place)
    assert code == 3
    assert f"slt resume {place} --allow-import tiny_model" in " ".join(out.split())
    code, _, err = call(capsys, "resume", place)
    assert code == 2
    assert "--allow-import" in err
    code, _, err = call(capsys, "resume", place, "--allow-import", TINY.parent)
    assert code == 0
    assert "draw 8/128" not in err  # nothing is computed again but the chunk in flight
    assert same_data(place, finished.place)


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow)])
def test_stopped_after_its_chunk(how: signal.Signals, code: int, finished: Finished, tmp_path: Path) -> None:
    process = started(tmp_path / "run", tmp_path)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "this chunk is finished and saved first" in err
    assert "Traceback" not in err
    again = shlex.split(err.split("Go on with: ")[1])
    assert again[:2] == ["slt", "resume"]
    args = cli.parse(again[1:])
    runs.resume(tmp_path / args.run, allow_import=args.allow_import)
    assert same_data(tmp_path / "run", finished.place)


@pytest.mark.slow
def test_extended(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "run"
    runs.begin(config.compose(str(TINY), [*LONG, "schedule.draws=160"]), place)
    code, _, err = call(capsys, "extend", place, "schedule.draws=100", "--allow-import", TINY.parent)
    assert code == 2
    assert "above 160" in err
    code, _, _ = call(capsys, "extend", place, "schedule.draws=320", "--allow-import", TINY.parent, "--quiet")
    assert code == 0
    assert same_data(place, finished.place)
    code, out, _ = call(capsys, "compare", place, finished.place)
    assert code == 0
    assert "the configs are the same" in out


def test_compare_names_what_differs(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.begin(config.compose(str(TINY), [*LONG, "seed=1"]), tmp_path / "run")
    code, out, _ = call(capsys, "compare", finished.place, tmp_path / "run")
    assert code == 0
    assert ["seed", "0", "1"] in [line.split() for line in out.splitlines()]
    assert "largest |z|" in out


def test_a_broken_chain_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "run"
    # The posterior is about N(0.45, 0.3^2): within 64 draws some chains pass 1 and some do not.
    breaking = ["model.fails_above=1.0", "grid.n=10", "grid.beta=1", "schedule.chains=8", "start=optimum"]
    code, _, err = call(capsys, "run", TINY, *breaking, "sampler.step_size=0.01", "~parts.wells", "--out", place)
    assert code == 0
    data = results.load(place).data["main"].to_dataset()
    status, delta = data["status"].values.ravel(), data["delta"].values.reshape(8, -1)
    broken = np.flatnonzero(status)
    assert 0 < len(broken) < 8
    code, out, _ = call(capsys, "show", place)
    for chain in broken:
        assert f"chain {chain} broke at draw" in out
        assert f"chain {chain} broke at draw" in err or "more broken chains" in err
    assert np.isfinite(delta[status == 0]).all()


@pytest.mark.slow
def test_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    """Both basins' coefficient at w* = the truth's optimum, at two t, as JSON and as a table."""
    words = ["calibrate", "two_basins/demo", "grid.t=[100,1000]", "--seconds", "2", "--error", "0.02"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["t"] for one in found] == [100, 1000]
    for one in found:  # a quadratic of curvature 40, whose box ends 1 away
        assert abs(one["llc"] - 0.5) < 4 * one["stderr"] < 0.04
        assert one["healthy"]
        assert one["settings"]["sampler"] == "HMC"
    assert cli.main(["calibrate", "two_basins/demo", "grid.t=[-1]"]) == 2
    assert "grid.t" in capsys.readouterr().err


def test_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "run"
    short = ["schedule.draws=32", "grid.beta=1", "~parts.wells", "--out", place, "--quiet"]
    assert call(capsys, "run", TINY, "precision=bf16", *short)[0] == 0
    assert results.load(place).data.attrs["precision"] == "bf16"
    assert config.load(place, ["tiny_model"]).precision == "bf16"
    code, _, err = call(capsys, "run", TINY, "precision=bf8", "--out", tmp_path / "other")
    assert code == 2
    assert "precision" in err


@pytest.mark.standard_promotion  # L-BFGS of optax needs it in double precision
def test_double_precision(tmp_path: Path) -> None:
    made = config.compose(str(TINY), ["x64=true", "schedule.draws=32", "grid.beta=1", "~parts.wells"])
    try:
        run = runs.begin(made, tmp_path / "run")
    finally:
        jax.config.update("jax_enable_x64", False)
    assert run.data["main"]["params.w"].dtype == np.float64
    assert config.load(tmp_path / "run", ["tiny_model"]).x64


STRANGER = """\
import functools
import os
from pathlib import Path

from slt.priors import Normal


def prior():
    Path({mark!r}).touch()
    return Normal(1.0)


half = functools.partial(Normal, 0.5)
"""


@pytest.fixture(scope="module", params=[None, "power_law"], ids=str)
def strangers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A run whose model has a prior of the stranger's own, and the file that calling it leaves."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "stranger.py").write_text(STRANGER.format(mark=str(folder / "called")))
    model = {"_target_": "slt.models.power_law.make", "modes": 2, "q": 2, "prior": {"_target_": "stranger.prior"}}
    sampler = {"_target_": "slt.samplers.HMC", "leapfrogs": 2}
    raw = {"model": model, "grid": {"t": [1.0, 4.0]}, "sampler": sampler, "experiment": request.param}
    raw["schedule"] = {"draws": 8, "burn_in": 2, "chains": 2, "keep_params": 2}
    (folder / "own.yaml").write_text(yaml.safe_dump(raw))
    before = [*sys.path]
    for name, seed in (("run", 0), ("other", 1)):
        runs.begin(config.compose(str(folder / "own.yaml"), [f"seed={seed}"]), folder / name)
    (folder / "called").unlink()
    yield folder / "run", folder / "called"
    sys.path[:] = before
    sys.modules.pop("stranger", None)


def test_no_command_calls_what_a_strangers_run_names(
    strangers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But where --allow-import says so. Commands that take a run directory and are not here fail the test."""
    run, called = strangers
    monkeypatch.syspath_prepend(run.parent)  # it could be imported, as os can
    lines = {
        "show": ["show", run],
        "plot": ["plot", run],
        "report": ["report", run, "--out", "report.html"],
        "compare": ["compare", run, run.with_name("other")],
        "merge": ["merge", run, run.with_name("other"), "--out", "merged"],
        "phases": ["phases", run],
        "resume": ["resume", run],
        "extend": ["extend", run, "schedule.draws=16"],
    }
    choices = next(action.choices for action in cli.parser()._actions if action.dest == "command")
    taking = {name for name in cli.COMMANDS if {"run", "runs"} & {one.dest for one in choices[name]._actions}}
    assert taking == set(lines)
    loaded = results.load(run)
    experiment = loaded.config["experiment"]
    for name, words in lines.items():
        code, _, err = call(capsys, *words)
        assert not called.exists(), name
        refused = name in ("phases", "resume", "extend") or (experiment and name in ("plot", "report"))
        assert code == (2 if refused else 0), (name, err)
        assert ("model.prior._target_ = 'stranger.prior'" in err) == bool(refused)
    assert plots.basins(loaded) == ()
    with pytest.raises(InputError, match="may import only slt"):
        _shared.model(loaded)
    assert not called.exists()
    _shared.model(dataclasses.replace(loaded, config=config.load(run, ["stranger"])))
    assert called.exists()
    called.unlink()
    call(capsys, "plot", run, "--allow-import", run.parent)
    assert called.exists() == (experiment is not None)


@pytest.mark.parametrize(
    "target",
    [
        *("slt.runs.json.loads", "slt.results.subprocess.run", "slt.cli.sampling.os.system", "slt.config.yaml.load"),
        *("slt.models.landau.jnp.save", "slt.priors.Normal.__subclasses__", "slt.plots.save", "slt.cli.main"),
        *("slt.experiments.landau.np.save", "slt.config.nodes.instantiate", "slt.experiments._shared.instantiate"),
        *("stranger.os.system", "stranger.Path.touch", "stranger.functools.partial", "os.system", "slt", 3),
    ],
)
def test_a_walk_from_slt_to_another_module_is_foreign(target: object, strangers: tuple[Path, Path]) -> None:
    for node in ({"_target_": target}, {"_target_": "slt.models.landau.make", "prior": [{"a": {"_target_": target}}]}):
        with pytest.raises(InputError, match="_target_"):
            nodes.trust(node, "model", ["stranger"])
        run = SimpleNamespace(config={"model": node})
        with contextlib.suppress(InputError):
            assert plots.basins(run) == ()
        with pytest.raises(InputError):
            _shared.model(run)


def test_what_slt_and_an_allowed_module_define_is_trusted(strangers: tuple[Path, Path]) -> None:
    own = {"_target_": "slt.models.landau.make", "prior": {"_target_": "stranger.half"}}
    nodes.trust({"a": own, "b": {"_target_": "slt.experiments.landau.square"}}, "", ["stranger"])
    nodes.trust({"_target_": "slt.samplers.SGLD", "_partial_": True})
    with pytest.raises(InputError, match="may import only slt"):
        nodes.trust(own)


@pytest.mark.parametrize("name, said", [("deep_linear", "needs slt.models.deep_linear"), ("ordering", "IndexError")])
def test_an_experiment_that_does_not_suit(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails when all is sampled: what suits any run is there, and the exit code says that something is not."""
    place = tmp_path / "run"
    short = ["schedule.draws=8", "schedule.burn_in=2", "schedule.chunk=4", "grid.beta=1", "~parts", "--quiet"]
    code, out, err = call(capsys, "run", TINY, f"experiment={name}", *short, "--out", place)
    assert code == 1
    assert out.startswith(f"results: {place}")
    assert f"experiment '{name}' does not suit this run" in err
    assert said in err
    run = results.load(place)
    assert run.complete
    assert "loss" in run.quantities
    code, _, err = call(capsys, "report", place, "--allow-import", TINY.parent)
    assert code == (0 if name == "deep_linear" else 1), "it draws nothing of a run that lacks its measures"
    assert (place / "report.html").exists()
    assert call(capsys, "resume", place, "--allow-import", TINY.parent, "--quiet")[0] == 1
