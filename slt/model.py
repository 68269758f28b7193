"""What a statistical model is to slt: pure functions over a parameter pytree, and what is known of its truth."""

import abc
import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slt.phases import Basin, Phases
from slt.priors import Prior
from slt.typing import Batch, InputError, Key, Params, Scalar


@dataclass(frozen=True)
class Truth:
    """What is known exactly of a model under its true distribution. Unknown entries are None.

    params: an optimum w* of L(w) = E[-log p(z|w)]; loss: L(w*); entropy: of the true distribution (nats);
    lam, multiplicity: learning coefficient and its multiplicity of the global posterior, with their `source`;
    population_loss: L(w) in closed form; basins: the known phases' minima; phases: the classifier that names them.
    """

    params: Params | None = None
    loss: float | None = None
    entropy: float | None = None
    lam: float | None = None
    multiplicity: int | None = None
    source: str = ""
    population_loss: Callable[[Params], Scalar] | None = None
    basins: tuple[Basin, ...] = ()
    phases: Phases | None = None

    def basin(self, name: str) -> Basin:
        """The basin called `name`; InputError that lists the known ones otherwise."""
        for basin in self.basins:
            if basin.name == name:
                return basin
        known = ", ".join(basin.name for basin in self.basins)
        raise InputError("start", name, f"no such basin; known are: {known or 'none'}; or 'prior', or 'optimum'")


@dataclass(frozen=True)
class Model(abc.ABC):
    """A statistical model p(z|w) with prior phi(w) and true distribution q(z).

    Subclass as a frozen dataclass of hyperparameters; it is hashable, hence static under `jit`. All methods are pure.
    `controls` names the scalar fields that may vary over a grid inside one compiled program (the angle of a truth,
    the width of a prior as "prior.scale", the field of a potential): inside the methods they are then traced values.
    """

    controls: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def init(self, key: Key) -> Params:
        """A draw to start a chain from: from the prior wherever the prior can be sampled."""

    @abc.abstractmethod
    def log_prior(self, params: Params) -> Scalar:
        """log phi(w), normalised when possible (absolute free energies need it)."""

    @abc.abstractmethod
    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        """log p(z_i|w) of every sample of the batch, never summed: everything else derives from it."""

    def sample(self, key: Key, num: int) -> Batch:
        """`num` independent draws from the true distribution, leading axis `num`."""
        raise InputError("data", None, f"{type(self).__name__} has no true distribution to sample from: give data")

    def compress(self, batch: Batch, count: Any) -> Batch | None:
        """Fewer samples whose log-likelihood adds up as that of the first `count` does, but for a constant; or None.

        Where there are such (linear models with Gaussian noise: see `linear_rows`) samplers on the full data take them
        in place of it; minibatches and all that needs single samples keep to the data. `count` may be traced.
        """
        return None

    def truth(self) -> Truth | None:
        """What is known exactly of this model, or None."""
        return None

    @property
    def support(self) -> tuple[float, float] | None:
        """The box (low, high) outside which the prior of every parameter vanishes; None when there is none."""
        return None

    @property
    def is_potential(self) -> bool:
        """Whether the model is a function K(w) with density exp(-t K) phi, gridded over t instead of (n, beta)."""
        return False

    def bind(self, control: Mapping[str, Any]) -> "Model":
        """This model with controls (dotted paths of fields) replaced, traced values allowed; no validation is rerun."""
        model = self
        for path, value in control.items():
            if path not in self.controls:
                raise InputError("control", path, f"not a control of {type(self).__name__}; it has {self.controls}")
            model = _replaced(model, path.split("."), value)
        return model

    def control_value(self, path: str) -> float:
        """The present value of a control."""
        value: Any = self
        for name in path.split("."):
            value = getattr(value, name)
        return float(value)


def _replaced(tree: Any, path: list[str], value: Any) -> Any:
    new = copy.copy(tree)
    inner = value if len(path) == 1 else _replaced(getattr(tree, path[0]), path[1:], value)
    object.__setattr__(new, path[0], inner)  # not dataclasses.replace: __post_init__ cannot validate tracers
    return new


