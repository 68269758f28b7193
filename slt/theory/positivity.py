"""Whether a polynomial has zeros, or singular zeros, off the coordinate axes: proved where possible, else searched
for.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

from slt.theory.polynomial import Exponents, Univariate, common_divisor, derivative, real_roots
from slt.theory.simplex import minimise, rank

Terms = Mapping[Exponents, Fraction]
STARTS = 4000


class Verdict(NamedTuple):
    """An answer, and whether it is proved or only what a numerical search found."""

    answer: bool
    proved: bool


def along_edge(terms: Terms) -> Univariate | None:
    """The polynomial p with terms = x^alpha p(x^v), where the exponents lie on a line with primitive direction v.

    An odd entry in v lets x^v take every value but 0. None where they are not on a line; p's ends are not 0.
    """
    alphas = sorted(terms)
    differences = [tuple(x - y for x, y in zip(alpha, alphas[0], strict=True)) for alpha in alphas]
    if rank(differences) != 1:
        return None
    content = math.gcd(*differences[1])
    direction = [x // content for x in differences[1]]
    where = next(i for i, x in enumerate(direction) if x)
    steps = [difference[where] // direction[where] for difference in differences]
    p = [Fraction(0)] * (max(steps) + 1)
    for step, alpha in zip(steps, alphas, strict=True):
        p[step] = terms[alpha]
    return p


def _even(alpha: Exponents) -> bool:
    return all(x % 2 == 0 for x in alpha)


def positive(terms: Terms) -> Verdict:
    """Whether a polynomial whose vertices are even with positive coefficients is > 0 off the coordinate axes."""
    good = {alpha: c for alpha, c in terms.items() if c > 0 and _even(alpha)}
    bad = {alpha: abs(c) for alpha, c in terms.items() if alpha not in good}
    if not bad:
        return Verdict(True, True)
    edge = along_edge(terms)
    if edge is not None:
        return Verdict(real_roots(edge) == 0, True)
    if _arithmetic_geometric(good, bad) or _positive_definite(terms):
        return Verdict(True, True)
    least, at = _least_ratio(terms, good)
    if least < 1e-7:
        return Verdict(False, False)
    scale = [Fraction(math.exp(y)).limit_denominator(1000) for y in at]
    if all(scale):

        def scaled(part: Terms) -> dict[Exponents, Fraction]:
            return {
                a: c * math.prod((s**x for s, x in zip(scale, a, strict=True)), start=Fraction(1))
                for a, c in part.items()
            }

        if _arithmetic_geometric(scaled(good), scaled(bad)):
            return Verdict(True, True)
    return Verdict(True, False)


def _arithmetic_geometric(good: Terms, bad: Terms) -> bool:
    """Proof by |x^delta| <= sum lambda_beta x^beta, delta = sum lambda_beta beta a convex combination: exact LP.

    The squares in `good` must pay for all of `bad`, with something left.
    """
    if sum(good.values()) <= sum(bad.values()):
        return False
    columns = [(delta, beta) for delta in bad for beta in good]
    width = len(columns) + len(good)
    rows: list[list[int]] = []
    rhs: list[int | Fraction] = []
    for delta, size in bad.items():
        for i in range(len(delta)):
            rows.append([beta[i] if own == delta else 0 for own, beta in columns] + [0] * len(good))
            rhs.append(delta[i] * size)
        rows.append([int(own == delta) for own, _ in columns] + [0] * len(good))
        rhs.append(size)
    for k, (beta, c) in enumerate(good.items()):
        rows.append([int(to == beta) for _, to in columns] + [int(j == k) for j in range(len(good))])
        rhs.append(c)
    return minimise([0] * width, rows, rhs) is not None


def _positive_definite(terms: Terms) -> bool:
    """Proof by writing the polynomial as m' G m, m the square roots of its squares, with G positive definite."""
    squares = [alpha for alpha, c in terms.items() if c > 0 and _even(alpha)]
    pairs: dict[Exponents, tuple[int, int]] = {}
    for i, a in enumerate(squares):
        for j, b in enumerate(squares[:i]):
            pairs.setdefault(tuple((x + y) // 2 for x, y in zip(a, b, strict=True)), (i, j))
    size = len(squares)
    gram = [[Fraction(0)] * size for _ in range(size)]
    for i, alpha in enumerate(squares):
        gram[i][i] = terms[alpha]
    for alpha, c in terms.items():
        if alpha in squares:
            continue
        if alpha not in pairs:
            return False
        i, j = pairs[alpha]
        gram[i][j] = gram[j][i] = c / 2
    for k in range(size):
        if gram[k][k] <= 0:
            return False
        for i in range(k + 1, size):
            factor = gram[i][k] / gram[k][k]
            gram[i] = [x - factor * y for x, y in zip(gram[i], gram[k], strict=True)]
    return True


def nonsingular(terms: Terms) -> Verdict:
    """Whether no zero off the coordinate axes is singular, that is, has all derivatives 0 too."""
    alphas = list(terms)
    if rank([[*alpha, 1] for alpha in alphas]) == len(alphas):
        return Verdict(True, True)  # f = 0 and its logarithmic derivatives are as many independent equations as terms
    edge = along_edge(terms)
    if edge is not None:
        return Verdict(real_roots(common_divisor(edge, derivative(edge))) == 0, True)
    import numpy as np

    powers = np.array([[*alpha, 1] for alpha in alphas], float)

    def size(shares: Any) -> Any:
        return np.sum((shares @ powers) ** 2, axis=-1)

    return Verdict(_search(terms, size)[0] > 1e-9, False)


def vanishes(terms: Terms, vertices: Sequence[Exponents]) -> Verdict:
    """Whether the polynomial has a zero off the coordinate axes; `vertices` are those of its exponents."""
    for signs in _signs(terms):
        if len({signs[alpha] * (1 if terms[alpha] > 0 else -1) for alpha in vertices}) > 1:
            return Verdict(True, True)  # each vertex prevails somewhere in the orthant
    edge = along_edge(terms)
    if edge is not None:
        return Verdict(real_roots(edge) > 0, True)
    # In each orthant the vertices have one sign. If every term has it too there is no zero.
    proved, zero = True, False
    for signs in _signs(terms):
        top = signs[vertices[0]] * (1 if terms[vertices[0]] > 0 else -1)
        signed = {alpha: top * signs[alpha] * c for alpha, c in terms.items()}
        if any(c < 0 for c in signed.values()):
            good = {alpha: c for alpha, c in signed.items() if c > 0}
            proved, zero = False, zero or _least_ratio(signed, good, orthants=False)[0] < 1e-7
    return Verdict(zero, proved)


def _signs(terms: Terms) -> Iterator[dict[Exponents, int]]:
    """The signs of the monomials in every orthant, each combination once."""
    used = [i for i in range(len(next(iter(terms)))) if any(alpha[i] % 2 for alpha in terms)]
    seen = set()
    for negative in product((False, True), repeat=len(used)):
        odd = [i for i, yes in zip(used, negative, strict=True) if yes]
        signs = {alpha: (-1) ** sum(alpha[i] for i in odd) for alpha in terms}
        if (key := tuple(signs.values())) not in seen:
            seen.add(key)
            yield signs


def _least_ratio(terms: Terms, good: Terms, orthants: bool = True) -> tuple[float, list[float]]:
    """The least of f / (sum of its good terms) over the orthants, and log |x| there."""
    import numpy as np

    chosen = np.array([alpha in good for alpha in terms])

    def ratio(shares: Any) -> Any:
        return shares.sum(-1) / np.abs(shares[..., chosen]).sum(-1)

    return _search(terms, ratio, orthants)


def _search(terms: Terms, objective: Callable[[Any], Any], orthants: bool = True) -> tuple[float, list[float]]:
    """The least value found of a function of the terms' shares c x^alpha / sum |c x^alpha|, from many starts."""
    import numpy as np
    from scipy import optimize

    alphas = np.array(list(terms), float)
    c = np.array([float(value) for value in terms.values()])
    best, at = math.inf, [0.0] * alphas.shape[1]
    spread = np.random.default_rng(0).standard_normal((STARTS, alphas.shape[1]))
    starts = spread * np.geomspace(0.03, 5, STARTS)[:, None]
    every = [np.array(list(signs.values()), float) for signs in _signs(terms)] if orthants else [np.ones(len(c))]
    for signs in every:

        def value(y: Any, signed: Any = c * signs) -> Any:
            powers = y @ alphas.T
            shares = signed * np.exp(powers - powers.max(-1, keepdims=True))
            return objective(shares / np.abs(shares).sum(-1, keepdims=True))

        values = value(starts)
        for start in starts[np.argsort(values)[:6]]:
            found = optimize.minimize(value, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14})
            if found.fun < best:
                best, at = float(found.fun), [float(y) for y in found.x]
    return best, at
