"""The tempered, localised posterior: the only place where n and beta meet the likelihood."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from slt.model import Model, compressed
from slt.typing import Batch, InputError, Key, Params, Scalar

Position = Any
"""What a sampler moves: a pytree of the free parameters."""


class Restriction:
    """Which parameters are free; the others stay at the centre. Static: frozen parameters cost a sampler nothing.

    mask: a pytree like the parameters, each leaf a bool or a boolean array of the leaf's shape, True where free.
    """

    def __init__(self, mask: Params):
        leaves, self._treedef = jax.tree.flatten(mask)
        self._leaves = [np.asarray(leaf) for leaf in leaves]
        for leaf in self._leaves:
            if leaf.dtype != np.bool_:
                raise InputError("restriction", leaf.dtype, "the mask must be boolean, True where a parameter is free")
        if not any(leaf.any() for leaf in self._leaves):
            raise InputError("restriction", "all frozen", "at least one parameter must be free")
        shapes = repr((self._treedef, [(leaf.shape, leaf.tobytes()) for leaf in self._leaves]))
        self._digest = hashlib.sha256(shapes.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Restriction) and self._digest == other._digest

    def free(self, params: Params) -> Position:
        """The free parameters: whole leaves where all of a leaf is free, flat vectors where a part is."""
        leaves = self._matched(params)
        return tuple(
            leaf if mask.all() else leaf.reshape(-1)[np.flatnonzero(np.broadcast_to(mask, leaf.shape))]
            for leaf, mask in zip(leaves, self._leaves, strict=True)
            if mask.any()
        )

    def merge(self, position: Position, centre: Params) -> Params:
        """Full parameters: `position` where free, `centre` where frozen."""
        leaves, moved = self._matched(centre), iter(position)
        merged = []
        for leaf, mask in zip(leaves, self._leaves, strict=True):
            if not mask.any():
                merged.append(leaf)
            elif mask.all():
                merged.append(next(moved))
            else:
                where = np.flatnonzero(np.broadcast_to(mask, leaf.shape))
                merged.append(leaf.reshape(-1).at[where].set(next(moved)).reshape(leaf.shape))
        return jax.tree.unflatten(self._treedef, merged)

    def _matched(self, params: Params) -> list[Array]:
        leaves, treedef = jax.tree.flatten(params)
        if treedef != self._treedef:
            raise InputError("restriction", self._treedef, f"must have the structure of the parameters, {treedef}")
        for leaf, mask in zip(leaves, self._leaves, strict=True):
            if mask.shape not in ((), leaf.shape):
                raise InputError(
                    "restriction", mask.shape, f"a leaf of the mask must be one bool or have shape {leaf.shape}"
                )
        return leaves


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["data", "n", "beta", "gamma", "centre", "reference", "control", "mask", "reference_grad", "fewer"],
    meta_fields=["model", "restriction"],
)
@dataclass(frozen=True)
class Posterior:
    """exp(-n beta L_n(w)) phi(w) exp(-(gamma/2) |w - centre|^2), with everything but the model traced.

    `data` has a leading axis padded to a bucket; only its first n samples count (data sets are nested by prefix).
    The centre is also the reference w_ref: the loss is kept as delta(w) = L_n(w) - L_n(w_ref), summed over per-sample
    differences, because a difference of float32 losses is wrong by 10 per cent at n beta = 1e6. gamma = 0 is the
    global posterior. `fewer`: what Model.compress has in place of the first n samples, and its log-likelihood at the
    centre. Make one with `Posterior.build`.
    """

    model: Model
    data: Batch
    n: Scalar
    beta: Scalar
    gamma: Scalar
    centre: Params
    reference: Float[Array, " n_pad"]
    control: dict[str, Scalar] = field(default_factory=dict)
    restriction: Restriction | None = None
    mask: Params | None = None
    reference_grad: Position | None = None
    fewer: tuple[Batch, Float[Array, " m"]] | None = None

    @staticmethod
    def build(
        model: Model,
        data: Batch,
        n: Any,
        beta: Any,
        *,
        centre: Params,
        gamma: Any = 0.0,
        control: Mapping[str, Any] | None = None,
        restriction: Restriction | None = None,
        mask: Params | None = None,
        control_variate: bool = False,
    ) -> "Posterior":
        """The posterior of `model` on the first n samples of `data`; pure, so it can be vmapped over cells.

        restriction: a static mask, frozen parameters leave the position; mask: the same traced (0/1 arrays like the
        parameters), frozen coordinates then follow an auxiliary N(0, 1) that nothing observes.
        control_variate: also keep the full gradient at the centre, which `estimate` with a control variate needs.
        """
        dtype = jnp.result_type(float)
        bound = model.bind(control or {})
        reference = jax.lax.stop_gradient(bound.log_likelihood(centre, data))
        fewer = compressed(bound, data, n)
        posterior = Posterior(
            model=model,
            data=data,
            n=jnp.asarray(n, jnp.int32),
            beta=jnp.asarray(beta, dtype),
            gamma=jnp.asarray(gamma, dtype),
            centre=centre,
            reference=reference,
            control={name: jnp.asarray(value, dtype) for name, value in (control or {}).items()},
            restriction=restriction,
            mask=mask,
            fewer=None if fewer is None else (fewer, jax.lax.stop_gradient(bound.log_likelihood(centre, fewer))),
        )
        if not control_variate:
            return posterior
        grad = jax.grad(posterior.delta)(posterior.position(centre))
        return dataclasses.replace(posterior, reference_grad=grad)

    @property
    def bound(self) -> Model:
        """The model with this posterior's controls in place."""
        return self.model.bind(self.control)

    @property
    def nbeta(self) -> Scalar:
        """n beta, the factor on the mean loss; t of a potential."""
        return self.n.astype(self.beta.dtype) * self.beta

    @property
    def centre_position(self) -> Position:
        """The centre, as a position."""
        return self.position(self.centre)

    def position(self, params: Params) -> Position:
        """The free part of full parameters."""
        return params if self.restriction is None else self.restriction.free(params)

    def params(self, position: Position) -> Params:
        """Full parameters of a position, frozen ones taken from the centre."""
        if self.restriction is not None:
            return self.restriction.merge(position, self.centre)
        if self.mask is not None:
            return jax.tree.map(jnp.where, self.mask, position, self.centre)
        return position

    def differences(self, position: Position) -> Float[Array, " n_pad"]:
        """l_i(w) - l_i(w_ref), l_i = log p(z_i|w), of every sample, the padded ones set to 0."""
        values = self.bound.log_likelihood(self.params(position), self.data) - self.reference
        return jnp.where(jnp.arange(values.shape[0], dtype=self.n.dtype) < self.n, values, 0)

    def total(self, position: Position) -> Scalar:
        """The sum of `differences`, from fewer samples where the model has such."""
        if self.fewer is None:
            return jnp.sum(self.differences(position))
        batch, reference = self.fewer
        return jnp.sum(self.bound.log_likelihood(self.params(position), batch) - reference)

    def delta(self, position: Position) -> Scalar:
        """L_n(w) - L_n(w_ref) on the full data."""
        total = self.total(position)
        return -total / self.n.astype(total.dtype)

    def log_prior(self, position: Position) -> Scalar:
        """log phi(w) - (gamma/2) |w - centre|^2 over free parameters (and the auxiliary density of masked ones)."""
        value = self.bound.log_prior(self.params(position))
        centre = self.centre_position
        if self.mask is None:
            offsets = jax.tree.map(lambda w, c: jnp.sum(jnp.square(w - c)), position, centre)
            return value - 0.5 * self.gamma * _total(offsets, value)
        offsets = jax.tree.map(lambda m, w, c: jnp.sum(jnp.where(m, jnp.square(w - c), 0)), self.mask, position, centre)
        aside = jax.tree.map(lambda m, w: jnp.sum(jnp.where(m, 0, jnp.square(w))), self.mask, position)
        return value - 0.5 * self.gamma * _total(offsets, value) - 0.5 * _total(aside, value)

    def log_density(self, position: Position) -> Scalar:
        """-n beta (L_n(w) - L_n(w_ref)) + log_prior(w): the log posterior up to its normalisation, full data."""
        return self.value(position)[0]

    def value(self, position: Position) -> tuple[Scalar, Scalar]:
        """(log_density, delta), so that no second pass is needed for the loss."""
        delta = self.delta(position)
        return self.log_prior(position) - self.nbeta * delta, delta

    def value_and_grad(self, position: Position) -> tuple[Scalar, Position]:
        """(delta, gradient of log_density), full data."""
        (_, delta), grad = jax.value_and_grad(self.value, has_aux=True)(position)
        return delta, grad

    def minibatch(self, key: Key, size: int) -> Int[Array, " size"]:
        """Indices of `size` samples, uniform in [0, n) with replacement."""
        return jax.random.randint(key, (size,), 0, self.n)

    def delta_estimate(self, position: Position, index: Int[Array, " size"], control_variate: bool = False) -> Scalar:
        """An unbiased estimate of `delta` from the samples `index`.

        With a control variate the linear part about the centre comes from the full data,
        (1/b) sum_B [l_i(w_ref) - l_i(w) + grad l_i(w_ref).(w - w_ref)] + grad L_n(w_ref).(w - w_ref),
        so the noise of the gradient vanishes at the centre (two passes over the minibatch).
        """
        batch = jax.tree.map(lambda leaf: leaf[index], self.data)

        def losses(at: Position) -> Float[Array, " size"]:
            return -self.bound.log_likelihood(self.params(at), batch)

        if not control_variate:
            return jnp.mean(losses(position) + self.reference[index])
        if self.reference_grad is None:
            raise InputError("control_variate", True, "build the posterior with control_variate=True")
        centre = self.centre_position
        offset = jax.tree.map(jnp.subtract, position, centre)
        at_centre, slope = jax.jvp(losses, (centre,), (offset,))
        linear = _total(jax.tree.map(jnp.vdot, self.reference_grad, offset), slope)
        return jnp.mean(losses(position) - at_centre - slope) + linear

    def log_density_estimate(
        self, position: Position, index: Int[Array, " size"], control_variate: bool = False
    ) -> tuple[Scalar, Scalar]:
        """Unbiased (log_density, delta) from the samples `index`."""
        delta = self.delta_estimate(position, index, control_variate)
        return self.log_prior(position) - self.nbeta * delta, delta

    def estimate(
        self, position: Position, key: Key, size: int, control_variate: bool = False
    ) -> tuple[Scalar, Position]:
        """(delta, gradient of log_density) from a fresh minibatch of `size` samples: unbiased, one pass."""
        index = self.minibatch(key, size)
        (_, delta), grad = jax.value_and_grad(self.log_density_estimate, has_aux=True)(position, index, control_variate)
        return delta, grad


def _total(tree: Any, like: Array) -> Array:
    return sum(jax.tree.leaves(tree), start=jnp.zeros((), like.dtype))
