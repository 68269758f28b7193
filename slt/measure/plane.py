"""F, <K>, the force on a control and the barrier of phases anywhere in the plane of that control and t.

At a few values of the control each phase is sampled by SMC confined to it (`slt.measure.regions`), whose runs pass
through all t of the box. Anywhere between, all is that of the runs near by, reweighted as far as that is reliable;
where it is not, the phases are sampled anew. Every value of the control goes through one program.
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
from slt.measure.target import Target
from slt.phases import Phases
from slt.posterior import Posterior
from slt.transitions.kind import BEYOND, BINS, FEW
from slt.transitions.lines import Local
from slt.typing import InputError, Key, Params, Scalar

SPACING = 0.3  # e-folds between the values of t at which draws are kept; less for many parameters
WINDOW = 4  # values of t next to a point whose draws are reweighted to it
RELIABLE, FLOOR = 0.6, 0.3  # effective share of reweighted draws: at the best values of t, and below which none counts
FIRST = 7  # values of the control tried for a first crossing


class Column(NamedTuple):
    """Runs confined to phases p at one value h of the control: log_z [p, r, t], draws [p, t, r * SHOWN, d] with their
    action, t K - log prior, and order parameter [p, t, r * SHOWN]; anchor [p]: relative errors of prior masses.
    """

    h: float
    log_z: np.ndarray
    draws: np.ndarray
    action: np.ndarray
    order: np.ndarray
    anchor: np.ndarray


class Moved(NamedTuple):
    """Draws of cells c near a point, reweighted to it: share [c] of each cell; log_z [p, c, r]; log_w, k, push, order
    [p, c, r, i]; anchor [p].
    """

    share: np.ndarray
    log_z: np.ndarray
    log_w: np.ndarray
    k: np.ndarray
    push: np.ndarray
    order: np.ndarray
    anchor: np.ndarray


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
    long as more() allows.
    """

    def __init__(
        self, of: Target, parts: Phases, pair: tuple[int, int], axis: Axis, ends: tuple[float, float],
        order: Order | None, seeds: Sequence[Params], budget: Budget, key: Key,
        rtol: float, more: Callable[[], bool],
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
        """What follows from the draws near by, sampled anew where they do not reach."""
        found, local = self._moved(h, t), None
        inside = self.axis.grid[0] <= h <= self.axis.grid[-1] and self.log_t[0] <= np.log(t) <= self.log_t[-1]
        if found is None and inside:
            self._sample(h)
            found = self._moved(h, t, FLOOR)
        while found is not None:
            local = self._local(found, t)
            if not inside or self._error(local, t) <= self.rtol or not self.more():
                return local
            self._sample(h)
            found = self._moved(h, t)
        blank = np.full(max(1, len(self.own)), np.nan)
        return Local(blank, blank, blank) if local is None else local

    def _error(self, local: Local, t: float) -> float:
        """Standard error of log t of the line next to this point, or of the line's own place where it is steep; 0 far
        from it.
        """
        a, b = (self.own.index(each) for each in self.pair)
        if not abs(local.free_energy[a] - local.free_energy[b]) < 1:
            return 0.0
        unit = float(np.ptp(self.axis.grid)) / RANGE
        jump, push = t * abs(local.loss[a] - local.loss[b]), t * abs(local.force[a] - local.force[b]) * unit
        return float(np.hypot(local.free_energy_stderr[a], local.free_energy_stderr[b]) / max(jump, push / 3, 1e-300))

    def _local(self, found: Moved, t: float) -> Local:
        """From the draws moved to one point; errors by leaving out every run of all columns in turn."""
        mean = np.exp(found.log_w).mean(-1)
        terms = np.stack([mean, *(np.mean(np.exp(found.log_w) * each, -1) for each in (found.k, found.push))])
        top = found.log_z.max((-2, -1), keepdims=True)
        sums = np.einsum("c,pcr,spcr->spr", found.share, np.exp(found.log_z - top), terms)  # [(1, K, push), p, r]
        runs = sums.shape[-1]
        whole = self._read(sums.sum(-1), runs, t)
        left = np.stack([self._read(sums.sum(-1) - sums[..., r], runs - 1, t) for r in range(runs)])
        wider = special.stdtrit(runs - 1, 0.95) / BEYOND  # Student's quantile: the runs are few
        error = wider * np.sqrt((runs - 1) / runs * np.square(left - left.mean(0)).sum(0))
        value = whole[0] - top[:, 0, 0]
        a, b = (self.own.index(each) for each in self.pair)
        barrier, spread = np.nan, np.inf
        if abs(value[a] - value[b]) < 1:
            barrier, spread = self._barrier(found, a, b)
        return Local(
            value, whole[1], whole[2], np.hypot(error[0], found.anchor), error[1], error[2], barrier, spread
        )  # fmt: skip

    @staticmethod
    def _read(sums: np.ndarray, runs: int, t: float) -> np.ndarray:
        """(F, <K>, force) [3, p] of sums over runs [(1, K, push), p]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([-np.log(sums[0] / runs), sums[1] / sums[0], sums[2] / sums[0] / t])

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
        wide = np.broadcast_to(t[:, None], draws.shape[:-1])
        mass = np.asarray(found.prior_mass.value)[self.own]
        counted = np.array([found.start[a] == "prior" for a in self.own])
        anchor = np.where(counted, 1 / np.sqrt(np.maximum(mass * found.draws, 1)), 0.0)
        if self.measured is None:
            self.measured = _projection(of, [draws[self.own.index(a), -1] for a in self.pair])
        order = np.asarray(self.measured(jnp.asarray(draws.reshape(-1, of.dim), of.posterior.beta.dtype)), np.float64)
        column = Column(h, log_z, draws, self._act(draws, h, wide)[1], order.reshape(draws.shape[:-1]), anchor)
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

    def _moved(self, h: float, t: float, least: float = RELIABLE) -> Moved | None:
        """The cells near (h, t), reweighted to it; None where the best of them keeps less than a share `least`."""
        if not (np.isfinite([h, t]).all() and t > 0 and self.columns):
            return None
        near = np.sort(np.argsort(np.abs(self.log_t - np.log(t)))[:WINDOW])
        hat = np.maximum(1 - np.abs(self.log_t[near] - np.log(t)) / (WINDOW / 2 * self.spacing), 0.0)
        runs = min(each.log_z.shape[1] for each in self.columns)
        parts = []
        for column in self.columns:
            draws = column.draws[:, near][:, :, : runs * SHOWN]
            k, action, push = self._act(draws, h, t)
            log_w = np.nan_to_num(column.action[:, near][..., : runs * SHOWN] - action, nan=-np.inf)
            with np.errstate(invalid="ignore"):
                weights = np.exp(log_w - log_w.max(-1, keepdims=True))
                size = np.square(weights.mean(-1)) / np.square(weights).mean(-1)
            size = np.nan_to_num(size).min(0)  # of the phase that is worst off
            order = column.order[:, near][..., : runs * SHOWN]
            split = [each.reshape(*each.shape[:2], runs, SHOWN) for each in (log_w, k, push, order)]
            z = np.moveaxis(column.log_z[:, :runs, near], 1, 2)
            weight = hat * np.square(np.maximum(size - FLOOR, 0.0))
            parts.append((weight, z, *split, np.where(hat > 0, size, 0.0).max()))
        if max(each[-1] for each in parts) < least or not sum(each[0].sum() for each in parts) > 0:
            return None
        share = np.concatenate([each[0] for each in parts])
        share = share / share.sum()
        by_column = share.reshape(len(parts), -1).sum(-1)
        anchor = np.sqrt(np.square(by_column) @ np.square([each.anchor for each in self.columns]))
        keep = share > 1e-3
        rest = [np.concatenate([each[i] for each in parts], axis=1)[:, keep] for i in range(1, 6)]
        return Moved(share[keep] / share[keep].sum(), rest[0], rest[1], rest[2], rest[3], rest[4], anchor)

    @staticmethod
    def _barrier(found: Moved, a: int, b: int) -> tuple[float, float]:
        """The rise of F of the order parameter between phases a and b, which weigh alike, from the shallower side; with
        its standard error, infinite for a lower bound. F: -log of a weighted histogram, smoothed as far as noise goes.
        """
        values = [found.order[p].swapaxes(0, 1).reshape(found.order.shape[2], -1) for p in (a, b)]  # [r, c * i]
        weights = []
        for p in (a, b):
            log_w = found.log_z[p][..., None] + found.log_w[p] + np.log(found.share)[:, None, None]
            weight = np.exp(log_w - log_w.max()).swapaxes(0, 1).reshape(values[0].shape)
            weights.append(weight / weight.sum())
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
