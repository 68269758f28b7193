"""slt.transition on landscapes whose crossing is known exactly, and what its intervals are worth."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import slt
from slt.cells import data_words
from slt.engine.program import draw_data
from slt.measure.crossings import laplace_form
from slt.measure.free_energy import Budget
from slt.measure.hysteresis import Loop
from slt.measure.transition import repeated, transition
from slt.models import gaussian_location, landau, two_basins
from slt.theory.quadrature import quadrature
from slt.transitions.crossing import crossings, estimated
from slt.transitions.predictions import Form
from slt.typing import Estimate, InputError

OPEN = Estimate(np.array(np.inf), np.array(0.0))
CRITICAL = 294.138961658
GRID = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0]


def test_two_basins():
    found = transition(two_basins.make(), t=GRID, exact=CRITICAL)
    one = found.critical
    assert one is not None
    assert len(found.crossings.found) == 1  # the mass of V falls and rises below t = 100: no transition
    assert one.certain
    assert one.stderr < 0.012 * CRITICAL
    assert abs(one.value - CRITICAL) < 4 * one.stderr
    assert abs(one.value / CRITICAL - 1) < 0.02
    assert found.kind is not None
    assert found.kind.kind == "coexistence"
    named = found.quantities["critical_t[U->V]"]
    assert named.interval is not None
    assert named.interval[0] < named.value < named.interval[1]
    assert found.quantities["coexistence[U->V]"].value == 1
    np.testing.assert_allclose(found.quantities["label_entropy[U->V]"].value, np.log(2), atol=0.02)
    told = {each.name: each for each in found.predictions}
    np.testing.assert_allclose(told["leading"].t, 119.6, atol=0.1)
    assert abs(told["constant"].miss) < 0.03
    assert (told["leading"].note, told["constant"].note) == ("", "constant fitted")
    assert "Theory: leading" in str(found)
    assert "Fit" not in str(found)
    assert "singular" in told["laplace"].note
    assert "U -> V" in str(found)


def test_no_crossing_is_invented():
    found = transition(two_basins.make(), t=[1.0, 5.0, 20.0, 50.0, 150.0], budget=Budget(runs=8, particles=256))
    assert found.critical is None
    assert not found.crossings.found
    assert "No crossing" in str(found)
    assert found.quantities == {}


def test_bad_input():
    model = two_basins.make()
    with pytest.raises(InputError, match="give t for a potential"):
        transition(model, n=[10, 20, 30, 40])
    with pytest.raises(InputError, match="at least four"):
        transition(model, t=[10.0, 20.0])
    with pytest.raises(InputError, match="unknown; this partition has U, V"):
        transition(model, t=GRID, between=("U", "W"))
    with pytest.raises(InputError, match="names of two phases"):
        transition(model, t=GRID, between=("U", "U"))


@pytest.mark.statistics
def test_intervals_cover():
    t = np.geomspace(240, 360, 5)
    found = repeated(two_basins.make(), t=t, repetitions=400, runs=8, particles=128)
    ones = [each.only() for each in found]
    held = [one is not None and one.interval[0] <= CRITICAL <= one.interval[1] for one in ones]
    assert 0.86 <= np.mean(held) <= 0.94
    values = np.array([one.value for one in ones if one is not None])
    assert abs(values.mean() - CRITICAL) < 4 * values.std() / 20 + 0.15 * values.std()  # bias well inside the interval


def two_wells(centre_a, centre_b, loss, sharp):
    """K = min(loss + |w - a|^4, sharp |w - b|^2), and which branch is the lower."""
    a, b = np.asarray(centre_a, float), np.asarray(centre_b, float)

    def branches(w, xp):
        square = [xp.sum(xp.square(w - xp.asarray(c, w.dtype)), axis=-1) for c in (a, b)]
        return loss + square[0] ** 2, sharp * square[1]

    phases = slt.Phases(
        ("A", "B"), lambda w: jnp.asarray(jnp.greater(*branches(w, jnp)), jnp.int32), "the lower branch"
    )
    model = slt.potential(lambda w: jnp.minimum(*branches(w, jnp)), a.size, slt.Uniform(-2.0, 2.0))

    def lift(w):
        """In three dimensions, both centres on the first axis: (x, r) as (x, r, 0), corners of the box left out."""
        return np.concatenate([w, np.zeros_like(w[..., :1])], -1) if a.size == 3 else w

    def gap(log_t):
        q = quadrature(
            lambda w: np.minimum(*branches(lift(w), np)), np.exp(log_t), [(-2, 2), (0, 2)] if a.size == 3 else
            [(-2, 2)] * a.size, (lambda w: np.log(np.maximum(w[..., 1], 1e-300))) if a.size == 3 else None,
            region=lambda w: np.greater(*branches(lift(w), np)).astype(int),
        )  # fmt: skip
        return float(np.subtract(*q.region_free_energy))

    return model, phases, gap


@pytest.mark.slow
def test_what_was_fitted_is_no_theory_and_loops_count():
    """Of a landscape of which nothing is known the asymptotic forms are fits to the F measured, and are called that."""
    model, phases, _ = two_wells([-0.8], [1.2], 0.04, 8.0)
    t, small = np.geomspace(2, 2000, 9), Budget(runs=8, particles=128)
    loop = Loop(("B", "A"), *[np.zeros(0)] * 3, *[Estimate(np.zeros(0), np.zeros(0))] * 3, OPEN, "")
    found = transition(model, phases, t=t, budget=small, seconds=1.0, hysteresis=loop)
    told = {each.name: each for each in found.predictions}
    assert told["leading"].note == told["constant"].note == "fitted"
    assert told["laplace"].note != "fitted"
    theory, fit = str(found).split("Fit to the F measured, no theory: ")
    assert "leading" in fit
    assert "laplace" in theory.split("Theory: ")[1]
    assert "the loop between sweeps up and down stays open" in str(found)
    assert found.kind is not None
    assert found.kind.kind == "coexistence"
    with pytest.raises(InputError, match="not one between A and B"):
        transition(model, phases, t=t, hysteresis=dataclasses.replace(loop, names=("U", "V")))


def test_laplace_about_a_known_basin():
    """Of the sixth-order potential at large t, against a sum over one of the two minima."""
    model, t = landau.make(), 3e4
    told = laplace_form(model, "outer")
    assert told is not None
    form, flat = told
    w = np.linspace(0.6, 1.5, 200_001)
    k = w**6 - 2 * w**4 + 0.9 * w**2
    density = np.exp(-t * (k - k.min()) - np.square(w / 0.4) / 2) / (0.4 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(form.at(t), -np.log(density.sum() * (w[1] - w[0])), atol=2e-3)
    assert not flat
    degenerate = laplace_form(two_basins.make(), "U")
    assert degenerate is not None
    assert degenerate[1]
    assert degenerate[0][:3] == pytest.approx(Form(0.01, 0.5)[:3])
    assert laplace_form(gaussian_location.GaussianLocation(1, 0.4), "low") is None


@pytest.mark.statistics
@pytest.mark.parametrize(
    "a, b, loss, sharp",
    [([-0.8], [1.2], 0.04, 8.0), ([-1, 0], [1, 0.3], 0.05, 8.0), ([-1, 0, 0], [1, 0, 0], 0.1, 6.0)],
)
def test_other_landscapes(a, b, loss, sharp):
    model, phases, gap = two_wells(a, b, loss, sharp)
    found = transition(model, phases, t=np.geomspace(2, 2000, 9))
    assert found.critical is not None
    assert found.kind is not None
    assert found.kind.kind == "coexistence"
    middle = np.log(found.critical.value)
    exact = np.exp(optimize.brentq(gap, middle - 0.3, middle + 0.3, xtol=1e-5))
    assert abs(found.critical.value - exact) < 4 * found.critical.stderr
    assert abs(found.critical.value / exact - 1) < 0.02


@pytest.mark.statistics
def test_the_scalar_chain_is_a_crossover():
    """w1 w2 = s: 'learned' where the product passes s/2."""
    chain = slt.potential(lambda w: jnp.square(w[0] * w[1] - 0.3), 2, slt.Normal())
    learned = slt.Phases(
        ("zero", "learned"), lambda w: jnp.asarray(w[0] * w[1] > 0.15, jnp.int32), "learned where w1 w2 > s/2"
    )
    found = transition(chain, learned, t=np.geomspace(1, 3000, 9), order=lambda w: w[0] * w[1])
    assert found.critical is not None
    assert found.kind is not None
    assert found.kind.kind == "crossover"


@pytest.mark.slow
def test_on_data_against_the_closed_form():
    """Gaussian location, mean 0.4, cut at 0.25: the prior prefers the lower half, the data in the end the upper one."""
    model = gaussian_location.GaussianLocation(1, 0.4)
    phases = slt.phases.by_threshold(("low", "high"), lambda w: w[0], 0.25, "high where w > 0.25")
    n, seeds = np.array([4, 8, 16, 32, 64]), (0, 1, 2, 3)
    found = transition(model, phases, n=n, data_seeds=seeds, budget=Budget(runs=4, particles=64))
    y = np.asarray(draw_data(model, jnp.stack([jnp.asarray(data_words(k)) for k in seeds]), {}, 64))[..., 0]
    means = np.cumsum(y, axis=1)[:, found.x.astype(int) - 1]
    z = (means / (found.x + 1) - 0.25) * np.sqrt(found.x + 1)  # the posterior is N(sum y/(n + 1), 1/(n + 1))
    exact = special.log_ndtr(z) - special.log_ndtr(-z)  # F_low - F_high = log(mass_high/mass_low)
    assert found.refined.paths is not None
    np.testing.assert_allclose(found.refined.paths, exact, atol=0.35)
    assert found.paths is not None
    assert found.paths.changes.shape == (4,)
    assert found.axis == "n"
    assert "4 data sets" in str(found)
    if found.critical is not None:
        told = found.quantities
        assert told["first_n[low->high]"].value <= told["last_n[low->high]"].value
        assert np.isfinite(told["spread_data[low->high]"].value)
    mean = crossings(estimated(found.x, exact.mean(0), stderr=1e-6)).found
    assert [each.upward for each in found.crossings.found] == [each.upward for each in mean] or found.crossings.notes
    assert found.kind is None or found.kind.kind != "coexistence"


@pytest.mark.statistics
def test_a_phase_of_two_mirror_images_coexists_with_the_origin():
    """The sixth-order potential of Landau below its tricritical point: t_c within 2 per cent of quadrature."""
    model, wall = landau.make(), np.sqrt(2 / 6)
    found = transition(model, t=np.geomspace(3, 300, 9))
    w = np.linspace(-4, 4, 400_001)
    k = w**6 - 2 * w**4 + 0.9 * w**2
    k, prior = k - k.min(), -np.square(w / 0.4) / 2

    def gap(t):
        weight = np.exp(-t * k + prior)
        return np.log(weight[np.abs(w) >= wall].sum() / weight[np.abs(w) < wall].sum())

    exact = optimize.brentq(gap, 10, 100)
    assert found.critical is not None
    assert found.critical.value == pytest.approx(exact, rel=0.02)
    assert found.kind is not None
    assert found.kind.kind == "coexistence"
