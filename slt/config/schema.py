"""The strict schema of a run's config: structured configs, their checks, digest, extension and tiny variant."""

import copy
import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slt.cells import checked_seed
from slt.config import nodes
from slt.config.nodes import join, nearest
from slt.model import PRECISIONS
from slt.typing import InputError

COMPONENTS = ("model", "sampler", "phases", "data")
"""The fields of a sweep that are `_target_` nodes; observables are further ones, by name."""
MAIN = "main"
"""Name of the part at the top level of a config."""


@dataclass
class GridConfig:
    """The axes of a sweep, passed to slt.cells.grid: t for a potential, else n and beta. A value is a list of one."""

    n: list[int] | None = None
    beta: list[Any] = field(default_factory=lambda: ["1"])
    t: list[float] | None = None
    gamma: list[float] = field(default_factory=lambda: [0.0])
    data_seed: list[int] = field(default_factory=lambda: [0])
    control: dict[str, Any] = field(default_factory=dict)  # lists of numbers; OmegaConf would refuse whole ones there


@dataclass
class ScheduleConfig:
    """slt.engine.Schedule, and every how many draws the parameters are stored (keep_params, 0: never)."""

    draws: int = MISSING
    chains: int = 4
    burn_in: int = 0
    thin: int = 1
    chunk: int | None = None
    memory: int = 256 * 2**20
    keep_params: int = 0


@dataclass
class SweepConfig:
    """One sweep: a model, a grid, a sampler and a schedule.

    start: names of the model's basins, "optimum" or "prior"; chain c starts at start[c mod len(start)], moved by normal
    noise of sd `jitter`. centre: where losses are referred to and the localiser sits. phases, data: null for the
    model's own. observables: further ones by name.
    """

    model: dict[str, Any] = MISSING
    grid: GridConfig = field(default_factory=GridConfig)
    sampler: dict[str, Any] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    start: list[str] = field(default_factory=lambda: ["prior"])
    jitter: float = 0.0
    centre: str = "optimum"
    phases: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    observables: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class RunConfig(SweepConfig):
    """A run: the main sweep, further `parts`, and what they belong to.

    experiment: the module slt.experiments.<experiment>, or one's own by its import path; it draws the figures.
    x64: double precision. precision: of the matrix products in likelihoods on data, a key of slt.model.PRECISIONS; all
    else is computed at the highest, and on a CPU these too. measures: named nodes computed after the sweeps
    (slt.runs.Measure), in their order; the fields under a node's `smoke` replace its own in a tiny run. A run of
    measures alone leaves model, sampler and schedule out.
    """

    experiment: str | None = None
    name: str = ""
    seed: int = 0
    x64: bool = False
    precision: str = "highest"
    parts: dict[str, SweepConfig] = field(default_factory=dict)
    measures: dict[str, dict[str, Any]] = field(default_factory=dict)


def structured(raw: Mapping[str, Any]) -> RunConfig:
    """The config of a plain container, keys and types checked, interpolations resolved, nothing imported.

    InputError names the dotted path, the value found there and the nearest key, or what is wanted instead.
    """
    given = _lists(copy.deepcopy(dict(raw)))
    _strict(given, RunConfig, "")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), given)
        resolved = typing.cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        raise InputError(error.full_key or "config", None, str(error.msg or error).splitlines()[0]) from error
    _strict(resolved, RunConfig, "")
    config = _run(resolved)
    checked_seed(config.seed)
    if config.precision not in PRECISIONS:
        raise InputError("precision", config.precision, f"unknown; {nearest(config.precision, PRECISIONS)}")
    if config.x64 and config.precision != "highest":
        raise InputError("precision", config.precision, "is of 32-bit floats: leave it out, or x64=true")
    for name in config.parts:
        if name == MAIN or not name.isidentifier():
            raise InputError(f"parts.{name}", name, f"call it otherwise: a name, and not {MAIN!r}, the top level's own")
    for prefix, sweep in sweeps(config):
        _complete(sweep, prefix)
    for name, node in config.measures.items():
        if not name.isidentifier():
            raise InputError(f"measures.{name}", name, "call it otherwise: a name, of letters, digits and _")
        _node(node, f"measures.{name}")
        if not isinstance(node.get("smoke", {}), dict):
            raise InputError(f"measures.{name}.smoke", node["smoke"], "must be a mapping of fields to replace")
    return config


def _lists(raw: dict[str, Any]) -> dict[str, Any]:
    """Single values on the axes of grids as lists of one; a single start likewise."""

    def one(value: Any) -> Any:
        return [value] if isinstance(value, int | float) or (isinstance(value, str) and "${" not in value) else value

    parts = raw.get("parts")
    for sweep in [raw, *(parts.values() if isinstance(parts, dict) else [])]:
        if not isinstance(sweep, dict):
            continue
        if "start" in sweep:
            sweep["start"] = one(sweep["start"])
        grid = sweep.get("grid")
        if isinstance(grid, dict):
            for axes in (grid, grid.get("control")):
                if isinstance(axes, dict):
                    axes.update({name: one(value) for name, value in axes.items()})
    return raw


