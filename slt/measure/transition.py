"""slt.transition: where the posterior changes from one phase to another, measured, with an interval and its kind.

Each phase's free energy comes from independent runs of SMC confined to it (`slt.measure.regions`), absolute, so that
nothing has to cross the barrier between the phases. A first pass over the values asked for finds where F_a - F_b
changes its sign; on a potential a second pass close about each crossing then measures it as exactly as asked, on data
the grid is refined between the points where the mean over data sets changes its sign.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from slt.cells import data_words
from slt.engine.program import draw_data
from slt.measure import regions, target
from slt.measure.barrier import Order, barrier
from slt.measure.crossings import (
    affirmed,
    anchor,
    asked_of,
    between_signs,
    close,
    difference,
    forms,
    heights_of,
    jackknife,
    sized,
    table,
    verdict,
)
from slt.measure.evidence import Budget
from slt.measure.regions import PhaseReport, Replicates
from slt.measure.target import Target
from slt.model import Model
from slt.phases import Phases
from slt.transitions import crossing, predictions
from slt.transitions.crossing import Crossing, Crossings, Difference
from slt.transitions.kind import Height, Kind, classify
from slt.transitions.paths import Paths, paths
from slt.transitions.predictions import Prediction
from slt.typing import Batch, Estimate, InputError, Key, Params, Quantity

ON_DATA = Budget(runs=4, particles=256)


@dataclass(frozen=True)
class Transition:
    """Crossings of F_a and F_b of the phases `names` along `axis` ("t" or "n"), and what they are.

    critical: the one crossing from a to b (None: there is none, or there are several: see `crossings`); kind: of it, or
    of the first crossing where it is None. x, free_energy: Estimate [x, 2] over the values asked for (on data averaged
    over data sets, and refined); refined: F_a - F_b close about the crossings, whence these were measured. predictions:
    theory beside it (potentials). paths: crossings of single data sets. report: everything of the phases over the
    values asked for (potentials). verdict: all in a few sentences; str() gives it.
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
        """critical_t[a->b] (or critical_n) with its 90 per cent interval, and barrier[a->b] at it where measured."""
        if self.critical is None:
            return {}
        name, at = f"[{self.names[0]}->{self.names[1]}]", self.critical
        value, stderr = np.asarray(at.value), np.asarray(at.stderr)
        found = {f"critical_{self.axis}{name}": Quantity(value, stderr, {}, np.asarray(at.interval))}
        if self.kind is not None and self.kind.barrier is not None:
            top = self.kind.barrier
            found[f"barrier{name}"] = Quantity(np.asarray(top.value), np.asarray(top.stderr), {})
        return found


def transition(
    model: Model,
    phases: Phases | bool = True,
    *,
    t: Any = None,
    n: Any = None,
    data: Batch | None = None,
    data_seeds: Sequence[int] = (0,),
    beta: float = 1.0,
    between: tuple[str, str] | None = None,
    seeds: Sequence[Params] = (),
    order: Order | None = None,
    profile: bool = False,
    exact: float | None = None,
    rtol: float = 0.004,
    seconds: float = 25.0,
    budget: Budget | None = None,
    key: Key | None = None,
) -> Transition:
    """Where phase a of the partition gives way to phase b as t (of a potential) or n grows: see `Transition`.

    phases: an slt.Phases, or True for the model's own; between: the names (a, b), not needed where there are only two.
    t: at least four ascending values, of a potential. n: numbers of samples, with t = n beta: of `data`, or of the
    model's own data sets data_seeds (those that sweeps have); F is averaged over them and the error is that of the
    mean over data sets. seeds: points in phases that the prior hardly meets. order(params) -> scalar: a further order
    parameter for the kind, beside the projection on the line between the phases and the ratio of distances to them.
    profile: also measure the barrier at the crossing by umbrella sampling (`slt.barrier`, a potential; half a minute
    or more): without it a barrier beyond what the draws show (5 nats) is told as a bound. exact: a known crossing to
    set beside it. rtol: standard error of a critical t, relative, that replicates are added for as long as `seconds`
    allow. budget: `runs` of `particles` a round, of each phase.
    """
    of, parts, pair = asked_of(model, phases, between, t, n, data, seeds)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    asks = _Asks(order, profile, exact, rtol, seconds)
    budget = (Budget() if n is None else ON_DATA) if budget is None else budget
    budget.check()
    if n is not None:
        return _on_data(of, parts, pair, n, data, data_seeds, beta, seeds, asks, budget, key)
    return _Potential(of, parts, pair, seeds, budget, key).run(np.unique(np.asarray(t, np.float64)), asks)


