"""What lambda and m say of F and lam(t) at large n beta = t, leading orders: far off where modes are still to be
learned.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from slt.theory.coefficient import Coefficient, refusal

Values = Float[np.ndarray, "*t"]


def _large(t: Any) -> Values:
    t = np.asarray(t, dtype=np.float64)
    if not (np.isfinite(t) & (t > 1)).all():
        raise refusal("t", t, "give finite numbers > 1: the expansions are in log t and log log t")
    return t


def free_energy(coefficient: Coefficient, t: Any, loss: float | int = 0, constant: float | int = 0) -> Values:
    """F = t loss + lambda log t - (m - 1) log log t + constant, up to o(1) (on data O_p(1)), at t = n beta > 1.

    `loss` is L_n(w0), or min K of a potential; the constant depends on prior and model and is 0 unless given.
    """
    t = _large(t)
    return np.asarray(t * loss + coefficient.lam * np.log(t) - (coefficient.m - 1) * np.log(np.log(t)) + constant)


def lam(coefficient: Coefficient, t: Any) -> Values:
    """lam(t) = t (<K> - min K) = lambda - (m - 1)/log t, up to O(1/log^2 t) if m > 1: the slope of `free_energy`."""
    return np.asarray(coefficient.lam - (coefficient.m - 1) / np.log(_large(t)))
