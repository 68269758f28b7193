"""Underdamped Langevin dynamics by the BAOAB splitting, and BADODAB, its thermostatted form for noisy gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slt.posterior import Position, Posterior
from slt.samplers.base import Algorithm, Info, Langevin, normal_like, positive, reflect, sampler
from slt.typing import InputError, Key, Scalar


class UnderdampedState(NamedTuple):
    """Position and momentum with the loss difference and the gradient found at the position."""

    position: Position
    momentum: Position
    delta: Scalar
    grad: Position


class ThermostatState(NamedTuple):
    """As UnderdampedState, with the thermostat's present friction xi."""

    position: Position
    momentum: Position
    delta: Scalar
    grad: Position
    xi: Scalar


@sampler
class Underdamped(Langevin):
    """Base of the samplers with a momentum of unit mass: dw = p dt, dp = grad log p(w) dt - friction p dt + noise.

    The time step is dt = sqrt(2 step_size), so that one step moves about as far as one of SGLD.
    friction: a rate in 1/time. The square root of the curvature is critical; with `per_nbeta` it counts in units of
      sqrt(1 + gamma + n beta), so that friction dt is the same over a sweep.
    """

    friction: float = 1.0

    def check(self) -> None:
        super().check()
        positive("friction", self.friction, "must be positive: without friction chains keep their energy")

    def clock(self, posterior: Posterior) -> tuple[Scalar, Callable[[float], Scalar]]:
        """(dt, the function that turns a rate of this sampler's fields into one of this posterior)."""
        dt = jnp.sqrt(2 * self.epsilon(posterior))
        unit = jnp.sqrt(1 + posterior.gamma + posterior.nbeta) if self.per_nbeta else jnp.ones_like(dt)
        return dt, lambda rate: jnp.asarray(rate, dt.dtype) * unit


def drift(posterior: Posterior, position: Position, momentum: Position, time: Scalar) -> tuple[Position, Position]:
    """Free flight over `time`, bouncing off the walls of the prior's box."""
    moved = jax.tree.map(lambda w, p: w + time * p, position, momentum)
    if posterior.model.support is None:
        return moved, momentum
    position, flip = reflect(posterior, moved)
    return position, jax.tree.map(jnp.multiply, momentum, flip)


def kick(momentum: Position, grad: Position, time: Scalar) -> Position:
    """Momentum after the force `grad` has acted for `time`."""
    return jax.tree.map(lambda p, g: p + time * g, momentum, grad)


def refresh(momentum: Position, keep: Scalar, noise: Scalar, key: Key) -> Position:
    """keep p + noise N(0, 1)."""
    return jax.tree.map(lambda p, z: keep * p + noise * z, momentum, normal_like(key, momentum))


def mean_square(momentum: Position) -> Scalar:
    """|p|^2 / d, which is 1 in the mean at the right temperature."""
    leaves = jax.tree.leaves(momentum)
    return sum((jnp.sum(jnp.square(p)) for p in leaves[1:]), jnp.sum(jnp.square(leaves[0]))) / sum(
        p.size for p in leaves
    )


@sampler
class BAOAB(Underdamped):
    """Underdamped Langevin dynamics, splitting kick/2, drift/2, friction, drift/2, kick/2 (Leimkuhler, Matthews 2013).

    One gradient a step, kept for the next. Of all splittings this one has the most exact positions: no bias on a
    Gaussian at any dt < 2/sqrt(h), and order dt^2 = 2 step_size elsewhere, with a small constant (order dt^4 as the
    friction grows). Beyond 2/sqrt(h), h the largest curvature met, it blows up. Noise of variance V in the gradient
    adds about dt V / (2 friction) to the temperature: with minibatches use BADODAB or a control variate.
    """

    def __call__(self, posterior: Posterior) -> Algorithm:
        dt, rate = self.clock(posterior)
        gradient = self.gradient(posterior)
        keep = jnp.exp(-rate(self.friction) * dt)
        noise = jnp.sqrt(-jnp.expm1(-2 * rate(self.friction) * dt))

        def init(position: Position, key: Key) -> UnderdampedState:
            momentum_key, batch_key = jax.random.split(key)
            return UnderdampedState(position, normal_like(momentum_key, position), *gradient(position, batch_key))

        def step(key: Key, state: UnderdampedState) -> tuple[UnderdampedState, Info]:
            noise_key, batch_key = self.split(key)
            momentum = kick(state.momentum, state.grad, dt / 2)
            position, momentum = drift(posterior, state.position, momentum, dt / 2)
            momentum = refresh(momentum, keep, noise, noise_key)
            position, momentum = drift(posterior, position, momentum, dt / 2)
            delta, grad = gradient(position, batch_key)
            return UnderdampedState(position, kick(momentum, grad, dt / 2), delta, grad), Info(delta=delta)

        def relocate(state: UnderdampedState, position: Position) -> UnderdampedState:
            return UnderdampedState(position, state.momentum, *posterior.value_and_grad(position))

        return Algorithm(init, step, relocate=relocate)


