"""Training as a measure of a run: a node `_target_: slt.experiments._training.Training` among a config's `measures`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray as xr

from slt import dynamics
from slt.dynamics import Trajectories, plateaus, train
from slt.dynamics.local import local
from slt.dynamics.plateaus import Path
from slt.model import Model
from slt.phases import Phases
from slt.results.place import remove
from slt.typing import InputError, Params

from ._shared import finite, sweep_of, whole

PLATEAU = ("start", "stop", "level", "phase", "pure")


@dataclass(frozen=True)
class Training:
    """Many runs of `slt.train`, block by block, and local quantities at checkpoints of a few of them.

    part: the sweep whose model is trained, and beside which it is shown; model, phases: others. start: "prior" (scale
    times model.init), or a basin's name (plus noise of `scale`). by: "plateaus" of the loss, or "labels" alone, tell
    where a run stays.
    keep: runs whose parameters are kept, and at `points` of whose checkpoints local quantities are measured at `t`
    (none: not at all), localised by `gamma`, with `chains` x `draws`. block: runs made and kept at a time; one in the
    making is checkpointed every minute, so that a run that was killed goes on in the middle of it. The other fields as
    for `slt.train`.
    """

    part: str = "main"
    model: Any = None
    phases: Any = None
    optimiser: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    steps: int = 10_000
    runs: int = 256
    loss: str | None = None
    batch_size: int | None = None
    n: int = 1000
    start: str = "prior"
    scale: float = 1.0
    checkpoints: int = 128
    by: str = "plateaus"
    keep: int = 8
    points: int = 24
    t: float | None = None
    gamma: float = 1.0
    chains: int = 8
    draws: int = 200
    block: int = 128

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for what `slt.train` and `slt.dynamics.local` would refuse."""
        if self.by not in ("plateaus", "labels"):
            raise InputError("by", self.by, "choose plateaus or labels")
        whole(self, block=1, keep=0, points=1, **({} if self.t is None else {"chains": 2, "draws": 8}))
        finite(self, "momentum", *(() if self.t is None else ("t", "gamma")))
        model, _ = self._model(parts)
        dynamics.asked_of(
            model, optimiser=self.optimiser, learning_rate=self.learning_rate, steps=self.steps, runs=self.runs,
            loss=self.loss, n=self.n, batch_size=self.batch_size, scale=self.scale, checkpoints=self.checkpoints,
        )  # fmt: skip
        self._begin(model)

    def __call__(self, site: Any) -> xr.Dataset:
        """The runs as a dataset: see `dataset`, and local_* [kept, point] of `slt.dynamics.local`."""
        model, phases = self._model(site.parts)
        blocks = [min(self.block, self.runs - first) for first in range(0, self.runs, self.block)]
        made: list[Trajectories] = []
        for number, runs in enumerate(blocks):
            folder = site.folder / f"training {number}"

            def go(number: int = number, runs: int = runs, folder: Any = folder) -> dict[str, np.ndarray]:
                found = self._train(model, phases, runs, jax.random.fold_in(site.key, number), folder)
                leaves = {f"params.{i}": leaf for i, leaf in enumerate(jax.tree.leaves(found.params))}
                return {name: getattr(found, name) for name in _KEPT} | leaves

            arrays = site.once(f"runs {number}", go)
            remove(folder)
            made.append(_again(model, phases, self, arrays))
        paths = [one for found in made for one in (found.paths() if self.by == "plateaus" else found.label_paths())]
        data = dataset(made, paths, self.keep)
        if self.t is not None and self.keep > 0:
            data = data.merge(self._local(site, model, made[0]))
        about = {"optimiser": self.optimiser, "learning_rate": self.learning_rate, "start": self.start, "by": self.by}
        about |= {"part": self.part}
        about |= {"scale": self.scale, "batch_size": self.batch_size or 0, "gamma": self.gamma}
        return data.assign_attrs(about | {"t": np.nan if self.t is None else self.t})

    def _model(self, parts: Mapping[str, Any]) -> tuple[Model, Phases | None]:
        model = sweep_of(parts, self.part).model if self.model is None else self.model
        truth = model.truth()
        own = None if truth is None else truth.phases
        return model, own if self.phases is None else self.phases

    def _train(self, model: Model, phases: Phases | None, runs: int, key: Any, folder: Any) -> Trajectories:
        return train(
            model,
            optimiser=self.optimiser,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            steps=self.steps,
            runs=runs,
            loss=self.loss,
            n=self.n,
            batch_size=self.batch_size,
            start=self._begin(model),
            scale=self.scale,
            checkpoints=self.checkpoints,
            phases=phases,
            key=key,
            folder=folder,
        )

    def _begin(self, model: Model) -> Params | None:
        if self.start == "prior":
            return None
        truth = model.truth()
        if truth is None:
            raise InputError("start", self.start, "this model knows no basins: start from the prior")
        try:
            return truth.basin(self.start).params
        except InputError as error:
            raise InputError("start", self.start, error.cure) from error

    def _local(self, site: Any, model: Model, found: Trajectories) -> xr.Dataset:
        keep = min(self.keep, len(found.ok))
        inside = np.flatnonzero(found.steps >= 1)
        at = np.unique(inside[np.linspace(0, len(inside) - 1, self.points).astype(int)])
        points = jax.tree.map(lambda leaf: leaf[:keep][:, at].reshape(-1, *leaf.shape[2:]), found.params)

        def go() -> dict[str, np.ndarray]:
            seen = local(
                model, points, t=self.t or 0.0, gamma=self.gamma, chains=self.chains, draws=self.draws,
                burn_in=max(40, self.draws // 4), key=jax.random.fold_in(site.key, 2**31),
                n=None if model.is_potential else self.n,
            )  # fmt: skip
            names = ("loss", "gradient", "lowest", "highest", "negative", "rank", "quadratic", "acceptance", "rhat")
            arrays = {name: getattr(seen, name) for name in names}
            return arrays | {"llc": np.asarray(seen.llc.value), "llc_stderr": np.asarray(seen.llc.stderr)}

        arrays = site.once("local", go)
        variables: dict[str, Any] = {
            f"local_{name}": (("kept", "point"), array.reshape(keep, -1)) for name, array in arrays.items()
        }
        return xr.Dataset(variables, {"point_step": ("point", found.steps[at])})


_KEPT = ("steps", "curve_steps", "curve", "phase", "ok", "broken_at", "scale", "rate", "levels")


def _again(model: Model, phases: Phases | None, asked: Training, arrays: dict[str, np.ndarray]) -> Trajectories:
    treedef = jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0)))
    leaves = [arrays[f"params.{i}"] for i in range(treedef.num_leaves)]
    truth = model.truth()
    return Trajectories(
        params=jax.tree.unflatten(treedef, leaves),
        names=() if phases is None else phases.names,
        rule="" if phases is None else phases.rule,
        floor=None if truth is None or asked.loss == "data" else truth.loss,
        settings={},
        **{name: arrays[name] for name in _KEPT},
    )


