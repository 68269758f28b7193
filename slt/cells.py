"""Cells: the points of a grid over n, beta (or t), gamma, data seed and control parameters, with their random keys."""

import dataclasses
import hashlib
import itertools
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from slt.model import Model
from slt.typing import InputError, Key

LARGEST_N = 2**30  # samples: beyond, the engine's int32 cannot count the power of two that they are padded to
EXACT = 2**53  # a coordinate is hashed as a float64: beyond, two whole numbers have one key
CELLS = 2**20
BETA = re.compile(r"^\s*(?:(?P<factor>\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(?P<over>/\s*log\s*n)?)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Cell:
    """One point of the grid. For a potential n is 1 and beta is t.

    beta_label is how beta was asked for ("1", "1/log n"); control: sorted (name, value) pairs; centre and mask count
    the run's centres and masks.
    """

    n: int
    beta: float
    gamma: float = 0.0
    data_seed: int = 0
    control: tuple[tuple[str, float], ...] = ()
    beta_label: str = ""
    centre: int = 0
    mask: int = 0

    @property
    def coords(self) -> dict[str, float]:
        """Every number that tells this cell from others, by name."""
        named = {"n": self.n, "beta": self.beta, "gamma": self.gamma, "data_seed": self.data_seed}
        return named | {"centre": self.centre, "mask": self.mask} | {f"control.{name}": v for name, v in self.control}

    def at(self, axis: str, value: float) -> "Cell":
        """This cell moved along "n", "beta" or "t"; below its own n it keeps n, with beta lowered in proportion."""
        if axis != "n":
            return dataclasses.replace(self, beta=float(value))
        if value < self.n:
            return dataclasses.replace(self, beta=self.beta * value / self.n)
        return dataclasses.replace(self, n=math.ceil(value))


def beta_value(label: str | float, n: int) -> float:
    """beta at n: a number, or "c/log n" (Watanabe's 1/log n for c = 1)."""
    if not isinstance(label, str):
        return _number("beta", label, 0.0)
    match = BETA.match(label)
    if match is None:
        raise InputError("grid.beta", label, "give a number >= 0 or 'c/log n' such as '1/log n'")
    factor = float(match["factor"])
    if match["over"] is None:
        return factor
    if n < 2:
        raise InputError("grid.n", n, f"beta = {label} needs n >= 2: log n is 0 at n = 1")
    return factor / math.log(n)


def beta_text(label: str | float) -> str:
    """The label under which a beta stands in datasets."""
    return re.sub(r"\s*/\s*log\s*n", "/log n", label.strip()) if isinstance(label, str) else f"{float(label):g}"


def _axis(name: str, values: object) -> list:
    values = np.asarray(values).tolist() if isinstance(values, np.ndarray | jax.Array) else values
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    if not listed:
        raise InputError(f"grid.{name}", values, "is empty: give at least one value")
    if len({str(v) for v in listed}) != len(listed):
        raise InputError(f"grid.{name}", values, "has a value twice")
    return listed


def checked_seed(seed: int) -> int:
    """A run's seed as it is; InputError unless it has 32 bits, all that a key keeps without x64."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise InputError("seed", seed, f"must be a whole number from 0 to {2**32 - 1}")
    return int(seed)


def _number(name: str, value: object, low: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"grid.{name}", value, "must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < low:
        raise InputError(f"grid.{name}", value, f"must be finite and at least {low:g}")
    return number


def grid(
    model: Model,
    *,
    n: object = None,
    beta: object = ("1",),
    t: object = None,
    gamma: object = (0.0,),
    data_seed: object = (0,),
    control: Mapping[str, object] | None = None,
) -> list[Cell]:
    """All cells of the product of the axes, last fastest, in the order (t | n, beta), gamma, data_seed, controls.

    A potential is gridded over t, any other model over n and beta; everything is checked here, on the host.
    """
    named = {name: _axis(f"control.{name}", values) for name, values in sorted((control or {}).items())}
    for name, values in named.items():
        if name not in model.controls:
            has = ", ".join(model.controls) or "none"
            raise InputError(
                f"grid.control.{name}", values, f"{type(model).__name__} has no such control; it has: {has}"
            )
        named[name] = [_number(f"control.{name}", value, -math.inf) for value in values]
    gammas = [_number("gamma", value, 0.0) for value in _axis("gamma", gamma)]
    seeds = [_integer("data_seed", value, 0, EXACT) for value in _axis("data_seed", data_seed)]
    if model.is_potential:
        if t is None or n is not None:
            raise InputError(
                "grid.n" if n is not None else "grid.t",
                n if n is not None else t,
                "a potential is gridded over t, not n",
            )
        if seeds != [0]:
            raise InputError("grid.data_seed", seeds, "a potential has no data: leave it out")
        main = [(1, _number("t", value, 0.0), "") for value in _axis("t", t)]
    else:
        if n is None or t is not None:
            raise InputError(
                "grid.t" if t is not None else "grid.n",
                t if t is not None else n,
                "a model with data is gridded over n and beta, not t",
            )
        sizes = [_integer("n", value, 1, LARGEST_N) for value in _axis("n", n)]
        labels = _axis("beta", beta)
        main = [
            (size, _number("beta", beta_value(label, size), 0.0), beta_text(label))
            for size in sizes
            for label in labels
        ]
    count = math.prod(map(len, (main, gammas, seeds, *named.values())))
    if count > CELLS:
        raise InputError("grid", count, f"cells are more than {CELLS}: make several runs of them, with slt sweep")
    return [
        Cell(size, value, g, seed, tuple(zip(named, controls, strict=True)), label)
        for size, value, label in main
        for g in gammas
        for seed in seeds
        for controls in itertools.product(*named.values())
    ]


def _integer(name: str, value: object, low: int, high: int) -> int:
    number = _number(name, value, low)
    if number != int(number) or number > high:
        raise InputError(f"grid.{name}", value, f"must be a whole number, at most {high}")
    return int(number)


def digest_words(named: Mapping[str, float]) -> np.ndarray:
    """Two uint32 that depend on the names and the float64 bytes of the values, not on their order."""
    text = hashlib.sha256()
    for name in sorted(named):
        text.update(name.encode() + b"\0" + struct.pack("<d", float(named[name])))
    return np.frombuffer(text.digest()[:8], dtype="<u4").copy()


def fold_words(key: Key, words: jax.Array | np.ndarray) -> Key:
    """`key` with two uint32 folded in (`fold_in` of a float would truncate it)."""
    return jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])


def data_words(data_seed: int) -> np.ndarray:
    """What is folded into the key of a data set: the data seed alone, so a data set does not depend on the run."""
    return digest_words({"data": data_seed})
