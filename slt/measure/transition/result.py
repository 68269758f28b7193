"""What `slt.transition` returns, and what may be asked of it beside the crossing."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

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
    theory beside it (along a control only what is known exactly). paths: crossings of single data sets. report:
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
        """Of the one crossing from a to b, each with [a->b]: critical_t (or _n, _beta, or of the control) with its
        90 per cent interval; on data its errors from data sets and from chains (spread_data, spread_chains) and the
        median first and last crossings of single data sets (first_n, last_n); coexistence, barrier and
        label_entropy (`Kind.quantities`).
        """
        if self.critical is None:
            return {}
        at, found = self.critical, {f"critical_{self.axis}": _number(*self.critical[:2], self.critical.interval)}
        if self.paths is not None:
            found |= {"spread_data": _number(at.data), "spread_chains": _number(at.chains)}
            for name, ends in (("first", self.paths.first), ("last", self.paths.last)):
                found[f"{name}_{self.axis}"] = _median(ends[np.isfinite(ends)])
        if self.kind is not None:
            found |= self.kind.quantities
        return {f"{name}[{self.names[0]}->{self.names[1]}]": one for name, one in found.items()}


def _number(value: float, stderr: float = float("nan"), interval: tuple[float, float] | None = None) -> Quantity:
    return Quantity(np.array(value), np.array(stderr), {}, None if interval is None else np.array(interval))


def _median(values: Float[np.ndarray, " data"]) -> Quantity:
    """The median over data sets, with the interval between the order statistics that holds it in 90 per cent."""
    if values.size < 2:
        return _number(float(values[0]) if values.size else np.nan)
    low, high = stats.binom.ppf([0.05, 0.95], values.size, 0.5).astype(int)
    ends = np.sort(values)[[max(low - 1, 0), min(high, values.size - 1)]]
    return _number(float(np.median(values)), float(np.ptp(ends)) / 3.29, (float(ends[0]), float(ends[1])))


class Asks(NamedTuple):
    """Arguments of `transition`; hysteresis: the width of the loop in the limit of slow sweeps; turns: whether the
    phases may be named in the order in which they follow.
    """

    order: Order | None
    profile: bool
    exact: float | None
    rtol: float
    seconds: float
    turns: bool
    hysteresis: Estimate | None = None


def first(found: Crossings) -> Crossing | None:
    """The crossing whose kind is told: the one from a to b, or the first of all."""
    return found.only() or next(iter(found.found), None)


def backward(found: Crossings) -> bool:
    """Whether the first crossing leads from b to a."""
    return bool(found.found) and not found.found[0].upward
