"""The command `slt`. Only the parser is here; what commands do is in slt.cli.commands, loaded when one is given.

Exit codes: 0 done; 1 an unexpected error, with its traceback; 2 bad input, one line on standard error, nothing written;
3 the run is incomplete (it was asked to stop, or what is shown has not come to its end); 130 interrupted.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from slt import __version__
from slt.cli import early
from slt.theory import command as theory

EXIT = """\
exit codes: 0 done, 1 unexpected error, 2 bad input (nothing was written), 3 the run is incomplete, 130 interrupted
"""
KEYS = """\
key=value changes one setting of the config; lists are quoted from the shell; a group such as sampler= takes a
ready component by name (slt list), and its settings follow: sampler=sgnht sampler.step_size=1e-4
devices=N takes N devices (default: all accelerators, or one CPU); devices=4x2 also splits the model's parameters by 2;
distributed=auto shares the run between all processes of a SLURM step or TPU pod, else distributed=HOST:PORT,RANK,COUNT
"""
COMMANDS = {
    "run": (
        "run a config",
        f"""\
Run a config to its end: a built-in one by name, or one's own by the path of its YAML file, whose folder becomes
importable. Results go to runs/<experiment>-<name>-<digest>, or to --out; nothing is ever overwritten.

{KEYS}""",
        """\
  slt run superposition/demo
  slt run superposition/demo grid.n='[100,300,1000]' sampler=sgnht --out runs/mine
  slt run superposition/demo parts.population.grid.t='[10,100]' seed=1
  slt run my/sweep.yaml                  # with _target_: my_file.MyModel, found beside it
  slt run two_basins/demo --smoke        # the same made tiny: does it all run?

Ctrl-C once ends the run after its chunk, saved; twice, at once. Either way: slt resume.
""",
    ),
    "resume": (
        "go on with a run that was stopped or killed",
        """\
Go on where a run stopped: by Ctrl-C, a scheduler, or kill -9. Only the chunk in flight is computed again; the result
is, bit by bit, that of a run that was never stopped, on the same machine.""",
        """\
  slt resume runs/mine
  slt resume runs/mine --allow-import my_folder   # its config names components in my_folder/*.py, and you trust them
""",
    ),
    "extend": (
        "give a finished run more draws",
        "Make the chains of a run longer. Draws that are there stay as they are.",
        """\
  slt extend runs/mine schedule.draws=4000
  slt extend runs/mine schedule.draws=4000 parts.population.schedule.draws=6000
""",
    ),
    "check": (
        "say what a run would do and cost, and run nothing",
        f"""\
Print the resolved config, and for every sweep its cells, chains, parameters, bytes and time: one draw of each program
is timed, nothing is kept.

{KEYS}""",
        """\
  slt check superposition/demo
  slt check superposition/demo grid.n='[100,300]' --no-time
""",
    ),
    "calibrate": (
        "measure learning coefficients with all settings chosen by rule",
        f"""\
At every point of a config's grid, next to its centre: find the minimum of the loss, choose sampler, step, trajectory,
burn-in and chain length by rule, and print the local learning coefficient with its error, what gamma does to it, and a
verdict in a sentence; then the settings as overrides for slt run. Writes nothing.

{KEYS}""",
        """\
  slt calibrate superposition/demo grid.n='[1000]' grid.gamma='[1]'
  slt calibrate my.yaml --json
""",
    ),
    "sweep": (
        "run a config for every combination of values",
        f"""\
Run a config as many jobs, for what changes shapes (widths, samplers): key=a,b,c takes each value in turn. Jobs run one
after another, or by launcher=workers (processes here), slurm, submitit or ray_cluster, with launcher.KEY=VALUE. The
same command again goes on with jobs that are incomplete.

{KEYS}""",
        """\
  slt sweep superposition/demo model.c=5,6,7 --out runs/width
  slt sweep superposition/demo sampler=sgld,baoab launcher=workers launcher.n_jobs=2 --smoke
  slt sweep superposition/demo model.c=5,6,7 launcher=slurm launcher.partition=gpu
  slt sweep superposition/demo model.c=5,6,7 --out runs/width --only 2      # one job, such as one of a SLURM array
