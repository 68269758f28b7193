"""The commands that sample (run, resume, extend), on the devices asked for, stopped and handed back without loss."""

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from slt import config, drivers, results, runs
from slt.cli import distributed, early
from slt.cli.machine import WORDS
from slt.cli.progress import Reporter, Stopped, Stopping, stop_at_once
from slt.cli.seats import seat
from slt.config import RunConfig, nodes
from slt.results import Run, crew
from slt.typing import InputError

DONE, FAILED, BAD_INPUT, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
WIDE = 1000  # columns where standard output is no terminal: lines for programs are not broken


def output() -> Console:
    """Where results are printed."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def check_words(args: argparse.Namespace) -> None:
    """InputError where a command does not take the words that say where to compute, or others than these."""
    if args.command == "resume" and args.overrides:
        key, _, value = args.overrides[0].partition("=")
        cure = (
            f"a run goes on by its own config; here only {' and '.join(WORDS)} can be said. For more draws: slt extend"
        )
        raise InputError(key, value, cure)
    if args.distributed is not None and args.command not in ("run", "resume", "extend"):
        raise InputError("distributed", args.distributed, "is for slt run, resume and extend")


def composed(args: argparse.Namespace) -> RunConfig:
    """The config that a command line names."""
    made = config.compose(args.name, [*args.overrides, *(["x64=true"] if args.x64 else [])])
    made = config.smoke(made) if args.smoke else made
    runs.arithmetic(made)
    return made


def draw(run: Run, made: RunConfig, allow_import: Sequence[str] | None = None) -> list[Path]:
    """Save the figures of a run and return their paths; where its experiment failed, ExperimentError has them."""
    from slt import plots  # matplotlib is not needed for anything else

    drawn, failed = pictures(run, made, allow_import)
    paths = plots.save(drawn, run.path / "figures")
    if failed is not None:
        failed.drawn = paths
        raise failed
    return paths


def pictures(
    run: Run, made: RunConfig, allow_import: Sequence[str] | None = None
) -> tuple[dict[str, Any], runs.ExperimentError | None]:
    """A run's figures by its experiment, else those that suit any run; and how its experiment failed, if it did.

    allow_import: what a run may import besides slt, one's own (None) anything; InputError where it would import more.
    """
    from slt import plots

    home, own = config.experiment(made, allow_import), dataclasses.replace(run, config=made)
    if home is None:
        return plots.default_figures(own), None
    if allow_import is not None:
        nodes.trust(config.plain(made), allow=allow_import)
    try:
        return home.figures(own), None
    except Exception as error:  # noqa: BLE001  whatever it raises, what was sampled is there to be drawn
        return plots.default_figures(own), runs.ExperimentError(str(made.experiment), run, error)


def unfit(messages: Console, failed: runs.ExperimentError) -> int:
    """Say how an experiment failed, with its traceback unless it says itself what it wants; the exit code."""
    if not isinstance(failed.cause, InputError):
        messages.print("".join(traceback.format_exception(failed.cause)), markup=False, soft_wrap=True)
    messages.print(str(failed), markup=False, soft_wrap=True)
    return FAILED


def run(args: argparse.Namespace, messages: Console) -> int:
    """`slt run`; with --preemptible a run that is there already is gone on with."""
    made = composed(args)
    place = runs.default_place(made) if args.out is None else results.place(args.out)
    folder = config.own_folder(args.name)
    allow = [] if folder is None else [_shown(folder)]
    if args.preemptible and runs.holds(place, made):
        elsewhere = _supervised(args, messages, place, hint(allow))
        if elsewhere is not None:
            return elsewhere

        def go(watching: runs.Watching) -> Run:
            return runs.resume(place, allow_import=allow, watching=watching, devices=args.devices)

        return _sampled(args, messages, place, hint(allow), go)
    elsewhere = _supervised(args, messages, place, hint(allow), lambda: runs.free_place(made, place, fresh=args.fresh))
    if elsewhere is not None:
        return elsewhere
    place = runs.free_place(made, place, fresh=args.fresh)

    def begin(watching: runs.Watching) -> Run:
        return runs.begin(made, place, watching, devices=args.devices)

    return _sampled(args, messages, place, hint(allow), begin)


def resume(args: argparse.Namespace, messages: Console) -> int:
    """`slt resume`."""
    place, allow = results.place(args.run), args.allow_import
    elsewhere = _supervised(args, messages, place, hint(allow))
    if elsewhere is not None:
        return elsewhere

    def go(watching: runs.Watching) -> Run:
        return runs.resume(place, allow_import=allow, watching=watching, devices=args.devices)

    return _sampled(args, messages, place, hint(allow), go)


def extend(args: argparse.Namespace, messages: Console) -> int:
    """`slt extend`."""
    place, allow = results.place(args.run), args.allow_import
    elsewhere = _supervised(args, messages, place, hint(allow))
    if elsewhere is not None:
        return elsewhere

    def go(watching: runs.Watching) -> Run:
        return runs.extend(place, args.overrides, allow_import=allow, watching=watching, devices=args.devices)

    return _sampled(args, messages, place, hint(allow), go)


def _supervised(
    args: argparse.Namespace,
    messages: Console,
    place: Path,
    hint: Sequence[str],
    check: Callable[[], object] = lambda: None,
) -> int | None:
    """The exit code of a run over several processes, whose parent this is; None where the run is this process's own."""
    if args.distributed is None or distributed.is_worker():
        return None
    own = seat(args.distributed)
    if own.size == 1:
        return None
    if own.rank == 0:
        check()

    def after() -> str:
        if not place.exists():
            return "nothing was written"
        again = shlex.join(["slt", "resume", str(place), *hint])
        return f"what it saved is kept. Go on with: {again}, with any number of processes"

    return distributed.supervise(own, args.argv, messages, after)


