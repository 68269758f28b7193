"""`slt sweep`: a config run for every combination of values, as jobs of Hydra's multirun and its launchers.

For what changes shapes (width, depth, sampler); n, beta, gamma, data seeds and controls are the grid of one run.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from slt import config, results
from slt.cli.sampling import DONE, INCOMPLETE, INTERRUPTED, composed, output
from slt.config.nodes import nearest
from slt.results.place import is_local, replace
from slt.typing import InputError

FILE = "sweep.json"
"""What the jobs of a sweep directory are, in their order."""
LAUNCHERS = {"workers": "joblib", "slurm": "slurm", "submitit": "slurm", "ray_cluster": "ray"}
"""Ready launchers, configs/hydra/launcher/*.yaml, and the extra of slt that each needs."""


class Jobs(NamedTuple):
    """A sweep: the config's name, options of `slt run`, and the overrides of every job by the name of its directory."""

    name: str
    options: list[str]
    overrides: dict[str, list[str]]


def sweep(args: argparse.Namespace, messages: Console) -> int:
    """Run every job that is not finished; 0 if all are then, 3 if some are not."""
    launcher, settings, rest = _launcher(args.overrides)
    jobs = expanded(args, rest)
    place = _default_place(jobs) if args.out is None else results.place(args.out)
    if launcher and not is_local(place):
        cure = f"launcher={launcher} needs a folder: leave it out, or start jobs by --only K, which write to any URL"
        raise InputError("out", str(place), cure)
    if args.only is not None:
        _name(jobs, args.only)
    _record(place, jobs)
    if args.only is not None:
        return _one(place, jobs, args.only)
    messages.print(f"{len(jobs.overrides)} jobs, in {place}", markup=False, soft_wrap=True)
    try:
        _launch(place, len(jobs.overrides), launcher, settings)
    except KeyboardInterrupt:
        messages.print("stopped; what was sampled is saved. Go on with: the same command", markup=False)
        return INTERRUPTED
    done = {name: _complete(place / name) for name in jobs.overrides}
    for name, complete in done.items():
        output().print(f"{place / name}: {'complete' if complete else 'incomplete'}", markup=False, soft_wrap=True)
    if all(done.values()):
        messages.print(f"all in one dataset: slt merge {place} --out {place / 'merged'}", markup=False, soft_wrap=True)
        return DONE
    left = f"{list(done.values()).count(False)} of {len(done)} jobs are incomplete: the same command goes on with them"
    messages.print(left, markup=False, soft_wrap=True)
    return INCOMPLETE


def _launcher(overrides: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """launcher=NAME and launcher.KEY=VALUE taken out of the overrides."""
    name, settings, rest = "", [], []
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "launcher":
            name = value
        elif key.startswith("launcher."):
            settings.append(f"++hydra.{text}")
        else:
            rest.append(text)
    if name and name not in LAUNCHERS:
        raise InputError("launcher", name, f"unknown; {nearest(name, LAUNCHERS)}; left out, jobs run one after another")
    if settings and not name:
        raise InputError("launcher", settings[0], f"say which: launcher={' or launcher='.join(LAUNCHERS)}")
    if name:
        from hydra.core.config_store import ConfigStore
        from hydra.core.plugins import Plugins

        Plugins.instance()  # finds the launchers that are installed
        wanted = {"workers": "joblib", "slurm": "submitit_slurm", "submitit": "submitit_local", "ray_cluster": "ray"}
        if f"{wanted[name]}.yaml" not in ConfigStore.instance().list("hydra/launcher"):
            raise InputError("launcher", name, f"is not installed: pip install 'slt[{LAUNCHERS[name]}]'")
    return name, settings, rest


def expanded(args: argparse.Namespace, overrides: Sequence[str]) -> Jobs:
    """The jobs of a sweep, each checked whole: every combination of the values given as key=a,b,c."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    axes = []
    for text in overrides:
        try:
            parsed = OverridesParser.create().parse_override(text)
            values = [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()] if (
                parsed.is_sweep_override()
            ) else [text]  # fmt: skip
        except HydraException as error:
            raise InputError("override", text, f"cannot be read ({str(error).splitlines()[0]})") from error
        axes.append(values)
    swept = [values[0].partition("=")[0] for values in axes if len(values) > 1]
    folder = config.own_folder(args.name)
    made: dict[str, list[str]] = {}
    for chosen in itertools.product(*axes):
        told = [text for text in chosen if text.partition("=")[0] in swept]
        composed(argparse.Namespace(**vars(args) | {"overrides": list(chosen)}))
        made[_directory(told)] = list(chosen)
    if len(made) < len(list(itertools.product(*axes))):
        raise InputError("override", ", ".join(swept), "gives the same job twice")
    options = [*(["--x64"] if args.x64 else []), *(["--smoke"] if args.smoke else [])]
    options += [] if args.devices is None else [f"devices={args.devices}"]
    return Jobs(args.name if folder is None else str(Path(args.name).resolve()), options, made)


def _directory(told: Sequence[str]) -> str:
    """The directory of a job: what is swept, `_target_` and long values in short."""
    text = ",".join(one.lstrip("+").replace("._target_=", "=") for one in told) or "run"
    clean = re.sub(r"[^\w.+=,-]+", "_", text)
    return clean if len(clean) <= 120 else f"{clean[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _default_place(jobs: Jobs) -> Path:
    digest = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()[:8]
    name = Path(jobs.name).stem if Path(jobs.name).suffix else jobs.name.replace("/", "-")
    return Path("runs") / f"{name}-sweep-{digest}"


def _record(place: Path, jobs: Jobs) -> None:
    """Note the jobs in the sweep's directory; InputError where it holds others."""
    path, text = place / FILE, json.dumps(jobs._asdict(), indent=1)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise InputError("out", str(place), "holds another sweep: give another directory")
        return
    if place.exists() and any(place.iterdir()):
        raise InputError("out", str(place), "exists, and is no sweep: give another directory")
    try:
        place.mkdir(parents=True, exist_ok=True)
        replace(path, text.encode())
    except OSError as error:
        raise InputError("out", str(place), f"cannot be written: {error.strerror or error}") from error


def recorded(place: Path) -> list[Path]:
    """The run directories of a sweep directory, in the order of its jobs."""
    try:
        return [place / name for name in json.loads((place / FILE).read_text(encoding="utf-8"))["overrides"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("sweep", str(place / FILE), f"cannot be read: {error}") from error


def _complete(place: Path) -> bool:
    try:
        run = results.load(place)
    except InputError:
        return False
    return run.complete and run.summary is not None


def _name(jobs: Jobs, number: int) -> str:
    """The directory of a job; InputError where there is no such job."""
    names = list(jobs.overrides)
    if not 0 <= number < len(names):
        raise InputError("--only", number, f"there are {len(names)} jobs, from 0 on")
    return names[number]


def _one(place: Path, jobs: Jobs, number: int) -> int:
    """One job, in this process: begun, or gone on with, or finished already."""
    from slt.cli import main

    name = _name(jobs, number)
    if _complete(place / name):
        return DONE
    return main(["run", jobs.name, *jobs.overrides[name], *jobs.options, "--out", str(place / name), "--preemptible"])


def task(made: Any) -> int:
    """What a launcher's job does; it is told its number and the directory of the sweep alone."""
    from hydra.core.global_hydra import GlobalHydra

    place, outer = results.place(made.place), GlobalHydra.instance()
    held, outer.hydra = outer.hydra, None  # the run composes its own config
    try:
        code = _one(place, Jobs(**json.loads((place / FILE).read_text(encoding="utf-8"))), int(made.job))
    finally:
        outer.hydra = held
    if code in (INCOMPLETE, INTERRUPTED):
        raise KeyboardInterrupt  # no further job is begun in this process
    return code


def _launch(place: Path, count: int, launcher: str, settings: Sequence[str]) -> None:
    """Hydra's multirun over the numbers of the jobs."""
    import hydra
    from hydra.core.config_store import ConfigStore

    where = str(place.resolve()) if is_local(place) else str(place)
    numbers = ",".join(map(str, range(count)))
    words = ["slt", "--multirun", "--config-dir", str(config.home()), f"job={numbers}"]
    words += ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    words += [f"hydra/launcher={launcher}"] if launcher else []
    before = sys.argv
    sys.argv = [*words, *settings]
    try:
        with contextlib.nullcontext(where) if is_local(place) else tempfile.TemporaryDirectory() as folder:
            own = {"sweep": {"dir": folder, "subdir": "."}, "output_subdir": None, "job": {"name": "slt"}}
            ConfigStore.instance().store("slt_sweep", {"place": where, "job": 0, "hydra": own})
            hydra.main(config_path=None, config_name="slt_sweep", version_base="1.3")(task)()
    except SystemExit as error:
        raise InputError("launcher", launcher or "none", "failed: its own message stands above") from error
    finally:
        sys.argv = before
