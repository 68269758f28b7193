"""The local learning coefficient without tuning by hand: `slt.llc`.

lambda_hat = n beta (E[L_n(w)] - L_n(w*)) under exp(-n beta L_n(w)) phi(w) exp(-(gamma/2) |w - w*|^2) (Lau et al., arXiv
2308.12108). At finite n beta = t its target is lam(t) = t (<L_n> - L_n(w*)), which depends on the data, w*, gamma and
the prior; lambda is only its limit.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slt.cells import Cell, beta_text, beta_value, grid
from slt.engine import Job, Schedule, Start, prepare
from slt.measure.calibration import CHUNK, LEAPFROGS, MIDDLE, SETTLE, WATCHED, adjusted, affordable, times, unadjusted
from slt.measure.chains import Chains
from slt.measure.coefficient import Llc, report
from slt.measure.curvature import curvature
from slt.measure.losses import arrays, chosen
from slt.model import Model
from slt.posterior import Posterior, Restriction
from slt.priors import Flat, Prior
from slt.samplers.baoab import BAOAB
from slt.samplers.mcmc import HMC
from slt.typing import Batch, InputError, Params

__all__ = ["Llc", "llc"]


def llc(
    model: Model | Callable[..., Any],
    params: Params,
    data: Batch | None = None,
    *,
    beta: float | str | Sequence[float | str] = "1/log n",
    t: float | Sequence[float] | None = None,
    gamma: float = 1.0,
    prior: Prior | None = None,
    free: Params | None = None,
    batch_size: int | None = None,
    error: float = 0.004,
    seconds: float = 15.0,
    chains: int | None = None,
    seed: int = 0,
) -> Llc:
    """The local learning coefficient of a model at `params`, with everything that sampling needs chosen by rule.

    model: an slt.Model; or a pure function (params, data) -> the loss of each sample [n], or their mean, a scalar; or
      (params) -> K(w) without data. params: any pytree, w*. data: leaves with one leading axis n.
    beta: inverse temperature, or several for a curve; t = n beta instead (a potential needs it).
    gamma: the localiser exp(-(gamma/2) |w - w*|^2). prior: of a function only: flat unless given; a model has its own.
    free: a pytree of bools like params, True where free (a weight-restricted coefficient); the rest stays at w*.
    batch_size: n for full batches and a Metropolis-adjusted sampler; else minibatches of this size with a control
      variate at w*, an unadjusted sampler, and extrapolation over its step. None: full batches wherever the time is
      enough for some hundred trajectories of them.
    error: the relative standard error to stop at (of lambda_hat, or of .5 where it is less); seconds: of sampling,
      compilation apart, after which to stop anyway; chains: as many as the parameters allow unless given.

    The rules: HMC whose step each chain finds by dual averaging to an acceptance of .9, drawn anew from .1 to 1.9 times
    that for every trajectory, since curvature grows away from w*; trajectories of the length that moves farthest a
    gradient, by trials on the running chains; then draws, doubled until the error is reached, the loss's R-hat is below
    1.02 and the distance stands still; their first fifth is left out. Raises InputError before any compute.
    """
    began = time.perf_counter()
    for name, value, least in (("gamma", gamma, 0), ("error", error, None), ("seconds", seconds, None)):
        if not isinstance(value, int | float | np.number | jax.Array) or not (value > 0 or value == least):
            raise InputError(name, value, "must be a number, at least 0" if least == 0 else "must be a positive number")
    for name, value, least in (("seed", seed, 0), ("chains", chains, 2), ("batch_size", batch_size, 1)):
        known = value is None and name != "seed"
        if not known and (not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least):
            raise InputError(name, value, f"must be a whole number, at least {least}")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), arrays("params", params))
    made, data, n = chosen(model, params, data, prior)
    cells = temperatures(made, n, beta, t, gamma)
    if isinstance(_prior(made), Flat) and gamma <= 0:
        raise InputError("gamma", gamma, "a flat prior with no localiser is no density: give gamma > 0 or a prior")
    if batch_size is not None and made.is_potential:
        raise InputError("batch_size", batch_size, "minibatches need the loss of every sample: leave it out")
    if batch_size is not None and batch_size > n:
        raise InputError("batch_size", batch_size, f"must be at most n = {n}, which is the full batch")
    restriction = None if free is None else Restriction(free)
    size = sum(leaf.size for leaf in jax.tree.leaves(params if restriction is None else restriction.free(params)))
    chains = _chains(size, 1 if made.is_potential else n) if chains is None else int(chains)

    def chained(sampler: HMC | BAOAB) -> tuple[Job, Posterior]:
        job = prepare(
            made,
            sampler,
            cells,
            WATCHED if isinstance(sampler, HMC) else {"delta": WATCHED["delta"], "square": WATCHED["square"]},
            Schedule(draws=2**30, chains=chains, burn_in=SETTLE, chunk=CHUNK),
            key=jax.random.fold_in(jax.random.key(int(seed)), 7),
            start=Start(jax.tree.map(lambda leaf: leaf[None], params), jnp.array([False])),
            centres=[params],
            restriction=restriction,
            data=data,
        )
        return job, jax.tree.map(lambda leaf: leaf[0], job.posteriors(job.plan.buckets[0]))

    job, at = chained(HMC(leapfrogs=LEAPFROGS[MIDDLE], jitter=0.9, target=0.9))
    bad = np.flatnonzero(~np.isfinite(np.asarray(at.reference)[: 1 if made.is_potential else n]))
    if bad.size:
        raise InputError(
            "params", f"samples {bad[:10].tolist()}", "their loss is not finite at w*: look at data and w*"
        )
    if batch_size is None and not made.is_potential:
        batch_size = affordable(at, size, chains * len(cells), seconds)
    if batch_size is not None and batch_size < n:
        job, at = chained(BAOAB(per_nbeta=True, batch_size=int(batch_size), control_variate=True))
    found = curvature(at, times(cells))
    if not math.isfinite(found.gradient):  # as of a norm at 0: no gradient sampler would move from there
        job = dataclasses.replace(job, start=dataclasses.replace(job.start, jitter=1e-3))
    if isinstance(job.sampler, HMC):
        drawn = adjusted(Chains(job), job.sampler, cells, error, seconds)
    else:
        assert isinstance(job.sampler, BAOAB)  # noqa: S101
        drawn = unadjusted(Chains(job), job.sampler, cells, found, error, seconds)
    return report(drawn, cells, n, found, time.perf_counter() - began)


def _prior(model: Model) -> Prior | None:
    return getattr(model, "prior", None)


def temperatures(model: Model, n: int, beta: Any, t: Any, gamma: float) -> list[Cell]:
    """The cells of `llc`: n samples at every beta, or t = n beta, that is asked for. InputError for what is none."""
    if t is None and model.is_potential and n == 1:
        raise InputError("t", None, "a potential needs t, the factor on K(w)")
    if t is None:
        beta = np.asarray(beta).tolist() if isinstance(beta, np.ndarray | jax.Array) else beta
        labels = list(beta) if isinstance(beta, Sequence) and not isinstance(beta, str) else [beta]
        values = [beta_value(label, n) for label in labels]
        if model.is_potential:
            return grid(model, t=[n * value for value in values], gamma=gamma)
        return grid(model, n=n, beta=[beta_text(label) for label in labels], gamma=gamma)
    if beta != "1/log n":
        raise InputError("beta", beta, "give beta or t = n beta, not both")
    try:
        times = np.atleast_1d(np.asarray(t, float)).tolist()
    except (TypeError, ValueError):
        raise InputError("t", t, "give a number, or several") from None
    return grid(model, t=times, gamma=gamma) if model.is_potential else _at(grid(model, n=n, gamma=gamma)[0], times)


def _at(cell: Cell, times: list[float]) -> list[Cell]:
    if not all(value >= 0 and math.isfinite(value) for value in times):
        raise InputError("t", times, "must be finite and at least 0")
    return [dataclasses.replace(cell, beta=value / cell.n, beta_label=f"{value / cell.n:g}") for value in times]


def _chains(size: int, n: int) -> int:
    """How many chains, a power of two up to 256: as many as keep one gradient of all of them some milliseconds.

    At least 32, or where a gradient of 32 takes much longer, 8.
    """
    fit, least = min(16384 / size, 2e7 / (6 * size * n)), 1e8 / (n * (6 * size + 50))
    return int(min(256, max(2 ** math.floor(math.log2(max(each, 1))) for each in (fit, min(max(least, 8), 32)))))
