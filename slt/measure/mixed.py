"""Draws of several runs at several places, reweighted together to one point.

Every draw counts as one of the mixture of all that was drawn (the balance heuristic of Veach and Guibas 1995; as MBAR,
with log Z of the places known from SMC): target over mixture is bounded wherever any of the places has draws, so that
a valley in which one place has next to none is that of those which have. With the weights of single places it would be
missed, and no effective number of their own draws could tell.
"""

from typing import NamedTuple

import numpy as np
from scipy import special, stats


class Pool(NamedTuple):
    """Blocks b of draws of phases p near a point, each drawn at one of the states m, those of one group being alike.

    state [b]; group [m]; share [b] of the mixture; log_z [p, b, r] of every run; log_u [p, b, r, i, m], log of the
    unnormalised density of every draw at every state; log_target [p, b, r, i] at the point; moments [q, p, b, r, i].
    """

    state: np.ndarray
    group: np.ndarray
    share: np.ndarray
    log_z: np.ndarray
    log_u: np.ndarray
    log_target: np.ndarray
    moments: np.ndarray

    def only(self, group: int) -> "Pool":
        """The blocks of one group."""
        states = np.flatnonzero(self.group == group)
        rows = np.flatnonzero(np.isin(self.state, states))
        return Pool(
            np.searchsorted(states, self.state[rows]), self.group[states], self.share[rows], self.log_z[:, rows],
            self.log_u[:, rows][..., states], self.log_target[:, rows], self.moments[:, :, rows],
        )  # fmt: skip


class Mixed(NamedTuple):
    """At the point: whole [1 + q, p], -log Z and the means of the moments; left [r, 1 + q, p], without each run in
    turn; weight [p, b, r, i], adding up to 1 in every phase; reach [g]: the effective share of the draws of each group,
    of the phase that is worst off; part [p, b]: how much rests on log Z of each block.
    """

    whole: np.ndarray
    left: np.ndarray
    weight: np.ndarray
    reach: np.ndarray
    part: np.ndarray


def mixed(pool: Pool) -> Mixed:
    """All draws at the point. reach is told by the draws of all groups: it is low too where a group lacks a valley that
    another one has drawn.
    """
    each = [_one(pool, p) for p in range(pool.log_z.shape[0])]
    whole, left, weight, reach, part = (np.stack([one[i] for one in each]) for i in range(5))
    return Mixed(whole.T, np.moveaxis(left, 0, -1), weight, reach.min(0), part)


def _one(pool: Pool, p: int) -> tuple[np.ndarray, ...]:
    state, (blocks, runs, size) = pool.state, pool.log_target[p].shape
    states = len(pool.group)
    belongs = np.zeros((states, blocks))
    belongs[state, np.arange(blocks)] = 1.0
    top = pool.log_z[p].max()
    if not np.isfinite(top):
        blank = np.full((runs, 1 + len(pool.moments)), np.nan)
        dead = np.zeros((blocks, runs, size)), np.zeros(pool.group.max() + 1), np.zeros(blocks)
        return blank[0], blank, *dead
    z = np.exp(pool.log_z[p] - top)  # [b, r]
    of_run = belongs @ z  # [m, r]
    alpha = (belongs @ pool.share) * (of_run.sum(-1) > 0)  # where all runs failed nothing was drawn
    alpha = alpha / alpha.sum()
    total = np.maximum(of_run.sum(-1, keepdims=True), 1e-300)
    blocks_of = belongs.sum(-1)
    log_mean = np.log(total[:, 0] / (blocks_of * runs)) + top
    without = np.maximum(total - of_run, 1e-300)
    ratio = total / without  # [m, r]; weights of the draws grow by it, densities by (runs - 1) / runs of it

    with np.errstate(divide="ignore"):
        log_e = np.nan_to_num(pool.log_u[p], nan=-np.inf) + np.log(alpha) - log_mean  # [b, r, i, m]
    peak = log_e.max(-1)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    density = np.exp(log_e - peak[..., None])
    log_w = np.nan_to_num(pool.log_target[p], nan=-np.inf) - peak
    base = alpha[state, None] * z / total[state]  # [b, r]
    drawn = (base[..., None] > 0) & (density.sum(-1) > 0) & np.isfinite(log_w)
    lift = np.where(drawn, log_w, -np.inf).max()
    raw = np.where(drawn, np.exp(log_w - lift), 0.0)
    terms = np.concatenate([np.ones((1, *raw.shape)), np.where(drawn, pool.moments[:, p], 0.0)])
    weight = base[..., None] / size * raw / np.where(drawn, density.sum(-1), 1.0)
    sums = np.einsum("bri,qbri->q", weight, terms)

    mixture = density @ (ratio * (runs - 1) / runs)  # [b, r, i, without r']
    leaving = (base[..., None] / size * raw)[..., None] * ratio[state][:, None, None, :]
    leaving = np.where(drawn[..., None], leaving / np.where(mixture > 0, mixture, 1.0), 0.0)
    leaving[:, np.arange(runs), :, np.arange(runs)] = 0.0
    fewer = np.einsum("brix,qbri->xq", leaving, terms)

    weight = weight / sums[0]
    target = raw / sums[0]
    groups = np.arange(pool.group.max() + 1)
    reach = np.zeros(groups.size)
    for g in groups:
        own = pool.group == g
        with np.errstate(divide="ignore", invalid="ignore"):
            far = weight * target / (density[..., own].sum(-1) / alpha[own].sum())
        reach[g] = 1 / np.where(weight > 0, far, 0.0).sum() if alpha[own].sum() > 0 else 0.0
    rests = np.einsum("bri,brim->m", weight / np.where(drawn, density.sum(-1), 1.0), density)
    part = rests[state] * z.sum(-1) / total[state, 0]
    return _read(sums, lift), _read(fewer, lift), weight, reach, part


def _read(sums: np.ndarray, lift: float) -> np.ndarray:
    """-log Z and the means of the moments from sums [..., 1 + q]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([-np.log(sums[..., :1]) - lift, sums[..., 1:] / sums[..., :1]], axis=-1)


def scatter(value: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """How likely it is that independent numbers of one truth lie so far apart, and the standard deviation between them
    beyond their errors (DerSimonian and Laird 1986).
    """
    if len(value) < 2:
        return 1.0, 0.0
    weight = 1 / np.square(np.maximum(error, 1e-12))
    off = float(weight @ np.square(value - weight @ value / weight.sum()))
    freedom = len(value) - 1
    square = (off - freedom) / float(weight.sum() - np.square(weight).sum() / weight.sum())
    return float(stats.chi2.sf(off, freedom)), float(np.sqrt(max(square, 0.0)))


def jackknife(left: np.ndarray) -> np.ndarray:
    """Standard error from values without each run in turn [r, ...]."""
    runs = len(left)
    return np.sqrt((runs - 1) / runs * np.square(left - left.mean(0)).sum(0))


def quantile(runs: int) -> float:
    """By how much an error from that few runs is too small: Student's quantile over the normal one."""
    return float(special.stdtrit(runs - 1, 0.95) / special.ndtri(0.95))
