"""Deep linear networks: coefficients of truncated truths, and training as a measure of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from slt.experiments import _dynamics, _training, deep_linear

from slt import config, runs
from slt.models import deep_linear as models
from slt.typing import InputError


class Site:
    """What a measure sees of a run that has no sweep."""

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder
        self.parts: dict[str, Any] = {}
        self.key = jax.random.key(5)
        self.pieces: list[str] = []

    def once(self, label: str, make: Callable[[], Any]) -> Any:
        self.pieces.append(label)
        return make()


@pytest.mark.slow
def test_coefficients_of_truncated_truths_are_within_three_per_cent() -> None:
    site = Site()
    measure = deep_linear.Coefficients((2, 3, 4), (3.0, 1.5), t=(50.0,), error=0.006, seconds=15)
    found = measure(site)
    assert site.pieces == ["rank 0", "rank 1", "rank 2"]
    assert (found["exact_stderr"] == 0).all(), "two rows: by quadrature"
    assert (found["stderr"] < 0.012 * found["exact"]).all()
    np.testing.assert_allclose(found["llc"], found["exact"], rtol=0.03)


@pytest.mark.slow
def test_training_as_a_measure(tmp_path: Path) -> None:
    model = models.population((3, 3, 3), (4.0, 2.0))
    site = Site(tmp_path)
    found = _training.Training(
        model=model, learning_rate=0.01, steps=2000, runs=24, scale=1e-6, checkpoints=120, keep=5, block=16, points=4,
        t=50.0, chains=4, draws=16,
    )(site)  # fmt: skip
    assert site.pieces == ["runs 0", "runs 1", "local"]
    assert not list(tmp_path.iterdir()), "checkpoints go once a block is kept"
    assert found.sizes["run"] == 24
    assert found["ok"].all()
    paths = _training.paths(found)
    assert all(path.sequence == (0, 1, 2) for path in paths)
    steps = _training.critical_steps(found)
    assert steps["1->2"].median / steps["0->1"].median == pytest.approx(2, rel=0.2)
    assert (np.diff(deep_linear.learned_steps(model.fn, found), axis=1) > 0).all()
    assert found["local_llc"].shape == (5, 4)
    assert float(found["local_lowest"][0, 1]) < -1, "a saddle, before anything is learned"
    shares = _dynamics.shares(found, {0: 0.0, 1: 1.0, 2: 2.0})
    assert shares["runs_moving"].value == shares["rising"].value == shares["posterior_order"].value == 1
    assert shares["lambda_falls"].hits == 0
    backwards = _dynamics.shares(found, {0: 2.0, 1: 1.0, 2: 0.0})
    assert backwards["posterior_order"].value == 0
    with pytest.raises(InputError, match="no such sweep"):
        _training.Training(part="lost")(site)


@pytest.mark.statistics
def test_modes_come_by_singular_value_in_bayes_and_sgd_but_not_with_adam(tmp_path: Path) -> None:
    run = runs.begin(config.compose("deep_linear/demo"), tmp_path / "run")
    told = run.quantities
    assert told["posterior_in_order"].value == 1
    assert told["in_order"].value == told["momentum.in_order"].value == 1
    assert told["adam.in_order"].value < 0.1, "steps of one size: the smaller singular value is reached first"
    times = [told[f"critical_step[{r}->{r + 1}]"] for r in range(3)]
    for one, ratio in zip(times, (1, 2, 4), strict=True):  # exp(4 s r step): times go as 1/s
        assert float(one.value / times[0].value) == pytest.approx(ratio, rel=0.15)
        assert one.interval[0] <= one.value <= one.interval[1]
    at = [told[f"critical_t[{r}->{r + 1}]"].value for r in range(3)]
    assert at[0] < at[1] < at[2]
    off, error = told["coefficient_off"].value, told["coefficient_off"].stderr
    assert (np.abs(off) < 0.03).all()
    assert (error < 0.015).all()


def test_forms_of_ranks_are_those_of_the_basins() -> None:
    model = models.population((5, 4, 3), (3.0, 1.5))
    truth = model.truth()
    assert truth is not None
    for basin in truth.basins:
        form = deep_linear.form(model.fn, int(basin.phase))
        assert form[:3] == (pytest.approx(basin.loss), basin.lam, basin.multiplicity)
        assert np.isnan(form.constant)
