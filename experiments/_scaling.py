"""The order of a transition along a family of systems that a config names, as a measure of a run and quantities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from slt.measure.evidence import Budget
from slt.measure.transition import scaling, transition
from slt.typing import InputError, Quantity

from . import _shared

ORDERS = {"first order": 1.0, "continuous": 0.0}


@dataclass(frozen=True)
class Scaling:
    """`slt.scaling` of a part's model: the barrier at its crossing along one control, at each t, the family's size.

    family: what grows, in words; control: its name and the values between which it crosses; runs, particles: of each
    phase at each of them.
    """

    family: str
    t: Sequence[float]
    control: Mapping[str, Sequence[float]]
    runs: int = 32
    particles: int = 512
    part: str = "main"

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for what `slt.scaling` would refuse."""
        _shared.sweep_of(parts, self.part)
        _shared.finite(self, "t", positive=True)
        _shared.whole(self, runs=2, particles=16)
        if not self.family:
            raise InputError("family", self.family, "name the family of systems along which the size grows")
        if len(set(self.t)) < 3:
            raise InputError("t", self.t, "needs at least 3 different values: an order is that of a family")

    def __call__(self, site: Any) -> xr.Dataset:
        model = site.parts[self.part].job.model

        def make() -> dict[str, np.ndarray]:
            budget, control = Budget(runs=self.runs, particles=self.particles), dict(self.control)
            found = {
                float(t): transition(model, t=t, control=control, budget=budget, seconds=1.0, key=site.key)
                for t in self.t
            }
            heights = [None if each.kind is None else each.kind.barrier for each in found.values()]
            try:
                told = scaling(self.family, found)
                kind, sentence, slope = told.kind, told.sentence, np.array(told.slope[:2])
            except InputError as error:  # no crossing, or a bound only: the run's other results stand
                kind, sentence, slope = "unresolved", str(error), np.full(2, np.nan)
            return {
                "barrier": np.array([(np.nan, np.nan) if h is None else (h.value, h.stderr) for h in heights]),
                "slope": slope,
                "words": np.array([kind, sentence, *next(iter(found.values())).names]),
            }

        one = site.once("order", make)
        kind, sentence, a, b = (str(each) for each in one["words"])
        parts = {
            "barrier": (("t",), one["barrier"][:, 0]),
            "barrier_stderr": (("t",), one["barrier"][:, 1]),
            "slope": (("number",), one["slope"]),
        }
        coords = {"t": [float(t) for t in self.t], "number": ["value", "stderr"]}
        attrs = {"family": self.family, "order": ORDERS.get(kind, np.nan), "verdict": sentence, "a": a, "b": b}
        return xr.Dataset(parts, coords, {**attrs, "part": self.part})


def quantities(run: Any) -> dict[str, Quantity]:
    """barrier_at_crossing[a->b] over t, its slope barrier_growth[a->b], and first_order[a->b] (1; 0 for continuous, NaN
    for neither) of every family that the run's measures followed; names begin with the part's unless it is main.
    """
    found: dict[str, Quantity] = {}
    for one in run.measures.values():
        if "family" not in one.attrs:
            continue
        part = "" if one.attrs["part"] == "main" else f"{one.attrs['part']}."
        name = f"[{one.attrs['a']}->{one.attrs['b']}]"
        t = {"t": one["t"].values.tolist()}
        value, stderr = one["slope"].values
        order = Quantity(np.array(one.attrs["order"]), np.array(np.nan), {})
        found |= {
            f"{part}barrier_at_crossing{name}": Quantity(one["barrier"].values, one["barrier_stderr"].values, t),
            f"{part}barrier_growth{name}": Quantity(np.array(value), np.array(stderr), {}),
            f"{part}first_order{name}": order,
        }
    return found
