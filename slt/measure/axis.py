"""What a transition is sought along: t of a potential, n or beta on data, or a control of the model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from slt.cells import Cell
from slt.model import Model
from slt.transitions.crossing import Crossing
from slt.typing import InputError, nearest

RANGE = 3.0  # e-folds that the range of a control counts as: much like that of the usual t


@dataclass(frozen=True)
class Axis:
    """The values `grid` (ascending) of t, n, beta or a control, called `name`, and the cell `rest` that they move.

    For a potential n of a cell is 1 and its beta is t. told: the axis in words. Distances are taken in log x; along a
    control, which may be below 0, in units of a third of its range.
    """

    name: str
    grid: Float[np.ndarray, " x"]
    rest: Cell
    is_control: bool
    told: str

    def cell(self, x: float) -> Cell:
        """The cell at x."""
        if self.is_control:
            return dataclasses.replace(self.rest, control=((self.name, float(x)),))
        if self.name == "n":
            return dataclasses.replace(self.rest, n=int(x))
        return dataclasses.replace(self.rest, beta=float(x))

    def forth(self, x: Any) -> Any:
        """x on the scale on which distances are taken."""
        x = np.asarray(x, np.float64)
        return RANGE * (x - self.grid[0]) / np.ptp(self.grid) if self.is_control else np.log(x)

    def back(self, u: Any) -> Any:
        """x from its place on that scale; of n, whole numbers."""
        if self.is_control:
            return self.grid[0] + np.asarray(u) / RANGE * np.ptp(self.grid)
        return np.rint(np.exp(u)) if self.name == "n" else np.exp(u)

    def stderr(self, at: Crossing) -> float:
        """Standard error of a crossing on that scale."""
        return at.stderr * (RANGE / float(np.ptp(self.grid)) if self.is_control else 1 / at.value)

    def __str__(self) -> str:
        return self.told


def along(model: Any, *, t: Any = None, n: Any = None, beta: Any = 1.0, control: Any = None) -> Axis:
    """The axis meant by arguments of `slt.transition`; InputError for those that name none."""
    model = model if isinstance(model, Model) else None  # what else it is, target.make tells
    if (t is None) == (n is None) or (model is not None and model.is_potential != (n is None)):
        raise InputError("t, n", (t, n), "give t for a potential, n for a model with data")
    numbers = {"t": t} if n is None else {"n": n, "beta": beta}
    if n is None and (np.size(beta) != 1 or beta != 1):
        raise InputError("beta", beta, "a potential has t alone: leave it out")
    if control is None:
        name = field = "beta" if n is not None and np.size(beta) > 1 else next(iter(numbers))
        values = numbers.pop(name)
    elif isinstance(control, Mapping) and len(control) == 1:
        ((name, values),) = control.items()
        known, field = model.controls if model is not None else (), f"control.{name}"
        if name not in known:
            raise InputError("control", name, f"this model has no such control; {nearest(name, known, 'it has')}")
    else:
        raise InputError("control", control, "give one control with its values, as {'h': [0.1, 0.2, 0.3, 0.4]}")
    positive = control is None
    grid = _numbers(field, values, positive)
    if grid.size < 4:
        raise InputError(field, values, f"give at least four values{' > 0' if positive else ''}")
    fixed = {}
    for other, given in numbers.items():
        one = _numbers(other, given, True)
        if one.size != 1:
            raise InputError(other, given, f"give one {other}: it is {name} that varies")
        fixed[other] = float(one[0])
    rest = Cell(int(fixed.get("n", 1)), fixed.get("t", fixed.get("beta", 1.0)))
    at = ", ".join(f"{other} = {value:g}" for other, value in fixed.items() if (other, value) != ("beta", 1.0))
    return Axis(name, grid, rest, control is not None, f"{name} at {at}" if at else name)


def _numbers(field: str, given: Any, positive: bool) -> np.ndarray:
    """Different numbers, ascending."""
    try:
        found = np.unique(np.atleast_1d(np.asarray(given, np.float64)))
    except (TypeError, ValueError):
        raise InputError(field, given, "must be numbers") from None
    if not np.isfinite(found).all() or (positive and not (found > 0).all()):
        raise InputError(field, given, f"must be finite{' and > 0' if positive else ''}")
    return found
