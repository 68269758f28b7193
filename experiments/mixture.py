"""How many components a posterior uses as n grows, and which number F_n, WBIC and WAIC choose on the same data sets.

The number it should show: critical_n[1->2] about 20, with its interval (truth: two Gaussians of width 1 at -0.8 and
0.8, weights sparse a priori); the third component stays unused; at n = 200 F_n chooses two on most data sets.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from scipy import optimize

from slt import plots
from slt.models.mixture import Components
from slt.transitions.predictions import Form
from slt.typing import Quantity

from . import _shared, _sizes

TRUTH, WHAT = 2, "components"
"""How many there are in the true distribution, and of what."""


def forms(model: Any) -> dict[int, Form]:
    """F to leading order of mixtures that use k components: n times the least loss of k, and lambda as if the truth
    were they, each of the others of no weight (phi/2, its prior being a^(phi-1); not known for phi above 1/2).
    """
    if not isinstance(model, Components) or model.weight_prior > 0.5:
        return {}
    spare = model.weight_prior / 2
    return {
        k: Form(least(model, k), (2 * k - 1) / 2 + (model.count - k) * spare, 1, np.nan)
        for k in range(1, model.count + 1)
    }


def least(model: Components, k: int) -> float:
    """The least excess loss of k components, by BFGS from a few starts."""
    truth = model.truth()
    loss, whole = truth.population_loss, len(model.centres)
    if loss is None or truth.entropy is None or k >= whole:
        return 0.0

    def of(w: Array) -> Array:
        idle = jnp.full(model.count - k, -30.0, w.dtype)
        return loss({"logits": jnp.concatenate([w[:k], idle]), "means": jnp.concatenate([w[k:], 0 * idle])})

    grad = jax.jit(jax.value_and_grad(of))

    def both(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = grad(jnp.asarray(w, jnp.result_type(float)))
        return float(value), np.asarray(slope, np.float64)

    rng = np.random.default_rng(0)
    starts = [np.concatenate([np.zeros(k), rng.choice(model.centres, k) + 0.3 * rng.normal(size=k)]) for _ in range(4)]
    return max(0.0, min(float(optimize.minimize(both, w, jac=True).fun) for w in starts) - truth.entropy)


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_n[k->k+1] (critical_t of the population) and its kind, what theory says of it, and the
    choices of the criteria.
    """
    found: dict[str, Quantity] = {}
    for part in plots.sweeps(run):
        prefix, own = "" if part == "main" else f"{part}.", forms(_shared.model(run, part))
        found |= {f"{prefix}{name}": quantity for name, quantity in _sizes.used(run, part, own).items()}
    found |= _sizes.kinds(run, found)
    return found | (_sizes.summary(run.measures["choice"], TRUTH) if "choice" in run.measures else {})


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found = {"in_use": _sizes.in_use(run, WHAT)}
    if "choice" in run.measures:
        data = run.measures["choice"]
        found |= {"agreement": _sizes.agreement(data, WHAT, TRUTH), "criteria": _sizes.differences(data, WHAT, TRUTH)}
    for part, data in plots.sweeps(run).items():
        prefix = "" if part == "main" else f"{part}_"
        drawn = {"traces": plots.trace_figure(data), "ladder": plots.ladder_figure(data)}
        found |= {f"{prefix}{name}": figure for name, figure in drawn.items() if figure is not None}
    return found
