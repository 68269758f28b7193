"""A user's own model in a folder of their own, far from the clone: `_target_` runs it, and slips get one clear line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import slt
from slt import cli, results
from slt.plots import draw
from slt.samplers import SGLD, ReplicaExchange

ROOT = Path(__file__).resolve().parent.parent
MODEL = '''\
"""A coin whose bias is a logistic function of w, and thirty throws of it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import slt


@dataclass(frozen=True)
class MyModel(slt.Model):
    scale: float = 2.0
    mistake: str = ""

    def __post_init__(self):
        if self.mistake == "constructor":
            raise KeyError("my own bug")

    def init(self, key):
        return {"w": self.scale * jax.random.normal(key, ())}

    def log_prior(self, params):
        value = -0.5 * jnp.square(params["w"] / self.scale)
        return value - jnp.inf if self.mistake == "prior" else value

    def log_likelihood(self, params, batch):
        values = jax.nn.log_sigmoid((2 * batch - 1) * params["w"])
        return values.sum() if self.mistake == "summed" else values


class Unhashable(MyModel):
    __hash__ = None


def throws(heads=21, num=30):
    return np.repeat([1.0, 0.0], [heads, num - heads]).astype("float32")


def sides():
    return slt.Phases(("tails", "heads"), heavy, "sign of w")


def heavy(params):
    return (params["w"] > 0).astype("int32")
