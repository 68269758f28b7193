"""Measures of a run: made once after its sweeps, resumed piece by piece, mended where damaged."""

from pathlib import Path

import numpy as np
import pytest

from slt import config, results, runs
from slt.typing import InputError

TINY = Path(__file__).parent / "tiny"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A config of measures alone, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TINY))
    path = tmp_path / "alone.yaml"
    path.write_text("measures: {squares: {_target_: tiny_measure.Squares, count: 4, smoke: {count: 2}}}\n")
    return path


def test_a_run_of_measures_alone(alone):
    run = runs.begin(config.compose(str(alone)), Path("run"))
    assert run.complete
    assert run.measures["squares"]["square"].values.tolist() == [0, 1, 4, 9]
    assert run.measures["squares"]["name"].values.tolist() == ["no 0", "no 1", "no 2", "no 3"]
    assert run.summary.wall_s > 0
    runs.resume(Path("run"), allow_import=["tiny_measure"])
    assert Path("made").read_text() == "0 1 2 3"


def test_a_tiny_run_takes_the_fields_under_smoke(alone):
    made = config.smoke(config.compose(str(alone)))
    assert config.measures(made) == {"squares": {"_target_": "tiny_measure.Squares", "count": 2}}


def test_finished_pieces_are_kept(alone):
    made = config.compose(str(alone), ["measures.squares.stop_after=2"])
    Path("made.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        runs.begin(made, Path("run"))
    assert not results.load(Path("run")).complete
    Path("made.stop").unlink()
    run = runs.resume(Path("run"), allow_import=["tiny_measure"])
    assert run.measures["squares"]["square"].values.tolist() == [0, 1, 4, 9]
    assert Path("made").read_text() == "0 1 2 3"


@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_a_damaged_measure_is_made_again(alone, harm):
    runs.begin(config.compose(str(alone)), Path("run"))
    file = max((file for file in Path("run/measures/squares.zarr").rglob("*") if file.is_file()), key=str)
    if harm == "missing":
        file.unlink()
        with pytest.raises(InputError, match="slt resume"):
            results.load(Path("run"))
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
        with pytest.raises(InputError, match="altered"):
            results.load(Path("run"), verify=True)
    run = runs.resume(Path("run"), allow_import=["tiny_measure"])
    assert run.measures["squares"]["square"].values.tolist() == [0, 1, 4, 9]


@pytest.mark.slow
def test_a_measure_of_the_draws_follows_an_extension(alone):
    path = alone.with_name("both.yaml")
    path.write_text((TINY / "tiny.yaml").read_text() + "measures: {draws: {_target_: tiny_measure.Draws}}\n")
    run = runs.begin(config.compose(str(path)), Path("both"))
    assert run.measures["draws"]["draws"] == 64
    longer = runs.extend(Path("both"), ["schedule.draws=80"], allow_import=["tiny_measure", "tiny_model"])
    assert longer.measures["draws"]["draws"] == 80


@pytest.mark.parametrize(
    "override,field",
    [
        ("measures.squares.cuont=3", "measures.squares.cuont"),
        ("measures.squares.smoke.cuont=3", "measures.squares.cuont"),
        ("measures.squares.smoke=3", "measures.squares.smoke"),
        ("measures.squares._target_=tiny_measure.np", "measures.squares._target_"),
        ("+measures.other={count: 3}", "measures.other"),
    ],
)
def test_bad_input(alone, override, field):
    with pytest.raises(InputError) as caught:
        runs.begin(config.compose(str(alone), [override]), Path("run"))
    assert caught.value.field == field
    assert not Path("run").exists()


def test_intervals_are_kept(tmp_path):
    shown = {"x": results.Quantity(np.array([1.0]), np.array([0.1]), {"t": [2.0]}, np.array([[0.8, np.inf]]))}
    results.write_summary(tmp_path, shown, {}, 0.0, "")
    np.testing.assert_array_equal(results.read_summary(tmp_path).quantities["x"].interval, [[0.8, np.inf]])
