"""Checkpoints of a bucket's carry: one array of bytes, committed by Orbax, in an object store by a single PUT."""

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slt.engine.program import Carry
from slt.results.place import is_local, remove, replace
from slt.typing import InputError


def steps(folder: Path) -> list[int]:
    """Draws done of every checkpoint in a bucket's folder, newest first."""
    found = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()] if folder.is_dir() else []
    return sorted(found, reverse=True)


def save(folder: Path, step: int, carry: Carry) -> None:
    """Commit a checkpoint after `step` draws, then remove the older ones."""
    older = [other for other in steps(folder) if other != step]
    if is_local(folder) and jax.process_count() == 1:
        import orbax.checkpoint as ocp  # takes two seconds

        item = ocp.args.PyTreeSave({"carry": _packed(carry)})
        _checkpointer().save((folder / str(step)).absolute(), args=item, force=True)
    else:  # one file; Orbax would have all processes save together
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / str(step), _packed(carry).tobytes())
    for other in older:
        if (folder / str(other)).is_file():
            (folder / str(other)).unlink()
        else:
            remove(folder / str(other))


def read(folder: Path, step: int, like: Carry) -> Carry:
    """A checkpoint; `like` has its shapes and dtypes. InputError: another program's; ValueError, OSError: damaged."""
    path = folder / str(step)
    if path.is_file():
        return _unpacked(np.frombuffer(path.read_bytes(), np.uint8), like, folder)
    if jax.process_count() > 1:
        import zarr

        return _unpacked(np.asarray(zarr.open_array(path / "carry", mode="r")[:]), like, folder)
    import orbax.checkpoint as ocp

    wanted = ocp.args.PyTreeRestore(restore_args={"carry": ocp.RestoreArgs(restore_type=np.ndarray)})
    try:
        packed = _checkpointer().restore(path.absolute(), args=wanted)["carry"]
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error
    return _unpacked(packed, like, folder)


@functools.cache
def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_quiet)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))  # for one array, half the time


def _quiet(record: logging.LogRecord) -> bool:
    return "Skipping merge of OCDBT" not in str(record.msg)  # said of every checkpoint


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _signature(tree: Any) -> bytes:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    shown = [(jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype)) for path, leaf in leaves]
    return hashlib.sha256(repr(shown).encode()).digest()


def _packed(carry: Carry) -> np.ndarray:
    """A carry as one array of bytes, two checksums first: Orbax takes a third of the time of many small leaves."""
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(carry)]
    content = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
    return np.frombuffer(_signature(carry) + hashlib.sha256(content).digest() + content, np.uint8)


def _unpacked(packed: np.ndarray, like: Carry, folder: Path) -> Carry:
    content = packed.tobytes()
    if content[:32] != _signature(like):
        cure = "was saved by another sampler, model or version of slt; delete it to compute its draws again"
        raise InputError("checkpoint", str(folder), cure)
    if content[32:64] != hashlib.sha256(content[64:]).digest():
        raise ValueError("it was altered")
    leaves, at = [], 64
    for leaf in jax.tree.leaves(like):
        plain = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        size = plain.size * plain.dtype.itemsize
        array = jnp.asarray(np.frombuffer(content[at : at + size], plain.dtype).reshape(plain.shape))
        leaves.append(jax.random.wrap_key_data(array) if _is_key(leaf) else array)
        at += size
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
