"""Tables A1, A3 and A5 of science.md, and what lambda and m may not depend on."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slt.theory import asymptotics, elementary, exact
from slt.theory.coefficient import Coefficient
from slt.typing import InputError


def pair(coefficient):
    return coefficient.fraction, coefficient.m


def test_regular_and_squares():
    assert pair(elementary.regular(7)) == (Fraction(7, 2), 1)
    assert pair(elementary.regular(0)) == (0, 1)
    assert pair(elementary.sum_of_squares(3, 8)) == pair(elementary.sum_of_squares(3)) == (Fraction(3, 2), 1)


@pytest.mark.parametrize(
    "k,h,lam,m",
    [
        ([3], None, Fraction(1, 6), 1),  # x^6
        ([1, 1], None, Fraction(1, 2), 2),
        ([2, 1], None, Fraction(1, 4), 1),
        ([1] * 5, None, Fraction(1, 2), 5),  # scalar chain
        ([2, 1], [1, 0], Fraction(1, 2), 2),
        ([1, 2, 0], [0.5, 2, 7], Fraction(3, 4), 2),
        ([1], [Fraction(-1, 3)], Fraction(1, 3), 1),
    ],
)
def test_normal_crossings(k, h, lam, m):
    assert pair(elementary.normal_crossing(k, h)) == (lam, m)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=6), st.randoms())
def test_normal_crossings_are_symmetric_and_scale(factors, random):
    if not any(k for k, _ in factors):
        factors.append((1, 0))
    found = elementary.normal_crossing(*zip(*factors, strict=True))
    shuffled = random.sample(factors, len(factors))
    assert elementary.normal_crossing(*zip(*shuffled, strict=True)) == found
    assert pair(elementary.normal_crossing(*zip(*factors, (0, 3), strict=True))) == pair(found)  # K ignores it
    cubed = elementary.normal_crossing([3 * k for k, _ in factors], [h for _, h in factors])
    assert pair(cubed) == (found.fraction / 3, found.m)


def test_plane_curves():
    table = {"smooth": (2, 1), "node": (2, 2), "figure-eight": (2, 2), "cusp": (2.4, 1), "tacnode": (8 / 3, 1)}
    table |= {"A4": (20 / 7, 1), "trefoil": (3, 1)}
    assert set(table) == set(elementary.CURVES)
    for name, (inverse, m) in table.items():
        found = elementary.plane_curve(name)
        assert (found.lam, found.m) == (pytest.approx(1 / inverse, rel=1e-15), m)
    for g, name in enumerate(["smooth", "node", "cusp", "tacnode", "A4"], start=1):
        assert pair(elementary.power_curve(g)) == pair(elementary.plane_curve(name))
    assert elementary.power_curve(9).fraction == Fraction(1, 2) * (Fraction(1, 2) + Fraction(1, 9))


def test_tanh():
    table = [Fraction(n, 30) for n in (15, 20, 25, 30, 33, 36, 39, 42, 45)]
    assert [pair(elementary.tanh(h)) for h in range(1, 10)] == [
        (lam, 2 if h in (1, 4, 9) else 1) for h, lam in enumerate(table, start=1)
    ]


def test_mixtures_and_relu():
    assert pair(elementary.mixture("one")) == (Fraction(1, 2), 2)
    assert pair(elementary.mixture("both")) == pair(elementary.mixture()) == (Fraction(3, 4), 1)
    # A prior a^(phi-1) of the weight: K ~ a^2 b^2 and u^2 + a^2 b^4 as normal crossings with that prior.
    for phi in (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), 1, 2):
        crossing = elementary.normal_crossing([1, 1], [phi - 1, 0])
        assert pair(elementary.mixture("one", phi)) == pair(crossing)
        crossing = elementary.normal_crossing([1, 2], [phi - 1, 0])
        assert pair(elementary.mixture("both", phi)) == (Fraction(1, 2) + crossing.fraction, crossing.m)
    assert [pair(elementary.relu(case)) for case in ("dead", "no-bias", "active")] == [
        (0, 1),
        (Fraction(1, 2), 2),
        (Fraction(1, 2), 1),
    ]


def test_a_coefficient_prints_itself():
    found = elementary.plane_curve("cusp")
    assert str(found).splitlines()[0] == "lambda  0.4166666667 = 5/12"
    assert "chapter" in str(elementary.normal_crossing([1]))
    assert "note" not in str(elementary.regular(3))
    assert "truth 0" in str(elementary.tanh(2))
    assert all(part for part in elementary.tanh(2))


@pytest.mark.parametrize("k,m", [(1, 2), (2, 1)])
def test_asymptotics_against_exact_curves(k, m):
    """K = (w_1 w_2)^2 and x^4: the difference of F, and lam(t), at large t."""
    coefficient = elementary.normal_crossing([1, 1] if m == 2 else [2])
    t = np.array([1e20, 1e40, 1e80])
    curve = exact.normal_crossing(t, 2) if m == 2 else exact.monomial(t, 2)
    gap = curve.free_energy - asymptotics.free_energy(coefficient, t)
    assert np.abs(np.diff(gap)).max() < (0.05 if m == 2 else 1e-9)
    np.testing.assert_allclose(asymptotics.lam(coefficient, t), curve.lam, atol=2e-3 if m == 2 else 1e-9)
    # The lambda and m of F are those of lam: its slope in log t.
    step = 1e-5
    ends = [asymptotics.free_energy(coefficient, t * math.exp(sign * step)) for sign in (1, -1)]
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), asymptotics.lam(coefficient, t), rtol=1e-6)
    shifted = asymptotics.free_energy(coefficient, t, loss=0.5, constant=3.0)
    np.testing.assert_allclose(shifted, asymptotics.free_energy(coefficient, t) + t * 0.5 + 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: elementary.regular(-1),
        lambda: elementary.sum_of_squares(0),
        lambda: elementary.sum_of_squares(3, 2),
        lambda: elementary.normal_crossing([]),
        lambda: elementary.normal_crossing([0, 0]),
        lambda: elementary.normal_crossing([1, -1]),
        lambda: elementary.normal_crossing([1], [0, 0]),
        lambda: elementary.normal_crossing([1], [-1]),
        lambda: elementary.normal_crossing([1], [math.nan]),
        lambda: elementary.tanh(0),
        lambda: elementary.tanh(True),
        lambda: elementary.mixture("one", 0),
        lambda: elementary.plane_curve("knot"),
        lambda: elementary.power_curve(0),
        lambda: asymptotics.lam(Coefficient(0.5, 2, "here"), [2.0, 1.0]),
        lambda: asymptotics.free_energy(Coefficient(0.5, 2, "here"), math.inf),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
