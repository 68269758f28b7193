"""Two-layer linear networks K = |A B - M|^2 (sum of squares), A p x h, B h x q: one factor is integrated exactly.

With B ~ N(0, 1): Z = E_A det(I + 2t A'A)^(-q/2) exp(-t tr M'(I + 2t A A')^-1 M), half the parameters or fewer. What is
left depends on one to three numbers where M = 0 and min(p, h, q) <= 3, where M has at most two rows or columns, and
where h = 1 and M has rank at most 2: then `two_layer` is exact. Elsewhere `two_layer_reference` samples the smaller
factor alone and averages the exact mean of K given it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Real
from scipy import special

from slt.theory.coefficient import integer, refusal
from slt.theory.exact import Curve, Values, times

Matrix = Real[np.ndarray, "p q"]
Block = tuple[tuple[np.ndarray, ...], np.ndarray]
"""Nodes, arrays that broadcast against one another, and the log weights of an expectation."""
Factor = Callable[..., tuple[Any, Any]]
"""(t, *nodes) -> l and -dl/dt, the integrand being exp(l)."""

STEPS = {1: 0.05, 2: 0.15, 3: 0.3}


def _chi_square(t: float, dof: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """x ~ chi-square: nodes and log weights of the trapezoidal rule in log x, which converges geometrically."""
    u = np.arange(-np.log1p(2 * t) - 90 / dof, np.log(2 * dof + 250), step)
    return np.exp(u), dof / 2 * (u - np.log(2)) - np.exp(u) / 2 - special.gammaln(dof / 2) + np.log(step)


def _log_gamma(a: float, size: int) -> float:
    """log of the multivariate gamma function Gamma_size(a)."""
    return size * (size - 1) / 4 * np.log(np.pi) + float(np.sum(special.gammaln(a - np.arange(size) / 2)))


def _wishart(t: float, size: int, dof: int) -> Iterator[Block]:
    """The eigenvalues x_1 > .. of G G', G size x dof with entries N(0, 1), dof >= size, in blocks.

    Density c prod x_i^((dof-size-1)/2) e^(-x_i/2) prod_{i<j} (x_i - x_j) (Muirhead 1982, theorem 3.2.18), integrated in
    log x_1 and v_i = log r_i/(1 - r_i), r_i = x_{i+1}/x_i.
    """
    step = STEPS[size]
    if size == 1:
        x, log_weight = _chi_square(t, dof, step)
        yield (x,), log_weight
        return
    u = np.arange(-np.log1p(2 * t) - 90 / (size * dof), np.log(2 * size * dof + 250), step)
    v = np.arange(-np.log1p(2 * t) - 6 - 90 / (dof - size + 1), 24, step)
    ratio, rest = special.expit(v), special.expit(-v)
    log_ratio, log_rest = special.log_expit(v), special.log_expit(-v)
    log_c = size**2 / 2 * np.log(np.pi) - size * dof / 2 * np.log(2) + size * np.log(step)
    log_c -= _log_gamma(dof / 2, size) + _log_gamma(size / 2, size)
    power = (dof - size - 1) / 2
    for part in np.array_split(u, 1 if size == 2 else len(u) // 4):
        if size == 2:
            # dx_2 = x_1 r (1 - r) dv, and x_1 - x_2 = x_1 (1 - r)
            log_x1 = part[:, None]
            x1, x2 = np.exp(log_x1), np.exp(log_x1) * ratio
            log_weight = 3 * log_x1 + log_ratio + 2 * log_rest + power * (2 * log_x1 + log_ratio)
            yield (x1, x2), log_c + log_weight - (x1 + x2) / 2
        else:
            log_x1, r, s = part[:, None, None], ratio[:, None], ratio
            log_r, log_s, log_not_r, log_not_s = log_ratio[:, None], log_ratio, log_rest[:, None], log_rest
            x1 = np.exp(log_x1)
            x2, x3 = x1 * r, x1 * r * s
            # dx_1 dx_2 dx_3 = x_1 (x_1 r (1-r)) (x_2 s (1-s)); differences x_1 (1-r), x_2 (1-s), x_1 (1-r + r (1-s))
            log_weight = 6 * log_x1 + 3 * log_r + log_s + 2 * log_not_r + 2 * log_not_s
            log_weight = log_weight + np.log(rest[:, None] + r * rest) + power * (3 * log_x1 + 2 * log_r + log_s)
            yield (x1, x2, x3), log_c + log_weight - (x1 + x2 + x3) / 2


def _directions(t: float, count: int, others: int) -> Iterator[Block]:
    """The squares of `count` N(0, 1), and the sum of the squares of `others` more, if any."""
    dofs = [1] * count + [others] * (others > 0)
    step = STEPS[len(dofs)]
    axes = [_chi_square(t, dof, step) for dof in dofs]
    shapes = [tuple(-1 if j == i else 1 for j in range(len(dofs))) for i in range(len(dofs))]
    inner = sum((w.reshape(s) for (_, w), s in zip(axes[1:], shapes[1:], strict=True)), np.zeros(()))
    for part in np.array_split(np.arange(len(axes[0][0])), 1 if len(dofs) < 3 else len(axes[0][0]) // 4):
        nodes = [
            axes[0][0][part].reshape(shapes[0]),
            *(x.reshape(s) for (x, _), s in zip(axes[1:], shapes[1:], strict=True)),
        ]
        yield tuple(nodes), axes[0][1][part].reshape(shapes[0]) + inner


def _expectation(blocks: Callable[[float], Iterator[Block]], factor: Factor, t: Values) -> Curve:
    """F = -log E exp(l) and lam = -t dlog E exp(l)/dt."""
    f, lam = np.zeros(t.shape), np.zeros(t.shape)
    for index, each in np.ndenumerate(t):
        top, z, first = -np.inf, 0.0, 0.0
        for nodes, log_weight in blocks(float(each)):
            log, slope = factor(float(each), *nodes)
            log = log + log_weight
            higher = max(top, float(log.max()))
            share, scale = np.exp(log - higher), np.exp(top - higher)
            top, z, first = higher, z * scale + float(share.sum()), first * scale + float(np.sum(share * slope))
        f[index], lam[index] = -np.log(z) - top, each * first / z
    return Curve(f, lam)


def _determinant(q: int, t: float, *x: Any) -> tuple[Any, Any]:
    """det(I + 2t X)^(-q/2), X with the eigenvalues x."""
    log: Any = sum(-q / 2 * np.log1p(2 * t * each) for each in x)
    slope: Any = sum(q * each / (1 + 2 * t * each) for each in x)
    return log, slope


def _two_rows(q: int, m: tuple[float, float], t: float, x1: Any, x2: Any) -> tuple[Any, Any]:
    """... times exp(-t tr M M' (I + 2t X)^-1), averaged over the angle between the eigenvectors of M M' and of X.

    The angle enters as exp(kappa cos 2 theta): a Bessel function. m are the eigenvalues of M M'.
    """
    log, slope = _determinant(q, t, x1, x2)
    d1, d2 = 1 / (1 + 2 * t * x1), 1 / (1 + 2 * t * x2)
    total, difference = (m[0] + m[1]) / 2, (m[0] - m[1]) / 2
    kappa = t * difference * (d2 - d1)
    bessel = special.i0e(kappa)
    log = log - t * total * (d1 + d2) + np.abs(kappa) + np.log(bessel)
    # d(t d)/dt = d^2
    return log, slope + total * (d1**2 + d2**2) - special.i1e(kappa) / bessel * difference * (d2**2 - d1**2)


def _one_unit(q: int, m: list[float], t: float, *x: Any) -> tuple[Any, Any]:
    """h = 1: x holds a_i^2 along the singular directions of M, m its squared singular values, then the rest of
    |a|^2.
    """
    size = sum(x[1:], x[0])
    a = 1 + 2 * t * size
    log, slope = _determinant(q, t, size)
    for strength, each in zip(m, x, strict=False):
        log = log - t * strength * (1 - 2 * t * each / a)
        slope = slope + strength * (1 - 4 * t * each * (1 + t * size) / a**2)
    return log, slope


def _one_row(q: int, m: float, t: float, x: Any) -> tuple[Any, Any]:
    """p = 1: A A' is one number."""
    log, slope = _determinant(q, t, x)
    d = 1 / (1 + 2 * t * x)
    return log - t * m * d, slope + m * d**2


def _checked(t: Any, target: Any, hidden: int) -> tuple[Values, np.ndarray]:
    t, target = times(t), np.asarray(target, dtype=np.float64)
    if target.ndim != 2 or 0 in target.shape or not np.isfinite(target).all():
        raise refusal("target", target.shape, "give a finite matrix p x q")
    integer("hidden", hidden, 1)
    return t, target


def two_layer(t: Any, target: Any, hidden: int) -> Curve:
    """F and lam of K = |A B - M|^2, M = `target` p x q, `hidden` units, all parameters N(0, 1), by quadrature to 1e-9.

    For M = 0 with min(p, h, q) <= 3 (3: seconds for each t), for M with one or two rows or columns and any h, and for h
    = 1 with M of rank at most 2. Others are refused: see `two_layer_reference`.
    """
    t, target = _checked(t, target, hidden)
    p, q = sorted(target.shape)
    m = np.linalg.svd(target, compute_uv=False) ** 2
    rank = int(np.sum(m > 1e-24 * max(m[0], 1e-300)))
    if rank == 0 and min(p, hidden, q) <= 3:
        # Integrate out the widest outer layer: what is left is p x h.
        size, dof = sorted((p, hidden))
        return _expectation(partial(_wishart, size=size, dof=dof), partial(_determinant, q), t)
    if p == 1:
        return _expectation(partial(_wishart, size=1, dof=hidden), partial(_one_row, q, float(m[0])), t)
    if p == 2 and hidden >= 2:
        return _expectation(partial(_wishart, size=2, dof=hidden), partial(_two_rows, q, (float(m[0]), float(m[1]))), t)
    if hidden == 1 and rank <= 2:
        blocks = partial(_directions, count=rank, others=p - rank)
        return _expectation(blocks, partial(_one_unit, q, m[:rank].tolist()), t)
    raise refusal(
        "target",
        f"{target.shape}, rank {rank}, hidden {hidden}",
        "exact for M = 0 with min(p, h, q) <= 3, for two rows or columns, or for h = 1 and rank 2: "
        "use two_layer_reference",
    )
