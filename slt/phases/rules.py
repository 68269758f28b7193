"""Phases by a statistic of the parameters: a threshold, the loss, a rank, the number of units in use."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.phases.partition import Phases, Statistic
from slt.typing import InputError, Integer, Params, Scalar


@dataclass(frozen=True)
class Threshold:
    """Label 0 where statistic(params) < threshold, 1 elsewhere; equal by value, so that it recompiles nothing."""

    statistic: Statistic
    threshold: float

    def __call__(self, params: Params) -> Integer:
        return jnp.asarray(self.statistic(params) >= self.threshold, jnp.int32)


def by_threshold(names: tuple[str, str], statistic: Statistic, threshold: float, rule: str) -> Phases:
    """Two phases: names[0] where statistic(params) < threshold, names[1] elsewhere."""
    return Phases(names, Threshold(statistic, threshold), rule)


@dataclass(frozen=True)
class NearestLevel:
    """Index of the level nearest to loss(params); -1 where none is within `tolerance`, and at a loss not finite."""

    loss: Statistic
    levels: tuple[float, ...]
    tolerance: float = float("inf")

    def __call__(self, params: Params) -> Integer:
        value = jnp.asarray(self.loss(params))
        gaps = jnp.abs(value - jnp.asarray(self.levels, value.dtype))
        within = (jnp.min(gaps) <= self.tolerance) & jnp.isfinite(value)
        return jnp.where(within, jnp.argmin(gaps), -1).astype(jnp.int32)


@dataclass(frozen=True)
class Descent:
    """Label, by `label`, of where gradient descent on `loss` leads: `steps` of `rate`, none longer than `longest`.

    Symmetric copies of a minimum have one loss, so Descent(NearestLevel(...), ...) knows them without knowing the
    symmetry. Costs `steps` gradients a label. A step that is not finite is not made.
    """

    label: Callable[[Params], Integer]
    loss: Callable[[Params], Scalar]
    steps: int = 1000
    rate: float = 0.4
    longest: float = 0.1

    def __call__(self, params: Params) -> Integer:
        start, back = ravel_pytree(params)
        grad = jax.grad(lambda w: self.loss(back(w)))

        def step(_: Any, w: Array) -> Array:
            move = self.rate * grad(w)
            move = move * jnp.minimum(1.0, self.longest / (jnp.sqrt(jnp.vdot(move, move)) + 1e-30))
            return jnp.where(jnp.all(jnp.isfinite(move)), w - move, w)

        return self.label(back(jax.lax.fori_loop(0, self.steps, step, start)))


def by_level(
    names: Sequence[str],
    loss: Statistic,
    levels: Sequence[float],
    *,
    tolerance: float = float("inf"),
    descend: bool = False,
    steps: int = 1000,
    rate: float = 0.4,
) -> Phases:
    """Phases by the level of the loss that is nearest, of a draw or, with `descend`, of the minimum below it."""
    if len(names) != len(levels):
        raise InputError("levels", tuple(levels), f"needs one level for each of the {len(names)} names")
    label: Any = NearestLevel(loss, tuple(float(level) for level in levels), float(tolerance))
    if not descend:
        return Phases(tuple(names), label, "the nearest level of the loss")
    return Phases(
        tuple(names), Descent(label, loss, steps, rate), "the level of the loss that gradient descent reaches"
    )


@dataclass(frozen=True)
class Product:
    """The product of a network's matrices, in the order of their names with numbers read as numbers (w2 before w10).

    names: which leaves of a dictionary of parameters; None for all of its matrices.
    """

    names: tuple[str, ...] | None = None

    def __call__(self, params: Params) -> Float[Array, "i o"]:
        if self.names is not None:
            return functools.reduce(jnp.matmul, [params[name] for name in self.names])
        leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
        found = {name: leaf for name, leaf in leaves if leaf.ndim == 2}
        if not found:
            raise InputError(
                "phases", [name for name, _ in leaves], "no matrix among the parameters to take the rank of"
            )

        def order(name: str) -> list[Any]:
            return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

        return functools.reduce(jnp.matmul, [found[name] for name in sorted(found, key=order)])


@dataclass(frozen=True)
class Rank:
    """How many singular values of matrix(params) exceed their threshold, at most `largest`.

    A vector in place of a matrix holds the values themselves. Thresholds: one for all, or one for each singular value
    from the largest on.
    """

    matrix: Statistic
    largest: int
    threshold: float | tuple[float, ...]

    def __call__(self, params: Params) -> Integer:
        given = jnp.asarray(self.matrix(params))
        values = jnp.linalg.svd(given, compute_uv=False) if given.ndim == 2 else jnp.sort(jnp.abs(given))[::-1]
        values = values[: self.largest]
        bounds = jnp.asarray(self.threshold, values.dtype)
        return jnp.sum(values > (bounds if bounds.ndim == 0 else bounds[: values.shape[0]]), dtype=jnp.int32)


_PRODUCT = Product()


def by_rank(largest: int, threshold: float | tuple[float, ...] = 0.5, matrix: Statistic = _PRODUCT) -> Phases:
    """Phases 'rank 0' .. 'rank <largest>' by the number of singular values above their threshold; see `Rank`."""
    largest = _whole("largest", largest, 1)
    bounds = tuple(map(float, threshold)) if isinstance(threshold, tuple | list) else float(threshold)
    if isinstance(bounds, tuple) and len(bounds) < largest:
        raise InputError("threshold", bounds, f"needs one number, or one for each of {largest} singular values")
    text = "one number each" if isinstance(bounds, tuple) else f"{bounds:g}"
    names = tuple(f"rank {k}" for k in range(largest + 1))
    return Phases(names, Rank(matrix, largest, bounds), f"singular values above the threshold ({text})")


@dataclass(frozen=True)
class ActiveUnits:
    """How many distinct units contribute, at most `most`.

    units(params) -> (amplitude [h], place [h, p]): what each unit contributes and where it sits. Units closer than
    `merge` (through chains of neighbours) act as one, whose amplitude is the sum; those above `threshold` count.
    """

    units: Callable[[Params], tuple[Array, Array]]
    most: int
    threshold: float
    merge: float = 0.0

    def __call__(self, params: Params) -> Integer:
        above = jnp.abs(self.amplitudes(params)) > self.threshold
        return jnp.minimum(jnp.sum(above, dtype=jnp.int32), self.most)

    def amplitudes(self, params: Params) -> Float[Array, " h"]:
        """What all units contribute that act as one, in the place of the first of them; 0 in those of the others."""
        amplitude, place = self.units(params)
        count = amplitude.shape[0]
        gaps = jnp.sum(jnp.square(place[:, None] - place[None]), axis=-1)
        linked = (gaps < self.merge**2) | jnp.eye(count, dtype=bool)
        for _ in range(max(1, count - 1).bit_length()):  # chains of neighbours
            linked = jnp.any(linked[:, :, None] & linked[None], axis=1)
        group = jnp.argmax(linked, axis=1)  # a group is called by its first unit
        return jax.ops.segment_sum(amplitude, group, count)


def by_units(
    most: int,
    threshold: float,
    units: Callable[[Params], tuple[Array, Array]],
    *,
    merge: float = 0.0,
    what: str = "unit",
) -> Phases:
    """Phases '0 units' .. '<most> units' by the number of units that contribute; see `ActiveUnits`."""
    most = _whole("most", most, 1)
    names = tuple(f"{k} {what}" + "s" * (k != 1) for k in range(most + 1))
    rule = f"{what}s that contribute more than {threshold:g}" + (f", merged within {merge:g}" if merge > 0 else "")
    return Phases(names, ActiveUnits(units, most, float(threshold), float(merge)), rule)


@dataclass(frozen=True)
class HiddenUnits:
    """Units of one hidden layer: |what goes in| |what goes out| of each, all in one place.

    incoming, outgoing: names of leaves, or (name, axis of the units); biases count as incoming.
    """

    incoming: tuple[tuple[str, int], ...]
    outgoing: tuple[tuple[str, int], ...]

    def __call__(self, params: Params) -> tuple[Float[Array, " h"], Float[Array, "h h"]]:
        def size(leaves: tuple[tuple[str, int], ...]) -> Array:
            flat = [jnp.moveaxis(params[name], axis, 0) for name, axis in leaves]
            return jnp.sqrt(sum(jnp.sum(jnp.square(x.reshape(x.shape[0], -1)), axis=1) for x in flat))

        strength = size(self.incoming) * size(self.outgoing)
        return strength, jnp.zeros((strength.shape[0], 0), strength.dtype)


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(name, value, f"must be a whole number, at least {low}")
    return value
