"""Finished and unfinished runs as labelled data: opening them, their summary, two side by side, what made them."""

import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
import yaml

import slt
from slt.engine.program import kept
from slt.results import measures
from slt.results.layout import Layout
from slt.results.manifest import Manifest
from slt.results.manifest import Part as State
from slt.results.place import place, replace, zarr_store
from slt.results.skeleton import DATA
from slt.results.store import CONFIG, Store, readable
from slt.typing import InputError, Quantity

__all__ = [
    "Comparison",
    "Layout",
    "Quantity",
    "Row",
    "Run",
    "Store",
    "Summary",
    "chunk_lengths",
    "compare",
    "entries",
    "load",
    "place",
    "provenance",
    "read_summary",
    "recorded",
    "write_summary",
]

SUMMARY = "summary.json"
PACKAGES = (
    "jax",
    "jaxlib",
    "blackjax",
    "flax",
    "numpyro",
    "optax",
    "numpy",
    "scipy",
    "xarray",
    "zarr",
    "orbax-checkpoint",
)


@dataclass(frozen=True)
class Summary:
    """What summary.json holds: quantities by name, health by part, seconds of the run, digest of its config."""

    quantities: dict[str, Quantity]
    health: dict[str, Any]
    wall_s: float
    digest: str


@dataclass(frozen=True)
class Run:
    """A run directory opened for reading.

    data: an xarray DataTree, one group a part, read from disk when used, cut to the draws that are there in every cell
    (attributes draws, planned and complete of each group tell); config: the resolved config as plain dicts and lists;
    summary: None until one was written; health: of every part, see Manifest.health; measures: what was computed after
    the sweeps, by name, as far as finished.
    """

    path: Path
    data: xr.DataTree
    config: dict[str, Any]
    summary: Summary | None
    health: dict[str, Any]
    measures: dict[str, xr.Dataset] = field(default_factory=dict)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The quantities of the summary, none before it is written."""
        return {} if self.summary is None else self.summary.quantities

    @property
    def complete(self) -> bool:
        """Whether every draw that was planned is there, and every measure."""
        sampled = all(bool(node.attrs["complete"]) for node in self.data.children.values())
        return sampled and self.measures.keys() >= (self.config.get("measures") or {}).keys()


def load(path: str | Path, *, verify: bool = False) -> Run:
    """Open a run directory, finished or not; nothing in it is executed or changed.

    Every file that was committed must be there in its full size; with `verify` its checksum must agree too, as else it
    must when it is read from `data`. InputError names the file that does not, and where `path` is no run directory.
    """
    folder = place(path)
    manifest = Manifest(folder)
    damage = next(manifest.damage(verify), None)
    if damage is not None:
        cure = f"{damage.problem}: `slt resume {folder}` computes it again"
        raise InputError("run", str(folder / damage.file), cure)
    if not readable(folder):
        raise InputError("run", str(folder / DATA / "zarr.json"), f"cannot be read: `slt resume {folder}` mends it")

    def look(key: str, content: bytes) -> None:
        manifest.look(f"{DATA}/{key}", content)

    store = zarr_store(folder / DATA, look)
    tree = xr.open_datatree(store, engine="zarr", chunks=None, decode_times=False, zarr_format=3)
    groups = {name: _cut(tree[name].to_dataset(), state) for name, state in manifest.parts.items()}
    data = xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **groups})
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("run", str(folder / CONFIG), f"cannot be read: {error}") from error
    summary = read_summary(folder) if (folder / SUMMARY).exists() else None
    return Run(folder, data, config, summary, manifest.health(), measures.load(manifest))


def recorded(path: str | Path) -> dict[str, Any]:
    """The attributes of a run as its manifest has them (digest, seed, config, versions), whatever its files are."""
    return Manifest(place(path)).attrs


def chunk_lengths(path: str | Path) -> dict[str, int]:
    """Draws a chunk of every part of a run: what schedule.chunk must be to go on with it."""
    return {name: state.shape["schedule.chunk"] for name, state in Manifest(place(path)).parts.items()}


def _cut(data: xr.Dataset, state: State) -> xr.Dataset:
    """The draws that every bucket has; how chains stand, as of the last chunk of each; no folds unless complete."""
    thinning = state.shape["thinning"]
    cut = data.isel({dim: slice(0, kept(state.common, every)) for dim, every in thinning.items()})
    for name in ("status", "broken_at"):
        cut[name] = data[name].copy(data=np.full(data[name].shape, 0 if name == "status" else -1, data[name].dtype))
    for cell, chain, draw, status in (entry for entries in state.broken.values() for entry in entries):
        if cell < data["offset"].size:
            where = (*np.unravel_index(cell, data["offset"].shape), chain)
            cut["status"].values[where], cut["broken_at"].values[where] = status, draw
    if not state.complete:
        cut = cut.drop_vars([name for name in cut.variables if str(name).startswith("fold.")])
    text = {name: variable.astype(object) for name, variable in cut.variables.items() if variable.dtype.kind == "T"}
    for name, variable in text.items():
        cut[name] = variable
    cut.attrs |= {"draws": state.common, "planned": state.draws, "complete": state.complete}
    if not state.complete:
        cut.attrs["incomplete"] = f"{state.common} of {state.draws} draws are there: `slt resume` makes the others"
    return cut


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
    content = {"quantities": shown, "health": dict(health), "wall_s": wall_s, "digest": digest}
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    replace(place(path) / SUMMARY, text.encode() + b"\n")


def read_summary(path: str | Path) -> Summary:
    """summary.json of a run directory, null as NaN."""
    file = place(path) / SUMMARY
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        quantities = {
            name: Quantity(
                np.array(one["value"], float),
                np.array(one["stderr"], float),
                one["coords"],
                _interval(one["interval"]) if "interval" in one else None,
            )
            for name, one in content["quantities"].items()
        }
        wall_s = math.nan if content["wall_s"] is None else content["wall_s"]
        return Summary(quantities, content["health"], wall_s, content["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("summary", str(file), f"cannot be read ({error!r}): `slt resume` writes it anew") from error


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


def _finite(tree: Any) -> Any:
    """Plain JSON: numbers that are not finite become null."""
    if isinstance(tree, Mapping):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic):
        tree = tree.tolist()
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class Row(NamedTuple):
    """One number of two runs; NaN where a run lacks it. z = (a - b) / sqrt(a_stderr^2 + b_stderr^2) where known."""

    name: str
    coords: dict[str, Any]
    a: float
    a_stderr: float
    b: float
    b_stderr: float
    z: float


class Comparison(NamedTuple):
    """Two runs side by side: a row a number, and (path, in a, in b) of every entry in which their configs differ."""

    rows: list[Row]
    config: list[tuple[str, Any, Any]]


def compare(a: Run, b: Run) -> Comparison:
    """Set the quantities of two runs side by side, number by number wherever their coordinates are equal."""
    mine, theirs = dict(_numbers(a)), dict(_numbers(b))
    rows = []
    for key in dict.fromkeys([*mine, *theirs]):
        (x, sx), (y, sy) = mine.get(key, (math.nan, math.nan)), theirs.get(key, (math.nan, math.nan))
        spread = math.hypot(sx, sy)
        z = (x - y) / spread if spread > 0 else math.nan
        rows.append(Row(key[0], dict(key[1]), x, sx, y, sy, z))
    left, right = dict(entries(a.config)), dict(entries(b.config))
    paths = [path for path in dict.fromkeys([*left, *right]) if left.get(path) != right.get(path)]
    return Comparison(rows, [(path, left.get(path), right.get(path)) for path in paths])


def _numbers(run: Run) -> Iterator[tuple[tuple[str, tuple], tuple[float, float]]]:
    for name, one in run.quantities.items():
        for index in np.ndindex(one.value.shape):
            where = tuple((dim, values[i]) for (dim, values), i in zip(one.coords.items(), index, strict=True))
            yield (name, where), (float(one.value[index]), float(one.stderr[index]))


def entries(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in a config."""
    if not isinstance(config, dict) or not config:
        yield path, config
        return
    for key, value in config.items():
        yield from entries(value, f"{path}.{key}" if path else str(key))


def provenance() -> dict[str, Any]:
    """What made a run: versions, git revision of a clone (else None), device, precision; no path of this machine."""
    versions = {"slt": slt.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    device = jax.devices()[0]
    return {
        "versions": versions,
        "git": _revision(Path(slt.__file__).resolve().parent.parent),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "x64": bool(jax.config.read("jax_enable_x64")),
        "platform": platform.platform(),
    }


def _revision(clone: Path) -> dict[str, Any] | None:
    """Revision of the clone that slt is imported from, and whether it was changed since; None outside a clone."""
    if not (clone / ".git").exists():
        return None  # not asked of git, which would find a repository around an installed package

    def git(*words: str) -> str:
        command = ["git", "-C", str(clone), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
