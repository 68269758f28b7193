"""The report of a run: one file that shows everything, escapes everything, and draws its views in a browser."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr
import yaml
from matplotlib.figure import Figure

from slt import cli, config, plots, report
from slt.report import explorer, page
from slt.report.parts import Named
from slt.results import Run, Summary
from slt.typing import InputError, Quantity

EVIL = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">&lt;%{x}$V$"
T, H = [10.0, 30.0, 100.0, 300.0, 1000.0], [0.0, 0.5, 1.0]
TAGS = """html head meta title style body header nav section script noscript h1 h2 h3 p a div span label select table
thead tbody tr th td ul li details summary pre code figure img figcaption b strong"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def quantities() -> dict[str, Quantity]:
    """Two phases that cross at t = 100, over t and over the plane of t and h; a measure alone has its own axis."""
    rise = 1 / (1 + (100 / np.array(T)) ** 2)
    error, wide, plane = np.full(5, 0.01), np.full((5, 3), 0.02), {"t": T, "h": H}
    grid = np.clip(rise[:, None] + 0.2 * np.array(H), 0.01, 0.99)
    return {
        "mass[U]": Quantity(1 - rise, error, {"t": T}),
        f"mass[{EVIL}]": Quantity(rise, error, {"t": T}),
        "free_energy": Quantity(np.log(T), error, {"t": T}),
        "llc[U]": Quantity(np.full(5, 0.25), np.array([0.01, 0.01, 0.01, np.nan, np.nan]), {"t": T}),
        f"llc[{EVIL}]": Quantity(np.array([np.nan, 0.5, 0.5, 0.5, 0.5]), error, {"t": T}),
        f"critical_t[U->{EVIL}]": Quantity(np.array(100.0), np.array(3.0), {}, np.array([94.0, np.inf])),
        "rhat": Quantity(np.array([1.0, 1.01, 1.2, 1.0, 1.0]), np.full(5, np.nan), {"t": T}),
        "ess": Quantity(np.full(5, 40.0), np.full(5, np.nan), {"t": T}),
        "field.mass[A]": Quantity(1 - grid, wide, plane),
        "field.mass[B]": Quantity(grid, wide, plane),
        "field.critical_t[A->B]": Quantity(np.array([100.0, 80.0, 60.0]), np.full(3, 2.0), {"h": H}),
        "field.occupancy[A]": Quantity(np.full((2, 3), 0.5), np.full((2, 3), 0.1), {"beta": ["1", "1/log n"], "h": H}),
    }


def made(tmp_path: Path, **changes: Any) -> Run:
    health = {"draws": 40, "planned": 40, "done": 1.0, "chains": 4, "broken": 1}
    broken = [{"cell": "t = 10", "chain": 3, "draw": 17, "reason": EVIL, "sentence": f"main: chain 3 broke: {EVIL}"}]
    measures = {"training": xr.Dataset({"loss": ("step", [3.0, 2.0, 1.0]), "loss_stderr": ("step", [0.1] * 3),
                                        "name": ("step", np.array([EVIL, "b", "c"], object))},
                                       {"step": [0, 10, 100]}, {"note": EVIL})}  # fmt: skip
    resolved = config.plain(config.compose("two_basins/demo", ["seed=3", "schedule.draws=6000"]))
    attrs = {
        "digest": config.digest(config.structured(resolved)),
        "seed": 3,
        "config": "{}",
        "git": json.dumps({"revision": "0123abc", "dirty": True}),
        "versions": json.dumps({"jax": EVIL}),
    }
    groups = {name: xr.Dataset(attrs={"complete": True}) for name in ("main", "field")}
    run = Run(
        path=tmp_path / "run",
        data=xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups}),
        config=resolved,
        summary=Summary(quantities(), {}, 12.0, attrs["digest"]),
        health={"main": health | {"broken_chains": broken}, "field": health | {"broken_chains": [], "broken": 0}},
        measures={name: xr.Dataset() for name in resolved["measures"]} | measures,
    )
    return dataclasses.replace(run, **changes)


def picture() -> Figure:
    figure = Figure(figsize=(1, 1), label=f"caption {EVIL}")
    figure.subplots().plot([0, 1], [0, 1])
    return figure