""",
    ),
    "merge": (
        "join runs into one dataset",
        """\
Join runs, or all runs of sweeps, into one dataset and one summary: along the axes of their grids where only these
differ, along a new axis `run` where other settings do.""",
        """\
  slt merge runs/width --out runs/width/merged
  slt merge runs/first runs/second --out runs/both
""",
    ),
    "show": (
        "show what a run found, and its health",
        """\
Print a run's quantities with their standard errors, how far it has come, convergence, and every broken chain by name.
With the names of quantities (or patterns such as 'mass*') their whole tables.""",
        """\
  slt show runs/mine
  slt show runs/mine 'mass[6]' 'population.llc*'
""",
    ),
    "plot": (
        "draw a run's figures again",
        "Draw the figures of a run, finished or not, from its data: figures/*.png and *.pdf. Samples nothing.",
        """\
  slt plot runs/mine
  slt plot runs/mine --allow-import my_folder   # its figures are drawn by an experiment in my_folder
""",
    ),
    "report": (
        "write a run as one HTML file, to read and to explore",
        """\
Write one self-contained HTML file: the run's figures, all quantities with errors and intervals, health, config, how to
reproduce it, and its phase diagram to explore by pointer. It needs a browser and no network. Samples nothing.""",
        """\
  slt report runs/mine                        # runs/mine/report.html
  slt report runs/mine --out mine.html
  slt report runs/mine --allow-import my_folder   # its figures are drawn by an experiment in my_folder
""",
    ),
    "phases": (
        "find the phases that a run's draws are in",
        """\
Lead the kept parameters of a run down to the minima below them, cluster those, and print the catalogue: each phase's
share of the draws, loss, local learning coefficient, rank of the Hessian, whether it is a minimum or a saddle, and
where it leads. Needs no known phases. Writes nothing.

Of a model with data the loss is that of one data set, the first at its largest n, and all draws are led down it;
--data-seed and --n choose another, and then look at the draws of that data set, and at that n, alone.""",
        """\
  slt phases runs/mine --part population
  slt phases runs/mine --part all
  slt phases runs/mine --data-seed 3 --n 500
  slt phases runs/mine --quench posterior    # saddles that hold the posterior for a while count as phases too
  slt phases runs/mine --json
""",
    ),
    "compare": (
        "set two runs side by side",
        "Print where the configs of two runs differ, and each quantity of both with its difference in standard errors.",
        "  slt compare runs/mine runs/other\n  slt compare runs/mine runs/other 'mass*'\n",
    ),
    "list": (
        "list experiments, models and samplers",
        "One line each: configs that can be run, models and samplers to name in a config, groups of ready ones.",
        "  slt list\n",
    ),
    "doctor": (
        "say whether slt works here",
        """\
