"""Phases by the nearest of given centres, modulo a symmetry."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from slt.phases.partition import Phases
from slt.typing import InputError, Integer, Params

Map = Callable[[Params], Params]


class Points:
    """Arrays [k, ...] (a pytree) held as a constant, hashed and compared by content."""

    def __init__(self, tree: Any):
        leaves, self._treedef = jax.tree.flatten(tree)
        self._leaves = [np.asarray(leaf) for leaf in leaves]
        known = repr((self._treedef, [(leaf.shape, str(leaf.dtype)) for leaf in self._leaves])).encode()
        self._digest = hashlib.sha256(b"".join([known, *(leaf.tobytes() for leaf in self._leaves)])).hexdigest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Points) and self._digest == other._digest

    @property
    def tree(self) -> Any:
        """The arrays, floats in the default type."""
        return jax.tree.unflatten(
            self._treedef,
            [jnp.asarray(x, jnp.result_type(float)) if x.dtype.kind == "f" else jnp.asarray(x) for x in self._leaves],
        )


@dataclass(frozen=True)
class UnitMap:
    """Parameters with the units of the named leaves in another order, then multiplied by signs."""

    order: tuple[int, ...]
    signs: tuple[int, ...]
    leaves: tuple[tuple[str, int], ...]

    def __call__(self, params: Params) -> Params:
        new = dict(params)
        for name, axis in self.leaves:
            shape = [-1 if i == axis % params[name].ndim else 1 for i in range(params[name].ndim)]
            new[name] = jnp.take(params[name], np.array(self.order), axis=axis)
            new[name] *= jnp.asarray(self.signs, params[name].dtype).reshape(shape)
        return new


def unit_symmetries(units: int, leaves: Sequence[tuple[str, int]], *, flips: bool = False) -> tuple[UnitMap, ...]:
    """The permutations of hidden units, with `flips` of their signs too (odd units: tanh), as maps for `by_nearest`.

    leaves: (name, axis of the units) of all that a permutation moves. 2^h h! maps, so for a few units; for more give a
    canonicaliser.
    """
    signs = list(itertools.product((1, -1), repeat=units)) if flips else [(1,) * units]
    return tuple(UnitMap(p, s, tuple(leaves)) for p in itertools.permutations(range(units)) for s in signs)


@dataclass(frozen=True)
class Gram:
    """W^T W of one leaf [r, c] in place of W: what rotations and reflections of its r rows leave alone."""

    name: str

    def __call__(self, params: Params) -> Params:
        return {**params, self.name: params[self.name].T @ params[self.name]}


@dataclass(frozen=True)
class Nearest:
    """Label of the centre nearest to the orbit of features(params) under a symmetry; -1 beyond `radius`.

    centres [k, ...]: features of the centres; which: the label of each. symmetry: maps of parameters over which the
    distance is minimised (the identity among them), or one canonicaliser, applied to draws and centres alike.
    """

    centres: Points
    which: tuple[int, ...]
    symmetry: tuple[Map, ...] | Map = ()
    features: Callable[[Params], Any] | None = None
    radius: float = float("inf")

    def __call__(self, params: Params) -> Integer:
        centres = jax.vmap(lambda tree: ravel_pytree(tree)[0])(self.centres.tree)
        orbit = [params] if not isinstance(self.symmetry, tuple) else [g(params) for g in self.symmetry] or [params]
        seen = jnp.stack([self._flat(point) for point in orbit])
        squares = jnp.sum(jnp.square(seen[:, None] - centres[None]), axis=-1)
        nearest = jnp.min(squares, axis=0)
        label = jnp.asarray(self.which, jnp.int32)[jnp.argmin(nearest)]
        return jnp.where(jnp.min(nearest) <= self.radius**2, label, -1)

    def _flat(self, params: Params) -> Array:
        made = params if isinstance(self.symmetry, tuple) else self.symmetry(params)
        return ravel_pytree(made if self.features is None else self.features(made))[0]


def by_nearest(
    names: Sequence[str],
    centres: Sequence[Params],
    symmetry: Sequence[Map] | Map = (),
    *,
    features: Callable[[Params], Any] | None = None,
    radius: float = float("inf"),
    rule: str = "",
) -> Phases:
    """Phases by the nearest of given centres modulo a symmetry group.

    names[i]: of centres[i], a name may stand at several. symmetry: maps of parameters (`unit_symmetries`), or one
    canonicaliser (`Gram("W")`, for rotations). features: in whose space distances are measured (predictions).
    """
    if len(names) != len(centres) or not names:
        raise InputError("centres", len(centres), f"needs one centre for each of the {len(names)} names")
    group = tuple(symmetry) if isinstance(symmetry, Sequence) else symmetry
    points = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), centre) for centre in centres]
    if not isinstance(group, tuple):
        points = [group(point) for point in points]
    if features is not None:
        points = [features(point) for point in points]
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *points)
    unique = tuple(dict.fromkeys(names))
    which = tuple(unique.index(name) for name in names)
    label = Nearest(Points(stacked), which, group, features, float(radius))
    return Phases(unique, label, rule or "the nearest of given centres" + (", modulo a symmetry" if group else ""))
