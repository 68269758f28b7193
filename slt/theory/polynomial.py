"""Polynomials with rational coefficients: read from text without eval, and their real roots counted exactly (Sturm)."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from slt.theory.coefficient import refusal

Exponents = tuple[int, ...]
MAX_DEGREE, MAX_TERMS, MAX_TEXT, MAX_BITS = 1000, 400, 4000, 4096
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|(?P<name>[A-Za-z](?:_?\d+)?)|(?P<op>\*\*|[-+*/^()]))")
HELP = "write sums of monomials such as x^4*y^2 + 3/2*x^2*y^8; a variable is one letter, or a letter and a number (w12)"


class Polynomial(NamedTuple):
    """`terms` maps exponents, one for each of `variables`, to coefficients; none is 0."""

    variables: tuple[str, ...]
    terms: dict[Exponents, Fraction]

    def over(self, variables: Sequence[str]) -> "Polynomial":
        """The same with its exponents for `variables`, which must contain its own."""
        where = {name: i for i, name in enumerate(self.variables)}
        terms = {
            tuple(alpha[where[name]] if name in where else 0 for name in variables): c
            for alpha, c in self.terms.items()
        }
        return Polynomial(tuple(variables), terms)


_Sparse = dict[tuple[tuple[str, int], ...], Fraction]


class _Parser:
    """sum := term ((+|-) term)*; term := power ([*|/] power)*; power := atom [^ integer]; the * may be left out."""

    def __init__(self, field: str, text: str):
        self.field, self.text, self.at = field, text, 0
        self.tokens: list[tuple[str, str]] = []
        if len(text) > MAX_TEXT:
            raise self.bad(f"more than {MAX_TEXT} characters")
        for word in re.findall(r"[A-Za-z]{4,}|[A-Za-z]{2,}(?=\s*\()", text):
            raise self.bad(f"{word} is no polynomial of x, y, ..: between one-letter variables write *; {HELP}")
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.bad(f"cannot read {text[position : position + 12].strip()!r}; {HELP}")
            kind = str(match.lastgroup)
            after_number = position == match.start() and self.tokens and self.tokens[-1][0] == "number"
            if after_number and re.match(r"[eE][-+\d]", text[position:]):
                raise self.bad("1e3 may be a number or a variable: write 1000, or 1*e3")
            self.tokens.append((kind, match[kind]))
            position = match.end()
        self.tokens.append(("end", ""))

    def bad(self, why: str) -> ValueError:
        return refusal(self.field, self.text, why)

    def take(self) -> tuple[str, str]:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def product(self, a: _Sparse, b: _Sparse) -> _Sparse:
        if len(a) * len(b) > 20 * MAX_TERMS:
            raise self.bad(f"it expands to more than {MAX_TERMS} terms")
        found: _Sparse = {}
        for left, x in a.items():
            for right, y in b.items():
                powers = dict(left)
                for name, power in right:
                    powers[name] = powers.get(name, 0) + power
                if sum(powers.values()) > MAX_DEGREE:
                    raise self.bad(f"the degree is above {MAX_DEGREE}")
                key = tuple(sorted(powers.items()))
                found[key] = found.get(key, Fraction(0)) + x * y
        return self.trimmed(found)

    def trimmed(self, a: _Sparse) -> _Sparse:
        a = {key: c for key, c in a.items() if c}
        if len(a) > MAX_TERMS:
            raise self.bad(f"it expands to more than {MAX_TERMS} terms")
        if any(max(c.numerator.bit_length(), c.denominator.bit_length()) > MAX_BITS for c in a.values()):
            raise self.bad(f"a coefficient has more than {MAX_BITS} bits")
        return a

    def sum(self, depth: int = 0) -> _Sparse:
        if depth > 50:
            raise self.bad("more than 50 nested parentheses")
        total: _Sparse = {}
        sign = 1
        while True:
            while self.tokens[self.at][1] in ("+", "-"):
                sign = -sign if self.take()[1] == "-" else sign
            for key, c in self.term(depth).items():
                total[key] = total.get(key, Fraction(0)) + sign * c
            total = self.trimmed(total)
            if self.tokens[self.at][1] not in ("+", "-"):
                return total
            sign = 1

    def term(self, depth: int) -> _Sparse:
        value = self.power(depth)
        while True:
            kind, text = self.tokens[self.at]
            if text == "/":
                self.take()
                divisor = self.power(depth)
                if set(divisor) != {()}:
                    raise self.bad("only a number other than 0 may divide")
                value = {key: c / divisor[()] for key, c in value.items()}
            elif text == "*" or kind in ("number", "name") or text == "(":
                if text == "*":
                    self.take()
                value = self.product(value, self.power(depth))
            else:
                return value

    def power(self, depth: int) -> _Sparse:
        kind, text = self.take()
        if kind == "number":
            value: _Sparse = {(): Fraction(text)} if Fraction(text) else {}
        elif kind == "name":
            value = {((text, 1),): Fraction(1)}
        elif text == "(":
            value = self.sum(depth + 1)
            if self.take()[1] != ")":
                raise self.bad("a parenthesis is not closed")
        else:
            raise self.bad(f"a number, a variable or '(' is missing before {text or 'the end'!r}; {HELP}")
        if self.tokens[self.at][1] in ("^", "**"):
            self.take()
            kind, text = self.take()
            if kind != "number" or not text.isdigit() or int(text) > MAX_DEGREE:
                raise self.bad(f"after ^ give a whole number up to {MAX_DEGREE}")
            base, value, count = value, {(): Fraction(1)}, int(text)
            for bit in bin(count)[2:]:
                value = self.product(value, value)
                if bit == "1":
                    value = self.product(value, base)
        return value


def parse(text: str, field: str = "polynomial") -> Polynomial:
    """A polynomial from text: + - * / ^ ** and parentheses, rational and decimal coefficients, x^2y^2 = x^2*y^2.

    Variables are sorted by name, then number. Bad text raises InputError and says what is wrong.
    """
    if not isinstance(text, str):
        raise refusal(field, text, f"give text; {HELP}")
    parser = _Parser(field, text)
    sparse = parser.sum()
    if parser.tokens[parser.at][0] != "end":
        raise parser.bad(f"{parser.tokens[parser.at][1]!r} is out of place; {HELP}")

    def order(name: str) -> tuple[str, int]:
        return name[0], int(name[1:].lstrip("_") or -1)

    variables = tuple(sorted({name for key in sparse for name, _ in key}, key=order))
    terms = {tuple(dict(key).get(name, 0) for name in variables): c for key, c in sparse.items()}
    return Polynomial(variables, terms)


def monomial(prior: str | Mapping[str, int | float | Fraction] | None) -> Mapping[str, int | float | Fraction]:
    """The exponents of a monomial prior, given as text such as 'x*y^2' or as a mapping; None is the flat prior."""
    if prior is None:
        return {}
    if isinstance(prior, Mapping):
        return prior
    found = parse(prior, "prior")
    if len(found.terms) != 1 or min(found.terms.values()) <= 0:
        raise refusal("prior", prior, "give one monomial such as x*y^2; its factor does not matter")
    return dict(zip(found.variables, next(iter(found.terms)), strict=True))


# ----------------------------------------------------------------------------------------- real roots in one variable

Univariate = list[Fraction]
"""Coefficients from the constant up; the last one is not 0, and [] is the polynomial 0."""


def _trim(p: Univariate) -> Univariate:
    while p and not p[-1]:
        p = p[:-1]
    return p


def _remainder(p: Univariate, q: Univariate) -> Univariate:
    p = list(p)
    while len(p) >= len(q):
        ratio, shift = p[-1] / q[-1], len(p) - len(q)
        for i, c in enumerate(q):
            p[shift + i] -= ratio * c
        p.pop()
        p = _trim(p)
    return p


def derivative(p: Univariate) -> Univariate:
    """The derivative."""
    return [i * c for i, c in enumerate(p)][1:]


def common_divisor(p: Univariate, q: Univariate) -> Univariate:
    """The greatest common divisor, with leading coefficient 1."""
    while q:
        p, q = q, _remainder(p, q)
    return [c / p[-1] for c in p]


def real_roots(p: Univariate) -> int:
    """How many distinct real roots a polynomial other than 0 has: Sturm's theorem, in exact arithmetic."""
    chain = [p, derivative(p)]
    while chain[-1]:
        chain.append([-c for c in _remainder(chain[-2], chain[-1])])
    chain.pop()

    def changes(sign: int) -> int:
        signs = [each[-1] * (sign ** (len(each) - 1)) > 0 for each in chain]
        return sum(a != b for a, b in pairwise(signs))

    return changes(-1) - changes(1)