Look at the machine: devices, versions, the cache of compiled programs, built-in configs, whether runs can be written
here; then sample a posterior that is known exactly for about a second and compare.""",
        "  slt doctor\n",
    ),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="slt",
        description="Bayesian phase transitions of singular models: sample, measure, draw.",
        epilog="start with: slt list, then slt check superposition/demo, then slt run superposition/demo\n\n" + EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"slt {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    made = {}
    for name, (summary, about, examples) in COMMANDS.items():
        made[name] = commands.add_parser(
            name,
            help=summary,
            description=about,
            epilog=f"examples:\n{examples}\n{EXIT}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    for name in ("run", "check", "calibrate", "sweep"):
        made[name].add_argument("name", metavar="NAME", help="a built-in config (slt list), or the path of a YAML file")
        made[name].add_argument("--x64", action="store_true", help="double precision (same as x64=true)")
        made[name].add_argument(
            "--smoke", action="store_true", help="the config made tiny: seconds, to see that it runs"
        )
    for name in ("resume", "extend", "show", "plot", "report", "phases"):
        made[name].add_argument("run", metavar="RUN", help="a run directory")
    for name in ("run", "check", "calibrate", "extend", "sweep"):
        made[name].add_argument("overrides", metavar="key=value", nargs="*", help="settings to change")
    made["resume"].add_argument("overrides", metavar="devices=N", nargs="*", help="where to compute; nothing else")
    for name in ("resume", "extend", "plot", "report", "phases"):
        text = "a module, .py file or folder that the config may import besides slt (repeatable)"
        made[name].add_argument("--allow-import", action="append", default=[], metavar="WHAT", help=text)
    for name in ("run", "resume", "extend"):
        made[name].add_argument("--quiet", action="store_true", help="say nothing but where the results are")
    made["run"].add_argument(
        "--out", metavar="DIR", help="the run directory (default runs/<experiment>-<name>-<digest>)"
    )
    made["run"].add_argument(
        "--fresh", action="store_true", help="if the directory is taken, use the next free DIR.2, ..."
    )
    text = "under a scheduler: go on with the run if DIR holds it; on SIGTERM or SIGUSR2 save, and queue the job anew"
    for name in ("run", "resume", "extend"):
        made[name].add_argument("--preemptible", action="store_true", help=text)
    made["sweep"].add_argument("--out", metavar="DIR", help="the sweep's directory, one run directory a job in it")
    made["sweep"].add_argument("--only", type=int, metavar="K", help="job K alone, counted from 0, in this process")
    made["report"].add_argument("--out", metavar="FILE", help="the HTML file (default RUN/report.html)")
    made["merge"].add_argument("runs", metavar="RUN", nargs="+", help="run directories, or directories of sweeps")
    made["merge"].add_argument("--out", metavar="DIR", required=True, help="the directory of the merged data")
    made["phases"].add_argument(
        "--part", metavar="NAME", help="the part of the run, or all (default: main, else its first)"
    )
    made["phases"].add_argument(
        "--n", type=int, metavar="N", help="draws at this n alone, and the loss on so much data"
    )
    text = "draws of this data set alone, and the loss on it (default: all draws, and the loss on the first)"
    made["phases"].add_argument("--data-seed", type=int, metavar="S", help=text)
    made["phases"].add_argument(
        "--json", action="store_true", help="one JSON object, of all parts a list, for programs"
    )
    text = "loss: minima of the loss below the draws; posterior: modes of the posterior at each draw's own t"
    made["phases"].add_argument("--quench", choices=("loss", "posterior"), default="loss", help=text)
    made["calibrate"].add_argument("--json", action="store_true", help="one JSON list, for programs")
    made["calibrate"].add_argument("--error", type=float, default=0.004, help="relative standard error to reach")
    made["calibrate"].add_argument("--seconds", type=float, default=15.0, help="of sampling at most, at each point")
    made["check"].add_argument("--no-time", dest="timed", action="store_false", help="do not time a draw")
    made["compare"].add_argument("run", metavar="A", help="a run directory")
    made["compare"].add_argument("other", metavar="B", help="another")
    for name in ("show", "compare"):
        made[name].add_argument("quantities", metavar="QUANTITY", nargs="*", help="names or patterns such as 'mass*'")
    theory.add_parser(commands)
    return top


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; overrides may stand after options too."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    odd = [text for text in rest if text.startswith("-") or not hasattr(args, "overrides")]
    if odd:
        top.error(f"{args.command} does not take {' '.join(odd)}; see: slt {args.command} --help")
    if rest:
        args.overrides += rest
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code, see the module's docstring."""
    given = sys.argv[1:] if argv is None else list(argv)
    if argv is None:  # the process is this command's own
        early.listen(given)
    args = parse(given)
    args.argv = given
    if args.command == "theory":  # answers without loading JAX
        return theory.call(args)
    importlib.import_module("slt.cli.machine").prepare(args)
    commands = importlib.import_module("slt.cli.commands")
    early.loaded()
    try:
        return commands.call(args)
    except BrokenPipeError:  # slt list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
