"""A run spread over devices: cells and chains over the flat axis of a mesh, one large model's parameters over another.

Each device advances its own chains without a word to the others: on the flat axis the program holds no collective.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slt.typing import InputError

ROWS, CHAINS, PARAMS = "rows", "chains", "params"
FLAT = frozenset((ROWS, CHAINS))
SHARED, BY_ROW, BY_CHAIN = PartitionSpec(), PartitionSpec(ROWS), PartitionSpec(ROWS, CHAINS)
BUFFERED = PartitionSpec(None, ROWS, CHAINS)


@dataclass(frozen=True)
class Spread:
    """The devices of a run, `params` of them to one copy of the model's parameters. None in its place: one device.

    Keys and draws do not depend on it, but for the rounding of sums that are taken in another order.
    """

    devices: tuple[Any, ...]
    params: int = 1

    def mesh(self, rows: int, chains: int) -> Mesh:
        """The mesh (rows, chains, params) for so many cells (or ladders) and chains, the least work on any device.

        Chains are split evenly; rows are padded where they do not divide.
        """
        flat = len(self.devices) // self.params
        splits = [over for over in range(1, flat + 1) if flat % over == 0 and chains % over == 0]
        over = min(splits, key=lambda over: (-(-rows // (flat // over)) * (chains // over), over))
        return Mesh(np.array(self.devices).reshape(flat // over, over, self.params), (ROWS, CHAINS, PARAMS))


def spread(devices: int | str | None = None) -> Spread | None:
    """What `devices` asks for: "auto" all accelerators here (on a CPU, one), N that many, "NxP" with P to a model.

    None where one device does it all. InputError where there are fewer.
    """
    here = jax.devices()
    if devices in ("auto", None):
        number, params = (1, 1) if here[0].platform == "cpu" and jax.process_count() == 1 else (len(here), 1)
    else:
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", str(devices))
        if match is None:
            raise InputError("devices", devices, "give auto, a number such as 4, or 4x2: each model over 2 of the 8")
        params = int(match[2] or 1)
        number = int(match[1]) * params
    if number > len(here):
        cure = f"there are {len(here)} ({here[0].platform}): ask for as many, or auto"
        raise InputError("devices", devices, f"{cure}; on a CPU set JAX_NUM_CPU_DEVICES={number}")
    if jax.process_count() > 1 and number != len(here):
        raise InputError(
            "devices", devices, f"a run over several processes takes all {len(here)} devices: leave it out"
        )
    return None if number == 1 else Spread(tuple(here[:number]), params)


def over_chains(mesh: Mesh | None, arguments: tuple[PartitionSpec, ...], results: Any, fn: Callable[..., Any]) -> Any:
    """`fn` on every device's own rows and chains; `fn` itself without a mesh."""
    if mesh is None:
        return fn
    manual = FLAT if mesh.shape[PARAMS] > 1 else FLAT | {PARAMS}  # what is left XLA splits by itself
    return jax.shard_map(fn, mesh=mesh, in_specs=arguments, out_specs=results, axis_names=set(manual), check_vma=False)


def put(mesh: Mesh | None, spec: PartitionSpec, tree: Any, large: frozenset[tuple[int, ...]] = frozenset()) -> Any:
    """Arrays laid out over a mesh, their rows padded by the last; where they lie so already nothing is moved.

    large: shapes, without what `spec` names, that are spread over the mesh's parameter axis.
    """
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: _put(mesh, spec, leaf, large), tree)


def _put(mesh: Mesh, spec: PartitionSpec, leaf: Any, large: frozenset[tuple[int, ...]]) -> Any:
    if not isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    if ROWS in spec and leaf.shape[0] % mesh.shape[ROWS]:
        padded = -(-leaf.shape[0] // mesh.shape[ROWS]) * mesh.shape[ROWS]
        leaf = leaf[np.minimum(np.arange(padded), leaf.shape[0] - 1)]
    sharding = NamedSharding(mesh, _split(mesh, spec, tuple(leaf.shape), large))
    if getattr(leaf, "sharding", None) == sharding:
        return leaf
    if mesh.is_multi_process:
        return _global(leaf, sharding)
    return jax.device_put(leaf, sharding)


def _global(leaf: Any, sharding: NamedSharding) -> Any:
    """An array that every process holds whole, as one of all processes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_global(jax.random.key_data(leaf), sharding))
    whole = gathered(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _split(mesh: Mesh, spec: PartitionSpec, shape: tuple[int, ...], large: frozenset[tuple[int, ...]]) -> PartitionSpec:
    """`spec`, with the longest axis of a large array that divides given to the parameters."""
    parts = mesh.shape[PARAMS]
    for lead in (len(spec), len(spec) + 1):  # rungs of a ladder stand between
        if parts > 1 and shape[lead:] in large:
            fit = [axis for axis in range(lead, len(shape)) if shape[axis] % parts == 0]
            if fit:
                axis = max(fit, key=lambda axis: shape[axis])
                return PartitionSpec(*spec, *itertools.repeat(None, axis - len(spec)), PARAMS)
    return spec


def shapes(params: Any) -> frozenset[tuple[int, ...]]:
    """The shapes of a model's arrays: what `put` may split."""
    return frozenset(tuple(leaf.shape) for leaf in jax.tree.leaves(params) if math.prod(leaf.shape) > 1)


def gathered(leaf: Any) -> np.ndarray:
    """An array whole on this host, wherever its parts lie."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def trimmed(mesh: Mesh | None, rows: int, tree: Any) -> Any:
    """The first `rows` rows of arrays laid out by `put`; whole on this host where several processes hold them."""
    if mesh is None:
        return tree
    return jax.tree.map(functools.partial(_trimmed, mesh, rows), tree)


def _trimmed(mesh: Mesh, rows: int, leaf: Any) -> Any:
    if mesh.is_multi_process:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(gathered(jax.random.key_data(leaf))[:rows]))
        return gathered(leaf)[:rows]
    return leaf if leaf.shape[0] == rows else leaf[:rows]
