"""`slt merge`: runs joined into one dataset on disk."""

import argparse
from pathlib import Path

from rich.console import Console

from slt import results
from slt.cli.sampling import DONE, INCOMPLETE, output
from slt.cli.sweep import FILE, recorded
from slt.results.merge import merge as joined
from slt.results.merge import save
from slt.results.place import is_local
from slt.typing import InputError


def merge(args: argparse.Namespace, messages: Console) -> int:
    """Join the runs named, of a sweep's directory all its jobs; 3 where some are incomplete."""
    places: list[Path] = []
    for name in args.runs:
        place = results.place(name)
        places += recorded(place) if (place / FILE).exists() else [place]
    named = [str(place.resolve()) if is_local(place) else str(place).rstrip("/") for place in places]
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise InputError("runs", str(places[named.index(twice)]), "is named twice: give every run once")
    there = [place for place in places if place.exists()]
    if not there:
        raise InputError("runs", ", ".join(args.runs), "hold no run: give run directories, or those of sweeps")
    with messages.status("joining"):
        merged = joined([results.load(place) for place in there])
        save(merged, results.place(args.out))
    short = [run.path for run in merged.runs if not run.complete] + [place for place in places if place not in there]
    for place in short:
        messages.print(f"{place} is incomplete", markup=False, soft_wrap=True)
    said = f"results: {args.out}: {len(there)} runs" + (f", {len(merged.settings)} settings" if len(there) > 1 else "")
    output().print(said, markup=False, soft_wrap=True)
    return INCOMPLETE if short else DONE
