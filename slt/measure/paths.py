"""Paths that SMC follows, from a normalised density b(w) that can be drawn from to b(w) exp(W(w))."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.measure.target import Vector, fold, unravel, values
from slt.phases import Phases
from slt.posterior import Posterior
from slt.typing import Key, Scalar


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["centres", "roots", "inverses", "radius", "which", "t"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Seeded:
    """A path from N(centres[which], R R^T), R = roots[which], to exp(-t K) prior near that seed.

    Without phases, near means: inside the ellipsoid |R^-1 (w - centre)| <= radius, and by that measure nearer to this
    seed than to any other; so the regions of several seeds are disjoint.
    """

    centres: Float[Array, "seed d"]
    roots: Float[Array, "seed d d"]
    inverses: Float[Array, "seed d d"]
    radius: Scalar
    which: Array
    t: Scalar

    def draw(self, key: Key, number: int) -> Float[Array, "number d"]:
        """Draws from the Gaussian."""
        noise = jax.random.normal(key, (number, self.centres.shape[-1]), self.centres.dtype)
        return self.centres[self.which] + noise @ self.roots[self.which].T

    def log_base(self, w: Vector) -> Scalar:
        """The Gaussian's log density."""
        # by the inverse: batched triangular solves hang on a CPU of two cores (jax 0.10.2)
        white = self.inverses[self.which] @ (w - self.centres[self.which])
        log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.roots[self.which]))))
        return -0.5 * jnp.sum(jnp.square(white)) - log_det - 0.5 * w.size * jnp.log(jnp.asarray(2 * np.pi, w.dtype))

    def member(self, w: Vector) -> Array:
        """Which seed's ellipsoid w lies in, -1 for none."""
        white = jax.vmap(lambda inverse, centre: inverse @ (w - centre))(self.inverses, self.centres)
        square = jnp.sum(jnp.square(white), axis=-1)
        return jnp.where(jnp.min(square) <= jnp.square(self.radius), jnp.argmin(square), -1)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["posterior", "seeded", "label"], meta_fields=["phases"]
)
@dataclass(frozen=True)
class Path:
    """One of the two paths (seeded None: from the prior), confined to the phase `label` where phases are given."""

    posterior: Posterior
    seeded: Seeded | None = None
    label: Any = None
    phases: Phases | None = None

    def parts(self, w: Vector) -> tuple[Scalar, Scalar]:
        """(log b(w), W(w)); W = -inf where the target vanishes."""
        log_prior, delta = values(self.posterior, w)
        if self.seeded is None:
            return log_prior, -delta
        base = self.seeded.log_base(w)
        return base, log_prior - self.seeded.t * delta - base

    def inside(self, w: Vector) -> Array:
        """Whether the path may be here."""
        if self.phases is not None:
            return self.phases.label(unravel(self.posterior, w)) == self.label
        return jnp.ones((), bool) if self.seeded is None else self.seeded.member(w) == self.seeded.which

    def weigh(self, w: Vector) -> tuple[Scalar, Scalar]:
        """(log b, W), W = -inf also outside."""
        base, work = self.parts(w)
        work = jnp.where(jnp.isfinite(base) & jnp.isfinite(work) & self.inside(w), work, -jnp.inf)
        return jnp.where(jnp.isfinite(base), base, -jnp.inf), work

    def log_density(self, w: Vector, s: Scalar) -> Scalar:
        """log b + s W; the gradient outside is that of the unconfined density, so that walls only refuse."""
        folded = fold(self.posterior, w)[0]
        base, work = self.parts(folded)
        return base + s * work + jnp.where(self.inside(folded), 0.0, -jnp.inf)
