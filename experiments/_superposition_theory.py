"""What theory says of families of k-gons: t L + lambda log t of each minimum, Laplace's constant, crossings foretold.

Laplace's free energy here integrates over the whole set of minima (rotations, and all that dead features may do), so
that its constant is right wherever the loss has a Hessian normal to that set; for k = 4 it has kinks there, and the
constant is not.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import optimize, special

from slt.models import _kgon
from slt.models._kgon import Shape
from slt.transitions.crossing import Crossing, Difference
from slt.transitions.predictions import Form, Prediction, Root

from ._shared import offset

KINK = "the loss has kinks at the squares: this constant is not theirs"
_BATCH = 25_000


@functools.cache
def forms(c: int, k: int) -> Mapping[Shape, tuple[Form, Form | None]]:
    """Of every minimum of a family: (t L + lambda log t, Laplace's with its constant; None where it is not known)."""
    found: dict[Shape, tuple[Form, Form | None]] = {}
    for shape in _kgon.minima(c):
        lam = _kgon.local_lambda(shape, c)
        if shape.k == k and lam is not None:
            regular = not shape.doubled and (shape.k == 4 or shape.plus in (0, c - shape.k))
            found[shape] = (Form(_kgon.minimum(shape, c)[1], lam), laplace(shape, c) if regular else None)
    return found


def laplace(shape: Shape, c: int, draws: int = 200_000) -> Form | None:
    """t L + (r/2) log t - log[copies int_M prior (2 pi)^(r/2) det'(H)^(-1/2)] of a regular k-gon, prior N(0, 1).

    M: its rotations, times what dead features may do without changing the loss (their share of the prior is counted
    over `draws`; None where hardly any does it); r: the rank of H normal to M. Copies: which features are corners and
    in which order round, which '+'.
    """
    w, loss = _kgon.minimum(shape, c)
    dead = range(shape.k + shape.plus, c)
    own = (2,) if shape.k == 4 or shape.plus else (0, 1, 2)
    free = np.array([axis * c + i for axis in own for i in dead], int)
    fixed = np.setdiff1d(np.arange(3 * c), free)
    step = 1e-5
    hessian = np.array(
        [
            (_kgon._value_and_grad(w + e)[1] - _kgon._value_and_grad(w - e)[1])[fixed]
            for e in step * np.eye(3 * c)[fixed]
        ]
    ) / (2 * step)
    levels = np.linalg.eigvalsh((hessian + hessian.T) / 2)[1:]  # the first is 0: the rotation
    share = 1.0
    if free.size:
        share = float(np.mean([_unchanged(w, loss, free, batch) for batch in range(max(1, draws // _BATCH))]))
        if share * draws < 100:
            return None
    copies = math.comb(c, shape.k) * math.factorial(shape.k - 1) * math.comb(c - shape.k, shape.plus)
    turn = 2 * math.pi * float(np.linalg.norm(w[: 2 * c]))
    if not (copies * turn > 0 and (levels > 0).all()):
        return None
    prior = -0.5 * float(w[fixed] @ w[fixed]) - fixed.size / 2 * math.log(2 * math.pi)
    volume = prior + math.log(turn * share * copies)
    gauss = levels.size / 2 * math.log(2 * math.pi) - 0.5 * float(np.log(levels).sum())
    return Form(loss, levels.size / 2, 1, -volume - gauss)


def _unchanged(w: np.ndarray, loss: float, free: np.ndarray, batch: int) -> float:
    """The share of the prior of the `free` parameters that leaves the loss as it is."""
    c, many = len(w) // 3, np.tile(w, (_BATCH, 1))
    many[:, free] = np.random.default_rng(batch).standard_normal((_BATCH, free.size))
    weights, bias = many[:, : 2 * c].reshape(-1, 2, c), many[:, 2 * c :]
    gram = np.einsum("dai,daj->dij", weights, weights)
    each = _kgon._moments(np.eye(c), gram, np.repeat(bias[:, :, None], c, 2), np)[0]
    return float((np.abs(each.sum((1, 2)) / c - loss) < 1e-9).mean())


def theory(
    c: int, a: int, b: int, measured: Crossing | None = None, of: Difference | None = None
) -> tuple[Prediction, ...]:
    """Crossings of two families foretold: "leading", t Delta L = Delta lambda log t of the minima that lead at it;
    "laplace", of the sums over all minima of each with their constants (NaN where that of one is not known); and
    "constant_fitted", of the leading orders with one constant that the measured F_a - F_b is given for, see `offset`.
    """

    def leading(k: int, t: Any) -> Any:
        return np.min([one.at(t) for one, _ in forms(c, k).values()], axis=0)

    def summed(k: int, t: Any) -> Any:
        known = [other for _, other in forms(c, k).values()]
        if None in known:  # a minimum whose constant is not known
            return np.full(np.shape(t), np.nan)
        return -1.0 * np.asarray(special.logsumexp([-other.at(t) for other in known if other is not None], axis=0))

    found = []
    fitted = offset(lambda t: float(leading(a, t) - leading(b, t)), of)

    def shifted(k: int, t: Any) -> Any:
        return leading(k, t) + (fitted if k == a else 0.0)

    ways = [("leading", leading, ""), ("laplace", summed, KINK if min(a, b) == 4 else "")]
    ways += [("constant_fitted", shifted, "constant fitted")] if np.isfinite(fitted) else []
    for name, of_family, note in ways:
        mesh = np.geomspace(1.01, 1e9, 4000)
        value = of_family(a, mesh) - of_family(b, mesh)
        roots = []
        for i in np.flatnonzero(value[:-1] * value[1:] < 0):
            ends = np.log(mesh[[i, i + 1]])
            at = optimize.brentq(lambda u, of=of_family: float(of(a, np.exp(u)) - of(b, np.exp(u))), *ends)
            roots.append(Root(float(np.exp(float(at))), bool(value[i] < 0)))  # pyright: ignore[reportArgumentType]
        up = [root.t for root in roots if root.upward]
        miss = sigmas = t = np.nan
        if up:
            t = up[-1] if measured is None else min(up, key=lambda each: abs(np.log(each / measured.value)))
        if measured is not None and up:
            miss, sigmas = t / measured.value - 1, (t - measured.value) / measured.stderr
        found.append(Prediction(name, t, tuple(roots), miss, sigmas, note))
    return tuple(found)
