"""Sequential Monte Carlo with gradient moves: adaptive tempering, independent replicates side by side, host-driven.

A path leads from a normalised density b(w) that can be drawn from to an unnormalised target b(w) exp(W(w)) through
b(w) exp(s W(w)), s from 0 up. Two paths are used: from the prior, W = -K and s = t, so that one run passes every t
asked for; and from a Gaussian around a seed to exp(-t K) prior inside that seed's region, s from 0 to 1, which gives
the absolute free energy of a basin whose prior mass may be too small to hit.

At each stage the next s is where the effective sample size of the incremental weights falls to a share of the
particles, agreed on by all runs of one path; log Z grows by the log mean of those weights, particles are resampled
(systematically) by them and only then moved, at the new s, by HMC whose step is steered by acceptance and whose number
of moves is steered by the correlation that is left. So no weight is ever pending (Del Moral, Doucet and Jasra 2006).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from slt.measure.paths import Path, Seeded
from slt.measure.target import Times, fold, prior_draws
from slt.samplers.mcmc import HMC
from slt.typing import Key, Scalar

TARGET = 0.8  # acceptance that the steps are steered to
KERNEL = HMC(leapfrogs=6, jitter=0.4, tune=False)
MOST_STAGES = 4000
FEW = 4


class Particles(NamedTuple):
    """All particles of one run and how they are moved: w [N, d], log b and W [N], s and the log step."""

    w: Array
    base: Array
    work: Array
    s: Array
    log_step: Array


class Told(NamedTuple):
    """What one stage tells of one run: log of the mean incremental weight; correlation of W before and after moves."""

    s: Any
    increment: Any
    kept: Any
    acceptance: Any


class Run(NamedTuple):
    """One finished run. s [stage]; log_z [stage], work [stage, N] after the moves of each stage; stage 0 is the base.

    at: the stages of the values of s asked for; labels [asked, N]: what `watch` made of the particles there;
    ended: whether the path was finished; few [stage, FEW, d]: some of each stage's particles, spread over them all.
    """

    s: np.ndarray
    log_z: np.ndarray
    work: np.ndarray
    at: np.ndarray
    labels: np.ndarray | None
    acceptance: np.ndarray
    ended: bool
    few: np.ndarray


def _next(work: Array, s: Scalar, target: Scalar, share: Scalar) -> Scalar:
    """The next s: where the effective size of the weights falls to `share` of the particles that count."""
    alive, whole = jnp.isfinite(work), target - s

    def enough(step: Scalar) -> Array:
        log_w = jnp.where(alive, step * jnp.where(alive, work, 0), -jnp.inf)
        w = jnp.exp(log_w - jnp.max(log_w, initial=jnp.finfo(work.dtype).min))
        return jnp.square(jnp.sum(w)) >= share * jnp.sum(alive).astype(work.dtype) * jnp.sum(jnp.square(w))

    def halve(_: Any, bracket: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bracket
        middle = (low + high) / 2
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(whole), whole))
    return jnp.where(enough(whole), target, s + low)


def _shared(x: Array, alive: Array, group: Array) -> Array:
    """The mean of x over the runs of each run's group that are alive; 0 where none is."""
    weight = alive.astype(x.dtype)
    sums = jax.ops.segment_sum(jnp.stack([jnp.where(alive, x, 0), weight], axis=-1), group, x.shape[0])[group]
    return sums[:, 0] / jnp.maximum(sums[:, 1], 1)


def _correlation(a: Array, b: Array) -> Array:
    good = jnp.isfinite(a) & jnp.isfinite(b)
    count = jnp.maximum(jnp.sum(good), 1).astype(a.dtype)
    a, b = (jnp.where(good, x - jnp.sum(jnp.where(good, x, 0)) / count, 0) for x in (a, b))
    return jnp.clip(jnp.sum(a * b) / jnp.sqrt(jnp.maximum(jnp.sum(a * a) * jnp.sum(b * b), 1e-30)), 0.0, 1.0)


class Moving(NamedTuple):
    """One run within a stage: BlackJAX's states [N] and variances [N, d], W before the moves, log mean weight."""

    states: Any
    mass: Array
    before: Array
    increment: Scalar


def _resampled(path: Path, now: Particles, key: Key, s: Scalar) -> Moving:
    """Particles drawn anew by their weights for the next s."""
    number = now.work.shape[0]
    size = jnp.asarray(number, now.work.dtype)
    alive = jnp.isfinite(now.work)
    log_w = jnp.where(alive, (s - now.s) * jnp.where(alive, now.work, 0), -jnp.inf)
    increment = jax.scipy.special.logsumexp(log_w) - jnp.log(size)
    cumulative = jnp.cumsum(jnp.exp(log_w - jnp.max(log_w)))
    at = (jnp.arange(number, dtype=size.dtype) + jax.random.uniform(key, (), size.dtype)) / size * cumulative[-1]
    index = jnp.clip(jnp.searchsorted(cumulative, at), 0, number - 1)
    w, before = now.w[index], now.work[index]
    # each half moves by the other's variances: a metric made from the particles that it moves would bias them by about
    # d/N nats (measured: 25 nats for 576 parameters and 128 particles)
    half = number // 2
    mass = jnp.where(jnp.arange(number)[:, None] < half, jnp.var(w[half:], axis=0), jnp.var(w[:half], axis=0))
    mass = jnp.where(mass > 0, mass, jnp.maximum(jnp.max(mass), 1e-30))
    states = jax.vmap(lambda x: blackjax.hmc.init(x, lambda y: path.log_density(y, s)))(w)
    return Moving(states, mass, before, increment)


