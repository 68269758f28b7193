"""Several runs as one dataset: joined along the axes of their grids, and along `run` where other settings differ."""

import hashlib
import json
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from slt.results import Run, entries, write_summary
from slt.results.place import is_local, move, replace
from slt.typing import InputError, Quantity

DATA, RUNS = "data.zarr", "runs.json"
FILL = {"f": np.nan, "c": np.nan, "i": -1, "u": 0, "b": False}


@dataclass(frozen=True)
class Merged:
    """Runs joined. data: one group a part; quantities likewise; settings: of every run, by label, what differs.

    Missing points are NaN (-1 for whole numbers). The axis `run` has the labels; each setting is a coordinate along it.
    """

    data: xr.DataTree
    quantities: dict[str, Quantity]
    settings: dict[str, dict[str, Any]]
    runs: tuple[Run, ...]


def merge(runs: Sequence[Run]) -> Merged:
    """Join runs. InputError where they are of different kinds: other parts, or values that contradict one another."""
    parts = [tuple(run.data.children) for run in runs]
    if len(set(parts)) != 1:
        raise InputError("runs", [list(names) for names in parts], "have different parts: merge runs of one kind")
    settings = differing(runs)
    labels = [", ".join(f"{_short(key)}={_word(value)}" for key, value in one.items()) for one in settings]
    groups: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        groups.setdefault(label, []).append(number)
    chosen = {label: settings[members[0]] for label, members in groups.items()}
    trees: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs={"runs": len(runs)})}
    for name in parts[0]:
        found = [run.data[name].to_dataset() for run in runs]
        trees[name] = _joined(name, found, groups, chosen)
        trees[name].attrs = _common([one.attrs for one in found])
        trees[name].attrs["complete"] = all(bool(one.attrs["complete"]) for one in found)
    names = dict.fromkeys(name for run in runs for name in run.quantities)
    quantities = {name: _quantity(name, [run.quantities.get(name) for run in runs], groups) for name in names}
    return Merged(xr.DataTree.from_dict(trees), quantities, chosen, tuple(runs))


