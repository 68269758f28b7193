"""Observables: what the engine watches while it samples, traced per draw or folded into a running statistic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slt.phases import Phases
from slt.posterior import Posterior
from slt.samplers.base import Info
from slt.typing import InputError, Params

Watch = Callable[[Posterior, Params, Info], Any]
"""fn(posterior, params, info) -> arrays: what is watched at one draw of one chain."""


@dataclass(frozen=True)
class Observable:
    """Something watched at each draw of each chain.

    init(posterior) -> carry; update(posterior, params, info, carry) -> (carry, emitted). What is emitted is stored at
    every `every`-th draw (from draw 0, burn-in included, for inspection); the carry is folded over the draws after
    burn-in. Either may be None. Hashable, hence static under `jit`.
    """

    init: Callable[[Posterior], Any]
    update: Callable[[Posterior, Params, Info, Any], tuple[Any, Any]]
    every: int = 1
    folds: bool = False


@dataclass(frozen=True)
class _Trace:
    fn: Watch

    def __call__(self, posterior: Posterior, params: Params, info: Info, carry: None) -> tuple[None, Any]:
        return carry, self.fn(posterior, params, info)


def _nothing(_: Posterior) -> None:
    return None


def trace(fn: Watch, every: int = 1) -> Observable:
    """The observable that stores fn(posterior, params, info) at every `every`-th draw."""
    return Observable(_nothing, _Trace(fn), every)


class Moments(NamedTuple):
    """Running number of draws, mean and sum of squared deviations (Welford)."""

    draws: Float[Array, ""]
    mean: Any
    square: Any

    def variance(self) -> Any:
        """Unbiased variance over draws; NaN with fewer than two."""
        return jax.tree.map(lambda s: s / (_like(self.draws, s) - 1), self.square)


def _like(count: Any, leaf: Any) -> Any:
    """The count, one for each chain, shaped to divide what was folded."""
    return count.reshape(count.shape + (1,) * (leaf.ndim - count.ndim))


@dataclass(frozen=True)
class _Fold:
    fn: Watch

    def init(self, posterior: Posterior) -> Moments:
        shape = jax.eval_shape(self.fn, posterior, posterior.centre, Info(jnp.zeros(()), jnp.zeros(())))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.result_type(float)), shape)
        return Moments(jnp.zeros(()), zeros, zeros)

    def update(self, posterior: Posterior, params: Params, info: Info, carry: Moments) -> tuple[Moments, None]:
        value = self.fn(posterior, params, info)
        count = carry.draws + 1
        shift = jax.tree.map(jnp.subtract, value, carry.mean)
        mean = jax.tree.map(lambda m, d: m + d / count, carry.mean, shift)
        square = jax.tree.map(lambda s, d, v, m: s + d * (v - m), carry.square, shift, value, mean)
        return Moments(count, mean, square), None


def mean(fn: Watch) -> Observable:
    """The observable that folds the mean and variance of fn over the draws after burn-in: memory of one draw."""
    fold = _Fold(fn)
    return Observable(fold.init, fold.update, folds=True)


class LogMeanExp(NamedTuple):
    """Running sum of exp(values - peak), per element, and the number of draws."""

    draws: Float[Array, ""]
    peak: Any
    total: Any

    def value(self) -> Any:
        """log of the mean of exp(values)."""
        return self.peak + jnp.log(self.total / _like(self.draws, self.total))


@dataclass(frozen=True)
class _LogFold:
    fn: Watch

    def init(self, posterior: Posterior) -> LogMeanExp:
        shape = jax.eval_shape(self.fn, posterior, posterior.centre, Info(jnp.zeros(()), jnp.zeros(())))
        full = jnp.full(shape.shape, -jnp.inf)
        return LogMeanExp(jnp.zeros(()), full, jnp.zeros(shape.shape))

    def update(self, posterior: Posterior, params: Params, info: Info, carry: LogMeanExp) -> tuple[LogMeanExp, None]:
        value = self.fn(posterior, params, info)
        peak = jnp.maximum(carry.peak, value)
        safe = jnp.where(jnp.isfinite(peak), peak, 0.0)
        total = carry.total * jnp.exp(carry.peak - safe) + jnp.exp(value - safe)
        return LogMeanExp(carry.draws + 1, peak, total), None


def log_mean_exp(fn: Watch) -> Observable:
    """The observable that folds log E[exp(fn)] over the draws after burn-in, safe against overflow."""
    fold = _LogFold(fn)
    return Observable(fold.init, fold.update, folds=True)


class Pointwise(NamedTuple):
    """Moments and log mean exp of the same values, each computed once a draw."""

    moments: Moments
    density: LogMeanExp


@dataclass(frozen=True)
class _PointFold:
    fn: Watch

    def init(self, posterior: Posterior) -> Pointwise:
        return Pointwise(_Fold(self.fn).init(posterior), _LogFold(self.fn).init(posterior))

    def update(self, posterior: Posterior, params: Params, info: Info, carry: Pointwise) -> tuple[Pointwise, None]:
        value = self.fn(posterior, params, info)
        moments, _ = _Fold(lambda *_: value).update(posterior, params, info, carry.moments)
        density, _ = _LogFold(lambda *_: value).update(posterior, params, info, carry.density)
        return Pointwise(moments, density), None


def pointwise(fn: Watch) -> Observable:
    """The observable that folds mean, variance and log E[exp(fn)] of one array: what WAIC needs of log p(z_i|w)."""
    fold = _PointFold(fn)
    return Observable(fold.init, fold.update, folds=True)


def loss(posterior: Posterior, params: Params, info: Info) -> Array:
    """delta = L_n(w) - L_n(w_ref) on the full data, or the sampler's own unbiased estimate where it has one."""
    return posterior.delta(posterior.position(params)) if info.delta is None else info.delta


