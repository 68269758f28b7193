"""Phases found without being told: minima and saddles of landscapes whose critical points are known."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slt
from slt.cells import data_words, grid
from slt.cli import main, phases
from slt.engine import Schedule, prepare
from slt.engine.program import draw_data
from slt.measure import descent
from slt.measure.catalogue import Catalogue
from slt.models import gaussian_location
from slt.samplers import HMC
from slt.typing import InputError


def landscape(w: Any) -> Any:
    """Four copies (x -> -x, y -> -y) of a minimum of loss 0, and two (y -> -y) of one of loss about .1 at x = 0."""
    x, y = w
    square = jnp.square(x)
    return (
        jnp.square(jnp.square(y) - 1) + 2 * square * jnp.square(square - 1) + 0.1 * (1 - square) ** 2 * jnp.exp(-square)
    )


def hyperbola(w: Any) -> Any:
    """(w1 w2 - 1)^2 + w3^2: a curve of minima, and a saddle at 0."""
    return jnp.square(w[0] * w[1] - 1) + jnp.square(w[2])


@dataclass(frozen=True)
class Cubic(slt.Model):
    """y ~ N((w^3 - 3 w) x, 1), truth 3 x: the minimum at w = 2.104, and one of slope 2 at w = -1."""

    def init(self, key: Any) -> Any:
        return {"w": 2 * jax.random.normal(key, ())}

    def log_prior(self, params: Any) -> Any:
        return -jnp.square(params["w"]) / 8 - 0.5 * jnp.log(8 * jnp.pi)

    def log_likelihood(self, params: Any, batch: Any) -> Any:
        x, y = batch
        return -0.5 * jnp.square(y - (params["w"] ** 3 - 3 * params["w"]) * x) - 0.5 * jnp.log(2 * jnp.pi)


def around(points: Any, number: int, width: float) -> np.ndarray:
    """Draws [1, chain, draw, d]: `number` about each point."""
    rng = np.random.default_rng(0)
    points = np.asarray(points, float)
    return (points[:, None] + width * rng.standard_normal((len(points), number, points.shape[1])))[None]


@pytest.fixture(scope="module")
def copies() -> Catalogue:
    corners = [(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)] + [(0.0, 1.0), (0.0, -1.0)]
    model = slt.potential(landscape, 2, slt.Normal())
    with jax.numpy_dtype_promotion("strict"):
        return slt.discover(model, jnp.asarray(around(corners, 20, 0.05), jnp.float32), t=[200.0], lam_draws=300)


@pytest.mark.slow
def test_symmetric_copies_are_one_phase(copies: Catalogue) -> None:
    assert copies.names == ("A", "B")
    assert copies.kind == ("minimum", "minimum")
    np.testing.assert_allclose(copies.loss, [0.0, 0.1], atol=1e-9)
    np.testing.assert_allclose(copies.share.value, [[2 / 3, 1 / 3]])
    np.testing.assert_array_equal(np.abs(np.stack([np.asarray(w) for w in copies.params])).round(4), [[1, 1], [0, 1]])
    assert copies.rank.tolist() == [2, 2]
    assert copies.null.tolist() == copies.negative.tolist() == [0, 0]
    assert copies.lam_t == 2e4
    assert (np.asarray(copies.lam.stderr) < 0.08).all()
    assert (np.abs(np.asarray(copies.lam.value) - 1) < 4 * np.asarray(copies.lam.stderr)).all()
    assert copies.dominates("A") == (200.0, 200.0)
    assert copies.dominates("B") is None
    assert "minimum" in str(copies)


def test_a_catalogue_makes_phases_and_basins(copies: Catalogue) -> None:
    phases = copies.phases()
    assert phases.names == ("A", "B")
    draws = jnp.array([[0.9, 1.1], [-1.1, -0.9], [0.1, -0.8]])
    assert jax.vmap(phases.label)(draws).tolist() == [0, 0, 1]
    assert hash(phases) == hash(copies.phases())
    assert [basin.phase for basin in copies.basins()] == ["A", "B"]
    with pytest.raises(InputError, match="rule"):
        copies.phases("function")


@pytest.mark.slow
def test_a_saddle_that_holds_the_posterior_is_found_by_its_mode() -> None:
    """At small t the prior keeps w at 0, the saddle; at large t draws lie along the curve of minima."""
    model = slt.potential(hyperbola, 3, slt.Normal())
    curve = [(s, 1 / s, 0.0) for s in (0.8, 1.0, -1.2)]
    draws = np.concatenate([around([(0.0, 0.0, 0.0)] * 3, 20, 0.2), around(curve, 20, 0.05)])
    found = slt.discover(model, draws, t=[0.5, 500.0], quench="posterior", lam_draws=0)
    assert found.kind == ("minimum", "saddle")
    np.testing.assert_allclose(found.loss, [0, 1], atol=1e-8)
    assert found.rank.tolist() == [2, 2]  # at the saddle two up, one down
    assert found.null.tolist() == [1, 0]
    assert found.negative.tolist() == [0, 1]
    np.testing.assert_allclose(found.share.value, [[0, 1], [1, 0]], atol=0.02)
    assert [basin.name for basin in found.basins()] == ["A"]


@pytest.mark.filterwarnings("error")
def test_phases_in_function_space_of_a_model_with_data(rng: np.random.Generator) -> None:
    x = rng.standard_normal(200)
    data = jnp.asarray(x, jnp.float32), jnp.asarray(3 * x + rng.standard_normal(200), jnp.float32)
    draws = {"w": jnp.asarray(around([[2.1], [2.1], [-1.0]], 30, 0.1)[..., 0], jnp.float32)}
    found = slt.discover(Cubic(), draws, data, t=[200.0], lam_draws=0)
    assert found.names == ("A", "B")
    assert found.kind == ("minimum", "minimum")
    np.testing.assert_allclose([w["w"] for w in found.params], [2.1, -1.0], atol=0.05)
    slope = (x @ np.asarray(data[1])) / (x @ x)
    expected = np.mean(np.square(np.asarray(data[1]) - np.outer([slope, 2.0], x)), axis=1) / 2 + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    assert found.rank.tolist() == [1, 1]
    phases = found.phases()
    assert "function" in phases.rule
    assert [int(phases.label({"w": jnp.asarray(w)})) for w in (2.08, -0.8, 2.3)] == [0, 1, 0]


def test_descents_end_at_minima_to_rounding() -> None:
    model = slt.potential(landscape, 2, slt.Normal())
    of = descent.posterior(model, jnp.array([1.0, 1.0]), np.zeros((1, 0)), 1)
    starts = np.random.default_rng(0).standard_normal((40, 2))
    ends = descent.descend(of, starts)
    assert ends.points.dtype == np.float64
    assert ends.gradient.max() < 1e-8
    levels = np.unique(ends.loss.round(7))
    assert set(levels.tolist()) <= {0.0, 0.1}
    spectrum = descent.spectra(of, ends.points)
    assert spectrum.min() > 0


def test_input_errors() -> None:
    model = slt.potential(landscape, 2, slt.Normal())
    draws = np.zeros((1, 2, 20, 2))
    for options in (
        {"draws": draws[..., :1]},
        {"draws": draws, "t": [1.0, 2.0]},
        {"draws": draws, "quench": "heat"},
        {"draws": draws, "least": 0.0},
        {"draws": draws * np.nan, "t": 1.0},
        {"draws": {"v": draws, "w": draws}},
    ):
        with pytest.raises(InputError):
            slt.discover(model, **options)
    with pytest.raises(InputError, match="data"):
        slt.discover(Cubic(), {"w": draws[..., 0]})


@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`slt phases` on a tiny run: the table, JSON, and an unknown part."""
    place = tmp_path / "run"
    settings = ["schedule.draws=240", "schedule.burn_in=40", "schedule.keep_params=5", "grid.t=[100,400]", "~measures"]
    assert main(["run", "two_basins/demo", *settings, "--out", str(place), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["phases", str(place)]) == 0
    table = capsys.readouterr().out
    assert "V " in table
    assert "minimum" in table
    assert main(["phases", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["axis"] == "t"
    assert found["at"] == [100, 400]
    rows = {row["phase"]: row for row in found["phases"]}
    assert [rows[name]["rank"] for name in "UV"] == [0, 1]  # (w + 1)^4 has no curvature at its minimum
    for name, lam in (("U", 0.25), ("V", 0.5)):
        assert rows[name]["lam_stderr"] < 0.04
        assert abs(rows[name]["lam"] - lam) < 4 * rows[name]["lam_stderr"]
    shares = np.sum([row["shares"] for row in found["phases"]], axis=0)
    np.testing.assert_allclose(shares + found["unassigned"], 1)
    assert main(["phases", str(place), "--part", "nowhere"]) == 2
    assert "part" in capsys.readouterr().err
    assert main(["phases", str(place), "--part", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [found]
    assert main(["phases", str(place), "--data-seed", "1"]) == 2
    assert "no such axis" in capsys.readouterr().err


def test_the_data_set_descended_is_the_one_asked_for() -> None:
    """By default the first at the largest n; every data set is the same whatever n it is cut to."""
    model = gaussian_location.make()
    cells = grid(model, n=[5, 9], data_seed=[0, 4])
    job = prepare(model, HMC(), cells, {}, Schedule(draws=2, chains=1), key=jax.random.key(0))
    whole = phases._data(job, {})
    assert all(leaf.shape[0] == 9 for leaf in jax.tree.leaves(whole))
    for axes, seed, n in (({}, 0, 9), ({"data_seed": 4}, 4, 9), ({"data_seed": 4, "n": 5}, 4, 5), ({"n": 5}, 0, 5)):
        drawn = jax.tree.leaves(draw_data(model, np.stack([data_words(seed)]), {}, 9))
        for a, b in zip(jax.tree.leaves(phases._data(job, axes)), drawn, strict=True):
            np.testing.assert_allclose(a, b[0, :n], rtol=1e-6)
