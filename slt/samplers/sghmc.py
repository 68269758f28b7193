"""Stochastic gradient Hamiltonian Monte Carlo."""

from typing import NamedTuple

import jax.numpy as jnp

from slt.posterior import Position, Posterior
from slt.samplers.baoab import Underdamped, drift, kick, refresh
from slt.samplers.base import Algorithm, Info, normal_like, sampler
from slt.typing import InputError, Key


class SGHMCState(NamedTuple):
    """Position and the momentum that leaves it; the gradient found there is already in the momentum."""

    position: Position
    momentum: Position


@sampler
class SGHMC(Underdamped):
    """Underdamped Langevin dynamics with friction, for noisy gradients (Chen, Fox and Guestrin 2014).

    w' = w + dt p;  p' = a p + dt grad(w') + sqrt(2 (1 - a) - dt^2 gradient_noise) N(0, 1),  a = exp(-friction dt).

    First order in step_size: on a Gaussian of curvature h its variance is 1/(1 - eps h / (1 + a)) times too large.
    gradient_noise: the variance V of a minibatch gradient of the log density, per coordinate, that the injected noise
      makes up for (the paper's B = dt V / 2). Uncorrected, noise V adds dt^2 V / (2 (1 - a)) to the temperature.

    BlackJAX's kernel is not used: it moves position and momentum by explicit Euler and draws the momentum anew every
    few steps (variances 8 to 30 per cent too large at steps of .1). The paper's own order, with the gradient at the new
    position, is symplectic, costs the same, and needs no refreshment.
    """

    gradient_noise: float = 0.0

    def check(self) -> None:
        super().check()
        if not self.gradient_noise >= 0:
            raise InputError("sampler.gradient_noise", self.gradient_noise, "is a variance: give a number >= 0")

    def __call__(self, posterior: Posterior) -> Algorithm:
        dt, rate = self.clock(posterior)
        gradient = self.gradient(posterior)
        lost = -jnp.expm1(-rate(self.friction) * dt)
        noise = jnp.sqrt(jnp.maximum(2 * lost - jnp.square(dt) * jnp.asarray(self.gradient_noise, dt.dtype), 0))

        def init(position: Position, key: Key) -> SGHMCState:
            return SGHMCState(position, normal_like(key, position))

        def step(key: Key, state: SGHMCState) -> tuple[SGHMCState, Info]:
            noise_key, batch_key = self.split(key)
            position, momentum = drift(posterior, state.position, state.momentum, dt)
            delta, grad = gradient(position, batch_key)
            momentum = kick(refresh(momentum, 1 - lost, noise, noise_key), grad, dt)
            return SGHMCState(position, momentum), Info(delta=delta)

        def relocate(state: SGHMCState, position: Position) -> SGHMCState:
            return SGHMCState(position, state.momentum)

        return Algorithm(init, step, relocate=relocate)
