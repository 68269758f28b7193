"""A transition of a potential, along t or a control: SMC confined to either phase, a first pass and a close second."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slt.estimators.free_energy import over_runs
from slt.measure import confined, regions, target
from slt.measure.axis import Axis
from slt.measure.barrier import barrier
from slt.measure.confined import Replicates
from slt.measure.crossings import (
    affirmed,
    anchor,
    close,
    columns,
    difference,
    forms,
    heights_of,
    jackknife,
    table,
    verdict,
)
from slt.measure.evidence import Budget
from slt.measure.regions import PhaseReport
from slt.measure.target import Target
from slt.measure.transition.result import Asks, Transition, backward, first
from slt.phases import Phases
from slt.transitions import crossing, predictions
from slt.transitions.crossing import Crossing, Difference
from slt.transitions.kind import Height, Kind, classify
from slt.transitions.predictions import Prediction
from slt.typing import Estimate, Key

Round = list[Replicates]
"""Independent runs of each of the `columns` of an axis."""


class Potential:
    """One measurement on a potential."""

    def __init__(
        self, of: Target, parts: Phases, pair: tuple[int, int], axis: Axis, seeds: Any, budget: Budget, key: Key
    ):
        self.of, self.parts, self.pair, self.axis = of, parts, pair, axis
        self.seeds, self.budget, self.key = seeds, budget, key

    def run(self, asks: Asks) -> Transition:
        """All of it."""
        axis, grid = self.axis, self.axis.grid
        start = self._round(grid, 0)
        began = time.monotonic()  # by now all is compiled
        report = None if axis.is_control else regions.report(self.of, grid, self.parts, start[0])
        rough = self._curves(grid, [start])
        seen = crossing.crossings(rough)
        if asks.turns and backward(seen):
            self.pair = self.pair[1], self.pair[0]
            rough = self._curves(grid, [start])
            seen = crossing.crossings(rough)
        x, refined, found, rounds = grid, rough, seen, [start]
        if seen.found:
            x = close(seen, axis)
            rounds = [self._round(x, 1)]
            for number in range(2, 64):
                refined = self._curves(x, rounds)
                found = crossing.crossings(refined)
                if not found.found or max(axis.stderr(each) for each in found.found) <= asks.rtol:
                    break
                if (time.monotonic() - began) * (1 + 1 / number) > asks.seconds:
                    break
                rounds.append(self._round(x, number))
            found = affirmed(found, seen, axis)
        at = first(found)
        kind = None if at is None else self._kind(at, rounds, x, report, asks)
        guesses = self._predictions(found.only(), report, asks.exact)
        names = (self.parts.names[self.pair[0]], self.parts.names[self.pair[1]])
        return Transition(
            names=names,
            axis=axis.name,
            x=grid,
            free_energy=self._free_energy(start),
            crossings=found,
            critical=found.only(),
            kind=kind,
            predictions=guesses,
            paths=None,
            refined=refined,
            report=report,
            verdict=verdict(names, axis, found, kind, guesses, 1),
        )

    def _round(self, x: np.ndarray, number: int) -> Round:
        """Along a control all values have the same random numbers, so that F_a - F_b is smooth in it; its error counts
        what they share.
        """
        key, rounds = jax.random.fold_in(self.key, number), []
        for of, t in columns(self.of, self.axis, x):
            rounds.append(
                confined.replicates(of, t, self.parts, key, budget=self.budget, points=self.seeds, only=self.pair)
            )
            for a in self.pair:
                table(rounds[-1], self.parts, a)
        return rounds

    def _curves(self, x: np.ndarray, rounds: Sequence[Round]) -> Difference:
        """F_a - F_b of all rounds together, their counts of the prior pooled."""
        curves, anchors = [], []
        for own in zip(*rounds, strict=True):
            draws = sum(each.draws for each in own)
            mass = np.sum([np.asarray(each.prior_mass.value) * each.draws for each in own], axis=0) / draws
            both = []
            for a in self.pair:
                tables = []
                for each in own:
                    counted = np.asarray(each.prior_mass.value)[a]
                    shift = np.log(mass[a] / counted) if each.start[a] == "prior" else 0.0
                    tables.append(table(each, self.parts, a) + shift)
                both.append(jackknife(np.concatenate(tables)))
            curves.append(both)
            anchors += [anchor(mass, draws, own[0].start, self.pair)] * both[0].shape[1]
        runs = [min(len(both[p]) for both in curves) for p in (0, 1)]
        whole = [np.concatenate([both[p][: runs[p]] for both in curves], axis=1) for p in (0, 1)]
        return difference(x, whole, np.array(anchors))

    def _free_energy(self, round_: Round) -> Estimate:
        """F of either phase [x, 2] over the values asked for."""
        values, errors = [], []
        for (of, t), own in zip(columns(self.of, self.axis, self.axis.grid), round_, strict=True):
            both = [over_runs(table(own, self.parts, a)) for a in self.pair]
            values.append(np.stack([np.asarray(each.value) + t * of.offset for each in both], axis=-1))
            errors.append(np.stack([np.asarray(each.stderr) for each in both], axis=-1))
            errors[-1] = np.hypot(errors[-1], own.anchor[list(self.pair)])
        return Estimate(np.concatenate(values), np.concatenate(errors))

    def _predictions(
        self, critical: Crossing | None, report: PhaseReport | None, exact: float | None
    ) -> tuple[Prediction, ...]:
        if report is None:
            return predictions.predictions(None, None, critical, exact=exact)
        (form_a, laplace_a, sure_a), (form_b, laplace_b, sure_b) = (forms(self.of, report, a) for a in self.pair)
        flat = [report.names[a] for a in self.pair if report.singular[a]]
        note = f"the Hessian of {' and '.join(flat)} is singular: it does not hold" if flat else ""
        sure = sure_a and sure_b
        return predictions.predictions(
            form_a, form_b, critical, laplace=(laplace_a, laplace_b), laplace_note=note, exact=exact,
            note="" if sure else predictions.FITTED, constant_note="constant fitted" if sure else predictions.FITTED,
        )  # fmt: skip

    def _kind(
        self, at: Crossing, rounds: Sequence[Round], x: np.ndarray, report: PhaseReport | None, asks: Asks
    ) -> Kind:
        """From draws confined to either phase at the point of the grid nearest to the crossing."""
        axis = self.axis
        place = axis.forth(at.value)
        near = int(np.abs(axis.forth(x) - place).argmin())
        shown = []
        for a in self.pair:
            draws = [each.shown[a] for some in rounds for each in some]  # [t, i, d] of a round along t, or of a value
            own = draws if not axis.is_control else draws[near :: x.size]
            shown.append(np.concatenate([each[0 if axis.is_control else near] for each in own if each is not None]))
        of = columns(self.of, axis, x[near : near + 1])[0][0]
        heights, points = heights_of(of, shown, asks.order)
        if asks.profile:
            ends = [target.unravel(self.of.posterior, jnp.asarray(p, self.of.posterior.beta.dtype)) for p in points]
            cell = axis.cell(at.value)
            told = barrier(
                self.of.model.bind(dict(cell.control)), order=asks.order, between=ends, t=cell.beta, windows=24,
                replicates=8, draws=1000, escape_steps=0, key=jax.random.fold_in(self.key, 2**30),
            )  # fmt: skip
            lower = min((told.forward.barrier, told.back.barrier), key=lambda each: float(each.value))
            measured = Height(float(lower.value), float(lower.stderr), "umbrella sampling")
            # by the projection too, of which the draws told only so much
            heights = [measured, *heights[1:]] if asks.order is None else [*heights[:-1], measured]
        if report is None:
            inside = [
                float(regions.descended(of, w[None], self.parts, a)[1].mean())
                for a, w in zip(self.pair, shown, strict=True)
            ]
            alone = (
                (0.5, 0.5) if len(self.parts.names) == 2 else None
            )  # two phases that are all there is, where they cross
            return classify(heights, interior=(inside[0], inside[1]), masses=alone, hysteresis=asks.hysteresis)
        here = np.log(report.t)
        inside = [float(np.interp(place, here, report.interior[:, a])) for a in self.pair]
        masses = [np.interp(at.value, report.t, column) for column in np.nan_to_num(np.asarray(report.mass.value)).T]
        return classify(heights, interior=(inside[0], inside[1]), masses=masses, hysteresis=asks.hysteresis)