def repeated(
    model: Model,
    phases: Phases | bool = True,
    *,
    t: Any,
    between: tuple[str, str] | None = None,
    seeds: Sequence[Params] = (),
    repetitions: int = 400,
    runs: int = 16,
    particles: int = 256,
    level: float = 0.9,
    key: Key | None = None,
) -> list[Crossings]:
    """The measurement of a crossing many times over in one program: what its intervals are worth.

    t: a few values about the crossing. Each repetition has `runs` runs of its own of each phase and a count of prior
    draws of its own; where its crossing's true value is known (`slt.theory.quadrature`) the share of intervals that
    hold it is their coverage.
    """
    of, parts, pair = asked_of(model, phases, between, t, None, None, seeds)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    asked = np.unique(np.asarray(t, np.float64))
    budget = Budget(runs=repetitions * runs, particles=particles)
    found = regions.replicates(of, asked, parts, key, budget=budget, points=seeds, only=pair)
    tables = [table(found, parts, a).reshape(repetitions, -1, asked.size) for a in pair]
    mass = np.asarray(found.prior_mass.value)
    ordinary = regions.MOST_DRAWS // 8  # draws that one measurement counts
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    share = np.append(mass, max(0.0, 1 - mass.sum()))
    counts = rng.multinomial(ordinary, share / share.sum(), size=repetitions)
    results = []
    for each in range(repetitions):
        own = counts[each] / ordinary
        curves = []
        for log_z, a in zip(tables, pair, strict=True):
            anchored = np.log(own[a] / mass[a]) if found.start[a] == "prior" else 0.0
            curves.append(jackknife(log_z[each] + anchored))
        shared = anchor(own, ordinary, found.start, pair)
        results.append(crossing.crossings(difference(asked, curves, shared), level))
    return results


class _Asks(NamedTuple):
    """What is asked beside the crossing: arguments of `transition`."""

    order: Order | None
    profile: bool
    exact: float | None
    rtol: float
    seconds: float


class _Potential:
    """One measurement on a potential."""

    def __init__(self, of: Target, parts: Phases, pair: tuple[int, int], seeds: Any, budget: Budget, key: Key):
        self.of, self.parts, self.pair = of, parts, pair
        self.seeds, self.budget, self.key = seeds, budget, key

    def run(self, grid: np.ndarray, asks: _Asks) -> Transition:
        first = self._round(grid, 0)
        began = time.monotonic()  # by now all is compiled
        report = regions.report(self.of, grid, self.parts, first)
        rough = self._curves(grid, [first])
        seen = crossing.crossings(rough)
        x, refined, found, rounds = grid, rough, seen, [first]
        if seen.found:
            x = close(seen, grid)
            rounds = [self._round(x, 1)]
            for number in range(2, 64):
                refined = self._curves(x, rounds)
                found = crossing.crossings(refined)
                if not found.found or max(each.stderr / each.value for each in found.found) <= asks.rtol:
                    break
                if (time.monotonic() - began) * (1 + 1 / number) > asks.seconds:
                    break
                rounds.append(self._round(x, number))
            found = affirmed(found, seen)
        critical = found.only()
        at = critical if critical is not None else (found.found[0] if found.found else None)
        kind = None if at is None else self._kind(at, rounds, x, report, asks)
        (form_a, laplace_a), (form_b, laplace_b) = (forms(self.of, report, a) for a in self.pair)
        flat = [report.names[a] for a in self.pair if report.singular[a]]
        note = f"the Hessian of {' and '.join(flat)} is singular: it does not hold" if flat else ""
        guesses = predictions.predictions(
            form_a, form_b, critical, laplace=(laplace_a, laplace_b), laplace_note=note, exact=asks.exact
        )
        chosen = list(self.pair)
        curves = Estimate(*(np.asarray(each)[:, chosen] for each in report.free_energy[:2]))
        names = (report.names[chosen[0]], report.names[chosen[1]])
        told = verdict(names, "t", found, kind, guesses, 1)
        return Transition(names, "t", grid, curves, found, critical, kind, guesses, None, refined, report, told)

    def _round(self, asked: np.ndarray, number: int) -> Replicates:
        key = jax.random.fold_in(self.key, number)
        found = regions.replicates(
            self.of, asked, self.parts, key, budget=self.budget, points=self.seeds, only=self.pair
        )
        for a in self.pair:
            table(found, self.parts, a)
        return found

    def _curves(self, x: np.ndarray, rounds: Sequence[Replicates]) -> Difference:
        """F_a - F_b of all rounds together, their counts of the prior pooled."""
        draws = sum(each.draws for each in rounds)
        mass = np.sum([np.asarray(each.prior_mass.value) * each.draws for each in rounds], axis=0) / draws
        curves = []
        for a in self.pair:
            tables = []
            for each in rounds:
                own = np.asarray(each.prior_mass.value)[a]
                shift = np.log(mass[a] / own) if each.start[a] == "prior" else 0.0
                tables.append(table(each, self.parts, a) + shift)
            curves.append(jackknife(np.concatenate(tables)))
        return difference(x, curves, anchor(mass, draws, rounds[0].start, self.pair))

    def _kind(
        self, at: Crossing, rounds: Sequence[Replicates], x: np.ndarray, report: PhaseReport, asks: _Asks
    ) -> Kind:
        """From draws confined to either phase at the point of the grid nearest to the crossing."""
        near = int(np.abs(np.log(x / at.value)).argmin())
        shown = []
        for a in self.pair:
            own = [each.shown[a] for each in rounds]
            shown.append(np.concatenate([each[near] for each in own if each is not None]))
        heights, points = heights_of(self.of, shown, asks.order)
        inside = [float(np.interp(np.log(at.value), np.log(report.t), report.interior[:, a])) for a in self.pair]
        if asks.profile:
            ends = [target.unravel(self.of.posterior, jnp.asarray(p, self.of.posterior.beta.dtype)) for p in points]
            told = barrier(
                self.of.model, order=asks.order, between=ends, t=at.value, windows=24, replicates=8, draws=1000,
                escape_steps=0, key=jax.random.fold_in(self.key, 2**30),
            )  # fmt: skip
            lower = min((told.forward.barrier, told.back.barrier), key=lambda each: float(each.value))
            measured = Height(float(lower.value), float(lower.stderr), "umbrella sampling")
            # by the projection too, of which the draws told only so much
            heights = [measured, *heights[1:]] if asks.order is None else [*heights[:-1], measured]
        masses = [np.interp(at.value, report.t, column) for column in np.nan_to_num(np.asarray(report.mass.value)).T]
        return classify(heights, interior=(inside[0], inside[1]), masses=masses)


