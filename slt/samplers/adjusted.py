"""The base of the Metropolis-adjusted samplers: steps, and a metric, that tune themselves in burn-in."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import (
    DualAveragingAdaptationState,
    dual_averaging_adaptation,
    find_reasonable_step_size,
)
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.posterior import Position, Posterior
from slt.samplers.base import Algorithm, Info, Sampler, State, positive, reflect, sampler, static
from slt.typing import InputError, Key, Scalar

Kernel = Callable[[Key, State, Scalar, Float[Array, " d"]], tuple[State, Any]]
"""(key, BlackJAX state, step size, diagonal inverse mass matrix) -> (state, info with acceptance_rate)."""


class Metric(NamedTuple):
    """Diagonal inverse mass matrix and the running moments of the round that will give the next one."""

    inverse_mass: Float[Array, " d"]
    drawn: Scalar
    length: Scalar
    mean: Float[Array, " d"]
    square: Float[Array, " d"]


class TunedState(NamedTuple):
    """State of BlackJAX's kernel and what burn-in tunes; `exploring`: the last step was followed by tuning."""

    inner: State
    dual: DualAveragingAdaptationState
    exploring: Scalar
    metric: Metric | None

    @property
    def position(self) -> Position:
        return self.inner.position


@sampler
class Adjusted(Sampler):
    """Base of the Metropolis-adjusted samplers: no bias from the step.

    step_size: where the search for a step begins; the step itself when tune is False (MALA: BlackJAX's epsilon as for
      SGLD; the others: the time step of the integrator).
    target: the acceptance rate that dual averaging (Hoffman and Gelman 2014) steers each chain's step to, in burn-in.
    tune: whether the step is found at the start by doubling or halving and tuned in burn-in; it is constant afterwards.

    Where the prior has a box, chains move on the line that it unfolds to by reflection at its walls: the density there
    is even about every wall and the kernels treat both sides alike, so the chain folded back has the right law, and
    proposals beyond a wall are not lost.

    Info.delta is None: an observable that wants the loss computes it once a draw.
    """

    exact: ClassVar[bool] = True

    step_size: float = 0.1
    target: float = 0.8
    tune: bool = static(default=True)

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return ("step_size",)

    def check(self) -> None:
        positive("step_size", self.step_size)
        if not 0 < self.target < 1:
            raise InputError("sampler.target", self.target, "is an acceptance rate: give a number between 0 and 1")

    def kernel(self, log_density: Callable[[Position], Scalar], search: bool) -> Kernel:
        """One step of the kernel; with `search`, of the cheapest one that tells the acceptance of a step size."""
        raise NotImplementedError

    @property
    def learns_metric(self) -> bool:
        """Whether a diagonal metric is learned in burn-in."""
        return False

    def largest(self, posterior: Posterior) -> Scalar:
        """The largest step to try. On a flat density every step is accepted, and would grow for ever."""
        box = posterior.model.support
        return jnp.asarray(1e6 if box is None else box[1] - box[0], posterior.beta.dtype)

    def extra(self, info: Any) -> dict[str, Array]:
        """Diagnostics from BlackJAX's info."""
        return {}

    def __call__(self, posterior: Posterior) -> Algorithm:
        bounded = posterior.model.support is not None

        def log_density(position: Position) -> Scalar:
            return posterior.log_density(reflect(posterior, position)[0] if bounded else position)

        kernel = self.kernel(log_density, search=False)
        target: Any = jnp.asarray(self.target, posterior.beta.dtype)
        begin, update, _ = dual_averaging_adaptation(target)
        search: Any = find_reasonable_step_size  # annotated for Python floats

        def flat(position: Position) -> Float[Array, " d"]:
            leaves = jax.tree.leaves(position)
            return jnp.ones(sum(leaf.size for leaf in leaves), jnp.result_type(*leaves))

        def init(position: Position, key: Key) -> TunedState:
            dtype = jnp.result_type(*jax.tree.leaves(position))
            inner = blackjax.hmc.init(position, log_density)
            step = jnp.asarray(self.step_size, dtype)
            if self.tune:
                probe = self.kernel(log_density, search=True)
                found = search(key, lambda s: lambda k, state: probe(k, state, s, flat(position)), inner, step, target)
                step = jnp.minimum(found, self.largest(posterior))
            metric = None
            if self.learns_metric:
                zero = jnp.zeros((), dtype)
                ones = flat(position)
                metric = Metric(ones, zero, zero + FIRST_ROUND, jnp.zeros_like(ones), jnp.zeros_like(ones))
            return TunedState(inner, _dual(begin, step), jnp.zeros((), bool), metric)

        def step(key: Key, state: TunedState) -> tuple[TunedState, Info]:
            step_size = jnp.exp(jnp.where(state.exploring, state.dual.log_step_size, state.dual.log_step_size_avg))
            mass = flat(state.position) if state.metric is None else state.metric.inverse_mass
            inner, told = kernel(key, state.inner, step_size, mass)
            if bounded:
                folded, flip = reflect(posterior, inner.position)
                grad = jax.tree.map(jnp.multiply, inner.logdensity_grad, flip)
                inner = inner._replace(position=folded, logdensity_grad=grad)
            acceptance = jnp.nan_to_num(jnp.asarray(told.acceptance_rate, step_size.dtype))
            info = Info(acceptance=acceptance, diagnostics={"step_size": step_size, **self.extra(told)})
            return state._replace(inner=inner, exploring=jnp.zeros((), bool)), info

        def adapt(state: TunedState, info: Info) -> TunedState:
            dual = update(state.dual, info.acceptance)
            limit = jnp.log(self.largest(posterior))
            dual = dual._replace(log_step_size=jnp.minimum(dual.log_step_size, limit))
            metric = None
            if state.metric is not None:
                metric, renewed = _learn(state.metric, ravel_pytree(state.position)[0])
                # the new step moves a typical parameter as far as the old one did under the old metric
                rescaled = jnp.mean(jnp.log(state.metric.inverse_mass) - jnp.log(metric.inverse_mass)) / 2
                again = _dual(begin, jnp.exp(dual.log_step_size_avg + rescaled))
                dual = jax.tree.map(lambda a, b: jnp.where(renewed, a, b), again, dual)
            return state._replace(dual=dual, exploring=jnp.ones((), bool), metric=metric)

        def relocate(state: TunedState, position: Position) -> TunedState:
            return state._replace(inner=blackjax.hmc.init(position, log_density))

        return Algorithm(init, step, adapt if self.tune else None, relocate)


