"""slt.line: where two phases coexist in the plane of a control and t, followed by Clausius-Clapeyron.

F, <K> and the force on the control of every phase come from SMC confined to it (`slt.measure.plane`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from slt.measure import target
from slt.measure.axis import RANGE, Axis, along
from slt.measure.barrier import Order
from slt.measure.crossings import partition
from slt.measure.evidence import Budget
from slt.measure.plane import Plane
from slt.model import Model
from slt.phases import Phases
from slt.transitions import lines
from slt.transitions.kind import BEYOND
from slt.transitions.lines import Line
from slt.typing import Estimate, InputError, Key, Params, Quantity

MOST = 32  # times that the phases are sampled
AGAIN = 3  # times that the line is followed anew with draws at its ends
STEP = 0.25  # of the walk, in e-folds of t; the range of the control counts as RANGE of them


@dataclass(frozen=True)
class Coexistence:
    """Where two phases weigh the same.

    line: its points with slopes, barriers and marks, whose h is the control called `control`. x [k]: the values of it
    asked for; critical, slope: Estimate [k], t of the line and dt/dx by Clausius-Clapeyron there (NaN where the line
    does not pass, or passes twice). sampled: where phases were sampled, a value of the control each time. str() gives
    the verdict.
    """

    line: Line
    control: str
    x: Float[np.ndarray, " k"]
    critical: Estimate
    slope: Estimate
    sampled: Float[np.ndarray, " s"]
    verdict: str

    def __str__(self) -> str:
        return self.verdict

    @property
    def names(self) -> tuple[str, str]:
        """(a, b): as t grows a gives way to b."""
        a, b = self.line.names
        return (a, b) if np.median(self.line.jump) >= 0 else (b, a)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """critical_t[a->b] over the control with 90 per cent intervals, slope[clausius_clapeyron]; with h the control,
        end_h, end_t and triple_h, triple_t where the line has such a mark (several: over `end`, `triple`).
        """
        t, error = np.asarray(self.critical.value), np.asarray(self.critical.stderr)
        far = np.exp(BEYOND * error / t)
        coords = {self.control: self.x.tolist()}
        found = {
            f"critical_t[{self.names[0]}->{self.names[1]}]": Quantity(
                t, error, coords, np.stack([t / far, t * far], axis=-1)
            ),
            "slope[clausius_clapeyron]": Quantity(np.asarray(self.slope.value), np.asarray(self.slope.stderr), coords),
        }
        for kind in ("end", "triple"):
            marks = [mark for mark in self.line.marks if mark.kind == kind]
            for name, column in ((self.control, (1, 5)), ("t", (2, 6))):
                value, stderr = (np.array([mark[i] for mark in marks], float) for i in column)
                if len(marks) == 1:
                    found[f"{kind}_{name}"] = Quantity(value[0], stderr[0], {})
                elif marks:
                    found[f"{kind}_{name}"] = Quantity(value, stderr, {kind: list(range(1, len(marks) + 1))})
        return found


def line(
    model: Model,
    phases: Phases | bool = True,
    *,
    t: Sequence[float],
    control: Mapping[str, Any],
    between: tuple[str, str] | None = None,
    start: tuple[float, float] | None = None,
    seeds: Sequence[Params] = (),
    order: Order | None = None,
    rtol: float = 0.005,
    seconds: float = 120.0,
    budget: Budget | None = None,
    key: Key | None = None,
) -> Coexistence:
    """Follow the line on which phases a and b of a potential weigh the same, over a control, to the ends of a box.

    phases, between (a, b) and seeds: as of `slt.transition`; all phases of the partition are measured, for triple
    points. t: two values or more and control, such as {"h": [0.5, 0.7, 0.9]}: their ends make the box, and t of the
    line is told at every value of the control (at nine evenly spaced ones where fewer than four are given). start: a
    point (h, t) near the line, else one is sought. order(params) -> scalar: the order parameter in whose density the
    barrier is sought, default the projection on the line between the phases; where it falls below a nat the line ends.
    rtol: standard error of t of the line, relative, for which phases are sampled again and again in the first half of
    `seconds`, counted once all is compiled, and in three quarters of them where runs disagree; after all of them the
    line ends where it is, or else has draws at both its ends. budget: `runs` of `particles` of each phase each time.
    InputError where the phases' F do not meet in the box.
    """
    axis, ends = _box(model, t, control)
    of, parts, pair = partition(model, phases, between, None, seeds)
    budget = Budget() if budget is None else budget
    budget.check()
    if not (rtol > 0 and seconds > 0):
        raise InputError("rtol, seconds", (rtol, seconds), "must be positive")
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    began, until = list[float](), seconds

    def spent() -> float:
        return time.monotonic() - began[0] if began else 0.0

    def more(doubtful: bool) -> bool:
        return bool(began) and spent() < seconds * (0.75 if doubtful else 0.5) and len(plane.columns) < MOST

    def late() -> str:
        return f"time was up ({seconds:g} s)" if spent() > until else ""

    plane = Plane(of, parts, pair, axis, ends, order, seeds, budget, key, rtol, more)
    first = plane.start() if start is None else (float(start[0]), float(start[1]))
    plane(*first)
    began.append(time.monotonic())  # compiled by now
    names = [parts.names[a] for a in plane.own]
    low, high = float(axis.grid[0]), float(axis.grid[-1])
    unit = (high - low) / RANGE

    def follow() -> Line:
        return lines.follow(
            plane, first, box=((low, high), ends), pair=(plane.own.index(pair[0]), plane.own.index(pair[1])),
            names=names, step=STEP, unit=unit, stop=late,
        )  # fmt: skip

    found = follow()
    for _ in range(AGAIN):  # draws from beyond its ends hold what those from inside may lack: each end has its own
        bare = [float(h) for h in found.h[[0, -1]] if not plane.sampled(h, STEP / 4 * unit)]
        if not bare or late():
            break
        for h in bare:
            plane.settle(h)
        until = max(seconds, 1.5 * spent())  # a walk over what was sampled is short
        found = follow()
    critical, slope = found.at_h(axis.grid)
    sampled = np.sort([each.h for each in plane.columns])
    absent = [name for name in parts.names if name not in names]
    told = _verdict(found, axis.name, len(sampled), absent)
    return Coexistence(found, axis.name, axis.grid, critical, slope, sampled, told)


def _box(model: Any, t: Any, control: Any) -> tuple[Axis, tuple[float, float]]:
    """The axis of the control and the ends of t."""
    ends = np.unique(np.asarray(t, np.float64))
    if ends.size < 2 or not np.isfinite(ends).all() or ends[0] <= 0:
        raise InputError("t", t, "give two values > 0 or more, the ends of the box")
    if isinstance(control, Mapping) and len(control) == 1:
        ((name, values),) = control.items()
        few = np.unique(np.asarray(values, np.float64))
        if 2 <= few.size < 4:
            control = {name: np.linspace(few[0], few[-1], 9)}
    return along(model, t=ends[0], control={} if control is None else control), (float(ends[0]), float(ends[-1]))


def _verdict(found: Line, name: str, sampled: int, absent: Sequence[str]) -> str:
    a, b = found.names
    said = [
        f"{a} and {b} weigh the same on a line from {name} = {found.h[0]:.4g}, t = {found.t[0]:.4g} to "
        f"{name} = {found.h[-1]:.4g}, t = {found.t[-1]:.4g} ({len(found.h)} points, phases sampled {sampled} times)."
    ]
    for mark in found.marks:
        error = f" +- {mark.h_stderr:.1g}", f" +- {mark.t_stderr:.1g}"
        place = f"{name} = {mark.h:.4g}{error[0] if mark.h_stderr else ''}, t = {mark.t:.4g}"
        said.append(f"{mark.kind} at {place}{error[1] if mark.t_stderr else ''}: {mark.reason}.")
    if absent:
        said.append(f"Not measured, as neither a draw of the prior nor a seed lies there: {', '.join(absent)}.")
    return " ".join(said)