def hint(allow: Sequence[str]) -> list[str]:
    """The words by which a command allows these imports."""
    return [word for what in allow for word in ("--allow-import", what)]


def _shown(folder: Path) -> str:
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def _sampled(
    args: argparse.Namespace, messages: Console, place: Path, hint: Sequence[str], go: Callable[[runs.Watching], Run]
) -> int:
    """Sample with progress told, draw the figures, say where everything is."""
    again = f"Go on with: {shlex.join(['slt', 'resume', str(place), *hint])}"
    preemptible = getattr(args, "preemptible", False)
    stopping = Stopping(messages, again, patient=preemptible)
    after = messages.status("local minima, estimates, figures")
    failures: list[runs.ExperimentError] = []

    @contextlib.contextmanager
    def watching(parts: Sequence[drivers.Part]) -> Iterator[drivers.Progress]:
        if not args.quiet:
            messages.print(f"writing {place}", markup=False, soft_wrap=True)
        with stopping, Reporter(parts, messages, stopping, quiet=args.quiet) as reporter:
            yield reporter
        if not args.quiet:
            after.start()

    try:
        if preemptible and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR2):  # also while nothing is sampled: quench, figures
                if signal.getsignal(number) is early.note or not callable(signal.getsignal(number)):
                    signal.signal(number, stop_at_once)
            if early.noted:
                raise Stopped(early.noted.pop())
        try:
            run = go(watching)
        except runs.ExperimentError as error:
            run, failures = error.run, [error]
        try:
            drawn = draw(run, config.structured(run.config))
        except runs.ExperimentError as error:
            drawn = error.drawn
            failures.append(error)
        crew.dismiss()
    except runs.Dismissed:
        crew.dismiss()
        return DONE
    except KeyboardInterrupt as stopped:
        after.stop()
        saved = f"what was sampled is saved. {again}" if place.exists() else "nothing was written"
        messages.print(f"stopped; {saved}", markup=False, soft_wrap=True)
        if not isinstance(stopped, Stopped) or stopped.by == signal.SIGINT:
            return INTERRUPTED
        hand_back(messages, stopped.by, preemptible)
        return INCOMPLETE
    finally:
        after.stop()
    broken = [chain["sentence"] for health in run.health.values() for chain in health["broken_chains"]]
    for sentence in broken[:5]:
        messages.print(sentence, markup=False, soft_wrap=True)
    if len(broken) > 5:
        messages.print(f"and {len(broken) - 5} more broken chains: slt show {place}", markup=False, soft_wrap=True)
    for failed in failures[:1]:
        unfit(messages, failed)
    figures = f"; figures: {run.path / 'figures'}" if drawn else ""
    output().print(f"results: {run.path}{figures}", markup=False, soft_wrap=True)
    return FAILED if failures else DONE


def hand_back(messages: Console, by: int, preemptible: bool) -> None:
    """Give a stopped job back to its scheduler: by the handler that was set before , or by scontrol requeue."""
    handler = signal.getsignal(by)
    if callable(handler) and handler is not stop_at_once:
        handler(by, None)  # submitit's: queues the job anew, and ends this process
        return
    job = os.environ.get("SLURM_JOB_ID")
    if not preemptible or job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = job if array is None or task is None else f"{array}_{task}"
    try:
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, timeout=60, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    said = f"could not be queued anew ({problem})" if problem else "is queued anew and goes on from here"
    messages.print(f"SLURM job {name} {said}", markup=False, soft_wrap=True)
