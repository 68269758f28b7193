"""A run as one HTML file: its figures, quantities, health, config and provenance, and its phase diagram to explore.

The file needs nothing but a browser: no network, no other file. Whatever comes from the run is shown, never executed.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
import yaml
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from slt.plots import draw
from slt.report import explorer, page, reproduce
from slt.report.page import Html, details, table, tag
from slt.report.parts import CRITICAL, Named, interval, sentence
from slt.results import Run
from slt.results.place import replace
from slt.results.words import drifting, estimate, label, main_names, points
from slt.typing import InputError, Quantity

MARK = "slt-report"
"""The name of the page's generator: what tells a report, which may be written anew, from any other file."""
BROKEN, LARGE = 50, 4000
"""Broken chains that are named at most; numbers of a quantity or of a measure's variable that are printed at most."""
RHAT, ESS = 1.05, 100
"""Beyond these a part's health asks for a look."""


def write(run: Run, figures: Mapping[str, Figure], out: Path, *, allow_import: Sequence[str] = ()) -> Path:
    """Write the report of a run to `out`, replaced whole; InputError where that is a directory or no report of slt."""
    if out.is_dir():
        raise InputError("out", str(out), "is a directory: name the HTML file")
    if out.exists() and MARK not in out.read_bytes()[:4000].decode(errors="replace"):
        raise InputError("out", str(out), "exists, and is no report of slt: give another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace(out, html(run, figures, allow_import=allow_import).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError("out", str(out), f"cannot be written: {error.strerror or error}") from error
    return out


def html(run: Run, figures: Mapping[str, Figure], *, allow_import: Sequence[str] = ()) -> str:
    """The report of a run as HTML. figures: by name, their label as caption. allow_import: see reproduce.command."""
    name = "/".join(str(run.config[key]) for key in ("experiment", "name") if run.config.get(key)) or run.path.name
    parts = [str(part) for part in run.data.children]
    everything = dict(run.quantities)
    for measure, data in run.measures.items():
        everything |= _as_quantities(measure, data)
    views = explorer.views(everything, [*parts, *run.measures])
    sections = {
        "Results": _results(run.quantities, parts),
        "Explore": _explore(views),
        "Figures": [page.picture(_png(figure), str(figure.get_label()), key) for key, figure in figures.items()],
        "Health": list(_health(run)),
        "All quantities": [details(key, _whole(key, one)) for key, one in run.quantities.items()],
        "Measures": [details(key, *_measure(data)) for key, data in run.measures.items()],
        "Config": [details("the resolved config", page.code(_config(run)))],
        "Provenance": [_provenance(run)],
        "How to reproduce": list(_reproduce(run, allow_import)),
    }
    sections = {title: [one for one in made if one is not None] for title, made in sections.items()}
    sections = {title: made for title, made in sections.items() if made}
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    body = [
        tag("header", tag("h1", name), tag("p", *_state(run), class_="state")),
        tag("nav", *(tag("a", title, href=f"#{anchor}") for title, anchor in anchors.items())),
        *(tag("section", tag("h2", title), *made, id=anchors[title]) for title, made in sections.items()),
        page.data("views", [view._asdict() for view in views]),
    ]
    return page.document(f"{name}: report of slt", MARK, STYLE, body, [get_plotlyjs(), SCRIPT] if views else [])


def _state(run: Run) -> Iterator[Any]:
    """How far the run has come."""
    if not run.complete:
        short = [f"{part}: {h['draws']} of {h['planned']} draws" for part, h in run.health.items() if h["done"] < 1]
        missing = [name for name in run.config.get("measures") or {} if name not in run.measures]
        rest = "; ".join([*short, *([f"measures to come: {', '.join(missing)}"] if missing else [])])
        yield tag("strong", "This run is not finished. ", class_="warn")
        yield f"{rest}. slt resume {run.path.name} makes the rest. "
    if run.summary is None:
        yield "It has no summary yet. "
    elif not math.isnan(run.summary.wall_s):
        yield f"Sampled and measured in {run.summary.wall_s:.0f} s. "
    if run.summary is not None and run.summary.digest != run.data.attrs.get("digest"):
        yield tag("strong", "Its summary is of an earlier config: slt resume writes it anew. ", class_="warn")
    yield f"Digest {str(run.data.attrs.get('digest', ''))[:16]}."


def _results(quantities: Mapping[str, Quantity], parts: Sequence[str]) -> list[Html]:
    """Transitions first, then a line for each result."""
    critical, lines = [], []
    for name in main_names(quantities):
        one = quantities[name]
        known = [point for point in points(one) if math.isfinite(point.value)]
        if Named.of(name, parts).family.startswith(CRITICAL) and len(known) <= 20:
            critical += [
                tag("li", sentence(name, p.value, p.stderr, ends), f" at {_at(p.where)}" if p.where else "")
                for p, ends in zip(points(one), interval(one).reshape(-1, 2), strict=True)
                if math.isfinite(p.value)
            ]
        picks = known if len(known) < 3 else [known[0], known[len(known) // 2], known[-1]]
        if picks:
            axes = ", ".join(f"{axis}: {len(values)}" for axis, values in one.coords.items())
            lines.append([name, axes, *map(str, picks), *[""] * (3 - len(picks))])
    found = [tag("h3", "Transitions"), tag("ul", *critical)] if critical else []
    note = tag("p", "Values ± one standard error, at the first, the middle and the last point of their axes.")
    return [*found, note, table(("quantity", "axes", "first", "middle", "last"), lines)] if lines else found


def _at(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} = {label(value)}" for axis, value in where.items())


def _explore(views: Sequence[explorer.View]) -> list[Html]:
    if not views:
        return []
    more = " Only the first views are here." if len(views) == explorer.MOST else ""
    return [
        tag("p", tag("label", "View: ", tag("select", id="view")), " ", tag("span", more, id="about")),
        tag("div", id="plot"),
        tag("noscript", "The figures to explore need JavaScript; the sections below do not."),
    ]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(draw.RC):
        figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _health(run: Run) -> Iterator[Html]:
    rows, notes = [], []
    for part, health in run.health.items():
        prefix = "" if part == "main" else f"{part}."
        rhat, ess, rate = (_finite(run.quantities, prefix + name) for name in ("rhat", "ess", "acceptance"))
        worst = f"{rhat.max():.3f}" if rhat.size else "-"
        least = f"{ess.min():.0f}" if ess.size else "-"
        rates = f"{rate.min():.2f} to {rate.max():.2f}" if rate.size else "-"
        rows.append([part, health["draws"], health["planned"], health["chains"], health["broken"], worst, least, rates])
        if rhat.size and rhat.max() > RHAT:
            notes.append(
                f"{part}: R-hat of the loss is above {RHAT} somewhere: chains disagree, or are in other phases."
            )
        if ess.size and ess.min() < ESS:
            notes.append(f"{part}: fewer than {ESS} effective draws of the loss somewhere: errors are rough there.")
        notes += drifting(run.quantities, part)
    if not rows:
        return
    heads = ("part", "draws", "planned", "chains", "broken", "worst R-hat", "least ESS", "acceptance")
    yield table(heads, rows)
    broken = [chain["sentence"] for health in run.health.values() for chain in health["broken_chains"]]
    more = [f"and {len(broken) - BROKEN} more broken chains"] if len(broken) > BROKEN else []
    yield tag("ul", *(tag("li", text, class_="warn") for text in [*notes, *broken[:BROKEN], *more]))


def _finite(quantities: Mapping[str, Quantity], name: str) -> np.ndarray:
    values = np.asarray(quantities[name].value, float) if name in quantities else np.empty(0)
    return values[np.isfinite(values)]


def _whole(name: str, one: Quantity) -> Html:
    """Every number of a quantity, its error, its interval where it has one."""
    heads = [*one.coords, name, "± 1 s.e."] + (["90 % interval"] if one.interval is not None else [])
    ends = interval(one).reshape(-1, 2)
    rows = []
    for point, (low, high) in zip(points(one)[:LARGE], ends, strict=False):
        row = [*map(label, point.all.values()), estimate(point.value, math.nan), f"{point.stderr:.2g}"]
        rows.append(row + ([f"{low:.4g} to {high:.4g}"] if one.interval is not None else []))
    short = tag("p", f"The first {LARGE} of {np.size(one.value)} numbers.") if np.size(one.value) > LARGE else None
    return tag("div", short, table(heads, rows))


def _as_quantities(measure: str, data: xr.Dataset) -> dict[str, Quantity]:
    """The numeric variables of a measure as quantities; `x_stderr` is the error of `x`."""
    found = {}
    for key, one in data.data_vars.items():
        name = str(key)
        if one.dtype.kind not in "fiu" or not 1 <= one.size <= LARGE or name.endswith("_stderr"):
            continue
        value = one.values.astype(float)
        error = data.get(f"{name}_stderr")
        stderr = value * np.nan if error is None or error.dims != one.dims else error.values.astype(float)
        coords = {str(dim): data[dim].values.tolist() for dim in one.dims}
        found[f"{measure}.{name}"] = Quantity(value, stderr, coords)
    return found


def _measure(data: xr.Dataset) -> Iterator[Html]:
    """What a measure holds: its variables, their ranges, short ones in full, and its attributes."""
    rows = []
    for name, one in data.variables.items():
        values = one.values
        if values.dtype.kind in "fiub" and values.size > 3:
            known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            text = f"{known.min():.5g} to {known.max():.5g}" if known.size else "nothing finite"
        else:
            text = np.array2string(values, threshold=8) if values.size else ""
        rows.append([name, " × ".join(f"{dim}: {size}" for dim, size in one.sizes.items()), values.dtype, text])
    yield table(("variable", "axes", "type", "values"), rows)
    if data.attrs:
        yield table(("attribute", "value"), [[key, value] for key, value in data.attrs.items()])


def _config(run: Run) -> str:
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100)


def _provenance(run: Run) -> Html:
    """What made the run."""
    rows = []
    for key, value in run.data.attrs.items():
        if key == "config":
            continue
        try:
            known = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            known = value
        if isinstance(known, dict):
            known = ", ".join(f"{name} {each}" for name, each in known.items() if each not in ("", None))
        rows.append([key, tag("span", known)])
    return table(("", ""), rows)


def _reproduce(run: Run, allow_import: Sequence[str]) -> Iterator[Html]:
    lines = []
    try:
        made_by = json.loads(run.data.attrs.get("git", "null"))
    except ValueError:
        made_by = None
    if isinstance(made_by, dict) and made_by.get("revision"):
        dirty = "  # the clone had uncommitted changes" if made_by.get("dirty") else ""
        lines.append(f"git checkout {made_by['revision']}{dirty}")
    known = reproduce.command(run, allow_import)
    if known is None:
        yield tag("p", "No built-in config composes this one: save the config above as my.yaml.")
        lines.append("slt run my.yaml")
    else:
        lines.append(known)
    yield page.code("\n".join([*lines, "slt show RUN", "slt plot RUN", "slt report RUN"]))
    yield tag("p", "RUN stands for the directory that slt run names when it ends.")


STYLE = """\
body{font:16px/1.45 Georgia,serif;max-width:1100px;margin:0 auto;padding:1rem;color:#222}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.25rem;border-bottom:1px solid #ccc;margin-top:2rem}
nav a{margin-right:1rem}a{color:#0072b2}.warn{color:#a33f00}
table{border-collapse:collapse;font-size:.85rem}th,td{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top}
thead th{border-bottom:1px solid #888}td.number{text-align:right;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;max-height:32rem;overflow-y:auto}pre{background:#f6f6f6;padding:.7rem;overflow-x:auto}
figure{margin:1rem 0;display:inline-block;max-width:100%}img{max-width:100%;max-height:34rem}
figcaption{font-size:.85rem;max-width:42rem}select{font:inherit;max-width:100%}#plot{min-height:20rem}
"""
SCRIPT = """\
(function () {
  "use strict";
  const views = JSON.parse(document.getElementById("views").textContent);
  const select = document.getElementById("view"), about = document.getElementById("about");
  const more = about.textContent, groups = new Map();
  views.forEach((view, i) => {
    if (!groups.has(view.group)) {
      const made = document.createElement("optgroup");
      made.label = view.group;
      groups.set(view.group, select.appendChild(made));
    }
    const option = document.createElement("option");
    option.value = i;
    option.textContent = view.title;
    groups.get(view.group).appendChild(option);
  });
  function show() {
    const view = views[select.value];
    about.textContent = view.about + more;
    Plotly.newPlot("plot", view.data, view.layout, {responsive: true, displaylogo: false}).then(() => {
      document.body.dataset.drawn = select.value;
    });
  }
  select.addEventListener("change", show);
  show();
})();
"""
