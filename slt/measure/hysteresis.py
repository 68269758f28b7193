"""slt.hysteresis: sweeps of t up and down at several speeds, and the loop between them as the speed goes to 0.

Chains that start in the phase of low t are carried up, chains that start in that of high t down, by HMC at a t that
moves step by step. A crossover is followed by both at any but the fastest speed; where two phases coexist either way
lags behind the crossing of the free energies, by less the slower the sweep, unless the barrier is beyond every speed.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.engine.program import LONG
from slt.measure import confined, smc, target
from slt.measure.crossings import asked_of, table
from slt.measure.evidence import Budget
from slt.measure.paths import Path
from slt.measure.target import Target
from slt.model import Model
from slt.phases import Phases
from slt.transitions.kind import slow_loop
from slt.typing import Estimate, InputError, Key, Params

LEVELS = 64  # values of t that one sweep holds at
WARM = 50  # moves at the first of them
RESAMPLES = 400  # of chains, by which errors are told
BUDGET = Budget(runs=4, particles=256)


@dataclass(frozen=True)
class Loop:
    """Sweeps between t[0] and t[-1] at k speeds, fastest first.

    rate [k]: e-folds of t in a move; share [k, 2, t]: of the chains in b (of those in a or b), on the way up and on the
    way down, at each t. up, down: Estimate [k], t at which half of them are in b (NaN where that is at no t of the
    sweep); width: Estimate [k], log(up/down); slow: Estimate, the width in the limit of slow sweeps
    (`slt.transitions.kind.slow_loop`), infinite where chains of the slowest sweep never came over though those that
    started in the other phase are there, NaN with fewer than three widths.
    """

    names: tuple[str, str]
    t: Float[np.ndarray, " t"]
    rate: Float[np.ndarray, " k"]
    share: Float[np.ndarray, "k 2 t"]
    up: Estimate
    down: Estimate
    width: Estimate
    slow: Estimate
    verdict: str

    def __str__(self) -> str:
        return self.verdict


def hysteresis(
    model: Model,
    phases: Phases | bool = True,
    *,
    t: Sequence[float],
    between: tuple[str, str] | None = None,
    moves: Sequence[int] = (2, 4, 8, 16, 32),
    chains: int = 128,
    seeds: Sequence[Params] = (),
    key: Key | None = None,
) -> Loop:
    """Sweep a potential's t from its least to its largest value and back: see `Loop`.

    phases, between (a, b) and seeds: as of `slt.transition`; a is the phase at low t. t: two values or more, of which
    the ends count. moves: of HMC (6 leapfrogs, steps steered by acceptance) at each of the LEVELS values of t that a
    sweep holds at, one number a speed. All speeds run through one program. InputError for fewer than three speeds.
    """
    ends = np.unique(np.asarray(t, np.float64))
    if ends.size < 2 or not np.isfinite(ends).all() or ends[0] <= 0:
        raise InputError("t", t, "give two values > 0 or more, between which to sweep")
    speeds = np.unique(np.asarray(moves, np.int64))
    if speeds.size < 3 or speeds[0] < 1:
        raise InputError("moves", moves, "give at least three different numbers of moves a level, 1 or more")
    if chains < 8:
        raise InputError("chains", chains, "give at least 8, or shares have no error")
    grid = np.geomspace(ends[0], ends[-1], LEVELS)
    of, parts, pair = asked_of(model, phases, between, grid, None, None, seeds)
    key = target.own_key(of, jax.random.key(0) if key is None else key)
    start_key, sweep_key = jax.random.split(key)
    start = _starts(of, parts, pair, ends[[0, -1]], seeds, chains, start_key)
    path = Path(of.posterior)
    dtype = of.posterior.beta.dtype
    way = jnp.asarray(np.stack([grid, grid[::-1]]), dtype)
    found = []
    for speed in speeds:
        own = jax.random.fold_in(sweep_key, int(speed))
        labels = np.asarray(_sweep(path, start, way, own, jnp.asarray(speed, jnp.int32), phases=parts))
        found.append(np.stack([labels[0], labels[1, ::-1]]))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(sweep_key)).ravel())
    return _read(np.stack(found), pair, (parts.names[pair[0]], parts.names[pair[1]]), grid, speeds, rng)


def _starts(
    of: Target, parts: Phases, pair: tuple[int, int], ends: np.ndarray, seeds: Sequence[Params], chains: int, key: Key
) -> Float[Array, "2 chain d"]:
    """Draws confined to a at the least t and to b at the largest."""
    found = confined.replicates(of, ends, parts, key, budget=BUDGET, points=seeds, only=pair)
    rows = []
    for end, a in enumerate(pair):
        table(found, parts, a)
        shown = found.shown[a]
        drawn = np.zeros((0, of.dim)) if shown is None else shown[end].reshape(-1, of.dim)
        rows.append(drawn[np.linspace(0, len(drawn) - 1, chains).astype(int)])
    return jnp.asarray(np.stack(rows), of.posterior.beta.dtype)


@functools.partial(jax.jit, static_argnames=("phases",), compiler_options=LONG)
def _sweep(
    path: Path, start: Float[Array, "2 chain d"], t: Float[Array, "2 t"], key: Key, moves: Array, *, phases: Phases
) -> Array:
    """Labels [2, t, chain] after `moves` moves at each t in turn; steps are steered by each way's mean acceptance."""
    chains, mass = start.shape[1], jnp.ones(start.shape[-1], start.dtype)

    def one(start: Array, t: Array, key: Key) -> Array:
        def held(w: Array, log_step: Array, s: Array, key: Key, count: Array) -> tuple[Array, Array]:
            def log_density(x: Array) -> Array:
                return path.log_density(x, s)

            kernel = smc.KERNEL.kernel(log_density, search=False)

            def move(i: Array, loop: tuple) -> tuple:
                states, log_step = loop
                keys = jax.random.split(jax.random.fold_in(key, i), chains)
                states, info = jax.vmap(lambda k, x: kernel(k, x, jnp.exp(log_step), mass))(keys, states)
                folded, flip = jax.vmap(lambda x: target.fold(path.posterior, x))(states.position)
                states = states._replace(position=folded, logdensity_grad=states.logdensity_grad * flip)
                rate = jnp.mean(jnp.nan_to_num(info.acceptance_rate)).astype(start.dtype)
                return states, jnp.clip(log_step + (rate - smc.TARGET), -15.0, 3.0)

            begun = jax.vmap(lambda x: blackjax.hmc.init(x, log_density))(w)
            states, log_step = jax.lax.fori_loop(0, count, move, (begun, log_step))
            return states.position, log_step

        def level(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            s, number = at
            w, log_step = held(*carry, s, jax.random.fold_in(key, number), moves)
            return (w, log_step), jax.lax.map(lambda x: jnp.asarray(label(x)), w, batch_size=256)

        def label(x: Array) -> Array:
            return jnp.asarray(phases.label(target.unravel(path.posterior, x)), jnp.int32)

        step = -0.5 * jnp.log(1 + t[0]).astype(start.dtype)
        begun = held(start, step, t[0], jax.random.fold_in(key, t.size), jnp.asarray(WARM, moves.dtype))
        return jax.lax.scan(level, begun, (t, jnp.arange(t.size)))[1]

    return jax.vmap(one)(start, t, jax.random.split(key, 2))


def _crossed(grid: np.ndarray, share: Float[np.ndarray, "... t"]) -> Float[np.ndarray, "..."]:
    """log t at which a share first reaches one half for good, read from the high end; NaN where it does at none."""
    below = share < 0.5
    some = below.any(-1) & ~below[..., -1]
    last = share.shape[-1] - 1 - below[..., ::-1].argmax(-1)
    low = np.where(some, last, 0)
    high = np.minimum(low + 1, share.shape[-1] - 1)
    a, b = (np.take_along_axis(share, at[..., None], -1)[..., 0] for at in (low, high))
    part = np.where(b > a, (0.5 - a) / np.where(b > a, b - a, 1.0), 0.0)
    x = np.log(grid)
    return np.where(some, x[low] + part * (x[high] - x[low]), np.nan)


def _read(
    labels: np.ndarray, pair: tuple[int, int], names: tuple[str, str], grid: np.ndarray, speeds: np.ndarray,
    rng: np.random.Generator,
) -> Loop:  # fmt: skip
    """From labels [speed, way, t, chain]; errors by drawing chains anew."""
    in_b, in_either = labels == pair[1], np.isin(labels, pair)
    chains = labels.shape[-1]

    def shares(weight: np.ndarray) -> np.ndarray:
        total = (in_either * weight).sum(-1)
        return np.where(total > 0, (in_b * weight).sum(-1) / np.maximum(total, 1), np.nan)

    share = shares(np.ones(chains))
    at = _crossed(grid, share)  # [speed, way]
    drawn = rng.multinomial(chains, np.full(chains, 1 / chains), size=RESAMPLES)
    again = np.stack([_crossed(grid, shares(weight)) for weight in drawn])
    wide = at[:, 0] - at[:, 1]
    error, spread = _spread(again), _spread(again[..., 0] - again[..., 1])
    spread = np.maximum(spread, np.log(grid[1] / grid[0]) / np.sqrt(6))  # levels are that far apart, on both ways
    rate = np.log(grid[-1] / grid[0]) / (grid.size * speeds)
    known = np.isfinite(wide) & np.isfinite(spread)
    # at an end where both ways have the same share nothing is remembered: the crossing lies beyond it
    apart = share[-1, 1] - share[-1, 0] > 4 * np.sqrt(0.5 / chains)
    left_behind = (share[-1, 0, -1] < 0.5 and apart[-1]) or (share[-1, 1, 0] >= 0.5 and apart[0])
    if np.isnan(wide[-1]) and left_behind:
        slow = Estimate(np.array(np.inf), np.array(0.0))
    elif known.sum() >= 3:
        slow = slow_loop(rate[known], wide[known], spread[known])
    else:
        slow = Estimate(np.array(np.nan), np.array(np.nan))
    up, down = (Estimate(np.exp(at[:, way]), np.exp(at[:, way]) * error[:, way]) for way in (0, 1))
    told = _verdict(names, grid, share, up, down, wide, slow)
    return Loop(names, grid, rate, share, up, down, Estimate(wide, spread), slow, told)


def _spread(again: Float[np.ndarray, "again ..."]) -> Float[np.ndarray, "..."]:
    """Standard deviation over resamples, NaN where more than a tenth of them have no value."""
    seen = np.isfinite(again)
    number = np.maximum(seen.sum(0), 2)
    mean = np.where(seen, again, 0.0).sum(0) / number
    square = np.where(seen, np.square(again - mean), 0.0).sum(0) / (number - 1)
    return np.where(seen.mean(0) >= 0.9, np.sqrt(square), np.nan)


def _verdict(
    names: tuple[str, str], grid: np.ndarray, share: np.ndarray, up: Estimate, down: Estimate, wide: np.ndarray,
    slow: Estimate,
) -> str:  # fmt: skip
    a, b = names
    value, error = float(slow.value), float(slow.stderr)
    if np.isinf(value):
        left = [float(share[-1, 0, -1]), 1 - float(share[-1, 1, 0])]
        return (
            f"The loop between {a} and {b} stays open: of the slowest sweep {left[0]:.0%} of the chains had left {a} "
            f"at t = {grid[-1]:.4g}, and {left[1]:.0%} had left {b} at t = {grid[0]:.4g}."
        )
    if np.isnan(value):
        if (share[-1] >= 0.5).all() or (share[-1] < 0.5).all():
            held = b if share[-1, 0, 0] >= 0.5 else a
            return (
                f"No loop and no crossing between t = {grid[0]:.4g} and {grid[-1]:.4g}: most chains are in {held} at "
                f"every t, up and down. Widen the range of t."
            )
        return f"Too few speeds have both crossings between t = {grid[0]:.4g} and {grid[-1]:.4g}: widen the range of t."
    ends = f"{a} -> {b} at t = {float(up.value[-1]):.4g} up and {float(down.value[-1]):.4g} down in the slowest sweep"
    known = wide[np.isfinite(wide)]
    fast = "" if known.size == wide.size else f" that both ways came over in ({known.size} of {wide.size})"
    closes = "closes" if value - 2 * error <= 0 else "stays open"
    return (
        f"{ends}; the loop is {known[0]:.2g} e-folds wide in the fastest{fast}, and {closes} in the limit of slow "
        f"sweeps ({value:.2g} +- {error:.1g})."
    )
