"""`slt phases`: the catalogue of the phases that a run's draws are in."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from slt import config, drivers, results, runs
from slt.cli import tables
from slt.cli.sampling import DONE, INCOMPLETE, output
from slt.config.nodes import nearest
from slt.drivers import MAIN
from slt.engine import Job
from slt.typing import Batch, InputError


def phases(args: argparse.Namespace, messages: Console) -> int:
    """Find the phases among the kept parameters of one part of a run and print them; 3 where the run is incomplete."""
    from slt.measure.discovery import discover  # clustering is not needed for anything else

    place = Path(args.run)
    run, made = results.load(place), config.load(place, args.allow_import)
    runs.arithmetic(made)
    sweeps = {prefix.removeprefix("parts.").rstrip(".") or MAIN: sweep for prefix, sweep in config.sweeps(made)}
    known = [name for name in sweeps if name in run.data.children]
    name = args.part if args.part is not None else MAIN if MAIN in known else next(iter(known), MAIN)
    if name not in known:
        raise InputError("part", name, nearest(name, known))
    job = drivers.part(name, sweeps[name], made.seed).job
    with messages.status("descending from the draws, measuring what was found"):
        found = discover(job.model, run.data[name].to_dataset(), _data(job), quench=args.quench, seed=made.seed)
    if args.json:
        about = {"run": str(run.path), "part": name, "axis": found.axis, "at": found.at.tolist(), "rule": found.rule}
        shares = np.asarray(found.share.value).T.tolist(), np.asarray(found.share.stderr).T.tolist()
        each = [row | {"shares": v, "stderr": s} for row, v, s in zip(found.table, *shares, strict=True)]
        text = json.dumps(_finite(about | {"unassigned": found.unassigned.tolist(), "phases": each}))
        output().print(text, markup=False, soft_wrap=True)
        return DONE if run.complete else INCOMPLETE
    out = output()
    gammas = [f"{name} {gamma:g}" for name, gamma in zip(found.names, found.gamma, strict=True) if gamma > 1]
    rows = []
    for row in found.table:
        lam = tables.estimate(row["lam"], row["lam_stderr"])
        counts = [str(row[key]) if row["rank"] >= 0 else "-" for key in ("rank", "null", "negative")]
        rows.append([row["phase"], row["kind"], f"{row['share']:.3f}", f"{row['loss']:.6g}", lam, *counts])
        rows[-1] += [f"{row['most']:.2f}", _range(row["dominates"])]
    heads = ("phase", "kind", "share", "L", "lambda", "rank", "null", "negative", "most", f"leads for {found.axis} in")
    out.print(tables.table(heads, rows))
    said = f"{found.rule}; lambda at t = {found.lam_t:g}, gamma 1" + (f" ({', '.join(gammas)})" if gammas else "")
    out.print(f"{said}; draws of no phase: up to {found.unassigned.max():.3f}", markup=False, soft_wrap=True)
    return DONE if run.complete else INCOMPLETE


def _range(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:g}" if found[0] == found[1] else f"{found[0]:g} .. {found[1]:g}"


def _data(job: Job) -> Batch | None:
    """The first data set at its largest n; None of a potential."""
    if job.model.is_potential:
        return None
    bucket = max(job.plan.buckets, key=lambda one: one.size)
    cells = [job.plan.cells[i] for row in bucket.rows for i in row]
    largest = max(range(len(cells)), key=lambda i: (cells[i].n, -cells[i].data_seed))
    data = job.posteriors(bucket).data
    if job.plan.coupled is not None:
        data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
    return jax.tree.map(lambda leaf: leaf[largest, : cells[largest].n], data)


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
