"""What README.md and CONTRIBUTING.md show is so: their files, commands and Python are run, small where that takes long.

A block whose first line, or whose language line, names a file is that file. Other Python is a script, and a block
without a language is commands, run in order in a folder that holds the files. Nothing is passed over: a command that
no rule here covers fails the test.
"""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import test_configs
from markdown_it import MarkdownIt
from models import test_conformance as of_models
from samplers import test_conformance as of_samplers
from samplers import test_truth as of_exactness

import slt.models
import slt.samplers
from slt import cli, config, drivers
from slt.cli import catalogue
from slt.config import nodes
from slt.plots import draw

ROOT = Path(__file__).resolve().parent.parent
DOCS = ("README.md", "CONTRIBUTING.md")
SMALL = """\
defaults: [{/sampler: sgld}, _self_]
model: {_target_: slt.models.gaussian_location.make}
grid: {n: [20, 32]}
schedule: {draws: 12, chains: 2, burn_in: 4, chunk: 6}
"""
"""Stands in for built-in configs, which test_configs.py runs."""
MINE = "from slt.models.gaussian_location import GaussianLocation as MyModel\n"
ELSEWHERE = {
    ".venv/bin/pre-commit install": ".pre-commit-config.yaml",
    ". .venv/bin/activate": "Makefile",
}
"""Commands that change the machine, and the file that they rest on: that must be there."""


class Block(NamedTuple):
    """A block of code: where it begins, its language, the file that it is (or ""), and its text."""

    place: str
    language: str
    name: str
    text: str


