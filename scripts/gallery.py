"""Run every demo config and write docs/gallery.md: the figures of each experiment beside what it should and did find.

    make gallery                                  # all of it; runs that are finished are not run again
    python scripts/gallery.py landau tanh         # these experiments alone; the page keeps the others
    python scripts/gallery.py --no-run            # only the page, from the runs that are there

A config belongs to the gallery if it is called demo, or its header says that it is made for 2 CPU cores. An experiment
may say what is shown: GALLERY, names of its figures (default: the first two), and GALLERY_NUMBERS, names or patterns of
its quantities (default: its transitions, else the first that the run reports).
"""

import argparse
import dataclasses
import fnmatch
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from slt import config, results, runs
from slt.plots import draw
from slt.report.parts import CRITICAL, Named, interval, sentence
from slt.results.words import main_names, place, points
from slt.typing import InputError

ROOT = Path(__file__).resolve().parent.parent
PAGE, IMAGES = "gallery.md", "images/gallery"
DPI, COLOURS = 150, 64
"""Of the images: small enough for a clone, sharp enough for a page."""
FIGURES, NUMBERS, POINTS = 2, 6, 12
TOP = """\
# Gallery

What every experiment shows at the size of its demo, minutes on two CPU cores: its figures, and the numbers that its
config promises beside those that the run found (± one standard error, from its `summary.json`).

`make gallery` runs all of it and writes this page; finished runs are not run again.
"""


class Entry(NamedTuple):
    """A config of the gallery: its name, what its header says by heading, and where its run lies."""

    name: str
    header: dict[str, str]
    run: Path


def entries(folder: Path, smoke: bool = False) -> list[Entry]:
    """The configs of the gallery, by name, with their run directories in `folder`."""
    found = []
    for one in config.listed()[0]:
        said = header(one.path.read_text(encoding="utf-8"))
        if one.path.stem == "demo" or said.get("Device", "").startswith("2 CPU cores"):
            made = config.compose(one.name)
            made = config.smoke(made) if smoke else made
            found.append(Entry(one.name, said, folder / runs.default_place(made).name))
    return found


def header(text: str) -> dict[str, str]:
    """The comment that a config begins with, by heading."""
    comment = re.match(r"(#.*\n)*", text)
    lines = (comment[0] if comment else "").replace("# @package _global_\n", "").replace("\n#", "\n")
    parts = re.split(r"^#? ([A-Z]\w+):", lines, flags=re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in zip(parts[1::2], parts[2::2], strict=True)}


def finished(path: Path) -> bool:
    """Whether a run is there, whole, with its summary."""
    if not path.exists():
        return False
    try:
        run = results.load(path)
    except InputError:  # damaged: resuming it makes it whole
        return False
    return run.complete and run.summary is not None


def sample(entry: Entry, smoke: bool) -> bool:
    """Run a config, or go on with its run, in a process of its own; whether that ended well."""
    words = ["resume", str(entry.run)] if entry.run.exists() else ["run", entry.name, "--out", str(entry.run)]
    words += ["--smoke"] if smoke and words[0] == "run" else []
    return subprocess.run([sys.executable, "-m", "slt.cli", *words], check=False).returncode == 0


def section(entry: Entry, images: Path) -> str:
    """The part of the page on one config, its images written; a sentence where its run is not finished."""
    title = f"## {entry.name}\n\n{_prose(entry.header, 'Purpose')}\n\n```\nslt run {entry.name}\n```\n\n"
    if not finished(entry.run):
        return f"{title}Not run yet.\n"
    run = results.load(entry.run)
    made = config.structured(run.config)
    home = config.experiment(made)
    shown = "\n\n".join(pictures(run, made, home, entry.name.replace("/", "-"), images))
    found = "\n".join(f"- {line}" for line in numbers(run, getattr(home, "GALLERY_NUMBERS", ())))
    took = "" if run.summary is None or not run.summary.wall_s > 0 else f" (this run: {run.summary.wall_s:.0f} s)"
    said = f"**Expected**: {_prose(entry.header, 'Expect')}\n\n**Found**:\n\n{found}\n\n"
    return f"{title}{shown}\n\n{said}Device: {_prose(entry.header, 'Device')}{took}.\n"


