"""F, <K>, the force on a control and the barrier of phases anywhere in the plane of that control and t.

At a few values of the control each phase is sampled by SMC confined to it (`slt.measure.regions`), whose runs pass
through all t of the box. Anywhere between, all is that of all these draws, reweighted (`slt.measure.mixed`) as far as
that is reliable; where it is not, or where the runs that reach a point disagree there, the phases are sampled anew.
Every value of the control goes through one program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from slt.estimators.profile import smoothed
from slt.measure import confined, target
from slt.measure.axis import RANGE, Axis
from slt.measure.barrier import Order
from slt.measure.confined import SHOWN
from slt.measure.crossings import at, places_of, squares, table
from slt.measure.evidence import Budget
from slt.measure.mixed import Mixed, Pool, jackknife, mixed, quantile, scatter
from slt.measure.target import Target
from slt.phases import Phases
from slt.posterior import Posterior
from slt.transitions.kind import BINS, FEW
from slt.transitions.lines import Local
from slt.typing import InputError, Key, Params, Scalar

SPACING = 0.3  # e-folds between the values of t at which draws are kept; less for many parameters
RELIABLE, FLOOR = 0.6, 0.3  # effective share of reweighted draws of the best value of the control: enough, and useless
CHANCE = 0.01  # of columns that agree to differ as much, below which they do not agree
FIRST = 7  # values of the control tried for a first crossing


class Column(NamedTuple):
    """Runs confined to phases p at one value h of the control: log_z [p, r, t], draws [p, t, r * SHOWN, d] with their
    order parameter [p, t, r * SHOWN]; anchor [p]: relative errors of prior masses.
    """

    h: float
    log_z: np.ndarray
    draws: np.ndarray
    order: np.ndarray
    anchor: np.ndarray


class Near(NamedTuple):
    """What is known at a point: `mixed`'s answer; order [p, b, r, i] and the column of each block [b]; whether columns
    that reach it disagree, and by how much beyond their errors.
    """

    mixed: Mixed
    order: np.ndarray
    column: np.ndarray
    doubtful: bool
    beyond: float


@functools.partial(jax.jit, static_argnames=("name",))
def _acted(
    posterior: Posterior, w: Float[Array, "k d"], h: Scalar, t: Float[Array, " k"], *, name: str
) -> tuple[Array, Array, Array]:
    """K - K(reference), the action t K - log prior, and its derivative by the control, of every w."""

    def one(x: Array, t: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        def both(h: Scalar) -> tuple[Scalar, Scalar]:
            own = Posterior.build(
                posterior.model, posterior.data, 1, 1.0, centre=posterior.centre, control={name: h}
            )  # fmt: skip
            return target.values(own, x)

        (log_prior, k), (log_prior_h, k_h) = jax.jvp(both, (h,), (jnp.ones_like(h),))
        return k, t * k - log_prior, t * k_h - log_prior_h

    return jax.lax.map(lambda each: one(*each), (w, t), batch_size=4096)


class Plane:
    """F, <K> and the force on the control of every phase, and the barrier between two, anywhere in the box.

    Near where F of the two meet, phases are sampled again until the standard error of log t of the line is `rtol`, as
    long as more(False) allows, and where columns that reach a point disagree, as long as more(True) does.
    """

    def __init__(
        self, of: Target, parts: Phases, pair: tuple[int, int], axis: Axis, ends: tuple[float, float],
        order: Order | None, seeds: Sequence[Params], budget: Budget, key: Key,
        rtol: float, more: Callable[[bool], bool],
    ):  # fmt: skip
        self.of, self.parts, self.pair, self.axis = of, parts, pair, axis
        self.seeds, self.budget, self.key = seeds, budget, key
        low, high = np.log(ends)
        spacing = SPACING / max(1.0, np.sqrt(of.dim / 8))
        count = int(np.ceil((high - low) / spacing)) + 1
        self.spacing = (high - low) / (count - 1)
        self.log_t = np.linspace(low - self.spacing, high + self.spacing, count + 2)
        measured = None if order is None else jax.jit(jax.vmap(lambda w: order(target.unravel(of.posterior, w))))
        self.measured: Callable[[Any], Any] | None = measured
        self.rtol, self.more = rtol, more
        self.columns: list[Column] = []
        self.seen: dict[tuple[int, int, float], tuple[np.ndarray, np.ndarray]] = {}  # K and -log prior: `_log_u`
        self.own: list[int] = []  # the phases that were measured

    def start(self) -> tuple[float, float]:
        """Where F of the two phases meet at one of a few values of the control, if possible with no third one below."""
        low, high = self.axis.grid[[0, -1]]
        order = sorted(range(1, FIRST + 1), key=lambda i: (-(i & -i), i))  # the middle, then ever finer
        some: list[tuple[float, float]] = []
        for h in (low + (high - low) * i / (FIRST + 1) for i in order):
            column = self._sample(float(h))
            value = -np.asarray(special.logsumexp(column.log_z, axis=1))  # [p, t], up to a constant
            a, b = (self.own.index(each) for each in self.pair)
            gap = value[a] - value[b]
            for i in np.flatnonzero(gap[:-1] * gap[1:] < 0):
                share = gap[i] / (gap[i] - gap[i + 1])
                point = float(h), float(np.exp(self.log_t[i] + share * self.spacing))
                here = value[:, i] + share * (value[:, i + 1] - value[:, i])
                if not (self.log_t[1] <= np.log(point[1]) <= self.log_t[-2]):
                    continue
                if np.nanmin(here) >= here[a] - 1e-9:
                    return point
                some.append(point)
        if not some:
            a, b = (self.parts.names[each] for each in self.pair)
            raise InputError("control, t", (float(low), float(high)), f"F of {a} and {b} do not meet in this box")
        return some[0]

    def __call__(self, h: float, t: float) -> Local:
        """What follows from the draws near by, sampled anew where they do not reach, or do not agree."""
        inside = self.axis.grid[0] <= h <= self.axis.grid[-1] and self.log_t[0] <= np.log(t) <= self.log_t[-1]
        near = self._near(h, t)
        if inside and (near is None or near.mixed.reach.max() < RELIABLE):
            self._sample(h)
            near = self._near(h, t)
        while near is not None and near.mixed.reach.max() >= (FLOOR if inside else RELIABLE):
            local, within = self._local(near, t)
            doubtful = near.doubtful and not self.sampled(h, 0.0) and self.more(True)
            if not inside or not (doubtful or (self._error(local, within, t) > self.rtol and self.more(False))):
                return local
            self._sample(h)
            near = self._near(h, t)
        blank = np.full(max(1, len(self.own)), np.nan)
        return Local(blank, blank, blank)

    def sampled(self, h: float, within: float) -> bool:
        """Whether there is a column as near to h as that."""
        return any(abs(each.h - h) <= within + 1e-9 * np.ptp(self.axis.grid) for each in self.columns)

    def settle(self, h: float) -> None:
        """A column at this value of the control."""
        self._sample(float(np.clip(h, *self.axis.grid[[0, -1]])))

    def _error(self, local: Local, within: np.ndarray, t: float) -> float:
        """Standard error of log t of the line next to this point, from errors of F, or of the line's own place where it
        is steep; 0 far from it.
        """
        a, b = (self.own.index(each) for each in self.pair)
        if not abs(local.free_energy[a] - local.free_energy[b]) < 1:
            return 0.0
        unit = float(np.ptp(self.axis.grid)) / RANGE
        jump, push = t * abs(local.loss[a] - local.loss[b]), t * abs(local.force[a] - local.force[b]) * unit
        return float(np.hypot(within[a], within[b]) / max(jump, push / 3, 1e-300))

    def _local(self, near: Near, t: float) -> tuple[Local, np.ndarray]:
        """From the draws moved to one point; errors by leaving out every run of all columns in turn. Beside it those of
        F but for what columns disagree beyond them, which more draws do not lessen.
        """
        whole, left, weight, _, part = near.mixed
        error = quantile(len(left)) * jackknife(left)
        own = np.stack([part[:, near.column == c].sum(-1) for c in range(len(self.columns))], axis=-1)  # [p, c]
        anchor = np.square(own * np.stack([each.anchor for each in self.columns], axis=-1)).sum(-1)
        homes = np.array([each.h for each in self.columns])
        alike = np.stack([own[:, homes == h].sum(-1) for h in np.unique(homes)], axis=-1)
        beyond = np.square(alike * near.beyond).sum(-1) / 2  # a half for either phase
        a, b = (self.own.index(each) for each in self.pair)
        barrier, spread = np.nan, np.inf
        if abs(whole[0, a] - whole[0, b]) < 1:
            barrier, spread = self._barrier(near.order, weight, a, b)
        within = np.sqrt(np.square(error[0]) + anchor)
        known = np.sqrt(np.square(within) + beyond)
        return Local(whole[0], whole[1], whole[2] / t, known, error[1], error[2] / t, barrier, spread), within

    def _sample(self, h: float) -> Column:
        """Runs of every phase at h, kept."""
        of, t, key = at(self.of, self.axis.cell(h)), np.exp(self.log_t), jax.random.fold_in(self.key, len(self.columns))
        found = confined.replicates(of, t, self.parts, key, budget=self.budget, points=self.seeds)
        for a in self.pair:
            table(found, self.parts, a)
        if not self.columns:
            self.own = [a for a in range(len(self.parts.names)) if found.tables[a] is not None]
        runs = min(len(one) for one in (found.tables[a] for a in self.own) if one is not None)
        size = (t.size, runs * SHOWN, of.dim)
        log_z, draws = np.full((len(self.own), runs, t.size), -np.inf), np.full((len(self.own), *size), np.nan)
        for p, a in enumerate(self.own):
            one, shown = found.tables[a], found.shown[a]
            if one is not None and shown is not None:
                log_z[p], draws[p] = one[:runs], shown[:, : size[1]]
        mass = np.asarray(found.prior_mass.value)[self.own]
        counted = np.array([found.start[a] == "prior" for a in self.own])
        anchor = np.where(counted, 1 / np.sqrt(np.maximum(mass * found.draws, 1)), 0.0)
        if self.measured is None:
            self.measured = _projection(of, [draws[self.own.index(a), -1] for a in self.pair])
        order = np.asarray(self.measured(jnp.asarray(draws.reshape(-1, of.dim), of.posterior.beta.dtype)), np.float64)
        column = Column(h, log_z, draws, order.reshape(draws.shape[:-1]), anchor)
        self.columns.append(column)
        return column

    def _act(self, draws: np.ndarray, h: float, t: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`_acted` of draws [..., d]."""
        dtype, shape = self.of.posterior.beta.dtype, draws.shape[:-1]
        w = jnp.asarray(draws.reshape(-1, self.of.dim), dtype)
        times = jnp.asarray(np.broadcast_to(t, shape).reshape(-1), dtype)
        k, action, push = (
            np.asarray(each, np.float64).reshape(shape)
            for each in _acted(self.of.posterior, w, jnp.asarray(h, dtype), times, name=self.axis.name)
        )
        return k, action, push

    def _near(self, h: float, t: float) -> Near | None:
        """All draws of the values of t next to a point, moved to it; None where it lies beyond them."""
        if not (np.isfinite([h, t]).all() and t > 0 and self.columns):
            return None
        place = (np.log(t) - self.log_t[0]) / self.spacing
        if not -1 < place < len(self.log_t):
            return None
        place = float(np.clip(place, 0, len(self.log_t) - 1))
        near = min(int(place), len(self.log_t) - 2) + np.arange(2)
        hat = 1 - np.abs(place - near)
        runs = min(each.log_z.shape[1] for each in self.columns)
        values = np.unique([each.h for each in self.columns])
        at_point = [self._act(each.draws[:, near, : runs * SHOWN], h, t) for each in self.columns]
        some = [i for i in range(2) if hat[i] > 1e-9]
        group, step = (each.ravel() for each in np.meshgrid(np.arange(values.size), some, indexing="ij"))  # of states
        rows = [(c, i) for c in range(len(self.columns)) for i in some]
        homes = [np.flatnonzero((values[group] == self.columns[c].h) & (step == i))[0] for c, i in rows]
        shape = (len(self.own), len(rows), runs, SHOWN)

        def stacked(each: Sequence[np.ndarray]) -> np.ndarray:
            return np.stack(each, axis=1).reshape(shape)

        log_u = np.stack([
            stacked([self._log_u(c, near[i], float(values[g]), near[j])[:, : runs * SHOWN] for c, i in rows])
            for g, j in zip(group, step, strict=True)
        ], axis=-1)  # fmt: skip
        k, action, push = (stacked([at_point[c][n][:, i] for c, i in rows]) for n in range(3))
        pool = Pool(
            np.array(homes), group, hat[[i for _, i in rows]],
            np.stack([self.columns[c].log_z[:, :runs, near[i]] for c, i in rows], axis=1), log_u, -action,
            np.stack([k, push]),
        )  # fmt: skip
        order = stacked([self.columns[c].order[:, near[i], : runs * SHOWN] for c, i in rows])
        found = mixed(pool)
        chance, beyond = self._agreement(pool, found)
        return Near(found, order, np.array([c for c, _ in rows]), chance < CHANCE, beyond)

    def _agreement(self, pool: Pool, found: Mixed) -> tuple[float, float]:
        """`scatter` of F_a - F_b from the columns at each value of the control that reaches the point."""
        a, b = (self.own.index(each) for each in self.pair)
        own = [mixed(pool.only(int(g))) for g in np.flatnonzero(found.reach >= RELIABLE)]
        if len(own) < 2:
            return 1.0, 0.0
        gaps = [(each.whole[0, a] - each.whole[0, b], each.left[:, 0, a] - each.left[:, 0, b]) for each in own]
        value, left = (np.stack(each) for each in zip(*gaps, strict=True))
        anchor = np.hypot(*self.columns[0].anchor[[a, b]])
        return scatter(value, np.hypot(quantile(left.shape[1]) * jackknife(left.T), anchor))

    def _log_u(self, column: int, at: int, h: float, other: int) -> np.ndarray:
        """Log of the unnormalised density at (h, the other-th t) of a column's draws at its at-th t."""
        known = self.seen.get((column, at, h))
        if known is None:
            k, minus_log_prior, _ = self._act(self.columns[column].draws[:, at], h, 0.0)
            known = self.seen[column, at, h] = k, minus_log_prior
        return -np.exp(self.log_t[other]) * known[0] - known[1]

    @staticmethod
    def _barrier(order: np.ndarray, weight: np.ndarray, a: int, b: int) -> tuple[float, float]:
        """The rise of F of the order parameter between phases a and b, which weigh alike, from the shallower side; with
        its standard error, infinite for a lower bound. F: -log of a weighted histogram, smoothed as far as noise goes.
        """
        values, weights = (
            [each[p].swapaxes(0, 1).reshape(order.shape[2], -1) for p in (a, b)] for each in (order, weight)
        )  # [r, b * i]
        ends = np.quantile(np.concatenate(values, axis=None), [0.002, 0.998])
        if not ends[1] > ends[0]:
            return 0.0, 0.0
        edges = np.linspace(ends[0], ends[1], BINS + 1)
        held = np.array([
            [np.histogram(x, edges, weights=w)[0] for x, w in zip(*each, strict=True)]
            for each in zip(values, weights, strict=True)
        ])  # fmt: skip  # [phase, r, bin]
        squares = sum(np.histogram(x, edges, weights=w**2)[0] for x, w in zip(values, weights, strict=True))
        whole = held.sum((0, 1))
        draws = np.square(whole) / np.maximum(squares, 1e-300)  # that many would be as noisy
        sides = [np.flatnonzero(mine >= other) for mine, other in (held.sum(1), held.sum(1)[::-1])]
        modes = sorted(int(side[whole[side].argmax()]) for side in sides)
        if (draws[modes[0] : modes[1] + 1] < FEW).any():
            return max(0.0, float(np.log(draws[modes].min() / FEW))), np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(draws >= 1, 1 / np.sqrt(draws), np.nan)

        def rise(held: np.ndarray) -> float:
            with np.errstate(divide="ignore"):
                curve = smoothed(-np.log(held.sum((0, 1))), error)
            low, high = sorted(int(side[curve[side].argmin()]) for side in sides)
            return float(curve[low : high + 1].max() - max(curve[low], curve[high]))

        runs = held.shape[1]
        left = np.array([rise(np.delete(held, r, axis=1)) for r in range(runs)])
        return rise(held), float(np.sqrt((runs - 1) / runs * np.square(left - left.mean()).sum()))


def _projection(of: Target, draws: Sequence[np.ndarray]) -> Callable[[Any], Any]:
    """How far from phase a to phase b w [k, d] lies, along the line between the places of either next to it."""
    ends = [places_of(of, each) for each in draws]

    def along_line(w: Any) -> np.ndarray:
        w = np.asarray(w, np.float64)
        a, b = (own[squares(w, own).argmin(-1)] for own in ends)
        return ((w - a) * (b - a)).sum(-1) / np.maximum(np.square(b - a).sum(-1), 1e-300)

    return along_line
