"""Configs: composition, overrides, digests, and a clear error for whatever cannot be used."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import yaml

from slt import config
from slt.config import compose, nodes
from slt.engine import Schedule
from slt.typing import InputError

OWN = '''
"""A user's own file beside a config."""
from dataclasses import dataclass
import slt.priors


@dataclass(frozen=True)
class Prior(slt.priors.Normal):
    pass


@dataclass(frozen=True)
class Thing:
    """A component."""

    size: int
    scale: float = 1.0
    widths: tuple[float, ...] = ()
    kind: str | None = None
    prior: slt.priors.Prior = slt.priors.Normal()
    fast: bool = False

    def __post_init__(self):
        if self.scale < 0:
            raise slt.InputError("thing.scale" if self.fast else "scale", self.scale, "must be positive")


def make(size, *, depth=1):
    return (size, depth)


def pair(a, b=2):
    return a, b


not_callable = 3
'''

MINE = """
# my own sweep
defaults:
  - /sampler: steady
  - /sampler@parts.second.sampler: quick
  - _self_
model: {_target_: OWNMODULE.Thing, size: 2}
grid: {n: [10, 20], beta: [1, 1/log n]}
schedule: {draws: 100}
parts:
  second:
    model: ${model}
    grid: {t: 5}
    schedule: {draws: "${schedule.draws}", chains: 2}
"""


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's config with a file and a group of its own; the module's name differs from test to test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = "own_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{module}.py").write_text(OWN)
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "steady.yaml").write_text(f"_target_: {module}.Thing\nsize: 1\nscale: 0.5\n")
    (tmp_path / "sampler" / "quick.yaml").write_text(f"_target_: {module}.make\nsize: 3\n")
    file = tmp_path / "mine.yaml"
    file.write_text(MINE.replace("OWNMODULE", module))
    return file


def target(file: Path) -> str:
    return next(file.parent.glob("own_*.py")).stem


def test_defaults_are_the_engines_own() -> None:
    ours = config.ScheduleConfig(draws=1)
    theirs = Schedule(draws=1)
    for one in dataclasses.fields(theirs):
        assert getattr(ours, one.name) == getattr(theirs, one.name), one.name


def test_a_config_of_ones_own_composes(own: Path) -> None:
    made = compose(str(own))
    assert (made.name, made.experiment, made.seed, made.x64) == ("mine", None, 0, False)
    assert made.grid == config.GridConfig(n=[10, 20], beta=[1, "1/log n"])
    assert made.sampler == {"_target_": f"{target(own)}.Thing", "size": 1, "scale": 0.5}
    second = made.parts["second"]
    assert second.sampler == {"_target_": f"{target(own)}.make", "size": 3}
    assert second.model == made.model
    assert (second.schedule.draws, second.schedule.chains, second.grid.t) == (100, 2, [5.0])
    assert "hydra" not in config.plain(made)


def test_overrides(own: Path) -> None:
    made = compose(
        str(own),
        [
            *("grid.n=[100,300]", "grid.beta=1/log n", "grid.gamma=2", "sampler=quick", "+sampler.depth=4", "seed=7"),
            *("parts.second.grid.t=[10,100]", "sampler@parts.second.sampler=steady", "schedule.draws=2000"),
            *("grid.control={field: [0.1, 1]}", "model.kind='a b'", "x64=true", "model.widths=[1,2.5]", "start=prior"),
        ],
    )
    assert made.grid.n == [100, 300]
    assert made.grid.beta == ["1/log n"]
    assert made.grid.gamma == [2.0]
    assert made.grid.control == {"field": [0.1, 1.0]}
    assert made.sampler == {"_target_": f"{target(own)}.make", "size": 3, "depth": 4}
    assert made.parts["second"].sampler["scale"] == 0.5
    assert made.parts["second"].grid.t == [10.0, 100.0]
    assert made.parts["second"].schedule.draws == 2000
    assert (made.seed, made.x64, made.start) == (7, True, ["prior"])
    thing = config.instantiate(made.model, "model")
    assert (thing.kind, thing.widths) == ("a b", (1.0, 2.5))


def test_precision(own: Path) -> None:
    made = compose(str(own), ["precision=bf16"])
    assert made.precision == "bf16"
    assert config.digest(made) != config.digest(compose(str(own)))
    with pytest.raises(InputError, match=r"precision.*fp8.*bf16"):
        compose(str(own), ["precision=fp8"])
    with pytest.raises(InputError, match=r"precision.*x64"):
        compose(str(own), ["precision=tf32", "x64=true"])


def test_a_nested_config_of_a_package_takes_another_sampler(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As superposition/demo is written: in a folder, global, its sampler chosen from a group.
    home = own.parent / "configs"
    (home / "toy").mkdir(parents=True)
    (home / "sampler").mkdir()
    for path in (own.parent / "sampler").glob("*.yaml"):
        (home / "sampler" / path.name).write_text(path.read_text())
    (home / "toy" / "demo.yaml").write_text("# @package _global_\n# a toy\n" + own.read_text())
    (home / "toy" / "bare.yaml").write_text(own.read_text())
    monkeypatch.setattr(config, "home", lambda: home)
    config.importable(own.parent)
    override = ["sampler=quick", "parts.second.grid.t=[1,2]", "experiment=null"]
    made = compose("toy/demo", override)
    assert made.sampler["_target_"].endswith(".make")
    assert made.parts["second"].grid.t == [1.0, 2.0]
    assert made.name == "demo"
    assert compose(str(home / "toy" / "demo.yaml"), override) == made
    assert [(one.name, one.summary) for one in config.listed()[0]] == [("toy/demo", "a toy")]
    assert {one.name for one in config.listed()[1]} == {"sampler/quick", "sampler/steady", "toy/bare"}
    with pytest.raises(InputError, match="config = 'toy/demos': unknown; nearest is 'toy/demo'"):
        compose("toy/demos")
    with pytest.raises(InputError, match="experiment = 'toy': unknown"):
        compose("toy/demo")


@pytest.mark.parametrize(
    "override, message",
    [
        ("grid.m=[1]", r"grid\.m = \[1\]: unknown key; there are: n, beta, t"),
        ("sampelr=quick", "sampelr = 'quick': unknown key; nearest is 'sampler'"),
        ("schedule.draw=3", "schedule.draw = 3: unknown key; nearest is 'draws'"),
        ("parts.second.schedule.chain=3", "parts.second.schedule.chain = 3: unknown key; nearest is 'chains'"),
        ("parts.third.sampler.size=3", r"parts\.third\.schedule\.draws = None: is missing"),
        ("schedule.draws=many", "schedule.draws = 'many': must be a whole number"),
        ("schedule.draws=10.5", "schedule.draws = 10.5: must be a whole number"),
        ("schedule.draws=true", "schedule.draws = True: must be a whole number"),
        ("schedule.draws=null", "schedule.draws = None: must be a whole number"),
        ("schedule=3", "schedule = 3: must be a mapping"),
        ("grid.n=[10,x]", r"grid\.n\[1\] = 'x': must be a whole number"),
        ("grid.n=10,20", r"grid\.n = '10,20': several values are one list: grid\.n='\[10,20\]'"),
        ("jitter=far", "jitter = 'far': must be a number"),
        ("seed=one", "seed = 'one': must be a whole number"),
        ("sampler=slow", "sampler = 'slow': unknown; .*there are: .*quick.*steady"),
        ("sampler=quik", "sampler = 'quik': unknown; nearest is 'quick'"),
        ("phases=halves", "phases = 'halves': .*_target_"),
        ("model=nosuch", "model = 'nosuch': "),
        ("model.siz=3", r"model\.siz = 3: unknown argument of .*Thing: nearest is 'size'; it takes: size, scale"),
        ("model.size=3.5", r"model\.size = 3\.5: must be a whole number"),
        ("model.scale=big", r"model\.scale = 'big': must be a number"),
        ("model.kind=3", r"model\.kind = 3: must be text or null"),
        ("model.widths=[1,a]", r"model\.widths\[1\] = 'a': must be a number"),
        ("model.widths=3", r"model\.widths = 3: must be a list"),
        ("model.prior=wide", r"model\.prior = 'wide': must be a node with a _target_ that gives a Prior"),
        ("model.fast=1", r"model\.fast = 1: must be true or false"),
        ("~model.size", r"model\.size = None: .*Thing needs it"),
        ("~model._target_", "model = .*needs a _target_"),
        ("~schedule.draws", "(schedule.draws|parts.second.schedule.draws)"),
        ("model._target_=nowhere_at_all.X", r"model\._target_ = 'nowhere_at_all': no such module"),
        (
            "model._target_=slt.samplers.sgdl.SGLD",
            r"model\._target_ = .*slt\.samplers has no 'sgdl': nearest is 'sgld'",
        ),
        ("model._target_=slt.samplers.sgld.SGDL", r"slt\.samplers\.sgld has no 'SGDL': nearest is 'SGLD'"),
        ("model._target_=Thing", r"model\._target_ = 'Thing': give a dotted name"),
        ("model.prior={_target_: slt.priors.Normal, scael: 1}", r"model\.prior\.scael = 1: unknown argument"),
        ("+grid.control={h: {_target_: slt.priors.Normal}}", r"grid\.control\.h = .*: must be a list of numbers"),
        ("observables.mine={a: 1}", r"observables\.mine = .*needs a _target_"),
        ("experiment=superpositoin", "experiment = 'superpositoin': unknown"),
        ("hydra.run.dir=x", "Hydra's own settings"),
        ("grid.n", "override = 'grid.n': write key=value"),
        ("grid.n=[1", r"override = .*cannot be read"),
        ("seed=${sede}", "Interpolation key 'sede' not found"),
        ("parts.main.schedule.draws=3", "parts.main"),
    ],
)
def test_bad_input_is_named(own: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(str(own), [override])


def test_a_group_that_a_config_does_not_choose_from(own: Path) -> None:
    (own.parent / "plain.yaml").write_text("schedule: {draws: 3}\n")
    with pytest.raises(InputError, match="sampler = 'quick': this config chooses no sampler from a group"):
        compose(str(own.parent / "plain.yaml"), ["sampler=quick"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("grid: [1, 2", "is not YAML"),
        ("seed: 1\nseed: 2", "is not YAML: .*duplicate key seed"),
        ("shedule: {draws: 3}", "shedule = .*unknown key; nearest is 'schedule'"),
        ("defaults: [/sampler: nosuch]", "sampler = 'nosuch': unknown"),
        ("- a\n- b", "config"),
    ],
)
def test_bad_files_are_named(own: Path, text: str, message: str) -> None:
    own.write_text(text)
    with pytest.raises(InputError, match=message):
        compose(str(own))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        compose(str(tmp_path / "none.yaml"))


def test_a_broken_file_of_ones_own(own: Path) -> None:
    folder = own.parent
    module = target(own)
    (folder / f"{module}_lacks.py").write_text("import a_library_that_is_not_there\n")
    (folder / f"{module}_odd.py").write_text("def (:\n")
    with pytest.raises(InputError, match="cannot be imported: No module named 'a_library_that_is_not_there'"):
        compose(str(own), [f"model._target_={module}_lacks.X"])
    with pytest.raises(InputError, match="cannot be imported: SyntaxError"):
        compose(str(own), [f"model._target_={module}_odd.X"])
    with pytest.raises(InputError, match="cannot be called"):
        compose(str(own), [f"model._target_={module}.not_callable"])


def test_instantiate(own: Path) -> None:
    name = target(own)
    config.importable(own.parent)
    node = {
        "_target_": f"{name}.Thing",
        "size": 2,
        "scale": 3,
        "prior": {"_target_": f"{name}.Prior", "scale": 2},
    }
    thing = nodes.instantiate(node, "model")
    assert isinstance(thing.scale, float)
    assert type(thing.prior).__name__ == "Prior"
    assert isinstance(thing.prior.scale, float)
    later = nodes.instantiate({"_target_": f"{name}.pair", "_partial_": True, "b": 5}, "x")
    assert later(1) == (1, 5)
    assert nodes.instantiate(
        {"_target_": f"{name}.pair", "_args_": [1, {"_target_": f"{name}.make", "size": 1}]}, "x"
    ) == (
        1,
        (1, 1),
    )
    assert nodes.instantiate({"a": [1, {"b": None}]}, "x") == {"a": [1, {"b": None}]}
    with pytest.raises(InputError, match=r"^parts\.p\.model\.scale = -1\.0: must be positive"):
        nodes.instantiate(node | {"scale": -1}, "parts.p.model")
    with pytest.raises(InputError, match=r"^parts\.p\.thing\.scale = -1\.0: must be positive"):
        nodes.instantiate(node | {"scale": -1, "fast": True}, "parts.p.thing")
    with pytest.raises(InputError, match=r"^model\.prior\.scale = -2\.0: must be positive"):
        nodes.instantiate(node | {"prior": {"_target_": "slt.priors.Normal", "scale": -2}}, "model")


def test_nothing_is_called_before_everything_is_checked(own: Path) -> None:
    config.importable(own.parent)
    bad = {"_target_": f"{target(own)}.Thing", "size": 1, "scale": -1, "prior": {"_target_": "slt.priors.Normals"}}
    with pytest.raises(InputError, match="has no 'Normals'"):
        nodes.instantiate(bad, "model")


def test_digest(own: Path) -> None:
    made = compose(str(own))
    assert config.digest(made) == config.digest(compose(str(own), ["seed=0", "grid.gamma=[0]", "grid.n=[10,20]"]))
    assert config.digest(made) != config.digest(compose(str(own), ["seed=1"]))
    assert config.digest(made) != config.digest(compose(str(own), ["parts.second.schedule.chains=3"]))
    longer = config.extended(made, ["schedule.draws=400", "parts.second.schedule.draws=300"])
    assert (longer.schedule.draws, longer.parts["second"].schedule.draws, made.schedule.draws) == (400, 300, 100)
    assert config.digest(longer) != config.digest(made)
    assert config.base_digest(longer) == config.base_digest(made)
    assert config.base_digest(made) != config.base_digest(compose(str(own), ["seed=1"]))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["schedule.draws=100"], "must be a whole number above 100"),
        (["schedule.draws=x"], "must be a whole number above 100"),
        (["seed=3"], "only draws can be extended"),
        ([], "say how far"),
    ],
)
def test_extension_changes_draws_alone(own: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.extended(compose(str(own)), overrides)


def test_saved_and_loaded(own: Path, tmp_path: Path) -> None:
    made = compose(str(own), ["sampler.scale=1e-5", "grid.control={field: [1e-7]}"])
    run = tmp_path / "run"
    run.mkdir()
    config.save(made, run)
    assert yaml.safe_load((run / "config.yaml").read_text()) == config.plain(made)
    assert json.loads(json.dumps(config.plain(made))) == config.plain(made)
    for allow in ([target(own)], [str(own.parent)], [str(own.parent / f"{target(own)}.py")]):
        loaded = config.load(run, allow)
        assert loaded == made
        assert config.digest(loaded) == config.digest(made)
    with pytest.raises(InputError, match=rf"model\._target_ = '{target(own)}\.Thing': .*--allow-import"):
        config.load(run)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "slt.samplers.base.jax.devices",
        "slt.config.sys.exit",
        "slt.config.load",
        "slt.config.nodes.instantiate",
        "slt.priors",
        "subprocess.run",
    ],
)
def test_a_strangers_run_directory_imports_nothing_else(tmp_path: Path, name: str) -> None:
    raw = {"model": {"_target_": name}, "sampler": {"_target_": "slt.samplers.sgld.SGLD"}, "schedule": {"draws": 3}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match=r"may import only slt|is no component|cannot be called") as seen:
        config.load(tmp_path)
    assert seen.value.field == "model._target_"


def test_a_strangers_config_is_read_as_data(tmp_path: Path) -> None:
    raw = {"model": {"_target_": "slt.priors.Normal"}, "sampler": {"_target_": "slt.priors.Normal"}}
    raw |= {"schedule": {"draws": 3}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw | {"name": "${oc.env:HOME}"}))
    with pytest.raises(InputError, match="has no"):
        config.load(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw | {"experiment": "antigravity"}))
    with pytest.raises(InputError, match="may name only slt's own experiments"):
        config.load(tmp_path)
    (tmp_path / "config.yaml").write_text("model: !!python/object/apply:os.system [ls]\n")
    with pytest.raises(InputError, match="is not YAML"):
        config.load(tmp_path)
    with pytest.raises(InputError, match="is no run directory"):
        config.load(tmp_path / "none")


def test_smoke_is_small(own: Path) -> None:
    made = compose(str(own), ["grid.n=[30,100,300,1000]", "schedule.burn_in=50", "schedule.chains=16"])
    tiny = config.smoke(made)
    assert tiny.grid.n == [20, 32]
    assert (tiny.schedule.draws, tiny.schedule.burn_in, tiny.schedule.chains) == (12, 4, 2)
    assert math.prod([len(tiny.grid.n), len(tiny.grid.beta)]) == 4
    assert made.schedule.burn_in == 50
    assert tiny.name == "mine-smoke"


def test_a_node_where_a_list_belongs_is_named() -> None:
    node = {"_target_": "slt.models.deep_linear.population", "widths": {"_target_": "slt.priors.Normal"}}
    with pytest.raises(InputError, match=r"model\.widths = .*: must be a list"):
        config.instantiate(node, "model")
