"""slt.transition along a control of a potential, and on data along beta and a control, against exact crossings."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special

import slt
from slt.cells import data_words
from slt.engine.program import draw_data
from slt.measure import smc
from slt.measure.transition import repeated, scaling, transition
from slt.models import gaussian_location, landau
from slt.typing import InputError

FIELDS = np.linspace(0.5, 1.2, 5)
SMALL = slt.Budget(runs=8, particles=256)


def exact_h(t: float) -> float:
    """h at which |w| < sqrt(b/6) and the rest weigh the same under exp(-t (w^6 - 2 w^4 + h w^2) - (w/0.4)^2/2)."""
    wall = np.sqrt(2 / 6)

    def gap(h: float) -> float:
        def density(w: float) -> float:
            return np.exp(-t * (w**6 - 2 * w**4 + h * w**2) - (w / 0.4) ** 2 / 2)

        return integrate.quad(density, 0, wall)[0] - integrate.quad(density, wall, 3, points=[1.0])[0]

    return float(optimize.root_scalar(gap, bracket=(0.5, 1.2)).root)


def test_coexistence_along_the_field():
    """The sixth-order potential below its tricritical point: the outer pair gives way to the origin as h grows."""
    programs = []
    for t in (30.0, 60.0):
        found = transition(landau.make(), t=t, control={"h": FIELDS}, budget=SMALL, seconds=1.0)
        programs.append(smc._stages._cache_size())  # pyright: ignore[reportAttributeAccessIssue]
        one, exact = found.critical, exact_h(t)
        assert one is not None
        assert found.axis == "h"
        assert found.names == ("outer", "origin")  # neither order was asked for: the one in which they follow
        assert one.value == pytest.approx(exact, rel=0.02)
        assert abs(one.value - exact) < 4 * one.stderr
        assert one.stderr < 0.005
        assert found.kind is not None
        assert found.kind.kind == "coexistence"
        named = found.quantities["critical_h[outer->origin]"]
        assert named.interval is not None
        assert named.interval[0] < named.value < named.interval[1]
        assert f"along h at t = {t:g}" in str(found)
        assert found.free_energy.value.shape == (5, 2)
    assert programs[0] == programs[1]  # every value of h, and of t, runs through one compiled program


@pytest.mark.slow
def test_a_crossing_that_the_classifier_alone_makes():
    """The pitchfork at fixed t: the mass moves out of |w| < radius as h grows, over no barrier."""
    found = transition(landau.pitchfork(), t=20.0, control={"h": np.linspace(-0.5, 1.0, 6)}, seconds=3.0)
    assert found.names == ("origin", "outer")
    assert found.critical is not None
    assert found.kind is not None
    assert found.kind.kind == "crossover"


def test_names_that_were_asked_for_are_kept():
    asked = ("origin", "outer")
    found = transition(landau.make(), t=30.0, control={"h": FIELDS}, budget=SMALL, seconds=1.0, between=asked)
    assert found.names == asked
    assert found.critical is None
    assert found.quantities == {}
    assert "it is outer that gives way to origin" in str(found)


@pytest.mark.parametrize(
    "asked, field, cure",
    [
        ({"t": 50.0, "control": {"g": FIELDS}}, "control", "it has: h, b"),
        ({"t": 50.0, "control": {"hh": FIELDS}}, "control", "nearest is 'h'"),
        ({"t": 50.0, "control": {"h": FIELDS, "b": FIELDS}}, "control", "give one control"),
        ({"t": 50.0, "control": {"h": FIELDS[:3]}}, "control.h", "at least four values"),
        ({"t": 50.0, "control": {"h": [0.5, 0.6, np.nan, 0.8]}}, "control.h", "must be finite"),
        ({"t": 50.0, "control": {"h": ["low", "high"]}}, "control.h", "must be numbers"),
        ({"t": [40.0, 50.0], "control": {"h": FIELDS}}, "t", "give one t: it is h that varies"),
        ({"t": -1.0, "control": {"h": FIELDS}}, "t", "> 0"),
        ({"control": {"h": FIELDS}}, "t, n", "give t for a potential"),
        ({"t": [1, 2, 3, 4], "beta": [0.1, 0.2, 0.3, 0.4]}, "beta", "leave it out"),
    ],
)
def test_bad_input(asked, field, cure):
    with pytest.raises(InputError, match=cure) as caught:
        transition(landau.make(), **asked)
    assert caught.value.field == field


def test_bad_input_on_data():
    model = gaussian_location.GaussianLocation(1, 0.4)
    phases = slt.phases.by_threshold(("low", "high"), lambda w: w[0], 0.25, "high where w > 0.25")
    with pytest.raises(InputError, match="give one n: it is beta that varies"):
        transition(model, phases, n=[8, 16], beta=[0.1, 0.2, 0.5, 1.0])
    with pytest.raises(InputError, match="give one beta: it is mean that varies"):
        transition(model, phases, n=8, beta=[0.1, 0.2, 0.5, 1.0], control={"mean": FIELDS})


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["beta", "mean"])
def test_on_data_against_the_closed_form(axis):
    """Gaussian location cut at 0.25, prior N(0, 1): the posterior is N(n beta ybar/(n beta + 1), 1/(n beta + 1))."""
    model = gaussian_location.GaussianLocation(1, 0.5)
    phases = slt.phases.by_threshold(("low", "high"), lambda w: w[0], 0.25, "high where w > 0.25")
    seeds, budget = (0, 1, 2, 3), slt.Budget(runs=4, particles=64)
    grid = np.array([0.05, 0.1, 0.2, 0.4, 1.0]) if axis == "beta" else np.linspace(-0.5, 1.0, 5)
    asked: dict[str, Any] = {"beta": grid} if axis == "beta" else {"control": {"mean": grid}}
    found = transition(model, phases, n=32, data_seeds=seeds, budget=budget, **asked)
    y = np.asarray(draw_data(model, jnp.stack([jnp.asarray(data_words(k)) for k in seeds]), {}, 32))[..., 0]
    nbeta = 32 * found.x if axis == "beta" else np.full(found.x.size, 32.0)
    shift = 0.0 if axis == "beta" else found.x - 0.5
    middle = (y.mean(1)[:, None] + shift) * nbeta / (nbeta + 1)
    z = (middle - 0.25) * np.sqrt(nbeta + 1)
    exact = special.log_ndtr(z) - special.log_ndtr(-z)  # F_low - F_high
    assert found.refined.paths is not None
    np.testing.assert_allclose(found.refined.paths, exact, atol=0.35, rtol=0.03)
    assert found.axis == axis
    assert f"along {axis} at n = 32" in str(found)
    if axis == "mean":
        assert found.critical is not None
        assert "critical_mean[low->high]" in found.quantities
        assert found.kind is None or found.kind.kind != "coexistence"


@pytest.mark.statistics
@pytest.mark.parametrize("t", [30.0, 60.0])
def test_intervals_along_the_field_cover(t):
    exact = exact_h(t)
    h = exact + np.linspace(-0.03, 0.03, 5)
    found = repeated(landau.make(), t=t, control={"h": h}, between=("outer", "origin"), repetitions=200, runs=8,
                     particles=128)  # fmt: skip
    ones = [each.only() for each in found]
    held = [one is not None and one.interval[0] <= exact <= one.interval[1] for one in ones]
    assert 0.82 <= np.mean(held) <= 0.97
    values = np.array([one.value for one in ones if one is not None])
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(values.size) + 0.15 * values.std()


@pytest.mark.statistics
@pytest.mark.parametrize("t", [5.0, 100.0])
def test_the_pitchfork_is_a_crossover_at_any_t(t):
    found = transition(landau.pitchfork(), t=t, control={"h": np.linspace(-0.5, 1.0, 7)}, seconds=5.0)
    assert found.kind is not None
    assert found.kind.kind == "crossover"


@pytest.mark.slow
def test_the_order_of_a_transition_needs_a_family():
    """At the crossing in h the sixth-order potential's barrier grows like t; the pitchfork's stays nothing."""
    found = {
        t: transition(landau.make(), t=t, control={"h": np.linspace(0.7, 1.0, 5)}, seconds=1.0, profile=True)
        for t in (15.0, 25.0, 40.0)
    }
    told = scaling("t of the sixth-order potential", found)
    assert told.kind == "first order"
    top, bottom = exact_barrier(40.0), exact_barrier(15.0)
    assert float(told.slope.value) == pytest.approx((top - bottom) / 25, rel=0.15)
    flat = {
        t: transition(landau.pitchfork(), t=t, control={"h": np.linspace(-0.5, 1.0, 6)}, seconds=1.0)
        for t in (10.0, 20.0, 40.0)
    }
    assert scaling("t of the pitchfork", flat).kind == "continuous"
    bounded = transition(landau.make(), t=200.0, control={"h": np.linspace(0.7, 1.1, 5)}, budget=SMALL, seconds=1.0)
    with pytest.raises(InputError, match="profile=True"):
        scaling("t", {200.0: bounded})
    with pytest.raises(InputError, match="at least three sizes"):
        scaling("t", {size: found[size] for size in (15.0, 25.0)})
    with pytest.raises(InputError, match="name the family"):
        scaling("", found)


def exact_barrier(t: float) -> float:
    """Rise of t K(w) + (w/0.4)^2/2 at the crossing, from the shallower of its minima to the top between them."""
    h, w = exact_h(t), np.linspace(0, 2, 200_001)
    energy = t * (w**6 - 2 * w**4 + h * w**2) + (w / 0.4) ** 2 / 2
    outer = int(energy[w > 0.6].argmin() + (w <= 0.6).sum())
    return float(energy[:outer].max() - max(energy[0], energy[outer]))
