"""What theory says of a crossing, beside the measured one: leading orders, the constant term, Laplace, exact values.

With F = t L + lambda log t - (m - 1) log log t + c of either phase, the crossing solves D(t) = F_a - F_b = 0. To
leading order t (L_a - L_b) = (lambda_b - lambda_a) log t, which has two roots, one or none: the lower one, where D
falls below 0, comes of log t and lies at t of order one, where no asymptotics hold; the upper one is the transition.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from slt.transitions.crossing import Crossing
from slt.typing import InputError

LARGEST = 1e15
FITTED = "fitted"
"""The note of what was fitted to the measurement that it stands beside."""


class Form(NamedTuple):
    """F(t) = t loss + lam log t - (m - 1) log log t + constant; NaN where a number is not known."""

    loss: float
    lam: float
    m: int = 1
    constant: float = 0.0

    def at(self, t: Any) -> Any:
        """F at t > 1."""
        log = np.log(t)
        return t * self.loss + self.lam * log - (self.m - 1) * np.log(log) + self.constant


class Root(NamedTuple):
    """A t at which two forms are equal; upward: F_a - F_b goes from below 0 to above, from phase a to phase b."""

    t: float
    upward: bool


class Prediction(NamedTuple):
    """A crossing that theory foretells: `t` of a -> b (NaN: it foretells none), all roots, and by how much it misses.

    miss: t over the measured crossing, less 1; sigmas: the same in standard errors of the measured one (NaN without).
    """

    name: str
    t: float
    roots: tuple[Root, ...]
    miss: float
    sigmas: float
    note: str = ""

    def __str__(self) -> str:
        if np.isnan(self.t):
            return f"{self.name}: no crossing" + (f" ({self.note})" if self.note else "")
        far = "" if np.isnan(self.miss) else f", {self.miss:+.1%} from the measured one"
        return f"{self.name}: {self.t:.5g}{far}" + (f" ({self.note})" if self.note else "")


def roots(a: Form, b: Form, low: float = 1.0, high: float = LARGEST) -> tuple[Root, ...]:
    """All t in (low, high) at which a and b are equal, ascending.

    Without log log terms D'(t) = dL + dlambda/t has at most one zero, so there are at most two roots, one on either
    side of it; with them a fine mesh in log t is searched.
    """
    numbers = (a.loss, a.lam, a.constant, b.loss, b.lam, b.constant)
    if not np.isfinite(numbers).all():
        return ()
    if not 1.0 <= low < high:
        raise InputError("low", low, "must be at least 1 and below high: the forms are in log t")

    def d(t: Any) -> Any:
        return a.at(np.asarray(t, np.float64)) - b.at(np.asarray(t, np.float64))

    start = low * (1 + 1e-9)
    mesh = np.geomspace(start, high, 4000)
    loss, lam = a.loss - b.loss, a.lam - b.lam
    if loss != 0 and start < -lam / loss < high:
        mesh = np.union1d(mesh, [-lam / loss])  # between two close roots D turns round here
    value = d(mesh)
    found = [Root(float(t), _rising(d, float(t))) for t in mesh[value == 0]]
    for i in np.flatnonzero(value[:-1] * value[1:] < 0):
        root = optimize.brentq(lambda u: float(d(np.exp(u))), np.log(mesh[i]), np.log(mesh[i + 1]), xtol=1e-14)
        found.append(Root(float(np.exp(float(root))), bool(value[i] < 0)))  # pyright: ignore[reportArgumentType]
    return tuple(sorted(found))


def _rising(d: Callable[[Any], Any], t: float) -> bool:
    return bool(d(t * 1.000001) > d(t / 1.000001))


def predictions(
    a: Form | None,
    b: Form | None,
    measured: Crossing | None = None,
    *,
    laplace: Sequence[Form] | None = None,
    laplace_note: str = "",
    exact: float | None = None,
    note: str = "",
    constant_note: str = "",
) -> tuple[Prediction, ...]:
    """Predictions "leading", "multiplicity" (if an m exceeds 1), "constant" (if both are known), "laplace", "exact".

    a, b: asymptotic forms, NaN constant where it is not known (None: what varies is not t). laplace: the Laplace forms
    of a and b, lambda = d/2. exact: a crossing known exactly. note: FITTED where the forms themselves were fitted to
    what was measured, so that they foretell nothing; constant_note: the same of their constants alone. Of the roots of
    a form, `t` is the one upward nearest to the measured crossing, or the last one upward.
    """

    def bare(form: Form, m: int) -> Form:
        return form._replace(m=m, constant=0.0)

    found = []
    if a is not None and b is not None:
        found.append(_prediction("leading", roots(bare(a, 1), bare(b, 1)), measured, note))
        low = math.e if max(a.m, b.m) > 1 else 1.0  # below e the term in log log t has the wrong sign
        if max(a.m, b.m) > 1:
            found.append(_prediction("multiplicity", roots(bare(a, a.m), bare(b, b.m), low), measured, note))
        if np.isfinite([a.constant, b.constant]).all():
            found.append(_prediction("constant", roots(a, b, low), measured, constant_note or note))
    if laplace is not None:
        found.append(_prediction("laplace", roots(laplace[0], laplace[1]), measured, laplace_note))
    if exact is not None:
        found.append(_prediction("exact", (Root(float(exact), upward=True),), measured))
    return tuple(found)


def _prediction(name: str, found: tuple[Root, ...], measured: Crossing | None, note: str = "") -> Prediction:
    upward = [root.t for root in found if root.upward]
    if not upward:
        return Prediction(name, np.nan, found, np.nan, np.nan, note)
    if measured is None:
        return Prediction(name, upward[-1], found, np.nan, np.nan, note)
    t = min(upward, key=lambda each: abs(np.log(abs(each / measured.value))))
    return Prediction(name, t, found, t / measured.value - 1, (t - measured.value) / measured.stderr, note)
