"""SGLD with a diagonal preconditioner from running moments of the loss gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slt.posterior import Position, Posterior
from slt.samplers.base import Algorithm, Info, Langevin, normal_like, positive, reflect, sampler, static
from slt.typing import InputError, Key, Scalar


class PSGLDState(NamedTuple):
    """Position, what was found there, and the running mean square of the loss gradient."""

    position: Position
    delta: Scalar
    loss_grad: Position
    grad: Position
    square: Position


@sampler
class PSGLD(Langevin):
    """w' = w + eps G grad log p(w) + sqrt(2 eps G) N(0, 1), G diagonal (RMSProp; Li et al. 2016).

    G_i = g_i / mean(g), g_i = 1/(r_i + damping mean(r)), r_i^2 the running mean square of the *loss* gradient, with
    weight `decay` on the past: neither prior nor localiser enter it. G has mean 1, so the unit of step_size is that of
    SGLD whatever the loss's scale (the paper and devinterp take g itself), and G_i <= 1 + 1/damping.

    frozen = False: BIASED, however small the step: G follows the chain, and the drift's term div G is left out, as in
      the paper's practice (variances 10 per cent too large on an isotropic Gaussian of two dimensions, more on others).
    frozen = True: G is learned in burn-in and then constant: the right posterior up to the step, first order as SGLD
      (on a Gaussian of curvature H, G^(1/2) H G^(1/2) stands for it).
    """

    decay: float = 0.99
    damping: float = 0.1
    frozen: bool = static(default=True)

    def check(self) -> None:
        super().check()
        positive("damping", self.damping, "must be positive: it bounds the largest step")
        if not 0 < self.decay < 1:
            raise InputError("sampler.decay", self.decay, "must lie between 0 and 1")

    def __call__(self, posterior: Posterior) -> Algorithm:
        eps = self.epsilon(posterior)
        decay = jnp.asarray(self.decay, eps.dtype)
        damping = jnp.asarray(self.damping, eps.dtype)

        def gradients(position: Position, key: Key) -> tuple[Scalar, Position, Position]:
            if self.batch_size is None:
                delta, loss_grad = jax.value_and_grad(posterior.delta)(position)
            else:
                index = posterior.minibatch(key, self.batch_size)
                delta, loss_grad = jax.value_and_grad(posterior.delta_estimate)(position, index, self.control_variate)
            prior_grad = jax.grad(posterior.log_prior)(position)
            return delta, loss_grad, jax.tree.map(lambda p, g: p - posterior.nbeta * g, prior_grad, loss_grad)

        def learned(square: Position, loss_grad: Position) -> Position:
            return jax.tree.map(lambda s, g: decay * s + (1 - decay) * jnp.square(g), square, loss_grad)

        def init(position: Position, key: Key) -> PSGLDState:
            delta, loss_grad, grad = gradients(position, key)
            return PSGLDState(position, delta, loss_grad, grad, jax.tree.map(jnp.square, loss_grad))

        def step(key: Key, state: PSGLDState) -> tuple[PSGLDState, Info]:
            noise_key, batch_key = self.split(key)
            scale = _preconditioner(state.square, damping)
            noise = normal_like(noise_key, state.position)
            moved = jax.tree.map(
                lambda w, g, z, c: w + eps * c * g + jnp.sqrt(2 * eps * c) * z, state.position, state.grad, noise, scale
            )
            position, _ = reflect(posterior, moved)
            delta, loss_grad, grad = gradients(position, batch_key)
            square = state.square if self.frozen else learned(state.square, loss_grad)
            return PSGLDState(position, delta, loss_grad, grad, square), Info(delta=delta)

        def adapt(state: PSGLDState, info: Info) -> PSGLDState:
            return state._replace(square=learned(state.square, state.loss_grad))

        def relocate(state: PSGLDState, position: Position) -> PSGLDState:
            delta, loss_grad = jax.value_and_grad(posterior.delta)(position)
            prior_grad = jax.grad(posterior.log_prior)(position)
            grad = jax.tree.map(lambda p, g: p - posterior.nbeta * g, prior_grad, loss_grad)
            return PSGLDState(position, delta, loss_grad, grad, state.square)

        return Algorithm(init, step, adapt if self.frozen else None, relocate)


def _preconditioner(square: Position, damping: Scalar) -> Position:
    rms = jax.tree.map(jnp.sqrt, square)
    floor = damping * _mean(rms) + jnp.finfo(damping.dtype).tiny ** 0.5  # where no gradient was seen yet, G = 1
    inverse = jax.tree.map(lambda r: 1 / (r + floor), rms)
    mean = _mean(inverse)
    return jax.tree.map(lambda g: g / mean, inverse)


def _mean(tree: Position) -> Scalar:
    leaves = jax.tree.leaves(tree)
    return sum((jnp.sum(leaf) for leaf in leaves[1:]), jnp.sum(leaves[0])) / sum(leaf.size for leaf in leaves)
