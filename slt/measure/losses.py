"""A loss given as a function, as a model: what `slt.llc` and its kin sample when there is no `slt.Model`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Model
from slt.priors import Flat, Prior
from slt.typing import Batch, InputError, Key, Params, Scalar


@dataclass(frozen=True)
class Loss(Model):
    """The density exp(-n beta L_n(w)) phi(w) of a loss function.

    fn(params, batch) -> the loss of each sample of the batch. Made by `as_model`.
    """

    fn: Callable[..., Any]
    prior: Prior
    like: Any
    """Shapes of the parameters, hashable: (treedef, (shape, dtype) of each leaf)."""
    whole: bool = False
    """The function gives one number for all data: then they are one sample, beta is t, and there is no n."""
    batched: bool = True
    """Whether the function takes data at all."""

    @property
    def is_potential(self) -> bool:
        return self.whole

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support

    def init(self, key: Key) -> Params:
        treedef, leaves = self.like
        return self.prior.sample(key, jax.tree.unflatten(treedef, [jnp.zeros(shape, dtype) for shape, dtype in leaves]))

    def log_prior(self, params: Params) -> Scalar:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        if not self.whole:
            return -self.fn(params, batch)
        one = self.fn(params, jax.tree.map(lambda leaf: leaf[0], batch)) if self.batched else self.fn(params)
        return -jnp.broadcast_to(one, (jax.tree.leaves(batch)[0].shape[0],))


def arrays(field: str, tree: Any) -> Any:
    """The leaves of a pytree as arrays; InputError for one that holds no real numbers, or if there is none."""
    if not jax.tree.leaves(tree):
        raise InputError(field, tree, "holds no numbers: give an array, or a pytree of arrays")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        kind = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
        if not any(jnp.issubdtype(kind, real) for real in (np.bool_, np.integer, np.floating)):
            name = field + jax.tree_util.keystr(path)
            raise InputError(name, leaf, f"is {kind}: give real numbers (of complex ones, the two parts)")
    return jax.tree.map(jnp.asarray, tree)


def samples(data: Any) -> tuple[Batch, int]:
    """(data as arrays, n)."""
    data = arrays("data", data)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or not min(size or 0 for size in sizes):
        found = sorted(map(str, sizes))
        raise InputError("data", found, "all leaves need one leading axis of the same length, n >= 1: arrays, no lists")
    return data, int(sizes.pop() or 0)


def chosen(model: Any, params: Params, data: Batch | None, prior: Prior | None) -> tuple[Model, Batch | None, int]:
    """(model, data, n) that `slt.llc` is asked about: an slt.Model, or a loss function made one."""
    if prior is not None and not isinstance(prior, Prior):
        raise InputError("prior", prior, "give an slt.Normal, slt.Uniform or another slt.priors.Prior")
    if not isinstance(model, Model):
        if not callable(model):
            raise InputError("model", model, "give an slt.Model or a loss function of (params, data)")
        return as_model(model, params, data, Flat() if prior is None else prior)
    if prior is not None:
        raise InputError("prior", prior, "a model has its own prior: change it there")
    shapes, want = (jax.tree.map(jnp.shape, each) for each in (params, jax.eval_shape(model.init, jax.random.key(0))))
    if shapes != want:
        raise InputError("params", shapes, f"w* needs the shapes of the model's parameters, {want}")
    if model.is_potential:
        if data is not None:
            raise InputError("data", "given", "a potential has no data: leave it out and give t")
        return model, None, 1
    if data is None:
        raise InputError("data", None, "give the data the coefficient is of; model.sample(key, n) draws some")
    return model, *samples(data)


def as_model(fn: Callable[..., Any], params: Params, data: Batch | None, prior: Prior) -> tuple[Loss, Batch, int]:
    """(model, data as the model takes them, n) of a loss function; InputError for what it cannot be.

    fn(params, data) may return the loss of each sample, shape [n] (minibatches are possible then), or their mean, a
    scalar (full data only); without data fn(params) is a potential K(w), and n is 1.
    """
    leaves, treedef = jax.tree.flatten(params)
    like = (treedef, tuple((tuple(leaf.shape), str(jnp.result_type(float))) for leaf in leaves))
    if data is None:
        found = _shape(fn, params)
        if found != ():
            raise InputError("loss", found, "a function of the parameters alone must return a scalar K(w)")
        return Loss(fn, prior, like, whole=True, batched=False), jnp.zeros((1, 0)), 1
    data, n = samples(data)
    found = _shape(fn, params, data)
    if found == (n,):
        return Loss(fn, prior, like), data, n
    if found == ():
        return Loss(fn, prior, like, whole=True), jax.tree.map(lambda leaf: leaf[None], data), n
    raise InputError("loss", found, f"must return the loss of every sample, shape ({n},), or their mean, a scalar")


def _shape(fn: Callable[..., Any], *arguments: Any) -> tuple[int, ...] | None:
    try:
        found = jax.eval_shape(fn, *arguments)
    except Exception as error:
        shapes = ", ".join(str(jax.tree.map(jnp.shape, each)) for each in arguments)
        told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        cure = f"fails where it is called with arrays of shapes {shapes}: it must be a pure JAX function of them"
        raise InputError("loss", told, cure) from error
    if not jnp.issubdtype(getattr(found, "dtype", np.float32), np.floating):
        raise InputError("loss", found.dtype, "must return floats, which have a gradient")
    return getattr(found, "shape", None)
