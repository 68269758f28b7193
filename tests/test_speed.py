"""The machinery of the speed benchmark on a case of no size; `python benchmarks/speed.py` runs all of it."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = ("bars", "cases", "compiling", "drawing", "large", "scaling", "speed", "timing")
KEYS = {"case", "sampler", "chain_steps_per_s", "ratio_to_gradient", "ess_per_s", "compile_s"}


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_row_holds_what_is_promised(tmp_path: Path) -> None:
    import drawing
    import speed
    from cases import Case

    from slt.models import superposition

    case = Case("tms", superposition.make(c=4), [16], chains=2, burn_in=4, chunk=16, peers=False)
    peaks = {"matmul_gflops": 10.0, "memory_gb_per_s": 5.0}
    rows = speed.measure(case, ["SGLD", "HMC"], speed.Peers(None), seconds=0.005, rounds=2, ess_s=0.02, peaks=peaks)
    for row in rows:
        assert row.keys() >= KEYS
        numbers = ("chain_steps_per_s", "ratio_to_gradient", "share_of_floors", "share_of_roofline", "flops", "llc")
        assert np.isfinite([row[name] for name in numbers]).all()
        assert row["chain_steps_per_s"] == pytest.approx(1e6 / row["us"])
        assert speed.line(row)
    content = {"cases": rows, "peaks": peaks}
    drawing.roofline(content, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 10_000


@pytest.mark.slow
def test_quick_gives_every_case_a_row_with_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command's own main, on cases of no size, with no time left: each case gets its first sampler."""
    import speed
    from cases import Case

    from slt.models import superposition

    small = Case("", superposition.make(c=4), [16], chains=2, burn_in=2, chunk=16)
    monkeypatch.setattr(
        speed, "cases", lambda quick: {name: dataclasses.replace(small, name=name) for name in ("tms", "sweep", "wide")}
    )
    monkeypatch.setattr(speed, "QUICK", 0.0)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # else the other tests lose their cache
    words = ["--quick", "--json", str(tmp_path / "speed.json"), "--seconds", "0.002", "--rounds", "1"]
    speed.main(words)
    content = json.loads((tmp_path / "speed.json").read_text())
    assert [(row["case"], row["sampler"]) for row in content["cases"]] == [("tms", "SGLD"), ("sweep", "SGLD")]
    assert all(row.keys() >= KEYS for row in content["cases"])
    assert "tms HMC" in content["left_out"]
    assert content["seconds"] > 0


def test_cases_that_peers_do_not_know_have_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    import speed
    from cases import Case

    from slt.models import superposition

    peers = speed.Peers(None)
    peers.names = {"devinterp_tensor": "1.3.2"}
    case = Case("sweep", superposition.make(c=4), [16], chains=2, burn_in=2, chunk=16, peers=False)
    (row,) = speed.measure(case, ["SGLD"], peers, seconds=0.002, rounds=1, ess_s=0)
    assert row["ratio_to_devinterp_tensor"] is None
    assert row["ess_per_s"] is None
    assert speed.line(row)


def test_bars_are_those_of_the_platform() -> None:
    import bars

    mlp = {
        "case": "mlp", "sampler": "SGLD", "parameters": 1_080_000, "chains": 2, "ratio_to_gradient": 1.4,
        "share_of_floors": 0.9, "compile_s": 4.0, "share_of_roofline": 0.5, "ratio_to_devinterp_tensor": None,
    }  # fmt: skip
    wide = mlp | {"case": "wide", "parameters": 18, "chains": 16384}
    cpu, gpu = ({bar["bar"]: bar for bar in bars.bars([mlp, wide], platform)} for platform in ("cpu", "gpu"))
    assert cpu["mlp share_of_floors"]["met"]
    assert not cpu["mlp SGLD compile_s"]["met"]
    assert set(gpu) == {
        "mlp SGLD ratio_to_gradient", "wide SGLD chains in one program", "wide SGLD share_of_roofline"
    }  # fmt: skip
    assert not gpu["mlp SGLD ratio_to_gradient"]["met"]
    assert gpu["wide SGLD chains in one program"]["met"]
    assert gpu["wide SGLD share_of_roofline"]["met"] is None
    assert all(map(bars.line, [*cpu.values(), *gpu.values()]))
    compiling = [{"cells": 8, "compile_s": 1.0}, {"cells": 512, "compile_s": 1.2}]
    found = bars.bars([], "cpu", [*compiling, {"config": "demo", "demo_cold_s": 21.0}])
    assert {bar["bar"]: bar["met"] for bar in found} == {
        "demo demo_cold_s": False, "compile_s, 512 over 8 cells": True
    }  # fmt: skip


