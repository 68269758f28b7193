"""One run over several devices equals one device: draws, keys, summaries, padded rows, ladders, a model's parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def test_summaries_agree_within_their_errors(drawn):
    arrays, _ = drawn
    one, four = (arrays[name]["trace.delta"][:, :, 100:].astype(float) for name in ("cells-1", "cells-4"))
    spread = one.mean(axis=2).std(axis=1, ddof=1) / np.sqrt(one.shape[1])
    assert np.all(np.abs(one.mean(axis=(1, 2)) - four.mean(axis=(1, 2))) < 4 * spread)


def test_a_model_is_split_over_the_second_axis(drawn):
    arrays, told = drawn
    np.testing.assert_allclose(arrays["large-2x2"]["trace.delta"], arrays["large-1"]["trace.delta"], **CLOSE)
    assert told["large-2x2"]["split"], "no parameter lies in parts"
    assert not told["large-1"]["split"]


def test_a_run_goes_on_over_another_number_of_devices(drawn):
    arrays, _ = drawn
    for other in ("again-1", "again-4"):
        np.testing.assert_allclose(
            arrays[other]["trace.delta"][:, :, :100], arrays["uneven-1"]["trace.delta"][:, :, :100], **CLOSE
        )


def test_no_device_speaks_to_another(drawn):
    assert drawn[1]["cells-4"]["collectives"] == []
