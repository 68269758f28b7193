"""slt: Bayesian phase transitions of singular models, sampled, measured and drawn.

The names below are the public interface. They are imported on first use, so that `slt --help` need not load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slt.adapters import from_linen, from_nnx, from_numpyro
    from slt.analysis import summarise
    from slt.analysis.changes import change_points
    from slt.cells import Cell, grid
    from slt.drivers import sweep
    from slt.dynamics import Trajectories, train
    from slt.engine import Schedule, Start, prepare, run
    from slt.measure.barrier import barrier
    from slt.measure.criteria import criteria
    from slt.measure.discovery import discover
    from slt.measure.equations_of_state import equations_of_state
    from slt.measure.evidence import Budget
    from slt.measure.free_energy import free_energy, phase_free_energies
    from slt.measure.hysteresis import hysteresis
    from slt.measure.line import line
    from slt.measure.llc import llc
    from slt.measure.transition import repeated, scaling, transition
    from slt.model import Model, Truth, potential
    from slt.observables import Observable, log_mean_exp, mean, trace
    from slt.phases import Basin, Phases
    from slt.posterior import Posterior, Restriction
    from slt.priors import Categorical, Flat, Gaussian, Normal, Uniform
    from slt.results import compare, load
    from slt.typing import Estimate, InputError, Status

__version__ = "0.1.0"

__all__ = [
    "Basin",
    "Budget",
    "Categorical",
    "Cell",
    "Estimate",
    "Flat",
    "Gaussian",
    "InputError",
    "Model",
    "Normal",
    "Observable",
    "Phases",
    "Posterior",
    "Restriction",
    "Schedule",
    "Start",
    "Status",
    "Trajectories",
    "Truth",
    "Uniform",
    "__version__",
    "barrier",
    "change_points",
    "compare",
    "criteria",
    "discover",
    "equations_of_state",
    "free_energy",
    "from_linen",
    "from_nnx",
    "from_numpyro",
    "grid",
    "hysteresis",
    "line",
    "llc",
    "load",
    "log_mean_exp",
    "mean",
    "phase_free_energies",
    "potential",
    "prepare",
    "repeated",
    "run",
    "scaling",
    "summarise",
    "sweep",
    "trace",
    "train",
    "transition",
]

# Public name -> the module of slt that defines it.
_HOME = {
    "Basin": "phases",
    "Budget": "measure.evidence",
    "Categorical": "priors",
    "Cell": "cells",
    "Estimate": "typing",
    "Flat": "priors",
    "Gaussian": "priors",
    "InputError": "typing",
    "Model": "model",
    "Normal": "priors",
    "Observable": "observables",
    "Phases": "phases",
    "Posterior": "posterior",
    "Restriction": "posterior",
    "Schedule": "engine",
    "Start": "engine",
    "Status": "typing",
    "Trajectories": "dynamics",
    "Truth": "model",
    "Uniform": "priors",
    "barrier": "measure.barrier",
    "change_points": "analysis.changes",
    "compare": "results",
    "criteria": "measure.criteria",
    "discover": "measure.discovery",
    "equations_of_state": "measure.equations_of_state",
    "free_energy": "measure.free_energy",
    "from_linen": "adapters",
    "from_nnx": "adapters",
    "from_numpyro": "adapters",
    "grid": "cells",
    "hysteresis": "measure.hysteresis",
    "line": "measure.line",
    "llc": "measure.llc",
    "load": "results",
    "log_mean_exp": "observables",
    "mean": "observables",
    "phase_free_energies": "measure.free_energy",
    "potential": "model",
    "prepare": "engine",
    "repeated": "measure.transition",
    "run": "engine",
    "scaling": "measure.transition",
    "summarise": "analysis",
    "sweep": "drivers",
    "trace": "observables",
    "transition": "measure.transition",
    "train": "dynamics",
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