def _moved(path: Path, moving: Moving, key: Key, s: Scalar, log_step: Scalar) -> tuple[Moving, Scalar]:
    """One move of every particle, and the mean acceptance."""
    number = moving.before.shape[0]
    kernel = KERNEL.kernel(lambda w: path.log_density(w, s), search=False)
    keys = jax.random.split(key, number)
    states, info = jax.vmap(lambda k, x, m: kernel(k, x, jnp.exp(log_step), m))(keys, moving.states, moving.mass)
    folded, flip = jax.vmap(lambda x: fold(path.posterior, x))(states.position)
    states = states._replace(position=folded, logdensity_grad=states.logdensity_grad * flip)
    rate = jnp.mean(jnp.nan_to_num(info.acceptance_rate)).astype(log_step.dtype)
    return moving._replace(states=states), rate


def _axes(path: Path) -> Any:
    """vmap axes of a path over runs: the posterior is shared, seeds and labels are each run's own."""
    own = None if path.seeded is None else Seeded(None, None, None, None, 0, 0)  # pyright: ignore[reportArgumentType]
    if path.seeded is not None and path.seeded.roots.ndim == 4:
        own = Seeded(None, 0, 0, None, 0, 0)  # pyright: ignore[reportArgumentType]
    return Path(None, own, None if path.label is None else 0, path.phases)  # pyright: ignore[reportArgumentType]


@jax.jit
def _stages(
    path: Path, now: Particles, key: Key, target: Array, moves: Array, share: Array, group: Array
) -> tuple[Particles, Told]:
    """One stage of every run. The next s, and after each move the step, are agreed on by the runs of a group.

    A run that chose them alone would choose by the particles that it then weighs and moves: log Z came out high by some
    4/N nats (measured: .034 at N = 128), which no number of runs averages away.
    """
    runs, axes = now.s.shape[0], _axes(path)
    alive, done = jnp.any(jnp.isfinite(now.work), axis=-1), now.s >= target
    proposed = jax.vmap(_next, in_axes=(0, 0, 0, None))(now.work, now.s, target, share)
    short = _shared((proposed < target).astype(target.dtype), alive, group) > 0
    s = jnp.where(short, jnp.minimum(_shared(proposed, alive, group), target), target)
    index_key, move_key = jax.random.split(key)
    moving = jax.vmap(_resampled, (axes, 0, 0, 0))(path, now, jax.random.split(index_key, runs), s)

    def move(i: Array, loop: tuple[Moving, Array, Array]) -> tuple[Moving, Array, Array]:
        moving, log_step, accepted = loop
        keys = jax.random.split(jax.random.fold_in(move_key, i), runs)
        moving, rate = jax.vmap(_moved, (axes, 0, 0, 0, 0))(path, moving, keys, s, log_step)
        log_step = jnp.clip(log_step + _shared(rate, alive, group) - TARGET, -15.0, 3.0)
        return moving, log_step, accepted + rate

    start = moving, now.log_step, jnp.zeros_like(now.s)
    moving, log_step, accepted = jax.lax.fori_loop(0, moves, move, start)
    base, work = jax.vmap(lambda p, w: jax.vmap(p.weigh)(w), (axes, 0))(path, moving.states.position)
    new = Particles(moving.states.position, base, work, s, log_step)
    new = jax.tree.map(lambda a, b: jnp.where(done.reshape(-1, *(1,) * (b.ndim - 1)), b, a), new, now)
    rate = accepted / jnp.maximum(moves, 1).astype(accepted.dtype)
    kept = jax.vmap(_correlation)(moving.before, work)
    return new, Told(new.s, jnp.where(done, 0.0, moving.increment), jnp.where(done, 0.0, kept), rate)


def _groups(path: Path, runs: int) -> Array:
    """Numbers of groups of runs that follow one path: of one phase, one seed and one t."""
    parts = [] if path.label is None else [path.label]
    parts += [] if path.seeded is None else [path.seeded.which, path.seeded.t]
    rows = np.stack([np.broadcast_to(np.asarray(part, np.float64), runs) for part in [*parts, 0.0]], axis=-1)
    return jnp.asarray(np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1), jnp.int32)


@jax.jit
def _begin(path: Path, w: Array) -> Particles:
    weigh = jax.vmap(lambda p, x: jax.vmap(p.weigh)(x), in_axes=(_axes(path), 0))
    base, work = weigh(path, w)
    runs = w.shape[0]
    step = jnp.full(runs, np.log(0.8 * w.shape[-1] ** -0.25), work.dtype)
    return Particles(w, base, work, jnp.zeros(runs, work.dtype), step)


