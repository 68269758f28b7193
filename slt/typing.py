"""Names shared by every layer: array types, the outcome of a chain, an estimate with its error, bad input."""

import difflib
import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

Params = PyTree
"""A pytree of parameter arrays, in the shape the model defines."""
Batch = PyTree
"""A pytree of data arrays whose leading axis counts samples."""
Key = PRNGKeyArray
Scalar = Float[Array, ""]
Integer = Int[Array, ""]
Number = float | int | Scalar | np.floating[Any] | np.integer[Any]


class InputError(ValueError):
    """Input that cannot be used: names the field, the value found there, and the cure."""

    def __init__(self, field: str, value: object, cure: str):
        shown = repr(value)
        if len(shown) > 200:
            shown = shown[:200] + "..."
        super().__init__(f"{field} = {shown}: {cure}")
        self.field, self.value, self.cure = field, value, cure


TOO_LARGE = (MemoryError, OverflowError, jax.errors.JaxRuntimeError)
"""What is raised where an array has no room or a number no type; JAX's is of many kinds: ask `too_large`."""


def too_large(error: BaseException) -> bool:
    """Whether an error says that a number or an array was too large for this machine."""
    return isinstance(error, TOO_LARGE) and (
        not isinstance(error, jax.errors.JaxRuntimeError) or "RESOURCE_EXHAUSTED" in str(error)
    )


def nearest(name: object, known: Iterable[object], many: str = "there are") -> str:
    """'nearest is X; there are: A, B, ...', the end of a message about an unknown name."""
    names = [str(one) for one in known]
    close = difflib.get_close_matches(str(name), names, 1, 0.5)
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return (f"nearest is {close[0]!r}; " if close else "") + (f"{many}: {shown}" if names else "there are none")


class Status(enum.IntEnum):
    """How a chain stands. A chain that is not OK was frozen at its last finite draw and takes part in no estimate."""

    OK = 0
    NONFINITE_PARAMS = 1
    NONFINITE_LOSS = 2
    BROKEN_RUNG = 3

    @property
    def sentence(self) -> str:
        """What happened and what to do, for a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.OK: "ran to the end",
    Status.NONFINITE_PARAMS: (
        "its parameters became infinite or NaN: the step is too large for the curvature it met; lower sampler.step_size"
    ),
    Status.NONFINITE_LOSS: (
        "its loss became infinite or NaN at finite parameters: look at the model's log_likelihood there, "
        "or lower sampler.step_size"
    ),
    Status.BROKEN_RUNG: (
        "another rung of its ladder broke and the whole ladder was frozen with it; lower the inner sampler's step"
    ),
}


class Estimate(NamedTuple):
    """A number with its standard error; arrays of one shape, NaN where nothing could be estimated."""

    value: jax.Array | np.ndarray
    stderr: jax.Array | np.ndarray
    ess: jax.Array | np.ndarray | None = None


class Quantity(NamedTuple):
    """A named result: arrays `value` and `stderr` over the axes `coords` (name -> values, in the order of the axes).

    interval: its 90 per cent interval [..., 2] where it is no multiple of stderr; an infinite end is open.
    """

    value: np.ndarray
    stderr: np.ndarray
    coords: dict[str, list]
    interval: np.ndarray | None = None