'''
CONFIG = """\
defaults: [{/sampler: sgld}, _self_]
model: {_target_: my_file.MyModel, scale: 3.0}
data: {_target_: my_file.throws, heads: 24}
phases: {_target_: my_file.sides}
grid: {n: [20, 30], beta: [1, "1/log n"]}
schedule: {draws: 24, chains: 2, burn_in: 8, chunk: 12, keep_params: 4}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder; the working directory is another, empty one. What was imported from it is forgotten."""
    folder, away = tmp_path / "own", tmp_path / "away"
    folder.mkdir()
    away.mkdir()
    (folder / "my_file.py").write_text(MODEL)
    (folder / "my.yaml").write_text(CONFIG)
    monkeypatch.chdir(away)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second would meet the old bytecode
    monkeypatch.setitem(draw.RC, "savefig.dpi", 50)
    yield folder
    sys.modules.pop("my_file", None)


def test_from_any_folder_in_a_process_of_its_own(own: Path) -> None:
    command = [sys.executable, "-m", "slt.cli", "run", str(own / "my.yaml"), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("results: runs/my-")
    place = next(Path("runs").iterdir())
    assert {path.name for path in place.iterdir()} >= {"config.yaml", "data.zarr", "figures", "summary.json"}
    assert list((place / "figures").glob("*.png"))
    data = results.load(place).data["main"].to_dataset()
    assert data.sizes["n"] == data.sizes["beta"] == 2
    assert "params.w" in data
    assert data["phase"].attrs["names"] == ["tails", "heads"]
    summary = json.loads((place / "summary.json").read_text())
    assert len(summary["quantities"]["loss"]["value"]) == 2


@pytest.mark.slow
def test_what_comes_after_a_run(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(own / "my.yaml"), "--out", "run", "--quiet"]) == 0
    sys.modules.pop("my_file")
    sys.path.remove(str(own))  # as in a new process
    capsys.readouterr()
    assert cli.main(["show", "run", "loss"]) == 0  # neither these nor figures need the user's code
    assert cli.main(["plot", "run"]) == 0
    capsys.readouterr()
    for words in (["resume", "run"], ["extend", "run", "schedule.draws=36"]):
        assert cli.main(words) == 2  # whose run directory is it? Code is imported only when one says so
        assert "--allow-import" in one_line(capsys)
    assert cli.main([*words, "--allow-import", str(own)]) == 0
    assert results.load("run").data["main"].sizes["draw"] == 36


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("slt ")
    assert "Traceback" not in captured.err
    return captured.err


SLIPS = {
    "model._target_=my_file.MyModle": "my_file has no 'MyModle': nearest is 'MyModel'",
    "model._target_=my_fil.MyModel": "model._target_ = 'my_fil': no such module beside the config",
    "model._target_=MyModel": "give a dotted name such as",
    "model._target_=my_file.throws": "model.scale = 3.0: unknown argument of my_file.throws",
    "model._target_=my_file.Unhashable": "must be hashable",
    "model.scal=2": "model.scal = 2: unknown argument of my_file.MyModel: nearest is 'scale'",
    "model.scale=wide": "model.scale = 'wide': must be a number",
    "model.mistake=summed": "log_likelihood = (): must return one value a sample",
    "model.mistake=prior": "log_prior = -inf: is not finite at the start",
    "modle.scale=2": "modle = {'scale': 2}: unknown key; nearest is 'model'",
    "schedule.draw=100": "schedule.draw = 100: unknown key; nearest is 'draws'",
    "schedule.draws=many": "schedule.draws = 'many': must be a whole number",
    "sampler=sgdl": "sampler = 'sgdl': unknown; nearest is 'sgld'",
    "sampler._target_=slt.samplers.SGDL": "nearest is 'SGLD'",
    "grid.n=[20,31]": "grid.n = 31: larger than the data, which have 30 samples",
    "grid.control.scale=[1,2]": "MyModel has no such control; it has: none",
    "data.head=3": "data.head = 3: unknown argument of my_file.throws: nearest is 'heads'",
    "~data": "data = None: MyModel has no true distribution to sample from: give data",
    "start=left": "start = 'left': no such basin; known are: none; or 'prior', or 'optimum'",
    "experiment=my_figures": "experiment = 'my_figures': unknown; ",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_gets_one_clear_line(slip: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(own / "my.yaml"), slip, "--out", "run"]) == 2
    assert SLIPS[slip] in one_line(capsys)
    assert list(Path.cwd().iterdir()) == []


BROKEN_FILES = {
    "def f(:": ("SyntaxError", "my_file.py, line 1"),
    "import no_such_package": ("No module named 'no_such_package'", ""),
    "from slt import Modle": ("cannot import name 'Modle'", ""),
}


@pytest.mark.parametrize("text", BROKEN_FILES)
def test_a_file_that_cannot_be_imported(text: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "my_file.py").write_text(text)
    assert cli.main(["run", str(own / "my.yaml"), "--out", "run"]) == 2
    said = one_line(capsys)
    assert all(part in said for part in BROKEN_FILES[text]), said


def test_a_config_that_is_not_there_or_no_yaml(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(own / "mine.yaml")]) == 2
    assert "no such file" in one_line(capsys)
    (own / "my.yaml").write_text("model: {_target_: [")
    assert cli.main(["run", str(own / "my.yaml")]) == 2
    assert "is not YAML" in one_line(capsys)


def test_a_bug_of_the_users_keeps_its_traceback(own: Path) -> None:
    with pytest.raises(KeyError, match="my own bug") as caught:
        cli.main(["run", str(own / "my.yaml"), "model.mistake=constructor"])
    assert caught.value.__notes__ == ["while building model = my_file.MyModel"]


def bowl(w):
    return jnp.sum(jnp.square(w))


def test_a_landscape_in_python_takes_what_one_naturally_writes() -> None:
    model = slt.potential(bowl, 2, slt.Uniform(-2, 2))
    phases = slt.Phases(("left", "right"), lambda w: w[0] > 0, "sign of w")  # true and false
    sampler, one_ladder = ReplicaExchange(SGLD(), rungs=1), slt.Schedule(draws=16, chains=1, burn_in=4)
    data = slt.sweep(model, sampler, one_ladder, t=jnp.array([1.0, 2.0]), start="prior", phases=phases)
    assert set(np.unique(data["phase"])) <= {0, 1}
    assert np.isfinite(slt.summarise(data)["loss"].value).all()
    for t in (jnp.array([1.0, 2.0]), np.array([1.0, 2.0]), (1.0, 2.0)):
        assert slt.grid(model, t=t) == slt.grid(model, t=[1, 2])


@pytest.mark.parametrize(
    "slip, said",
    [
        ({"sampler": "sgld"}, "sampler = 'sgld': must be an slt sampler"),
        ({"sampler": SGLD}, "must be an slt sampler"),
        ({"model": slt.potential(jnp.square, 2, slt.Normal())}, "must return one value a sample"),
        ({"t": []}, "grid.t = []: is empty"),
        ({"t": "ten"}, "grid.t = 'ten': must be a number"),
        ({"t": [1.0, 1.0]}, "has a value twice"),
        ({"n": 10}, "a potential is gridded over t, not n"),
        ({"start": "left"}, "start = 'left': no such basin"),
        ({"phases": slt.Phases(("a", "b"), lambda w: w > 0, "each sign")}, r"phases.label = 'bool\[2\]': must be one"),
        ({"observables": {"delta": slt.mean(lambda p, w, i: w)}}, "under a new name"),
    ],
)
def test_a_slip_in_python_is_an_input_error(slip: dict, said: str) -> None:
    given = {
        "model": slt.potential(bowl, 2, slt.Normal()),
        "sampler": SGLD(),
        "schedule": slt.Schedule(draws=16),
        "t": [1.0],
    }
    with pytest.raises(slt.InputError, match=said.replace("[]", r"\[\]")):
        slt.sweep(**(given | slip))
