"""How long programs compile: of a whole demo with an empty cache, and of one program as its cells grow in number.

A record with "demo_cold_s" tells the seconds in which XLA compiled all programs of `slt run CONFIG`, its figures
included, in a process of its own and without a cache; with their number, and the seconds of tracing (the inner ones
counted again in the outer) and lowering that came before. A record with "cells" tells compile_s of the program that
advances so many cells x 16 chains of superposition: the median of a few.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from cases import cases
from timing import Running

ROOT = Path(__file__).resolve().parent.parent
DEMO = "superposition/demo"
KINDS = {
    "demo_cold_s": "backend_compile_duration",
    "trace_s": "jaxpr_trace_duration",
    "lower_s": "jaxpr_to_mlir_module_duration",
}
COUNTING = """
import collections, json, sys
import jax
from slt import cli

seconds, times = collections.Counter(), collections.Counter()
def told(event, took, **_):
    seconds[event.rsplit("/", 1)[-1]] += took
    times[event.rsplit("/", 1)[-1]] += 1
jax.monitoring.register_event_duration_secs_listener(told)
code = cli.main(sys.argv[1:])
print(json.dumps([seconds, times]))
sys.exit(code)
"""


def demo(config: str = DEMO, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The record of a config that is run with an empty cache; RuntimeError with its own words where the run fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLT_CACHE": "off"}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_NUM_CPU_DEVICES"):
        environment.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", config, *overrides, "--out", str(Path(folder) / "run"), "--quiet"]
        command = [sys.executable, "-c", COUNTING, *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"slt run {config} failed: {done.stdout}{done.stderr}")
    seconds, times = json.loads(done.stdout.splitlines()[-1])
    found = {name: float(seconds.get(event, 0.0)) for name, event in KINDS.items()}
    return {"config": config, **found, "programs": int(times.get(KINDS["demo_cold_s"], 0))}


def cells(counts: tuple[int, ...] = (8, 512), repeats: int = 3) -> list[dict[str, Any]]:
    """One record a number of cells."""
    took: dict[int, list[float]] = {count: [] for count in counts}
    case = cases()["sweep"]
    for _ in range(repeats):
        for count in counts:
            jax.clear_caches()
            job = case.job(case.sampler("SGLD"), axes={"n": [512], "data_seed": list(range(count))}, chunk=1)
            running = Running(job)
            running.compile()
            took[count].append(running.compile_s)
    return [{"cells": count, "compile_s": float(np.median(seconds))} for count, seconds in took.items()]
