"""docs/determinism.md: what its table says and no test elsewhere shows, and that every test it names is there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import test_engine
from test_engine import Location, small_run

from slt import observables as ob
from slt.cells import grid
from slt.engine import run
from slt.model import Rounded
from slt.models import deep_linear

ROOT = Path(__file__).resolve().parent


def test_every_test_that_the_table_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (ROOT.parent / "docs" / "determinism.md").read_text()))
    there = {
        name for file in ROOT.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert len(named) > 8
    assert named <= there


def test_a_cell_alone_is_the_same_cell():
    whole = small_run()
    alone = small_run(cells=grid(Location(), n=[100], beta=["1/log n"], data_seed=[1]))
    where = next(i for i, cell in enumerate(whole.plan.cells) if cell.coords == alone.plan.cells[0].coords)
    np.testing.assert_allclose(alone.traces["delta"][0], whole.traces["delta"][where], rtol=1e-4, atol=1e-5)


def test_another_seed_changes_the_draws_and_not_the_data():
    one, other = small_run(), small_run(key=jax.random.key(1))
    np.testing.assert_array_equal(one.offset, other.offset)  # L_n at the reference: the data's own
    assert not np.isclose(one.traces["delta"], other.traces["delta"]).any(axis=-1).all()


@pytest.mark.slow
def test_a_cpu_draws_the_same_bits_in_any_precision():
    model = deep_linear.make((3, 3, 3))
    found = [
        run(one, test_engine.SAMPLER, grid(one, n=[50]), test_engine.WATCH, test_engine.SCHEDULE, key=test_engine.KEY)
        for one in (model, Rounded(model, "bf16"))
    ]
    np.testing.assert_array_equal(found[0].traces["delta"], found[1].traces["delta"])


def test_observables_do_not_change_the_draws():
    cells = grid(Location(), n=[10, 100], beta=["1", "1/log n"], data_seed=[0, 1])
    more = test_engine.WATCH | {"distance": ob.trace(ob.distance), "acceptance": ob.trace(ob.acceptance)}
    found = run(Location(), test_engine.SAMPLER, cells, more, test_engine.SCHEDULE, key=test_engine.KEY)
    np.testing.assert_array_equal(found.traces["delta"], small_run().traces["delta"])
