"""Ladders of replica exchange that place their own rungs, and the routes to F(t) from their draws.

Every route works with K - K(reference), in which the loss does not cancel, and independent replicates.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.engine.program import LONG, ONCE
from slt.estimators import diagnostics
from slt.estimators import free_energy as estimators
from slt.measure import smc, target
from slt.measure.target import Target, Times
from slt.phases import Phases
from slt.posterior import Posterior
from slt.samplers import HMC, ReplicaExchange
from slt.typing import Estimate, InputError, Key

GAP = 0.3  # share of swaps that a gap between rungs may refuse; GAP_LARGE where that would take more than 40 rungs
GAP_LARGE = 0.45
CHUNK = 200  # draws a program: longer runs need no new one
INNER = HMC(leapfrogs=8, jitter=0.3)


class Ladders(NamedTuple):
    """Draws of independent ladders: delta = K - K(reference) [ladder, rung, draw] at t [rung], after burn-in.

    swap [rung - 1]: acceptance between neighbours; trips [ladder]: round trips of all walkers; ok [ladder];
    params [ladder, rung, some draws, d] and labels [ladder, rung, draw] where asked for.
    """

    delta: np.ndarray
    t: np.ndarray
    swap: np.ndarray
    trips: np.ndarray
    ok: np.ndarray
    params: np.ndarray | None
    labels: np.ndarray | None


def rungs(runs: Sequence[smc.Run], asked: Times) -> Float[np.ndarray, " rung"]:
    """Where rungs belong, from 0 through every t asked for: neighbours that refuse about alike many swaps.

    The local barrier of replica exchange is E|K - K'|/2 at t (Syed et al. 2022), whose integral over a gap is the
    share of swaps refused there; the particles of tempered SMC tell it at every t.
    """
    levels = np.unique(np.concatenate([each.s for each in runs]))
    if len(levels) > 400:
        levels = levels[np.unique(np.linspace(0, len(levels) - 1, 400).astype(int))]
    rates = np.mean([np.interp(levels, each.s, _barrier(-each.work.astype(np.float64))) for each in runs], axis=0)
    barrier = np.concatenate([[0.0], np.cumsum(np.diff(levels) * (rates[1:] + rates[:-1]) / 2)])
    marks = np.interp(np.concatenate([[0.0], asked]), levels, barrier)
    gap = GAP if marks[-1] < 40 * GAP else GAP_LARGE
    placed = [np.zeros(1)]
    for low, high, t in zip(marks[:-1], marks[1:], asked, strict=True):
        inner = np.linspace(low, high, max(2, int(np.ceil((high - low) / gap))) + 1)[1:-1]
        placed += [np.interp(inner, barrier, levels), np.array([t])]
    return np.unique(np.concatenate(placed))


def _barrier(k: Float[np.ndarray, "stage n"]) -> Float[np.ndarray, " stage"]:
    """E|K - K'|/2 of each stage, from order statistics."""
    number = k.shape[-1]
    weights = 2 * np.arange(1, number + 1) - number - 1
    return np.sort(k, axis=-1) @ weights / (number * (number - 1))


@dataclass(frozen=True)
class _Setup:
    """What a program of ladders is made of besides arrays: hashable."""

    axis: str
    phases: Phases | None
    every: int


def _stacked(posterior: Posterior, t: Array) -> Posterior:
    """The posterior at every rung, on a leading axis."""
    wide = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (t.shape[0], *jnp.shape(leaf))), posterior)
    return dataclasses.replace(wide, beta=t / posterior.n.astype(t.dtype))


def _algorithm(posterior: Posterior, t: Array, setup: _Setup) -> Any:
    sampler = ReplicaExchange(inner=INNER, axis=setup.axis, rungs=0, tune=False)
    return sampler(_stacked(posterior, t))


@functools.partial(jax.jit, static_argnames=("setup",), compiler_options=ONCE)
def _begin(posterior: Posterior, t: Array, w: Array, keys: Key, setup: _Setup) -> Any:
    algorithm = _algorithm(posterior, t, setup)
    return jax.vmap(lambda x, k: algorithm.init(jax.vmap(lambda y: target.unravel(posterior, y))(x), k))(w, keys)


@functools.partial(jax.jit, static_argnames=("setup",), donate_argnames=("states",), compiler_options=LONG)
def _advance(
    posterior: Posterior, t: Array, states: Any, key: Key, tuning: Array, setup: _Setup
) -> tuple[Any, dict[str, Array]]:
    """CHUNK draws of all ladders: what they show [draw, ladder, rung]."""
    algorithm = _algorithm(posterior, t, setup)
    ladders = jax.tree.leaves(states)[0].shape[0]

    def step(states: Any, key: Key) -> tuple[Any, dict[str, Array]]:
        new, info = jax.vmap(algorithm.step)(jax.random.split(key, ladders), states)
        new = jax.lax.cond(tuning, jax.vmap(algorithm.adapt), lambda s, _: s, new, info)
        shown = {"delta": info.delta, "swap": info.diagnostics["swap"]}
        if setup.phases is not None:
            shown["labels"] = jax.vmap(jax.vmap(setup.phases.label))(new.position)
        return new, shown

    def several(states: Any, keys: Key) -> tuple[Any, dict[str, Array]]:
        states, shown = jax.lax.scan(step, states, keys)
        if setup.every:
            flat = jax.vmap(jax.vmap(lambda p: ravel_pytree(p)[0]))(states.position)
            shown["params"] = flat
        return states, shown

    keys = jax.random.split(key, CHUNK).reshape(-1, setup.every or CHUNK)
    states, shown = jax.lax.scan(several, states, keys)
    params = {"params": shown.pop("params")} if setup.every else {}
    return states, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), shown) | params


