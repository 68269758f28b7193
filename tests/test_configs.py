"""Every config under configs/ that runs by itself does run, at the size of --smoke, to its summary and all its figures.

New configs are found by looking. The numbers that their headers promise are the business of their experiments' tests.
"""

import functools
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from slt import config, runs
from slt.cli import catalogue, commands
from slt.config import Listed
from slt.plots import draw

RUNS, OPTIONS = config.listed()
SMALL = [pytest.param(one, marks=[] if one.name == "superposition/demo" else [pytest.mark.slow]) for one in RUNS]
HEADINGS = ("Purpose", "Command", "Device", "Expect")


def header(path: Path) -> dict[str, str]:
    """The comment a config begins with, by heading; a heading's text goes on until the next."""
    text = ""
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("#"):
            break
        text += line.removeprefix("#") + "\n"
    parts = re.split(r"^ ([A-Z]\w+):", text, flags=re.MULTILINE)
    assert parts[0].strip() == "", f"{path.name}: the header begins with a heading"
    return {name: " ".join(said.split()) for name, said in zip(parts[1::2], parts[2::2], strict=True)}


def check_header(entry: Listed) -> None:
    """Its header says what it is for, how to run it, how long that takes, and what to expect."""
    assert entry.path.read_text(encoding="utf-8").startswith("# @package _global_\n")
    said = header(entry.path)
    assert tuple(said) == HEADINGS, entry.name
    assert said["Command"] == f"slt run {entry.name}"
    assert re.search(r"\b(CPU|GPU)", said["Device"])
    assert re.search(r"\d+ (s|min|minutes?|h|hours?)\b|a minute\b", said["Device"]), "how long does it take?"
    assert re.search(r"\d", said["Expect"]), "name a number, so that one can tell whether it worked"
    assert entry.summary


def check_run(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, at smoke size, to a whole summary and every figure that its experiment has."""
    made = config.smoke(config.compose(name))
    run = runs.begin(made, place)
    assert run.complete
    assert set(run.data.children) == {
        prefix.removeprefix("parts.").rstrip(".") or "main" for prefix, _ in config.sweeps(made)
    }
    check_summary(place, made)
    monkeypatch.setitem(draw.RC, "savefig.dpi", 50)  # only that they are drawn matters here
    drawn = _watched(made, monkeypatch)
    commands.draw(run, made)
    files = {path.name for path in (place / "figures").iterdir()}
    stems = {Path(file).stem for file in files}
    assert stems
    assert files == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert all((place / "figures" / file).stat().st_size > 1000 for file in files)
    missing = [figure for figure, outcomes in drawn.items() if not any(isinstance(one, Figure) for one in outcomes)]
    only = getattr(config.experiment(made), "ONLY", {})  # the demo draws all but these, which name who does
    kind = name.split("/")[1]
    wanted = [one for one in drawn if (kind in only[one] if one in only else kind == "demo")]
    assert [one for one in missing if one in wanted] == [], "figures of the experiment that this run should draw"


def _watched(made: config.RunConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each function of the run's experiment that draws a figure returns from now on, by name."""
    home, drawn = config.experiment(made), {}

    def watch(name: str, fn: Any) -> Any:
        @functools.wraps(fn)
        def watched(*args: Any, **named: Any) -> Any:
            figure = fn(*args, **named)
            drawn[name].append(figure)
            return figure

        return watched

    for name, fn in vars(home).copy().items() if home is not None else ():
        if not inspect.isfunction(fn) or fn.__module__ != getattr(home, "__name__", None):
            continue
        if str(inspect.signature(fn, eval_str=True).return_annotation).endswith(("Figure'>", "Figure | None")):
            drawn[name] = []
            monkeypatch.setattr(home, name, watch(name, fn))
    return drawn


def check_summary(place: Path, made: config.RunConfig) -> None:
    """summary.json has the shape that docs/format.md tells programs of, in plain JSON."""
    text = (place / "summary.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda odd: pytest.fail(f"{odd} is no JSON"))
    assert set(found) == {"quantities", "health", "wall_s", "digest", "checksum"}
    assert found["digest"] == config.digest(made)
    assert found["wall_s"] > 0
    parts = [prefix.removeprefix("parts.").rstrip(".") or "main" for prefix, _ in config.sweeps(made)]
    losses = ["loss" if part == "main" else f"{part}.loss" for part in parts]
    assert set(losses) <= set(found["quantities"])
    assert found["quantities"]
    for name, one in found["quantities"].items():
        assert set(one) in ({"value", "stderr", "coords"}, {"value", "stderr", "coords", "interval"}), name
        shape = tuple(len(values) for values in one["coords"].values())
        for key in ("value", "stderr"):
            assert np.array(one[key], float).shape == shape, f"{name} {key}"
        if "interval" in one:
            assert np.array(one["interval"], float).shape == (*shape, 2), f"{name} interval"
    for name in losses:
        loss = np.ravel(np.array(found["quantities"][name]["value"], float))
        assert np.isfinite(loss).any(), f"{name}: every chain broke"
    assert set(found["health"]) == set(parts)
    for part, health in found["health"].items():
        assert health["draws"] == health["planned"] > 0
        assert health["broken"] == len(health["broken_chains"]) == 0, f"{part}: chains broke"


def test_every_folder_of_an_experiment_holds_what_can_be_run() -> None:
    assert len(RUNS) >= 2
    experiments = {item.name for item in catalogue.experiments()}
    assert {entry.name.split("/")[0] for entry in RUNS} == experiments, "an experiment without a config, or the reverse"
    lost = [entry.name for entry in OPTIONS if entry.name.split("/")[0] in experiments]
    assert lost == [], "these lack the line '# @package _global_' and cannot be run"


@pytest.mark.parametrize("entry", RUNS, ids=lambda entry: entry.name)
def test_header(entry: Listed) -> None:
    check_header(entry)


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_runs_and_draws_all_its_figures(entry: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_run(entry.name, tmp_path / "run", monkeypatch)


@pytest.mark.parametrize("entry", OPTIONS, ids=lambda entry: entry.name)
def test_option_of_a_group_says_what_it_is_and_can_be_made(entry: Listed) -> None:
    text = entry.path.read_text(encoding="utf-8")
    assert re.match(r"# \S.{20,}", text), "one sentence at the top, for slt list"
    assert config.instantiate(yaml.safe_load(text), entry.name.split("/")[0]) is not None
