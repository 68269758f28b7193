"""Models made from what others wrote: Flax networks (Linen, NNX), and NumPyro programs (slt.adapters.programs)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.adapters.programs import Frozen, Program, as_float, from_numpyro
from slt.model import Model, Truth, linear_rows
from slt.priors import Categorical, Gaussian, Normal, Prior
from slt.typing import Batch, InputError, Key, Params, Scalar

__all__ = ["Frozen", "LinenNet", "Network", "NnxNet", "Program", "Teacher", "from_linen", "from_nnx", "from_numpyro"]

Inputs = Callable[[Key, int], Any]
"""inputs(key, num) -> x: draws from the input distribution, leading axis num."""


def _spec(tree: Any) -> tuple[Any, tuple[tuple[tuple[int, ...], str], ...]]:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((tuple(jnp.shape(leaf)), str(jnp.result_type(leaf))) for leaf in leaves)


def _zeros(spec: tuple[Any, Any]) -> Any:
    treedef, leaves = spec
    return jax.tree.unflatten(treedef, [as_float(jnp.zeros(shape, dtype)) for shape, dtype in leaves])


@dataclass(frozen=True)
class LinenNet:
    """(params, x) -> prediction of a Linen module; hashable."""

    module: nn.Module
    spec: Any

    def __call__(self, params: Params, x: Any) -> Array:
        return self.module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class NnxNet:
    """(params, x) -> prediction of an NNX module, params a plain nested dict; hashable."""

    graphdef: Any
    spec: Any

    def __call__(self, params: Params, x: Any) -> Array:
        from flax import nnx  # imported here: it takes longer than the rest of slt

        return nnx.merge(self.graphdef, params)(x)


@dataclass(frozen=True)
class Teacher:
    """The true regression function: a network at fixed parameters."""

    net: Callable[[Params, Any], Array]
    params: Frozen

    def __call__(self, x: Any) -> Array:
        return self.net(self.params.tree, x)


@dataclass(frozen=True)
class Network(Model):
    """A regression or classification model y ~ likelihood(net(w, x)); a batch is (x, y).

    inputs and target give the true distribution: x = inputs(key, num), y ~ likelihood(target(x)), with the model's own
    noise. Controls: "prior.scale" and "likelihood.sigma" where there are such, and the `extra` dotted paths, such as
    "target.angle" of a frozen dataclass. linear: net is linear in x, of shape [b, inputs], and 0 at x = 0, with
    Gaussian noise: samplers on the full data then need as many rows as x has inputs.
    """

    net: LinenNet | NnxNet
    likelihood: Gaussian | Categorical
    prior: Prior
    inputs: Inputs | None = None
    target: Callable[[Any], Array] | None = None
    known: Truth | None = field(default=None, compare=False)
    extra: tuple[str, ...] = ()
    linear: bool = False

    def __post_init__(self) -> None:
        if self.linear and not isinstance(self.likelihood, Gaussian):
            raise InputError("linear", True, "only with Gaussian noise: leave it out")
        for path in self.extra:
            try:
                self.control_value(path)
            except (AttributeError, TypeError, ValueError) as error:
                raise InputError(
                    "controls", path, "must be the dotted path of a number, such as target.angle"
                ) from error

    @property
    def controls(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dotted paths of the numbers that may vary over a grid."""
        usual = (("prior", "scale"), ("likelihood", "sigma"))
        return (*(f"{part}.{name}" for part, name in usual if hasattr(getattr(self, part), name)), *self.extra)

    def init(self, key: Key) -> Params:
        return self.prior.sample(key, _zeros(self.net.spec))

    def log_prior(self, params: Params) -> Scalar:
        return self.prior.log_density(params)

    def predict(self, params: Params, x: Any) -> Array:
        """The network's output for every sample."""
        return self.net(params, x)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        x, y = batch
        return self.likelihood.log_density(self.net(params, x), y)

    def sample(self, key: Key, num: int) -> Batch:
        if self.inputs is None or self.target is None:
            return super().sample(key, num)
        input_key, noise_key = jax.random.split(key)
        x = self.inputs(input_key, num)
        return x, self.likelihood.sample(noise_key, self.target(x))

    def compress(self, batch: Batch, count: Any) -> Batch | None:
        x, y = batch
        return linear_rows(x, y, count) if self.linear else None

    def truth(self) -> Truth | None:
        return self.known

    @property
    def support(self) -> tuple[float, float] | None:
        return self.prior.support


