"""Configs on disk: composed from YAML files and overrides by Hydra, saved to and loaded from run directories.

A config file is YAML; components are `_target_` nodes (config.nodes), groups such as configs/sampler/ hold ready ones:

    slt run superposition/demo grid.n='[100,300]' sampler=sgnht sampler.step_size=1e-4
"""

import itertools
import pkgutil
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slt.config import nodes
from slt.config.nodes import instantiate, nearest
from slt.config.schema import (
    COMPONENTS,
    GridConfig,
    RunConfig,
    ScheduleConfig,
    SweepConfig,
    base_digest,
    digest,
    extended,
    interpolated,
    measures,
    plain,
    smoke,
    structured,
    sweeps,
)
from slt.typing import InputError

__all__ = [
    "GridConfig",
    "Listed",
    "RunConfig",
    "ScheduleConfig",
    "SweepConfig",
    "base_digest",
    "compose",
    "digest",
    "dump",
    "experiment",
    "extended",
    "instantiate",
    "listed",
    "load",
    "measures",
    "plain",
    "read",
    "save",
    "smoke",
    "structured",
    "sweeps",
    "trusted",
]

FILE = "config.yaml"
"""Name of the resolved config in a run directory."""
_MAIN = "slt_run"
_GLOBAL = "# @package _global_"


class Listed(NamedTuple):
    """A config file: its name on the command line, where it lies, and the first sentence of its header."""

    name: str
    path: Path
    summary: str


def home() -> Path:
    """The folder of the built-in configs, of the installed package or of the clone."""
    return Path(next(iter(nodes.beside("configs").__path__)))


def listed(folder: Path | None = None) -> tuple[list[Listed], list[Listed]]:
    """(configs that can be run, options of groups) among the built-in ones or in `folder`, by name."""
    root = home() if folder is None else folder
    runs, options = [], []
    for path in sorted(root.rglob("*.yaml")):
        if path.relative_to(root).parts[0] == "hydra":  # launchers, which are no part of a config: slt sweep
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        entry = Listed(path.relative_to(root).with_suffix("").as_posix(), path, _summary(lines))
        (runs if any(line.strip() == _GLOBAL for line in lines[:3]) else options).append(entry)
    return runs, options


def _summary(lines: Sequence[str]) -> str:
    """The first sentence of a file's header comment, without its heading ("Purpose:")."""
    header = itertools.takewhile(lambda line: line.startswith("#"), (line for line in lines if line.strip() != _GLOBAL))
    text = " ".join(line.lstrip("# ").strip() for line in header)
    return re.split(r"[.:;] ", re.sub(r"^[A-Z]\w*: *", "", text))[0].rstrip(".")


