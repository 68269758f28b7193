"""The rules by which `slt.llc` samples: trajectories, burn-in and chain length, exactly or on minibatches."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from slt import observables as watch
from slt.cells import Cell
from slt.estimators import diagnostics
from slt.measure.chains import Chains
from slt.measure.curvature import Curvature
from slt.posterior import Posterior
from slt.samplers.baoab import BAOAB
from slt.samplers.mcmc import HMC
from slt.typing import Params

CHUNK = 128  # draws between two looks at the estimate
SETTLE = 64  # draws in which the step size is found, before and again after the trajectory's length is
TRY = 2048  # draws of all chains in each trial of a trajectory's length
LEAPFROGS = (1, 4, 10, 25, 60, 150, 375)  # the lengths tried, from the middle on, upwards while the trials improve
MIDDLE = 2
GRADIENTS, STEPS = 1500, 8000
LARGEST = 2**22  # draws of all chains after which there are enough: to look at more would take longer than to make them


def squared_distance(posterior: Any, params: Params, info: Any) -> Array:
    """|w - w*|^2 over free parameters."""
    return jnp.square(watch.distance(posterior, params, info))


@dataclass(frozen=True)
class _Jump:
    """|w - w_before|^2 of every draw; the position before is carried along."""

    def init(self, posterior: Any) -> Any:
        return posterior.centre_position

    def update(self, posterior: Any, params: Params, info: Any, before: Any) -> tuple[Any, Array]:
        now = posterior.position(params)
        squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), now, before)
        return now, sum(jax.tree.leaves(squares), start=jnp.zeros(()))


WATCHED = {
    "jump": watch.Observable(_Jump().init, _Jump().update, folds=True),
    "delta": watch.trace(watch.loss),
    "square": watch.trace(squared_distance),
    "acceptance": watch.trace(watch.acceptance),
    "step_size": watch.trace(watch.diagnostic("step_size")),
}


def times(cells: list[Cell]) -> np.ndarray:
    """n beta of each cell."""
    return np.array([cell.n * cell.beta for cell in cells])


def affordable(posterior: Posterior, size: int, chains: int, seconds: float) -> int | None:
    """None where `seconds` are enough for GRADIENTS full gradients of all chains, else the size of minibatches, a power
    of two, of which they are enough for STEPS steps.
    """
    n = int(posterior.n)
    if n * size * chains < 1e7:  # some milliseconds at most
        return None
    gradient = jax.jit(lambda posterior, position: posterior.value_and_grad(position))
    jax.block_until_ready(gradient(posterior, posterior.centre_position))
    before = time.perf_counter()
    jax.block_until_ready(gradient(posterior, posterior.centre_position))
    spent = chains * (time.perf_counter() - before)
    if spent * GRADIENTS <= seconds:
        return None
    return 2 ** int(np.log2(np.clip(n * seconds / (STEPS * spent), 32, max(n // 4, 32))))


class Drawn(NamedTuple):
    """traces [cells, chains, draws] after burn-in; correction [2, cells]: for the step's bias, and its error."""

    chains: Chains
    traces: dict[str, np.ndarray]
    correction: np.ndarray
    settings: dict[str, Any]


def adjusted(running: Chains, sampler: HMC, cells: list[Cell], error: float, seconds: float) -> Drawn:
    """By HMC, which has no bias."""
    nbeta = times(cells)
    running.go(1, sampler, adapt=True)  # which compiles
    running.go(3, sampler, adapt=True)
    gradient = running.seconds / 3 / (sampler.leapfrogs + 2)  # seconds; where they are many, every stage is shorter

    def few(most: int, share: float) -> int:
        return int(np.clip(share * seconds / (gradient * (sampler.leapfrogs + 2)), 8, most))

    running.go(few(SETTLE, 0.1) - 4, sampler, adapt=True)
    sampler = _lengthened(running, sampler, seconds / 5, gradient)
    running.go(few(SETTLE, 0.1), sampler, adapt=True)
    burn_in = running.draws
    traces, _, _ = _sampled(running, sampler, nbeta, few(CHUNK, 0.2), error, seconds)
    settings = {
        "sampler": "HMC",
        "step_size": float(np.median(traces["step_size"][..., -1])),
        "leapfrogs": int(sampler.leapfrogs),
        "jitter": sampler.jitter,
        "target": sampler.target,
        "chains": running.job.schedule.chains,
        "burn_in": burn_in,
        "draws": running.draws,
    }
    return Drawn(running, traces, np.zeros((2, len(cells))), settings)


