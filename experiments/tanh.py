"""How many tanh units a posterior uses as n grows, and which number F_n, WBIC and WAIC choose on the same data sets.

The number it should show: critical_n[1->2] about 50, with its interval (truth -2 tanh(x) + 2 tanh(5x), noise 1); the
third unit stays unused; at n = 200 F_n chooses two units on most data sets.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from slt import plots
from slt.models.tanh import TanhLoss, Units
from slt.theory import elementary
from slt.transitions.predictions import Form
from slt.typing import Quantity

from . import _shared, _sizes

TRUTH, WHAT = 2, "units"
"""How many there are in the true distribution, and of what."""


def forms(model: Any) -> dict[int, Form]:
    """F to leading order of networks that use k units: t times the least loss of k units, and lambda as if the truth
    were they, the others spare.

    One spare unit may double a unit of the truth, which costs 1/4 (its second moment about it vanishes to order t^-1/2;
    an idle one would cost 1/2), two may double one unit together, for 1/2 (m = 2); more: not known.
    """
    truth = model.truth()
    loss = getattr(None if truth is None else truth.population_loss, "loss", truth and truth.population_loss)
    if not isinstance(loss, TanhLoss) or not isinstance(loss.target, Units):
        return {}
    units, known = loss.hidden, elementary.tanh(loss.hidden)
    spare = {0: (0.0, 1), 1: (0.25, 1), 2: (0.5, 2)}
    found = {0: Form(least(loss.target, 0, loss.sigma), known.lam, known.m, np.nan)}
    return found | {
        k: Form(least(loss.target, k, loss.sigma), k + spare[units - k][0], spare[units - k][1], np.nan)
        for k in range(1, units + 1)
        if units - k in spare
    }


def least(target: Units, k: int, sigma: float) -> float:
    """The least K of k units, by least squares from several starts."""
    heights, slopes = np.array(target.heights), np.array(target.slopes)
    x, weights = np.polynomial.legendre.leggauss(64)
    root, rng = np.sqrt(weights / 2), np.random.default_rng(0)
    wanted = heights @ np.tanh(slopes[:, None] * x)
    if k >= len(heights):
        return 0.0

    def residual(w: np.ndarray) -> np.ndarray:
        return root * (w[:k] @ np.tanh(w[k:, None] * x) - wanted)

    if k == 0:
        return float(np.square(residual(np.zeros(0))).sum() / 2 / sigma**2)
    starts = [np.concatenate([rng.normal(size=k), rng.uniform(0.5, 6, k)]) for _ in range(8)]
    return min(float(optimize.least_squares(residual, start).cost) for start in starts) / sigma**2


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_n[k->k+1] (critical_t of the population) and its kind, what theory says of it, and the
    choices of the criteria.
    """
    found: dict[str, Quantity] = {}
    for part in plots.sweeps(run):
        prefix, own = "" if part == "main" else f"{part}.", forms(_shared.model(run, part))
        found |= {f"{prefix}{name}": quantity for name, quantity in _sizes.used(run, part, own).items()}
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
