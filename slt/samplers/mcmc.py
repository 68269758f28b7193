"""BlackJAX's MALA, HMC, NUTS and MCLMC under the contract."""

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from blackjax.mcmc import adjusted_mclmc, integrators, metrics
from blackjax.mcmc.hmc import HMCState
from blackjax.util import generate_unit_vector
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.posterior import Position, Posterior
from slt.samplers.adjusted import Adjusted, Kernel
from slt.samplers.base import Algorithm, State, normal_like, positive, sampler, static
from slt.typing import InputError, Key, Scalar


@sampler
class MALA(Adjusted):
    """Metropolis-adjusted Langevin: SGLD's proposal, accepted or refused. One gradient a step. Exact.

    Run as what it is, BlackJAX's HMC with one leapfrog of time step sqrt(2 eps).
    """

    step_size: float = 1e-3
    target: float = 0.6

    def largest(self, posterior: Posterior) -> Scalar:
        return jnp.square(super().largest(posterior)) / 2  # its move is sqrt(2 eps)

    def kernel(self, log_density: Callable[[Position], Scalar], search: bool) -> Kernel:
        one = blackjax.hmc.build_kernel()
        return lambda key, state, step, mass: one(key, state, log_density, jnp.sqrt(2 * step), _metric(mass), 1)


def _metric(mass: Float[Array, " d"]) -> metrics.Metric:
    """BlackJAX's metric of a diagonal inverse mass matrix, with momenta drawn by `normal_like`, which is faster."""

    def momentum(key: Key, position: Position) -> Position:
        flat, unravel = ravel_pytree(normal_like(key, position))
        return unravel(flat / jnp.sqrt(mass))

    return metrics.default_metric(mass)._replace(sample_momentum=momentum)


def _jittered(key: Key, step: Scalar, jitter: Any) -> tuple[Key, Scalar]:
    key, jitter_key = jax.random.split(key)
    spread = jnp.asarray(jitter, step.dtype) * jax.random.uniform(jitter_key, (), step.dtype, -1, 1)
    return key, step * (1 + spread)


@sampler
class HMC(Adjusted):
    """Hamiltonian Monte Carlo with a fixed number of leapfrogs and a step jittered per trajectory. Exact.

    leapfrogs: gradients a draw; another number recompiles nothing. jitter: each trajectory's step is uniform within
      this share of the tuned one, so that no direction's period resonates with the trajectory. diagonal: learn a
      diagonal metric in burn-in, in rounds of doubling length from 64 draws on; a parameter's mass is then one over its
      variance in the last full round.
    """

    leapfrogs: int = 10
    jitter: float = 0.2
    diagonal: bool = static(default=False)

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return ("step_size", "divergent")

    @property
    def learns_metric(self) -> bool:
        return self.diagonal

    def check(self) -> None:
        super().check()
        if isinstance(self.leapfrogs, bool) or not isinstance(self.leapfrogs, int) or self.leapfrogs < 1:
            raise InputError("sampler.leapfrogs", self.leapfrogs, "must be a positive whole number of steps")
        if not 0 <= self.jitter < 1:
            raise InputError("sampler.jitter", self.jitter, "is a share of the step: give a number in [0, 1)")
        if self.diagonal and not self.tune:
            raise InputError("sampler.diagonal", True, "a metric is learned in burn-in: set sampler.tune")

    def extra(self, info: Any) -> dict[str, Array]:
        return {"divergent": info.is_divergent.astype(jnp.int32)}

    def kernel(self, log_density: Callable[[Position], Scalar], search: bool) -> Kernel:
        one = blackjax.hmc.build_kernel()
        if search:
            return lambda key, state, step, mass: one(key, state, log_density, step, _metric(mass), 1)

        def jittered(key: Key, state: State, step: Scalar, mass: Float[Array, " d"]) -> tuple[State, Any]:
            key, step = _jittered(key, step, self.jitter)
            leapfrogs: Any = jnp.asarray(self.leapfrogs).astype(jnp.int32)  # annotated as a Python number
            return one(key, state, log_density, step, _metric(mass), leapfrogs)

        return jittered


