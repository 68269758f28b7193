import numpy as np
import pytest
from arviz_stats.base.array import array_stats
from stats import assert_close, assert_coverage, autoregressive, coverage

from slt.estimators import diagnostics
from slt.typing import Estimate, InputError


def two_states(rng, enter, leave, shape):
    """A stationary two-state Markov chain along the last axis: True with probability enter/(enter + leave)."""
    state = np.empty(shape, bool)
    state[..., 0] = rng.random(shape[:-1]) < enter / (enter + leave)
    uniform = rng.random(shape)
    for i in range(1, shape[-1]):
        state[..., i] = np.where(state[..., i - 1], uniform[..., i] >= leave, uniform[..., i] < enter)
    return state


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("chains,draws", [(1, 2000), (2, 500), (4, 500), (8, 500), (32, 200)])
def test_mean_covers_for_mixing_chains(rho, chains, draws):
    rng = np.random.default_rng([1, chains, int(100 * (1 + rho))])
    replicas = 400
    estimate = diagnostics.mean(autoregressive(rng, rho, (replicas, chains, draws)))
    assert_coverage(estimate, 0.0, least=0.92, most=0.999, far=0.005)
    # Not by being wide: the typical error is near the true one.
    true = np.sqrt((1 + rho) / (1 - rho) / draws / chains)
    limit = 1.7 if rho < 0 else 1.25 if draws * (1 - rho) > 20 else 1.5
    assert np.median(estimate.stderr) < limit * true


@pytest.mark.parametrize("ratio", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("chains,least,far", [(2, 0.78, 0.12), (4, 0.88, 0.03), (8, 0.9, 0.01), (32, 0.92, 0.003)])
def test_mean_covers_for_stuck_chains(ratio, chains, least, far):
    """Each chain mixes about an offset it never leaves; `ratio` is the offsets' variance over a chain mean's."""
    rng = np.random.default_rng([2, chains, int(10 * ratio)])
    rho, draws, replicas = 0.8, 400, 400
    within = (1 + rho) / (1 - rho) / draws
    offset = np.sqrt(ratio * within) * rng.standard_normal((replicas, chains, 1))
    estimate = diagnostics.mean(autoregressive(rng, rho, (replicas, chains, draws)) + offset)
    assert_coverage(estimate, 0.0, least=least, most=0.99, far=far)


@pytest.mark.parametrize("chains,draws", [(1, 3000), (4, 600), (8, 600)])
@pytest.mark.parametrize("enter,leave", [(0.5, 0.5), (0.02, 0.02), (0.02, 0.2)])
def test_mean_over_visits_covers(chains, draws, enter, leave):
    """Draws of one phase, entered and left at random; inside it the value is correlated within and across visits."""
    rng = np.random.default_rng([3, chains, int(1000 * leave)])
    keep = two_states(rng, enter, leave, (300, chains, draws))
    estimate = diagnostics.mean(autoregressive(rng, 0.9, keep.shape), keep=keep)
    assert_coverage(estimate, 0.0, least=0.91, most=0.995)


def test_mean_with_unequal_chains_covers():
    """Trapped chains that lie in the phase for very different times, each with its own level there."""
    rng = np.random.default_rng(4)
    lengths = np.array([400, 400, 300, 250, 200, 150, 100, 50, 30, 20])
    keep = np.broadcast_to(np.arange(400) < lengths[:, None], (400, 10, 400))
    for level in (0.0, 1.0):
        x = autoregressive(rng, 0.5, keep.shape) + level * rng.standard_normal((400, 10, 1))
        assert_coverage(diagnostics.mean(x, keep=keep), 0.0, least=0.9, most=0.99)


def test_mean_against_arviz_and_shapes():
    rng = np.random.default_rng(5)
    x = autoregressive(rng, 0.6, (2, 3, 8, 1000))
    estimate = diagnostics.mean(x)
    assert estimate.value.shape == estimate.stderr.shape == (2, 3)
    np.testing.assert_allclose(estimate.value, x.mean((-2, -1)), rtol=1e-12)
    np.testing.assert_allclose(estimate.stderr, array_stats.mcse(x), rtol=0.35)
    np.testing.assert_allclose(estimate.ess, x.var((-2, -1)) / estimate.stderr**2, rtol=1e-9)
    np.testing.assert_array_equal(diagnostics.mcse(x), estimate.stderr)
    one = diagnostics.mean(x[1, 2])
    assert one.value.shape == ()
    assert one.stderr == pytest.approx(estimate.stderr[1, 2], rel=1e-9)


def test_mean_does_not_depend_on_blocks_units_or_masked_values(monkeypatch):
    rng = np.random.default_rng(6)
    x = autoregressive(rng, 0.6, (7, 4, 101))
    estimate = diagnostics.mean(x)
    moved = diagnostics.mean(1e3 * x + 1e6)
    np.testing.assert_allclose(moved.stderr, 1e3 * estimate.stderr, rtol=1e-5)
    monkeypatch.setattr(diagnostics, "_BLOCK", 500)
    np.testing.assert_allclose(diagnostics.mean(x).stderr, estimate.stderr, rtol=1e-12)
    keep = np.ones(x.shape, bool)
    keep[3, 1, 50:] = False
    hidden = np.where(keep, x, np.nan)
    partial = diagnostics.mean(hidden, keep=keep)
    np.testing.assert_allclose(np.delete(partial.stderr, 3), np.delete(estimate.stderr, 3), rtol=1e-9)
    assert partial.value[3] == pytest.approx(x[3][keep[3]].mean())


def test_masked_correlation_equals_the_plain_one():
    """A mask that cuts the last draws of every chain is the same as shorter chains."""
    rng = np.random.default_rng(7)
    x = autoregressive(rng, 0.8, (20, 4, 300))
    keep = np.ones(x.shape, bool)
    keep[..., 200:] = False
    np.testing.assert_allclose(diagnostics.mean(x, keep=keep).stderr, diagnostics.mean(x[..., :200]).stderr, rtol=1e-9)


def test_broken_chains_are_named_or_refused():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 4, 100))
    x[1, 2, 60:] = np.nan
    ok = np.ones((3, 4), bool)
    ok[1, 2] = False
    for function in (diagnostics.mean, diagnostics.ess, diagnostics.rhat, diagnostics.mcse):
        with pytest.raises(InputError, match=r"\[1, 2\].*ok="):
            function(x)
    np.testing.assert_allclose(diagnostics.mean(x, ok).value[1], x[1, [0, 1, 3]].mean())
    np.testing.assert_allclose(diagnostics.mean(x, ok).stderr[1], diagnostics.mean(x[1, [0, 1, 3]]).stderr)
    assert diagnostics.rhat(x, ok)[1] == pytest.approx(float(array_stats.rhat(x[1, [0, 1, 3]])))
    with pytest.raises(InputError):
        diagnostics.within_phases(x, np.zeros(x.shape, int), 1)
    assert np.isfinite(diagnostics.within_phases(x, np.zeros(x.shape, int), 1, ok).rhat).all()


