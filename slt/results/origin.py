"""config.yaml beside what the manifest has of it, so that all draws of a run come of one config."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from slt.results.events import UNREADABLE
from slt.results.manifest import Manifest
from slt.typing import InputError

CONFIG = "config.yaml"


class Origin(NamedTuple):
    """The config of a run directory as plain dicts and lists.

    lost: what is wrong with config.yaml, "" if nothing; where something is, config is the manifest's. longer: whether
    it asks for more draws than the manifest knows of, as where `slt extend` was killed after its first step.
    """

    config: dict[str, Any]
    lost: str = ""
    longer: bool = False


def origin(manifest: Manifest) -> Origin:
    """The config of a run; InputError where config.yaml was edited, or is lost and the manifest has none."""
    path, recorded = manifest.folder / CONFIG, _recorded(manifest)
    try:
        found = yaml.safe_load(path.read_bytes().decode())
        if not isinstance(found, dict) or not found:
            raise ValueError("it holds no settings")
        mine = _flat(found)
    except (FileNotFoundError, yaml.YAMLError, *UNREADABLE) as error:
        lost = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({_line(error)})"
        if recorded is None:
            raise InputError("run", str(path), lost) from error
        return Origin(recorded, lost)
    theirs = mine if recorded is None else _flat(recorded)
    differ = [name for name in dict.fromkeys([*theirs, *mine]) if mine.get(name) != theirs.get(name)]
    grown = [name for name in differ if _grown(name, theirs.get(name), mine.get(name))]
    if differ == grown and (not differ or any(name.endswith("draws") for name in grown)):
        return Origin(found, longer=bool(differ))
    name = next(name for name in differ if name not in grown or not name.endswith("draws"))
    was = f"has {name} = {mine.get(name, 'nothing')}, but its draws were made with {theirs.get(name, 'nothing')}"
    cure = f"{was}: for other settings start a new run; to go on, put that back, or delete this file and"
    raise InputError("run", str(path), f"{cure} `slt resume {manifest.folder}` restores it")


def _recorded(manifest: Manifest) -> dict[str, Any] | None:
    """The config that the manifest has; None in a store that was not made of one."""
    text = manifest.attrs.get("config")
    if not isinstance(text, str):
        return None
    try:
        found = json.loads(text)
        _flat(found)
    except UNREADABLE as error:
        raise InputError("run", str(manifest.path), f"the config in it cannot be read ({error})") from error
    return found if isinstance(found, dict) else None


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value, default=str) for name, value in entries(config)}


def _grown(name: str, old: str | None, new: str | None) -> bool:
    """Whether a change is one that `slt extend` makes: more draws, and the length of the chunks that are there."""
    setting = re.fullmatch(r"(?:parts\..+\.)?schedule\.(draws|chunk)", name)
    if setting is None or old is None or new is None or not new.isdigit():
        return False
    return old == "null" if setting[1] == "chunk" else old.isdigit() and int(new) > int(old)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def entries(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in a config."""
    if not isinstance(config, dict) or not config:
        yield path, config
        return
    for key, value in config.items():
        yield from entries(value, f"{path}.{key}" if path else str(key))
