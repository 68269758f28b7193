"""What singular learning theory says of a model in two numbers: the learning coefficient lambda and its multiplicity m.

The volume of {K < eps} behaves as c eps^lambda (-log eps)^(m-1), so F_n = n L_n(w0) + lambda log n - (m-1) log log n +
O_p(1) (Watanabe, Algebraic Geometry and Statistical Learning Theory, 2009, main formulas I and II). Exact arithmetic;
no array library is imported.
"""

import operator
from fractions import Fraction
from typing import Any, NamedTuple


class Coefficient(NamedTuple):
    """lambda and m with where they are from; `note` says what they hold for, or what of them is not checked."""

    lam: float
    m: int
    source: str
    note: str = ""

    @property
    def fraction(self) -> Fraction:
        """Lambda as the fraction with the smallest denominator that rounds to the same double."""
        found = Fraction(self.lam).limit_denominator(10_000)
        return found if float(found) == self.lam else Fraction(self.lam)

    def __str__(self) -> str:
        fraction = self.fraction
        exact = f" = {fraction}" if fraction.denominator not in (1, 2, 4, 5, 8, 10) else ""
        lines = [f"lambda  {self.lam:.10g}{exact}", f"m       {self.m}", f"source  {self.source}"]
        return "\n".join([*lines, f"note    {self.note}"] if self.note else lines)


def refusal(field: str, value: object, cure: str) -> ValueError:
    """An InputError. slt.typing loads JAX: it is fetched only here, so that exact arithmetic starts at once."""
    from slt.typing import InputError

    return InputError(field, value, cure)


def integer(field: str, value: Any, least: int) -> int:
    """The value as an int, an integer of at least `least`, or an InputError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise refusal(field, value, f"give an integer >= {least}")
    return number


def exponent(field: str, value: Any) -> Fraction:
    """A prior's exponent h of w^h, above -1 so that the prior can be normalised, exactly; 0.1 is 1/10."""
    try:
        h = Fraction(repr(float(value)) if isinstance(value, float) else value)
    except (TypeError, ValueError, OverflowError):
        raise refusal(field, value, "give a number > -1, the h of a prior density w^h") from None
    if isinstance(value, bool) or h <= -1:
        raise refusal(field, value, "give a number > -1: w^h is no density near 0 otherwise")
    return h
