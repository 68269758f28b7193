"""Whether slt works on this machine: what it finds, what it may write, and a short run against exact values."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import slt
from slt import config, engine, observables
from slt.cells import grid
from slt.cli import catalogue
from slt.model import potential
from slt.priors import Normal
from slt.samplers.baoab import BAOAB
from slt.typing import InputError

LIBRARIES = ("jax", "jaxlib", "blackjax", "flax", "numpyro", "orbax-checkpoint", "xarray", "zarr", "hydra-core")


class Finding(NamedTuple):
    """One line of `slt doctor`. ok: whether it is as it must be; None where it is only a fact."""

    name: str
    ok: bool | None
    text: str


def examine(cache: Path | None) -> Iterator[Finding]:
    """The findings, one by one as they are made; `cache` is the folder of compiled programs, None if switched off."""
    yield Finding("slt", None, f"{slt.__version__} in {Path(slt.__file__).parent}")
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}")
    yield Finding("libraries", None, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES))
    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("devices", None, f"{len(devices)} x {devices[0].device_kind}, {cores} CPU cores")
    yield _tried("cache", lambda: "switched off by SLT_CACHE" if cache is None else f"{cache}, {_written(cache)}")
    yield _tried("runs", lambda: f"{Path.cwd() / 'runs'}, {_written(Path.cwd())}")
    yield _tried("configs", _configs)
    yield self_test()


def _tried(name: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, find())
    except (OSError, InputError, ImportError) as error:
        return Finding(name, False, str(error))


def _written(folder: Path) -> str:
    """Words about a folder that a file could be written in; OSError otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".slt-"):
        return f"writable, {shutil.disk_usage(folder).free / 2**30:.0f} GiB free"


def _configs() -> str:
    names = [item.name for item in catalogue.configs()]
    options = sum(len(items) for items in catalogue.options().values())
    if not names:
        raise InputError("configs", str(config.home()), "none found: install slt anew")
    for name in names:
        config.compose(name)
    return f"{len(names)} to run and {options} in groups, all readable, in {config.home()}"


def self_test() -> Finding:
    """A second or two of BAOAB, exact on Gaussians: under exp(-t K) N(0, 1), K = |w|^2 / 2, d = 2, E[t K] = t/(1 + t).

    Fails where an estimate is more than 4 standard errors away (from the spread of 64 independent chains), or the
    standard error is above 0.05.
    """
    model = potential(lambda w: jnp.sum(w * w) / 2, 2, Normal(1.0))
    times = np.array([1.0, 9.0])
    schedule = engine.Schedule(draws=1000, chains=64, burn_in=200, thin=5, chunk=500)
    job = engine.prepare(
        model,
        BAOAB(step_size=0.02, friction=2.0),
        grid(model, t=list(times)),
        {"delta": observables.trace(observables.loss)},
        schedule,
        key=jax.random.key(0),
        centres=[jnp.zeros(2)],
    )
    chunks: list[engine.Chunk] = []
    trace = job.run(on_chunk=chunks.append)
    means = times[:, None] * trace.traces["delta"][:, :, schedule.burn_in :].astype(float).mean(axis=2)
    value, stderr = means.mean(axis=1), means.std(axis=1, ddof=1) / np.sqrt(schedule.chains)
    exact = times / (1 + times)
    shown = ", ".join(
        f"{a:.3f} +- {e:.3f} (exact {x:g}) at t = {t:g}" for a, e, x, t in zip(value, stderr, exact, times, strict=True)
    )
    steps = (chunks[-1].stop - chunks[-1].first) * schedule.thin * schedule.chains * len(times)
    good = bool(np.all(np.abs(value - exact) < 4 * stderr) and np.all(stderr < 0.05))
    return Finding("sampling", good, f"E[t K] = {shown}; {steps / chunks[-1].seconds:,.0f} chain-steps/s")
