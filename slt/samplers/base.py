"""The sampler contract: a frozen dataclass of hyperparameters that, called with a posterior, gives an algorithm."""

import abc
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Array

from slt.posterior import Position, Posterior
from slt.typing import InputError, Key, Scalar

State = Any
"""A pytree with a field or property `position`."""


class Info(NamedTuple):
    """What one step tells.

    delta: L_n(w) - L_n(w_ref) at the *new* position where the step knows it from its own passes (an estimate on
    minibatches), else None and an observable computes it per draw; acceptance: probability, None if unadjusted;
    diagnostics: anything else by name, arrays of fixed shape.
    """

    delta: Scalar | None = None
    acceptance: Scalar | None = None
    diagnostics: dict[str, Array] = {}  # noqa: RUF012  (a NamedTuple default, never mutated)


class Algorithm(NamedTuple):
    """BlackJAX's SamplingAlgorithm (init, step) with two optional parts.

    init(position, key) -> State; step(key, state) -> (State, Info);
    adapt(state, info) -> state: tuning, which the engine calls after each step of burn-in and never later;
    relocate(state, position) -> state: the state moved elsewhere, what was tuned kept (replica exchange needs it).
    """

    init: Callable[[Position, Key], State]
    step: Callable[[Key, State], tuple[State, Info]]
    adapt: Callable[[State, Info], State] | None = None
    relocate: Callable[[State, Position], State] | None = None


@dataclasses.dataclass(frozen=True)
class Sampler(abc.ABC):
    """Base of all samplers. Register subclasses with `@sampler`: numbers become leaves, a new value never recompiles.

    exact: no bias from the step size. coupled: the name of the grid coordinate along which this sampler couples cells
    into ladders (then it is called with a posterior whose leaves have a leading axis of rungs), else None.
    """

    exact: ClassVar[bool] = False

    @property
    def coupled(self) -> str | None:
        """Grid coordinate along which cells are coupled, or None."""
        return None

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Names in Info.diagnostics that a run stores per draw."""
        return ()

    @property
    def wants_reference_grad(self) -> bool:
        """Whether posteriors must be built with the full gradient at the centre."""
        return False

    def check(self) -> None:
        """Raise InputError where a hyperparameter cannot be used. Called on the host, before any compute."""

    @abc.abstractmethod
    def __call__(self, posterior: Posterior) -> Algorithm:
        """The algorithm that samples this posterior."""


T = TypeVar("T", bound=type[Sampler])


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def sampler(cls: T) -> T:
    """Class decorator: a frozen dataclass that is a pytree, numbers as leaves, fields made by `static` as structure."""
    frozen = dataclasses.dataclass(frozen=True)(cls)
    jax.tree_util.register_dataclass(frozen)
    return frozen


def static(default: Any) -> Any:
    """A field that is part of the program, not a traced number: kinds, counts, flags."""
    return dataclasses.field(default=default, metadata={"static": True})


def positive(name: str, value: Any, cure: str = "must be positive") -> None:
    """InputError unless value > 0 (NaN fails too)."""
    if not value > 0:
        raise InputError(f"sampler.{name}", value, cure)


@sampler
class Langevin(Sampler):
    """Base of the unadjusted samplers: gradients on the full batch or on minibatches.

    step_size: epsilon in BlackJAX's convention for overdamped Langevin, w' = w + eps grad + sqrt(2 eps) noise; the
      epsilon of papers and of devinterp is twice that. Underdamped samplers take the time step dt = sqrt(2 eps), so
      that one step moves about as far.
    per_nbeta: when True the step is eps = step_size / (1 + gamma + n beta), so that one setting serves a sweep.
    batch_size: None for the full batch, else samples a minibatch (uniform with replacement, own for every chain).
    control_variate: minibatch differences to the gradient at the centre (two passes, far less noise near it).
    """

    step_size: float = 1e-3
    per_nbeta: bool = static(default=False)
    batch_size: int | None = static(default=None)
    control_variate: bool = static(default=False)

    @property
    def wants_reference_grad(self) -> bool:
        return self.control_variate

    def check(self) -> None:
        positive("step_size", self.step_size)
        if self.batch_size is not None:
            positive("batch_size", self.batch_size, "must be a positive number of samples, or null for the full batch")
        elif self.control_variate:
            raise InputError(
                "sampler.control_variate", True, "only with minibatches: set sampler.batch_size, or turn it off"
            )

    def epsilon(self, posterior: Posterior) -> Scalar:
        """The step in BlackJAX's convention at this posterior."""
        eps = jnp.asarray(self.step_size, posterior.beta.dtype)
        return eps / (1 + posterior.gamma + posterior.nbeta) if self.per_nbeta else eps

    def gradient(self, posterior: Posterior) -> Callable[[Position, Key], tuple[Scalar, Position]]:
        """(position, key) -> (delta, gradient of log_density), exact on the full batch, unbiased on minibatches."""
        if self.batch_size is None:
            return lambda position, _: posterior.value_and_grad(position)
        size, control_variate = self.batch_size, self.control_variate
        return lambda position, key: posterior.estimate(position, key, size, control_variate)

    def split(self, key: Key) -> tuple[Key, Key]:
        """(noise key, minibatch key) of one step; the full batch draws no minibatch, so its key need not be split."""
        if self.batch_size is None:
            return key, key
        noise_key, batch_key = jax.random.split(key)
        return noise_key, batch_key


def normal_like(key: Key, tree: Position) -> Position:
    """Standard normal noise of the shapes and dtypes of `tree`.

    Small trees in one draw, of whole blocks of 32 beyond 8 numbers: on CPU that takes half to a third of the time.
    """
    leaves, treedef = jax.tree.flatten(tree)
    total, dtypes = sum(leaf.size for leaf in leaves), {leaf.dtype for leaf in leaves}
    if total > 4096 or len(dtypes) > 1:
        keys = jax.random.split(key, len(leaves)) if len(leaves) > 1 else [key]
        drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(treedef, drawn)
    flat = jax.random.normal(key, (total if total <= 8 else -(-total // 32) * 32,), dtypes.pop())
    ends = itertools.accumulate(leaf.size for leaf in leaves)
    drawn = [flat[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def reflect(posterior: Posterior, position: Position) -> tuple[Position, Position]:
    """(position folded back into the prior's box, +1/-1 factors for velocities): exact for reflected diffusions."""
    box = posterior.model.support
    if box is None:
        return position, jax.tree.map(jnp.ones_like, position)
    low, high = box
    width = high - low

    def fold(x: Array) -> tuple[Array, Array]:
        phase = jnp.mod(x - low, 2 * width)
        back = phase > width
        return jnp.clip(low + jnp.where(back, 2 * width - phase, phase), low, high), jnp.where(back, -1.0, 1.0).astype(
            x.dtype
        )

    leaves, treedef = jax.tree.flatten(position)
    folded = [fold(leaf) for leaf in leaves]
    return jax.tree.unflatten(treedef, [x for x, _ in folded]), jax.tree.unflatten(treedef, [s for _, s in folded])
