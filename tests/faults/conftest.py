"""A run that nothing disturbed, beside which the others are held."""

from pathlib import Path

import pytest
from faults.processes import TINY, slt

SWEEP = ["schedule.draws=512", "parts.wells.schedule.draws=256"]
WRITES = ["schedule.draws=512", "schedule.chunk=2", "schedule.keep_params=2", "parts.wells.schedule.chunk=2"]


@pytest.fixture(scope="session", params=[SWEEP, WRITES], ids=["sweep", "writes"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Overrides of a run, and the run that nothing disturbed."""
    place = tmp_path_factory.mktemp("undisturbed") / "run"
    assert slt("run", TINY, *request.param, "--out", place)[0] == 0
    return request.param, place