def from_linen(
    module: nn.Module,
    example_input: Any,
    *,
    likelihood: Gaussian | Categorical | None = None,
    prior: Prior | None = None,
    inputs: Inputs | None = None,
    target: Callable[[Any], Array] | None = None,
    teacher: Params | None = None,
    truth: Truth | None = None,
    controls: Sequence[str] = (),
    linear: bool = False,
) -> Network:
    """The model y ~ likelihood(module(x)) of a Linen module; its parameters are the collection "params".

    example_input: a batch of inputs, for shapes only. likelihood: unit Gaussian noise unless given; prior: N(0, 1).
    inputs(key, num) -> x with target(x) -> noiseless prediction, or with teacher, parameters of the same module, is the
    true distribution; without them the model needs data. truth: what is known of it; the optimum is filled in from
    teacher. controls, linear: see `Network`. All of these are best frozen dataclasses or module-level functions: a
    model made twice from equal parts is then equal, and compiles once.
    """
    example = _zeros(_spec(example_input))
    with jax.numpy_dtype_promotion("standard"):  # parameters begin in the module's own dtype
        variables = jax.eval_shape(module.init, jax.random.key(0), example)
    beyond = sorted(set(variables) - {"params"})
    if beyond:
        raise InputError(
            "module", beyond, "only the collection 'params' is sampled: remove batch statistics and other state"
        )
    net = LinenNet(module, _spec(variables.get("params", {})))
    return _network(net, likelihood, prior, inputs, target, teacher, truth, controls, linear, example)


def from_nnx(
    module: Any,
    example_input: Any,
    *,
    likelihood: Gaussian | Categorical | None = None,
    prior: Prior | None = None,
    inputs: Inputs | None = None,
    target: Callable[[Any], Array] | None = None,
    teacher: Params | None = None,
    truth: Truth | None = None,
    controls: Sequence[str] = (),
    linear: bool = False,
) -> Network:
    """The model y ~ likelihood(module(x)) of an NNX module; its parameters are its `nnx.Param`s, as a nested dict.

    module: an nnx.Module, or a constructor called as module(rngs=nnx.Rngs(0)) without allocating anything. The rest as
    in `from_linen`.
    """
    from flax import nnx

    made = module if isinstance(module, nnx.Module) else nnx.eval_shape(lambda: module(rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(made, nnx.Param, ...)
    if jax.tree.leaves(rest):
        kinds = sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(rest)})
        raise InputError("module", kinds, "only nnx.Param is sampled: remove batch statistics, dropout and other state")
    net = NnxNet(graphdef, _spec(nnx.to_pure_dict(params)))
    return _network(
        net, likelihood, prior, inputs, target, teacher, truth, controls, linear, _zeros(_spec(example_input))
    )


def _network(
    net: LinenNet | NnxNet,
    likelihood: Gaussian | Categorical | None,
    prior: Prior | None,
    inputs: Inputs | None,
    target: Callable[[Any], Array] | None,
    teacher: Params | None,
    truth: Truth | None,
    controls: Sequence[str],
    linear: bool,
    example: Any,
) -> Network:
    try:
        hash(net)
    except TypeError as error:
        raise InputError(
            "module", net, f"must be hashable ({error}): make its fields numbers, strings and tuples"
        ) from error
    likelihood = Gaussian() if likelihood is None else likelihood
    prediction = jax.eval_shape(net, _zeros(net.spec), example)
    if teacher is not None:
        if target is not None:
            raise InputError("teacher", "given", "give target or teacher, not both")
        target = Teacher(net, Frozen(teacher))
        truth = truth or _realised(teacher, likelihood, prediction)
    prior = Normal() if prior is None else prior
    if linear:
        _check_linear(net, example)
    return Network(net, likelihood, prior, inputs, target, truth, tuple(controls), linear)


def _check_linear(net: LinenNet | NnxNet, example: Any) -> None:
    """InputError where the network is not linear in x and 0 at 0; tried at one random point."""
    if getattr(example, "ndim", 0) != 2:
        raise InputError("linear", True, "only where inputs are one array of shape [samples, inputs]: leave it out")
    keys = jax.random.split(jax.random.key(0), 3)
    params = Normal().sample(keys[0], _zeros(net.spec))
    a, b = (jax.random.normal(key, example.shape) for key in keys[1:])
    together, apart = net(params, a + b), net(params, a) + net(params, b)
    if not np.allclose(together, apart, rtol=1e-3, atol=1e-3 * float(jnp.max(jnp.abs(together)))):
        raise InputError("linear", True, "the module is not linear in its inputs and 0 at 0: leave it out")


def _realised(teacher: Params, likelihood: Gaussian | Categorical, prediction: jax.ShapeDtypeStruct) -> Truth:
    if not isinstance(likelihood, Gaussian):
        return Truth(params=teacher)
    outputs = int(np.prod(prediction.shape[1:]))
    entropy = outputs * (0.5 * np.log(2 * np.pi * np.e) + np.log(likelihood.sigma))
    return Truth(params=teacher, loss=float(entropy), entropy=float(entropy))