@functools.partial(jax.jit, static_argnames=("number",))
def _drawn(path: Path, keys: Key, number: int) -> Array:
    if path.seeded is None:
        return jax.vmap(lambda k: prior_draws(path.posterior, k, number))(keys)
    return jax.vmap(lambda p, k: p.seeded.draw(k, number), in_axes=(_axes(path), 0))(path, keys)


def run(
    path: Path,
    asked: Times,
    key: Key,
    *,
    runs: int,
    particles: int = 512,
    share: float = 0.9,
    moves: tuple[int, int] = (2, 12),
    start: Array | None = None,
    watch: Callable[[int, int, Array], np.ndarray] | None = None,
) -> list[Run]:
    """Independent runs along the path through every value of `asked` (ascending, > 0).

    share: effective sample size that a stage may cost; moves: fewest and most HMC moves a stage; start [runs, N, d]:
    particles from the base where it cannot be drawn from (a phase of the prior); watch(run, number of the value asked
    for, particles w [N, d]) -> labels [N].
    """
    dtype = path.posterior.beta.dtype
    goals = np.asarray(asked, np.float64)
    begin_key, key = jax.random.split(key)
    w = _drawn(path, jax.random.split(begin_key, runs), particles) if start is None else start
    with jax.threefry_partitionable(False):
        now = _begin(path, w)
        works, told = [np.asarray(now.work)], []
        some = np.linspace(0, particles - 1, FEW).astype(int)
        few = [np.asarray(now.w[:, some])]
        goal = np.zeros(runs, int)
        reached: list[list[int]] = [[] for _ in range(runs)]
        labels: list[list[np.ndarray]] = [[] for _ in range(runs)]
        rounds, stuck, group = float(moves[0] + 1), np.zeros(runs, bool), _groups(path, runs)
        for stage in range(1, MOST_STAGES):
            target = jnp.asarray(goals[np.minimum(goal, goals.size - 1)], dtype)
            now, info = _stages(
                path, now, jax.random.fold_in(key, stage), target, jnp.asarray(round(rounds), jnp.int32),
                jnp.asarray(share, dtype), group,
            )  # fmt: skip
            info = Told(*(np.asarray(each, np.float64) for each in info))
            works.append(np.asarray(now.work))
            few.append(np.asarray(now.w[:, some]))
            told.append(info)
            active = (goal < goals.size) & ~stuck
            rounds = float(np.clip(rounds * np.exp(0.5 * (info.kept[active].mean() - 0.4)), *moves))
            stuck |= ~np.isfinite(info.increment)
            arrived = active & (info.s >= np.asarray(target, np.float64))
            for r in np.flatnonzero(arrived):
                reached[r].append(stage)
                if watch is not None:
                    labels[r].append(watch(int(r), int(goal[r]), now.w[r]))
                goal[r] += 1
            if ((goal >= goals.size) | stuck).all():
                break
    s = np.concatenate([np.zeros((1, runs)), [each.s for each in told]])
    log_z = np.concatenate([np.zeros((1, runs)), np.cumsum([each.increment for each in told], axis=0)])
    accepted = np.array([each.acceptance for each in told])
    energies = np.stack(works)
    return [
        Run(
            s[: (last := (reached[r][-1] if reached[r] else len(told))) + 1, r], log_z[: last + 1, r],
            energies[: last + 1, r], np.array(reached[r], int), np.array(labels[r]) if labels[r] else None,
            accepted[:last, r], bool(goal[r] >= goals.size), np.stack([each[r] for each in few[: last + 1]]),
        )
        for r in range(runs)
    ]  # fmt: skip


def persistent(one: Run) -> Float[np.ndarray, " asked"]:
    """log Z at the values asked for from the particles of *all* earlier stages at once (persistent sampling).

    Each stage's particles, which follow its target, count as drawn from the mixture of all targets so far, so
    Z_j = mean over stages i < j of exp(s_j W) / [(1/j) sum_(i<j) exp(s_i W)/Z_i] (Karamanis and Seljak 2024): nothing
    that was computed is thrown away, and the error of Z falls below that of the product of increments.
    """
    stages, number = one.work.shape
    work = np.where(np.isfinite(one.work), one.work, -np.inf).astype(np.float64)
    found = np.zeros(stages)
    mixture = np.full((stages, number), -np.inf)  # log sum_i exp(s_i W)/Z_i over stages so far, at each particle
    for j in range(1, stages):
        with np.errstate(invalid="ignore"):
            new = one.s[j - 1] * work[:j] - found[j - 1]
            mixture[: j - 1] = np.logaddexp(mixture[: j - 1], np.where(np.isnan(new[: j - 1]), -np.inf, new[: j - 1]))
            own = one.s[:j, None] * work[j - 1] - found[:j, None]
            mixture[j - 1] = special.logsumexp(np.where(np.isnan(own), -found[:j, None], own), axis=0)
            terms = one.s[j] * work[:j] - mixture[:j]
        found[j] = special.logsumexp(np.where(np.isnan(terms), -np.inf, terms)) - np.log(number)
    return found[one.at]
