"""NumPyro programs as models: their unobserved sites are the parameters."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Model, Truth
from slt.typing import Batch, InputError, Key, Params, Scalar


class Frozen:
    """A pytree of arrays held as a constant: hashed and compared by content, so that models may keep one."""

    def __init__(self, tree: Any):
        leaves, self._treedef = jax.tree.flatten(tree)
        self._leaves = [np.asarray(leaf) for leaf in leaves]
        parts = repr((self._treedef, [(leaf.shape, str(leaf.dtype)) for leaf in self._leaves])).encode()
        self._digest = hashlib.sha256(b"".join([parts, *(leaf.tobytes() for leaf in self._leaves)])).hexdigest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._digest == other._digest

    @property
    def tree(self) -> Any:
        """The pytree, as JAX arrays."""
        return jax.tree.unflatten(self._treedef, [as_float(jnp.asarray(leaf)) for leaf in self._leaves])


def as_float(leaf: Array) -> Array:
    """The array in the default float type if it holds floats."""
    return leaf.astype(jnp.result_type(float)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@dataclass(frozen=True)
class Program(Model):
    """A NumPyro program as a model: parameters are its unobserved sites on unconstrained space. See `from_numpyro`."""

    fn: Callable[..., Any]
    example: Frozen
    generate: Callable[[Key, int], Batch] | None = None
    known: Truth | None = field(default=None, compare=False)
    control: tuple[tuple[str, float], ...] = ()

    @property
    def controls(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Keyword arguments of the program that may vary over a grid."""
        return tuple(name for name, _ in self.control)

    def bind(self, control: Mapping[str, Any]) -> "Program":
        for name in control:
            if name not in self.controls:
                raise InputError("control", name, f"not a control of this program; it has {self.controls}")
        return dataclasses.replace(self, control=tuple((k, control.get(k, v)) for k, v in self.control))

    def control_value(self, path: str) -> float:
        return float(dict(self.control)[path])

    def init(self, key: Key) -> Params:
        sites, _ = self._run(None, self.example.tree, key)
        return {name: _transform(site).inv(site["value"]) for name, site in sites.items() if _latent(site)}

    def log_prior(self, params: Params) -> Scalar:
        sites, jacobian = self._run(params, self.example.tree)
        return sum((_log_prob(site).sum() for site in sites.values() if _latent(site)), start=jacobian)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        size = jax.tree.leaves(batch)[0].shape[0]
        sites, _ = self._run(params, batch)
        observed = [
            _per_sample(site, size) for site in sites.values() if site["type"] == "sample" and not _latent(site)
        ]
        return sum(observed[1:], start=observed[0])

    def sample(self, key: Key, num: int) -> Batch:
        return super().sample(key, num) if self.generate is None else self.generate(key, num)

    def truth(self) -> Truth | None:
        return self.known

    def constrain(self, params: Params) -> dict[str, Array]:
        """Values of the program's sites, on their own supports, at unconstrained parameters."""
        sites, _ = self._run(params, self.example.tree)
        return {name: site["value"] for name, site in sites.items() if _latent(site)}

    def _run(self, params: Params | None, batch: Batch, key: Key | None = None) -> tuple[dict[str, Any], Scalar]:
        """(the program's sites, log |d site / d params| summed over sites)."""
        from numpyro import handlers

        jacobian = [jnp.zeros((), jnp.result_type(float))]

        def constrained(site: dict[str, Any]) -> Array | None:
            if params is None or not _latent(site):
                return None
            transform, free = _transform(site), params[site["name"]]
            value = transform(free)
            jacobian.append(jnp.sum(transform.log_abs_det_jacobian(free, value)))
            return value

        positional, named = _arguments(batch)
        with jax.numpy_dtype_promotion("standard"):  # NumPyro mixes dtypes
            seeded = handlers.seed(self.fn, jax.random.key(0) if key is None else key)
            program = handlers.substitute(seeded, substitute_fn=constrained)
            sites = handlers.trace(program).get_trace(*positional, **named, **dict(self.control))
            return sites, sum(jacobian[1:], start=jacobian[0])


