"""What classifiers by units in use share (slt.phases.by_units): idle units link no two others."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def set_apart(amplitude: Float[Array, " h"], place: Float[Array, "h p"], least: float) -> Float[Array, "h p"]:
    """`place` with every unit of |amplitude| below `least` moved far away, each to a place of its own.

    Units are merged through chains of neighbours: one that contributes nothing must not join two that do.
    """
    far = 1e3 * jnp.arange(1, amplitude.shape[0] + 1, dtype=place.dtype)
    return place.at[:, 0].add(jnp.where(jnp.abs(amplitude) < least, far, 0))
