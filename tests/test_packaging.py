"""A wheel far from the clone and an editable install both hold every module and every built-in config."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("slt", "experiments", "configs")

# Run by the Python of the environment under test, in an empty folder.
LOOK = """
import importlib.metadata, importlib.resources, json, pathlib, pkgutil, sys
import slt, slt.experiments, slt.configs
def configs(folder, prefix=""):
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from configs(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name
print(json.dumps({
    "version": [importlib.metadata.version("slt"), slt.__version__],
    "slt": str(pathlib.Path(slt.__file__).resolve()),
    "experiments": sorted(module.name for module in pkgutil.iter_modules(slt.experiments.__path__)),
    "modules": sorted(module.name for module in pkgutil.walk_packages(slt.__path__, "slt.", onerror=print)),
    "configs": sorted(configs(importlib.resources.files("slt.configs"))),
    "typed": importlib.resources.files("slt").joinpath("py.typed").is_file(),
}))
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what is packaged: a build in the tree itself would leave files that the next build picks up."""
    target = tmp_path / "clone"
    for name in SHIPPED:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The Python of an environment of its own, which sees the libraries of this one but not its slt."""
    home = tmp_path / "elsewhere"
    venv.create(home, symlinks=True)
    # A path file makes the libraries importable without reading the path files among them: an editable slt stays out.
    site = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "python"


def _run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _install(python: Path, *what: object, cwd: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    _run(*pip, "--no-build-isolation", "--ignore-installed", *what, cwd=cwd)


def _check(python: Path, tmp_path: Path, home: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    seen = json.loads(_run(python, "-c", LOOK, cwd=away))
    assert Path(seen["slt"]).is_relative_to(home.resolve())
    assert seen["version"][0] == seen["version"][1]
    assert seen["configs"] == sorted(str(path.relative_to(ROOT / "configs")) for path in _sources("configs", ".yaml"))
    assert seen["experiments"] == sorted(path.stem for path in _sources("experiments") if path.stem != "__init__")
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in _sources("slt")}
    assert modules - {name for name in modules if name.endswith("__init__")} <= set(seen["modules"])
    assert seen["typed"]
    if (ROOT / "slt" / "cli.py").exists():
        shown = _run(python.with_name("slt"), "list", cwd=away)
        assert all(str(Path(name).with_suffix("")) in shown for name in seen["configs"] if "/demo" in name)


def _sources(folder: str, suffix: str = ".py") -> list[Path]:
    return [path for path in (ROOT / folder).rglob(f"*{suffix}") if "__pycache__" not in path.parts]


def test_every_package_is_listed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for name in SHIPPED for path in _sources(name)}
    names = {".".join(folder.parts) for folder in folders}
    installed = {name if name.split(".")[0] == "slt" else f"slt.{name}" for name in names}
    assert installed == set(settings["packages"])
    assert all((folder / "__init__.py").is_file() for folder in (ROOT / folder for folder in folders))


def test_wheel_far_from_the_clone(clone: Path, elsewhere: Path, tmp_path: Path) -> None:
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--wheel-dir", tmp_path, clone),
        cwd=tmp_path,
    )
    shutil.rmtree(clone)
    _install(elsewhere, *tmp_path.glob("slt-*.whl"), cwd=tmp_path)
    _check(elsewhere, tmp_path, elsewhere.parent.parent)


def test_editable_install(clone: Path, elsewhere: Path, tmp_path: Path) -> None:
    _install(elsewhere, "--editable", clone, cwd=tmp_path)
    _check(elsewhere, tmp_path, clone)
