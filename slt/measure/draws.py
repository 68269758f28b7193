"""The draws that phases are looked for among: given as arrays, read from a dataset, or made by replica exchange."""

from typing import Any, NamedTuple

import jax
import numpy as np

from slt.cells import grid
from slt.engine import Schedule, prepare
from slt.model import Model
from slt.observables import parameters, trace
from slt.samplers.exchange import ReplicaExchange
from slt.samplers.mcmc import HMC
from slt.typing import Batch, InputError, Params


class Draws(NamedTuple):
    """points [k, chain, draw, d], the name and values [k] of what k runs over, and t [k] there."""

    points: np.ndarray
    axis: str
    at: np.ndarray
    t: np.ndarray


def thinned(drawn: Draws, most: int, size: int) -> Draws:
    """At most about `most` of the draws, evenly, checked."""
    points = drawn.points
    if points.shape[-1] != size:
        raise InputError("draws", points.shape, f"each draw needs the model's {size} parameters")
    every = max(1, -(-points.shape[0] * points.shape[1] * points.shape[2] // most))
    points = np.asarray(points[:, :, every - 1 :: every], np.float64)
    if not points.size or not np.isfinite(points).all():
        raise InputError("draws", points.shape, "needs draws, all of them finite")
    return drawn._replace(points=points)


def sampled(model: Model, data: Batch | None, t: np.ndarray, seed: int) -> Draws:
    """Draws by replica exchange."""
    if model.is_potential:
        cells, axis = grid(model, t=list(t)), "t"
    elif data is None:
        raise InputError("draws", None, "give draws, or data to sample the posterior of")
    else:
        n = jax.tree.leaves(data)[0].shape[0]
        cells, axis = grid(model, n=[n], beta=[float(each / n) for each in t]), "beta"
    watched = {"params": trace(parameters, every=20)}
    schedule = Schedule(draws=2000, chains=4, burn_in=500)
    sampler = ReplicaExchange(HMC(), axis=axis)
    ran = prepare(model, sampler, cells, watched, schedule, key=jax.random.key(seed), data=data).run()
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(ran.traces["params"])]
    flat = np.concatenate([leaf.reshape(*leaf.shape[:3], -1) for leaf in leaves], axis=-1)
    return Draws(flat[: len(t), :, 25:], "t", t, t)


def of_arrays(like: Params, draws: Params, t: Any) -> Draws:
    """Parameters whose leaves have leading axes [k, chain, draw], [k, draw] or [draw]."""
    leaves, wanted = jax.tree.leaves(draws), jax.tree.leaves(like)
    if len(leaves) != len(wanted):
        raise InputError("draws", jax.tree.structure(draws), f"needs the structure of the parameters, {like}")
    flat = []
    for leaf, want in zip(leaves, wanted, strict=True):
        array = np.asarray(leaf)
        lead = array.ndim - len(want.shape)
        if not 1 <= lead <= 3 or array.shape[lead:] != want.shape:
            raise InputError("draws", array.shape, f"a leaf needs axes [k, chain, draw] and then {want.shape}")
        shape = {1: (1, 1, *array.shape[:1]), 2: (array.shape[0], 1, array.shape[1]), 3: array.shape[:3]}[lead]
        flat.append(array.reshape(*shape, -1))
    points = np.concatenate(flat, axis=-1)
    times = np.atleast_1d(np.asarray(1.0 if t is None else t, float))
    if len(times) != len(points) or not (times > 0).all():
        raise InputError("t", t, f"needs {len(points)} positive values, one for each block of draws")
    return Draws(points, "t", times, times)


def of_dataset(data: Any) -> Draws:
    """The kept parameters of a dataset of `slt.sweep` or of a part of a run, burn-in left out.

    Over t or n; data sets count as further chains, of several beta the first is taken, of other axes too.
    """
    names = [name for name in data.data_vars if name == "params" or str(name).startswith("params.")]
    if not names:
        raise InputError("draws", sorted(map(str, data.data_vars)), "no parameters were kept: set schedule.keep_params")
    axis = "t" if "t" in data.dims else "n"
    keep = np.flatnonzero(np.asarray(data["kept_draw"]) >= int(np.asarray(data["burn_in"]).sum()))
    if not keep.size:
        raise InputError("draws", int(data.sizes["kept"]), "no kept parameters after burn-in")
    rest = [dim for dim in data[names[0]].dims if dim in ("beta", "gamma") or str(dim).startswith("control")]
    cut = data.isel(dict.fromkeys(rest, 0)).isel(kept=keep)
    leaves = []
    for name in names:
        array = cut[name]
        inner = [dim for dim in array.dims if str(dim).startswith("params")]
        chains = [dim for dim in array.dims if dim not in (axis, "kept", *inner)]
        values = np.asarray(array.transpose(axis, *chains, "kept", *inner))
        count = int(np.prod(values.shape[1 : 1 + len(chains)]))
        leaves.append(values.reshape(values.shape[0], count, len(keep), -1))
    at = np.asarray(cut[axis], float)
    beta = np.ravel(np.asarray(cut["beta_value"], float)) if axis == "n" and "beta_value" in cut.coords else 1.0
    return Draws(np.concatenate(leaves, axis=-1), axis, at, at * beta)