def _on_data(
    of: Target,
    parts: Phases,
    pair: tuple[int, int],
    n: Any,
    data: Batch | None,
    data_seeds: Sequence[int],
    beta: float,
    seeds: Sequence[Params],
    asks: _Asks,
    budget: Budget,
    key: Key,
) -> Transition:
    """F of every n and data set by itself; the mean over data sets, and each data set's own path."""
    grid = np.unique(np.asarray(n, np.int64))
    if not np.isfinite(beta) or beta <= 0:
        raise InputError("beta", beta, "give a positive number")
    if data is None:
        words = jnp.stack([jnp.asarray(data_words(int(each))) for each in data_seeds])
        drawn = draw_data(of.model, words, {}, int(grid[-1]))
        sets = [jax.tree.map(lambda leaf, i=i: leaf[i], drawn) for i in range(len(data_seeds))]
    else:
        sets = [of.data]
        if grid[-1] > of.n:
            raise InputError("n", int(grid[-1]), f"the data given have {of.n} samples")
    cells: dict[tuple[int, int], list[np.ndarray]] = {}
    shown: dict[tuple[int, int], list[np.ndarray | None]] = {}

    def measure(k: int, size: int) -> None:
        own = sized(of, sets[k], size)
        cell_key = jax.random.fold_in(jax.random.fold_in(key, k), size)
        found = regions.replicates(
            own, np.array([size * beta]), parts, cell_key, budget=budget, points=seeds, only=pair
        )
        cells[k, size] = [jackknife(table(found, parts, a))[:, 0] + size * beta * own.offset for a in pair]
        shown[k, size] = [found.shown[a] for a in pair]

    def curves(x: np.ndarray) -> list[np.ndarray]:
        for size in x:
            for k in range(len(sets)):
                if (k, size) not in cells:
                    measure(k, int(size))
        runs = min(len(each) for cell in cells.values() for each in cell)
        rows = [[np.stack([cells[k, size][p][:runs] for size in x], -1) for k in range(len(sets))] for p in (0, 1)]
        return [np.stack(each) for each in rows]

    first = crossing.difference(grid, *curves(grid))
    x = np.union1d(grid, between_signs(grid, first.value))
    a, b = curves(x)
    refined = crossing.difference(x, a, b)
    found = crossing.crossings(refined)
    critical = found.only()
    at = critical if critical is not None else (found.found[0] if found.found else None)
    kind = None
    if at is not None:
        near = int(x[np.abs(np.log(x / at.value)).argmin()])
        pooled = [[shown[k, near][p] for k in range(len(sets))] for p in (0, 1)]
        draws = [np.concatenate([each[0] for each in some if each is not None]) for some in pooled]
        kind = classify(heights_of(of, draws, asks.order)[0])
    values = np.stack([each.mean((0, 1)) for each in (a, b)], axis=-1)
    spread = [each.mean(1).std(0, ddof=1) if len(sets) > 1 else each[0].std(0, ddof=1) for each in (a, b)]
    errors = np.stack(spread, axis=-1) / np.sqrt(len(sets) if len(sets) > 1 else a.shape[1])
    names = (parts.names[pair[0]], parts.names[pair[1]])
    told = verdict(names, "n", found, kind, (), len(sets))
    single = paths(x, refined.paths)
    return Transition(
        names, "n", x.astype(float), Estimate(values, errors), found, critical, kind, (), single, refined, None, told
    )
