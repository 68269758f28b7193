"""How many tanh units a posterior uses as n grows, and which number F_n, WBIC and WAIC choose on the same data sets.

The number it should show: critical_n[1->2] about 50, with its interval (truth -2 tanh(x) + 2 tanh(5x), noise 1); the
third unit stays unused; at n = 200 F_n chooses two units on most data sets.
"""

from typing import Any

from matplotlib.figure import Figure

from slt import plots
from slt.typing import Quantity

from . import _sizes

TRUTH, WHAT = 2, "units"
"""How many there are in the true distribution, and of what."""


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_n[k->k+1] (critical_t of the population) and its kind, and the choices of the criteria."""
    found: dict[str, Quantity] = {}
    for part in plots.sweeps(run):
        prefix = "" if part == "main" else f"{part}."
        found |= {f"{prefix}{name}": quantity for name, quantity in _sizes.used(run, part).items()}
    found |= _sizes.kinds(run, found)
    return found | (_sizes.summary(run.measures["choice"], TRUTH) if "choice" in run.measures else {})


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found = {"in_use": _sizes.in_use(run, WHAT)}
    if "choice" in run.measures:
        data = run.measures["choice"]
        found |= {"agreement": _sizes.agreement(data, WHAT, TRUTH), "criteria": _sizes.differences(data, WHAT, TRUTH)}
    for part, data in plots.sweeps(run).items():
        prefix = "" if part == "main" else f"{part}_"
        drawn = {"traces": plots.trace_figure(data), "ladder": plots.ladder_figure(data)}
        found |= {f"{prefix}{name}": figure for name, figure in drawn.items() if figure is not None}
    return found