@pytest.mark.statistics
def test_compile_seconds_of_a_run_with_an_empty_cache() -> None:
    import compiling

    found = compiling.demo(str(FOLDER.parent / "tests" / "tiny" / "tiny.yaml"))
    assert found["programs"] > 4
    assert 0 < found["demo_cold_s"] < 60
    few, many = compiling.cells((2, 64), repeats=1)
    assert (few["cells"], many["cells"]) == (2, 64)
    assert few["compile_s"] > 0


@pytest.mark.slow
def test_rounding_is_emulated_on_a_cpu() -> None:
    """Factors of every product, forwards and backwards, to so many bits; in both orders of multiplying."""
    import large

    from slt.models import deep_linear

    model = deep_linear.make((8, 8, 8))
    params = jax.tree.map(lambda w: 0.5 * jax.random.normal(jax.random.key(1), w.shape), model.truth().params)
    for n in (4, 400):
        batch = model.sample(jax.random.key(0), n)
        grads = {
            kind: jax.grad(lambda w, one=one, batch=batch: -one.log_likelihood(w, batch).mean())(params)["w0"]
            for kind, one in {"exact": model, **{k: large.Emulated(model, k) for k in large.BITS}}.items()
        }
        off = {kind: float(abs(grads[kind] - grads["exact"]).max() / abs(grads["exact"]).max()) for kind in large.BITS}
        assert 2**-14 < off["tf32"] < 2**-9
        assert 2**-11 < off["bf16"] < 2**-6


@pytest.mark.statistics
@pytest.mark.parametrize("trained", [0, 200])
def test_the_smallest_deep_network(trained: int) -> None:
    """Its record at tiny length: all that is promised, and in what it differs from what was published."""
    import large

    kept: list = []
    (row,) = large.networks(kept.append, ["10 k"], trained=trained, n=2000, seconds=2.0)
    assert kept
    assert row["parameters"] == 10_000
    numbers = ("chain_steps_per_s", "ratio_to_gradient", "compile_s", "llc", "stderr", "peak_bytes", "excess_loss")
    assert np.isfinite([row[name] for name in numbers]).all()
    assert row["aoyagi"] > 0
    assert ("trained" if trained else "optimum") in row["setting"]["start"]
    assert {line.split(":")[0] for line in row["differs"]} == {"n", "inputs", "start", "sampler"}
    assert json.dumps(row)


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


@pytest.mark.slow
def test_folded_observables_take_memory_that_knows_nothing_of_the_draws() -> None:
    import scaling

    held = [scaling.folded(draws, keep=False) for draws in (100, 100_000)]
    assert held[0] == held[1]
    assert scaling.folded(100_000, keep=True) > scaling.folded(100, keep=True)


@pytest.mark.slow
def test_cost_grows_in_records_that_can_be_drawn(tmp_path: Path) -> None:
    import drawing

    records = [
        {"label": "chains", "unit": "seconds", "at": [1, 10], "lines": {"tms": {"y": [1.0, 5.0], "slope": 1.0}}},
        {"label": "draws", "unit": "bytes", "at": [1, 10], "lines": {"folds": {"y": [3.0, 3.0], "slope": 0.0}}},
    ]
    drawing.scaling(records, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_program_compiles_once_whatever_the_cells() -> None:
    import scaling
    from timing import Running

    from slt.engine import program

    before = program.programs["advance"]
    for seeds in (2, 4):
        Running(scaling.case(n=[32], data_seed=range(seeds)))(1)
    assert program.programs["advance"] - before == 2  # one for each shape, none for a cell
    assert jax.default_backend() == "cpu"
