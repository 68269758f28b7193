"""A transition on data, along n, beta or a control: F of every data set by itself, their mean, and each one's path."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special

from slt.cells import data_words
from slt.engine.program import draw_data
from slt.measure import confined, crossings, regions
from slt.measure.axis import Axis
from slt.measure.crossings import (
    between_signs,
    heights_of,
    jackknife,
    known_form,
    laplace_form,
    table,
    verdict,
)
from slt.measure.evidence import Budget
from slt.measure.target import Target
from slt.measure.transition.result import Asks, Transition, backward, first
from slt.phases import Phases
from slt.transitions import crossing
from slt.transitions.crossing import Crossing
from slt.transitions.kind import Kind, classify
from slt.transitions.paths import paths
from slt.transitions.predictions import Prediction, Root, predictions
from slt.typing import Batch, Estimate, InputError, Key

Values = dict[str, float]


class OnData:
    """One measurement on data: `data`, or the model's own data sets `data_seeds`."""

    def __init__(
        self,
        of: Target,
        parts: Phases,
        pair: tuple[int, int],
        axis: Axis,
        data: Batch | None,
        data_seeds: Sequence[int],
        seeds: Any,
        budget: Budget,
        key: Key,
    ):
        self.of, self.parts, self.pair, self.axis = of, parts, pair, axis
        self.data, self.data_seeds, self.seeds = data, data_seeds, seeds
        self.budget, self.key = budget, key
        self.most = axis.cell(axis.grid[-1]).n
        self.sets = len(data_seeds) if data is None else 1
        if data is not None and self.most > of.n:
            raise InputError("n", self.most, f"the data given have {of.n} samples")
        self._samples = functools.cache(self._drawn)
        self._cell = functools.cache(self._measured)

    def run(self, asks: Asks) -> Transition:
        """All of it."""
        axis, grid = self.axis, self.axis.grid
        seen = crossing.difference(grid, *self._curves(grid))
        x = np.union1d(grid, between_signs(axis, grid, seen.value))
        if asks.turns and backward(crossing.crossings(seen)):
            self.pair = self.pair[1], self.pair[0]
        a, b = self._curves(x)
        refined = crossing.difference(x, a, b)
        found = crossing.crossings(refined)
        at = first(found)
        kind = None
        if at is not None:
            kind = self._kind(float(x[np.abs(axis.forth(x) - axis.forth(at.value)).argmin()]), asks)
        guesses = self._predictions(found.only(), asks.exact, x[-1], float(refined.value[-1]))
        values = np.stack([each.mean((0, 1)) for each in (a, b)], axis=-1)
        spread = [each.mean(1).std(0, ddof=1) if self.sets > 1 else each[0].std(0, ddof=1) for each in (a, b)]
        errors = np.stack(spread, axis=-1) / np.sqrt(self.sets if self.sets > 1 else a.shape[1])
        names = (self.parts.names[self.pair[0]], self.parts.names[self.pair[1]])
        return Transition(
            names=names,
            axis=axis.name,
            x=x,
            free_energy=Estimate(values, errors),
            crossings=found,
            critical=found.only(),
            kind=kind,
            predictions=guesses,
            paths=paths(x, refined.paths),
            refined=refined,
            report=None,
            verdict=verdict(names, axis, found, kind, guesses, self.sets),
        )

    def _drawn(self, control: tuple[tuple[str, float], ...]) -> list[Batch]:
        """The data sets at a control's value, alike but for it."""
        if self.data is not None:
            return [self.of.data]
        words = jnp.stack([jnp.asarray(data_words(int(each))) for each in self.data_seeds])
        values = {name: jnp.full(self.sets, value) for name, value in control}
        drawn = draw_data(self.of.model, words, values, self.most)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], drawn) for i in range(self.sets)]

    def _target(self, k: int, x: float) -> Target:
        cell = self.axis.cell(x)
        return crossings.at(self.of, cell, self._samples(cell.control)[k])

    def _measured(self, k: int, x: float) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray | None]]:
        """Of both phases, pseudo-values of F [run] and draws."""
        cell, own = self.axis.cell(x), self._target(k, x)
        t = cell.n * cell.beta
        key = jax.random.fold_in(jax.random.fold_in(self.key, k), cell.n)
        found = confined.replicates(
            own, np.array([t]), self.parts, key, budget=self.budget, points=self.seeds, only=self.pair
        )
        curves = {a: jackknife(table(found, self.parts, a))[:, 0] + t * own.offset for a in self.pair}
        return curves, {a: found.shown[a] for a in self.pair}

    def _curves(self, x: np.ndarray) -> list[Float[np.ndarray, "data run x"]]:
        """Pseudo-values of F of either phase."""
        cells = [[self._cell(k, float(each))[0] for each in x] for k in range(self.sets)]
        runs = min(len(each) for row in cells for cell in row for each in cell.values())
        return [np.array([[cell[a][:runs] for cell in row] for row in cells]).swapaxes(1, 2) for a in self.pair]

    def _kind(self, near: float, asks: Asks) -> Kind:
        """From draws confined to either phase, of all data sets together; where the two phases are all there are, their
        shares of the posterior are averaged over data sets.
        """
        cells = [self._cell(k, near) for k in range(self.sets)]
        draws, inside = [], []
        for a in self.pair:
            own = [(k, some) for k in range(self.sets) if (some := cells[k][1][a]) is not None]
            draws.append(np.concatenate([each[0] for _, each in own]))
            ends = [regions.descended(self._target(k, near), each, self.parts, a)[1].mean() for k, each in own]
            inside.append(float(np.mean(ends)))
        masses = None
        if len(self.parts.names) == 2:
            gap = np.array([f[self.pair[0]].mean() - f[self.pair[1]].mean() for f, _ in cells])
            share = float(special.expit(-gap).mean())
            masses = (share, 1 - share)
        heights = heights_of(self._target(0, near), draws, asks.order)[0]
        return classify(heights, interior=(inside[0], inside[1]), masses=masses, hysteresis=asks.hysteresis)

    def _predictions(
        self, critical: Crossing | None, exact: float | None, last: float, gap: float
    ) -> tuple[Prediction, ...]:
        """Leading orders, in t = n beta, of the phases' known basins, without and with what they leave of F_a - F_b at
        the last point as their constant, and Laplace's about them on the population loss; told in the axis's own
        numbers.
        """
        names = [self.parts.names[a] for a in self.pair]
        known = [None if self.axis.is_control else known_form(self.of.model, name) for name in names]
        a, b = known
        if a is None or b is None:
            return predictions(None, None, critical, exact=exact)
        cell = self.axis.cell(1.0)
        scale = cell.n * cell.beta
        a = a._replace(constant=gap - float(a.at(last * scale) - b.at(last * scale)))
        laplace = [laplace_form(self.of.model, name) for name in names]
        about = [each for each in laplace if each is not None]
        flat = [name for name, each in zip(names, laplace, strict=True) if each is not None and each[1]]
        note = f"the Hessian of {' and '.join(flat)} is singular: it does not hold" if flat else "one minimum of each"
        measured = critical and critical._replace(value=critical.value * scale, stderr=critical.stderr * scale)
        told = predictions(
            a, b, measured, laplace=[form for form, _ in about] if len(about) == 2 else None, laplace_note=note,
            exact=None if exact is None else exact * scale, constant_note="constant fitted",
        )  # fmt: skip
        return tuple(
            each._replace(t=each.t / scale, roots=tuple(Root(root.t / scale, root.upward) for root in each.roots))
            for each in told
        )
