"""Table A4 of science.md: two formulas against each other, reduced rank regression, and local values."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slt.theory.linear_networks import deep_linear, deep_linear_by_exponents, deep_linear_local, reduced_rank
from slt.typing import InputError

TABLE = [
    ((2, 2, 2), 0, 1.5, 1),
    ((2, 2, 2), 1, 2.0, 2),
    ((3, 3, 3), 0, 3.5, 2),
    ((3, 3, 3), 1, 4.0, 1),
    ((4, 2, 4), 1, 5.0, 2),
    ((4, 4, 4), 2, 7.5, 1),
    ((5, 3, 5), 1, 8.0, 1),
    ((10, 5, 8), 3, 27.5, 1),
    ((2, 2, 2, 2), 0, 1.5, 3),
    ((2, 2, 2, 2), 1, 2.0, 3),
    ((3, 2, 3, 2), 1, 2.5, 1),
    ((4, 3, 2, 5), 1, 5.0, 1),
    ((5, 5, 5, 5, 5), 2, 11.0, 4),
    ((10, 8, 8, 10), 4, 39.5, 3),
    ((100, 50, 60, 80), 20, 2187.5, 1),
    ((1, 1, 1, 1), 0, 0.5, 3),
    # Slopes of the exact partition function at large t (check 4).
    ((1, 1, 1), 0, 0.5, 2),
    ((2, 1, 3), 0, 1.0, 1),
    ((2, 1, 2), 0, 1.0, 2),
    ((2, 2, 3), 0, 2.0, 2),
    ((3, 2, 3), 0, 2.5, 1),
    ((4, 2, 4), 0, 3.5, 1),
]


@pytest.mark.parametrize("widths,rank,lam,m", TABLE)
def test_table(widths, rank, lam, m):
    found = deep_linear(widths, rank)
    assert (found.lam, found.m) == (lam, m)
    assert "Aoyagi" in found.source
    assert deep_linear_by_exponents(widths, rank) == lam


def test_two_formulas_agree_on_9584_architectures():
    count = 0
    for layers, top in ((1, 5), (2, 5), (3, 5), (4, 5)):
        for widths in itertools.product(range(1, top + 1), repeat=layers + 1):
            for rank in range(min(widths) + 1):
                count += 1
                assert deep_linear(widths, rank).lam == deep_linear_by_exponents(widths, rank), (widths, rank)
    assert count == 9584


def test_reduced_rank_regression_is_the_case_of_two_layers():
    count = 0
    for m, h, n in itertools.product(range(1, 9), range(1, 9), range(1, 9)):
        for rank in range(min(m, h, n) + 1):
            count += 1
            one, other = reduced_rank(m, h, n, rank), deep_linear((m, h, n), rank)
            assert (one.lam, one.m) == (other.lam, other.m), (m, h, n, rank)
    assert count == 1808


networks = st.lists(st.integers(1, 30), min_size=2, max_size=8).flatmap(
    lambda widths: st.tuples(st.just(widths), st.integers(0, min(widths)))
)


@given(networks, st.randoms())
def test_invariances(network, random):
    widths, rank = network
    found = deep_linear(widths, rank)
    assert deep_linear_by_exponents(widths, rank) == found.lam
    inner = random.sample(widths[1:-1], len(widths) - 2)
    same = deep_linear([widths[-1], *inner, widths[0]], rank)  # the order of hidden layers, and transposition
    assert (same.lam, same.m) == (found.lam, found.m)
    everywhere = deep_linear(random.sample(widths, len(widths)), 0)
    assert everywhere.lam == deep_linear(widths, 0).lam
    # A hidden layer as wide as all others together constrains nothing.
    wide = deep_linear([widths[0], sum(widths) + 1, *widths[1:]], rank)
    assert (wide.lam, wide.m) == (found.lam, found.m)
    assert found.lam <= widths[0] * widths[-1] / 2
    assert found.m >= 1
    if len(widths) == 2:
        assert (found.lam, found.m) == (widths[0] * widths[1] / 2, 1)


def product(matrices, width):
    total = np.eye(width)
    for matrix in matrices:
        total = matrix @ total
    return total


def numerical_rank(matrices, widths):
    columns = []
    for s in range(len(matrices)):
        left = product(matrices[s + 1 :], widths[s + 1])
        columns.append(np.kron(left, product(matrices[:s], widths[0]).T))
    return np.linalg.matrix_rank(np.concatenate(columns, axis=1), tol=1e-9)


def test_local_values_of_the_notes(rng):
    """(10,5,8), r = 3: 27.5 to 29.5 by where the two spare units lie, mostly 28."""

    def at(*input_side):
        a, b = np.zeros((5, 10)), np.zeros((8, 5))
        a[:3], b[:, :3] = rng.standard_normal((3, 10)), rng.standard_normal((8, 3))
        for unit, side in enumerate(input_side, start=3):
            if side:
                a[unit] = rng.standard_normal(10)
            else:
                b[:, unit] = rng.standard_normal(8)
        turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
        return deep_linear_local([turn @ a, b @ turn.T])

    assert [at(*sides).lam for sides in ((0, 0), (0, 1), (1, 1))] == [29.5, 28.0, 27.5]
    assert at(1, 1).m == 1


def test_local_value_is_half_the_rank_of_the_jacobian_or_refused(rng):
    outcomes = {"generic": 0, "refused": 0}
    for _ in range(150):
        widths = rng.integers(1, 5, rng.integers(2, 6))
        matrices = []
        for before, after in itertools.pairwise(widths):
            k = rng.integers(0, min(before, after) + 1)
            matrices.append(rng.standard_normal((after, k)) @ rng.standard_normal((k, before)))
        rank = numerical_rank(matrices, widths)
        try:
            found = deep_linear_local(matrices)
        except InputError:
            with pytest.raises(InputError, match=f"Jacobian has rank {rank},"):
                deep_linear_local(matrices)
            outcomes["refused"] += 1
            continue
        assert (found.lam, found.m) == (rank / 2, 1)
        true_rank = int(np.linalg.matrix_rank(product(matrices, widths[0]), tol=1e-9))
        assert found.lam >= deep_linear(widths.tolist(), true_rank).lam
        outcomes["generic"] += 1
    assert min(outcomes.values()) >= 30


def test_local_value_at_singular_points_is_refused(rng):
    with pytest.raises(InputError, match="no generic optimum"):  # w1 = w2 = 0 of (w1 w2)^2
        deep_linear_local([np.zeros((1, 1)), np.zeros((1, 1))])
    assert deep_linear_local([np.zeros((1, 1)), np.ones((1, 1))]).lam == 0.5
    blurred = [np.diag([1.0, 1e-8]), np.eye(2)]
    with pytest.raises(InputError, match="sharper"):
        deep_linear_local(blurred)


@pytest.mark.parametrize(
    "call",
    [
        lambda: deep_linear([3]),
        lambda: deep_linear([3, 0, 2]),
        lambda: deep_linear([3, 2, 4], 3),
        lambda: deep_linear([3, 2, 4], -1),
        lambda: deep_linear_by_exponents([3, 2, 4], 3),
        lambda: reduced_rank(3, 2, 4, 3),
        lambda: reduced_rank(3, 0, 4),
        lambda: deep_linear_local([]),
        lambda: deep_linear_local([np.ones((2, 3)), np.ones((2, 3))]),
        lambda: deep_linear_local([np.full((2, 3), np.nan)]),
        lambda: deep_linear_local([np.ones(3)]),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
