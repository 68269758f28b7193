"""Free energies of phases against the closed form of the two basins, and of a phase that the prior hardly meets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from stats import Estimate, assert_close

from slt.measure.free_energy import Budget, phase_free_energies
from slt.model import potential
from slt.models import two_basins
from slt.phases import by_threshold
from slt.priors import Normal
from slt.theory import exact
from slt.typing import InputError

T = [10.0, 50.0, 100.0, 300.0, 1000.0]


def both(t):
    e = exact.two_basins(t)
    return np.stack([e.free_energy_u, e.free_energy_v], axis=-1)


def test_both_basins():
    report = phase_free_energies(two_basins.make(), True, T, occupancy=False)
    assert report.names == ("U", "V")
    assert report.start == ("prior", "prior")
    assert_close(report.free_energy, both(T), max_stderr=0.06)
    assert_close(Estimate(report.mass.value[:, 1], report.mass.stderr[:, 1] + 1e-9), exact.two_basins(T).mass_v, 0.02)
    assert report.singular.tolist() == [True, False]
    np.testing.assert_allclose(report.laplace[:, 1], both(T)[:, 1], atol=1e-3)  # V is Gaussian, but for its ends
    assert (report.interior == 1).all()
    assert_close(Estimate(report.fit.value[:, 0], report.fit.stderr[:, 0]), [0.01, 0.0], max_stderr=1e-3)
    assert_close(Estimate(report.fit.value[:, 1], report.fit.stderr[:, 1]), [0.25, 0.5], max_stderr=0.03)
    assert "U left of" in report.verdict[0]


@pytest.mark.statistics
def test_a_phase_that_the_prior_does_not_meet_is_measured_from_its_seed():
    """K = 2 |w - 7|^2 beyond w_1 = 6, prior mass 1e-9; F of that phase is a Gaussian integral, cut at 6."""
    t, centre = np.array([5.0, 20.0]), jnp.array([7.0, 0.0])

    def k(w):
        return jnp.where(w[0] > 6, 2 * jnp.sum(jnp.square(w - centre)), 60.0 + 0 * w[1])

    far = by_threshold(("near", "far"), lambda w: w[0], 6.0, "far where w_1 > 6")
    report = phase_free_energies(
        potential(k, 2, Normal()), far, t, seeds=(centre,), occupancy=False, budget=Budget(particles=256, runs=8)
    )
    a = 1 + 4 * t
    mean = 4 * t * 7 / a
    exact_far = np.log(a) + 2 * t * 49 / a - special.log_ndtr((mean - 6) * np.sqrt(a))
    assert report.start == ("prior", "seed")
    estimate = report.free_energy
    assert_close(Estimate(estimate.value[:, 1], estimate.stderr[:, 1] + 1e-4), exact_far, max_stderr=0.05)
    assert_close(Estimate(estimate.value[:, 0], estimate.stderr[:, 0] + 1e-4), 60 * t, max_stderr=0.01)


BALL = by_threshold(("out", "ball"), lambda w: -jnp.sum(jnp.square(w.at[0].add(-0.5))), -1.0, "ball about the minimum")


def in_ball(t):
    """F of both phases of K = 4 |w - c|^2 in d = 10, c = (1/2, 0, ...), ball |w - c| < 1: a non-central chi^2."""
    a = 1 + 8 * t
    whole = 5 * np.log(a) + t / a
    inside = stats.ncx2.cdf(a, 10, 0.25 / a)
    return np.stack([whole - np.log1p(-inside), whole - np.log(inside)], axis=-1)


@pytest.mark.slow
def test_a_rare_phase_is_found_by_descent():
    """A ball of prior mass 1e-4, no seed given: draws of the prior descend into it."""
    t = np.array([0.3, 1.0, 3.0])
    model = potential(lambda w: 4 * jnp.sum(jnp.square(w.at[0].add(-0.5))), 10, Normal())
    report = phase_free_energies(model, BALL, t, occupancy=False)
    assert report.start == ("prior", "seed")
    assert_close(report.free_energy, in_ball(t), max_stderr=0.15)


@pytest.mark.slow
def test_a_rare_phase_of_several_valleys_is_not_measured_from_one():
    """Two small balls, mirror images: from one of them log 2 would be missed."""
    centre = jnp.array([0.0, 0.0, 0.0, 0.0, 0.0, 3.0])

    def apart(w):
        return jnp.minimum(jnp.sum(jnp.square(w - centre)), jnp.sum(jnp.square(w + centre)))

    balls = by_threshold(("out", "balls"), lambda w: -apart(w), -0.2, "balls about both minima")
    report = phase_free_energies(
        potential(lambda w: 4 * apart(w), 6, Normal()), balls, [50.0], occupancy=False,
        budget=Budget(particles=64, runs=2),
    )  # fmt: skip
    assert report.start[1] == "none"
    assert "no seed lies in it" in " ".join(report.verdict)


def test_phases_must_be_known():
    with pytest.raises(InputError, match="knows no partition"):
        phase_free_energies(potential(lambda w: jnp.sum(w**2), 1, Normal()), True, [1.0])
    with pytest.raises(InputError, match="or True for"):
        phase_free_energies(two_basins.make(), "U", [1.0])


@pytest.mark.statistics
def test_occupancy_of_ladders_that_mix_agrees():
    report = phase_free_energies(two_basins.make(), True, T, key=jax.random.key(1))
    assert_close(report.free_energy, both(T), max_stderr=0.04)
    assert_close(report.occupancy, both(T), max_stderr=0.15)
    assert not any("does not mix" in sentence for sentence in report.verdict)
