"""slt.transition: where the posterior changes from one phase to another, measured, with an interval and its kind.

Each phase's free energy comes from independent runs of SMC confined to it (`slt.measure.confined`), absolute, so that
nothing has to cross the barrier between the phases. A first pass over the values asked for finds where F_a - F_b
changes its sign; on a potential a second pass close about each crossing then measures it as exactly as asked, on data
the grid is refined between the points where the mean over data sets changes its sign. Along a control its values are
traced: all run through one compiled program.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from slt.measure import confined, target
from slt.measure.axis import along
from slt.measure.barrier import Order
from slt.measure.crossings import anchor, columns, difference, jackknife, partition, table
from slt.measure.evidence import Budget
from slt.measure.hysteresis import Loop
from slt.measure.transition.on_data import OnData
from slt.measure.transition.potential import Potential
from slt.measure.transition.result import Asks, Transition
from slt.model import Model
from slt.phases import Phases
from slt.transitions import crossing, kind
from slt.transitions.crossing import Crossings
from slt.typing import Batch, Estimate, InputError, Key, Params

__all__ = ["Transition", "repeated", "scaling", "transition"]

ON_DATA = Budget(runs=4, particles=256)


def transition(
    model: Model,
    phases: Phases | bool = True,
    *,
    t: Any = None,
    n: Any = None,
    data: Batch | None = None,
    data_seeds: Sequence[int] = (0,),
    beta: Any = 1.0,
    control: Mapping[str, Any] | None = None,
    between: tuple[str, str] | None = None,
    seeds: Sequence[Params] = (),
    order: Order | None = None,
    profile: bool = False,
    hysteresis: Loop | Estimate | None = None,
    exact: float | None = None,
    rtol: float = 0.004,
    seconds: float = 25.0,
    budget: Budget | None = None,
    key: Key | None = None,
) -> Transition:
    """Where phase a of the partition gives way to phase b as t (of a potential), n, beta or a control grows.

    phases: an slt.Phases, or True for the model's own; between: the names (a, b), not needed where there are only two
    (along a control they are then named in the order in which they follow, as neither way is the natural one).
    What varies has at least four ascending values, all else one: t of a potential; n (samples), or beta, with t =
    n beta, of `data`, or of the model's own data sets data_seeds (those that sweeps have); or control, such as
    {"h": [0.5, 0.6, 0.7, 0.8]}, at one t, or n and beta. F is averaged over data sets and the error is that of the mean
    over them. seeds: points in phases that the prior hardly meets. order(params) -> scalar: a further order parameter
    for the kind, beside the projection on the line between the phases and the ratio of distances to them. profile: also
    measure the barrier at the crossing by umbrella sampling (`slt.barrier`, a potential; half a minute or more):
    without it a barrier beyond what the draws show (5 nats) is told as a bound. hysteresis: the loop between sweeps up
    and down, from `slt.hysteresis` of the same two phases, or its width in the limit of slow sweeps: counts in the
    kind. exact: a known crossing to set beside
    it. rtol: standard error of a critical t, relative (of a control: to a third of its range), that
    replicates are added for as long as `seconds` allow. budget: `runs` of `particles` a round, of each phase.
    """
    axis = along(model, t=t, n=n, beta=beta, control=control)
    of, parts, pair = partition(model, phases, between, data, seeds)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    if isinstance(hysteresis, Loop):
        own = {parts.names[a] for a in pair}
        if set(hysteresis.names) != own:
            raise InputError("hysteresis", hysteresis.names, f"the loop is not one between {' and '.join(sorted(own))}")
        hysteresis = hysteresis.slow
    asks = Asks(order, profile, exact, rtol, seconds, axis.is_control and between is None, hysteresis)
    budget = (Budget() if n is None else ON_DATA) if budget is None else budget
    budget.check()
    if n is not None:
        if profile:
            raise InputError("profile", True, "a barrier is measured on a potential: leave it out, or give a potential")
        return OnData(of, parts, pair, axis, data, data_seeds, seeds, budget, key).run(asks)
    return Potential(of, parts, pair, axis, seeds, budget, key).run(asks)


def scaling(family: str, found: Mapping[float, Transition]) -> kind.Scaling:
    """Whether transitions along a family of systems are of first order or continuous: does the barrier grow with it?

    family: what grows, in words, such as "t of one potential" or "the number of layers"; found: its size -> the
    transition at that size, three at least. "first order": the barrier at the crossing rises with the size beyond its
    error and ends above a nat; "continuous": it stays below a nat throughout; else "unresolved". InputError for a
    transition without a barrier of its own, or with a lower bound of it only (measure it with profile=True).
    """
    heights = []
    for size, each in found.items():
        height = None if each.kind is None else each.kind.barrier
        if height is None:
            raise InputError(f"found[{size}]", each.verdict, "no barrier was measured at its crossing: leave it out")
        if height.bound:
            raise InputError(f"found[{size}]", str(height), "is a lower bound: measure it with profile=True")
        heights.append(height)
    value, stderr = (np.array([getattr(each, name) for each in heights]) for name in ("value", "stderr"))
    return kind.scaling(family, list(found), value, np.maximum(stderr, 1e-6))


def repeated(
    model: Model,
    phases: Phases | bool = True,
    *,
    t: Any,
    control: Mapping[str, Any] | None = None,
    between: tuple[str, str] | None = None,
    seeds: Sequence[Params] = (),
    repetitions: int = 400,
    runs: int = 16,
    particles: int = 256,
    level: float = 0.9,
    key: Key | None = None,
) -> list[Crossings]:
    """The measurement of a crossing many times over in one program: what its intervals are worth.

    t, or a control at one t: a few values about the crossing. Each repetition has `runs` runs of its own of each phase
    and a count of prior draws of its own; where its crossing's true value is known (`slt.theory.quadrature`) the share
    of intervals that hold it is their coverage.
    """
    axis = along(model, t=t, control=control)
    of, parts, pair = partition(model, phases, between, None, seeds)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    budget = Budget(runs=repetitions * runs, particles=particles)
    found = [
        confined.replicates(own, asked, parts, key, budget=budget, points=seeds, only=pair)
        for own, asked in columns(of, axis, axis.grid)
    ]
    tables = [
        np.concatenate([table(each, parts, a).reshape(repetitions, runs, -1) for each in found], axis=-1) for a in pair
    ]
    mass, start = np.asarray(found[0].prior_mass.value), found[0].start
    ordinary = confined.MOST_DRAWS // 8  # draws that one measurement counts
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    share = np.append(mass, max(0.0, 1 - mass.sum()))
    counts = rng.multinomial(ordinary, share / share.sum(), size=repetitions)
    results = []
    for each in range(repetitions):
        own = counts[each] / ordinary
        curves = []
        for log_z, a in zip(tables, pair, strict=True):
            anchored = np.log(own[a] / mass[a]) if start[a] == "prior" else 0.0
            curves.append(jackknife(log_z[each] + anchored))
        shared = anchor(own, ordinary, start, pair)
        results.append(crossing.crossings(difference(axis.grid, curves, shared), level))
    return results
