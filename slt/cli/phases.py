"""`slt phases`: the catalogue of the phases that a run's draws are in."""

import argparse
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray as xr
from rich.console import Console

from slt import config, drivers, results, runs
from slt.cli import tables
from slt.cli.sampling import DONE, INCOMPLETE, output
from slt.config.nodes import nearest
from slt.drivers import MAIN
from slt.engine import Job
from slt.typing import Batch, InputError

ALL = "all"
"""The name of every part at once."""


def phases(args: argparse.Namespace, messages: Console) -> int:
    """Find the phases among the kept parameters of a run's parts and print them; 3 where the run is incomplete."""
    place = results.place(args.run)
    run, made = results.load(place), config.load(place, args.allow_import)
    runs.arithmetic(made)
    sweeps = {prefix.removeprefix("parts.").rstrip(".") or MAIN: sweep for prefix, sweep in config.sweeps(made)}
    known = [name for name in sweeps if name in run.data.children]
    name = args.part if args.part is not None else MAIN if MAIN in known else next(iter(known), MAIN)
    if name not in (*known, ALL):
        raise InputError("part", name, nearest(name, [*known, ALL]))
    told = []
    for each in known if name == ALL else [name]:
        data = run.data[each].to_dataset()
        if name == ALL and not any(str(key).startswith("params") for key in data.data_vars):
            messages.print(f"{each}: kept no parameters", markup=False)
            continue
        job = drivers.part(each, sweeps[each], made.seed).job
        given = {axis: value for axis, value in (("n", args.n), ("data_seed", args.data_seed)) if value is not None}
        axes = {axis: value for axis, value in given.items() if name != ALL or axis in data.dims}
        with messages.status(f"{each}: descending from the draws, measuring what was found"):
            found = _found(job, data, axes, args.quench, made.seed)
        if args.json:
            told.append({"run": str(run.path), "part": each} | _object(found))
        else:
            _print(found, each if name == ALL else "")
    if args.json:
        text = json.dumps(_finite(told if name == ALL else told[0]))
        output().print(text, markup=False, soft_wrap=True)
    return DONE if run.complete else INCOMPLETE


def _found(job: Job, data: xr.Dataset, axes: Mapping[str, int], quench: str, seed: int) -> Any:
    """The `Catalogue` of a part's draws, of those at given values of n and data_seed alone.

    Of a model with data the loss descended is that of one data set: the one given, or the first; at the n given, or its
    largest. InputError for values that the part does not have.
    """
    from slt.measure.discovery import discover  # clustering is not needed for anything else

    for axis, value in axes.items():
        if axis not in data.dims:
            raise InputError(axis, value, f"this part has no such axis, but {', '.join(map(str, data['offset'].dims))}")
        if value not in data[axis].values:
            raise InputError(axis, value, f"choose from {', '.join(map(str, data[axis].values))}")
        data = data.sel({axis: [value]})
    return discover(job.model, data, _data(job, axes), quench=quench, seed=seed)


def _object(found: Any) -> dict[str, Any]:
    shares = np.asarray(found.share.value).T.tolist(), np.asarray(found.share.stderr).T.tolist()
    each = [row | {"shares": v, "stderr": s} for row, v, s in zip(found.table, *shares, strict=True)]
    about = {"axis": found.axis, "at": found.at.tolist(), "rule": found.rule}
    return about | {"unassigned": found.unassigned.tolist(), "phases": each}


def _print(found: Any, part: str) -> None:
    out = output()
    gammas = [f"{name} {gamma:g}" for name, gamma in zip(found.names, found.gamma, strict=True) if gamma > 1]
    rows = []
    for row in found.table:
        lam = tables.estimate(row["lam"], row["lam_stderr"])
        counts = [str(row[key]) if row["rank"] >= 0 else "-" for key in ("rank", "null", "negative")]
        rows.append([row["phase"], row["kind"], f"{row['share']:.3f}", f"{row['loss']:.6g}", lam, *counts])
        rows[-1] += [f"{row['most']:.2f}", _range(row["dominates"])]
    heads = ("phase", "kind", "share", "L", "lambda", "rank", "null", "negative", "most", f"leads for {found.axis} in")
    if part:
        out.print(f"part {part}", markup=False)
    out.print(tables.table(heads, rows))
    said = f"{found.rule}; lambda at t = {found.lam_t:g}, gamma 1" + (f" ({', '.join(gammas)})" if gammas else "")
    out.print(f"{said}; draws of no phase: up to {found.unassigned.max():.3f}", markup=False, soft_wrap=True)


def _range(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:g}" if found[0] == found[1] else f"{found[0]:g} .. {found[1]:g}"


def _data(job: Job, axes: Mapping[str, int]) -> Batch | None:
    """The data set of some n and data_seed: the largest n, and the first set, where not given. None of a potential."""
    if job.model.is_potential:
        return None
    numbers = {i: bucket for bucket in job.plan.buckets for row in bucket.rows for i in row}
    cells = {i: job.plan.cells[i] for i in numbers}
    fit = [i for i, cell in cells.items() if all(getattr(cell, axis) == value for axis, value in axes.items())]
    chosen = max(fit, key=lambda i: (cells[i].n, -cells[i].data_seed))
    bucket = numbers[chosen]
    data = job.posteriors(bucket).data
    if job.plan.coupled is not None:
        data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
    at = [i for row in bucket.rows for i in row].index(chosen)
    return jax.tree.map(lambda leaf: leaf[at, : cells[chosen].n], data)


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