class Page(HTMLParser):
    """Tags in order, text outside scripts, JSON of the data script, programs."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.json, self.programs = "", "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script" and "type" not in dict(attrs):
            self.programs.append("")

    def handle_data(self, data: str) -> None:
        inside = self.lasttag == "script"
        if inside and self.tags[-1][1].get("type") == "application/json":
            self.json += data
        elif inside and self.programs:
            self.programs[-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    place = tmp_path_factory.mktemp("report")
    path = report.write(made(place), {"mass": picture(), EVIL: picture()}, place / "report.html")
    return path, Page(path.read_text(encoding="utf-8"))


def test_one_file_that_loads_nothing_else(whole: tuple[Path, Page]) -> None:
    path, found = whole
    assert path.stat().st_size < 8e6
    for tag, attrs in found.tags:
        assert tag in TAGS.split()
        assert not any(name.startswith("on") for name in attrs), "no handler in an attribute"
        assert (attrs.get("src") or "data:image/png;").startswith("data:image/png;")
        assert (attrs.get("href") or "#").startswith("#")
    policy = next(attrs["content"] for _, attrs in found.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert policy.count("sha256-") == 2
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_nothing_from_the_run_breaks_out(whole: tuple[Path, Page]) -> None:
    _, found = whole
    assert [attrs.get("id") for tag, attrs in found.tags if tag == "script"] == ["views", None, None]
    assert [attrs["alt"] for tag, attrs in found.tags if tag == "img"] == [f"caption {EVIL}"] * 2
    assert found.text.count(EVIL) > 8, "it is shown as it is: in tables, captions, health, provenance, measures"
    assert len(found.programs) == 2
    assert all(EVIL not in program for program in found.programs)
    assert not set("<>&") & set(found.json)


def test_views_are_figures_of_plotly(whole: tuple[Path, Page]) -> None:
    views = json.loads(whole[1].json)
    assert len({(view["group"], view["title"]) for view in views}) == len(views)
    for view in views:
        go.Figure({"data": view["data"], "layout": view["layout"]})  # validates every property
    first = views[0]
    assert (first["group"], first["title"]) == ("main", "phases against t")
    labels = [first["layout"][key]["title"]["text"] for key in ("yaxis", "yaxis2", "yaxis3")]
    assert labels == ["posterior mass", "F (nats)", "LLC λ̂"]
    plain = html.escape(EVIL, quote=False)
    assert {"U", plain, "all draws", f"critical_t[U-&gt;{plain}]"} == {trace["name"] for trace in first["data"]}
    said = [text for trace in first["data"] for text in trace["hovertext"]]
    assert "mass[U] = 0.500 ± 0.010" in said
    assert any(text.startswith(f"free_energy[{plain}] = ") for text in said)
    assert f"critical_t[U-&gt;{plain}] = 100.0 ± 3.0, 90 % interval 94 to open" in said
    assert first["layout"]["xaxis"]["type"] == "log"
    (band,) = first["layout"]["shapes"]
    assert (band["x0"], band["x1"]) == (94.0, 1000.0), "an open end reaches to the edge"
    assert not any("hovertemplate" in trace or "texttemplate" in trace for view in views for trace in view["data"])


def test_a_plane_shows_the_leading_phase_and_the_line_between() -> None:
    views = {(v.group, v.title): v for v in explorer.views(quantities(), ["main", "field"])}
    plane = views["part field", "plane of h and t"]
    field, line = plane.data
    assert np.array(field["z"]).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert field["hovertext"][2][1] == "h = 0.5, t = 100<br>mass[A] = 0.400 ± 0.020<br>mass[B] = 0.600 ± 0.020"
    assert line["x"] == H
    assert line["y"] == [100.0, 80.0, 60.0]
    assert np.allclose(line["error_y"]["array"], 1.6449 * 2)
    cut = views["part field", "phases against t, h = 1"]
    assert [one["x"][0] for one in cut.data if "critical" in one["name"]] == [60.0]
    assert ("part field", "phases against h, beta = 1/log n") in views


def test_names_are_taken_apart() -> None:
    assert Named.of("population.mass[4 family]", ["main", "population"]) == ("population", "mass", "4 family")
    assert Named.of("main.thing", ["main"]) == ("", "main.thing", "")
    assert Named.of("critical_n[5->6]", []) == ("", "critical_n", "5->6")


def test_says_what_it_holds(whole: tuple[Path, Page]) -> None:
    text = whole[1].text
    assert "slt run two_basins/demo" in text
    assert "schedule.draws=6000" in text
    assert "git checkout 0123abc" in text
    assert "R-hat of the loss is above" in text
    assert "fewer than 100 effective draws" in text
    assert f"critical_t[U->{EVIL}] = 100.0 ± 3.0, 90 % interval 94 to openfield.critical_t[A->B] = 100.0 ± 2.0" in text
    assert "_target_: slt.models.two_basins.make" in text
    assert "not finished" not in text
    titles = ["Results", "Explore", "Figures", "Health", "All quantities", "Measures", "Config", "Provenance"]
    assert re.findall("|".join(titles), text)[: len(titles)] == titles


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = made(tmp_path, summary=None, measures={})
    run.data["main"].attrs["complete"] = False
    run.health["main"].update(draws=10, done=0.25)
    found = Page(report.html(run, {}))
    told = "main: 10 of 40 draws; measures to come: transition, barriers, hysteresis. slt resume run makes the rest."
    assert f"This run is not finished. {told} It has no summary" in found.text
    assert not found.programs, "no views, no library"


def test_only_a_report_is_written_over(tmp_path: Path) -> None:
    run = made(tmp_path, summary=None)
    path = report.write(run, {}, tmp_path / "new" / "report.html")
    report.write(run, {}, path)
    other = tmp_path / "notes.html"
    other.write_text("mine")
    with pytest.raises(InputError, match="no report of slt"):
        report.write(run, {}, other)
    assert other.read_text() == "mine"
    with pytest.raises(InputError, match="is a directory"):
        report.write(run, {}, tmp_path)
    assert sorted(one.name for one in path.parent.iterdir()) == ["report.html"]


def test_markup_is_escaped_unless_it_is_markup() -> None:
    assert (
        page.tag("p", "<b>", page.tag("i", "&"), title='"', class_="x")
        == '<p title="&quot;" class="x">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert json.loads(Page(page.data("d", [np.nan, {"</script>": np.float64(2)}])).json) == [None, {"</script>": 2.0}]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It draws by the run's experiment, as slt plot does, and tells an unfinished run by its exit code."""
    run = made(tmp_path)
    monkeypatch.setattr("slt.results.load", lambda path: run)
    monkeypatch.setattr(
        "slt.config.experiment", lambda made, allow: SimpleNamespace(figures=lambda run: {"one": picture()})
    )
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "mine.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'mine.html'}\n"
    assert [attrs["id"] for tag, attrs in Page((tmp_path / "mine.html").read_text()).tags if tag == "img"] == [
        "figure-one"
    ]
    run.data["main"].attrs["complete"] = False
    assert cli.main(["report", str(tmp_path / "run")]) == 3
    assert (tmp_path / "run" / "report.html").exists()


