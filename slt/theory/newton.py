"""lambda and m at the origin from a Newton polyhedron, for K >= 0 that is nondegenerate and for K = f^2.

lambda = min <u, h + 1> over u >= 0 with <u, alpha> >= 1 for every exponent alpha, m = 1 + dim of the face of
minimisers, for a prior ~ prod |w_i|^h_i (Varchenko 1976; Arnold, Gusein-Zade and Varchenko, Singularities of
Differentiable Maps II, chapter 8). It is exact only where no face polynomial has a singular zero off the coordinate
axes: that is decided first.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from slt.theory import positivity
from slt.theory.coefficient import Coefficient, exponent, refusal
from slt.theory.polynomial import Exponents, Polynomial, monomial, parse
from slt.theory.simplex import minimise, spanned, support

Prior = str | Mapping[str, int | float | Fraction] | None
Face = frozenset[Exponents]
MAX_FACES, MAX_TERMS, MAX_VARIABLES = 200, 30, 6
SOURCE = "Newton polyhedron: Varchenko (1976); Arnold, Gusein-Zade and Varchenko, Singularities II, chapter 8"
AT_ORIGIN = "at the origin"


class Distance(NamedTuple):
    """The value of the linear programme, 1 + the dimension of its minimisers, and the exponents tight at all of
    them.
    """

    value: Fraction
    m: int
    tight: Face


def _minus(a: Exponents, b: Exponents) -> Exponents:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _least(exponents: Iterable[Exponents]) -> list[Exponents]:
    """Those that no other one divides: the others lie inside the polyhedron."""
    alphas = sorted(exponents)
    return [a for a in alphas if not any(b != a and min(_minus(a, b)) >= 0 for b in alphas)]


def _columns(alphas: Sequence[Exponents]) -> list[Exponents]:
    """What spans the Newton polyhedron, one coordinate up: its points (alpha, 1), its directions (e_i, 0)."""
    d = len(alphas[0])
    return [(*alpha, 1) for alpha in alphas] + [tuple(int(i == j) for j in range(d + 1)) for i in range(d)]


def distance(exponents: Iterable[Exponents], tau: Sequence[Fraction]) -> Distance:
    """min <u, tau> over u >= 0 with <u, alpha> >= 1 for all alpha; tau > 0. Exact.

    Solved by its dual, max sum y with sum_j y_j alpha_j <= tau: what some optimal y weighs is tight at every optimal u
    (strict complementarity), and the dimension of the optimal u is what those equations leave.
    """
    alphas, d = _least(exponents), len(tau)
    columns = _columns(alphas)
    value = sum((minimise([-c[d] for c in columns], list(zip(*columns, strict=True))[:d], tau) or [])[: len(alphas)], 0)
    tight = support(columns, [*tau, value])
    if tight is None:
        raise RuntimeError("the dual of the Newton polyhedron's programme has no optimum: a defect of slt")
    return Distance(Fraction(value), 1 + d - len(tight), frozenset(a for a in alphas if spanned((*a, 1), tight)))


def minimal_face(points: Face, alphas: Sequence[Exponents]) -> Face | None:
    """The exponents on the smallest compact face that holds all `points`; None where no compact face does.

    The face is spanned by what can take part in a combination of vertices and directions e_i that gives the mean of the
    points; it is compact if no e_i lies along it.
    """
    d, size = len(alphas[0]), len(points)
    columns = _columns(alphas)
    basis = support(columns, [Fraction(sum(alpha[i] for alpha in points), size) for i in range(d)] + [1])
    if basis is None or any(spanned(unit, basis) for unit in columns[len(alphas) :]):
        return None
    return frozenset(alpha for alpha in alphas if spanned((*alpha, 1), basis))


class _Boundary(NamedTuple):
    """Terms on compact faces of a Newton polyhedron, with the smallest face of each; singletons are vertices."""

    polynomial: Polynomial
    smallest: dict[Exponents, Face]

    @property
    def vertices(self) -> list[Exponents]:
        return [alpha for alpha, face in self.smallest.items() if face == {alpha}]

    def terms(self, face: Face) -> dict[Exponents, Fraction]:
        return {alpha: self.polynomial.terms[alpha] for alpha in sorted(face, reverse=True)}

    def faces(self, seeds: Sequence[Exponents]) -> list[Face]:
        """All compact faces that hold at least one of the seeds."""
        found = {self.smallest[alpha] for alpha in seeds}
        waiting = list(found)
        alphas = list(self.smallest)
        while waiting:
            face = waiting.pop()
            for alpha in alphas:
                if alpha not in face:
                    joined = minimal_face(face | {alpha}, alphas)
                    if joined is not None and joined not in found:
                        found.add(joined)
                        waiting.append(joined)
            if len(found) > MAX_FACES:
                raise refusal("polynomial", show(self.polynomial), f"more than {MAX_FACES} faces to look at")
        return sorted(found, key=lambda face: (len(face), sorted(face)))


def _boundary(polynomial: Polynomial) -> _Boundary:
    alphas = _least(polynomial.terms)
    if len(alphas) > MAX_TERMS or len(polynomial.variables) > MAX_VARIABLES:
        size = f"more than {MAX_TERMS} terms or {MAX_VARIABLES} variables"
        raise refusal("polynomial", show(polynomial), f"too large to decide whether it is degenerate: {size}")
    faces = {alpha: minimal_face(frozenset([alpha]), alphas) for alpha in alphas}
    return _Boundary(polynomial, {alpha: face for alpha, face in faces.items() if face is not None})


def show(polynomial: Polynomial, terms: Mapping[Exponents, Fraction] | None = None) -> str:
    """A polynomial, or some of its terms, as text that `parse` reads."""
    shown = ""
    for alpha, c in (polynomial.terms if terms is None else terms).items():
        names = [name + (f"^{x}" if x > 1 else "") for name, x in zip(polynomial.variables, alpha, strict=True) if x]
        size = [] if abs(c) == 1 and names else [str(abs(c))]
        sign = ("-" if c < 0 else "") if not shown else (" - " if c < 0 else " + ")
        shown += sign + "*".join(size + names)
    return shown


def _prepared(text: str | Polynomial, prior: Prior, field: str) -> tuple[Polynomial, list[Fraction]]:
    polynomial = parse(text, field) if isinstance(text, str) else text
    if not polynomial.terms:
        raise refusal(field, text, "it vanishes identically: then F = 0 at every t")
    if (0,) * len(polynomial.variables) in polynomial.terms:
        raise refusal(
            field, text, "it is not 0 at the origin: shift the variables so that the zero asked about is there"
        )
    weights = {name: exponent("prior", h) for name, h in monomial(prior).items()}
    return polynomial, [1 + weights.get(name, Fraction(0)) for name in polynomial.variables]


def _note(unproved: Sequence[str]) -> str:
    return AT_ORIGIN + "".join(f"; by numerical search, not by proof: {what}" for what in unproved)


def newton(k: str | Polynomial, prior: Prior = None) -> Coefficient:
    """lambda and m of K >= 0 at the origin, such as 'x^4*y^2 + x^2*y^8', for the prior ~ |x|^h.. ('x', or {"x": h}).

    Refused, with the reason: K that is not 0 at the origin, that takes negative values near it, or that is
    degenerate: a face polynomial vanishes off the coordinate axes, as in (x - y)^2, where the linear programme
    gives 1 and the truth is 1/2. K = f^2 with such f is for `square`. Faces are settled by exact arithmetic: even
    powers, Sturm's theorem on edges, arithmetic-geometric means or a positive definite form; where those fail by a
    numerical search, and the note says so.
    """
    polynomial, tau = _prepared(k, prior, "K")
    unproved = []
    if any(c < 0 or any(x % 2 for x in alpha) for alpha, c in polynomial.terms.items()):
        unproved = _settle(polynomial, k)
    found = distance(polynomial.terms, tau)
    return Coefficient(float(found.value), found.m, SOURCE, _note(unproved))


def _settle(polynomial: Polynomial, k: object) -> list[str]:
    """Refuse a K that is negative or degenerate near 0; what of this is not proved."""
    boundary, unproved = _boundary(polynomial), []
    odd = [a for a in boundary.smallest if polynomial.terms[a] < 0 or any(x % 2 for x in a)]
    for alpha in boundary.vertices:
        if alpha in odd:
            term = show(polynomial, boundary.terms(frozenset([alpha])))
            raise refusal("K", k, f"it takes negative values near the origin, where {term} prevails: K must be >= 0")
    for face in boundary.faces(odd):
        terms = boundary.terms(face)
        verdict = positivity.positive(terms)
        part = show(polynomial, terms)
        if not verdict.answer:
            why = f"degenerate: on a face of its Newton polyhedron it is {part}, which vanishes"
            cure = "change coordinates so that its zeros lie on the axes, or, if K = f^2, ask for the square of f"
            raise refusal("K", k, f"{why}, or is negative, off the coordinate axes: {cure}")
        if not verdict.proved:
            unproved.append(f"{part} > 0 off the axes")
    return unproved


def square(f: str | Polynomial, prior: Prior = None) -> Coefficient:
    """lambda and m of K = f^2 at the origin: lambda = min(lct f, 1)/2 where f vanishes off the axes, else lct(f)/2.

    lct f is the linear programme's value for f. The bound 1 comes from smooth points of {f = 0}: it is there only
    if some face polynomial of f vanishes off the coordinate axes (x^2 + y^2 + z^2 does not: lambda = 3/4). Where
    lct f = 1 and the polynomial of the face of the optimum vanishes there, the branches of f = 0 count as one more
    component: a node has m = 2. Refused if a face polynomial has a singular zero off the axes, as (x-y)^2 has.
    """
    polynomial, tau = _prepared(f, prior, "f")
    boundary = _boundary(polynomial)
    faces = boundary.faces(list(boundary.smallest))
    vertices, zeros, unproved = set(boundary.vertices), set[Face](), []
    for face in faces:
        terms, corners = boundary.terms(face), sorted(face & vertices)
        part = show(polynomial, terms)
        if len({terms[alpha] > 0 for alpha in corners}) == 1 and not any(x % 2 for alpha in corners for x in alpha):
            definite = positivity.positive({alpha: c if terms[corners[0]] > 0 else -c for alpha, c in terms.items()})
            if definite.answer:
                unproved += [] if definite.proved else [f"{part} has no zero off the axes"]
                continue
        regular = positivity.nonsingular(terms)
        if not regular.answer:
            why = f"degenerate: on a face of its Newton polyhedron it is {part}, which has a singular zero off the axes"
            raise refusal("f", f, f"{why}: change coordinates so that this zero lies on an axis")
        zero = positivity.vanishes(terms, corners) if len(face) > 1 else positivity.Verdict(False, True)
        zeros |= {face} if zero.answer else set()
        unproved += [f"{part} has no singular zero off the axes"] if not regular.proved else []
        unproved += [f"{part} {'has a' if zero.answer else 'has no'} zero off the axes"] if not zero.proved else []
    found = distance(polynomial.terms, tau)
    lam, m = found.value, found.m
    if zeros and lam > 1:
        lam, m = Fraction(1), 1
    elif lam == 1:
        m += any(face <= found.tight for face in zeros)
    return Coefficient(float(lam / 2), m, f"lambda(f^2) = min(lct(f), 1)/2; {SOURCE}", _note(unproved))
