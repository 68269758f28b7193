"""Runs of SMC confined to single phases, from the prior cut down to each of them or from a seed.

Where the prior itself meets a phase, SMC starts from its draws in it, anchored at the phase's prior mass (a count of
draws, with its binomial error). Where it does not, SMC starts from a Gaussian about a seed, whose normaliser is known:
a point given, or else the lowest one that draws of the prior descend to.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from slt.estimators.free_energy import over_runs
from slt.measure import smc, target
from slt.measure.evidence import Budget
from slt.measure.paths import Path
from slt.measure.seeds import about, seeded_runs
from slt.measure.target import Target
from slt.phases import Phases
from slt.posterior import Posterior
from slt.typing import Estimate, InputError, Key

MOST_DRAWS = 2**20
BLOCK = 8192
ENOUGH = 512  # hits of a phase below which a seed is the better start
QUENCHED = 256  # draws of the prior that descend in search of a phase which it hardly meets
APART = 10.0  # nats of exp(-t K) below a phase's lowest point at which another one counts as its minimum too
SHOWN = 64  # draws a run whose descents tell whether a phase's posterior is interior


def known(of: Target, phases: Any) -> Phases:
    """The partition meant by `phases`: itself, or the model's own where it is True."""
    if phases is True:
        truth = of.model.truth()
        if truth is None or truth.phases is None:
            raise InputError("phases", True, "the model knows no partition: give an slt.Phases")
        return truth.phases
    if not isinstance(phases, Phases):
        raise InputError("phases", phases, "give an slt.Phases, or True for the model's own")
    return phases


@functools.partial(jax.jit, static_argnames=("phases",))
def labels_of(posterior: Posterior, w: Array, phases: Phases) -> Array:
    """The phase of each w [i, d]."""
    return jax.lax.map(lambda x: jnp.asarray(phases.label(target.unravel(posterior, x))), w, batch_size=256)


@functools.partial(jax.jit, static_argnames=("steps",))
def descend(posterior: Posterior, w: Array, steps: int = 80) -> Array:
    """Where L-BFGS on K from each w [i, d] ends, inside the prior's box."""

    def loss(x: Array) -> Array:
        return target.values(posterior, target.fold(posterior, x)[0])[1]

    solver = optax.lbfgs(memory_size=8)
    both = optax.value_and_grad_from_state(loss)

    def one(x: Array) -> Array:
        def step(_: Any, at: tuple[Array, Any]) -> tuple[Array, Any]:
            x, state = at
            value, grad = both(x, state=state)
            change, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=loss)
            new = jnp.add(x, jnp.asarray(change))
            good = jnp.all(jnp.isfinite(new))
            return jnp.where(good, new, x), state

        return target.fold(posterior, jax.lax.fori_loop(0, steps, step, (x, solver.init(x)))[0])[0]

    return jax.vmap(one)(w)