@sampler
class Thermostatted(Underdamped):
    """Base of the samplers whose friction xi is dynamic, so that it takes up the noise of minibatch gradients.

    dp = (grad - xi p) dt + sqrt(2 friction) dW, dxi = thermostat^2 (|p|^2/d - 1) dt (Ding et al. 2014): xi settles
    where the kinetic temperature is 1, at friction + V dt/2 for gradient noise of variance V in every direction.
    thermostat: its rate, 1/time, read as the friction is. At equilibrium xi has standard deviation thermostat/sqrt(d);
      None: friction / (2 + 2 friction dt), so that xi is rarely negative even for d = 1, and never outruns the step.
    xi: its start; None: the friction. 0 is a start like any other.

    One scalar cannot take up noise that differs by direction: the mean temperature is right and each direction's is
    not. There use a control variate.
    """

    thermostat: float | None = None
    xi: float | None = None

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return ("xi",)

    def check(self) -> None:
        super().check()
        if self.thermostat is not None:
            positive("thermostat", self.thermostat, "must be a positive rate, or null to follow the friction")
        if self.xi is not None and not abs(self.xi) < float("inf"):
            raise InputError("sampler.xi", self.xi, "must be finite, or null to start at the friction")

    def rates(self, posterior: Posterior) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """(dt, friction, thermostat^2, first xi)."""
        dt, rate = self.clock(posterior)
        friction = rate(self.friction)
        thermostat = friction / (2 + 2 * friction * dt) if self.thermostat is None else rate(self.thermostat)
        return dt, friction, jnp.square(thermostat), friction if self.xi is None else rate(self.xi)


def decay(xi: Scalar, friction: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
    """(keep, noise) of dp = -xi p dt + sqrt(2 friction) dW over `time`, exact for any sign of xi, and for xi = 0."""
    exponent = 2 * xi * time
    small = jnp.abs(exponent) < 1e-3
    safe = jnp.where(small, 1.0, exponent)
    mean = jnp.where(small, 1 - exponent / 2 + jnp.square(exponent) / 6, -jnp.expm1(-safe) / safe)
    return jnp.exp(-xi * time), jnp.sqrt(2 * friction * time * mean)


@sampler
class BADODAB(Thermostatted):
    """BAOAB with a thermostat: kick, drift, thermostat, friction, thermostat, drift, kick (Leimkuhler, Shang 2016).

    One gradient a step. Second order in dt: a bias of order step_size on the full batch. With minibatches the friction
    xi takes up noise that is alike in all directions; its fluctuations leave an error of their own where friction dt is
    not small (variance on gaussian location with n/8, eps h = .02: -1 per cent at friction sqrt(h), -7 at ten times
    that, SGLD +8).
    """

    def __call__(self, posterior: Posterior) -> Algorithm:
        dt, friction, coupling, first = self.rates(posterior)
        gradient = self.gradient(posterior)

        def init(position: Position, key: Key) -> ThermostatState:
            momentum_key, batch_key = jax.random.split(key)
            return ThermostatState(position, normal_like(momentum_key, position), *gradient(position, batch_key), first)

        def step(key: Key, state: ThermostatState) -> tuple[ThermostatState, Info]:
            noise_key, batch_key = self.split(key)
            momentum = kick(state.momentum, state.grad, dt / 2)
            position, momentum = drift(posterior, state.position, momentum, dt / 2)
            xi = state.xi + dt / 2 * coupling * (mean_square(momentum) - 1)
            momentum = refresh(momentum, *decay(xi, friction, dt), noise_key)
            xi = xi + dt / 2 * coupling * (mean_square(momentum) - 1)
            position, momentum = drift(posterior, position, momentum, dt / 2)
            delta, grad = gradient(position, batch_key)
            new = ThermostatState(position, kick(momentum, grad, dt / 2), delta, grad, xi)
            return new, Info(delta=delta, diagnostics={"xi": xi})

        def relocate(state: ThermostatState, position: Position) -> ThermostatState:
            return ThermostatState(position, state.momentum, *posterior.value_and_grad(position), state.xi)

        return Algorithm(init, step, relocate=relocate)
