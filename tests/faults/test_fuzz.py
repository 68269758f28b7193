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

import jax
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax.errors import JaxRuntimeError

from slt import cli, config, results, runs
from slt.cli import catalogue, commands
from slt.typing import InputError

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny" / "tiny.yaml"
LIMIT = 20  # seconds, of one input

SCHEDULE = {"draws": 8, "burn_in": 2, "chains": 2}
NORMAL = {"_target_": "slt.priors.Normal", "scale": 1.0}
VALID = {
    "model": {"_target_": "slt.models.gaussian_location.make", "d": 2},
    "grid": {"n": [10, 16], "beta": ["1", "1/log n"]},
    "sampler": {"_target_": "slt.samplers.SGLD", "step_size": 1e-3},
    "schedule": SCHEDULE,
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
}
LADDER = {
    "model": {"_target_": "slt.models.landau.make", "b": 2.0, "prior": NORMAL},
    "grid": {"t": [5.0, 20.0], "control": {"h": [0.5, 0.9]}},
    "sampler": {"_target_": "slt.samplers.ReplicaExchange", "axis": "t", "rungs": 2,
                "inner": {"_target_": "slt.samplers.HMC", "leapfrogs": 3}},
    "schedule": SCHEDULE | {"thin": 2, "keep_params": 2},
    "observables": {"square": {"_target_": "slt.experiments.landau.square"},
                    "far": {"_target_": "slt.observables.trace", "every": 2,
                            "fn": {"_target_": "slt.observables.distance", "_partial_": True}}},
    "start": ["origin", "outer"],
    "measures": {"hysteresis": {"_target_": "slt.experiments._hysteresis.Hysteresis", "t": [4.0, 300.0],
                                "moves": [1, 2, 3], "chains": 8, "control": {"h": 0.9}}},
}  # fmt: skip
REGRESSION = {
    "model": {"_target_": "slt.models.linear_regression.make", "weights": [0.0, 1.0], "prior": NORMAL},
    "data": {"_target_": "slt.models.linear_regression.example"},
    "grid": {"n": [8], "data_seed": [0]},
    "sampler": {"_target_": "slt.samplers.SGNHT", "step_size": 1e-3, "batch_size": 4},
    "schedule": SCHEDULE | {"memory": 2**20, "chunk": 4},
    "measures": {"choice": {"_target_": "slt.experiments._sizes.Choice", "size": "hidden", "sizes": [1], "n": [20],
                            "family": {"_target_": "slt.models.tanh.units", "_partial_": True, "prior": NORMAL},
                            "data_sets": 2, "draws": 20, "burn_in": 4, "chains": 2, "rungs": 2}},
}  # fmt: skip
NETWORK = {
    "model": {"_target_": "slt.models.deep_linear.population", "widths": [2, 2], "singular_values": [1.0]},
    "grid": {"t": [1.0, 4.0], "gamma": [0.0]},
    "sampler": {"_target_": "slt.samplers.MALA", "step_size": 0.1, "target": 0.6},
    "schedule": SCHEDULE,
    "jitter": 0.1,
    "centre": "optimum",
    "phases": {"_target_": "slt.models.deep_linear.learned", "widths": [2, 2], "singular_values": [1.0]},
    "measures": {
        "training": {"_target_": "slt.experiments._training.Training", "optimiser": "sgd", "learning_rate": 0.01,
                     "steps": 20, "runs": 4, "keep": 2, "checkpoints": 4, "t": 1.0, "chains": 2, "draws": 8},
        "coefficients": {"_target_": "slt.experiments.deep_linear.Coefficients", "widths": [1, 1],
                         "singular_values": [1.0], "t": [1.0], "seconds": 0.1},
    },
}  # fmt: skip
BASES = {"data": VALID, "ladder": LADDER, "regression": REGRESSION, "network": NETWORK}
WORDS = st.sampled_from(
    ["", "n", "beta", "t", "prior", "optimum", "_target_", "os.system", "slt.models", "${seed}", "${", "1/log n", "nan",
     "../..", "/etc/passwd", "\u0000", "grid.n", "schedule", "sampler", "parts", "measures", "model", "draws", "none",
     "slt.priors.Normal", "slt.phases.by_level", "slt.samplers.SGLD", "slt.models.landau.make", "os.path"]
)  # fmt: skip
HUGE = st.sampled_from(
    [2**31, 2**32, 2**53 + 1, 10**15, 2**63, 10**20, 10**400, -(2**31), -(10**20), 1e30, 1e300, 1e-300]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 40), HUGE, st.floats(), WORDS, st.text(max_size=12))
