"""summary.json: the named quantities of a run with their errors, as plain JSON that says whether it is whole."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slt.results.events import UNREADABLE
from slt.results.manifest import own_checksum
from slt.results.place import place, replace
from slt.typing import InputError, Quantity

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Summary:
    """What summary.json holds: quantities by name, health by part, seconds of the run, digest of its config."""

    quantities: dict[str, Quantity]
    health: dict[str, Any]
    wall_s: float
    digest: str


def write_summary(
    path: str | Path,
    quantities: Mapping[str, Quantity],
    health: Mapping[str, Any],
    wall_s: float,
    digest: str,
) -> None:
    """Write summary.json (replaced atomically). Arrays as nested lists in the order of coords, not-finite as null.

    InputError where a quantity's arrays do not have the shape of its coords.
    """
    shown = {name: _quantity(name, one) for name, one in quantities.items()}
    content = finite({"quantities": shown, "health": dict(health), "wall_s": wall_s, "digest": digest})
    text = json.dumps(content | {"checksum": own_checksum(content)}, indent=1, ensure_ascii=False, allow_nan=False)
    replace(place(path) / SUMMARY, text.encode() + b"\n")


def read_summary(path: str | Path) -> Summary:
    """summary.json of a run directory, null as NaN; InputError where it is not what was written."""
    file = place(path) / SUMMARY
    try:
        content = json.loads(file.read_bytes())
        told = content.pop("checksum", None)  # those of slt before had none
        if told not in (None, own_checksum(content)) or content.keys() != {"quantities", "health", "wall_s", "digest"}:
            raise ValueError("it was altered")
        quantities = {name: _read(name, one) for name, one in content["quantities"].items()}
        wall_s = math.nan if content["wall_s"] is None else float(content["wall_s"])
        return Summary(quantities, dict(content["health"]), wall_s, str(content["digest"]))
    except (OSError, *UNREADABLE) as error:
        raise InputError("summary", str(file), f"cannot be read ({error}): `slt resume` writes it anew") from error


def _read(name: str, one: Mapping[str, Any]) -> Quantity:
    interval = _interval(one["interval"]) if "interval" in one else None
    found = Quantity(np.array(one["value"], float), np.array(one["stderr"], float), one["coords"], interval)
    _quantity(name, found)
    return found


def _quantity(name: str, one: Quantity) -> dict[str, Any]:
    coords = {key: np.asarray(values).tolist() for key, values in one.coords.items()}
    value, stderr, shape = np.asarray(one.value), np.asarray(one.stderr), tuple(map(len, coords.values()))
    if value.shape != shape or stderr.shape != shape:
        raise InputError(name, (value.shape, stderr.shape), f"value and stderr must have the shape of coords, {shape}")
    shown = {"value": value.tolist(), "stderr": stderr.tolist(), "coords": coords}
    if one.interval is None:
        return shown
    interval = np.asarray(one.interval, float)
    if interval.shape != (*shape, 2):
        raise InputError(name, interval.shape, f"its interval must have the shape {(*shape, 2)}: low and high")
    return shown | {"interval": interval.tolist()}


def _interval(shown: Any) -> np.ndarray:
    """An interval as read: an end that is null is open."""
    interval = np.array(shown, float)
    ends = np.broadcast_to([-np.inf, np.inf], interval.shape)
    return np.where(np.isnan(interval), ends, interval)


def finite(tree: Any) -> Any:
    """Plain JSON: numbers that are not finite become null."""
    if isinstance(tree, Mapping):
        return {str(key): finite(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic):
        tree = tree.tolist()
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