@pytest.mark.parametrize(
    "arguments,field",
    [
        ((np.zeros(5),), "x"),
        ((np.zeros((2, 0)),), "x"),
        ((np.zeros((2, 5)), np.ones(2)), "ok"),
        ((np.zeros((2, 5)), np.ones(3, bool)), "ok"),
        ((np.zeros((2, 5)), None, np.ones((2, 4), bool)), "keep"),
    ],
)
def test_mean_refuses_what_it_cannot_use(arguments, field):
    with pytest.raises(InputError) as error:
        diagnostics.mean(*arguments)
    assert error.value.field == field


def test_mean_of_nearly_nothing():
    def numbers(estimate: Estimate):
        return [float(estimate.value), float(estimate.stderr)]

    none = diagnostics.mean(np.zeros((2, 5)), ok=np.zeros(2, bool))
    assert np.isnan(numbers(none)).all()
    value, stderr = numbers(diagnostics.mean(np.array([[3.0]])))
    assert value == 3.0
    assert np.isnan(stderr)
    value, stderr = numbers(diagnostics.mean(np.array([[3.0], [4.0], [5.0], [8.0]])))
    assert value == 5.0
    assert stderr == pytest.approx(np.std([3, 4, 5, 8], ddof=1) / 2 * 3.1824463 / 1.9599640)  # Student's t of 3
    constant = diagnostics.mean(np.full((3, 50), 0.1))
    assert numbers(constant) == pytest.approx([0.1, 0.0], abs=1e-15)
    assert np.isnan(constant.ess)


def test_ess_and_rhat_are_arviz():
    rng = np.random.default_rng(9)
    x = autoregressive(rng, 0.5, (2, 4, 200))
    x[1, 0] += 5
    np.testing.assert_allclose(diagnostics.ess(x), array_stats.ess(x))
    np.testing.assert_allclose(diagnostics.rhat(x), array_stats.rhat(x))
    assert diagnostics.rhat(x)[0] < 1.05
    assert diagnostics.rhat(x)[1] > 1.3
    assert np.isnan(diagnostics.rhat(x[:, :1])).all()
    assert np.isnan(diagnostics.rhat(np.zeros((4, 20))))
    assert np.isnan(diagnostics.ess(np.zeros((4, 20))))
    assert np.isnan(diagnostics.ess(x[..., :3])).all()


