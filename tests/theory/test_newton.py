"""Tables A1 to A3 of science.md by Newton polyhedra, what is refused, and the exact arithmetic below."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from slt.theory import elementary
from slt.theory.newton import distance, newton, show, square
from slt.theory.polynomial import parse, real_roots
from slt.theory.simplex import minimise
from slt.typing import InputError


def pair(coefficient):
    return coefficient.fraction, coefficient.m


A1 = [
    ("x^2 + y^2 + z^2", None, "3/2", 1),
    ("x^6", None, "1/6", 1),
    ("(w1 w2)^2", None, "1/2", 2),
    ("(w1^2 w2)^2", None, "1/4", 1),
    ("(w1*w2*w3*w4)^2", None, "1/2", 4),
    ("x^4 + y^6", None, "5/12", 1),
    ("x^2y^2 + x^6 + y^6", None, "1/2", 2),
    ("x^2y^2z^2 + x^8+y^8+z^8", None, "1/2", 3),
    ("x^2y^2+y^2z^2+z^2x^2", None, "3/4", 1),
    ("x^2 + x^2y^2 + y^6", None, "2/3", 1),
    ("x^4*y^2 + x^2*y^8", None, "2/7", 1),
    ("x^4*y^2 + x^2*y^8", "x", "1/2", 2),
    ("x^4*y^2 + x^2*y^8", {"x": 1.0, "z": 5}, "1/2", 2),
    ("u^2 + a^2 b^4", None, "3/4", 1),
]


@pytest.mark.parametrize("k,prior,lam,m", A1)
def test_table(k, prior, lam, m):
    found = newton(k, prior)
    assert pair(found) == (Fraction(lam), m)
    assert found.note == "at the origin"  # nothing here rests on a search


@pytest.mark.parametrize(
    "k,lam,m",
    [
        ("x^2 + x*y + y^2", "1", 1),
        ("x^2 - x*y + y^2", "1", 1),
        ("x^2+y^2+z^2+xy+yz+xz", "3/2", 1),  # positive definite
        ("(x+y)^4 + x^2y^2", "1/2", 1),
        ("x^4+y^4+z^4+w^4 - x y z w - x^2 y z", "1", 1),  # arithmetic-geometric means
        ("x^2y^2 - 2x^3y^3 + x^8 + y^8", "1/2", 2),  # the odd term lies inside
        ("x^2*y^2 + x^8 + y^8 - 5x^2y^2z", "1/2", 2),
        ("x^2 (y-1)^2", "1/2", 1),
        ("x^2 + 1/2 x^2 y^3 + y^4", "3/4", 1),
    ],
)
def test_mixed_signs_proved_nondegenerate(k, lam, m):
    found = newton(k)
    assert pair(found) == (Fraction(lam), m)
    assert "search" not in found.note


def test_what_is_only_searched_for_is_said():
    found = newton("x^4+y^4+z^4 + 3x^2yz + 3xy^2z + 3xyz^2 + 4x^2y^2")
    assert pair(found) == (Fraction(3, 4), 1)
    assert "by numerical search, not by proof" in found.note


@pytest.mark.parametrize(
    "k,why",
    [
        ("(x-y)^2", "x^2 - 2*x*y + y^2, which vanishes"),
        ("x^2 + 3xy + y^2", "or is negative"),
        ("(x-y)^2 + z^2", "x^2 - 2*x*y + y^2"),
        ("(y^2-x^3)^2", "degenerate"),
        ("(xy - z)^2 + x^4", "degenerate"),
        ("x^2+y^2+z^2-xy-yz-xz", "degenerate"),  # on a face of dimension 2
        ("x^2 - y^2", "where -y^2 prevails"),
        ("x^3", "x^3 prevails"),
        ("x^2 + y^3 z^2", "where y^3*z^2 prevails"),
        ("x^2 + 1", "not 0 at the origin"),
        ("0*x", "vanishes identically"),
        ("7", "not 0 at the origin"),
    ],
)
def test_refused(k, why):
    with pytest.raises(InputError, match=re.escape(why)):
        newton(k)


def test_squares_of_plane_curves_and_surfaces():
    curves = {"smooth": "y - x^2", "node": "x^2 - x^4 - y^2", "cusp": "y^2-x^3", "tacnode": "y^2-x^4", "A4": "y^2-x^5"}
    for name, f in (curves | {"trefoil": "x^3 - 3x y^2"}).items():
        assert pair(square(f)) == pair(elementary.plane_curve(name)), name
    for g in range(1, 9):
        assert pair(square(f"y^2 - x^{g}")) == pair(elementary.power_curve(g))
    assert pair(square("x + y + z")) == (Fraction(1, 2), 1)
    assert pair(square("x^2 + y^2 + z^2")) == (Fraction(3, 4), 1)  # codimension 3: no smooth points
    assert pair(square("x^2 + y^2 - z^2")) == (Fraction(1, 2), 1)
    assert pair(square("x y z")) == (Fraction(1, 2), 3)
    assert pair(square("x^2 y")) == (Fraction(1, 4), 1)
    assert pair(square("x^3 + y^3 + z^3")) == (Fraction(1, 2), 2)
    assert pair(square("y^2 - z x^2")) == (Fraction(1, 2), 2)  # a node at every z > 0
    assert pair(square("x y", "x")) == (Fraction(1, 2), 1)
    assert "search" in square("x^3+y^3+z^3+xyz").note
    for f, why in [("(x-y)^2", "singular zero"), ("y^4 - 2y^2x^3 + x^6", "singular zero"), ("x-1", "not 0 at the ori")]:
        with pytest.raises(InputError, match=why):
            square(f)


powers = st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3).map(tuple), min_size=1, max_size=6).filter(
    lambda found: all(any(alpha) for alpha in found)
)
priors = st.lists(st.integers(0, 3), min_size=3, max_size=3)


def polynomial(exponents, factor=2):
    return " + ".join(
        "*".join(f"{name}^{factor * x}" for name, x in zip("xyz", alpha, strict=True)) for alpha in exponents
    )


@settings(max_examples=30)
@given(powers, priors, st.permutations(range(3)))
def test_invariances(exponents, h, order):
    prior = dict(zip("xyz", h, strict=True))
    found = pair(newton(polynomial(exponents), prior))
    permuted = [tuple(alpha[i] for i in order) for alpha in exponents]
    assert pair(newton(polynomial(permuted), {"xyz"[j]: h[i] for j, i in enumerate(order)})) == found
    assert pair(newton(polynomial(exponents, 6), prior)) == (found[0] / 3, found[1])
    # A term that another divides changes nothing, nor does a factor of a term.
    inside = tuple(x + 1 for x in exponents[0])
    assert pair(newton(f"3*({polynomial([*exponents, inside])}) + {polynomial(exponents[:1])}", prior)) == found
    # A further variable with its own square adds 1/2.
    wider = newton(f"{polynomial(exponents)} + w^2", prior)
    assert pair(wider) == (found[0] + Fraction(1, 2), found[1])
    if len(exponents) == 1:
        assert found == pair(elementary.normal_crossing(exponents[0], h))


@settings(max_examples=25)
@given(powers, priors)
def test_against_scipy(exponents, h):
    found = distance([tuple(2 * x for x in alpha) for alpha in exponents], [Fraction(each + 1) for each in h])
    # m = 1 + dim of the minimisers: the rank of those that random costs, a little off, pick out.
    rng = np.random.default_rng(0)
    tau, alphas = np.array(h) + 1.0, 2.0 * np.array(exponents)
    corners = []
    for tilt in [np.zeros(3), *(1e-4 * rng.standard_normal((12, 3)))]:
        solved = optimize.linprog(tau + tilt, A_ub=-alphas, b_ub=-np.ones(len(alphas)))
        corners.append(solved.x)
        if not tilt.any():
            assert solved.fun == pytest.approx(float(found.value), rel=1e-9)
    assert found.m == 1 + np.linalg.matrix_rank(np.array(corners[1:]) - corners[1], tol=1e-6)


def test_linear_programmes_against_scipy(rng):
    outcomes = set()
    for trial in range(120):
        m, n = rng.integers(1, 6), rng.integers(1, 10)
        a, c = rng.integers(-3, 4, (m, n)), rng.integers(-2, 6, n)
        b = rng.integers(-4, 5, m) if trial % 2 else a @ rng.integers(0, 3, n)
        solved = optimize.linprog(c, A_eq=a, b_eq=b)
        try:
            x = minimise(c.tolist(), a.tolist(), b.tolist())
        except ValueError:
            outcomes.add(3)
            assert solved.status == 3
            continue
        outcomes.add(2 if x is None else 0)
        assert solved.status == (2 if x is None else 0)
        if x is not None:
            assert [sum(p * q for p, q in zip(row, x, strict=True)) for row in a.tolist()] == b.tolist()
            assert min(x) >= 0
            assert float(sum(p * q for p, q in zip(c.tolist(), x, strict=True))) == pytest.approx(solved.fun, abs=1e-9)
    assert outcomes == {0, 2, 3}


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=4), st.lists(st.integers(1, 4), max_size=2))
def test_real_roots(roots, widths):
    """prod (x - r) prod (x^2 + w): as many distinct real roots as distinct r."""
    p = np.poly1d([1])
    for r in roots:
        p *= np.poly1d([1, -r])
    for w in widths:
        p *= np.poly1d([1, 0, w])
    assert real_roots([Fraction(int(c)) for c in p.coeffs[::-1]]) == len(set(roots))


@pytest.mark.parametrize(
    "text,terms",
    [
        ("x^2y^2", {(2, 2): 1}),
        ("2x(y+1)(y-1)", {(1, 2): 2, (1, 0): -2}),
        ("-(x - y)**2/4", {(2, 0): Fraction(-1, 4), (1, 1): Fraction(1, 2), (0, 2): Fraction(-1, 4)}),
        ("3/2 w1 - .5w_2 + w12 - w12", {(1, 0): Fraction(3, 2), (0, 1): Fraction(-1, 2)}),
        ("x - - + y", {(1, 0): 1, (0, 1): 1}),
        ("x^0 + 0.25", {(): Fraction(5, 4)}),
    ],
)
def test_parser(text, terms):
    found = parse(text)
    found = found.terms if len(found.variables) == len(next(iter(terms))) else parse(show(found)).terms
    assert found == terms


@given(powers, st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_shown_polynomials_are_read_back(exponents, factors):
    text = " - ".join(f"{c}/7*x^{a}*y^{b}*z^{d}" for c, (a, b, d) in zip(factors, exponents, strict=False))
    found = parse(text)
    if found.terms:
        again = parse(show(found))
        assert again.over(found.variables).terms == found.terms


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "x.real",
        "sin(x)^2",
        "alpha^2",
        "x^-1",
        "x^2.5",
        "x^y",
        "1/x",
        "1/0",
        "1e3*x",
        "(x",
        "x)",
        "",
        "x +",
        "x^1001",
        "(a+b+c+d+e+f+g)^40",
        "(9^1000)^1000*x",
        "(" * 200 + "x" + ")" * 200,
        "x + " * 2000 + "x",
        "x; y",
        "x²",
    ],
)
def test_bad_text(text):
    with pytest.raises(InputError, match="polynomial"):
        parse(text)


@pytest.mark.parametrize("prior", ["x + y", "-x", "0", {"x": -1}, {"x": math.nan}])
def test_bad_priors(prior):
    with pytest.raises(InputError):
        newton("x^2", prior)
