"""Stochastic gradient Langevin dynamics."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slt.posterior import Position, Posterior
from slt.samplers.base import Algorithm, Info, Langevin, normal_like, reflect, sampler
from slt.typing import Key, Scalar


class SGLDState(NamedTuple):
    """Position with the loss difference and the gradient found there."""

    position: Position
    delta: Scalar
    grad: Position


@sampler
class SGLD(Langevin):
    """w' = w + eps grad log p(w) + sqrt(2 eps) N(0, 1) (Welling and Teh 2011), constant step.

    First order in eps: on a Gaussian of curvature h its variance is 1/(1 - eps h / 2) times too large, per direction.
    """

    def __call__(self, posterior: Posterior) -> Algorithm:
        eps = self.epsilon(posterior)
        gradient = self.gradient(posterior)

        def init(position: Position, key: Key) -> SGLDState:
            return SGLDState(position, *gradient(position, key))

        def step(key: Key, state: SGLDState) -> tuple[SGLDState, Info]:
            noise_key, batch_key = self.split(key)
            noise = normal_like(noise_key, state.position)
            moved = jax.tree.map(lambda w, g, z: w + eps * g + jnp.sqrt(2 * eps) * z, state.position, state.grad, noise)
            position, _ = reflect(posterior, moved)
            new = SGLDState(position, *gradient(position, batch_key))
            return new, Info(delta=new.delta)

        def relocate(state: SGLDState, position: Position) -> SGLDState:
            return SGLDState(position, *posterior.value_and_grad(position))

        return Algorithm(init, step, relocate=relocate)
