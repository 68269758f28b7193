"""Finished and unfinished runs as labelled data: opening them, their summary, two side by side, what made them."""

import math
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

import slt
from slt.engine.program import kept
from slt.results import measures
from slt.results.events import UNREADABLE
from slt.results.events import Part as State
from slt.results.layout import Layout
from slt.results.manifest import Manifest
from slt.results.origin import CONFIG, Origin, entries, origin
from slt.results.place import place, zarr_store
from slt.results.skeleton import CHECKSUM, DATA, readable
from slt.results.store import Store
from slt.results.summary import SUMMARY, Summary, read_summary, write_summary
from slt.typing import InputError, Quantity

__all__ = [
    "Comparison",
    "Layout",
    "Origin",
    "Quantity",
    "Row",
    "Run",
    "Store",
    "Summary",
    "chunk_lengths",
    "compare",
    "entries",
    "load",
    "origin",
    "place",
    "provenance",
    "read_summary",
    "recorded",
    "write_summary",
]

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
    must when it is read from `data`. Whatever is small is checked whole: manifest, config, metadata, summary.
    InputError names the file that is not as it was written, and where `path` is no run directory.
    """
    folder = place(path)
    manifest = Manifest(folder)
    if manifest.lost:
        cure = f"{manifest.lost}: `slt resume {folder}` goes on from the lines before it"
        raise InputError("run", str(manifest.path), cure)
    damage = next(manifest.damage(verify), None)
    if damage is not None:
        cure = f"{damage.problem}: `slt resume {folder}` computes it again"
        raise InputError("run", str(folder / damage.file), cure)
    found = origin(manifest)
    if found.lost:
        raise InputError("run", str(folder / CONFIG), f"{found.lost}: `slt resume {folder}` restores it")
    root = folder / DATA / "zarr.json"
    if not readable(folder):
        raise InputError("run", str(root), f"cannot be read or was altered: `slt resume {folder}` mends it")

    def look(key: str, content: bytes) -> None:
        manifest.look(f"{DATA}/{key}", content)

    store = zarr_store(folder / DATA, look)
    try:
        tree = xr.open_datatree(store, engine="zarr", chunks=None, decode_times=False, zarr_format=3)
        groups = {name: _cut(tree[name].to_dataset(), state) for name, state in manifest.parts.items()}
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError("run", str(root), f"does not fit the run ({error}): `slt resume {folder}` mends it") from error
    attrs = {key: value for key, value in tree.attrs.items() if key != CHECKSUM}
    data = xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})
    summary = read_summary(folder) if (folder / SUMMARY).exists() else None
    return Run(folder, data, found.config, summary, manifest.health(), measures.load(manifest))


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
    for cell, chain, draw, status in (entry for bucket in state.broken.values() for entry in bucket):
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