FIRST_ROUND = 64.0  # draws of the first round that learns a metric; each round is twice as long as the last


def _dual(begin: Any, step: Scalar) -> DualAveragingAdaptationState:
    # BlackJAX's starts from Python numbers and an average of 1: arrays of one dtype, and the step itself, are wanted.
    state = begin(step)._replace(log_step_size_avg=jnp.log(step))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, step.dtype), state)


def _learn(metric: Metric, position: Float[Array, " d"]) -> tuple[Metric, Scalar]:
    """Welford moments of this round; at its end its variances become the metric and the next, twice as long, begins."""
    count = metric.drawn + 1
    mean = metric.mean + (position - metric.mean) / count
    square = metric.square + (position - metric.mean) * (position - mean)
    done = count >= metric.length
    variance = square / jnp.maximum(count - 1, 1)
    # five draws' worth of shrinkage, as Stan, but of logarithms: Stan's 1e-3 is no small variance at n beta = 1e6
    logs = jnp.log(variance)
    shrunk = jnp.exp((count * logs + 5 * jnp.mean(logs)) / (count + 5))
    usable = done & jnp.all(jnp.isfinite(shrunk) & (shrunk > 0))
    return Metric(
        jnp.where(usable, shrunk, metric.inverse_mass),
        jnp.where(done, 0, count),
        jnp.where(done, 2 * metric.length, metric.length),
        jnp.where(done, 0, mean),
        jnp.where(done, 0, square),
    ), usable
