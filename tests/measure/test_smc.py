"""SMC and nested sampling against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth
from stats import Estimate, assert_close

from slt.estimators.free_energy import over_runs
from slt.measure import confined, crossings, nested, routes, smc, target
from slt.measure import seeds as seeds_of
from slt.measure.evidence import Budget
from slt.measure.paths import Path
from slt.models import normal_crossing, sums_of_squares, two_basins
from slt.phases import by_threshold
from slt.theory import exact

T = np.array([10.0, 100.0, 1000.0])


def logs(runs):
    return np.array([each.log_z[each.at] for each in runs])


@pytest.mark.slow
def test_both_estimates_from_the_particles():
    """The product of increments and persistent sampling, on a box with reflecting walls."""
    of = target.make(normal_crossing.make((1, 1)))
    runs = smc.run(Path(of.posterior), T, jax.random.key(1), runs=16, particles=256)
    assert all(each.ended and each.s[each.at] == pytest.approx(T) for each in runs)
    known = [truth.normal_crossing(t, 2)[0] for t in T]
    for table in (logs(runs), np.array([smc.persistent(each) for each in runs])):
        assert_close(over_runs(table), known, max_stderr=0.04)
    barrier = routes.rungs(runs, T)
    assert barrier[0] == 0
    assert np.isin(T, barrier).all()
    assert (np.diff(barrier) > 0).all()
    assert len(barrier) < 20


@pytest.mark.slow
def test_seeded_path_gives_the_mass_near_a_seed():
    """All of a Gaussian posterior lies in its seed's ellipsoid; one far off carries next to nothing."""
    of = target.make(sums_of_squares.make(3))
    seeds = seeds_of.about(of, [jnp.zeros(3), jnp.full(3, 2.0)], T)
    found = seeds_of.seeded(of, seeds, T, jax.random.key(2), runs=8, particles=128)
    exact = truth.sum_of_squares(T, 3)[0]
    assert_close(Estimate(found.value[:, 0], np.maximum(found.stderr[:, 0], 1e-4)), exact, max_stderr=0.01)
    assert (np.exp(exact[1:] - found.value[1:, 1]) < 1e-6).all()
    assert (seeds.member(0, np.zeros((4, 3))) == 0).all()
    assert seeds.member(2, np.full(3, 30.0)) == -1


def test_nested_sampling_gives_every_t_in_one_run():
    of = target.make(two_basins.make())
    t = np.array([10.0, 100.0, 500.0])
    runs = nested.run(of.posterior, t[-1], jax.random.key(3), runs=8, points=256)
    exact = [truth.two_basins(each) for each in t]
    estimate = nested.averaged(runs, t)
    assert_close(estimate, [-np.logaddexp(-u.free_energy, -v.free_energy) for u, v, _ in exact], max_stderr=0.12)
    share = [each.share(500.0, each.w[:, 0] > truth.TWO_BASINS_BOUNDARY) for each in runs]
    assert abs(np.mean(share) - exact[-1][2]) < 4 * np.std(share) / np.sqrt(8)


def test_a_confined_path_stays_inside():
    """SMC from the prior restricted to one side of 0 gives F of the half, and no particle leaves it."""
    of = target.make(sums_of_squares.make(2))
    side = by_threshold(("left", "right"), lambda w: w[0], 0.5, "by the first coordinate")
    draws = jnp.asarray(np.random.default_rng(0).standard_normal((100_000, 2)), of.posterior.beta.dtype)
    start = draws[draws[:, 0] >= 0.5][: 8 * 512].reshape(8, 512, 2)
    seen = []
    path = Path(of.posterior, None, jnp.ones(8, jnp.int32), side)

    def look(run, at, w):
        seen.append(np.asarray(w)[:, 0].min())
        return np.zeros(len(w))

    runs = smc.run(path, [10.0], jax.random.key(4), runs=8, particles=512, start=start, watch=look)
    from scipy import stats

    scale = np.sqrt(1 / 21.0)
    whole = stats.norm.sf(0.5, scale=scale) / stats.norm.sf(0.5)
    assert_close(over_runs(logs(runs)), np.log(21.0) - np.log(whole), max_stderr=0.1)
    assert min(seen) >= 0.5


def test_an_average_over_runs_is_that_of_z():
    rng = np.random.default_rng(5)
    log_z = rng.normal(-0.5, 1.0, (4000, 1))  # mean of Z = 1
    estimate = over_runs(log_z)
    assert_close(estimate, 0.0, max_stderr=0.03)
    assert np.isnan(over_runs(log_z[:1]).stderr).all()
    assert over_runs(np.array([[0.0], [-np.inf]])).value[0] == pytest.approx(np.log(2))


@pytest.mark.statistics
def test_few_particles_leave_no_bias_that_runs_would_not_average_away():
    """F of the phases of two basins from 1024 runs of 128 particles: with stages of their own .034 too low."""
    times, number = np.array([10.0, 50.0, 150.0, 294.138961658]), 128
    model = two_basins.make()
    of = target.make(model)
    phases = confined.known(of, True)
    found = confined.replicates(of, times, phases, jax.random.key(1), budget=Budget(runs=1024, particles=number))
    known = exact.two_basins(times)
    share = (exact.TWO_BASINS_BOUNDARY + 2) / 4
    for a, (value, mass) in enumerate(((known.free_energy_u, share), (known.free_energy_v, 1 - share))):
        anchored = crossings.table(found, phases, a) - np.log(np.asarray(found.prior_mass.value)[a]) + np.log(mass)
        rows = crossings.jackknife(anchored)
        error = rows.std(0, ddof=1) / np.sqrt(len(rows))
        assert (error < 0.006).all()
        assert (np.abs(rows.mean(0) - value) < 4 * error).all()


def test_an_average_that_rests_on_one_run_says_so(rng):
    """log Z of runs that spread by nats: the error is that of a run, where one carries the mean, and covers."""
    held = []
    for _ in range(300):
        log_z = 2.0 * rng.normal(size=8) - 2.0  # Z is 1 in the mean
        estimate = over_runs(log_z)
        held.append(abs(float(estimate.value)) < 2 * float(estimate.stderr))
    assert np.mean(held) > 0.8
    alike = 0.2 * rng.normal(size=64)
    assert over_runs(alike).stderr == pytest.approx(np.std(alike, ddof=1) / 8, rel=0.1)
