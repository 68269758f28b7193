"""Models whose lambda and m can be written down: regular ones, squares, normal crossings, tanh, mixtures, dead
ReLUs.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from slt.theory.coefficient import Coefficient, exponent, integer, refusal

WATANABE = "Watanabe, Algebraic Geometry and Statistical Learning Theory (2009)"


def regular(d: int) -> Coefficient:
    """d parameters that the data identify, Fisher information positive: lambda = d/2, m = 1 (BIC)."""
    return Coefficient(integer("d", d, 0) / 2, 1, "Schwarz, Estimating the dimension of a model (1978): d/2")


def sum_of_squares(squares: int, d: int | None = None) -> Coefficient:
    """K = w_1^2 + .. + w_D'^2 in d >= D' dimensions: lambda = D'/2, m = 1. The other coordinates change nothing."""
    integer("squares", squares, 1)
    if d is not None and integer("d", d, 1) < squares:
        raise refusal("d", d, f"give at least {squares} dimensions, one a square")
    return Coefficient(squares / 2, 1, "Gaussian integral: half the number of squares")


def normal_crossing(k: Sequence[int], h: Sequence[int | float | Fraction] | None = None) -> Coefficient:
    """K = prod w_i^(2 k_i), prior density prod |w_i|^h_i near 0: lambda = min_i (h_i + 1)/(2 k_i), m how often.

    `k` holds integers >= 0, not all 0; `h` numbers > -1, 0 unless given (Watanabe 2009, chapter 4).
    """
    k = [integer("k", each, 0) for each in k]
    h = [Fraction(0)] * len(k) if h is None else [exponent("h", each) for each in h]
    if not any(k):
        raise refusal("k", k, "give at least one exponent k_i > 0: without one K is 1 and has no zero")
    if len(h) != len(k):
        raise refusal("h", h, f"give {len(k)} exponents of the prior, one for each variable")
    ratios = [(each + 1) / (2 * power) for power, each in zip(k, h, strict=True) if power]
    lam = min(ratios)
    return Coefficient(float(lam), ratios.count(lam), f"normal crossing, {WATANABE}, chapter 4: min (h_i+1)/(2k_i)")


def tanh(hidden: int) -> Coefficient:
    """sum_h a_h tanh(b_h x), H units, x and the output scalar, truth 0: lambda = (H + i^2 + i)/(4i + 2), i = floor
    sqrt H.

    m = 2 where i^2 = H, else 1. Aoyagi and Watanabe (2005).
    """
    hidden = integer("hidden", hidden, 1)
    i = math.isqrt(hidden)
    return Coefficient(
        float(Fraction(hidden + i * i + i, 4 * i + 2)),
        2 if i * i == hidden else 1,
        "Aoyagi and Watanabe, Resolution of singularities and the generalization error with Bayesian estimation for "
        "layered neural network, IEICE J88-D-II (2005)",
        "truth 0; one input, one output; checked by quadrature for 1 and 2 units, to 2 % for 3, else recalled",
    )


def mixture(means: Literal["one", "both"] = "both", weight_prior: int | float | Fraction = 1) -> Coefficient:
    """A mixture (1-a) N(b_1, 1) + a N(b_2, 1) of two unit Gaussians on the line, the truth being one of them, N(0, 1).

    means="one": b_1 = 0 is fixed and K ~ a^2 b^2. means="both": K ~ u^2 + a^2 (1-a)^2 b^4 with u the mean, b = b_2
    - b_1. The prior of the weight is a^(phi-1) near 0 (and (1-a)^(phi-1) near 1), phi = `weight_prior`, 1 for the
    uniform one.
    """
    phi = exponent("weight_prior", weight_prior)
    if phi <= 0:
        raise refusal("weight_prior", weight_prior, "give phi > 0, the prior of the weight being a^(phi-1)")
    if means == "one":
        lam, m = min(phi, Fraction(1)) / 2, 2 if phi == 1 else 1
        source = "derived: K ~ a^2 b^2, a normal crossing"
    elif means == "both":
        lam, m = Fraction(1, 2) + min(phi / 2, Fraction(1, 4)), 2 if phi == Fraction(1, 2) else 1
        source = "derived: K ~ u^2 + a^2 b^4; 3/4 in Yamazaki and Watanabe, Neural Networks 16 (2003)"
    else:
        raise refusal("means", means, "give 'one' (the other component is fixed at the truth) or 'both'")
    note = "" if phi == 1 else f"prior of the weight a^({phi}-1)"
    return Coefficient(float(lam), m, source, note)


_RELU = {
    "dead": (0, 1, "derived: {c < -|b|} is open and K = 0 on it, so F stays bounded"),
    "no-bias": (Fraction(1, 2), 2, "derived: a relu(b x), K ~ a^2 b^2 where b does not vanish identically"),
    "active": (Fraction(1, 2), 1, "derived: at a = 0 with the unit active on part of the input, K ~ a^2"),
}


def relu(case: Literal["dead", "no-bias", "active"] = "dead") -> Coefficient:
    """a relu(b x + c), x in [-1, 1], truth 0, near a dead unit, an active one with a = 0, or without the bias c."""
    if case not in _RELU:
        raise refusal("case", case, f"give one of {', '.join(_RELU)}")
    lam, m, source = _RELU[case]
    note = "a dead unit adds nothing to lambda, though to lam(t) at finite t" if case == "dead" else ""
    return Coefficient(float(lam), m, source, note)


_CURVES = {
    "smooth": (Fraction(1, 2), 1, "a smooth point"),
    "node": (Fraction(1, 2), 2, "y^2 = x^2 - x^4 at 0, a crossing of two branches"),
    "figure-eight": (Fraction(1, 2), 2, "y^2 = x^2 - x^4 at 0, a crossing of two branches"),
    "cusp": (Fraction(5, 12), 1, "y^2 - x^3"),
    "tacnode": (Fraction(3, 8), 1, "y^2 - x^4"),
    "A4": (Fraction(7, 20), 1, "y^2 - x^5"),
    "trefoil": (Fraction(1, 3), 1, "an ordinary triple point"),
}
CURVES = tuple(_CURVES)


def plane_curve(name: str) -> Coefficient:
    """K = f^2 at the singular point of a plane curve f = 0 named in `CURVES`."""
    if name not in _CURVES:
        raise refusal("curve", name, f"give one of {', '.join(CURVES)}, or ask for the square of a polynomial")
    lam, m, what = _CURVES[name]
    return Coefficient(float(lam), m, f"lambda(f^2) = min(lct(f), 1)/2, K = f^2, f: {what}")


def power_curve(g: int) -> Coefficient:
    """K = (y^2 - x^g)^2 at 0, the singularity A_(g-1): lambda = (1/2) min(1, 1/2 + 1/g), m = 2 for g = 2, else 1."""
    lam = min(Fraction(1), Fraction(1, 2) + Fraction(1, integer("g", g, 1))) / 2
    return Coefficient(float(lam), 2 if g == 2 else 1, "lambda(f^2) = min(lct(f), 1)/2, f = y^2 - x^g, lct = 1/2 + 1/g")