NODES = st.builds(
    lambda target, more: {"_target_": target, **more},
    st.sampled_from(
        ["slt.priors.Normal", "slt.priors.Uniform", "slt.samplers.SGLD", "slt.samplers.HMC", "slt.phases.by_rank",
         "slt.models.two_basins.make", "slt.models.linear_regression.example", "slt.observables.trace",
         "slt.experiments.two_basins.Barriers", "slt.experiments.ordering.Excess", "slt.models.landau.pitchfork",
         "slt.experiments._superposition.Relabelled", "slt.observables.distance", "slt.models.deep_linear.learned"]
    ),
    st.one_of(
        st.just({}), st.just({"_partial_": True}), st.dictionaries(WORDS, SCALARS, max_size=2),
        st.just({"fn": {"_target_": "slt.observables.full_loss", "_partial_": True}}),
    ),
)  # fmt: skip
VALUES = st.one_of(
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
    ),
    st.lists(HUGE, min_size=1, max_size=2),
    NODES,
)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """TimeoutError where the block computes for longer, or takes ten times as long: a hang."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    x64 = jax.config.read("jax_enable_x64")
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    before = {number: signal.signal(number, late) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        jax.config.update("jax_enable_x64", x64)


def _paths(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [_paths(value, (*path, key)) for key, value in tree.items()] if isinstance(tree, dict) else []
    return [*([path] if path else []), *(one for each in inner for one in each)]


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A valid config with a few places changed, dropped or added to."""
    base = BASES[draw(st.sampled_from(sorted(BASES)))]
    made = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_paths(base)))
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
    """All that happens to a config before anything is written."""
    with at_most(LIMIT):
        try:
            runs.ready(config.read(raw))
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


@pytest.mark.parametrize("name", BASES)
@pytest.mark.faults
def test_the_configs_that_are_changed_are_valid(name: str) -> None:
    assert runs.ready(config.read(BASES[name]))[0]


TRAINED: dict[str, Any] = {"_target_": "slt.experiments._training.Training", "model": VALID["parts"]["wells"]["model"]}
COEFFICIENTS: dict[str, Any] = {"_target_": "slt.experiments.deep_linear.Coefficients"}
WELLS = VALID["parts"]["wells"]


