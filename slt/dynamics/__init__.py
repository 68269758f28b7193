"""Training as a dynamical system: many runs of gradient descent in one program, with the phase of every checkpoint.

`train` gives `Trajectories`; `slt.dynamics.plateaus` reads plateaus, drops and the sequence of phases off them,
`slt.dynamics.local` measures local coefficients at many checkpoints in one program, `slt.dynamics.store` keeps them,
finished or not.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from slt.cells import data_words, digest_words, fold_words
from slt.dynamics import plateaus as reading
from slt.dynamics import store
from slt.dynamics.plateaus import Critical, Path
from slt.dynamics.program import OPTIMISERS, Task, advance, begin, starts
from slt.dynamics.store import Progress
from slt.engine.program import LONG
from slt.model import Model
from slt.phases import Phases
from slt.typing import Batch, InputError, Key, Params

LOSSES = ("population", "data", "online")
LABELS = 2048  # parameters labelled at a time


@dataclass(frozen=True)
class Trajectories:
    """Runs of an optimiser: R runs, K checkpoints, C points of the loss curve. All arrays are numpy's.

    steps [K]: steps done at each checkpoint, 0 first; params: leaves [R, K, ...]; curve_steps [C], curve [R, C]: the
    full loss that was descended (population, or mean over the data) on a finer grid of steps that holds `steps`;
    loss [R, K]: the curve at the checkpoints. phase [R, K]: labels of `phases`, -1 for none; names, rule: of the
    partition. ok [R]: runs that stayed finite; a run that broke is frozen at its last finite point, broken_at [R] the
    step (-1 if none). scale, rate [R]: of its initialisation, and its learning rate. floor: the least loss known.
    levels: loss and lambda of the lowest known minimum of each phase (NaN where none is known), in the order of names.
    settings: what was asked for.
    """

    steps: Int[np.ndarray, " K"]
    params: Params
    curve_steps: Int[np.ndarray, " C"]
    curve: Float[np.ndarray, "R C"]
    phase: Int[np.ndarray, "R K"]
    names: tuple[str, ...]
    rule: str
    ok: Bool[np.ndarray, " R"]
    broken_at: Int[np.ndarray, " R"]
    scale: Float[np.ndarray, " R"]
    rate: Float[np.ndarray, " R"]
    floor: float | None
    levels: Float[np.ndarray, "phases 2"]
    settings: dict[str, Any]

    @property
    def loss(self) -> Float[np.ndarray, "R K"]:
        """The loss at the checkpoints."""
        return self.curve[:, np.searchsorted(self.curve_steps, self.steps)]

    @property
    def lam(self) -> Float[np.ndarray, "R K"]:
        """The catalogue's lambda of the phase that each checkpoint is in; NaN where it has none."""
        return self.by_phase(1)

    def by_phase(self, column: int) -> Float[np.ndarray, "R K"]:
        """A column of `levels` (0 loss, 1 lambda) of each checkpoint's phase."""
        return np.append(self.levels[:, column], np.nan)[self.phase]

    def at(self, run: Any, checkpoint: Any) -> Params:
        """Parameters of checkpoints; indices as numpy takes them."""
        return jax.tree.map(lambda leaf: leaf[run, checkpoint], self.params)

    def paths(self, **rules: Any) -> list[Path]:
        """Plateaus of every run with their phases: see `plateaus.path`, to which the rules go. Broken runs: none."""
        known = [self.floor] if self.floor is not None else []
        finite = self.curve[self.ok]
        floor = min([*known, float(finite.min())]) if finite.size else 0.0
        return [
            reading.path(self.curve_steps, curve, self.steps, phase, floor, **rules) if ok else reading.NOWHERE
            for curve, phase, ok in zip(self.curve, self.phase, self.ok, strict=True)
        ]

    def label_paths(self, **rules: Any) -> list[Path]:
        """Stretches of equal phase of every run, whatever its loss does: see `plateaus.by_labels`."""
        return [
            reading.by_labels(self.steps, phase, loss, **rules) if ok else reading.NOWHERE
            for phase, loss, ok in zip(self.phase, self.loss, self.ok, strict=True)
        ]

    def save(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Write these trajectories by Orbax into a new `folder`; InputError where something is there already."""
        return store.save(self, folder)

    @staticmethod
    def load(folder: str | pathlib.Path, model: Model) -> "Trajectories":
        """What `save` wrote, of the `model` that was trained; InputError where it is not there, or another's."""
        return store.load(folder, model)

    def critical_steps(self, paths: Sequence[Path] | None = None, fewest: int = 5) -> dict[str, Critical]:
        """critical_step[a->b] over the runs that go from a to b, where `fewest` or more do and 5 per cent of all: see
        `Critical`.
        """
        return reading.critical_steps(self.paths() if paths is None else paths, self.names, fewest)


def train(
    model: Model,
    *,
    optimiser: str | Callable[[Any], optax.GradientTransformation] = "sgd",
    learning_rate: float | Sequence[float] = 0.05,
    momentum: float = 0.9,
    steps: int = 10_000,
    runs: int = 32,
    loss: str | None = None,
    data: Batch | None = None,
    n: int = 1000,
    data_seed: int = 0,
    batch_size: int | None = None,
    start: Params | None = None,
    scale: float | Sequence[float] = 1.0,
    checkpoints: int | Sequence[int] = 128,
    fine: int = 4,
    phases: Phases | None = None,
    key: Key | None = None,
    folder: str | pathlib.Path | None = None,
    every: float = 60.0,
) -> Trajectories:
    """Train many times at once: `runs` runs for every learning rate and scale of initialisation, in one program.

    optimiser: "sgd", "momentum" (SGD with heavy-ball `momentum`), "adam", or a function of the learning rate that
      gives an optax transformation. A new learning rate or momentum recompiles nothing.
    loss: what is descended. "population": the truth's exact population loss, or the potential itself (the default where
      there is one); "data": the mean -log p(z_i|w) over `data`, or over n samples drawn by data_seed, on minibatches of
      `batch_size` where given (uniform with replacement, own for each run); "online": fresh samples for every step.
    start: parameters to start from, on top of noise scale N(0, 1); without it scale times model.init (a prior draw).
    checkpoints: how many steps, evenly in log(step), or which, keep parameters and phase; fine: points of the loss
      curve for each of them. phases: the partition (default the model's own).
    folder: where to keep an Orbax checkpoint of all runs, each time that `every` seconds have passed and at the end.
      The same call after a kill goes on from there and gives the same numbers; after the end it only reads them.
    Keys are folded from the run's number, scale and rate: a run alone equals the same run among others.
    InputError, before any compute, for what cannot be used.
    """
    truth = model.truth()
    if isinstance(every, bool) or not every >= 0:
        raise InputError("every", every, "is seconds from one kept checkpoint to the next: at least 0")
    kind, rates, scales, marks = asked_of(
        model, optimiser=optimiser, learning_rate=learning_rate, steps=steps, runs=runs, loss=loss, data=data, n=n,
        batch_size=batch_size, scale=scale, checkpoints=checkpoints, fine=fine,
    )  # fmt: skip
    stops = np.stack([np.linspace(a, b, fine + 1).astype(int)[1:] for a, b in itertools.pairwise(marks)])
    key = jax.random.key(0) if key is None else key
    table = np.array([(run, s, r) for s in scales for r in rates for run in range(runs)], np.float64)
    words = np.stack([digest_words({"run": run, "scale": s, "rate": r}) for run, s, r in table])
    dtype = jnp.result_type(float)
    if kind == "population":
        data = jnp.zeros((1, 0)) if model.is_potential else None
    elif data is None:
        data = jax.jit(model.sample, static_argnums=1)(fold_words(jax.random.key(0), data_words(data_seed)), n)
    keys = jax.vmap(lambda w: fold_words(key, w))(words)
    exact = None if kind == "data" or model.is_potential or truth is None else truth.population_loss
    task = Task(model, exact, optimiser, kind, batch_size)
    given = jnp.asarray(table[:, 2], dtype), jnp.asarray(momentum, dtype), jax.tree.map(jnp.asarray, data)
    state, first = begin(task, starts(model, start, keys, jnp.asarray(table[:, 1], dtype)), *given)
    asked = {"optimiser": getattr(optimiser, "__name__", optimiser), "momentum": momentum, "steps": steps, "loss": kind}
    if kind != "population":
        asked |= {"batch_size": batch_size, "n": n, "data_seed": data_seed}
    numbers = table.tolist(), stops.tolist(), np.asarray(jax.random.key_data(key)).tolist()

    def forward(made: Progress) -> Progress:
        done, way = jnp.asarray(marks[made.done], jnp.int32), jnp.asarray(stops[made.done], jnp.int32)
        state, losses = advance(task, made.state, keys, *given, done, way)
        return Progress(state, [*made.params, state.params], [*made.curve, losses])

    made = Progress(state, [state.params], [jnp.broadcast_to(first[:, None], (len(table), fine))])
    made = store.finish(made, forward, len(stops), folder, (asked, numbers), every)
    params = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves], axis=1), *made.params)
    losses, broken = [np.asarray(each) for each in made.curve], np.asarray(made.state.broken)
    curve = np.concatenate([losses[0][:, :1], *losses[1:]], axis=1)
    every_step, kept = np.unique(np.append(0, stops.ravel()), return_index=True)
    curve = curve[:, kept].astype(np.float64)
    phases = phases if phases is not None or truth is None else truth.phases
    shape = len(table), len(marks)
    return Trajectories(
        steps=marks,
        params=params,
        curve_steps=every_step,
        curve=curve,
        phase=np.full(shape, -1) if phases is None else labels(phases, params, shape),
        names=() if phases is None else phases.names,
        rule="" if phases is None else phases.rule,
        ok=broken < 0,
        broken_at=broken,
        scale=table[:, 1],
        rate=table[:, 2],
        floor=None if truth is None or kind == "data" else truth.loss,
        levels=catalogue(model, phases),
        settings=asked,
    )


