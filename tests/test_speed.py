"""The machinery of the speed benchmark on a case of no size; `python benchmarks/speed.py` runs all of it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = ("cases", "drawing", "large", "scaling", "speed", "timing")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def test_a_row_holds_what_is_promised(tmp_path: Path) -> None:
    import drawing
    import speed
    from cases import Case

    from slt.models import superposition

    case = Case("tms", superposition.make(c=4), [16], chains=2, burn_in=4, chunk=16, peers=False)
    rows = speed.measure(case, ["SGLD", "HMC"], speed.Peers(None), seconds=0.005, rounds=2, ess_s=0.02)
    for row in rows:
        assert {"case", "sampler", "chain_steps_per_s", "ratio_to_gradient", "ess_per_s", "compile_s"} <= row.keys()
        numbers = [row[name] for name in ("chain_steps_per_s", "ratio_to_gradient", "share_of_floors", "flops", "llc")]
        assert np.isfinite(numbers).all()
        assert row["chain_steps_per_s"] == pytest.approx(1e6 / row["us"])
        assert speed.line(row)
    found = {bar["bar"]: bar for bar in speed.bars(rows)}
    limit = found["tms ratio_to_gradient"]
    assert limit["met"] == (rows[0]["ratio_to_gradient"] <= 1.6)
    content = {"cases": rows, "peaks": {"matmul_gflops": 10.0, "memory_gb_per_s": 5.0}}
    drawing.roofline(content, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 10_000


def test_ratios_are_taken_within_a_round() -> None:
    import timing

    class Fake:
        """Takes a microsecond a chain-step, twice that in every other round."""

        chains, calls = 2, 0

        def __call__(self, steps: int, /) -> float:
            return 2e-6 * steps

    took = timing.interleaved({"a": Fake(), "b": Fake()}, seconds=0.01, rounds=3)
    assert took["a"] == pytest.approx([1e-6] * 3)
    assert np.median(took["a"] / took["b"]) == pytest.approx(1)


def test_folded_observables_take_memory_that_knows_nothing_of_the_draws() -> None:
    import scaling

    held = [scaling.folded(draws, keep=False) for draws in (100, 100_000)]
    assert held[0] == held[1]
    assert scaling.folded(100_000, keep=True) > scaling.folded(100, keep=True)


def test_cost_grows_in_records_that_can_be_drawn(tmp_path: Path) -> None:
    import drawing

    records = [
        {"label": "chains", "unit": "seconds", "at": [1, 10], "lines": {"tms": {"y": [1.0, 5.0], "slope": 1.0}}},
        {"label": "draws", "unit": "bytes", "at": [1, 10], "lines": {"folds": {"y": [3.0, 3.0], "slope": 0.0}}},
    ]
    drawing.scaling(records, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_program_compiles_once_whatever_the_cells() -> None:
    import scaling
    from timing import Running

    from slt.engine import program

    before = program.programs["advance"]
    for seeds in (2, 4):
        Running(scaling.case(n=[32], data_seed=range(seeds)))(1)
    assert program.programs["advance"] - before == 2  # one for each shape, none for a cell
    assert jax.default_backend() == "cpu"
