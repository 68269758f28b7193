"""slt: Bayesian phase transitions of singular models, sampled, measured and drawn.

The names below are the public interface. They are imported on first use, so that `slt --help` need not load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slt.typing import Estimate, InputError, Status

__version__ = "0.1.0"

__all__ = [
    "Estimate",
    "InputError",
    "Status",
    "__version__",
]

# Public name -> the module of slt that defines it.
_HOME = {
    "Estimate": "typing",
    "InputError": "typing",
    "Status": "typing",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a module of slt, when it is first asked for."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"slt.{_HOME[name]}"), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'slt' has no attribute {name!r}")
    else:
        try:
            return importlib.import_module(f"slt.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"slt.{name}":
                raise
            raise AttributeError(f"module 'slt' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