def from_numpyro(
    fn: Callable[..., Any],
    example: Batch,
    *,
    sample: Callable[[Key, int], Batch] | None = None,
    truth: Truth | None = None,
    controls: Mapping[str, float] | None = None,
) -> Program:
    """The model of a NumPyro program fn, called as fn(*batch), or fn(**batch) if batches are dicts.

    Parameters: {site: array}, each unobserved site on the unconstrained space of NumPyro's `biject_to`; log_prior is
    the density there, the log Jacobians of the transforms included. log_likelihood adds up the observed sites (and
    factors), which need an axis that counts samples: that of the plate as large as the batch, or the leading one.

    example: a few samples, for shapes. sample(key, num) -> batch: the true distribution. controls: keyword arguments of
    fn that may vary over a grid, with their defaults. Refused: plates that subsample (slt draws the minibatches),
    sites that grow with the data, discrete unobserved sites, numpyro.param.
    """
    few = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:2], example)
    program = Program(fn, Frozen(few), sample, truth, tuple((controls or {}).items()))
    try:
        sites, _ = program._run(None, jax.tree.map(jnp.asarray, example), jax.random.key(0))
    except NotImplementedError as error:
        raise InputError("program", fn, "has a prior that cannot be sampled: give every site a proper one") from error
    _refuse(sites)
    more = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), few)
    grown, _ = program._run(None, more, jax.random.key(0))
    for name, site in program._run(None, few, jax.random.key(0))[0].items():
        if _latent(site) and jnp.shape(site["value"]) != jnp.shape(grown[name]["value"]):
            raise InputError("site", name, "has one value for every sample: marginalise it, or fix its number")
    program.log_likelihood(program.init(jax.random.key(0)), few)
    return program


def _refuse(sites: Mapping[str, Any]) -> None:
    for name, site in sites.items():
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            cure = "subsamples: give the plate its full size, slt draws minibatches itself and unbiased"
            raise InputError("plate", f"{name}, {site['args'][1]} of {site['args'][0]}", cure)
        if site["type"] in ("param", "mutable"):
            raise InputError(site["type"], name, "only sample sites are parameters: use numpyro.sample with a prior")
        if _latent(site) and site["fn"].support.is_discrete:
            raise InputError("site", name, "is discrete: marginalise it, or use a mixture distribution")
    if not any(_observed(site) for site in sites.values()):
        raise InputError("observed sites", [], "the program observes nothing: pass obs= to a numpyro.sample")
    if not any(_latent(site) for site in sites.values()):
        raise InputError("unobserved sites", [], "the program has no parameters")


def _arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch), {}) if isinstance(batch, tuple | list) else ((batch,), {})


def _latent(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _observed(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and site["is_observed"]


def _transform(site: Mapping[str, Any]) -> Any:
    from numpyro.distributions import biject_to

    return biject_to(site["fn"].support)


def _log_prob(site: Mapping[str, Any]) -> Array:
    with jax.numpy_dtype_promotion("standard"):
        value = site["fn"].log_prob(site["value"])
        return value if site["scale"] is None else site["scale"] * value


def _per_sample(site: Mapping[str, Any], size: int) -> Float[Array, " b"]:
    value = _log_prob(site)
    axes = [frame.dim for frame in site["cond_indep_stack"] if frame.size == size]
    axis = axes[0] if axes else 0
    if value.ndim == 0 or value.shape[axis] != size:
        cure = (
            f"must have one log probability a sample ({size} here): declare its plate, or put the samples' axis first"
        )
        raise InputError(f"site {site['name']}", value.shape, cure)
    return jnp.sum(jnp.moveaxis(value, axis, 0).reshape(size, -1), axis=1)