def test_within_phases_tells_trapped_from_broken():
    """Four chains sit in phase 0, four in phase 1, each mixing well there: good inside, bad over phases."""
    rng = np.random.default_rng(10)
    x = autoregressive(rng, 0.5, (8, 500))
    labels = np.repeat([[0], [1]], 4, axis=0) * np.ones((1, 500), int)
    x += 10 * labels
    found = diagnostics.within_phases(x, labels, 3)
    assert (found.rhat[:2] < 1.03).all()
    assert found.over_rhat > 1.5
    assert found.over_ess < 20
    assert np.isnan(found.rhat[2])
    assert np.isnan(found.ess[2])
    np.testing.assert_array_equal(found.draws, [2000, 2000, 0])
    np.testing.assert_array_equal(found.chains, [4, 4, 0])
    np.testing.assert_allclose(found.ess[:2], 2000 / 3, rtol=0.5)
    # One chain stuck elsewhere inside phase 0 is seen there, and only there.
    x[2] += 3
    again = diagnostics.within_phases(x, labels, 3)
    assert again.rhat[0] > 1.2
    assert again.rhat[1] == found.rhat[1]


def test_within_phases_with_one_phase_is_rhat_and_ess():
    rng = np.random.default_rng(11)
    x = autoregressive(rng, 0.7, (5, 6, 301))
    found = diagnostics.within_phases(x, np.zeros(x.shape, int), 1)
    np.testing.assert_allclose(found.rhat[:, 0], diagnostics.rhat(x), rtol=2e-3)  # the middle draw of 301 is in no half
    even = diagnostics.within_phases(x[..., :300], np.zeros((5, 6, 300), int), 1)
    np.testing.assert_allclose(even.rhat[:, 0], diagnostics.rhat(x[..., :300]), rtol=1e-10)
    np.testing.assert_allclose(found.ess[:, 0], diagnostics.ess(x), rtol=0.5)
    np.testing.assert_array_equal(found.over_ess, diagnostics.ess(x))


def test_within_phases_with_unequal_visits():
    """Chains that share a law inside the phase but visit it from 4 to 400 draws: R-hat near 1, short ones left out."""
    rng = np.random.default_rng(12)
    lengths = np.array([400, 380, 200, 100, 30, 4, 3, 0])
    labels = np.where(np.arange(400) < lengths[:, None], 0, -1)
    x = rng.standard_normal((30, 8, 400))
    found = diagnostics.within_phases(x, np.broadcast_to(labels, x.shape), 1)
    assert found.chains[0, 0] == 6
    assert found.draws[0, 0] == lengths.sum()
    assert np.median(found.rhat) < 1.02
    # A visit of 4 draws far away is 4 draws of evidence in 1100, not a seventh of all.
    x[:, 5, :4] += 3
    short = diagnostics.within_phases(x, np.broadcast_to(labels, x.shape), 1)
    x[:, 2, :200] += 3
    long = diagnostics.within_phases(x, np.broadcast_to(labels, x.shape), 1)
    assert (short.rhat < long.rhat).all()
    assert (long.rhat > 1.1).all()


def test_assertions_of_stats_bite():
    good = Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.1]))
    assert_close(good, [1.1, 1.9], 0.1)
    with pytest.raises(AssertionError, match="above its bound"):
        assert_close(good, [1.1, 1.9], 0.09)
    with pytest.raises(AssertionError, match=r"z = -5\.00"):
        assert_close(good, [1.5, 2.0], 0.1)
    with pytest.raises(AssertionError, match="missing"):
        assert_close(Estimate(np.array(1.0), np.array(np.nan)), 1.0, 1.0)
    z = np.random.default_rng(13).standard_normal(1000)
    assert_coverage(Estimate(z, np.ones(1000)), 0.0, least=0.94, most=0.96)
    assert coverage(Estimate(z, np.ones(1000)), 0.0) == pytest.approx(0.95, abs=0.03)
    with pytest.raises(AssertionError, match="covered"):
        assert_coverage(Estimate(z, np.full(1000, 0.7)), 0.0, least=0.94)
    with pytest.raises(AssertionError, match="covered"):
        assert_coverage(Estimate(z, np.full(1000, 2.0)), 0.0, least=0.94, most=0.96)
