"""What there is to name in a config: configs, models, samplers and groups, read from the source, not imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

import slt
from slt import config
from slt.config import nodes

HOME = Path(slt.__file__).parent
"""Where the package lies."""


class Item(NamedTuple):
    """One thing to name: as it stands in a config or on the command line, its `_target_` if it has one, what it is."""

    name: str
    target: str
    summary: str


def experiments() -> list[Item]:
    """The modules of slt.experiments, with the first line of their docstrings."""
    folder = Path(next(iter(nodes.beside("experiments").__path__)))
    return [Item(path.stem, "", _first(ast.parse(path.read_text(encoding="utf-8")))) for path in _modules(folder)]


def configs() -> list[Item]:
    """The built-in configs that can be run, by the name that `slt run` takes."""
    return [Item(one.name, "", one.summary) for one in config.listed()[0]]


def options() -> dict[str, list[Item]]:
    """The ready components by group: options()["sampler"] has an item "sgld", chosen with sampler=sgld."""
    groups: dict[str, list[Item]] = {}
    known = {short(item.target): item.summary for item in (*samplers(), *models())}
    for one in config.listed()[1]:
        group, _, name = one.name.rpartition("/")
        node = yaml.safe_load(one.path.read_text(encoding="utf-8"))
        target = str(node.get("_target_", "")) if isinstance(node, dict) else ""
        groups.setdefault(group, []).append(Item(name, target, one.summary or known.get(short(target), "")))
    return groups


def short(target: str) -> str:
    """A sampler's `_target_` without its module: slt.samplers.SGLD and slt.samplers.sgld.SGLD are the same."""
    return f"slt.samplers.{target.rpartition('.')[2]}" if target.startswith("slt.samplers.") else target


def models() -> list[Item]:
    """The built-in models: `make` of each module of slt.models, and its other public functions that give a Model."""
    found = []
    for target, node, about in _defined("models"):
        name = target.rpartition(".")[2]
        returns = ast.unparse(node.returns) if isinstance(node, ast.FunctionDef) and node.returns is not None else ""
        if name == "make":
            found.append(Item(target, target, about))
        elif isinstance(node, ast.FunctionDef) and returns in ("Model", "Potential"):
            found.append(Item(target, target, _first(node)))
    return found


def samplers() -> list[Item]:
    """The built-in samplers: classes of slt.samplers registered with @sampler, but for the bases of others."""
    found = []
    for target, node, about in _defined("samplers"):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(one) == "sampler" for one in node.decorator_list):
            summary = _first(node) or about
            if not summary.startswith("Base of"):
                found.append(Item(target, target, summary))
    return found


def _modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if not path.stem.startswith("_"))


def _defined(package: str) -> Iterator[tuple[str, ast.stmt, str]]:
    """(dotted name, definition, first line about its module) of what a package of slt defines publicly."""
    for path in _modules(HOME / package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [getattr(node, "name", None)]
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                if name is not None and not name.startswith("_"):
                    yield f"slt.{package}.{path.stem}.{name}", node, _first(tree)


def _first(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    text = (ast.get_docstring(node) or "").split("\n\n")[0]
    return re.split(r"(?<!\.)\. (?=[A-Z])", " ".join(text.split()))[0].rstrip(".:")
