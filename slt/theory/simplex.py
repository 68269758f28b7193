"""Linear programmes in exact arithmetic, small ones: m counts ties, which floating point cannot tell from near ties."""

from collections.abc import Sequence
from fractions import Fraction

Vector = Sequence[int | Fraction]


def minimise(cost: Vector, rows: Sequence[Vector], rhs: Vector) -> list[Fraction] | None:
    """A vertex x of {x >= 0, rows x = rhs} at which cost.x is least; None where there is no such x.

    The two-phase simplex method with Bland's rule, which always ends. A cost without a least value raises ValueError.
    """
    width = len(cost)
    table = []
    for row, value in zip(rows, rhs, strict=True):
        sign = -1 if value < 0 else 1
        table.append([Fraction(sign * each) for each in row] + [Fraction(sign * value)])
    basis = [-1] * len(table)  # -1: an artificial variable, which never comes back
    # Phase 1: drive the artificial variables, whose sum is the total of the right-hand sides, to 0.
    _descend(table, basis, [-sum((row[j] for row in table), Fraction(0)) for j in range(width)])
    if any(row[-1] for row, b in zip(table, basis, strict=True) if b < 0):
        return None
    for i in reversed(range(len(table))):
        if basis[i] < 0:
            j = next((j for j in range(width) if table[i][j]), None)
            if j is None:  # the equation follows from the others
                del table[i], basis[i]
            else:
                _pivot(table, basis, i, j, [])
    reduced = [Fraction(each) for each in cost]
    for i, b in enumerate(basis):
        factor = reduced[b]
        if factor:
            reduced = [c - factor * a for c, a in zip(reduced, table[i], strict=False)]
    _descend(table, basis, reduced)
    x = [Fraction(0)] * width
    for i, b in enumerate(basis):
        x[b] = table[i][-1]
    return x


def _descend(table: list[list[Fraction]], basis: list[int], reduced: list[Fraction]) -> None:
    """Pivot until no reduced cost is negative."""
    while (j := next((j for j, c in enumerate(reduced) if c < 0), None)) is not None:
        ratios = [(row[-1] / row[j], basis[i], i) for i, row in enumerate(table) if row[j] > 0]
        if not ratios:
            raise ValueError("the linear programme has no least value")
        _pivot(table, basis, min(ratios)[2], j, reduced)


def _pivot(table: list[list[Fraction]], basis: list[int], i: int, j: int, reduced: list[Fraction]) -> None:
    lead = table[i][j]
    table[i] = pivot = [a / lead for a in table[i]]
    for k, row in enumerate(table):
        if k != i and row[j]:
            factor = row[j]
            table[k] = [a - factor * p if p else a for a, p in zip(row, pivot, strict=True)]
    if reduced and reduced[j]:
        factor = reduced[j]
        reduced[:] = [a - factor * p if p else a for a, p in zip(reduced, pivot, strict=False)]
    basis[i] = j


def rank(rows: Sequence[Vector]) -> int:
    """The rank of a matrix of rationals."""
    table = [[Fraction(each) for each in row] for row in rows]
    found = 0
    for j in range(len(table[0]) if table else 0):
        i = next((i for i in range(found, len(table)) if table[i][j]), None)
        if i is None:
            continue
        table[found], table[i] = table[i], table[found]
        for k in range(found + 1, len(table)):
            if table[k][j]:
                factor = table[k][j] / table[found][j]
                table[k] = [a - factor * p for a, p in zip(table[k], table[found], strict=True)]
        found += 1
    return found


def support(columns: Sequence[Vector], rhs: Vector) -> list[Vector] | None:
    """A basis of the span of all columns that some y >= 0 with sum_j y_j column_j = rhs weighs; None without such y."""
    found: list[Vector] = []
    rows = list(zip(*columns, strict=True))
    while True:
        fresh = [not spanned(column, found) for column in columns]
        y = minimise([-int(new) for new in fresh], rows, rhs)
        if y is None:
            return None
        weighed = [column for column, weight, new in zip(columns, y, fresh, strict=True) if weight and new]
        if not weighed:
            return found
        for column in weighed:
            if not spanned(column, found):
                found.append(column)


def spanned(vector: Vector, basis: Sequence[Vector]) -> bool:
    """Whether a vector is a combination of independent ones."""
    return rank([*basis, vector]) == len(basis)
