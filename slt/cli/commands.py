"""What each command of `slt` does: results on standard output, progress and messages on standard error."""

import argparse
import errno
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from slt import config, drivers, results, runs
from slt.cli import catalogue, distributed, machine, merge, phases, report, sampling, sweep, tables
from slt.cli.progress import duration, expected_seconds
from slt.cli.sampling import BAD_INPUT, DONE, INCOMPLETE, INTERRUPTED, composed, draw, output
from slt.config import nodes
from slt.engine import room
from slt.results.place import is_local
from slt.results.words import drifting
from slt.typing import TOO_LARGE, InputError, nearest, too_large

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ESTALE)
"""What a disk refuses with: the run ends with a sentence, and can be gone on with."""

SMALLER = "too large for this machine: lower n, the model's sizes, schedule.chains, schedule.chunk or keep_params"


def call(args: argparse.Namespace) -> int:
    """Run the command of a parsed command line; the exit code."""
    messages = Console(stderr=True, highlight=False)
    try:
        sampling.check_words(args)
        machine.check_devices(args.devices)
        _check_places(args)
        if distributed.is_worker():
            return distributed.work(args, COMMANDS[args.command])
        return COMMANDS[args.command](args, messages)
    except InputError as error:
        messages.print(f"slt {args.command}: {error}", markup=False, soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        messages.print("interrupted")
        return INTERRUPTED
    except TOO_LARGE as error:
        if not too_large(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        cure = f"{SMALLER}; of a run, what was committed is kept: slt resume goes on where it has room"
        messages.print(f"slt {args.command}: {said}: {cure}", markup=False, soft_wrap=True)
        return INCOMPLETE if args.command in ("run", "resume", "extend", "sweep") else BAD_INPUT
    except OSError as error:
        if error.errno not in DISK:
            raise
        cure = "what was committed is kept: give it room, or let it be written, and then slt resume"
        where = f" ({error.filename})" if error.filename else ""
        messages.print(f"slt {args.command}: {error.strerror}{where}: {cure}", markup=False, soft_wrap=True)
        return INCOMPLETE


def _check_places(args: argparse.Namespace) -> None:
    """InputError where a path was meant to be a URL, and would be taken for a folder named "file:"."""
    for field in ("out", "run", "other", "runs"):
        given = getattr(args, field, None)
        for text in given if isinstance(given, list) else [given]:
            wrong = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", text or "")
            if wrong is not None:
                cure = f"a URL begins {wrong[0]}/ (file:///folder), a folder of this name is ./{text}"
                raise InputError(field, text, cure)


def _list(args: argparse.Namespace, messages: Console) -> int:
    out, groups = output(), catalogue.options()
    ready = {catalogue.short(item.target): f"{group}={item.name}" for group in groups for item in groups[group]}

    def named(items: list[catalogue.Item]) -> list[tuple[str, str]]:
        return [(ready.pop(catalogue.short(item.target), item.name), item.summary) for item in items]

    sections = {
        "configs, to run with slt run NAME": [(item.name, item.summary) for item in catalogue.configs()],
        "experiments, which draw the figures": [(item.name, item.summary) for item in catalogue.experiments()],
        "models, as - /model: NAME in a config, or model: {_target_: slt.models...}": named(catalogue.models()),
        "samplers, as sampler=NAME, or sampler: {_target_: slt.samplers...}": named(catalogue.samplers()),
    }
    for group, items in groups.items():
        rest = [(f"{group}={item.name}", item.summary) for item in items if catalogue.short(item.target) in ready]
        if rest:
            sections[f"more of {group}"] = rest
    width = max(len(name) for lines in sections.values() for name, _ in lines)
    for title, lines in sections.items():
        out.print(title, markup=False, style="bold")
        for name, summary in lines:
            line = f"  {name:<{width}}  {summary}"
            out.print(line[: out.width - 1] if out.is_terminal else line, markup=False, soft_wrap=True)
        out.print()
    return DONE


def _doctor(args: argparse.Namespace, messages: Console) -> int:
    from slt.cli import doctor  # a sampler, a model: nothing else needs them here

    out, well = output(), True
    with messages.status("looking"):
        for finding in doctor.examine(machine.cache_folder()):
            mark = {None: "[dim]--[/dim]", True: "[green]ok[/green]", False: "[red]NO[/red]"}[finding.ok]
            out.print(f"{mark}  [bold]{finding.name:<10}[/bold]", end="")
            out.print(finding.text, markup=False, soft_wrap=True)
            well = well and finding.ok is not False
    return DONE if well else BAD_INPUT


def _check(args: argparse.Namespace, messages: Console) -> int:
    made, out = composed(args), output()
    with messages.status("compiling and timing" if args.timed else "looking"):
        parts, _ = runs.ready(made, args.devices)
        seconds = expected_seconds(parts) if args.timed else {}
        found = [drivers.check(part) for part in parts]
    out.print(config.dump(made), markup=False, soft_wrap=True)
    lines = []
    for one in found:
        cells = f"{one.cells} + {one.extra_rungs} rungs" if one.extra_rungs else str(one.cells)
        programs = ", ".join(f"{count} of n <= {padded}" if padded > 1 else str(count) for padded, count in one.buckets)
        took = duration(seconds[one.part]) if one.part in seconds else "-"
        numbers = [str(number) for number in (one.chains, one.parameters, one.draws, one.steps)]
        lines.append([one.part, cells, *numbers, programs, room.words(one.trace_bytes), took])
    heads = ("sweep", "cells", "chains", "parameters", "draws", "steps", "cells a program", "traces", "sampling")
    out.print(tables.table(heads, lines))
    out.print(f"digest {config.digest(made)[:16]}; slt run would write to {runs.default_place(made)}", markup=False)
    return DONE


def _calibrate(args: argparse.Namespace, messages: Console) -> int:
    made, out = composed(args), output()
    part, records, rows = drivers.part(drivers.MAIN, made, made.seed, precision=made.precision), [], []
    for where, found in drivers.calibrate(part, error=args.error, seconds=args.seconds, seed=made.seed):
        messages.print(f"{_point(where)}: {found.verdict}", markup=False, soft_wrap=True)
        for k, t in enumerate(found.t):
            value, stderr = float(np.asarray(found.llc.value)[k]), float(np.asarray(found.llc.stderr)[k])
            shift = float(np.asarray(found.by_log_gamma.value)[k]) * math.log(2)
            rows.append([*map(str, where.values()), f"{t:.6g}", f"{value:.4g} +- {stderr:.2g}", f"{shift:+.2g}"])
            records.append(
                where
                | {"t": float(t), "beta": float(found.beta[k]), "llc": value, "stderr": stderr}
                | {"low": float(found.low[k]), "high": float(found.high[k]), "doubled_gamma": shift}
                | {"heat_capacity": float(np.asarray(found.heat_capacity.value)[k]), "ess": float(found.ess[k])}
                | {"healthy": found.healthy, "flags": list(found.flags), "verdict": found.verdict}
                | {"settings": found.settings, "seconds": found.seconds}
            )
    if args.json:
        out.print(json.dumps(_finite(records)), markup=False, soft_wrap=True)
        return DONE
    heads = [name for name in records[0] if name not in MEASURED]
    out.print(tables.table([*heads, "t = n beta", "llc", "gamma x 2"], rows))
    out.print(f"for slt run: {_overrides(records[-1]['settings'])}", markup=False, soft_wrap=True)
    return DONE


MEASURED = (
    "t", "beta", "llc", "stderr", "low", "high", "doubled_gamma", "heat_capacity", "ess", "healthy", "flags", "verdict",
    "settings", "seconds",
)  # fmt: skip


def _overrides(settings: Mapping[str, Any]) -> str:
    """Settings of a calibration as overrides of a config."""
    named = {"step_size": "sampler", "leapfrogs": "sampler", "jitter": "sampler", "target": "sampler"}
    named |= {"chains": "schedule", "burn_in": "schedule", "draws": "schedule"}
    chosen = [f"{group}.{name}={settings[name]:.4g}" for name, group in named.items() if name in settings]
    return " ".join([f"sampler={settings['sampler'].lower()}", *chosen])


def _point(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in where.items())


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(args: argparse.Namespace, messages: Console) -> int:
    run, out = results.load(args.run, verify=is_local(results.place(args.run))), output()
    if args.quantities:
        names = _named(run.quantities, args.quantities)
        for name in names:
            out.print(tables.whole(name, run.quantities[name]))
        return DONE if run.complete else INCOMPLETE
    name = "/".join(part for part in (run.config.get("experiment"), run.config.get("name")) if part)
    digest = str(run.data.attrs.get("digest", ""))[:16]
    out.print(f"{run.path}: {name}, digest {digest}{_took(run.summary)}", markup=False, soft_wrap=True, style="bold")
    if run.quantities:
        out.print(tables.overview(run.quantities, tables.main_names(run.quantities)))
        rest = [name for name in run.quantities if name not in tables.main_names(run.quantities)]
        also = f"also: {_families(rest)}; slt show {run.path} 'rhat*' prints whole tables"
        out.print(also, markup=False, soft_wrap=True, style="dim")
    for part, health in run.health.items():
        done = f"{health['draws']} of {health['planned']} draws, {health['chains']} chains, {health['broken']} broken"
        out.print(f"{part}: {done}{_convergence(run.quantities, part, list(run.health))}", markup=False, soft_wrap=True)
        for sentence in (*drifting(run.quantities, part), *(chain["sentence"] for chain in health["broken_chains"])):
            out.print(f"  {sentence}", markup=False, soft_wrap=True)
    if not run.complete:
        modules = dict.fromkeys(str(target).split(".")[0] for _, target in nodes.foreign(run.config))
        again = shlex.join(["slt", "resume", str(run.path), *sampling.hint(list(modules))])
        out.print(f"incomplete: {again} makes the draws that are missing", markup=False, soft_wrap=True)
    return DONE if run.complete else INCOMPLETE


def _named(quantities: Mapping[str, Any], patterns: Sequence[str]) -> list[str]:
    names = tables.chosen(quantities, patterns)
    if not names:
        cure = "has none yet: it is incomplete" if not quantities else nearest(patterns[0], quantities)
        raise InputError("quantity", " ".join(patterns), cure)
    return names


def _took(summary: Any) -> str:
    return "" if summary is None or math.isnan(summary.wall_s) else f", sampled in {duration(summary.wall_s)}"


def _families(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.split("[")[0] for name in names))


def _convergence(quantities: Mapping[str, Any], part: str, parts: Sequence[str]) -> str:
    """The worst R-hat and effective sample size of a part's loss, over all draws (not within phases)."""
    prefix = "" if part == "main" else f"{part}."
    found = {}
    for name in ("rhat", "ess"):
        values = np.asarray(quantities[prefix + name].value) if prefix + name in quantities else np.array([np.nan])
        found[name] = values[np.isfinite(values)]
    if not found["rhat"].size or not found["ess"].size:
        return ""
    return f"; loss: R-hat up to {found['rhat'].max():.3g}, ESS from {found['ess'].min():.0f}"


def _compare(args: argparse.Namespace, messages: Console) -> int:
    first, second, out = results.load(args.run), results.load(args.other), output()
    found = results.compare(first, second)
    both = {row.name: None for row in found.rows}
    if args.quantities:
        for name in _named(both, args.quantities):
            out.print(tables.differences([row for row in found.rows if row.name == name]))
    else:
        lines = [(path, str(a), str(b)) for path, a, b in found.config]
        heads = ("setting", str(first.path), str(second.path))
        out.print(tables.table(heads, lines) if lines else "the configs are the same")
        out.print(tables.beside([row for row in found.rows if row.name in tables.main_names(both)]))
    return DONE if first.complete and second.complete else INCOMPLETE


def _plot(args: argparse.Namespace, messages: Console) -> int:
    run, failed = results.load(args.run), None
    with messages.status("drawing"):
        try:
            paths = draw(run, config.structured(run.config), config.allowed(args.allow_import))
        except runs.ExperimentError as error:
            paths, failed = error.drawn, error
    output().print("\n".join(str(path) for path in paths if path.suffix == ".png"), markup=False, soft_wrap=True)
    if failed is not None:
        return sampling.unfit(messages, failed)
    return DONE if run.complete else INCOMPLETE


COMMANDS = {
    "run": sampling.run,
    "resume": sampling.resume,
    "extend": sampling.extend,
    "sweep": sweep.sweep,
    "merge": merge.merge,
    "check": _check,
    "calibrate": _calibrate,
    "show": _show,
    "plot": _plot,
    "report": report.report,
    "phases": phases.phases,
    "compare": _compare,
    "list": _list,
    "doctor": _doctor,
}
