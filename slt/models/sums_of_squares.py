"""The potential K(w) = sum_i a_i (w_i - shift)^2 over the first coordinates: the regular landscape, and soft ones.

`levels` is a landscape of several such minima, of different loss and number of squares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Potential, Truth
from slt.models._truth import known
from slt.phases import Basin, Phases
from slt.priors import Normal, Prior
from slt.theory import elementary
from slt.typing import InputError, Integer, Number, Scalar


@dataclass(frozen=True)
class SumOfSquares:
    """K(w) = sum_i a_i (w_i - shift)^2 over as many coordinates as there are `scales` a_i."""

    scales: tuple[float, ...]

    def __call__(self, w: Float[Array, " d"], shift: Number = 0.0) -> Scalar:
        return jnp.sum(jnp.asarray(self.scales, w.dtype) * jnp.square(w[: len(self.scales)] - shift))


_PRIOR = Normal()


def make(
    d: int = 4, squares: int | None = None, condition: float = 1.0, shift: float = 0.0, prior: Prior = _PRIOR
) -> Potential:
    """`squares` of d coordinates count (all unless given), scales from 1 to `condition` evenly in log.

    lambda = squares/2, m = 1. With scales 1, shift 0 and the N(0, 1) prior F = (squares/2) log(1 + 2t). Control: shift.
    """
    squares = d if squares is None else squares
    if not condition > 0:
        raise InputError("condition", condition, "must be positive")
    coefficient = elementary.sum_of_squares(squares, d)
    fn = SumOfSquares(tuple(float(a) for a in np.geomspace(1.0, condition, squares)))
    best = jnp.where(jnp.arange(d) < squares, shift, 0.0)
    truth = known(
        coefficient,
        params=best,
        loss=0.0,
        population_loss=lambda w: fn(w, shift),
    )
    return Potential(fn, d, prior, (("shift", shift),), truth)


@dataclass(frozen=True)
class Levels:
    """K(w) = min_j loss_j + along (w_0 - centre_j)^2 + w_1^2 + w_2^2 + .. , level j with its first squares_j terms."""

    squares: tuple[int, ...]
    losses: tuple[float, ...]
    centres: tuple[float, ...]
    along: float

    def each(self, w: Float[Array, " d"]) -> Float[Array, " levels"]:
        """The paraboloid of every level."""
        counted = np.arange(1, max(self.squares)) < np.array(self.squares)[:, None]
        beside = jnp.asarray(counted, w.dtype) @ jnp.square(w[1 : max(self.squares)])
        apart = jnp.square(w[0] - jnp.asarray(self.centres, w.dtype))
        return jnp.asarray(self.losses, w.dtype) + jnp.asarray(self.along, w.dtype) * apart + beside

    def __call__(self, w: Float[Array, " d"]) -> Scalar:
        return jnp.min(self.each(w))

    def label(self, w: Float[Array, " d"]) -> Integer:
        """The level that w lies on."""
        return jnp.argmin(self.each(w)).astype(jnp.int32)

    def free_energies(self, t: Any) -> Float[np.ndarray, "levels *t"]:
        """-log int over each level's paraboloid alone, with the prior N(0, 1) on every coordinate:

        F_j(t) = t loss_j + (1/2) log(1 + 2 along t) + ((squares_j - 1)/2) log(1 + 2t)
                 + centre_j^2 along t/(1 + 2 along t).

        A level's region ends where another is lower, about half-way between centres: F_j misses that the rest is not
        its own, a share of some exp(-along t (distance/2)^2), e^-100 at the defaults from t = 10 on.
        """
        t = np.asarray(t, np.float64)
        a = self.along * t
        return np.stack(
            [
                t * loss + (np.log1p(2 * a) + (count - 1) * np.log1p(2 * t)) / 2 + centre**2 * a / (1 + 2 * a)
                for count, loss, centre in zip(self.squares, self.losses, self.centres, strict=True)
            ]
        )


def levels(
    squares: Sequence[int] = (8, 9, 10),
    losses: Sequence[float] = (0.0353, 0.0038, 0.0),
    centres: Sequence[float] = (0.0, -1.0, 1.0),
    along: float = 40.0,
) -> Potential:
    """Minima of different loss and number of squares: level j has loss_j and lambda_j = squares_j/2, m = 1.

    As t grows the posterior climbs from few squares (degenerate, high loss) to many (low loss). Free energies of the
    levels under the prior N(0, 1) are exact: `Levels.free_energies`. Phases: the levels, named by their squares.
    """
    if not len(squares) == len(losses) == len(centres) >= 2:
        raise InputError("squares, losses, centres", (squares, losses, centres), "give one of each for every level")
    if len(set(squares)) < len(squares) or min(squares) < 1:
        raise InputError("squares", squares, "give whole numbers, at least 1, each once: they name the levels")
    if not along > 0:
        raise InputError("along", along, "must be positive")
    fn = Levels(tuple(squares), tuple(map(float, losses)), tuple(map(float, centres)), float(along))
    dim = max(squares)
    basins = tuple(
        Basin(str(count), jnp.zeros(dim).at[0].set(centre), str(count), loss, count / 2, 1)
        for count, loss, centre in zip(fn.squares, fn.losses, fn.centres, strict=True)
    )
    best = min(basins, key=lambda basin: (basin.loss, basin.lam))
    truth = Truth(
        params=best.params,
        loss=best.loss,
        lam=best.lam,
        multiplicity=1,
        source="Gaussian integral: half the number of squares of the lowest level",
        population_loss=fn,
        basins=basins,
        phases=Phases(tuple(basin.name for basin in basins), fn.label, "the level whose paraboloid is lowest at w"),
    )
    return Potential(fn, dim, _PRIOR, known=truth)