@dataclass(frozen=True)
class Potential(Model):
    """The density exp(-t K(w)) phi(w) of a function K alone; parameters are one array of shape (dim,).

    In the posterior's terms it is one sample with log-likelihood -K(w) and beta = t. `scale_note` says what K's own
    scale means (for superposition n beta = 2t at unit noise), and stands on axes.
    """

    fn: Callable[..., Scalar]
    dim: int
    prior: Prior
    control: tuple[tuple[str, float], ...] = ()
    known: Truth | None = field(default=None, compare=False)
    scale_note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.dim, int) or self.dim < 1:
            raise InputError("dim", self.dim, "a potential needs at least one parameter: give their number")
        if not isinstance(self.prior, Prior):
            raise InputError("prior", self.prior, "give an slt.Normal, slt.Uniform or another slt.priors.Prior")

    @property
    def controls(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Keyword arguments of K that may vary over a grid."""
        return tuple(name for name, _ in self.control)

    @property
    def is_potential(self) -> bool:
        return True

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support

    def bind(self, control: Mapping[str, Any]) -> "Potential":
        unknown = [name for name in control if name not in self.controls]
        if unknown:
            raise InputError("control", unknown[0], f"not a control of this potential; it has {self.controls}")
        return dataclasses.replace(self, control=tuple((k, control.get(k, v)) for k, v in self.control))

    def control_value(self, path: str) -> float:
        return float(dict(self.control)[path])

    def init(self, key: Key) -> Params:
        return self.prior.sample(key, jnp.zeros(self.dim))

    def log_prior(self, params: Params) -> Scalar:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        value = self.fn(params, **dict(self.control))
        return -jnp.broadcast_to(value, (batch.shape[0], *jnp.shape(value)))

    def sample(self, key: Key, num: int) -> Batch:
        return jnp.zeros((num, 0))

    def truth(self) -> Truth | None:
        return self.known


PRECISIONS = {"highest": "highest", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}
"""How exactly matrix products of 32-bit floats may be asked for, and what JAX calls it."""


@dataclass(frozen=True)
class Wrapped(Model):
    """`inner` in all that a subclass does not say otherwise."""

    inner: Model

    @property
    def controls(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.controls

    @property
    def support(self) -> tuple[float, float] | None:
        return self.inner.support

    @property
    def is_potential(self) -> bool:
        return self.inner.is_potential

    def init(self, key: Key) -> Params:
        return self.inner.init(key)

    def log_prior(self, params: Params) -> Scalar:
        return self.inner.log_prior(params)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        return self.inner.log_likelihood(params, batch)

    def sample(self, key: Key, num: int) -> Batch:
        return self.inner.sample(key, num)

    def truth(self) -> Truth | None:
        return self.inner.truth()

    def bind(self, control: Mapping[str, Any]) -> Self:
        return dataclasses.replace(self, inner=self.inner.bind(control))

    def control_value(self, path: str) -> float:
        return self.inner.control_value(path)


@dataclass(frozen=True)
class Rounded(Wrapped):
    """`inner`, the factors of its likelihood's matrix products rounded to 11 bits ("tf32") or 8 ("bf16").

    Only where the device multiplies faster so (not on a CPU), and only of 32-bit floats: what is computed in double
    precision stays exact, and so do the prior and whatever samplers compute themselves.
    """

    precision: str

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError("precision", self.precision, f"must be one of {', '.join(PRECISIONS)}")

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        double = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves((params, batch)))
        with jax.default_matmul_precision(PRECISIONS["highest" if double else self.precision]):
            return self.inner.log_likelihood(params, batch)

    def compress(self, batch: Batch, count: Any) -> Batch | None:
        return compressed(self.inner, batch, count)


def potential(
    fn: Callable[..., Scalar],
    dim: int,
    prior: Prior,
    *,
    controls: Mapping[str, float] | None = None,
    truth: Truth | None = None,
    scale_note: str = "",
) -> Potential:
    """The model exp(-t K(w)) prior(w) of a landscape K(w) on `dim` parameters.

    fn(w: f[dim], **controls) -> scalar K(w); `controls` gives its extra scalars and their default values.
    """
    return Potential(fn, dim, prior, tuple((controls or {}).items()), truth, scale_note)


def compressed(model: Model, batch: Batch, count: Any) -> Batch | None:
    """What `model.compress` gives; None where a subclass has another likelihood than the class that compresses."""
    owner = {name: next(c for c in type(model).__mro__ if name in vars(c)) for name in ("compress", "log_likelihood")}
    return model.compress(batch, count) if issubclass(owner["compress"], owner["log_likelihood"]) else None


def linear_rows(
    x: Float[Array, "b i"], y: Float[Array, "b *outputs"], count: Any
) -> tuple[Float[Array, "i i"], Float[Array, "i *outputs"]] | None:
    """i samples (x', y') with sum |y - x W|^2 = sum |y' - x' W|^2 + constant for every W, of the first `count` samples.

    x = Q R with Q orthonormal gives x' = R and y' = Q^T y: what is left of y is orthogonal to all predictions. Near the
    best W the squares of y' - x' W are small where those of y - x W are noise, so fewer digits cancel too. None where
    that is no saving: there must be at least twice as many samples as inputs.
    """
    size, inputs = x.shape
    if size < 2 * inputs:
        return None
    among = jnp.arange(size) < count
    q, r = jnp.linalg.qr(jnp.where(among[:, None], x, 0))
    return r, jnp.tensordot(q, jnp.where(among.reshape(-1, *[1] * (y.ndim - 1)), y, 0), (0, 0), precision="highest")


def check(model: Model, params: Params, batch: Batch) -> None:
    """Raise InputError where `model` breaks the contract at `params`: shapes, dtypes, a prior that is not finite.

    Traces the model's functions and evaluates only the prior.
    """
    if not isinstance(model, Model):
        raise InputError(
            "model", model, "not an slt.Model: subclass slt.Model, or use slt.from_linen, slt.potential, ..."
        )
    try:
        hash(model)
    except TypeError as error:
        raise InputError(
            "model", model, f"must be hashable ({error}): make its fields numbers, strings and tuples"
        ) from error
    sizes = {int(leaf.shape[0]) for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1:
        raise InputError("data", sorted(sizes), "all leaves of a batch need one leading axis of the same length")
    size = sizes.pop()
    try:
        found = getattr(jax.eval_shape(model.log_likelihood, params, batch), "shape", None)
    except InputError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        shapes = " and ".join(str(jax.tree.map(jnp.shape, each)) for each in (params, batch))
        cure = f"fails with parameters and data of shapes {shapes}: it must be a pure JAX function of them"
        raise InputError("log_likelihood", told, cure) from error
    if found != (size,):
        raise InputError(
            "log_likelihood", found, f"must return one value a sample, shape ({size},): do not sum or average"
        )
    prior = jax.eval_shape(model.log_prior, params)
    if getattr(prior, "shape", None) != ():
        raise InputError("log_prior", getattr(prior, "shape", None), "must return a scalar: sum over all parameters")
    value = float(jax.jit(model.log_prior)(params))
    if not jnp.isfinite(value):
        raise InputError(
            "log_prior", value, "is not finite at the start: start inside the prior's support, or widen the prior"
        )