@sampler
class NUTS(Adjusted):
    """The no-U-turn sampler with multinomial weights (Betancourt 2017), up to 2^doublings leapfrogs a draw. Exact.

    Chains that run side by side wait for the one with the longest trajectory: `doublings` bounds the wait, and HMC is
    often faster for its price. diagonal: as for HMC.
    """

    doublings: int = static(default=8)
    diagonal: bool = static(default=False)

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return ("step_size", "divergent", "leapfrogs")

    @property
    def learns_metric(self) -> bool:
        return self.diagonal

    def check(self) -> None:
        super().check()
        positive("doublings", self.doublings, "must be a positive number of doublings")
        if self.diagonal and not self.tune:
            raise InputError("sampler.diagonal", True, "a metric is learned in burn-in: set sampler.tune")

    def extra(self, info: Any) -> dict[str, Array]:
        return {"divergent": info.is_divergent.astype(jnp.int32), "leapfrogs": info.num_integration_steps}

    def kernel(self, log_density: Callable[[Position], Scalar], search: bool) -> Kernel:
        if search:
            one = blackjax.hmc.build_kernel()
            return lambda key, state, step, mass: one(key, state, log_density, step, _metric(mass), 1)
        whole = blackjax.nuts.build_kernel()
        return lambda key, state, step, mass: whole(key, state, log_density, step, _metric(mass), self.doublings)


@sampler
class MCLMC(Adjusted):
    """Microcanonical dynamics with a Metropolis test (MAMS; Robnik, Cohn-Gordon and Seljak 2025), for d >= 2. Exact.

    The momentum has unit length and a new direction every draw; `leapfrogs` steps of the minimal-norm integrator, two
    gradients each, with the step jittered per trajectory as for HMC. The unadjusted sampler, biased by its step, is
    `from_blackjax(blackjax.mclmc, L=..., step_size=...)`.
    """

    target: float = 0.9
    leapfrogs: int = static(default=5)
    jitter: float = 0.2

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return ("step_size", "divergent")

    def check(self) -> None:
        super().check()
        if isinstance(self.leapfrogs, bool) or not isinstance(self.leapfrogs, int) or self.leapfrogs < 1:
            raise InputError("sampler.leapfrogs", self.leapfrogs, "must be a positive whole number of steps")
        if not 0 <= self.jitter < 1:
            raise InputError("sampler.jitter", self.jitter, "is a share of the step: give a number in [0, 1)")

    def __call__(self, posterior: Posterior) -> Algorithm:
        size = sum(leaf.size for leaf in jax.tree.leaves(posterior.centre_position))
        if size < 2:
            raise InputError("sampler", "MCLMC", "needs at least two free parameters; take HMC or NUTS for one")
        return super().__call__(posterior)

    def extra(self, info: Any) -> dict[str, Array]:
        return {"divergent": info.is_divergent.astype(jnp.int32)}

    def kernel(self, log_density: Callable[[Position], Scalar], search: bool) -> Kernel:
        flow = integrators.isokinetic_mclachlan(log_density)
        leapfrogs = 1 if search else self.leapfrogs

        def move(state: Any, step: Any, length: Any, key: Key) -> tuple[Any, Any]:
            # With far too large a step the momentum can meet the gradient head on to the last bit; the change of
            # kinetic energy comes out as -inf: accepted for certain, were it not turned into a refusal.
            state, change = flow(state, step)
            change = jnp.asarray(change)
            return state, jnp.where(jnp.isfinite(change), change, jnp.inf)

        def one(key: Key, state: State, step: Scalar, _: Float[Array, " d"]) -> tuple[State, Any]:
            # BlackJAX's own kernel draws refreshment noise twice a step even where it is never used
            propose = adjusted_mclmc.adjusted_mclmc_proposal(move, step, jnp.inf, leapfrogs)
            momentum_key, accept_key = jax.random.split(key)
            momentum = generate_unit_vector(momentum_key, state.position)
            begin = integrators.IntegratorState(state.position, momentum, state.logdensity, state.logdensity_grad)
            end, info, _ = propose(accept_key, begin)
            return HMCState(end.position, end.logdensity, end.logdensity_grad), info

        if search:
            return one

        def jittered(key: Key, state: State, step: Scalar, mass: Float[Array, " d"]) -> tuple[State, Any]:
            key, step = _jittered(key, step, self.jitter)
            return one(key, state, step, mass)

        return jittered
