"""What `slt.transition` returns, and what may be asked of it beside the crossing."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from slt.measure.barrier import Order
from slt.measure.regions import PhaseReport
from slt.transitions.crossing import Crossing, Crossings, Difference
from slt.transitions.kind import Kind
from slt.transitions.paths import Paths
from slt.transitions.predictions import Prediction
from slt.typing import Estimate, Quantity


@dataclass(frozen=True)
class Transition:
    """Crossings of F_a and F_b of the phases `names` along `axis` (t, n, beta or a control), and what they are.

    critical: the one crossing from a to b (None: there is none, or there are several: see `crossings`); kind: of it, or
    of the first crossing where it is None. x, free_energy: Estimate [x, 2] over the values asked for (on data averaged
    over data sets, and refined); refined: F_a - F_b close about the crossings, whence these were measured. predictions:
    theory beside it (along t; elsewhere only what is known exactly). paths: crossings of single data sets. report:
    everything of the phases over the values asked for (along t). verdict: all in a few sentences; str() gives it.
    """

    names: tuple[str, str]
    axis: str
    x: Float[np.ndarray, " x"]
    free_energy: Estimate
    crossings: Crossings
    critical: Crossing | None
    kind: Kind | None
    predictions: tuple[Prediction, ...]
    paths: Paths | None
    refined: Difference
    report: PhaseReport | None
    verdict: str

    def __str__(self) -> str:
        return self.verdict

    @property
    def quantities(self) -> dict[str, Quantity]:
        """critical_t[a->b] (or _n, _beta, or of the control) with its 90 per cent interval, and barrier[a->b] at it
        where measured.
        """
        if self.critical is None:
            return {}
        name, at = f"[{self.names[0]}->{self.names[1]}]", self.critical
        value, stderr = np.asarray(at.value), np.asarray(at.stderr)
        found = {f"critical_{self.axis}{name}": Quantity(value, stderr, {}, np.asarray(at.interval))}
        if self.kind is not None and self.kind.barrier is not None:
            top = self.kind.barrier
            found[f"barrier{name}"] = Quantity(np.asarray(top.value), np.asarray(top.stderr), {})
        return found


class Asks(NamedTuple):
    """Arguments of `transition`; turns: whether the phases may be named in the order in which they follow."""

    order: Order | None
    profile: bool
    exact: float | None
    rtol: float
    seconds: float
    turns: bool


def first(found: Crossings) -> Crossing | None:
    """The crossing whose kind is told: the one from a to b, or the first of all."""
    return found.only() or next(iter(found.found), None)


def backward(found: Crossings) -> bool:
    """Whether the first crossing leads from b to a."""
    return bool(found.found) and not found.found[0].upward
