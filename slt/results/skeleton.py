"""The Zarr tree of a run without its draws: metadata, coordinates, and the small variables that were added later."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
import zarr.storage
from zarr.codecs import ZstdCodec

from slt.results.layout import Layout
from slt.results.manifest import checksum

DATA = "data.zarr"
LEVEL = 1  # a flipped bit of zstd with its checksum fails to decode, whoever reads the store


def write(
    folder: Path, parts: Mapping[str, Layout], added: Mapping[str, Mapping[str, Any]], attrs: Mapping[str, Any]
) -> dict[str, dict[str, list]]:
    """Write all metadata and coordinates under `folder`; by part, {file: [bytes, checksum]} of the coordinates.

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
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    records = {file: [len(content), checksum(content)] for file, content in contents.items()}

    def stored(name: str) -> dict[str, list]:
        own = f"{DATA}/{name}/"
        return {file: record for file, record in records.items() if file.startswith(own) and not file.endswith(".json")}

    return {name: stored(name) for name in parts}


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