def _strict(raw: Any, schema: type, path: str) -> None:
    """InputError for the first key that the schema lacks, or value of the wrong type."""
    if not isinstance(raw, Mapping):
        raise InputError(path or "config", raw, "must be a mapping")
    kinds = typing.get_type_hints(schema)
    for key, value in raw.items():
        here = join(path, key) or repr(key)
        if key not in kinds:
            raise InputError(here, value, f"unknown key; {nearest(key, kinds)}")
        kind = kinds[key]
        if isinstance(value, str) and ("${" in value or value == MISSING):
            continue
        if dataclasses.is_dataclass(kind):
            _strict(value, typing.cast(type, kind), here)
        elif key == "parts":
            nodes.fit(value, dict[str, Any], here)
            for name, part in typing.cast(dict[str, Any], value).items():
                _strict(part, SweepConfig, join(here, name))
        elif key in COMPONENTS and isinstance(value, str):
            raise InputError(here, value, f"no such group of ready ones: give a node, {key}: {{_target_: ...}}")
        elif not interpolated(value):
            nodes.fit(value, dict[str, list[float]] if key == "control" else kind, here)
            control = value if key == "control" and isinstance(value, Mapping) else {}
            for name, values in control.items():
                if isinstance(values, Mapping):  # a node, which has no place here
                    raise InputError(join(here, name), values, "must be a list of numbers")


def interpolated(value: Any) -> bool:
    """Whether a plain value holds a ${...} anywhere."""
    return "${" in json.dumps(value, default=str)


def _run(resolved: dict[str, Any]) -> RunConfig:
    def inner(raw: dict[str, Any]) -> dict[str, Any]:
        control = {name: [float(value) for value in values] for name, values in raw["grid"]["control"].items()}
        grid = GridConfig(**{**raw["grid"], "control": control})
        return {**raw, "grid": grid, "schedule": ScheduleConfig(**raw["schedule"])}

    parts = {name: SweepConfig(**inner(part)) for name, part in resolved["parts"].items()}
    return RunConfig(**{**inner(resolved), "parts": parts})


def sweeps(config: RunConfig) -> list[tuple[str, SweepConfig]]:
    """(dotted prefix, sweep) of the main sweep, if there is one, and every part."""
    main = [] if config.measures and config.model == config.sampler == config.schedule.draws == MISSING else [config]
    return [*(("", one) for one in main), *((f"parts.{name}.", part) for name, part in config.parts.items())]


def _complete(sweep: SweepConfig, prefix: str) -> None:
    if sweep.schedule.draws == MISSING:
        raise InputError(f"{prefix}schedule.draws", None, "is missing: say how many draws each chain makes")
    named = {name: getattr(sweep, name) for name in COMPONENTS}
    named |= {f"observables.{name}": node for name, node in sweep.observables.items()}
    for name, node in named.items():
        if node == MISSING:
            raise InputError(f"{prefix}{name}", None, f"is missing: give a node, {name}: {{_target_: ...}}")
        if node is not None:
            _node(node, f"{prefix}{name}")


def _node(node: Mapping[str, Any], path: str) -> None:
    if "_target_" not in node:
        raise InputError(path, node, "needs a _target_, such as _target_: my_file.MyModel")


def measures(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The nodes of a run's measures, by name, without what only a tiny run wants."""
    return {
        name: {key: value for key, value in node.items() if key != "smoke"} for name, node in config.measures.items()
    }


def plain(config: RunConfig) -> dict[str, Any]:
    """The config as plain mappings, lists and values."""
    return dataclasses.asdict(config)


def digest(config: RunConfig) -> str:
    """SHA-256 of the canonical JSON of the whole config: same digest, same numbers on the same machine."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def base_digest(config: RunConfig) -> str:
    """The digest with every schedule.draws left out: alike for a run and its extensions."""
    copied = copy.deepcopy(config)
    for _, sweep in sweeps(copied):
        sweep.schedule.draws = 0
    return digest(copied)


def extended(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config with more draws: schedule.draws=N, and parts.NAME.schedule.draws=N. Nothing else can be changed."""
    longer = copy.deepcopy(config)
    by_key = {f"{prefix}schedule.draws": sweep.schedule for prefix, sweep in sweeps(longer)}
    if not overrides:
        raise InputError("schedule.draws", None, "say how far to extend, such as schedule.draws=4000")
    for text in overrides:
        key, _, value = text.partition("=")
        if key not in by_key:
            raise InputError(key, value, f"only draws can be extended; {nearest(key, by_key)}. For the rest: slt run")
        if not value.strip().isdigit() or int(value) <= by_key[key].draws:
            raise InputError(key, value, f"must be a whole number above {by_key[key].draws}, the draws that are there")
        by_key[key].draws = int(value)
    return longer


def smoke(config: RunConfig) -> RunConfig:
    """The same run made tiny: two values an axis, n at most 32, a dozen draws. For tests, and to see that all runs."""
    tiny = copy.deepcopy(config)
    tiny.name = f"{config.name}-smoke"
    tiny.measures = {
        name: {**node, **config.measures[name].get("smoke", {})} for name, node in measures(config).items()
    }
    for _, sweep in sweeps(tiny):
        grid, schedule = sweep.grid, sweep.schedule
        if grid.n is not None:
            grid.n = [min(n, small) for n, small in zip(grid.n, (20, 32), strict=False)]  # one program
        grid.t = grid.t if grid.t is None else grid.t[:2]
        grid.beta, grid.gamma, grid.data_seed = grid.beta[:2], grid.gamma[:2], grid.data_seed[:1]
        grid.control = {name: values[:2] for name, values in grid.control.items()}
        schedule.draws, schedule.burn_in = 12, min(schedule.burn_in, 4)
        schedule.thin, schedule.chunk = 1, 6
        schedule.chains = min(schedule.chains, max(2, len(sweep.start)))
        schedule.keep_params = min(schedule.keep_params, 2)
    return tiny
