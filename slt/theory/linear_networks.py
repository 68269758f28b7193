"""Learning coefficients of deep linear networks and reduced-rank regression: K = |W_L .. W_1 - W*|^2, W* of rank r."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from slt.theory.coefficient import Coefficient, integer, refusal

AOYAGI = "Aoyagi, Consideration on the learning efficiency of multiple-layered neural networks with linear units (2024)"
AOYAGI_WATANABE = "Aoyagi and Watanabe, Stochastic complexities of reduced rank regression, Neural Networks 18 (2005)"
SINGULAR = "that of the most singular optima, the smallest on the set of optima"


def _widths(widths: Sequence[int], rank: int) -> list[int]:
    widths = [integer("widths", width, 1) for width in widths]
    if len(widths) < 2:
        raise refusal("widths", widths, "give at least the input's and the output's width, as 10,8,10")
    if integer("rank", rank, 0) > min(widths):
        raise refusal("rank", rank, f"give at most {min(widths)}: the narrowest layer bounds the rank of the product")
    return widths


def deep_linear(widths: Sequence[int], rank: int = 0) -> Coefficient:
    """Widths H_0 .. H_L, true rank r: lambda and m at the most singular optimum (Aoyagi 2024), O(L log L).

    With D_s = H_s - r and Sigma the ell + 1 smallest of them such that max Sigma < min of the rest, sum Sigma >=
    ell max Sigma, sum Sigma < ell min of the rest; S = sum Sigma, M = ceil(S/ell), a = S - (M - 1) ell: lambda = [r
    (H_0 + H_L) - r^2]/2 + a (ell - a)/(4 ell) - (ell - 1) S^2/(4 ell) + (1/2) sum_{i<j in Sigma} D_i D_j, m = a
    (ell - a) + 1.
    """
    widths = _widths(widths, rank)
    excess = sorted(width - rank for width in widths)
    total = excess[0]
    for ell in range(1, len(excess)):
        largest = excess[ell]
        total += largest
        rest = excess[ell + 1] if ell + 1 < len(excess) else math.inf
        if largest < rest and total >= ell * largest and total < ell * rest:
            break
    else:
        raise RuntimeError(f"no set Sigma for widths {widths}, rank {rank}: a defect of slt")
    chosen = excess[: ell + 1]
    a = total - (math.ceil(Fraction(total, ell)) - 1) * ell
    pairs = (total**2 - sum(each**2 for each in chosen)) // 2
    outer = rank * (widths[0] + widths[-1]) - rank**2
    lam = Fraction(outer + pairs, 2) + Fraction(a * (ell - a) - (ell - 1) * total**2, 4 * ell)
    unchecked = "; m of three or more factors rests on the source alone" if len(widths) > 3 else ""
    return Coefficient(float(lam), a * (ell - a) + 1, AOYAGI, SINGULAR + unchecked)


def deep_linear_by_exponents(widths: Sequence[int], rank: int = 0) -> float:
    """Lambda of `deep_linear` by another way, the exponents of small singular values of a product of Gaussian matrices.

    P(sigma_i^2 ~ eps^alpha_i) ~ eps^(sum c_i alpha_i/2), c_i = 1 - i + min_k floor((n_0 + .. + n_k - i)/k), n the
    D_s in ascending order; lambda = [r (H_0 + H_L) - r^2]/2 + (1/2) sum_i c_i, i = 1 .. n_0. It says nothing of m.
    """
    widths = _widths(widths, rank)
    n = sorted(width - rank for width in widths)
    sums = [sum(n[: k + 1]) for k in range(len(n))]
    c = [1 - i + min((sums[k] - i) // k for k in range(1, len(n))) for i in range(1, n[0] + 1)]
    return (rank * (widths[0] + widths[-1]) - rank**2 + sum(c)) / 2


def reduced_rank(inputs: int, hidden: int, outputs: int, rank: int = 0) -> Coefficient:
    """B A x with A hidden x inputs, B outputs x hidden, true rank r: the four cases of Aoyagi and Watanabe (2005)."""
    m, h, n, r = integer("inputs", inputs, 1), integer("hidden", hidden, 1), integer("outputs", outputs, 1), rank
    _widths((m, h, n), r)
    odd = 0
    if n + r <= m + h and m + r <= n + h and h + r <= m + n:
        odd = (m + h + n + r) % 2
        lam = Fraction(-((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n + odd, 8)
        case = f"case 1 ({'odd' if odd else 'even'})"
    elif m + h < n + r:
        lam, case = Fraction(h * m - h * r + n * r, 2), "case 2"
    elif n + h < m + r:
        lam, case = Fraction(h * n - h * r + m * r, 2), "case 3"
    else:
        lam, case = Fraction(m * n, 2), "case 4"
    return Coefficient(float(lam), 1 + odd, f"{AOYAGI_WATANABE}, {case}", SINGULAR)


def _pattern_codimension(ranks: dict[tuple[int, int], int], widths: Sequence[int]) -> int:
    """Codimension, in the parameters, of the optima with these ranks of all partial products W_j .. W_(i+1).

    They are one orbit of the type A quiver within the fibre; dim orbit = sum H_i^2 - dim End, and Hom between the
    interval modules [a, b] and [c, d] has dimension 1 where c <= a <= d <= b, else 0.
    """
    depth = len(widths) - 1

    def of(i: int, j: int) -> int:
        return 0 if i < 0 or j > depth else ranks[i, j]

    intervals = [(i, j) for i in range(depth + 1) for j in range(i, depth + 1)]
    count = {(i, j): of(i, j) - of(i - 1, j) - of(i, j + 1) + of(i - 1, j + 1) for i, j in intervals}
    homs = sum(count[a, b] * count[c, d] for a, b in intervals if count[a, b] for c, d in intervals if c <= a <= d <= b)
    r = ranks[0, depth]
    fibre = sum(width**2 for width in widths) - homs - r * (widths[0] + widths[-1] - r)
    return sum(before * after for before, after in pairwise(widths)) - fibre


def deep_linear_local(matrices: Sequence, tolerance: float = 1e-8) -> Coefficient:
    """lambda = rank(Jacobian)/2, m = 1, at a generic optimum given by its matrices W_1 .. W_L, W_s of shape H_s x
    H_(s-1).

    It holds where the optima near the point are a manifold of codimension rank(Jacobian). That is decided here from the
    ranks of all partial products; another point is refused, for there rank(Jacobian)/2 is only a lower bound. Singular
    values under `tolerance` times the largest count as 0; one within a factor 1000 of that is refused.
    """
    import numpy as np

    layers = [np.asarray(matrix, dtype=np.float64) for matrix in matrices]
    shapes = [layer.shape for layer in layers]
    if not layers or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise refusal("matrices", shapes, "give a sequence of matrices, first layer first")
    if any(before[0] != after[1] for before, after in pairwise(shapes)):
        raise refusal(
            "matrices", shapes, "give W_s of shape H_s x H_(s-1): columns must meet the rows of the one before"
        )
    if not all(np.isfinite(layer).all() for layer in layers):
        raise refusal("matrices", shapes, "they hold numbers that are not finite")
    widths = [shapes[0][1], *(shape[0] for shape in shapes)]
    depth = len(layers)

    def rank(matrix: np.ndarray, scale: float) -> int:
        values = np.linalg.svd(matrix, compute_uv=False)
        unclear = (values > tolerance / 1000 * scale) & (values < tolerance * 1000 * scale)
        if unclear.any():
            raise refusal("matrices", values[unclear], f"singular values near {tolerance:g}: give a sharper optimum")
        return int(np.sum(values > tolerance * scale))

    products: dict[tuple[int, int], np.ndarray] = {}
    ranks: dict[tuple[int, int], int] = {}
    for i in range(depth + 1):
        products[i, i], scale = np.eye(widths[i]), 1.0
        for j in range(i + 1, depth + 1):
            products[i, j] = layers[j - 1] @ products[i, j - 1]
            scale *= max(float(np.linalg.norm(layers[j - 1], 2)), float(np.finfo(float).tiny))
            ranks[i, j] = rank(products[i, j], scale)
        ranks[i, i] = widths[i]
    # The image of the Jacobian is sum_s Im(what follows s) x Im(what goes before s), of one flag rising with s and one
    # falling, so its dimension follows from theirs.
    follows = [0, *(ranks[s + 1, depth] for s in range(depth))]
    jacobian = sum((follows[s + 1] - follows[s]) * ranks[0, s] for s in range(depth))
    codimension = _pattern_codimension(ranks, widths)
    if jacobian != codimension:
        raise refusal(
            "matrices",
            shapes,
            f"no generic optimum: the Jacobian has rank {jacobian}, the optima like it codimension {codimension}; "
            f"lambda >= {jacobian / 2:g} there, and deep_linear gives the least value",
        )
    return Coefficient(jacobian / 2, 1, "rank(Jacobian)/2: the optima near it are a manifold of that codimension")
