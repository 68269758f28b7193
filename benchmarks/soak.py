"""Sweeps without end in one process: does memory stay flat, do files and threads go back?

    python benchmarks/soak.py --minutes 30 --json soak.json

Runs a small config (two sweeps, ladders, data) again and again with new seeds and grids into a temporary folder, each
deleted after it was read back and every eighth was drawn and reported. Prints a line a minute: runs, resident memory,
open files, threads of Python and of all. Fails (exit 1) where memory after the first minute grows by more than 5 per
cent, or where there is one file or thread more.
"""

import argparse
import gc
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from slt import config, plots, report, results, runs

CONFIG = """\
model: {_target_: slt.models.gaussian_location.make, d: 2}
grid: {n: [20, 32], beta: ["1", "1/log n"]}
sampler: {_target_: slt.samplers.SGLD, step_size: 1e-3}
schedule: {draws: 256, burn_in: 32, chains: 4, chunk: 64, keep_params: 32}
parts:
  wells:
    model: {_target_: slt.models.two_basins.make}
    grid: {t: [10.0, 100.0]}
    sampler: {_target_: slt.samplers.ReplicaExchange, axis: t, rungs: 4, inner: {_target_: slt.samplers.HMC}}
    schedule: {draws: 256, burn_in: 64, chains: 4, chunk: 64}
"""


def resident() -> float:
    """Resident memory in MiB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="slt-soak-"))
    (folder / "soak.yaml").write_text(CONFIG)
    began, number, told, rows = time.monotonic(), 0, 0.0, []
    try:
        while (spent := time.monotonic() - began) < 60 * args.minutes:
            n = 20 + number % 12
            made = config.compose(str(folder / "soak.yaml"), [f"seed={number}", f"grid.n=[{n},32]"])
            run = runs.begin(made, folder / "run")
            assert run.complete  # noqa: S101
            run = results.load(folder / "run", verify=True)
            if number % 8 == 0:
                report.write(run, plots.default_figures(run), folder / "report.html")
            del run
            shutil.rmtree(folder / "run")
            number += 1
            if spent - told >= 60:
                told = spent
                gc.collect()
                files = len(list(Path("/proc/self/fd").iterdir()))
                rows.append({
                    "minute": spent / 60, "runs": number, "mib": resident(), "files": files,
                    "threads": threading.active_count(), "tasks": len(list(Path("/proc/self/task").iterdir())),
                })  # fmt: skip
                print({key: round(value, 1) for key, value in rows[-1].items()}, flush=True)
                if args.json is not None:
                    args.json.write_text(json.dumps(rows, indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len(rows) > 1:
        memory = rows[-1]["mib"] / rows[0]["mib"] - 1
        more = {key: rows[-1][key] - rows[0][key] for key in ("files", "threads", "tasks")}
        print({"memory": f"{100 * memory:+.1f} %"} | more)
        sys.exit(memory > 0.05 or any(value > 0 for value in more.values()))


if __name__ == "__main__":
    main()
