"""Where a run is computed, as the command line says it: before anything imports what makes JAX look at its devices."""

import argparse
import contextlib
import os

import jax

from slt.cli import distributed

WORDS = ("devices", "distributed")
"""Words of the command line that are no part of a run's config, so of nothing that it finds."""


def prepare(args: argparse.Namespace) -> None:
    """Move WORDS from the overrides to args; on a CPU make so many devices of it; in a worker join the others."""
    given = [text.partition("=") for text in getattr(args, "overrides", ())]
    found = {key: value for key, equals, value in given if key in WORDS and equals}
    for key in WORDS:
        setattr(args, key, found.get(key))
    if found:
        args.overrides = ["".join(parts) for parts in given if parts[0] not in WORDS]
    wanted = [int(part) for part in (args.devices or "").split("x") if part.isdigit()]
    if wanted and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        number = wanted[0] * (wanted[1] if len(wanted) > 1 else 1)
        with contextlib.suppress(RuntimeError):  # JAX has looked already: in a notebook, in tests
            jax.config.update("jax_num_cpu_devices", number)
    if distributed.is_worker():
        distributed.join()