class LadderRun:
    """Independent ladders of replica exchange around HMC at the rungs `t` (the first is 0), run on as long as asked.

    They start from SMC's particles at about each rung's t, a run for a ladder, so that burn-in need not bring hundreds
    of parameters down from the prior, and tune their steps in burn-in. Positions are kept every `every` draws (0: not).
    """

    def __init__(
        self,
        of: Target,
        t: Float[np.ndarray, " rung"],
        runs: Sequence[smc.Run],
        key: Key,
        *,
        count: int,
        phases: Phases | None = None,
        every: int = 0,
    ):
        self.of, self.t, self.count = of, np.asarray(t, np.float64), count
        self.setup = _Setup("t" if of.model.is_potential else "beta", phases, every)
        dtype = of.posterior.beta.dtype
        self._t = jnp.asarray(self.t, dtype)
        start_key, init_key, self._key = jax.random.split(key, 3)
        w = np.empty((count, self.t.size, of.dim))
        w[:, 0] = np.asarray(target.prior_draws(of.posterior, start_key, count))
        for ladder in range(count):
            run = runs[ladder % len(runs)]
            stage = np.clip(np.searchsorted(run.s, self.t[1:]), 1, len(run.s) - 1)
            w[ladder, 1:] = run.few[stage, np.arange(len(stage)) % run.few.shape[1]]
        with jax.threefry_partitionable(False):
            keys = jax.random.split(init_key, count)
            self._states = _begin(of.posterior, self._t, jnp.asarray(w, dtype), keys, self.setup)
        self._done, self._shown, self._trips = 0, [], np.zeros(count, int)

    def run(self, draws: int, burn_in: bool = False) -> None:
        """At least so many more draws; those of burn-in, which tunes, are thrown away."""
        for _ in range(-(-draws // CHUNK)):
            with jax.threefry_partitionable(False):
                key = jax.random.fold_in(self._key, self._done)
                self._states, shown = _advance(
                    self.of.posterior, self._t, self._states, key, jnp.asarray(burn_in), self.setup
                )
            self._done += 1
            if not burn_in:
                self._shown.append({name: np.asarray(leaf) for name, leaf in shown.items()})
        if burn_in:
            self.forget()

    def forget(self) -> None:
        """Throw away all draws so far: they were burn-in."""
        self._shown = []
        self._trips = np.array(self._states.trips).sum(-1)

    @property
    def draws(self) -> int:
        """Draws kept so far."""
        return len(self._shown) * CHUNK

    def found(self) -> Ladders:
        """What the draws kept so far are."""

        def kept(name: str) -> np.ndarray | None:
            if name not in self._shown[0]:
                return None
            return np.moveaxis(np.concatenate([each[name] for each in self._shown]), 0, 2)

        delta, swap = kept("delta"), kept("swap")
        assert delta is not None and swap is not None  # noqa: S101, PT018
        delta = delta.astype(np.float64)
        ok = np.asarray(np.isfinite(delta).all((-1, -2)))
        if not ok.any():
            raise InputError("model", "every ladder broke", "its loss is not finite somewhere under the prior")
        rate = np.nanmean(swap[ok, :-1].astype(np.float64), axis=(0, 2))
        trips = np.array(self._states.trips).sum(-1) - self._trips
        return Ladders(delta, self.t, rate, trips, ok, kept("params"), kept("labels"))


def integrated(found: Ladders, asked: Times) -> Estimate:
    """Thermodynamic integration of F of K - K(reference)."""
    return estimators.thermodynamic(found.delta, found.t, asked, ok=found.ok)


def reweighted(found: Ladders, asked: Times) -> Estimate:
    """MBAR of the draws of all ladders together, thinned to what its matrices of rungs x draws can hold."""
    size = found.t.size**2 * found.delta.shape[-1] * int(found.ok.sum())
    every = max(1, -(-size // 40_000_000))
    return estimators.pooled(found.delta[..., ::every], found.t, asked, ok=found.ok)


def stepped(found: Ladders, asked: Times) -> Estimate:
    """Stepping stones over the draws of all ladders together."""
    return estimators.stepping_stones(found.delta, found.t, asked, ok=found.ok)


OF_LADDERS = {"thermodynamic": integrated, "stepping_stones": stepped, "mbar": reweighted}
"""The routes over the draws of ladders, by name."""


def settled(found: Ladders, asked: Times) -> bool:
    """Whether the draws look like those of ladders that forgot their start: 20 round trips each, and no drift of F.

    The drift is that of the integral of <K> from the first half of the draws to the second, beyond 3 of its errors
    over ladders. Walkers that cross between basins only by way of the prior take many round trips to find their shares.
    """
    if found.trips[found.ok].mean() < 20:
        return False
    half = found.delta.shape[-1] // 2
    change = found.delta[found.ok][..., half : 2 * half].mean(-1) - found.delta[found.ok][..., :half].mean(-1)
    gaps = np.diff(found.t)
    drift = np.cumsum(gaps * (change[:, 1:] + change[:, :-1]) / 2, axis=-1)
    drift = drift[:, [int(np.argmin(np.abs(found.t[1:] - t))) for t in asked]]
    error = drift.std(0, ddof=1) / np.sqrt(len(drift))
    return bool((np.abs(drift.mean(0)) <= 3 * error + 1e-9).all())


def energy(found: Ladders, t: float) -> Estimate:
    """<K - K(reference)> at the rung t."""
    rung = int(np.argmin(np.abs(found.t - t)))
    return mean_of(found.delta[found.ok, rung])


def mean_of(x: Float[np.ndarray, "ladder draw"]) -> Estimate:
    """Mean over ladders and draws with its error."""
    return diagnostics.mean(x)
