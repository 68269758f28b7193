"""Where a run is computed, as the command line says it: before anything imports what makes JAX look at its devices."""

import argparse
import contextlib
import math
import os
import re
from pathlib import Path

import jax
import platformdirs

from slt.cli import distributed
from slt.typing import InputError

CACHE = "SLT_CACHE"
"""Environment variable: "off" runs without the cache of compiled programs, anything else is the folder it lies in."""

MOST = max(512, 8 * (os.cpu_count() or 1))
"""Devices that a command line may ask for: so many are made of a CPU in no time; beyond its cores none helps."""

WORDS = ("devices", "distributed")
"""Words of the command line that are no part of a run's config, so of nothing that it finds."""


def prepare(args: argparse.Namespace) -> None:
    """Move WORDS from the overrides to args; on a CPU make so many devices of it; in a worker join the others.

    The cache of compiled programs is set here too: BlackJAX compiles something when it is imported.
    """
    use_cache(cache_folder())
    given = [text.partition("=") for text in getattr(args, "overrides", ())]
    found = {key: value for key, equals, value in given if key in WORDS and equals}
    for key in WORDS:
        setattr(args, key, found.get(key))
    if found:
        args.overrides = ["".join(parts) for parts in given if parts[0] not in WORDS]
    number = _number(args.devices)
    if 0 < number <= MOST and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has looked already: in a notebook, in tests
            jax.config.update("jax_num_cpu_devices", number)
    if distributed.is_worker():
        distributed.join()


def check_devices(devices: str | None) -> None:
    """InputError for more devices than `prepare` makes of a CPU."""
    if _number(devices) > MOST:
        raise InputError("devices", devices, f"is beyond {MOST}: ask for no more than the machine has")


def _number(devices: str | None) -> int:
    """How many devices devices=N or NxP asks for; 0 of any other word."""
    found = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", devices or "")
    if found is None:
        return 0
    return math.prod(int(each[:9]) if len(each) < 10 else MOST + 1 for each in found.groups("1"))


def cache_folder() -> Path | None:
    """Where compiled programs are kept between runs, unless JAX's own variable says; None if SLT_CACHE says off."""
    said = os.environ.get(CACHE, os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    if said.lower() in ("off", "0", "no", "false"):
        return None
    return Path(said) if said else Path(platformdirs.user_cache_dir("slt")) / "jax"


def use_cache(folder: Path | None) -> None:
    """Have JAX keep every compiled program in `folder`, however quickly it compiled."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written: compile anew, as `slt doctor` will say
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