def differing(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """By run, the settings of its config in which not all agree, but for the axes of grids and the config's name."""
    flat = [dict(entries(run.config)) for run in runs]
    paths = dict.fromkeys(path for one in flat for path in one)

    def varies(path: str) -> bool:
        return len({json.dumps(one.get(path), sort_keys=True, default=str) for one in flat}) > 1

    kept = [path for path in paths if path != "name" and "grid" not in path.split(".") and varies(path)]
    return [{path: one.get(path) for path in kept} for one in flat]


def save(merged: Merged, folder: Path) -> None:
    """Write data.zarr, summary.json and runs.json (each run's name, digest and settings) into a new directory.

    It appears as a whole; in an object store runs.json is written last.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("out", str(folder), "exists, and is never overwritten: give another directory")
    local = is_local(folder)
    fresh = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}" if local else Path(tempfile.mkdtemp(prefix="slt-"))
    try:
        fresh.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # text and consolidated metadata are extensions of Zarr's format
            merged.data.to_zarr(fresh / DATA, mode="w", zarr_format=3, consolidated=True)
        told = [
            {"run": run.path.name, "digest": run.data.attrs.get("digest", ""), "complete": run.complete, "settings": s}
            for run, s in zip(merged.runs, differing(merged.runs), strict=True)
        ]
        replace(fresh / RUNS, json.dumps(told, indent=1, default=str).encode())
        health = {f"{run.path.name}: {part}": one for run in merged.runs for part, one in run.health.items()}
        seconds = sum(run.summary.wall_s for run in merged.runs if run.summary is not None)
        digest = hashlib.sha256("".join(sorted(one["digest"] for one in told)).encode()).hexdigest()
        write_summary(fresh, merged.quantities, health, seconds, digest)
        if not local:
            files = sorted(path for path in fresh.rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: path.name == RUNS):
                move(path, folder / path.relative_to(fresh).as_posix())
            return
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    except OSError as error:
        raise InputError("out", str(folder), f"cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _short(path: str) -> str:
    return path.removesuffix("._target_")


def _word(value: Any) -> str:
    return value.rpartition(".")[2] if isinstance(value, str) else json.dumps(value, default=str)


def _common(attrs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    same = [key for key in attrs[0] if all(str(one.get(key)) == str(attrs[0][key]) for one in attrs)]
    return {key: attrs[0][key] for key in same}


def _fills(data: Sequence[xr.Dataset]) -> dict[Any, Any]:
    return {name: FILL.get(v.dtype.kind, "") for one in data for name, v in one.variables.items()}


def _padded(data: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Dims that have no labels made as long as the longest, by missing values."""
    plain = {dim for one in data for dim in one.dims if dim not in one.indexes}
    longest = {dim: max(one.sizes.get(dim, 0) for one in data) for dim in plain}
    fills, padded = _fills(data), []
    for one in data:
        lacking = {dim: (0, size - one.sizes[dim]) for dim, size in longest.items() if 0 < one.sizes.get(dim, 0) < size}
        if lacking:
            mine = {name: fills[name] for name in one.variables}
            one = one.pad(lacking, constant_values=mine)
        padded.append(one)
    return padded


def _joined(
    name: str,
    data: Sequence[xr.Dataset],
    groups: Mapping[str, Sequence[int]],
    settings: Mapping[str, Mapping[str, Any]],
) -> xr.Dataset:
    scalars = {key for one in data for key, value in one.coords.items() if value.ndim == 0}
    moved = [key for key in scalars if len({str(one.coords[key].values) for one in data if key in one.coords}) > 1]
    wide = [one.expand_dims([key for key in moved if key in one.coords]) for one in _padded(data)]
    dtypes = {key: value.dtype for one in wide for key, value in one.variables.items()}
    try:
        pieces = [_grid([wide[i] for i in members]) for members in groups.values()]
        if len(pieces) == 1:
            return _typed(pieces[0], dtypes)
        along = _along(groups)
        whole = xr.concat(
            pieces, along, data_vars="all", coords="different", compat="equals", join="outer", fill_value=_fills(pieces)
        )
    except (ValueError, xr.MergeError) as error:
        raise InputError("runs", name, f"cannot be joined: {' '.join(str(error).split())}") from error
    for key in next(iter(settings.values())):
        values = [one[key] for one in settings.values()]
        plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        shown = np.array(values) if plain else np.array([_word(value) for value in values], object)
        whole = whole.assign_coords({key: ("run", shown)})
    return _typed(whole, dtypes)


def _along(groups: Mapping[str, Sequence[int]]) -> xr.DataArray:
    return xr.DataArray(np.array(list(groups), object), dims="run", name="run")


def _grid(pieces: Sequence[xr.Dataset]) -> xr.Dataset:
    """Pieces of one grid; where they overlap they must agree."""
    if len(pieces) == 1:
        return pieces[0]
    holed = [one.map(_holed) for one in pieces]
    return xr.merge(holed, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


def _holed(array: xr.DataArray) -> xr.DataArray:
    """Whole numbers as floats, so that a missing point can be told."""
    return array.astype(float) if array.dtype.kind in "iub" else array


def _typed(data: xr.Dataset, dtypes: Mapping[Any, np.dtype]) -> xr.Dataset:
    """Every variable in its own dtype again."""
    for name, variable in data.variables.items():
        wanted = dtypes.get(name, variable.dtype)
        if wanted.kind in "iub" and variable.dtype != wanted:
            filled = variable.where(variable.notnull(), FILL[wanted.kind]).astype(wanted)
            data = data.assign_coords({name: filled}) if name in data.coords else data.assign({name: filled})
    return data


def _quantity(name: str, given: Sequence[Quantity | None], groups: Mapping[str, Sequence[int]]) -> Quantity:
    """One quantity of all runs, NaN where a run has none."""

    def array(one: Quantity | None) -> xr.Dataset:
        if one is None:
            return xr.Dataset()
        dims = tuple(one.coords)
        data = {"value": (dims, np.asarray(one.value, float)), "stderr": (dims, np.asarray(one.stderr, float))}
        if one.interval is not None:
            data["interval"] = ((*dims, "bound"), np.asarray(one.interval, float))
        return xr.Dataset(data, coords={dim: np.asarray(values) for dim, values in one.coords.items()})

    pieces = [_grid([array(given[i]) for i in members]) for members in groups.values()]
    whole = pieces[0]
    if len(pieces) > 1:
        whole = xr.concat(pieces, _along(groups), join="outer", data_vars="all", coords="minimal",
                          compat="override")  # fmt: skip
    dims = [str(dim) for dim in whole["value"].dims]
    coords = {dim: whole[dim].values.tolist() for dim in dims}
    interval = whole["interval"].transpose(*dims, "bound").values if "interval" in whole else None
    return Quantity(whole["value"].values, whole["stderr"].transpose(*dims).values, coords, interval)
