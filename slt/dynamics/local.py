"""Local quantities at many points at once: one program over points x chains, centres and all.

At a point w of a trajectory, which need be no minimum, lambda_hat = t (E[L] - L(w)) under exp(-t L) phi exp(-(gamma/2)
|w' - w|^2) may be negative: at a saddle, or on a slope, the localised posterior lies lower than w. It is a finding, and
stands with its sign. (w1 w2 - 1)^2 at 0, t = 100, gamma = 1, has -99.5.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.cells import data_words, digest_words, fold_words
from slt.engine.program import LONG, ONCE
from slt.estimators import diagnostics
from slt.model import Model
from slt.posterior import Posterior
from slt.samplers.base import Sampler
from slt.samplers.mcmc import HMC
from slt.typing import Batch, Estimate, InputError, Key, Params

DENSE = 400  # parameters up to which the Hessian is made whole
ITERATIONS = 200  # of the power method beyond that


@dataclass(frozen=True)
class Local:
    """Arrays over the points [P].

    llc: Estimate, t (E[L] - L(w)) with its sign; loss: L(w); gradient: |grad L(w)|; lowest, highest: ends of the
    spectrum of the Hessian of L at w. negative, rank: how many of its eigenvalues lie below -tolerance, and beyond
    +-tolerance, tolerance = 1e-3 of the largest; quadratic: sum_i t h_i/(t h_i + gamma + r)/2 over positive eigenvalues
    h_i, r the prior's curvature: what a harmonic well would give at this t (the softness of the well is what it lacks
    to rank/2). The last three are NaN beyond 400 parameters. distance: the mean |w' - w| of the draws. acceptance,
    rhat: of the chains.
    """

    llc: Estimate
    loss: Float[np.ndarray, " P"]
    gradient: Float[np.ndarray, " P"]
    lowest: Float[np.ndarray, " P"]
    highest: Float[np.ndarray, " P"]
    negative: Float[np.ndarray, " P"]
    rank: Float[np.ndarray, " P"]
    quadratic: Float[np.ndarray, " P"]
    distance: Float[np.ndarray, " P"]
    acceptance: Float[np.ndarray, " P"]
    rhat: Float[np.ndarray, " P"]
    t: float
    gamma: float


def local(
    model: Model,
    points: Params,
    *,
    t: float,
    gamma: float = 1.0,
    data: Batch | None = None,
    n: int | None = None,
    data_seed: int = 0,
    chains: int = 16,
    draws: int = 400,
    burn_in: int = 100,
    sampler: Sampler | None = None,
    key: Key | None = None,
) -> Local:
    """The local quantities at `points`, a pytree of parameters whose leaves have a leading axis [P].

    t: the factor on L (n beta of a model with data, whose L is over `data`, or n samples drawn by data_seed); gamma:
    the localiser. sampler: HMC with jittered steps unless given; its draws after `burn_in` count, and all chains start
    at their own point. InputError, before any compute, for what cannot be used.
    """
    count = _count(model, points)
    for name, value, low in (("t", t, 0.0), ("gamma", gamma, 0.0)):
        if not (np.isfinite(value) and value >= low):
            raise InputError(name, value, f"must be finite and at least {low:g}")
    for name, value, least in (("chains", chains, 2), ("draws", draws, 8), ("burn_in", burn_in, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(name, value, f"must be a whole number, at least {least}")
    sampler = HMC(leapfrogs=8, jitter=0.9, target=0.9) if sampler is None else sampler
    sampler.check()
    if sampler.coupled is not None:
        raise InputError("sampler", sampler, "couples its chains: take one that samples each point by itself")
    if model.is_potential:
        if data is not None or n is not None:
            raise InputError("data", "given", "a potential has no data: leave it out")
        data, size = jnp.zeros((1, 0)), 1
    else:
        if (data is None) == (n is None):
            raise InputError("data", "none or both", "a model with data needs either data or n")
        if data is None:
            data = jax.jit(model.sample, static_argnums=1)(fold_words(jax.random.key(0), data_words(data_seed)), n)
        data = jax.tree.map(jnp.asarray, data)
        size = int(jax.tree.leaves(data)[0].shape[0])
    dtype = jnp.result_type(float)
    points = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), points)
    made = _Maker(model, sampler.wants_reference_grad)
    numbers = jnp.asarray(size, jnp.int32), jnp.asarray(t / size, dtype), jnp.asarray(gamma, dtype)
    key = fold_words(jax.random.key(0) if key is None else key, digest_words({"t": t, "gamma": gamma}))
    with jax.threefry_partitionable(False):
        traces = _sample(
            made, sampler, points, data, numbers, key, jnp.asarray(burn_in), chains, draws, burn_in + draws
        )
    delta, distance, acceptance = (np.asarray(each, np.float64) for each in traces)
    ok: Any = np.isfinite(delta).all(-1)
    mean = diagnostics.mean(np.where(ok[..., None], delta, 0.0), ok=ok)
    whole = _size(points) <= DENSE
    loss, gradient, soft, hessian = _bent(made, points, data, numbers, whole)
    values = np.linalg.eigvalsh(hessian) if whole else hessian
    negative, rank, quadratic = _counts(values, t, gamma + soft) if whole else np.full((3, count), np.nan)
    with np.errstate(invalid="ignore"):
        far, accepted = (np.where(ok[..., None], each, np.nan).mean((1, 2)) for each in (distance, acceptance))
    return Local(
        llc=Estimate(t * np.asarray(mean.value), t * np.asarray(mean.stderr), mean.ess),
        loss=loss,
        gradient=gradient,
        lowest=values[:, 0],
        highest=values[:, -1],
        negative=negative,
        rank=rank,
        quadratic=quadratic,
        distance=far,
        acceptance=accepted,
        rhat=diagnostics.rhat(np.where(ok[..., None], delta, 0.0), ok=ok),
        t=float(t),
        gamma=float(gamma),
    )


def _counts(values: Float[np.ndarray, "P d"], t: float, soft: np.ndarray) -> Float[np.ndarray, "3 P"]:
    """(negative, rank, quadratic) of spectra."""
    least = 1e-3 * np.abs(values).max(1, keepdims=True)
    curved = t * np.maximum(values, 0)
    below = np.maximum(soft, 1e-12)[:, None]
    return np.stack([(values < -least).sum(1), (np.abs(values) > least).sum(1), (curved / (curved + below)).sum(1) / 2])


def _count(model: Model, points: Params) -> int:
    want = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(model.init, jax.random.key(0)))
    have = jax.tree.map(lambda leaf: np.shape(leaf)[1:], points)
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if have != want or len(counts) != 1 or counts == {()}:
        raise InputError("points", have, f"give parameters with one leading axis, the rest of shapes {want}")
    return counts.pop()[0]


def _size(points: Params) -> int:
    return sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(points))


@dataclass(frozen=True)
class _Maker:
    """Posteriors of a model centred at a point."""

    model: Model
    variate: bool

    def __call__(self, centre: Params, data: Batch, numbers: tuple[Array, Array, Array]) -> Posterior:
        n, beta, gamma = numbers
        return Posterior.build(self.model, data, n, beta, gamma=gamma, centre=centre, control_variate=self.variate)


@functools.partial(jax.jit, static_argnums=(0, 7, 8, 9), compiler_options=LONG)
def _sample(
    made: _Maker, sampler: Sampler, points: Params, data: Batch, numbers: Any, key: Key, burn_in: Array,
    chains: int, draws: int, total: int,
) -> tuple[Array, ...]:  # fmt: skip
    """delta, distance and acceptance [P, chains, draws] of the last `draws` of `total`."""

    def chain(posterior: Posterior, key: Key) -> tuple[Array, ...]:
        algorithm = sampler(posterior)
        centre, _ = ravel_pytree(posterior.centre_position)
        adapt = getattr(algorithm, "adapt", None)

        def step(state: Any, number: Array) -> tuple[Any, tuple[Array, Array, Array]]:
            new, info = algorithm.step(jax.random.fold_in(key, number), state)
            if adapt is not None:
                new = jax.tree.map(lambda a, b: jnp.where(number < burn_in, a, b), adapt(new, info), new)
            accepted = getattr(info, "acceptance", None)
            rate = jnp.full((), jnp.nan, centre.dtype) if accepted is None else jnp.asarray(accepted, centre.dtype)
            far = jnp.sqrt(jnp.sum(jnp.square(ravel_pytree(new.position)[0] - centre)))
            return new, (posterior.delta(new.position), far, rate)

        start = algorithm.init(posterior.centre_position, jax.random.fold_in(key, 2**32 - 1))
        _, seen = jax.lax.scan(step, start, jnp.arange(total))
        return tuple(leaf[total - draws :] for leaf in seen)

    def cell(centre: Params, key: Key) -> tuple[Array, ...]:
        posterior = made(centre, data, numbers)
        return jax.vmap(lambda c: chain(posterior, jax.random.fold_in(key, c)))(jnp.arange(chains))

    numbered = jnp.arange(jax.tree.leaves(points)[0].shape[0])
    return jax.vmap(cell)(points, jax.vmap(lambda p: jax.random.fold_in(key, p))(numbered))


def _bent(
    made: _Maker, points: Params, data: Batch, numbers: Any, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(loss, |gradient|, curvature of -log prior, Hessians [P, d, d] or, not `whole`, ends of the spectra [P, 2])."""
    loss, gradient, soft, hessian = _read(_curvature(made, points, data, numbers, whole, False))
    kinks = ~np.isfinite(hessian.reshape(len(hessian), -1)).all(1)
    if kinks.any():  # no second derivative there: differences of gradients
        hessian[kinks] = _read(_curvature(made, points, data, numbers, whole, True))[-1][kinks]
    if whole:
        hessian = np.nan_to_num((hessian + np.swapaxes(hessian, 1, 2)) / 2)
    return loss, gradient, np.nan_to_num(soft), hessian