def blocks(doc: str) -> Iterator[Block]:
    for token in MarkdownIt().parse((ROOT / doc).read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language, _, name = token.info.strip().partition(" ")
            found = re.match(r"# ([\w./]+\.(?:py|yaml))\n", token.content)
            line = token.map[0] + 1 if token.map else 0
            yield Block(f"{doc}:{line}", language, name or (found[1] if found else ""), token.content)


def commands(doc: str) -> list[str]:
    """Every command of a document, comments taken off, several on a line taken apart."""
    lines = [line for block in blocks(doc) if block.language in ("", "bash") for line in block.text.splitlines()]
    return [one.strip() for line in lines for one in re.sub(r"(^|\s)#.*", "", line).split(";") if one.strip()]


FILES = {block.name: block.text for doc in DOCS for block in blocks(doc) if block.name}
SCRIPTS = [block for doc in DOCS for block in blocks(doc) if block.language == "python" and not block.name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder, outside the clone, with all files of the documents; what is imported from it is forgotten."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(SMALL)
    # README speaks of some my.yaml, with a model from my_file.py.
    (tmp_path / "my_file.py").write_text(MINE)
    (tmp_path / "my.yaml").write_text(SMALL.replace("slt.models.gaussian_location.make", "my_file.MyModel"))
    monkeypatch.setitem(draw.RC, "savefig.dpi", 50)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    for doc in DOCS:
        for block in blocks(doc):
            kind = (block.language, bool(block.name))
            assert kind in [("python", True), ("python", False), ("yaml", True), ("", False), ("bash", False)], block


def _small(words: list[str]) -> list[str]:
    """The arguments of `slt` as they stand in a document, made small. What they name is checked at full size."""
    command, *rest = words
    if command == "check":
        return [*words, "--no-time"]
    if command == "run":
        if rest[0] in [item.name for item in catalogue.configs()]:
            drivers.parts(config.compose(rest[0], [word for word in rest[1:] if re.match(r"[\w.]+=", word)]))
            rest[0] = "small.yaml"
        return [command, *rest, "--smoke", "--quiet"]
    if command == "calibrate":
        return [*words, "grid.beta=[1]", "--seconds", "1", "--error", "0.1"]
    if command == "extend":
        return [command, *(re.sub(r"draws=\d+", "draws=18", word) for word in rest), "--quiet"]
    return words


def _execute(command: str) -> None:
    first, *words = shlex.split(command)
    if command in ELSEWHERE:
        assert (ROOT / ELSEWHERE[command]).is_file()
    elif first == "make":
        subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
    elif first == "slt":
        code = cli.main(_small(words))
        assert code == 0, command
    else:
        pytest.fail(f"no rule says how to run: {command}")


@pytest.mark.standard_promotion
@pytest.mark.slow
@pytest.mark.parametrize("doc", DOCS)
def test_commands(doc: str, folder: Path) -> None:
    if doc == "README.md":  # it compares with some other run
        assert cli.main(["run", "small.yaml", "seed=1", "--out", "runs/other", "--quiet"]) == 0
    found = commands(doc)
    assert len(found) >= 5
    for command in found:
        _execute(command)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda block: block.place)
def test_python(script: Block, folder: Path) -> None:
    most = {"draws": 40, "burn_in": 10, "chains": 4}
    small = re.sub(r"\b(\w+)=(\d+)", lambda m: f"{m[1]}={min(int(m[2]), most.get(m[1], int(m[2])))}", script.text)
    exec(compile(small, script.place, "exec"), {"__name__": "__main__"})
    for name in re.findall(r'savefig\("([^"]+)"\)', script.text):
        assert (folder / name).stat().st_size > 0


def test_what_is_named_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for doc in DOCS:
        text = (ROOT / doc).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert "://" in link or (ROOT / link).exists(), f"{doc} links to {link}"
        for target in re.findall(r"`make (?:\w+=\S+ )?([a-z ]+)", text):
            assert set(target.split()) <= set(targets), f"{doc}: make {target}"


def test_code_is_in_the_style_of_the_package() -> None:
    for name, text in FILES.items():
        if name.endswith(".py"):
            for words in (["check"], ["format", "--check"]):
                command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", f"slt/models/{name}", "-"]
                done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------------------------- the same files inside the package


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone as CONTRIBUTING says it is after all its files were added, and slt looking for its parts there."""
    for name in ("models", "samplers"):
        (folder / "slt" / name).mkdir(parents=True)
        package = importlib.import_module(f"slt.{name}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder / "slt" / name)])
    shutil.copytree(ROOT / "configs", folder / "configs", dirs_exist_ok=True)
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    for name in ("configs", "experiments"):
        monkeypatch.setattr(nodes.beside(name), "__path__", [str(folder / name)])
    monkeypatch.setattr(catalogue, "HOME", folder / "slt")
    (folder / "slt" / "models" / "waiting.py").write_text(FILES["waiting.py"] + "\n\nmake = Waiting\n")
    shutil.copy(folder / "walk.py", folder / "slt" / "samplers")
    shutil.copy(folder / "rates.py", folder / "experiments")
    _, _, rest = FILES["rates.yaml"].partition("\n")
    rest = rest.replace("slt run rates.yaml", "slt run rates/demo").replace(
        "waiting.Waiting", "slt.models.waiting.make"
    )
    (folder / "configs" / "rates").mkdir()
    (folder / "configs" / "rates" / "demo.yaml").write_text(f"# @package _global_\n{rest}")
    return folder


def test_model_inside(inside: Path, key: jax.Array) -> None:
    case = ("waiting", "make", {})
    of_models.test_contract(case, key)
    of_models.test_truth(case, key)
    of_models.test_truth(("waiting", "make", {"log_rate": 0.0}), key)
    of_models.test_population_loss_is_the_mean_of_samples(case, key)
    of_models._check_controls(of_models.build(case), key)
    assert "slt.models.waiting.make" in [item.name for item in catalogue.models()]


def test_sampler_inside(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = importlib.import_module("slt.samplers.walk")
    monkeypatch.setattr(slt.samplers, "RandomWalk", walk.RandomWalk, raising=False)
    monkeypatch.setitem(of_samplers.VARIANTS, "RandomWalk", walk.RandomWalk())
    monkeypatch.setattr(of_samplers, "CONFIGS", inside / "configs" / "sampler")
    assert "RandomWalk" in slt.samplers.available()
    of_samplers.test_contract("RandomWalk")
    of_samplers.test_restrictions_and_masks_pass_through("RandomWalk")
    of_samplers.test_each_has_a_config_that_names_its_fields_and_defaults("RandomWalk")
    with jax.enable_x64(True):
        of_samplers.test_double_precision_stays_double("RandomWalk", None)
    monkeypatch.setitem(of_exactness.EXACT, "walk", (walk.RandomWalk(), 4000))
    of_exactness.test_exact_samplers_have_no_bias_and_tune_themselves("walk")
    config.compose("two_basins/demo", ["sampler@sampler.inner=walk", "~sampler.inner.leapfrogs"])


def test_experiment_inside(inside: Path, tmp_path: Path) -> None:
    assert "rates" in [item.name for item in catalogue.experiments()]
    entry = next(entry for entry in config.listed()[0] if entry.name == "rates/demo")
    test_configs.check_header(entry)
    made = config.compose("rates/demo")
    drivers.parts(made)
    assert config.experiment(made) is importlib.import_module("slt.experiments.rates")
