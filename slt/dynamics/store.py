"""Training on disk: checkpoints of unfinished runs, and whole trajectories with what was asked for, by Orbax."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from slt.dynamics.program import State
from slt.model import Model
from slt.results import checkpoint
from slt.results.place import place as where
from slt.typing import InputError, Params

if TYPE_CHECKING:
    from slt.dynamics import Trajectories

LOG = logging.getLogger("slt")
OTHER = "holds checkpoints of another training (other settings, model, data or key): give another folder"


class Progress(NamedTuple):
    """R runs as far as they are: their state, and parameters at every checkpoint, the start first.

    curve: losses on the way to each checkpoint; at the start, whose loss is one, that loss so many times.
    """

    state: State
    params: list[Params]
    curve: list[Float[Array, "R fine"]]

    @property
    def done(self) -> int:
        """Intervals between checkpoints that are behind."""
        return len(self.curve) - 1


def finish(
    made: Progress, forward: Callable[[Progress], Progress], total: int, folder: str | Path | None, about: Any,
    every: float,
) -> Progress:  # fmt: skip
    """`forward`, an interval a call, until `total` are behind.

    With a folder, from the newest checkpoint in it on, and kept there each time that `every` seconds have passed and at
    the end; about: what makes this training another one than those whose starts have the same losses. InputError where
    the folder holds another's.
    """
    if folder is None:
        while made.done < total:
            made = forward(made)
        return made
    place, mark = where(folder), hashlib.sha256(repr(about).encode()).digest()
    made = _newest(place, made, np.frombuffer(mark, np.uint8))
    saved = time.monotonic()
    while made.done < total:
        made = jax.block_until_ready(forward(made))
        if made.done == total or time.monotonic() - saved >= every:
            checkpoint.save(place, made.done, _kept(made, np.frombuffer(mark, np.uint8)))
            saved = time.monotonic()
    return made


def _newest(place: Path, begun: Progress, mark: np.ndarray) -> Progress:
    """The newest checkpoint that can be read; `begun` where there is none."""
    if place.is_file():
        raise InputError("folder", str(place), "is a file: give a folder")
    for done in checkpoint.steps(place):
        like = Progress(begun.state, begun.params * (done + 1), begun.curve * (done + 1))
        try:
            found: Any = checkpoint.read(place, done, _kept(like, mark))
        except InputError as error:
            raise InputError("folder", str(place), OTHER) from error
        except (ValueError, OSError) as error:
            LOG.warning("checkpoint %s cannot be read (%s)", place / str(done), error)
            continue
        made = Progress(found["state"], found["params"], found["curve"])
        pairs = zip(*(jax.tree.leaves((one.params[0], one.curve[0])) for one in (made, begun)), strict=True)
        if not np.array_equal(found["mark"], mark) or not all(np.allclose(a, b, equal_nan=True) for a, b in pairs):
            raise InputError("folder", str(place), OTHER)
        return made
    return begun


def _kept(made: Progress, mark: np.ndarray) -> Any:
    return made._asdict() | {"mark": mark}


FORMAT = 1
_ARRAYS = ("steps", "curve_steps", "curve", "phase", "ok", "broken_at", "scale", "rate", "levels")


def save(trajectories: "Trajectories", folder: str | Path) -> Path:
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


def load(folder: str | Path, model: Model) -> "Trajectories":
    """Read trajectories back; `model` is the one that was trained, whose parameters' structure they take.

    InputError where the folder holds none, or those of another model.
    """
    from slt.dynamics import Trajectories

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