def _sampled(
    running: Chains, sampler: HMC | BAOAB, nbeta: np.ndarray, first: int, error: float, until: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Traces without their first fifth, and nbeta E[L - L*] with its standard error [cells].

    `first` draws, then as many again as there are, until the error, relative to the value (to .5 where it is less), is
    reached and the distance stands still; or until the chains have taken `until` seconds; or made LARGEST numbers.
    """
    parts, ahead, begun = list[dict[str, np.ndarray]](), first, running.draws
    while True:
        before = running.seconds
        parts.append(running.go(ahead, sampler))
        each = max((running.seconds - before) / ahead, 1e-9)
        traces = {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}
        traces = {name: values[:, :, values.shape[2] // 5 :] for name, values in traces.items()}
        mean = diagnostics.mean(traces["delta"], ok=running.ok)
        value, stderr = nbeta * np.asarray(mean.value), nbeta * np.asarray(mean.stderr)
        enough = np.all(stderr <= error * np.maximum(np.abs(value), 0.5)) and not _moving(traces, running.ok)
        made = running.draws - begun
        ahead = int(min(made, (until - running.seconds) / each))
        if (enough and len(parts) > 1) or ahead < made // 8 + 1 or traces["delta"].size > LARGEST:
            return traces, value, stderr


def _lengthened(running: Chains, sampler: HMC, seconds: float, gradient: float) -> HMC:
    """The sampler with trajectories of the length whose mean squared jump is largest for each gradient.

    gradient: the seconds that one takes. Trials on the running chains go on, upwards or downwards, while they improve.
    Soft directions make nearly all of the jump, and they are the ones that chains are slow in.
    """
    scores: dict[int, float] = {}
    where, way, until = MIDDLE, 1, running.seconds + seconds
    most = int(np.clip(TRY / running.job.schedule.chains, 8, 32))
    while 0 <= where < len(LEAPFROGS):
        length = LEAPFROGS[where]
        draws = int(np.clip(0.25 * seconds / (gradient * (length + 2)), 4, most))
        if scores and running.seconds + draws * gradient * (length + 2) > until:
            break
        seen = running.go(draws, dataclasses.replace(sampler, leapfrogs=length))
        jump = np.where(running.ok[..., None], seen["jump"], 0.0)[:, :, 1:].mean()
        scores[length] = float(jump) / (length + 2)
        if scores[length] < max(scores.values()):
            if way < 0 or len(scores) > 2:
                break
            way, where = -1, MIDDLE
        where += way
    return dataclasses.replace(sampler, leapfrogs=max(scores, key=lambda length: scores[length]))


def rhat(traces: dict[str, np.ndarray], ok: np.ndarray) -> np.ndarray:
    """R-hat of the loss, of some 500 draws a chain [cells]; not of the distance, which flat directions fill slowly."""
    thin = max(1, traces["delta"].shape[2] // 500)
    return diagnostics.rhat(np.where(ok[..., None], traces["delta"], 0)[:, :, ::thin], ok=ok)


def _moving(traces: dict[str, np.ndarray], ok: np.ndarray) -> bool:
    return bool(np.any(np.abs(drift(traces["square"], ok)) > 3))


def drift(values: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """z of the mean of the second half of the draws against the first, chains as replicates [cells]."""
    half = values.shape[2] // 2
    change = np.where(ok, values[:, :, half:].mean(2) - values[:, :, :half].mean(2), np.nan)
    count = ok.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.nanmean(change, 1) / (np.nanstd(change, 1, ddof=1) / np.sqrt(count))
    return np.where(np.isfinite(z), z, 0.0)


def unadjusted(
    running: Chains, sampler: BAOAB, cells: list[Cell], found: Curvature, error: float, seconds: float
) -> Drawn:
    """By BAOAB on minibatches at a time step and at half of it: draws of the second, extrapolated linearly from both.

    The noise of minibatches warms chains by the time step's first power, which is the root of step_size.
    """
    nbeta = times(cells)
    unit = 1 + cells[0].gamma + nbeta
    share = float(np.min(unit / (1 + cells[0].gamma + nbeta * max(found.highest, 0.0))))
    sampler = dataclasses.replace(sampler, step_size=0.1 * share, friction=0.3)
    for _ in range(8):
        running.go(SETTLE, sampler)
        if running.ok.all():
            break
        sampler = dataclasses.replace(sampler, step_size=sampler.step_size / 4)
        running = running.again()
    halves: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
    burn_in = running.draws
    for number, step in enumerate((sampler.step_size, sampler.step_size / 4)):
        sampler = dataclasses.replace(sampler, step_size=step)
        until = running.seconds + seconds * (1 + number) / 3
        traces, value, stderr = _sampled(running, sampler, nbeta, CHUNK, error / (3 - number), until)
        halves.append((value, stderr, traces))
    (whole, whole_error, _), (half, _, traces) = halves
    correction = np.stack([half - whole, np.hypot(whole_error, (half - whole) / 4)])
    settings = {
        "sampler": "BAOAB",
        "step_size": float(sampler.step_size),
        "friction": float(sampler.friction),
        "batch_size": sampler.batch_size,
        "chains": running.job.schedule.chains,
        "burn_in": burn_in,
        "draws": running.draws,
    }
    return Drawn(running, traces, correction, settings)
