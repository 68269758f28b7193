"""Measures of a run on disk: what was computed after its sweeps, each whole, and finished pieces of unfinished ones.

measures/<name>.zarr holds a finished measure, measures/<name>/<piece>.npz its pieces. Files go first, then a line of
the manifest; a measure or a piece whose files are missing or altered counts as never made.
"""

import io
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from slt.results.manifest import Damage, Manifest, checksum
from slt.results.place import is_local, move, remove, replace, zarr_store
from slt.typing import InputError

FOLDER = "measures"
Arrays = Mapping[str, np.ndarray]


def load(manifest: Manifest) -> dict[str, xr.Dataset]:
    """The finished measures of a run, by name; InputError for one that is damaged, where it is read."""
    found = {}
    for name in manifest.measures:
        path = _whole(manifest.folder, name)

        def look(key: str, content: bytes, path: Path = path) -> None:
            manifest.look(f"{FOLDER}/{path.name}/{key}", content)

        data = xr.open_dataset(zarr_store(path, look), engine="zarr", chunks=None, decode_times=False, zarr_format=3)
        text = {key: variable.astype(object) for key, variable in data.variables.items() if variable.dtype.kind in "TU"}
        found[name] = data.assign({str(key): variable for key, variable in text.items()})
    return found


def damaged(manifest: Manifest, name: str) -> Iterator[Damage]:
    """Files of a finished measure that are not what the manifest says."""
    return (one for one in manifest.damage(True) if one.part == f"{FOLDER}.{name}")


def forget(manifest: Manifest, name: str) -> None:
    """Drop a measure and its pieces: it will be made anew."""
    manifest.append("forget", measure=name)
    remove(_whole(manifest.folder, name))
    remove(manifest.folder / FOLDER / name)


def save(manifest: Manifest, name: str, data: xr.Dataset, draws: int, seconds: float) -> None:
    """Commit a finished measure, made in so many seconds when the run had so many draws."""
    path = _whole(manifest.folder, name)
    fresh = path.with_name(f".{path.name}") if is_local(path) else Path(tempfile.mkdtemp()) / path.name
    remove(path)
    remove(fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr's consolidated metadata and text are extensions of its format
        data.to_zarr(fresh, mode="w", zarr_format=3, consolidated=True)
    made = [file.relative_to(fresh).as_posix() for file in sorted(fresh.rglob("*")) if file.is_file()]
    files = {f"{FOLDER}/{path.name}/{file}": _record((fresh / file).read_bytes()) for file in made}
    if is_local(path):
        fresh.rename(path)
    else:
        for file in made:
            move(fresh / file, path / file)
        remove(fresh.parent)
    manifest.append("measure", measure=name, draws=draws, seconds=round(seconds, 3), files=files)


def piece(manifest: Manifest, name: str, label: str, make: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """The arrays of a piece: read where it was finished before, else made and committed."""
    slug = f"{re.sub(r'[^A-Za-z0-9.=+-]+', '_', label)[:80]}-{zlib.crc32(label.encode()):08x}.npz"
    path = manifest.folder / FOLDER / name / slug
    file = path.relative_to(manifest.folder).as_posix()
    if manifest.pieces.get(name, {}).get(file) is not None and path.exists():
        content = path.read_bytes()
        if _record(content) == list(manifest.pieces[name][file] or ()):
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                return dict(stored)
    made = {key: np.asarray(array) for key, array in make().items()}
    wrong = [key for key, array in made.items() if array.dtype.hasobject]
    if wrong:
        raise InputError(f"measures.{name}", wrong[0], "a piece holds plain numbers and fixed-length text only")
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **made)  # pyright: ignore[reportArgumentType]
    replace(path, buffer.getvalue())
    manifest.append("piece", measure=name, file=file, record=_record(buffer.getvalue()))
    return made


def _whole(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.zarr"


def _record(content: bytes) -> list:
    return [len(content), checksum(content)]
