"""What free energies are asked of: a model's prior and loss on flat parameter vectors, checked."""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from slt.model import Model, check
from slt.posterior import Posterior
from slt.priors import Flat
from slt.samplers.base import reflect
from slt.typing import Batch, InputError, Key, Params, Scalar

Vector = Float[Array, " d"]
Times = Sequence[float] | np.ndarray
"""Values of t, ascending."""
PROBES = 4096
"""Draws from the prior among which the reference point is looked for where no optimum is known."""


@dataclass(frozen=True)
class Target:
    """exp(-t K(w)) prior(w), K = L_n (of a model with data, t = n beta) or the potential's own.

    posterior: at beta = 1, whose reference point makes `delta` = K - K(reference) accurate where it matters;
    offset: K(reference) in float64; anchored: whether the reference is the known optimum.
    """

    model: Model
    data: Batch
    n: int
    posterior: Posterior
    offset: float
    anchored: bool

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.posterior.centre))

    def flat(self, params: Params) -> np.ndarray:
        """Parameters as one float vector."""
        return np.asarray(ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), params))[0])


def make(model: Model, data: Batch | None = None, n: int | None = None, seeds: Any = ()) -> Target:
    """The target of a potential (no data), or of a model on the first `n` samples of `data` (all unless given)."""
    if not isinstance(model, Model):
        raise InputError("model", model, "must be an slt.Model: see slt.potential, slt.from_linen, slt.from_numpyro")
    if isinstance(getattr(model, "prior", None), Flat):
        raise InputError("model.prior", "Flat", "has no integral, so no absolute free energy: take a proper prior")
    if model.is_potential:
        if data is not None or n is not None:
            raise InputError("data", "given", "a potential has no data: give t")
        data, count = model.sample(jax.random.key(0), 1), 1
    else:
        if data is None:
            raise InputError("data", None, "a model with data needs them: give a batch")
        data = jax.tree.map(jnp.asarray, data)
        size = min(leaf.shape[0] for leaf in jax.tree.leaves(data))
        count = size if n is None else n
        if not 1 <= count <= size:
            raise InputError("n", n, f"must lie between 1 and the {size} samples given")
        data = jax.tree.map(lambda leaf: leaf[:count], data)
    truth = model.truth()
    known = truth is not None and truth.params is not None
    points = [truth.params] if truth is not None and known else []
    want = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(model.init, jax.random.key(0)))
    for seed in seeds:
        if jax.tree.map(np.shape, seed) != want:
            found = jax.tree.map(np.shape, seed)
            raise InputError("seeds", found, f"give a list of parameters, each of the model's shape, {want}")
    points += list(seeds)
    batch = jax.tree.map(lambda leaf: leaf[:3], data)
    check(model, model.init(jax.random.key(0)), batch)
    if not points:
        points = [_lowest(model, data)]
    floats = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), point) for point in points]
    for seed in floats[len(floats) - len(seeds) :]:
        check(model, seed, batch)
    losses = [_loss(model, point, data) for point in floats]
    if not np.isfinite(losses).any():
        raise InputError("model", losses, "its loss is not finite at the reference points")
    best = int(np.nanargmin(losses))
    posterior = Posterior.build(model, data, count, 1.0, centre=floats[best])
    return Target(model, data, int(count), posterior, losses[best], known and model.is_potential)


def _loss(model: Model, params: Params, data: Batch) -> float:
    return -float(np.mean(np.asarray(jax.jit(model.log_likelihood)(params, data), np.float64)))


def _lowest(model: Model, data: Batch) -> Params:
    def one(key: Key) -> tuple[Params, Scalar]:
        params = model.init(key)
        return params, -jnp.mean(model.log_likelihood(params, data))

    params, losses = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=256))(
        jax.random.split(jax.random.key(0), PROBES)
    )
    best = int(np.argmin(np.nan_to_num(np.asarray(losses), nan=np.inf)))
    return jax.tree.map(lambda leaf: leaf[best], params)


def unravel(posterior: Posterior, w: Vector) -> Params:
    """The parameters of a flat vector."""
    return ravel_pytree(posterior.centre)[1](w)


def values(posterior: Posterior, w: Vector) -> tuple[Scalar, Scalar]:
    """(log prior(w), K(w) - K(reference))."""
    params = unravel(posterior, w)
    return posterior.log_prior(params), posterior.delta(params)


def fold(posterior: Posterior, w: Vector) -> tuple[Vector, Vector]:
    """w reflected into the prior's box, and the signs by which velocities turn; w itself where there is none."""
    return reflect(posterior, w)


@functools.partial(jax.jit, static_argnames=("number",))
def prior_draws(posterior: Posterior, key: Key, number: int) -> Float[Array, "number d"]:
    """Independent draws from the prior."""
    return jax.vmap(lambda k: ravel_pytree(posterior.bound.init(k))[0])(jax.random.split(key, number))


def own_key(of: Target, key: Key) -> Key:
    """`key` with a digest of the target folded in, so that different targets never share their random numbers.

    Of K - K(reference) at eight prior draws, to three digits: under one key the errors of similar potentials would
    otherwise go up and down together, and look like a bias.
    """
    if not isinstance(key, jax.Array):
        raise InputError("key", key, "give a key of JAX, as jax.random.key(0)")
    draws = prior_draws(of.posterior, jax.random.key(0), 8)
    seen = np.asarray(jax.vmap(lambda w: values(of.posterior, w)[1])(draws), np.float64)
    text = f"{of.dim} {of.n} " + " ".join(f"{each:.3g}" for each in seen)
    return jax.random.fold_in(key, zlib.crc32(text.encode()))