@pytest.mark.parametrize(
    "raw,field",
    [
        (VALID | {"schedule": SCHEDULE | {"draws": 10**13}}, "schedule.draws"),
        (VALID | {"schedule": SCHEDULE | {"thin": 10**10}}, "schedule.thin"),
        (VALID | {"schedule": SCHEDULE | {"thin": 2**29}}, "schedule.thin"),
        (VALID | {"schedule": SCHEDULE | {"chains": 10**15}}, "schedule.chains"),
        (VALID | {"schedule": SCHEDULE | {"keep_params": -1}}, "schedule.keep_params"),
        (VALID | {"seed": 10**20}, "seed"),
        (VALID | {"seed": 2**32}, "seed"),
        (VALID | {"grid": {"n": [10**14]}}, "grid.n"),
        (VALID | {"grid": {"n": [10], "data_seed": [10**20]}}, "grid.data_seed[0]"),
        (VALID | {"grid": {"n": [10], "data_seed": [2**53 + 2]}}, "grid.data_seed"),
        (VALID | {"grid": {"n": [10], "beta": [10**400]}}, "grid.beta"),
        (VALID | {"data": NORMAL}, "data"),
        (WELLS | {"data": REGRESSION["data"]}, "data"),
        (VALID | {"model": {"_target_": VALID["model"]["_target_"], "d": 2**31}}, "model.d"),
        (VALID | {"experiment": "os.path"}, "experiment"),
        (WELLS | {"phases": {"_target_": "slt.phases.by_level", "loss": "x", "names": [], "levels": []}},
         "phases.loss"),
        (WELLS | {"phases": NORMAL}, "phases"),
        (WELLS | {"observables": {"x": {"_target_": "slt.observables.trace", "fn": NORMAL}}}, "observables.x.fn"),
        ({"measures": {"x": TRAINED | {"optimiser": "newton"}}}, "measures.x.optimiser"),
        ({"measures": {"x": TRAINED | {"steps": -1}}}, "measures.x.steps"),
        ({"measures": {"x": TRAINED | {"start": "nowhere"}}}, "measures.x.start"),
        ({"measures": {"x": COEFFICIENTS | {"t": [-1]}}}, "measures.x.t"),
        (WELLS | {"measures": {"x": {"_target_": "slt.experiments.two_basins.Transition", "runs": 0}}},
         "measures.x.runs"),
    ],
)  # fmt: skip
def test_found_by_hand(raw: dict[str, Any], field: str) -> None:
    """What once ended in a traceback, in a hang, or only after the sweeps had run."""
    with pytest.raises(InputError) as caught, at_most(LIMIT):
        runs.ready(config.read(raw))
    assert caught.value.field == field
    _clear(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError("too large"), JaxRuntimeError("RESOURCE_EXHAUSTED: of memory")], ids=repr
)
@pytest.mark.parametrize("words, code", [(["list"], 2), (["run", "superposition/demo"], 3)])
def test_what_has_no_room_is_said(
    words: list[str], code: int, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise error

    monkeypatch.setitem(commands.COMMANDS, words[0], full)
    assert cli.main(words) == code
    said = capsys.readouterr().err
    assert "too large for this machine" in said
    assert "Traceback" not in said


@given(configs())
@fuzzed(20)
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
            runs.ready(config.compose(str(TINY), overrides))
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
@given(configs())
@fuzzed(60)
def test_runs(tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]) -> None:
    """From the command line to the end, at the size of --smoke: done, or refused with nothing written."""
    folder, err = tmp_path_factory.mktemp("run"), io.StringIO()
    try:
        (folder / "own.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True))
    except (UnicodeEncodeError, yaml.YAMLError):
        return
    words = ["run", str(folder / "own.yaml"), "--smoke", "--quiet", "--out", str(folder / "out")]
    with at_most(6 * LIMIT), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = cli.main(words)
    assert code in (0, 2), (raw, err.getvalue())
    assert (folder / "out").exists() == (code == 0), (raw, err.getvalue())
    assert "Traceback" not in err.getvalue()


EXPERIMENTS = [one.name for one in catalogue.experiments()]


def misfit(name: str, raw: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """A config of another model drawn by an experiment, from the command line: the code, once what it left is checked.

    0 or 1: the run is whole and has a summary, 1 names the experiment that failed; 2: nothing was written.
    """
    (folder / "own.yaml").write_text(yaml.safe_dump(raw | {"experiment": name}))
    with at_most(12 * LIMIT):
        code = cli.main(["run", str(folder / "own.yaml"), "--smoke", "--quiet", "--out", str(folder / "out")])
    said = capsys.readouterr().err
    assert code in (0, 1, 2), said
    assert (folder / "out").exists() == (code != 2), said
    if code == 2:
        assert "Traceback" not in said
        return code
    run = results.load(folder / "out")
    assert run.complete
    assert run.quantities
    assert (f"experiment {name!r} does not suit this run" in said) == (code == 1), said
    with at_most(3 * LIMIT):
        assert cli.main(["report", str(folder / "out")]) in (0, 1)
    assert (folder / "out" / "report.html").exists()
    return code


@pytest.mark.faults
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_of_other_models(name: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    misfit(name, {key: value for key, value in BASES[base].items() if key != "measures"}, tmp_path, capsys)


@pytest.mark.slow
def test_an_experiment_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert misfit("sums_of_squares", WELLS, tmp_path, capsys) == 1


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
