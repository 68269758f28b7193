"""What there is to name in a config: configs, models, samplers and groups, read from the source, not imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from slt import config, nodes


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
    known = {item.target: item.summary for item in (*samplers(), *models())}
    for one in config.listed()[1]:
        group, _, name = one.name.rpartition("/")
        node = yaml.safe_load(one.path.read_text(encoding="utf-8"))
        target = str(node.get("_target_", "")) if isinstance(node, dict) else ""
        groups.setdefault(group, []).append(Item(name, target, one.summary or known.get(target, "")))
    return groups


def models() -> list[Item]:
    """The built-in models: public functions of slt.models that make one (called make, or annotated so)."""
    found = []
    for target, node, about in _defined("models"):
        if isinstance(node, ast.FunctionDef):
            returns = "" if node.returns is None else ast.unparse(node.returns)
            if node.name == "make" or returns in ("Model", "Potential"):
                found.append(Item(target, target, _first(node) or about))
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
    for path in _modules(Path(__file__).parent / package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            name = getattr(node, "name", "_")
            if not name.startswith("_"):
                yield f"slt.{package}.{path.stem}.{name}", node, _first(tree)


def _first(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    text = (ast.get_docstring(node) or "").split("\n\n")[0]
    return re.split(r"\. (?=[A-Z])", " ".join(text.split()))[0].rstrip(".:")
