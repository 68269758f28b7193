"""Local minima of each cell's own empirical loss: the baselines of learning coefficients on data."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float

from slt.engine import Job
from slt.engine.program import ONCE
from slt.posterior import Posterior
from slt.results.layout import Layout
from slt.typing import Params

PATIENCE = 20  # steps that lower the loss by nothing to speak of before a descent ends


def baselines(job: Job, layout: Layout) -> xr.Dataset:
    """The empirical minimum next to every known basin: baseline (grid..., basin) = L_n(w*) - L_n(w_ref), basin_phase.

    Where no basin is known, next to the centre alone, of no phase.
    """
    truth = job.model.truth()
    basins = () if truth is None else truth.basins
    points = {basin.name: basin.params for basin in basins} or {"centre": job.centres[0]}
    found = quench(job, points)
    grid, cells = layout.axes.grid, job.plan.grid
    tables = [found[name][0][:cells].reshape(*grid.values()) for name in points]
    about = {"long_name": "lowest L_n(w) - L_n(w_ref) next to a basin", "units": "nats per sample"}
    phases = [basin.phase for basin in basins] or [""]
    coords = {"basin": ("basin", list(points)), "basin_phase": ("basin", phases)}
    return xr.Dataset({"baseline": ((*grid, "basin"), np.stack(tables, axis=-1), about)}, coords)


def quench(job: Job, points: Mapping[str, Params], *, steps: int = 300) -> dict[str, tuple[np.ndarray, Any]]:
    """Minimise the empirical loss L_n of every cell from each named point, by L-BFGS (optax), vmapped over cells.

    At most `steps` steps; PATIENCE of them that lower L_n by less than 1e-7 nats or its millionth part end it.

    Returns, by name, delta(w*) = L_n(w*) - L_n(w_ref) [cells] and the minima w* (leaves [cells, ...]): the baseline of
    a learning coefficient on data is the minimum of the same data's loss, not the population's optimum.
    """
    cells = len(job.plan.cells)
    found: dict[str, tuple[np.ndarray, Any]] = {}
    for name, point in points.items():
        deltas, minima = np.full(cells, np.nan), None
        for bucket in job.plan.buckets:
            posteriors = job.posteriors(bucket)
            if job.plan.coupled is not None:
                posteriors = jax.tree.map(lambda leaf: jnp.concatenate(list(leaf)), posteriors)
            rows = np.array([i for row in bucket.rows for i in row])
            delta, params = _quench(posteriors, point, steps)
            deltas[rows] = np.asarray(delta, np.float64)
            if minima is None:
                minima = jax.tree.map(lambda leaf: np.zeros((cells, *leaf.shape[1:]), leaf.dtype), params)
            jax.tree.map(lambda store, leaf, r=rows: store.__setitem__(r, np.asarray(leaf)), minima, params)
        found[name] = deltas, minima
    return found


@functools.partial(jax.jit, static_argnums=2, compiler_options=ONCE)
def _quench(posteriors: Posterior, point: Params, steps: int) -> tuple[Float[Array, " cells"], Params]:
    def one(posterior: Posterior) -> tuple[Array, Params]:
        solver = optax.lbfgs(memory_size=10)
        first = posterior.position(jax.tree.map(lambda leaf, c: jnp.asarray(leaf, c.dtype), point, posterior.centre))

        def going(loop: tuple[Any, ...]) -> Array:
            return (loop[-2] < steps) & (loop[-1] < PATIENCE)

        def step(loop: tuple[Any, ...]) -> tuple[Any, ...]:
            at, state, value, grad, best, lowest, number, stale = loop
            moves, state = solver.update(grad, state, at, value=value, grad=grad, value_fn=posterior.delta)
            at = optax.apply_updates(at, moves)
            # the line search has been here: no evaluation more, and no copy of the model more to compile
            value, grad = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
            stale = jnp.where(value < lowest - 1e-7 - 1e-6 * jnp.abs(lowest), 0, stale + 1)
            best = jax.tree.map(lambda a, b: jnp.where(value < lowest, a, b), at, best)
            return at, state, value, grad, best, jnp.fmin(value, lowest), number + 1, stale

        none, (value, grad) = jnp.zeros((), jnp.int32), jax.value_and_grad(posterior.delta)(first)
        start = first, solver.init(first), value, grad, first, value, none, none
        best, lowest = jax.lax.while_loop(going, step, start)[4:6]
        return lowest, posterior.params(best)

    return jax.vmap(one)(posteriors)
