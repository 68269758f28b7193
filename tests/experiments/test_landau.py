"""Landau's potential: what the demo measures of the line of coexistence, against quadrature."""

import numpy as np
import pytest

from experiments import landau as experiment
from experiments._landau import ORIGIN, OUTER, exact_t
from slt import config, runs
from slt.transitions import lines


@pytest.mark.statistics
def test_demo_follows_the_line(tmp_path):
    """t_c within 2 per cent and slopes within 5 of quadrature, along all of the line; and where it ends."""
    run = runs.begin(config.compose("landau/demo"), tmp_path / "run")
    told, exact = run.quantities, experiment._exact(run)
    true = experiment.line(run, exact)
    assert true is not None
    (end,) = [mark for mark in true.marks if mark.kind == "end"]
    assert abs(told["end_h"].value - end.h) < 4 * told["end_h"].stderr
    assert abs(told["end_t"].value - end.t) < 4 * told["end_t"].stderr
    critical, slope = told["critical_t[origin->outer]"], told["slope[clausius_clapeyron]"]
    assert critical.interval is not None
    seen = 0
    for h, t, stderr, interval, steep in zip(
        critical.coords["h"], critical.value, critical.stderr, critical.interval, slope.value, strict=True
    ):
        if not np.isfinite(t):
            assert h <= end.h + 4 * told["end_h"].stderr or h >= 0.98, "no t of the line where it passes"
            continue
        seen += 1
        known = exact_t(exact, h, [5, 220])
        assert t == pytest.approx(known, rel=0.02)
        assert abs(t - known) < 4 * stderr
        assert interval[0] < t < interval[1]
        here = exact(h, known)
        assert here.free_energy[ORIGIN] == pytest.approx(here.free_energy[OUTER], abs=1e-3)
        assert steep == pytest.approx(float(lines.clausius_clapeyron(known, here.loss, here.force).value), rel=0.05)
    assert seen >= 8
    ladder = told["ladder_t[origin->outer]"]
    some = [
        (t, stderr, exact_t(exact, h, [5, 220])) for h, t, stderr in zip(ladder.coords["h"], *ladder[:2], strict=True)
    ]
    for t, stderr, known in some:
        assert not np.isfinite(t) or abs(t - known) < 4 * stderr