def _prior_hits(of: Target, phases: Phases, key: Key, want: int) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Draws from the prior by phase, at most `want` kept of each; how many there were; of how many draws."""
    count = len(phases.names)
    kept: list[list[np.ndarray]] = [[] for _ in range(count)]
    hits, draws = np.zeros(count, np.int64), 0
    most = max(BLOCK, min(MOST_DRAWS, 2**27 // of.dim))
    while draws < most and (draws < most // 8 or (hits < want).any()):
        w = np.asarray(target.prior_draws(of.posterior, jax.random.fold_in(key, draws), BLOCK))
        labels = np.asarray(labels_of(of.posterior, jnp.asarray(w), phases))
        for a in range(count):
            if hits[a] < want:
                kept[a].append(w[labels == a])
            hits[a] += int((labels == a).sum())
        draws += BLOCK
    return [np.concatenate(each)[:want] for each in kept], hits, draws


@jax.jit
def _losses(posterior: Posterior, w: Array) -> Array:
    return jax.lax.map(lambda x: target.values(posterior, x)[1], w, batch_size=256)


def _quenched(
    of: Target, asked: np.ndarray, phases: Phases, key: Key, drawn: Sequence[np.ndarray], rare: Sequence[int]
) -> list[tuple[Any, int]]:
    """A seed in each of some rare phases, with its label: the lowest of its draws `drawn` and of all that these, and
    QUENCHED draws of the prior, descend to. None where the phase has other minima beyond the Gaussian about that seed:
    SMC from there would miss them.
    """
    some = np.asarray(target.prior_draws(of.posterior, key, QUENCHED))
    starts = np.concatenate([some, *(drawn[a][:SHOWN] for a in rare)])
    w = jnp.concatenate([descend(of.posterior, jnp.asarray(starts)), jnp.asarray(starts)])
    labels = np.asarray(labels_of(of.posterior, w, phases))
    losses = np.asarray(_losses(of.posterior, w), np.float64)
    found = []
    for a in rare:
        own = np.flatnonzero((labels == a) & np.isfinite(losses))
        if not own.size:
            continue
        seed = target.unravel(of.posterior, w[own[np.argmin(losses[own])]])
        near, above = about(of, [seed], asked), losses[own] - losses[own].min()
        places = np.asarray(w, np.float64)[own]
        if all((near.member(i, places[t * above < APART]) == 0).all() for i, t in enumerate(asked)):
            found.append((seed, a))
    return found


class Replicates(NamedTuple):
    """What F of the phases rests on. Of each phase: tables, log of its mass in each run [run, t] (None: not measured);
    shown, some draws [t, i, d]; start, "prior", "seed" or "none"; anchor, the relative error of the prior mass that all
    its runs share. prior_mass [P] and `draws`, their number; seeds and their labels: known points, the model's too, and
    those that descents found.
    """

    tables: list[np.ndarray | None]
    shown: list[np.ndarray | None]
    start: tuple[str, ...]
    anchor: np.ndarray
    prior_mass: Estimate
    draws: int
    seeds: list[Any]
    labels: list[int]


def replicates(
    of: Target,
    asked: np.ndarray,
    phases: Phases,
    key: Key,
    *,
    budget: Budget,
    points: Sequence[Any] = (),
    only: Sequence[int] | None = None,
) -> Replicates:
    """Independent runs of SMC confined to each phase (of `only`), through the values `asked`; else as `measure`."""
    count, runs, number = len(phases.names), budget.runs, budget.particles
    hit_key, prior_key, seed_key = jax.random.split(key, 3)
    drawn, hits, draws = _prior_hits(of, phases, hit_key, runs * number)
    mass = hits / draws
    prior_mass = Estimate(mass, np.sqrt(mass * (1 - mass) / draws))
    truth = of.model.truth()
    basins = [] if truth is None else [basin.params for basin in truth.basins]
    seeds = [*points, *basins]
    labels = [int(phases.label(jax.tree.map(jnp.asarray, seed))) for seed in seeds]

    tables: list[np.ndarray | None] = [None] * count  # log of the mass of the phase [run, t]
    shown: list[np.ndarray | None] = [None] * count  # some draws [t, i, d]
    start = ["none"] * count
    wanted = range(count) if only is None else only
    here = [a for a in wanted if hits[a] >= ENOUGH]
    if here:
        w = np.stack([_portions(drawn[a], runs, number) for a in here]).reshape(len(here) * runs, number, -1)
        which = jnp.asarray(np.repeat(here, runs), jnp.int32)
        path = Path(of.posterior, None, which, phases)
        watch = lambda run, at, w: np.asarray(w)[:: max(1, number // SHOWN)][:SHOWN]  # noqa: E731  # neighbours are kin
        found = smc.run(path, asked, prior_key, runs=len(which), particles=number, start=jnp.asarray(w), watch=watch)
        for i, a in enumerate(here):
            own = [each for each in found[i * runs : (i + 1) * runs] if each.ended]
            tables[a] = np.array([each.log_z[each.at] for each in own]) + np.log(mass[a])
            shown[a] = np.concatenate([each.labels for each in own if each.labels is not None], axis=1)
            start[a] = "prior"
    unmet = [a for a in wanted if a not in here and a not in labels]
    for seed, label in _quenched(of, asked, phases, jax.random.fold_in(hit_key, 1), drawn, unmet) if unmet else ():
        seeds.append(seed)
        labels.append(label)
    rare = [j for j, label in enumerate(labels) if label in wanted and label not in here]
    if rare:
        near = about(of, [seeds[j] for j in rare], asked)
        own_labels = [labels[j] for j in rare]
        log_z, places = seeded_runs(
            of, near, asked, seed_key, runs=runs, particles=number, phases=phases, labels=own_labels, shown=SHOWN
        )
        for a in sorted(set(own_labels)):
            mine = [i for i, label in enumerate(own_labels) if label == a]
            total = over_runs(log_z[:, :, mine]).value  # several seeds of one phase: the one that finds most
            chosen = mine[int(np.argmin(np.asarray(total)[-1]))]
            tables[a], shown[a], start[a] = log_z[:, :, chosen], places[:, chosen], "seed"
    with np.errstate(divide="ignore", invalid="ignore"):
        anchor = np.where([each == "prior" for each in start], prior_mass.stderr / mass, 0.0)
    return Replicates(tables, shown, tuple(start), anchor, prior_mass, draws, seeds, labels)


def _portions(drawn: np.ndarray, runs: int, number: int) -> np.ndarray:
    """Each run's own share of the draws, repeated as often as it takes: [run, N, d]."""
    share = len(drawn) // runs
    index = np.arange(number) % share
    return np.stack([drawn[r * share : (r + 1) * share][index] for r in range(runs)])
