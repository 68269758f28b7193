"""One run over several devices equals one device: draws, keys, summaries, padded rows, ladders, a model's parts."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from slt import results
from slt.engine.mesh import Spread, spread
from slt.typing import InputError

CLOSE = {"rtol": 2e-3, "atol": 2e-4}
HERE = Path(__file__).parent
"""tiny/devices.py runs a job on as many devices as it is told, in a process of its own, and saves what it drew."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What tiny/devices.py draws on four host devices, by the layout asked for."""
    folder = tmp_path_factory.mktemp("devices")
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    done = subprocess.run(
        [sys.executable, HERE / "tiny" / "devices.py", str(folder)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {file.stem: dict(np.load(file)) for file in folder.glob("*.npz")}, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cells-4", "uneven-4", "one-4", "ladders-4"])
def test_draws_do_not_depend_on_the_devices(drawn, layout):
    arrays, told = drawn
    name = layout.split("-")[0]
    single, several = arrays[f"{name}-1"], arrays[layout]
    assert told[layout]["devices"] == int(layout[-1])
    assert single.keys() == several.keys()
    for key, value in single.items():
        assert several[key].shape == value.shape
        if key in ("status", "broken_at"):
            np.testing.assert_array_equal(several[key], value)
        else:
            traced = key.startswith("trace")  # a hundred steps; folds are compared whole, to what rounding does to them
            cut = (value[:, :, :100], several[key][:, :, :100]) if traced else (value, several[key])
            np.testing.assert_allclose(*cut, **CLOSE)


@pytest.mark.slow
def test_summaries_agree_within_their_errors(drawn):
    arrays, _ = drawn
    one, four = (arrays[name]["trace.delta"][:, :, 100:].astype(float) for name in ("cells-1", "cells-4"))
    spread = one.mean(axis=2).std(axis=1, ddof=1) / np.sqrt(one.shape[1])
    assert np.all(np.abs(one.mean(axis=(1, 2)) - four.mean(axis=(1, 2))) < 4 * spread)


@pytest.mark.slow
def test_a_model_is_split_over_the_second_axis(drawn):
    arrays, told = drawn
    np.testing.assert_allclose(arrays["large-2x2"]["trace.delta"], arrays["large-1"]["trace.delta"], **CLOSE)
    assert told["large-2x2"]["split"], "no parameter lies in parts"
    assert not told["large-1"]["split"]


@pytest.mark.slow
def test_a_run_goes_on_over_another_number_of_devices(drawn):
    arrays, _ = drawn
    for other in ("again-1", "again-4"):
        np.testing.assert_allclose(
            arrays[other]["trace.delta"][:, :, :100], arrays["uneven-1"]["trace.delta"][:, :, :100], **CLOSE
        )


@pytest.mark.slow
def test_no_device_speaks_to_another(drawn):
    assert drawn[1]["cells-4"]["collectives"] == []


@pytest.mark.parametrize("asked", [3, "2x2", "none", "0", "2x", "x2", "-1"])
def test_what_cannot_be_had_is_refused(asked):
    """Tests have two devices."""
    with pytest.raises(InputError, match="devices"):
        spread(asked)


def test_what_is_asked_for():
    assert spread("auto") is None  # on a CPU
    assert spread(1) is None
    assert spread(2) == spread("2x1")
    assert spread("1x2").params == 2


@pytest.mark.parametrize(
    "rows, chains, devices, shape",
    [(8, 4, 4, (4, 1)), (1, 8, 4, (1, 4)), (5, 4, 8, (2, 4)), (5, 3, 4, (4, 1)), (2, 6, 4, (2, 2)), (1, 1, 2, (2, 1))],
)
def test_the_largest_share_is_small(rows, chains, devices, shape):
    mesh = Spread(tuple(itertools.islice(itertools.cycle(jax.devices()), devices))).mesh(rows, chains)
    assert (mesh.shape["rows"], mesh.shape["chains"]) == shape


@pytest.mark.slow
def test_the_command_line_makes_devices_of_a_cpu(tmp_path):
    """devices=3 is no part of the config, and three devices are there though the environment says nothing."""
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    environment |= {"PYTHONPATH": str(HERE.parent)}
    words = ["run", HERE / "tiny" / "tiny.yaml", "--smoke", "devices=3", "--out", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "slt.cli", *map(str, words)],
        env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = results.load(tmp_path / "run")
    assert run.complete
    assert "devices" not in run.config
    assert json.loads(run.data.attrs["device"])["count"] == 3
