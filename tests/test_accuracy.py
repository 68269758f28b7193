"""A fast slice of the accuracy benchmark; `python benchmarks/accuracy.py` runs all of it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SLICE = ["regression n=100 d=3", "(xy)^2", "V, t=300", "cusp"]


@pytest.fixture(scope="module")
def accuracy() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("accuracy", FOLDER / "accuracy.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_targets_of_all_families(accuracy) -> None:
    found = list(accuracy.targets())
    assert len(found) >= 40
    families = {target.family for target in found}
    assert families >= {"regular", "m = 1", "m = 2", "m = 3", "deep linear", "reduced rank", "tanh", "mixture"}
    assert families >= {"superposition", "two basins", "power law", "dead unit"}


@pytest.mark.parametrize("name", SLICE)
def test_estimates_are_right(accuracy, name) -> None:
    target = next(target for target in accuracy.targets() if target.name == name)
    record = accuracy.measure(target, 1, old=name == SLICE[0])
    assert record["error"][0] <= 0.03
    estimate = record["estimates"][0]
    stderr = np.hypot(estimate["stderr"], record["exact_stderr"])
    assert abs(estimate["value"] - record["exact"]) < 4 * stderr < 0.03
    assert name in accuracy.line(record)
    assert accuracy.summary([record])["all"]["estimates"] == 1
    if "sgld" in record:  # the spread of its chains is no error bar, and it is far off
        assert record["sgld"]["error"] > record["error"][0]