def labels(phases: Phases, params: Params, shape: tuple[int, ...]) -> Int[np.ndarray, "..."]:
    """The phase of every one of `params`, whose leaves begin with `shape`."""
    flat = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1, *leaf.shape[len(shape) :]), params)
    return np.asarray(_labels(phases, flat), np.int64).reshape(shape)


@functools.partial(jax.jit, static_argnums=0, compiler_options=LONG)
def _labels(phases: Phases, flat: Params) -> Array:
    return jax.lax.map(lambda w: jnp.asarray(phases.label(w), jnp.int32), flat, batch_size=LABELS)


def catalogue(model: Model, phases: Phases | None) -> Float[np.ndarray, "phases 2"]:
    """(loss, lambda) of the lowest known minimum of each phase, NaN where there is none."""
    truth, found = model.truth(), np.full((0 if phases is None else len(phases.names), 2), np.nan)
    if phases is None:
        return found
    for basin in () if truth is None else truth.basins:
        if basin.phase in phases.names and basin.loss is not None:
            row = found[phases.index(basin.phase)]
            if not row[0] <= basin.loss:
                row[:] = basin.loss, np.nan if basin.lam is None else basin.lam
    return found


def asked_of(
    model: Model,
    *,
    optimiser: Any,
    learning_rate: Any,
    steps: int,
    runs: int,
    loss: str | None,
    n: int,
    batch_size: int | None,
    scale: Any,
    checkpoints: Any,
    data: Batch | None = None,
    fine: int = 1,
) -> tuple[str, list[float], list[float], Int[np.ndarray, " K"]]:
    """(kind of loss, learning rates, scales, steps kept) of a call of `train`; InputError for what cannot be used."""
    kind = _kind(model, loss, data, batch_size)
    if isinstance(optimiser, str) and optimiser not in OPTIMISERS:
        raise InputError("optimiser", optimiser, f"choose from {', '.join(OPTIMISERS)}, or give a function of the rate")
    for name, value in (("steps", steps), ("runs", runs), ("n", n), ("fine", fine)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise InputError(name, value, f"must be a whole number from 1 to {2**31 - 1}")
    rates, scales = _numbers("learning_rate", learning_rate), _numbers("scale", scale, strict=False)
    return kind, rates, scales, _marks(checkpoints, steps)


def _kind(model: Model, loss: str | None, data: Batch | None, batch_size: int | None) -> str:
    truth = model.truth()
    exact = model.is_potential or (truth is not None and truth.population_loss is not None)
    kind = ("population" if exact and data is None else "data") if loss is None else loss
    if kind not in LOSSES:
        raise InputError("loss", loss, f"choose from {', '.join(LOSSES)}")
    if kind == "population" and (not exact or data is not None or batch_size is not None):
        cure = "needs a potential or a known population loss, and takes neither data nor batch_size"
        raise InputError("loss", "population", cure)
    if kind != "population" and model.is_potential:
        raise InputError("loss", kind, "a potential has no data: its loss is 'population'")
    if kind == "online" and (batch_size is None or data is not None):
        raise InputError("batch_size", batch_size, "fresh samples at every step need a batch_size, and no data")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise InputError("batch_size", batch_size, "must be a whole number of samples, or None for the full batch")
    return kind


def _numbers(name: str, values: Any, strict: bool = True) -> list[float]:
    found = np.atleast_1d(np.asarray(values, np.float64)).tolist()
    if not found or not all(np.isfinite(v) and (v > 0 or (not strict and v == 0)) for v in found):
        raise InputError(name, values, "give one or several positive numbers")
    return found


def _marks(checkpoints: int | Sequence[int], steps: int) -> Int[np.ndarray, " K"]:
    if isinstance(checkpoints, int):
        if checkpoints < 2:
            raise InputError("checkpoints", checkpoints, "give at least 2, or a list of steps")
        found = np.round(np.geomspace(1, steps, checkpoints - 1)).astype(int)
    else:
        found = np.asarray(checkpoints, int)
        if found.ndim != 1 or found.size == 0 or found.min() < 0 or found.max() > steps:
            raise InputError("checkpoints", checkpoints, f"give step numbers from 0 to {steps}")
    return np.unique(np.concatenate([[0], found, [steps]]))