def _prose(said: Mapping[str, str], heading: str) -> str:
    """What a header says under a heading, as Markdown shows it literally."""
    text = re.sub(r"([\\*_<`\[\]])", r"\\\1", said.get(heading, ""))
    return text[:1].upper() + text[1:]


def pictures(run: Any, made: Any, home: ModuleType | None, stem: str, images: Path) -> Iterator[str]:
    """The figures that the experiment picks, written as PNG and shown with their captions."""
    from slt import plots

    drawn = (plots.default_figures if home is None else home.figures)(dataclasses.replace(run, config=made))
    wanted = list(getattr(home, "GALLERY", ())) or list(drawn)[:FIGURES]
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob(f"{stem}-*.png"):
        old.unlink()
    for name in wanted:
        if name in drawn:
            path = images / f"{stem}-{name}.png"
            path.write_bytes(small(drawn[name]))
            caption = str(drawn[name].get_label())
            yield f"![{name}]({IMAGES}/{path.name})\n\n*{name}*: {caption}"


def small(figure: Figure) -> bytes:
    """A figure as a small PNG: few colours, no date."""
    raw, packed = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(draw.RC):
        figure.savefig(raw, format="png", dpi=DPI)
    Image.open(raw).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def numbers(run: Any, patterns: Sequence[str]) -> Iterator[str]:
    """What the run found, in words: the quantities that match, else its transitions, else its first results."""
    parts = [str(part) for part in run.data.children]
    names = main_names(run.quantities)
    if patterns:
        plain = [pattern.replace("[", "[[]") for pattern in patterns]
        chosen = [name for name in run.quantities if any(fnmatch.fnmatchcase(name, one) for one in plain)]
    else:
        critical = [name for name in names if Named.of(name, parts).family.startswith(CRITICAL)]
        critical += [name for name in run.quantities if "descent.critical_" in name and name not in critical]
        chosen = critical or names[:NUMBERS]
    for name in chosen:
        one = run.quantities[name]
        known = [
            (p, ends) for p, ends in zip(points(one), interval(one).reshape(-1, 2), strict=True) if np.isfinite(p.value)
        ]
        picks = np.unique(np.linspace(0, len(known) - 1, min(len(known), POINTS)).astype(int)) if known else []
        if one.interval is not None or Named.of(name, parts).family.startswith(CRITICAL):
            for point, ends in (known[k] for k in picks):
                where = f" at {place(point.where)}" if point.where else ""
                yield sentence(f"`{name}`", point.value, point.stderr, ends) + where
        elif known:
            yield f"`{name}` = " + ", ".join(str(known[k][0]) for k in picks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page after each; 1 if a run failed."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("only", metavar="EXPERIMENT", nargs="*", help="experiments or configs to run (default: all)")
    given.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery", help="where the runs lie")
    given.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page and its images go")
    given.add_argument("--no-run", dest="sampled", action="store_false", help="only write the page")
    given.add_argument("--smoke", action="store_true", help="the configs made tiny: does it all run?")
    args = given.parse_args(argv)
    found = entries(args.runs, args.smoke)
    mine = [one for one in found if not args.only or one.name in args.only or one.name.split("/")[0] in args.only]
    if not mine:
        given.error(
            f"no config of the gallery is called {', '.join(args.only)}; there are {', '.join(e.name for e in found)}"
        )
    failed = [one.name for one in mine if args.sampled and not finished(one.run) and not sample(one, args.smoke)]
    text = "\n".join([TOP, *(section(one, args.docs / IMAGES) for one in found)])
    args.docs.mkdir(parents=True, exist_ok=True)
    (args.docs / PAGE).write_text(text, encoding="utf-8")
    print(f"{args.docs / PAGE}: {sum(finished(one.run) for one in found)} of {len(found)} configs")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