def own_folder(name: str) -> Path | None:
    """The folder of a config given as a YAML file; None for a built-in one given by name."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return None
    if not path.is_file():
        raise InputError("config", name, "no such file; a built-in config is named without .yaml, see `slt list`")
    folder = path.resolve().parent
    if (folder / "manifest.jsonl").exists():
        cure = "belongs to a run directory: slt resume or slt extend that, or copy the file to run it anew"
        raise InputError("config", name, cure)
    return None if folder.is_relative_to(home().resolve()) else folder


def compose(name: str, overrides: Sequence[str] = (), *, allow_import: Sequence[str] | None = None) -> RunConfig:
    """The config `name` ("superposition/demo", or the path of a YAML file) with `key=value` overrides, checked whole.

    The folder of a YAML file is put on sys.path, so that its own `_target_: my_file.MyModel` works, and its groups
    stand beside the built-in ones. Every unknown key, wrong type, unknown group option, and `_target_` that cannot be
    called as written is an InputError. allow_import: see `load`; default no limit.
    """
    folder, entry = own_folder(name), name
    if folder is not None:
        entry = Path(name).stem
        importable(folder)
    elif Path(name).suffix in (".yaml", ".yml"):
        entry = Path(name).resolve().relative_to(home().resolve()).with_suffix("").as_posix()
    runs = [one.name for one in listed()[0]]
    if folder is None and entry not in runs:
        raise InputError(
            "config", name, f"unknown; {nearest(entry, runs)}. One's own is given as a path to a .yaml file"
        )
    raw = _composed(entry, [home()] if folder is None else [folder, home()], overrides)
    if folder is None and entry.split("/")[0] in raw:
        raise InputError("config", name, f"its file must begin with the line '{_GLOBAL}'")
    raw.setdefault("name", Path(entry).name)
    if folder is None and "experiment" not in raw:
        raw["experiment"] = entry.split("/")[0]
    return read(raw, allow_import=allow_import)


def _composed(entry: str, homes: Sequence[Path], overrides: Sequence[str]) -> dict[str, Any]:
    """The plain, unresolved container that Hydra composes."""
    # Imported here: these take a quarter of a second, and `slt show` needs none of them.
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException

    search = {"searchpath": [f"file://{path}" for path in homes[1:]]}
    ConfigStore.instance().store(_MAIN, {"defaults": [entry, "_self_"], "hydra": search})
    given = [_override(text, homes) for text in overrides]
    try:
        with initialize_config_dir(str(homes[0]), version_base="1.3"):
            composed = hydra_compose(_MAIN, given)
        return typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        cure = nearest(option, error.options or []) if error.options else str(error).splitlines()[0]
        raise InputError(group or "defaults", option, f"unknown; {cure}") from None
    except OverrideParseException as error:
        text = str(error).splitlines()[0]
        raise InputError("override", error.override, f"cannot be read ({text}); write key=value") from None
    except OmegaConfBaseException as error:
        raise InputError(error.full_key or "config", entry, str(error.msg or error).splitlines()[0]) from error
    except (HydraException, ValueError) as error:  # Hydra checks some overrides by ValueError
        raise _explained(str(error), overrides) from error
    except yaml.YAMLError as error:
        raise InputError("config", entry, f"is not YAML: {' '.join(str(error).split())}") from error


def _explained(message: str, overrides: Sequence[str]) -> InputError:
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if f"'{key}'" in message and message.startswith("Could not override"):
            cure = f"this config chooses no {key} from a group; give the node itself, {key}={{_target_: ...}}"
            return InputError(key, value, f"{cure}, or add '- /{key}: NAME' to its defaults")
        if text in message and "sweep" in message.lower():
            return InputError(key, value, f"several values are one list: {key}='[{value}]'")
    return InputError("config", " ".join(overrides), message.splitlines()[0])


def _override(text: str, homes: Sequence[Path]) -> str:
    """An override as Hydra wants it: `key=value` sets a key whether or not the file has it; the schema judges later."""
    key, equals, _ = text.partition("=")
    bare = key.lstrip("+~").split("@")[0]
    if not bare or not (equals or key.startswith("~")):
        raise InputError("override", text, "write key=value, such as schedule.draws=1000 or sampler=sgnht")
    if bare.split(".")[0] == "hydra":
        raise InputError("override", text, "Hydra's own settings play no part in slt")
    group = any(any((folder / bare).glob("*.yaml")) for folder in homes)
    return text if group or key[0] in "+~" else f"++{text}"


def read(raw: Mapping[str, Any], *, allow_import: Sequence[str] | None = None) -> RunConfig:
    """The checked config of a plain container: as `structured`, and every `_target_` found and fit to be called."""
    config = structured(raw)
    found = plain(config)
    if allow_import is not None:
        nodes.trust(found, allow=allow_import)
    for name in (*COMPONENTS, "observables", "parts"):
        nodes.check(found[name], name)
    for name, node in measures(config).items():
        nodes.check(node, f"measures.{name}")
        nodes.check(node | config.measures[name].get("smoke", {}), f"measures.{name}")
    if config.experiment is not None:
        home = _experiment(config.experiment, allow_import)
        built_in = home.startswith(f"slt.experiments.{config.experiment}")
        if not built_in and not callable(getattr(nodes.module(home, "experiment"), "figures", None)):
            raise InputError("experiment", home, "is no experiment: it has no function figures(run)")
    return config


def experiment(config: RunConfig, allow_import: Sequence[str] | None = None) -> ModuleType | None:
    """The module that draws this run's figures, slt.experiments.<experiment> or one's own; None without one.

    allow_import: the modules besides slt's that may be imported; default no limit.
    """
    if config.experiment is None:
        return None
    return nodes.module(_experiment(config.experiment, allow_import), "experiment")


def _experiment(name: str, allow_import: Sequence[str] | None) -> str:
    found = (info.name for info in pkgutil.iter_modules(nodes.beside("experiments").__path__))
    built_in = [each for each in found if not each.startswith("_")]
    if name in built_in:
        return f"slt.experiments.{name}"
    if allow_import is not None and not any(name == one or name.startswith(f"{one}.") for one in allow_import):
        raise InputError("experiment", name, "a run directory may name only slt's own experiments; see --allow-import")
    if not all(part.isidentifier() for part in name.split(".")) or util.find_spec(name.split(".")[0]) is None:
        raise InputError("experiment", name, f"unknown; {nearest(name, built_in)}, or the import path of one's own")
    return name


def dump(config: RunConfig | Mapping[str, Any]) -> str:
    """The config as plain YAML that `load` and a person can read."""
    shown = plain(config) if isinstance(config, RunConfig) else config
    return yaml.dump(shown, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, as a person writes them."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        simple = not any(isinstance(value, list | dict) for value in sequence)
        return super().represent_sequence(tag, sequence, flow_style=simple or flow_style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def save(config: RunConfig, folder: Path) -> None:
    """Write config.yaml into a run directory."""
    (folder / FILE).write_text(dump(config), encoding="utf-8")


def load(folder: Path, allow_import: Sequence[str] = ()) -> RunConfig:
    """The config of a run directory. It may import slt's own components alone, and the modules named in `allow_import`.

    An entry of allow_import is a module's name (found in the working directory too), a .py file or a folder of them.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError("run", str(folder), f"is no run directory: it has no {FILE}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise InputError("config", str(path), f"is not YAML: {' '.join(str(error).split())}") from error
    return trusted(raw, str(path), allow_import)


def trusted(raw: Any, where: str, allow_import: Sequence[str] = ()) -> RunConfig:
    """The config that a run directory has, as `load`, of its plain container; where: the file that is named if bad."""
    if not isinstance(raw, dict) or not raw:
        raise InputError("config", where, "holds no settings")
    if interpolated(raw):
        raise InputError("config", where, "a resolved config has no ${...}: it was altered")
    return read(raw, allow_import=allowed(allow_import))


def allowed(entries: Sequence[str]) -> list[str]:
    """Names of the modules that --allow-import allows, made importable."""
    names = []
    for entry in entries:
        path = Path(entry)
        if path.is_dir():
            importable(path)
            names += [info.name for info in pkgutil.iter_modules([str(path)])]
        elif path.suffix == ".py" and path.is_file():
            importable(path.parent)
            names.append(path.stem)
        else:
            importable(Path.cwd())
            names.append(entry)
    return names


def importable(folder: Path) -> None:
    """Put a folder on sys.path, first, as Python does with that of a script."""
    text = str(folder.resolve())
    if text not in sys.path:
        sys.path.insert(0, text)