def full_loss(posterior: Posterior, params: Params, info: Info) -> Array:
    """delta = L_n(w) - L_n(w_ref), always on the full data."""
    return posterior.delta(posterior.position(params))


def distance(posterior: Posterior, params: Params, info: Info) -> Array:
    """|w - centre| over free parameters."""
    moved, centre = posterior.position(params), posterior.centre_position
    if posterior.mask is not None:
        moved = jax.tree.map(jnp.where, posterior.mask, moved, centre)
    squares = jax.tree.map(lambda w, c: jnp.sum(jnp.square(w - c)), moved, centre)
    return jnp.sqrt(sum(jax.tree.leaves(squares), start=jnp.zeros(())))


def parameters(posterior: Posterior, params: Params, info: Info) -> Params:
    """The parameters themselves: store them thinned."""
    return params


def acceptance(posterior: Posterior, params: Params, info: Info) -> Array:
    """The acceptance probability of the last step; NaN for unadjusted samplers."""
    return jnp.full((), jnp.nan) if info.acceptance is None else info.acceptance


def log_likelihoods(posterior: Posterior, params: Params, info: Info) -> Float[Array, " n_pad"]:
    """log p(z_i|w) of every sample (0 beyond n): fold it, storing it costs draws x n."""
    values = posterior.bound.log_likelihood(params, posterior.data)
    return jnp.where(jnp.arange(values.shape[0], dtype=posterior.n.dtype) < posterior.n, values, 0)


def differences(posterior: Posterior, params: Params, info: Info) -> Float[Array, " n_pad"]:
    """log p(z_i|w) - log p(z_i|w_ref) of every sample (0 beyond n)."""
    return posterior.differences(posterior.position(params))


@dataclass(frozen=True)
class diagnostic:
    """Watch of one entry of the sampler's diagnostics."""

    name: str

    def __call__(self, posterior: Posterior, params: Params, info: Info) -> Array:
        return info.diagnostics[self.name]


@dataclass(frozen=True)
class phase:
    """Watch of the phase label of a draw, -1 where it belongs to none; true and false count as 1 and 0."""

    phases: Phases

    def __call__(self, posterior: Posterior, params: Params, info: Info) -> Array:
        label = jnp.asarray(self.phases.label(params))
        if label.shape != () or label.dtype.kind not in "bi":
            raise InputError("phases.label", f"{label.dtype}{list(label.shape)}", "must be one whole number a draw")
        return label.astype(jnp.int32) if label.dtype.kind == "b" else label
