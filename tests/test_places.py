"""Run directories on a disk and in an object store, by the same code: written, killed, resumed, extended, damaged."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from slt import cli, config, results, runs
from slt.results import place
from slt.typing import InputError

TINY = Path(__file__).resolve().parent / "tiny" / "tiny.yaml"
SHORT = ["schedule.draws=12", "schedule.burn_in=2", "schedule.chunk=4", "schedule.keep_params=4",
         "parts.wells.schedule.draws=12", "parts.wells.schedule.burn_in=2", "parts.wells.schedule.chunk=4"]  # fmt: skip


@pytest.fixture(scope="module", params=["file", pytest.param("memory", marks=pytest.mark.slow)])
def root(request, tmp_path_factory):
    """A folder as a URL."""
    return f"file://{tmp_path_factory.mktemp('disk')}" if request.param == "file" else "memory://bucket/runs"


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(TINY.parent)])


@pytest.fixture(scope="module")
def whole(root):
    """The run that nothing disturbed."""
    sys.path.insert(0, str(TINY.parent))
    return runs.begin(config.compose(str(TINY), SHORT), place(f"{root}/whole"))


def same(one, other):
    return all(one.data[name].to_dataset().equals(other.data[name].to_dataset()) for name in ("main", "wells"))


class Killed(BaseException):
    """Stands for kill -9: nothing is tidied up by it but what `with` does."""


class Killer:
    """Raises after so many chunks."""

    def __init__(self, after):
        self.left = after

    def __call__(self, part, chunk):
        self.left -= 1
        if self.left == 0:
            raise Killed

    def measured(self, name, piece):
        pass


def test_a_run_lies_where_its_url_says(root, whole):
    assert whole.complete
    files = {path.name for path in place(f"{root}/whole").iterdir()}
    assert {"config.yaml", "data.zarr", "manifest.jsonl", "summary.json"} <= files
    assert "lock" not in files
    assert np.isfinite(whole.data["main"]["delta"].values).all()
    assert results.load(f"{root}/whole", verify=True).quantities.keys() == whole.quantities.keys()


def test_killed_resumed_and_extended(root, whole):
    import contextlib

    here = place(f"{root}/killed")
    with pytest.raises(Killed):
        runs.begin(config.compose(str(TINY), SHORT), here, lambda parts: contextlib.nullcontext(Killer(4)))
    assert not results.load(here).complete
    assert same(runs.resume(here, allow_import=["tiny_model"]), whole)
    longer = runs.extend(here, ["schedule.draws=18"], allow_import=["tiny_model"])
    assert longer.health["main"]["draws"] == 18
    np.testing.assert_array_equal(
        longer.data["main"]["delta"].values[..., :12], whole.data["main"]["delta"].values[..., :12]
    )


def test_damage_is_named_and_mended(root, whole):
    here = place(f"{root}/damaged")
    runs.begin(config.compose(str(TINY), SHORT), here)
    chunk = next(path for path in (here / "data.zarr" / "main" / "delta" / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(InputError, match="delta"):
        results.load(here, verify=True)
    assert same(runs.resume(here, allow_import=["tiny_model"]), whole)


def test_one_writer_at_a_time(root, whole):
    here = place(f"{root}/held")
    runs.begin(config.compose(str(TINY), SHORT), here)
    import os
    import socket

    from slt.results.manifest import lock, unlock

    lock(here)
    with pytest.raises(InputError, match="in use"):
        runs.resume(here, allow_import=["tiny_model"])
    unlock(here)
    (here / "lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": "long ago"}))
    assert same(runs.resume(here, allow_import=["tiny_model"]), whole)
    assert not (here / "lock").exists()


def test_never_overwritten(root, whole):
    with pytest.raises(InputError, match="same digest"):
        runs.free_place(config.compose(str(TINY), SHORT), place(f"{root}/whole"))
    assert runs.free_place(config.compose(str(TINY), SHORT), place(f"{root}/whole"), fresh=True).name == "whole.2"


def test_the_command_line_takes_urls(root, capsys):
    where = f"{root}/told"
    assert cli.main(["run", str(TINY), *SHORT, "--out", where]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("results: ")
    assert list((place(where) / "figures").glob("*.png"))
    assert cli.main(["show", where]) == 0
    assert "12 of 12 draws" in capsys.readouterr().out
    assert cli.main(["resume", where, "--allow-import", str(TINY.parent)]) == 0


def test_urls_that_lead_nowhere(capsys):
    assert cli.main(["run", str(TINY), *SHORT, "--out", "nosuch://bucket/run"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_a_local_path_stays_a_path(tmp_path):
    assert place(tmp_path) is tmp_path
    assert isinstance(place(f"file://{tmp_path}"), Path)
    assert not isinstance(place("memory://a/b"), Path)
    assert isinstance(place("memory://a/b"), UPath)


@pytest.mark.slow
def test_every_command_takes_an_object_store(tmp_path, capsys):
    """Each command, of whose paths each is a URL: what it writes lies there, and nothing here."""
    at, allow = "memory://bucket/all", ["--allow-import", str(TINY.parent)]
    small = [*SHORT, "~parts"]
    lines = {
        "run": [["run", str(TINY), *small, "--out", f"{at}/one"],
                ["run", str(TINY), *small, "seed=1", "--out", f"{at}/two"]],
        "resume": [["resume", f"{at}/one", *allow]],
        "extend": [["extend", f"{at}/two", "schedule.draws=16", *allow]],
        "show": [["show", f"{at}/one"]],
        "plot": [["plot", f"{at}/one"]],
        "report": [["report", f"{at}/one"], ["report", f"{at}/one", "--out", f"{at}/reports/one.html"]],
        "phases": [["phases", f"{at}/one", *allow]],
        "compare": [["compare", f"{at}/one", f"{at}/two"]],
        "sweep": [["sweep", str(TINY), "seed=2,3", *small, "--out", f"{at}/sweep"],
                  ["sweep", str(TINY), "seed=2,3", *small, "--out", f"{at}/single", "--only", "1"]],
        "merge": [["merge", f"{at}/one", f"{at}/two", f"{at}/sweep", "--out", f"{at}/merged"]],
    }  # fmt: skip
    places = {"run", "other", "runs", "out"}
    own = [name for name, one in subcommands().items() if places & {action.dest for action in one._actions}]
    assert set(lines) == set(own)
    for words in (words for each in lines.values() for words in each):
        assert cli.main(words) == 0, capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    wanted = ["one/report.html", "reports/one.html", "sweep/sweep.json", "sweep/seed=3/manifest.jsonl"]
    wanted += ["single/seed=3/summary.json", "merged/runs.json", "merged/summary.json", "merged/data.zarr/zarr.json"]
    assert [name for name in wanted if not place(f"{at}/{name}").is_file()] == []
    assert not place(f"{at}/single/seed=2").exists()
    assert results.read_summary(f"{at}/merged").quantities["loss"].coords["run"]
    capsys.readouterr()
    assert cli.main(["sweep", str(TINY), "seed=2,3", "launcher=workers", "--out", f"{at}/launched"]) == 2
    assert "needs a folder" in capsys.readouterr().err
    for words in (["merge", f"{at}/none", "--out", f"{at}/m"], ["report", f"{at}/none"], ["phases", f"{at}/none"]):
        assert cli.main(words) == 2
    assert cli.main(["merge", f"{at}/one", "--out", f"{at}/merged"]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def subcommands():
    """The parsers of the commands by name."""
    choices = next(action.choices for action in cli.parser()._actions if action.dest == "command")
    return {name: choices[name] for name in cli.COMMANDS}


def test_merged_by_urls(root, whole, tmp_path, capsys):
    assert cli.main(["merge", f"{root}/whole", "--out", f"{root}/merged"]) == 0
    assert {path.name for path in place(f"{root}/merged").iterdir()} == {"data.zarr", "runs.json", "summary.json"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["report r --out file:/x", "show memory:/b/r", "merge s3:/b --out m"])
def test_what_was_meant_as_a_url_is_no_folder(line, tmp_path, capsys):
    assert cli.main(line.split()) == 2
    assert "a URL begins" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