def dataset(made: Sequence[Trajectories], paths: Sequence[Path], keep: int) -> xr.Dataset:
    """Trajectories of equal steps as a dataset.

    curve (run, curve_step), phase (run, step), ok (run); phase_name, phase_loss, phase_lam (label) of the catalogue;
    params (kept, step, parameter) of the first runs, their leaves flattened; plateaus one after another (plateau):
    plateau_run, plateau_start, _stop, _level, _phase, _pure, and plateau_at, _width, the step at which the run leaves
    for its next plateau (NaN at its last).
    """
    one = made[0]
    count = sum(len(each.ok) for each in made)
    steps = (one.steps, one.curve_steps)
    flat = np.concatenate(
        [leaf[:keep].reshape(min(keep, len(one.ok)), len(one.steps), -1) for leaf in jax.tree.leaves(one.params)],
        axis=2,
    )
    rows: dict[str, list] = {name: [] for name in ("run", *PLATEAU, "at", "width")}
    for run, path in enumerate(paths):
        rows["run"] += [run] * len(path.start)
        for name in PLATEAU:
            rows[name] += list(getattr(path, name))
        for name in ("at", "width"):
            rows[name] += [*getattr(path, name), *([np.nan] if len(path.start) else [])]
    whole = ("run", "phase")
    variables: dict[str, Any] = {
        "curve": (("run", "curve_step"), np.concatenate([each.curve for each in made])),
        "phase": (("run", "step"), np.concatenate([each.phase for each in made])),
        "ok": ("run", np.concatenate([each.ok for each in made])),
        "params": (("kept", "step", "parameter"), flat),
        "phase_loss": ("label", one.levels[:, 0]),
        "phase_lam": ("label", one.levels[:, 1]),
        **{f"plateau_{k}": ("plateau", np.array(v, int if k in whole else float)) for k, v in rows.items()},
    }
    names = np.array(one.names, object)
    coords = {"run": np.arange(count), "step": steps[0], "curve_step": steps[1], "phase_name": ("label", names)}
    return xr.Dataset(variables, coords, {"rule": one.rule, "floor": np.nan if one.floor is None else one.floor})


def paths(data: xr.Dataset) -> list[Path]:
    """The paths of the runs of a dataset made by `dataset`."""
    found, run = [], data["plateau_run"].values
    columns = {name: data[f"plateau_{name}"].values for name in (*PLATEAU, "at", "width")}
    for number in range(data.sizes["run"]):
        own = {name: values[run == number] for name, values in columns.items()}
        ends = {name: own[name][:-1] for name in ("at", "width")}
        found.append(Path(**(own | ends)))
    return found


def critical_steps(data: xr.Dataset, fewest: int = 5) -> dict[str, plateaus.Critical]:
    """critical_step[a->b] of a dataset of runs: see `plateaus.critical_steps`."""
    return plateaus.critical_steps(paths(data), [str(name) for name in data["phase_name"].values], fewest)
