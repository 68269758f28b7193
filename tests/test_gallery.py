"""The gallery: every demo is found, finished runs are not run again, the page shows what a run found."""

import dataclasses
import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from slt import config
from slt.results import Run, Summary
from slt.typing import Quantity

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "scripts" / "gallery.py")
assert SPEC is not None
assert SPEC.loader is not None
gallery: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)


def found(path: Path) -> Run:
    """A finished run of two_basins/demo that was never sampled."""
    t = {"t": [10.0, 100.0, 1000.0]}
    quantities = {
        "loss": Quantity(np.array([3.0, 2.0, 1.0]), np.full(3, 0.1), t),
        "mass[V]": Quantity(np.array([0.1, 0.5, 0.9]), np.full(3, 0.01), t),
        "critical_t[U->V]": Quantity(np.array(290.0), np.array(4.0), {}, np.array([284.0, 297.0])),
        "rhat": Quantity(np.ones(3), np.full(3, np.nan), t),
    }
    data = xr.DataTree.from_dict({"/": xr.Dataset(), "main": xr.Dataset(attrs={"complete": True})})
    made = config.plain(config.compose("two_basins/demo"))
    measures = {name: xr.Dataset() for name in made["measures"]}
    return Run(path, data, made, Summary(quantities, {}, 41.2, "d"), {}, measures)


def picture(name: str) -> Figure:
    figure = Figure(figsize=(3, 2), label=f"What {name} shows.")
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def test_every_demo_is_in_the_gallery_and_no_paper_config() -> None:
    names = [one.name for one in gallery.entries(Path("runs"))]
    listed = [one.name for one in config.listed()[0]]
    assert {name for name in listed if name.endswith("/demo")} <= set(names) <= set(listed)
    assert not [name for name in names if "paper" in name]


def test_a_header_by_its_headings() -> None:
    text = "# @package _global_\n# Purpose:  one\n#           two: three\n# Expect:   4\nmodel: {}  # Device: no\n"
    assert gallery.header(text) == {"Purpose": "one two: three", "Expect": "4"}


def test_images_are_small() -> None:
    content = gallery.small(picture("it"))
    assert len(content) < 20_000
    assert Image.open(io.BytesIO(content)).size == (450, 300)


def test_numbers_are_those_asked_for_else_transitions() -> None:
    run = found(Path("run"))
    assert list(gallery.numbers(run, ())) == ["`critical_t[U->V]` = 290.0 ± 4.0, 90 % interval 284 to 297"]
    said = "`mass[V]` = 0.100 ± 0.010  at t = 10, 0.500 ± 0.010  at t = 100, 0.900 ± 0.010  at t = 1000"
    assert list(gallery.numbers(run, ["mass[*"])) == [said]
    del run.quantities["critical_t[U->V]"]
    assert [line.split("`")[1] for line in gallery.numbers(run, ())] == ["loss", "mass[V]"]


@pytest.mark.slow
def test_runs_what_is_missing_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def sample(entry: Any, smoke: bool) -> bool:
        started.append((entry.name, smoke))
        entry.run.mkdir(parents=True)
        return entry.name != "landau/demo"

    def load(path: Path) -> Run:
        run = found(path)
        return dataclasses.replace(run, summary=None) if "landau" in path.name else run

    home = SimpleNamespace(GALLERY=("mass", "gone"), figures=lambda run: {n: picture(n) for n in ("loss", "mass")})
    monkeypatch.setattr(gallery, "sample", sample)
    monkeypatch.setattr(gallery.results, "load", load)
    monkeypatch.setattr(gallery.config, "experiment", lambda made: home)
    folders = ["--runs", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]
    assert gallery.main(["two_basins", "landau", *folders]) == 1
    assert started == [("landau/demo", False), ("two_basins/demo", False)]
    assert "failed: landau/demo" in capsys.readouterr().err
    page = (tmp_path / "docs" / "gallery.md").read_text(encoding="utf-8")
    mine = page.split("## two_basins/demo")[1].split("\n## ")[0]
    assert "![mass](images/gallery/two_basins-demo-mass.png)\n\n*mass*: What mass shows." in mine
    assert "- `critical_t[U->V]` = 290.0 ± 4.0, 90 % interval 284 to 297" in mine
    assert "t\\_c = 294.1 (exact)" in mine
    assert "(this run: 41 s)" in mine
    assert "Not run yet." in page.split("## landau/demo")[1].split("\n## ")[0]
    assert [path.name for path in (tmp_path / "docs" / "images" / "gallery").iterdir()] == ["two_basins-demo-mass.png"]
    assert gallery.main(["two_basins", *folders]) == 0
    assert len(started) == 2, "a finished run is not run again"
    with pytest.raises(SystemExit):
        gallery.main(["nothing", *folders])


def test_one_command() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ngallery: $(VENV)/.slt\n\t$(BIN)/python scripts/gallery.py $(GALLERY)\n" in makefile
