"""Thousands of configs and command lines that nobody would write: each works or ends in one clear sentence.

`make faults` runs all of them, the default tests a slice.
"""

import contextlib
import copy
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from slt import cli, config, drivers
from slt.typing import InputError

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
LIMIT = 20  # seconds, of one input

VALID = {
    "model": {"_target_": "slt.models.gaussian_location.make", "d": 2},
    "grid": {"n": [10, 16], "beta": ["1", "1/log n"]},
    "sampler": {"_target_": "slt.samplers.SGLD", "step_size": 1e-3},
    "schedule": {"draws": 8, "burn_in": 2, "chains": 2},
    "parts": {
        "wells": {
            "model": {"_target_": "slt.models.two_basins.make"},
            "grid": {"t": [1.0, 10.0]},
            "sampler": {"_target_": "slt.samplers.BAOAB", "step_size": 0.01},
            "schedule": {"draws": 8},
        }
    },
    "seed": 0,
    "x64": False,
    "precision": "highest",
}
WORDS = st.sampled_from(
    ["", "n", "beta", "t", "prior", "optimum", "_target_", "os.system", "slt.models", "${seed}", "${", "1/log n", "nan",
     "../..", "/etc/passwd", "\u0000", "grid.n", "schedule", "sampler", "parts", "measures", "model", "draws", "none"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 100), st.integers(), st.floats(), WORDS, st.text(max_size=12)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """TimeoutError where the block takes longer: a hang."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _paths(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [_paths(value, (*path, key)) for key, value in tree.items()] if isinstance(tree, dict) else []
    return [*([path] if path else []), *(one for each in inner for one in each)]


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """The valid config with a few places changed, dropped or added to."""
    made = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_paths(VALID)))
        at = made
        for key in path[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            continue
        change = draw(st.sampled_from(["set", "drop", "add"]))
        if change == "set":
            at[path[-1]] = draw(VALUES)
        elif change == "drop":
            at.pop(path[-1], None)
        else:
            at[draw(st.one_of(WORDS, st.text(max_size=8)))] = draw(VALUES)
    return made


def ready(raw: dict[str, Any]) -> None:
    """All that happens to a config before anything is computed."""
    with at_most(LIMIT):
        try:
            drivers.parts(config.read(raw))
        except InputError as error:
            _clear(error)


def _clear(error: InputError) -> None:
    assert error.field, error
    assert error.cure, error
    assert len(str(error)) < 2000, error


def fuzzed(examples: int) -> Any:
    """Settings of a run over so many inputs, the same at every call."""
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, print_blob=False,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def test_the_config_that_is_changed_is_valid() -> None:
    assert len(drivers.parts(config.read(VALID))) == 2


@given(configs())
@fuzzed(40)
def test_a_few_configs(raw: dict[str, Any]) -> None:
    ready(raw)


@pytest.mark.faults
@given(configs())
@fuzzed(1500)
def test_configs(raw: dict[str, Any]) -> None:
    ready(raw)


KEYS = st.sampled_from(
    [".".join(path) for path in _paths(VALID)] + ["hydra.run.dir", "measures.x", "start", "+a", "~x"]
)
OVERRIDES = st.one_of(
    st.builds(lambda key, value: f"{key}={value}", KEYS, st.one_of(SCALARS, VALUES)),
    st.builds(lambda key, value: f"{key}={value}", st.text(max_size=10), st.text(max_size=10)),
    st.text(max_size=20),
)
PREFIX = st.sampled_from(["", "", "+", "++", "~"])


@pytest.mark.faults
@given(st.lists(st.builds(str.__add__, PREFIX, OVERRIDES), min_size=1, max_size=3))
@fuzzed(600)
def test_overrides(overrides: list[str]) -> None:
    with at_most(LIMIT):
        try:
            drivers.parts(config.compose(str(TINY), overrides))
        except InputError as error:
            _clear(error)


@pytest.mark.faults
@given(
    st.lists(
        st.one_of(st.sampled_from([*cli.COMMANDS, "--out", "--json", "--x64", "--fresh", "--smoke", "."]), OVERRIDES),
        max_size=4,
    )
)
@fuzzed(400)
def test_command_lines(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    """Whatever is said, short of running a config: an exit code that is documented, and no traceback."""
    out, err = io.StringIO(), io.StringIO()
    words = [word for word in words if word not in ("doctor", "run", "gallery")]
    with at_most(LIMIT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as left:
            code = left.code
    assert code in (0, 2, 3), (words, err.getvalue())
    assert "Traceback" not in err.getvalue()


@pytest.mark.faults
@given(st.dictionaries(st.sampled_from([*VALID, "experiment", "name", "start"]), VALUES, max_size=4))
@fuzzed(200)
def test_configs_of_run_directories(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    """A config that comes with a run directory imports slt alone, whatever it says."""
    folder = tmp_path_factory.mktemp("run")
    try:
        (folder / "config.yaml").write_text(yaml.safe_dump({**VALID, **changes}, allow_unicode=True))
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    with at_most(LIMIT):
        try:
            config.load(folder)
        except InputError as error:
            _clear(error)
