"""The potential K(w) = min(gap + (w + 1)^4, 20 (w - 1)^2) on [-2, 2]: a first-order transition on paper.

U, about -1, is degenerate (lambda 1/4) and `gap` higher than V, about 1, which is sharp (lambda 1/2): more of the prior
lies near U, so V wins only at large t. Exact masses and free energies for gap = 0.01: slt.theory.exact.two_basins.
"""

import jax.numpy as jnp
import scipy.optimize
from jaxtyping import Array, Float

from slt.model import Potential, Truth
from slt.phases import Basin, by_threshold
from slt.priors import Prior, Uniform
from slt.typing import InputError, Number, Scalar


def two_basins(w: Float[Array, " 1"], gap: Number = 0.01) -> Scalar:
    """K(w) = min(gap + (w + 1)^4, 20 (w - 1)^2)."""
    return jnp.minimum(gap + (w[0] + 1) ** 4, 20 * jnp.square(w[0] - 1))


def position(w: Float[Array, " 1"]) -> Scalar:
    """The one coordinate, which tells U from V."""
    return w[0]


_PRIOR = Uniform(-2.0, 2.0)


def make(gap: float = 0.01, prior: Prior = _PRIOR) -> Potential:
    """gap: how much higher U lies than V. Control: gap; the phases stay divided where they are for the gap given here.

    At gap = 0.01 and the uniform prior on [-2, 2] the masses are equal at t = 294.139 (science.md B2).
    """
    if not -15 < gap < 75:
        raise InputError("gap", gap, "must lie between -15 and 75, or one of the two basins is gone")
    crossing = scipy.optimize.root_scalar(
        lambda w: gap + (w + 1) ** 4 - 20 * (w - 1) ** 2, bracket=(-1.0, 1.0), xtol=1e-14
    )
    boundary = float(crossing.root)
    u = Basin("U", jnp.full(1, -1.0), "U", gap, 0.25, 1)
    v = Basin("V", jnp.full(1, 1.0), "V", 0.0, 0.5, 1)
    best = v if gap > 0 else u
    truth = Truth(
        params=best.params,
        loss=best.loss,
        lam=best.lam,
        multiplicity=best.multiplicity,
        source="x^{2k}: lambda = 1/(2k) (science.md A1); at gap = 0 the degenerate basin has the smaller lambda",
        population_loss=lambda w: two_basins(w, gap),
        basins=(u, v),
        phases=by_threshold(("U", "V"), position, boundary, f"U left of {boundary:.6g}, where the branches meet"),
    )
    return Potential(two_basins, 1, prior, (("gap", gap),), truth)
