"""Trajectories on disk: parameters and arrays by Orbax, what was asked for as JSON beside them."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slt.dynamics import Trajectories
from slt.model import Model
from slt.typing import InputError

FORMAT = 1
_ARRAYS = ("steps", "curve_steps", "curve", "phase", "ok", "broken_at", "scale", "rate", "levels")


def save(trajectories: Trajectories, folder: str | Path) -> Path:
    """Write trajectories into a new `folder`; InputError where something is there already."""
    import orbax.checkpoint as ocp  # takes two seconds

    folder = Path(folder).absolute()
    if folder.exists():
        raise InputError("folder", str(folder), "exists: nothing is overwritten, give another")
    leaves = jax.tree.leaves(trajectories.params)
    arrays = {name: np.asarray(getattr(trajectories, name)) for name in _ARRAYS if getattr(trajectories, name).size}
    params = {f"{number:04d}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
    said = {
        "format": FORMAT,
        "names": trajectories.names,
        "rule": trajectories.rule,
        "floor": trajectories.floor,
        "settings": trajectories.settings,
        "shapes": {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in params.items()},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(said, default=str).encode(), np.uint8)
    with _checkpointer() as writer:  # all in one item, which Orbax commits whole or not at all
        writer.save(folder, args=ocp.args.PyTreeSave({"params": params, "arrays": arrays, "about": text}), force=True)
    return folder


def load(folder: str | Path, model: Model) -> Trajectories:
    """Read trajectories back; `model` is the one that was trained, whose parameters' structure they take.

    InputError where the folder holds none, or those of another model.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise InputError("folder", str(folder), "no such folder: give one that `save` wrote")
    try:
        with _checkpointer() as reader:
            found = reader.restore(folder)
        said = json.loads(np.asarray(found["about"], np.uint8).tobytes())
        leaves = [np.asarray(found["params"][name]) for name in sorted(found["params"])]
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise InputError("folder", str(folder), f"holds no trajectories ({error})") from error
    like, treedef = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    if [leaf.shape[2:] for leaf in leaves] != [leaf.shape for leaf in like]:
        raise InputError(
            "model", [leaf.shape for leaf in like], "is not the one trained: its parameters have other shapes"
        )
    kept: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in found["arrays"].items()}
    kept.setdefault("levels", np.zeros((0, 2)))
    about = {name: said[name] for name in ("rule", "floor", "settings")} | {"names": tuple(said["names"])}
    return Trajectories(params=jax.tree.unflatten(treedef, leaves), **about, **kept)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_quiet)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))


def _quiet(record: logging.LogRecord) -> bool:
    said = str(record.msg)
    return "Skipping merge of OCDBT" not in said and "shard" not in said.lower()
