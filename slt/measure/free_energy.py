"""Free energies F(t) = -log int exp(-t K(w)) prior(w) dw by routes that check one another, with a verdict.

K is a potential, or L_n of a model on data with t = n beta. Routes: thermodynamic integration, stepping stones and MBAR
over the same ladders of replica exchange; tempered SMC and, from the same particles, persistent sampling; nested
sampling in few dimensions; WBIC, which is a leading order only and takes part in no comparison.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from slt.measure import confined, regions, target
from slt.measure.evidence import Budget
from slt.measure.measurement import ROUTES, Measurement, Report
from slt.measure.regions import PhaseReport
from slt.measure.target import Target
from slt.model import Model
from slt.phases import Phases
from slt.typing import Batch, InputError, Key

__all__ = ["Budget", "PhaseReport", "Report", "free_energy", "phase_free_energies"]


def free_energy(
    model: Model,
    t: Any = None,
    data: Batch | None = None,
    *,
    n: int | None = None,
    beta: Any = None,
    routes: Sequence[str] = ROUTES,
    seeds: Sequence[Any] = (),
    phases: Any = None,
    budget: Budget | None = None,
    key: Key | None = None,
) -> Report:
    """F at every t by every route that applies, with errors and a verdict on whether they agree: see `Report`.

    model: a potential (give t), or a model with `data` on which t = n beta, beta = 1 unless t or beta is given.
    routes: some of ROUTES. seeds: parameters in known basins: a basin that the thermal path does not reach by itself
    has its mass measured from the seed and added. phases: True, or an `slt.Phases`: also each phase's own F
    (`slt.measure.regions`). Raises InputError for an improper prior (no absolute F exists) and unusable arguments.
    """
    budget = _checked(budget)
    routes = [routes] if isinstance(routes, str) else routes
    unknown = [name for name in routes if name not in ROUTES]
    if unknown or not routes:
        raise InputError("routes", list(routes), f"choose from {', '.join(ROUTES)}")
    of = target.make(model, data, n, seeds)
    asked = _asked(of, t, beta)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    parts = None if phases is None or phases is False else confined.known(of, phases)
    return Measurement(of, asked, tuple(routes), tuple(seeds), budget, key, parts).report()


def phase_free_energies(
    model: Model,
    phases: Phases | bool,
    t: Any = None,
    data: Batch | None = None,
    *,
    n: int | None = None,
    beta: Any = None,
    seeds: Sequence[Any] = (),
    occupancy: bool = True,
    budget: Budget | None = None,
    key: Key | None = None,
) -> PhaseReport:
    """F of every phase of a named partition at every t, absolute: see `PhaseReport`; arguments as for `free_energy`.

    phases: an `slt.Phases`, or True for the model's own. occupancy: also run ladders, whose shares of draws in each
    phase check the others wherever they mix.
    """
    if occupancy:
        routes = ("mbar", "smc")
        report = free_energy(
            model, t, data, n=n, beta=beta, routes=routes, seeds=seeds, phases=phases, budget=budget, key=key
        )
        assert report.phases is not None  # noqa: S101
        return report.phases
    budget = _checked(budget)
    of = target.make(model, data, n, seeds)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    return regions.measure(of, _asked(of, t, beta), phases, key, points=seeds, budget=budget)


def _checked(budget: Budget | None) -> Budget:
    budget = Budget() if budget is None else budget
    if not isinstance(budget, Budget):
        raise InputError("budget", budget, "give an slt.Budget, as slt.Budget(seconds=30)")
    budget.check()
    return budget


def _asked(of: Target, t: Any, beta: Any) -> np.ndarray:
    if of.model.is_potential and (t is None or beta is not None):
        raise InputError("t", t, "a potential is asked for its F at values of t, not beta")
    if t is not None and beta is not None:
        raise InputError("beta", beta, "give t = n beta or beta, not both")
    name, given, factor = ("t", t, 1) if t is not None else ("beta", 1.0 if beta is None else beta, of.n)
    try:
        asked = factor * np.unique(np.atleast_1d(np.asarray(given, np.float64)))
    except (TypeError, ValueError):
        raise InputError(name, given, "give a number > 0, or several") from None
    if asked.size == 0 or not np.isfinite(asked).all() or asked[0] <= 0:
        raise InputError(name, given, "give finite values > 0 (F(0) = 0)")
    return asked
