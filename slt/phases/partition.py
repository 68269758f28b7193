"""A partition of parameter space into named phases, and the minima that are known of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slt.typing import InputError, Integer, Params

Statistic = Callable[[Params], Any]


@dataclass(frozen=True)
class Basin:
    """A known minimum (or minimal set) of the loss: a representative `params`, its population loss and local lambda.

    `phase` is the name under which the classifier counts it. None where unknown.
    """

    name: str
    params: Params
    phase: str
    loss: float | None = None
    lam: float | None = None
    multiplicity: int | None = None


@dataclass(frozen=True)
class Phases:
    """A named partition of parameter space.

    `label(params) -> int` is pure and jittable, 0 .. len(names) - 1, or -1 for 'none of them'. `rule` says in words how
    the partition is drawn: the classifier moves critical values by several per cent, so it is always reported.
    """

    names: tuple[str, ...]
    label: Callable[[Params], Integer]
    rule: str

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not self.names:
            raise InputError("phases.names", self.names, "needs at least one name, each once")

    def index(self, name: str) -> int:
        """The label of the phase called `name`."""
        if name not in self.names:
            raise InputError("phase", name, f"unknown; this partition has {', '.join(self.names)}")
        return self.names.index(name)
