import numpy as np
import pytest
from stats import Estimate, assert_close, assert_coverage

from slt.estimators.occupancy import dwell, mean_dwell, occupancy, survival
from slt.typing import InputError


def jump_chain(rng, rates, shape):
    """Phases along the last axis, from the stationary law: leave phase k at rates[k], to any other alike."""
    rates = np.asarray(rates)
    stationary = 1 / rates / (1 / rates).sum()
    labels = np.empty(shape, int)
    labels[..., 0] = rng.choice(len(rates), shape[:-1], p=stationary)
    uniform, step = rng.random(shape), rng.integers(1, len(rates), shape)
    for i in range(1, shape[-1]):
        before = labels[..., i - 1]
        labels[..., i] = np.where(uniform[..., i] < rates[before], (before + step[..., i]) % len(rates), before)
    return labels, stationary


@pytest.mark.parametrize(
    "rates,least,far",
    [((0.05, 0.02, 0.1), 0.93, 0.01), ((0.002, 0.03, 0.05), 0.89, 0.02), ((0.001, 0.001, 0.02), 0.85, 0.06)],
)
def test_occupancy_covers(rates, least, far):
    """8 ladders, from well mixed to a handful of visits in all."""
    rng = np.random.default_rng([1, int(1000 * rates[0])])
    labels, stationary = jump_chain(rng, rates, (300, 8, 1000))
    found = occupancy(labels, 3)
    assert found.value.shape == (300, 3)
    np.testing.assert_allclose(found.value.sum(-1), 1.0)
    for phase in range(3):
        part = Estimate(found.value[:, phase], found.stderr[:, phase])
        assert_coverage(part, stationary[phase], least=least, most=0.999, far=far, what=f"phase {phase}")
        typical = np.median(found.stderr[:, phase])
        assert typical < 1.6 * np.std(found.value[:, phase]), phase


def test_occupancy_is_exact_on_independent_draws():
    rng = np.random.default_rng(2)
    labels = rng.choice(4, (16, 4000), p=[0.5, 0.3, 0.19, 0.01])
    found = occupancy(labels, 4)
    assert_close(found, [0.5, 0.3, 0.19, 0.01], 0.0035)
    np.testing.assert_allclose(found.stderr, np.sqrt(found.value * (1 - found.value) / 64000), rtol=0.4)


def test_a_phase_never_seen_is_not_exactly_empty():
    trapped = np.repeat([0, 0, 0, 1, 1, 1, 1, 1], 100).reshape(8, 100)
    found = occupancy(trapped, 3)
    np.testing.assert_allclose(found.value, [3 / 8, 5 / 8, 0])
    assert 0.15 < found.stderr[0] < 0.35
    assert found.stderr[2] == 1 / 8
    assert occupancy(trapped, 3, independent=50).stderr[2] == 1 / 50
    alone = occupancy(np.zeros((8, 100), int), 2)
    np.testing.assert_array_equal(alone.value, [1, 0])
    np.testing.assert_array_equal(alone.stderr, [1 / 8, 1 / 8])
    # Where the others mix well, a phase unseen is bounded by the number of independent draws.
    rng = np.random.default_rng(3)
    mixing = occupancy(rng.integers(0, 2, (8, 1000)), 3)
    assert 1 / 12000 < mixing.stderr[2] < 1 / 4000
    seen = np.mean([(rng.random((200, 8000)) < rate).any(-1).mean() for rate in [2 * mixing.stderr[2]]])
    assert seen > 0.8  # two such errors would have been seen


def test_occupancy_counts_unclassified_draws_and_leaves_broken_chains_out():
    labels = np.array([[0, 0, -1, 1], [1, 1, 1, -1], [0, 0, 0, 0]])
    ok = np.array([True, True, False])
    np.testing.assert_allclose(occupancy(labels, 2, ok).value, [2 / 8, 4 / 8])
    none = occupancy(labels, 2, np.zeros(3, bool))
    assert np.isnan(none.value).all()
    assert np.isnan(none.stderr).all()
    for bad in (labels.astype(float), labels[0]):
        with pytest.raises(InputError):
            occupancy(bad, 2)
    with pytest.raises(InputError, match="independent"):
        occupancy(labels, 2, independent=0)


def test_dwell_records_first_exits():
    labels = np.array([[0, 0, 1, 0], [2, 2, 2, 2], [1, -1, 1, 0], [0, -1, -1, -1], [-1, 0, 0, 0], [0, 1, 1, 1]])
    ok = np.array([True] * 5 + [False])
    found = dwell(labels, ok)
    np.testing.assert_array_equal(found.start, [0, 2, 1, 0, -1, -1])
    np.testing.assert_array_equal(found.exit[:4], [2, 4, 3, 4])
    np.testing.assert_array_equal(found.censored[:4], [False, True, False, True])
    strict = dwell(labels, ok, outside=True)
    np.testing.assert_array_equal(strict.exit[:4], [2, 4, 1, 1])
    mean = mean_dwell(found, 4)
    np.testing.assert_allclose(mean.value, [5, 3, np.inf, np.nan])
    np.testing.assert_array_equal(mean.ess, [1, 1, 0, 0])
    assert np.isnan(mean.stderr[2:]).all()


@pytest.mark.parametrize("draws", [50, 400])
def test_mean_dwell_covers_with_censoring(draws):
    """Rate 1/100: with 50 draws most chains are censored; forgetting them, or counting them as exits, fails by far."""
    rng = np.random.default_rng([4, draws])
    labels, _ = jump_chain(rng, (0.01, 0.02), (400, 64, draws))
    found = mean_dwell(dwell(labels), 2)
    for phase, exact in enumerate((100.0, 50.0)):
        part = Estimate(found.value[:, phase], found.stderr[:, phase])
        assert_coverage(part, exact, least=0.9, most=0.99, far=0.02, what=f"phase {phase}")


def test_survival_covers_and_is_product_limit():
    rng = np.random.default_rng(5)
    labels, _ = jump_chain(rng, (0.02, 0.02), (300, 48, 60))
    labels[:, ::3, 30:] = labels[:, ::3, 29:30]  # a third of the chains watched for half the time, as good as censored
    found = dwell(labels)
    found = found._replace(exit=np.where(found.censored & (np.arange(48) % 3 == 0), 30, found.exit))
    curve = survival(found, 0, 60)
    assert curve.value.shape == (300, 60)
    for draw in (5, 25, 50):
        part = Estimate(curve.value[:, draw], curve.stderr[:, draw])
        assert_coverage(part, 0.98**draw, least=0.88, most=0.995, far=0.02, what=f"draw {draw}")
    by_hand = survival(dwell(np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])), 0, 5)
    np.testing.assert_allclose(by_hand.value, [1, 2 / 3, 1 / 3, 1 / 3, np.nan])
    np.testing.assert_allclose(by_hand.stderr[[0, 1]], [1 / 5, np.sqrt(2 / 27)])
    with pytest.raises(InputError):
        survival(found, 0, 0)
