"""The Zarr tree of a run without its draws: metadata, coordinates, and the small variables that were added later."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
import zarr.storage
from zarr.codecs import ZstdCodec

from slt.results.events import UNREADABLE
from slt.results.layout import Layout
from slt.results.manifest import checksum, own_checksum
from slt.results.place import zarr_store

DATA = "data.zarr"
ROOT, CHECKSUM = f"{DATA}/zarr.json", "checksum"
LEVEL = 1  # a flipped bit of zstd with its checksum fails to decode, whoever reads the store


def write(
    folder: Path, parts: Mapping[str, Layout], added: Mapping[str, Mapping[str, Any]], attrs: Mapping[str, Any]
) -> dict[str, dict[str, list]]:
    """Write all metadata and coordinates under `folder`; by part, {file: [bytes, checksum]} of all but the root's.

    The root's metadata, all that readers look at, hold a checksum of their own: they change in one step.

    They are made in memory: where a disk is full Zarr, which writes side by side, would leave tasks behind that fail
    once more when the process ends.
    """
    codec, made = ZstdCodec(level=LEVEL, checksum=True), {}
    memory = zarr.storage.MemoryStore(made)
    root = zarr.create_group(memory, attributes=dict(attrs), zarr_format=3)
    for name, layout in parts.items():
        coords = layout.coords | layout.growing
        data = xr.Dataset(coords=coords, attrs=layout.attrs).merge(_labelled(added.get(name, {})), join="exact")
        chunked = {key: {"chunks": (layout.chunk // layout.thinning[c.dims[0]],)} for key, c in layout.growing.items()}
        encoding = {key: {"compressors": [codec]} | chunked.get(key, {}) for key in map(str, data.variables)}
        data.to_zarr(memory, group=name, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
        for variable in layout.variables:
            root.create_array(
                f"{name}/{variable.name}",
                shape=layout.shape(variable),
                chunks=layout.chunks(variable),
                dtype=variable.dtype,
                compressors=codec,
                fill_value=variable.fill,
                dimension_names=variable.dims,
                attributes=variable.attrs,
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata are an extension of the format: one file tells it all
        zarr.consolidate_metadata(root.store)
    contents = {f"{DATA}/{key}": buffer.to_bytes() for key, buffer in sorted(made.items())}
    metadata = json.loads(contents[ROOT])
    metadata["attributes"][CHECKSUM] = own_checksum(metadata)
    contents[ROOT] = json.dumps(metadata, indent=1).encode()
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    records = {file: [len(content), checksum(content)] for file, content in contents.items()}

    return {name: {file: records[file] for file in records if file.startswith(f"{DATA}/{name}/")} for name in parts}


def readable(path: Path) -> bool:
    """Whether the root's metadata of a run directory's data can be read, and are what was written."""
    try:
        metadata = json.loads((path / ROOT).read_bytes())
        told = metadata["attributes"].pop(CHECKSUM, None)  # stores of slt before had none
        group = zarr.open_group(zarr_store(path / DATA), mode="r", zarr_format=3)
        return group.metadata.consolidated_metadata is not None and told in (None, own_checksum(metadata))
    except (OSError, *UNREADABLE):
        return False


def plain(variables: xr.Dataset) -> dict[str, Any]:
    """A small dataset as JSON, NaN as null."""

    def one(name: str) -> dict[str, Any]:
        array = variables[name]
        floats, values = array.dtype.kind == "f", array.values.astype(object)
        if floats:
            values[~np.isfinite(array.values)] = None
        told = {"dims": list(array.dims), "values": values.tolist(), "attrs": dict(array.attrs)}
        dtype = "float64" if floats else "object" if array.dtype.kind in "UTO" else array.dtype.str
        return told | {"dtype": dtype, "coord": name in variables.coords}

    return {str(name): one(str(name)) for name in variables.variables}


def _labelled(variables: Mapping[str, Any]) -> xr.Dataset:
    """`plain` read back."""
    arrays = {
        name: (one["dims"], np.array(one["values"], one["dtype"]), one["attrs"]) for name, one in variables.items()
    }
    coords = {name: array for name, array in arrays.items() if variables[name]["coord"]}
    return xr.Dataset({name: array for name, array in arrays.items() if name not in coords}, coords)