def test_a_phase_that_the_draws_do_not_know(tmp_path: Path) -> None:
    """A summary may be of an earlier rule: its phases are drawn, in colours after those that the draws know."""
    t = [1.0, 10.0]
    coords = {"t": t, "chain": [0, 1], "draw": np.arange(6), "burn_in": ("draw", np.arange(6) < 2)}
    dims = ("t", "chain", "draw")
    data = xr.Dataset({"delta": (dims, np.ones((2, 2, 6))), "status": (dims[:2], np.zeros((2, 2), int))}, coords)
    data["phase"] = (dims, np.zeros((2, 2, 6), np.int8), {"names": ["U"], "rule": "sign"})
    halves = {f"mass[{name}]": Quantity(np.full(2, 0.5), np.full(2, 0.1), {"t": t}) for name in ("other", "U")}
    data.attrs["complete"] = True
    run = made(tmp_path, data=xr.DataTree.from_dict({"/": xr.Dataset(), "main": data}))
    for known in (data, data.drop_vars("phase")):
        run = dataclasses.replace(
            run,
            data=xr.DataTree.from_dict({"/": xr.Dataset(), "main": known}),
            summary=Summary(halves, {}, 1.0, ""),
        )
        figure = plots.share_figure(run, "main")
        assert figure is not None
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {"other", "U"}
    assert report.html(run, {"phases": figure})


def test_in_a_browser(whole: tuple[Path, Page], tmp_path: Path) -> None:
    """Headless Chromium without a network draws the first view, and runs nothing that came from the run."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is on the path")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}", "--virtual-time-budget=30000"]
    command = [browser, *options, *offline, "--dump-dom", whole[0].as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = Page(done.stdout)
    assert next(attrs for tag, attrs in found.tags if tag == "body")["data-drawn"] == "0", done.stderr
    assert "<title>two_basins/demo: report of slt</title>" in done.stdout
    options_ = [attrs["value"] for tag, attrs in found.tags if tag == "option"]
    assert options_ == [str(k) for k in range(len(json.loads(whole[1].json)))]
    curves = [attrs for _, attrs in found.tags if (attrs.get("class") or "").startswith("trace scatter")]
    assert len(curves) == len(json.loads(whole[1].json)[0]["data"])
    assert "Content Security Policy" not in done.stderr


def test_the_command_names_itself_in_yaml(tmp_path: Path) -> None:
    """What is shown as config is YAML that reads back as the config."""
    run = made(tmp_path)
    assert yaml.safe_load(report._config(run)) == run.config
