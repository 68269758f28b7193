"""What the truths of several models are made of: hashable input distributions, and coefficients from slt.theory."""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from slt.model import Truth
from slt.theory.coefficient import Coefficient
from slt.typing import Key


@dataclass(frozen=True)
class NormalInputs:
    """x ~ N(0, I) in d dimensions."""

    d: int

    def __call__(self, key: Key, num: int) -> Float[Array, "num d"]:
        return jax.random.normal(key, (num, self.d))


@dataclass(frozen=True)
class UniformInputs:
    """x uniform on [low, high]^d."""

    d: int = 1
    low: float = -1.0
    high: float = 1.0

    def __call__(self, key: Key, num: int) -> Float[Array, "num d"]:
        return jax.random.uniform(key, (num, self.d), minval=self.low, maxval=self.high)


def known(coefficient: Coefficient | None, **rest: Any) -> Truth:
    """The truth with lambda, multiplicity and their source from `slt.theory` (None: not known), the rest as given."""
    if coefficient is None:
        return Truth(**rest)
    source = "; ".join(text for text in (coefficient.source, coefficient.note) if text)
    return Truth(lam=coefficient.lam, multiplicity=coefficient.m, source=source, **rest)
