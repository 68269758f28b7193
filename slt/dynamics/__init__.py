"""Training as a dynamical system: many runs of gradient descent in one program, with the phase of every checkpoint.

`train` gives `Trajectories`; `slt.dynamics.plateaus` reads plateaus, drops and the sequence of phases off them,
`slt.dynamics.local` measures local coefficients at many checkpoints in one program, `slt.dynamics.store` keeps them.
"""

import functools
import itertools
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
from slt.dynamics.plateaus import Critical, Path
from slt.engine.program import LONG, ONCE
from slt.model import Model
from slt.phases import Phases
from slt.typing import Batch, InputError, Key, Params, Scalar

OPTIMISERS: dict[str, Callable[[Any, Any], optax.GradientTransformation]] = {
    "sgd": lambda rate, _: optax.sgd(rate),
    "momentum": lambda rate, momentum: optax.sgd(rate, momentum=momentum),
    "adam": lambda rate, _: optax.adam(rate),
}
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

    def critical_steps(self, paths: Sequence[Path] | None = None, fewest: int = 5) -> dict[str, Critical]:
        """critical_step[a->b] over the runs that go from a to b, where at least `fewest` do: see `Critical`."""
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
    Keys are folded from the run's number, scale and rate: a run alone equals the same run among others.
    InputError, before any compute, for what cannot be used.
    """
    truth = model.truth()
    kind = _kind(model, loss, data, batch_size)
    if isinstance(optimiser, str) and optimiser not in OPTIMISERS:
        raise InputError("optimiser", optimiser, f"choose from {', '.join(OPTIMISERS)}, or give a function of the rate")
    for name, value, least in (("steps", steps, 1), ("runs", runs, 1), ("n", n, 1), ("fine", fine, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(name, value, f"must be a whole number, at least {least}")
    rates, scales = _numbers("learning_rate", learning_rate), _numbers("scale", scale, strict=False)
    marks = _marks(checkpoints, steps)
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
    begun = _starts(model, start, keys, jnp.asarray(table[:, 1], dtype))
    exact = None if kind == "data" or model.is_potential or truth is None else truth.population_loss
    ended = _train(
        model, exact, optimiser, kind, batch_size, begun, keys, jnp.asarray(table[:, 2], dtype),
        jnp.asarray(momentum, dtype), None if data is None else jax.tree.map(jnp.asarray, data),
        jnp.asarray(stops, jnp.int32),
    )  # fmt: skip
    first, params, first_loss, curve, broken = jax.tree.map(np.asarray, ended)
    params = jax.tree.map(lambda a, b: np.concatenate([a[:, None], b], axis=1), first, params)
    every, keep = np.unique(np.append(0, stops.ravel()), return_index=True)
    curve = np.concatenate([first_loss[:, None], curve.reshape(len(table), -1)], axis=1)[:, keep].astype(np.float64)
    phases = phases if phases is not None or truth is None else truth.phases
    asked = {"optimiser": getattr(optimiser, "__name__", optimiser), "momentum": momentum, "steps": steps, "loss": kind}
    if kind != "population":
        asked |= {"batch_size": batch_size, "n": n, "data_seed": data_seed}
    shape = len(table), len(marks)
    return Trajectories(
        steps=marks,
        params=params,
        curve_steps=every,
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


@functools.partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _starts(model: Model, start: Params | None, keys: Key, scales: Float[Array, " R"]) -> Params:
    def one(key: Key, scale: Scalar) -> Params:
        if start is None:
            return jax.tree.map(lambda leaf: scale * leaf, model.init(jax.random.fold_in(key, 0)))
        leaves, treedef = jax.tree.flatten(start)
        each = jax.random.split(jax.random.fold_in(key, 0), len(leaves))
        leaves = [jnp.asarray(leaf, scale.dtype) for leaf in leaves]
        moved = [x + scale * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(each, leaves, strict=True)]
        return jax.tree.unflatten(treedef, moved)

    return jax.vmap(one)(keys, scales)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), compiler_options=LONG)
def _train(
    model: Model, exact: Any, rule: Any, kind: str, batch_size: int | None, starts: Params, keys: Key, rates: Array,
    momentum: Scalar, data: Batch | None, stops: Int[Array, "intervals fine"],
) -> tuple[Params, Params, Array, Array, Array]:  # fmt: skip
    """(starts, params [R, K-1, ...], first loss [R], curve [R, K-1, fine], step of the break or -1 [R])."""

    def mean(params: Params, batch: Batch) -> Scalar:
        return -jnp.mean(model.log_likelihood(params, batch))

    def full(params: Params) -> Scalar:
        return mean(params, data) if exact is None else jnp.asarray(exact(params))

    def one(params: Params, key: Key, rate: Scalar) -> tuple[Params, Array, Array, Array]:
        optimiser = OPTIMISERS[rule](rate, momentum) if isinstance(rule, str) else rule(rate)
        noise = jax.random.fold_in(key, 1)

        def descended(params: Params, step: Array) -> Scalar:
            if batch_size is None:
                return full(params)
            key = jax.random.fold_in(noise, step)
            if kind == "online":
                return mean(params, model.sample(key, batch_size))
            where = jax.random.randint(key, (batch_size,), 0, jax.tree.leaves(data)[0].shape[0])
            return mean(params, jax.tree.map(lambda leaf: leaf[where], data))

        def step(number: Array, carry: Any) -> Any:
            params, state, broken = carry
            gradient = jax.grad(descended)(params, number)
            with jax.numpy_dtype_promotion("standard"):  # Adam's powers of a whole number need it
                moves, new_state = optimiser.update(gradient, state, params)
                new = optax.apply_updates(params, moves)
            fine = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new)]).all() & (broken < 0)
            keep = functools.partial(jax.tree.map, lambda a, b: jnp.where(fine, a, b))
            broken = jnp.where(fine | (broken >= 0), broken, number)
            return keep(new, params), keep(new_state, state), broken

        def piece(carry: Any, stop: Array) -> tuple[Any, Scalar]:
            number, inner = carry
            inner = jax.lax.fori_loop(number, stop, step, inner)
            return (stop, inner), full(inner[0])

        def interval(carry: Any, stops: Array) -> tuple[Any, tuple[Params, Array]]:
            carry, losses = jax.lax.scan(piece, carry, stops)
            return carry, (carry[1][0], losses)

        begin = (jnp.zeros((), jnp.int32), (params, optimiser.init(params), jnp.full((), -1, jnp.int32)))
        (_, (_, _, broken)), (kept, curve) = jax.lax.scan(interval, begin, stops)
        return kept, full(params), curve, broken

    return starts, *jax.vmap(one)(starts, keys, rates)
