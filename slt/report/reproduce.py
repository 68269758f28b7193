"""The commands that make a run again, each tried: the config they compose has the run's own digest."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from slt import config
from slt.results import Run, entries
from slt.typing import InputError

MOST = 12
"""Overrides in a command at most; beyond it the config itself is the better word."""


def command(run: Run, allow_import: Sequence[str] = ()) -> str | None:
    """`slt run NAME key=value ...` that composes this run's very config from a built-in one; None where none does.

    allow_import: the modules besides slt's that composing it may import.
    """
    experiment, name = run.config.get("experiment"), str(run.config.get("name"))
    listed = [one.name for one in config.listed()[0]]
    for smoke, suffix in ((False, ""), (True, "-smoke")):
        built_in = f"{experiment}/{name.removesuffix(suffix)}"
        if built_in not in listed or not name.endswith(suffix):
            continue
        for words in _overrides(run.config, built_in, smoke):
            try:
                made = config.compose(built_in, words, allow_import=allow_import)
                made = config.smoke(made) if smoke else made
                same = config.digest(made) == run.data.attrs.get("digest")
            except InputError:
                continue
            if same:
                return shlex.join(["slt", "run", built_in, *words, *(["--smoke"] if smoke else [])])
    return None


def _overrides(wanted: dict[str, Any], built_in: str, smoke: bool) -> Iterator[list[str]]:
    """None at all; then what differs from the built-in config, if that is little."""
    yield []
    if smoke:
        return
    own, base = dict(entries(wanted)), dict(entries(config.plain(config.compose(built_in, allow_import=()))))
    differing = {path: value for path, value in own.items() if base.get(path, entries) != value}
    if len(differing) <= MOST:
        yield [f"{path}={_word(value)}" for path, value in differing.items()]


def _word(value: Any) -> str:
    """A value as an override says it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
