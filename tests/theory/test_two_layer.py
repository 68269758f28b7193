"""Two-layer linear networks with one factor eliminated: chains, other eliminations, plain Monte Carlo, slopes of A4."""

import numpy as np
import pytest
import stats

from slt.theory.factorisation import decoupled, scalar_chain
from slt.theory.linear_networks import deep_linear
from slt.theory.quadrature import normal_log_prior, quadrature
from slt.theory.reference import two_layer_reference
from slt.theory.two_layer import two_layer
from slt.typing import InputError

T = np.array([0.1, 10.0, 1e4, 1e8])


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0, 5.0])
def test_one_unit_is_a_chain(s):
    np.testing.assert_allclose(two_layer(T, [[s]], 1), scalar_chain(T, 2, s), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(two_layer(T, [[s, 0, 0, 0]], 1), decoupled(T, [s], 4), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [1.0, 1e4])
def test_one_unit_by_quadrature_over_a(t):
    for m in (np.diag([1.0, 0.5]), np.array([[1.0, 0.2, 0.3], [0.0, 0.5, -0.4]])):

        def log_prior(a, m=m):
            c = 1 + 2 * t * np.sum(a**2, axis=-1)
            log = -m.shape[1] / 2 * np.log(c) - t * (np.sum(m**2) - 2 * t * np.sum((a @ m) ** 2, axis=-1) / c)
            return normal_log_prior(a) + log

        direct = quadrature(lambda a: np.zeros(len(a)), 0.0, [(-9, 9)] * 2, log_prior=log_prior)
        for target in (m, m.T):
            assert two_layer(t, target, 1).free_energy == pytest.approx(float(direct.free_energy), abs=1e-8)


@pytest.mark.parametrize(
    "target,hidden",
    [
        (np.diag([1.0, 0.5]), 2),
        (np.array([[1.0, 0.3, 0.0], [0.4, -1.0, 0.7]]), 3),
        (np.zeros((3, 4)), 3),
        (np.zeros((4, 3)), 2),
        (np.zeros((2, 4)), 5),
        (0.4 * np.ones((3, 3)), 1),
        (np.array([[0.9, -0.6]]), 4),
        (np.array([[0.8, 0.1, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 0.0]]), 1),
    ],
)
def test_against_plain_monte_carlo(target, hidden):
    """All parameters drawn from the prior, at a t where this can be done."""
    t, n = 0.5, 100_000
    rng = np.random.default_rng(7)
    p, q = target.shape
    k = np.sum((rng.standard_normal((n, p, hidden)) @ rng.standard_normal((n, hidden, q)) - target) ** 2, axis=(1, 2))
    weight = np.exp(-t * k)
    found = two_layer(t, target, hidden)
    error = weight.std() / weight.mean() / np.sqrt(n)
    stats.assert_close(stats.Estimate(-np.log(weight.mean()), error), found.free_energy, 0.02)
    lam = t * np.sum(weight * k) / weight.sum()
    error = np.std(weight * (t * k - lam)) / weight.mean() / np.sqrt(n)
    stats.assert_close(stats.Estimate(lam, error), found.lam, 0.03)


SLOPES = [
    ((1, 1, 1), 0.5016),
    ((2, 1, 3), 1.0),
    ((2, 1, 2), 1.0006),
    ((2, 2, 2), 1.5),
    ((2, 2, 3), 1.9993),
    ((3, 2, 3), 2.5),
    ((4, 2, 4), 3.5),
]


@pytest.mark.parametrize("widths,slope", SLOPES)
def test_slopes_of_the_notes(widths, slope):
    """log Z up to t = 1e18, (m - 1) log log t removed: lambda and m of two-layer networks, m = 1 and 2."""
    known = deep_linear(widths)
    t = np.array([1e15, 1e18])
    f = two_layer(t, np.zeros((widths[0], widths[2])), widths[1]).free_energy
    found = (f[1] - f[0] + (known.m - 1) * np.log(18 / 15)) / np.log(1e3)
    assert found == pytest.approx(known.lam, abs=0.002)
    assert found == pytest.approx(slope, abs=0.0005)


@pytest.mark.parametrize(
    "target,hidden,rank",
    [
        (np.diag([1.0, 0.5]), 2, 2),
        (np.diag([1.0, 0.5]), 4, 2),
        (np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 2, 1),
        (np.ones((2, 5)), 3, 1),
        (np.array([[0.0, 1.0]]), 3, 1),
        (np.outer([1.0, 2.0, 0.5], [1.0, 1.0, 0.0]), 1, 1),
    ],
)
def test_learned_targets_reach_aoyagi(target, hidden, rank):
    known = deep_linear((target.shape[1], hidden, target.shape[0]), rank)
    assert known.m == 1
    assert two_layer(1e10, target, hidden).lam == pytest.approx(known.lam, abs=1e-4)


def test_invariances(rng):
    target = rng.standard_normal((2, 3))
    left, right = np.linalg.qr(rng.standard_normal((2, 2)))[0], np.linalg.qr(rng.standard_normal((3, 3)))[0]
    for hidden in (1, 3):
        found = two_layer(T, target, hidden)
        np.testing.assert_allclose(two_layer(T, left @ target @ right, hidden), found, rtol=1e-9)
        np.testing.assert_allclose(two_layer(T, target.T, hidden), found, rtol=1e-9)
        step = 1e-5
        ends = [two_layer(T * np.exp(sign * step), target, hidden).free_energy for sign in (1, -1)]
        np.testing.assert_allclose(found.lam, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)
    # A row of zeros more is another outer width; M = 0 does not care which layer is which.
    np.testing.assert_allclose(two_layer(T, np.zeros((2, 4)), 3), two_layer(T, np.zeros((4, 3)), 2), rtol=1e-9)


@pytest.mark.parametrize(
    "target,hidden,t", [(np.diag([1.0, 0.5]), 2, 100.0), (np.zeros((2, 4)), 3, 1e3), (np.diag([1.0, 0.0]), 3, 20.0)]
)
def test_reference_against_exact(target, hidden, t):
    found = two_layer_reference(t, target, hidden, chains=48, draws=100)
    stats.assert_close(stats.Estimate(found.lam, found.stderr), two_layer(t, target, hidden).lam, 0.05)
    assert abs(found.drift) < 4
    assert 0.6 < found.acceptance < 0.95


@pytest.mark.slow
def test_reference_of_a_localised_posterior(rng):
    """(10,5,8), r = 3 at t = 587, gamma = 1, flat prior (science.md 0c: 27.33 +- .05 at the optimum taken there)."""
    a, b = np.zeros((8, 5)), np.zeros((5, 10))
    a[:, :3], b[:3] = 0.7 * rng.standard_normal((8, 3)), 0.7 * rng.standard_normal((3, 10))
    found = two_layer_reference(587.0, a @ b, 5, centre=(a, b))
    assert found.stderr < 0.003 * found.lam
    assert found.lam == pytest.approx(27.4, abs=0.5)
    assert abs(found.drift) < 4
    turned = two_layer_reference(587.0, (a @ b).T, 5, centre=(b.T, a.T), seed=1)
    difference = stats.Estimate(turned.lam - found.lam, np.hypot(turned.stderr, found.stderr))
    stats.assert_close(difference, 0.0, 0.1)


def test_reference_with_a_centre_where_all_is_gaussian():
    """At t = 0 nothing is sampled but the prior: K has a mean in closed form; A = 0 pins it to |M|^2 otherwise."""
    found = two_layer_reference(
        1e-6, np.zeros((1, 2)), 2, centre=(np.ones((1, 2)), np.ones((2, 2))), precision=4, draws=200
    )
    # E|AB|^2 = sum over the 2 outputs of E (sum_k a_k b_k)^2, a_k, b_k ~ N(1, 1/4)
    mean = 2 * (2 * (1.25**2 - 1) + 4)
    stats.assert_close(stats.Estimate(found.lam / 1e-6, found.stderr / 1e-6), mean, 0.3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: two_layer(-1.0, np.zeros((2, 2)), 1),
        lambda: two_layer(1.0, np.zeros(2), 1),
        lambda: two_layer(1.0, np.zeros((2, 2)), 0),
        lambda: two_layer(1.0, np.eye(3), 3),
        lambda: two_layer(1.0, np.eye(4), 1),
        lambda: two_layer(1.0, np.zeros((4, 4)), 4),
        lambda: two_layer_reference(1.0, np.full((2, 2), np.nan), 2),
        lambda: two_layer_reference(np.inf, np.eye(2), 2),
        lambda: two_layer_reference(1.0, np.eye(2), 2, precision=0),
        lambda: two_layer_reference(1.0, np.eye(2), 2, chains=2),
        lambda: two_layer_reference(1.0, np.eye(2), 2, centre=(np.eye(3), np.eye(2))),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