def _read(arrays: tuple[Array, ...]) -> list[np.ndarray]:
    return [np.array(each, np.float64) for each in arrays]


@functools.partial(jax.jit, static_argnums=(0, 4, 5), compiler_options=ONCE)
def _curvature(
    made: _Maker, points: Params, data: Batch, numbers: Any, whole: bool, differences: bool
) -> tuple[Array, Array, Array, Array]:
    def one(point: Params) -> tuple[Array, Array, Array, Array]:
        posterior = made(point, data, numbers)
        flat, back = ravel_pytree(posterior.centre_position)
        slope = jax.grad(lambda w: posterior.delta(back(w)))
        width = 3e-3 * (1 + jnp.abs(flat).max())

        def product(v: Array) -> Array:
            if differences:
                return (slope(flat + width * v) - slope(flat - width * v)) / (2 * width)
            return jax.jvp(slope, (flat,), (v,))[1]

        way = jax.random.rademacher(jax.random.key(0), flat.shape, flat.dtype)
        pull = jax.grad(lambda w: -posterior.bound.log_prior(posterior.params(back(w))))
        soft = jnp.mean(way * jax.jvp(pull, (flat,), (way,))[1])
        loss = -jnp.mean(posterior.reference)
        size = jnp.sqrt(jnp.sum(jnp.square(slope(flat))))
        return (
            loss,
            size,
            soft,
            jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype)) if whole else _ends(product, way),
        )

    return jax.lax.map(one, points, batch_size=32)


def _ends(product: Any, start: Array) -> Float[Array, "2"]:
    """Lowest and highest eigenvalue by the power method: the largest in size, then the far end by a shift."""

    def power(shift: Array) -> Array:
        def step(_: Any, v: Array) -> Array:
            new = product(v) - shift * v
            return new / (jnp.linalg.norm(new) + 1e-30)

        v = jax.lax.fori_loop(0, ITERATIONS, step, start / jnp.linalg.norm(start))
        return jnp.vdot(v, product(v))

    large = power(jnp.zeros((), start.dtype))
    return jnp.sort(jnp.stack([large, power(large)]))
