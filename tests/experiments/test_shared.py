"""What experiments share: the kind of every crossing that their summaries list."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from experiments import _shared, landau
from experiments._shared import quantity
from slt.transitions.crossing import Crossing, crossings, estimated
from slt.transitions.predictions import Form
from slt.typing import Quantity

T, H = [15.0, 20.0, 28.0, 40.0], [0.8, 0.85, 0.9]
LADDERS, DRAWS = 16, 1000


def drawn(rng, density, control, wall, t=T) -> xr.Dataset:
    """A part of ladders over t and h: draws of |w| from its density on a grid, exact and independent."""
    w = np.linspace(0, 2.5, 2001)
    square = np.empty((len(t), len(control), LADDERS, DRAWS))
    for i, j in np.ndindex(square.shape[:2]):
        energy = density(w, control[j], t[i])
        share = np.cumsum(np.exp(energy.min() - energy))
        square[i, j] = np.interp(rng.random((LADDERS, DRAWS)), share / share[-1], w) ** 2
    grid, whole = ("t", "h"), ("t", "h", "chain", "draw")
    values = {
        "phase": (whole, (np.sqrt(square) > wall).astype(int), {"names": ["origin", "outer"], "rule": "|w|"}),
        "square": (whole, square),
        "delta": (whole, square),
        "offset": (grid, np.zeros(square.shape[:2])),
        "status": (whole[:-1], np.zeros(square.shape[:-1], int)),
    }
    return xr.Dataset(values, {"t": t, "h": control, "burn_in": ("draw", np.zeros(DRAWS, bool))})


def sixth(w, h, t):
    return t * (w**6 - 2 * w**4 + h * w**2) + np.square(w / 0.4) / 2


def fourth(w, h, t):
    return t * (w**4 / 4 - h * w**2 / 2) + np.square(w) / 2


@pytest.fixture
def run(rng):
    parts = {"main": drawn(rng, sixth, H, np.sqrt(1 / 3)), "pitchfork": drawn(rng, fourth, [-0.2, 0.0, 0.2, 0.4], 0.35)}
    return SimpleNamespace(data=xr.DataTree.from_dict(parts), quantities={}, measures={})


def crossed(run, part="main"):
    """critical_t over h and critical_h over t of a part."""
    data = run.data[part].to_dataset()
    labels = landau._labels(data)
    along_t = [_shared.between(T, one[None], [0], [1]) for one in labels]
    way = ([1], [0]) if part == "main" else ([0], [1])
    along_h = [_shared.between(data["h"].values, labels[None, :, i], *way) for i in range(len(T))]
    return {
        "critical_t[origin->outer]": _shared.row([quantity(one) for one in along_t], "h", data["h"].values.tolist()),
        "critical_h[outer->origin]" if part == "main" else "critical_h[origin->outer]": _shared.row(
            [quantity(one) for one in along_h], "t", T
        ),
    }


def test_first_order_and_continuous_landau(run):
    """The sixth-order potential coexists with its exact barriers, the pitchfork crosses over."""
    found = _shared.kinds(run, crossed(run), landau._shown)
    exact = landau.Exact(2.0, 0.4, float(np.sqrt(1 / 3)))
    known = [exact(h, landau.exact_t(exact, h, T)).barrier for h in H]
    assert found["coexistence[origin->outer]"].value.tolist() == [1.0, 1.0, 1.0]
    assert found["coexistence[origin->outer]"].coords == {"h": H}
    np.testing.assert_allclose(found["barrier[origin->outer]"].value, known, atol=0.5)
    np.testing.assert_allclose(found["label_entropy[origin->outer]"].value, np.log(2), atol=0.02)
    told = found["coexistence[outer->origin]"].value
    assert set(told[np.isfinite(told)]) == {1.0}
    numbers = {f"pitchfork.{name}": one for name, one in crossed(run, "pitchfork").items()}
    told = _shared.kinds(run, numbers, landau._shown)["pitchfork.coexistence[origin->outer]"].value
    assert set(told[np.isfinite(told)]) == {0.0}
    assert np.isfinite(told).any()


def test_without_order_parameters_nothing_is_claimed(run):
    found = _shared.kinds(run, crossed(run))
    assert np.isnan(found["coexistence[origin->outer]"].value).all()
    assert np.isnan(found["barrier[origin->outer]"].value).all()
    assert np.isfinite(found["label_entropy[origin->outer]"].value).all()


def test_kept_draws_count_after_burn_in(run):
    data = run.data["main"].to_dataset()
    kept = {"params": (("t", "h", "chain", "kept", "params_0"), np.zeros((len(T), len(H), LADDERS, 2, 1)))}
    data = data.assign(kept).assign_coords(draw=np.arange(DRAWS), kept_draw=("kept", [100, 300]))
    late = data.assign_coords(burn_in=("draw", np.arange(DRAWS) < 200))
    found = _shared.kept(late, "t", lambda w: w)
    assert found is not None
    assert found.labels.shape == (len(H), len(T), LADDERS, 1)
    assert found.places.shape == (*found.labels.shape, 1)
    assert _shared.kept(data.assign_coords(burn_in=("draw", np.arange(DRAWS) < 400)), "t") is None
    assert _shared.kept(run.data["main"].to_dataset(), "t") is None


def test_crossings_of_other_things_are_passed_over(run):
    one = quantity(Crossing(1.0, 0.1, (0.8, 1.2), True, 0.0, 0.1, True, 9.0))
    names = (
        "critical_step[origin->outer]",
        "critical_t_leading[origin->outer]",
        "critical_t[a->b]",
        "other.critical_t[a->b]",
    )
    assert _shared.kinds(run, dict.fromkeys(names, one)) == {}
    nowhere = Quantity(np.array([np.nan]), np.array([np.nan]), {"h": [0.8]})
    found = _shared.kinds(run, {"critical_t[origin->outer]": nowhere}, landau._shown)
    assert np.isnan(found["label_entropy[origin->outer]"].value).all()


def test_predictions_are_no_measurements():
    """What theory foretells has no error and no interval; a miss has the error of what was measured."""
    a, b = Form(0.1, 1.0, 1, np.nan), Form(0.0, 2.0, 1, np.nan)
    at = Crossing(50.0, 5.0, (42.0, 58.0), True, 0.0, 5.0, True, 9.0)
    found = _shared.foretold("t", "a->b", _shared.theory(a, b, at), at)
    assert set(found) == {"critical_t_leading[a->b]", "miss_leading[a->b]"}
    told, miss = found.values()
    assert told.value == pytest.approx(35.77, abs=0.01)  # t/10 = log t
    assert np.isnan(told.stderr)
    assert told.interval is None
    assert miss.value == pytest.approx(35.77 / 50 - 1, abs=1e-3)
    assert miss.stderr == pytest.approx(35.77 / 50 / 10, abs=1e-3)
    assert _shared.theory(None, b, at) == ()
    rows = _shared.rows([found, {}], "h", [0.1, 0.2])
    assert rows["critical_t_leading[a->b]"].interval is None
    assert np.isnan(rows["miss_leading[a->b]"].value).tolist() == [False, True]


def test_a_fitted_constant_is_called_one():
    """D = t/10 - log t + 1.5, whose constant theory does not know: fitted well past the crossing, it foretells it."""
    a, b = Form(0.1, 1.0, 1, np.nan), Form(0.0, 2.0, 1, np.nan)
    x = np.geomspace(2, 200, 30)
    of = estimated(x, x / 10 - np.log(x) - 1.5, stderr=0.01)
    (at,) = crossings(of).found
    told = {each.name: each for each in _shared.theory(a, b, at, of)}
    assert set(told) == {"leading", "constant_fitted"}
    assert told["constant_fitted"].t == pytest.approx(at.value, rel=0.01)
    assert told["constant_fitted"].note == "constant fitted"
    assert told["leading"].miss < -0.2
    near = estimated(x[:15], of.value[:15], stderr=0.01)  # ends before the crossing: nothing to fit to
    assert [each.name for each in _shared.theory(a, b, None, near)] == ["leading"]
    known = _shared.theory(a._replace(constant=0.0), b._replace(constant=1.5), at, of)
    assert [each.name for each in known] == ["leading", "constant"]
