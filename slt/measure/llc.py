"""The local learning coefficient without tuning by hand: `slt.llc`.

lambda_hat = n beta (E[L_n(w)] - L_n(w*)) under exp(-n beta L_n(w)) phi(w) exp(-(gamma/2) |w - w*|^2) (Lau et al., arXiv
2308.12108). At finite n beta = t its target is lam(t) = t (<L_n> - L_n(w*)), which depends on the data, w*, gamma and
the prior; lambda is only its limit.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slt.cells import Cell, beta_text, beta_value, grid
from slt.engine import Schedule, Start, prepare
from slt.estimators import diagnostics
from slt.estimators import llc as estimators
from slt.measure.calibration import (
    CHUNK,
    LEAPFROGS,
    MIDDLE,
    SETTLE,
    WATCHED,
    Drawn,
    adjusted,
    drift,
    rhat,
    times,
    unadjusted,
)
from slt.measure.chains import Chains
from slt.measure.curvature import Curvature, curvature
from slt.measure.losses import arrays, chosen
from slt.model import Model
from slt.posterior import Restriction
from slt.priors import Flat, Prior
from slt.samplers.baoab import BAOAB
from slt.samplers.mcmc import HMC
from slt.typing import Batch, Estimate, InputError, Params

Z90 = 1.6448536269514722
LEFT = 5.0  # nats of n beta L_n below w* at which a chain has left its basin


@dataclass(frozen=True)
class Llc:
    """A learning coefficient as measured, with what it needs to be believed. Arrays over the values of beta (or t).

    llc: lambda_hat and its standard error, which counts autocorrelation, the spread of chains and, for samplers that
    are not exact, what is left of the step's bias; low, high: the 90 per cent interval. heat_capacity:
    t^2 Var(L_n) = lambda_hat - d lambda_hat/d log t, so a plateau is where the two agree. by_log_gamma:
    d lambda_hat/d log gamma, from the covariance of the loss and |w - w*|^2.
    t: n beta; loss: L_n(w*); ess, rhat: effective draws and R-hat of the loss; drift: z of the mean distance in the
    second half of the draws against the first; lowest: n beta (min L_n - L_n(w*)) over all draws.
    curvature: gradient and Hessian of L_n at w*. flags: what is wrong, by code; verdict: the same as sentences.
    settings: what the rules chose, as fields of the sampler and schedule.
    """

    llc: Estimate
    low: np.ndarray
    high: np.ndarray
    heat_capacity: Estimate
    by_log_gamma: Estimate
    t: np.ndarray
    n: int
    beta: np.ndarray
    gamma: float
    loss: float
    ess: np.ndarray
    rhat: np.ndarray
    acceptance: np.ndarray
    drift: np.ndarray
    lowest: np.ndarray
    distance: np.ndarray
    curvature: Curvature
    flags: tuple[str, ...]
    verdict: str
    settings: dict[str, Any]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.flags

    @property
    def value(self) -> Any:
        """lambda_hat; a float where one beta was asked for."""
        return _plain(self.llc.value)

    @property
    def stderr(self) -> Any:
        """Its standard error; a float where one beta was asked for."""
        return _plain(self.llc.stderr)

    def asymptotic(self) -> Estimate:
        """lambda by extrapolation over beta: see `slt.estimators.llc.extrapolate`; InputError where it is refused."""
        return estimators.extrapolate(self.t, self.llc, self.heat_capacity)

    def __str__(self) -> str:
        rows = zip(self.t, np.atleast_1d(self.llc.value), np.atleast_1d(self.llc.stderr), strict=True)
        lines = [f"t = {t:g}: llc = {value:.4g} +- {error:.2g}" for t, value, error in rows]
        return "\n".join([*lines, self.verdict])


def _plain(values: Any) -> Any:
    return float(values[0]) if np.shape(values) == (1,) else np.asarray(values)


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
    batch_size: None for full batches and a Metropolis-adjusted sampler; else minibatches of this size with a control
      variate at w*, an unadjusted sampler, and extrapolation over its step.
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
    cells = _cells(made, n, beta, t, gamma)
    if isinstance(_prior(made), Flat) and gamma <= 0:
        raise InputError("gamma", gamma, "a flat prior with no localiser is no density: give gamma > 0 or a prior")
    if batch_size is not None and made.is_potential:
        raise InputError("batch_size", batch_size, "minibatches need the loss of every sample: leave it out")
    if batch_size is not None and batch_size > n:
        raise InputError("batch_size", batch_size, f"must be at most n = {n}; None for full batches")
    restriction = None if free is None else Restriction(free)
    size = sum(leaf.size for leaf in jax.tree.leaves(params if restriction is None else restriction.free(params)))
    chains = _chains(size, 1 if made.is_potential else n) if chains is None else int(chains)
    if batch_size is None:
        sampler: HMC | BAOAB = HMC(leapfrogs=LEAPFROGS[MIDDLE], jitter=0.9, target=0.9)
    else:
        sampler = BAOAB(per_nbeta=True, batch_size=int(batch_size), control_variate=True)
    job = prepare(
        made,
        sampler,
        cells,
        WATCHED if batch_size is None else {"delta": WATCHED["delta"], "square": WATCHED["square"]},
        Schedule(draws=2**30, chains=chains, burn_in=SETTLE, chunk=CHUNK),
        key=jax.random.fold_in(jax.random.key(int(seed)), 7),
        start=Start(jax.tree.map(lambda leaf: leaf[None], params), jnp.array([False])),
        centres=[params],
        restriction=restriction,
        data=data,
    )
    at = jax.tree.map(lambda leaf: leaf[0], job.posteriors(job.plan.buckets[0]))
    bad = np.flatnonzero(~np.isfinite(np.asarray(at.reference)[: 1 if made.is_potential else n]))
    if bad.size:
        raise InputError(
            "params", f"samples {bad[:10].tolist()}", "their loss is not finite at w*: look at data and w*"
        )
    found = curvature(at, times(cells))
    if not math.isfinite(found.gradient):  # as of a norm at 0: no gradient sampler would move from there
        job = dataclasses.replace(job, start=dataclasses.replace(job.start, jitter=1e-3))
    if isinstance(sampler, HMC):
        drawn = adjusted(Chains(job), sampler, cells, error, seconds)
    else:
        drawn = unadjusted(Chains(job), sampler, cells, found, error, seconds)
    return _report(drawn, cells, n, found, time.perf_counter() - began)


def _prior(model: Model) -> Prior | None:
    return getattr(model, "prior", None)


def _cells(model: Model, n: int, beta: Any, t: Any, gamma: float) -> list[Cell]:
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


def _report(drawn: Drawn, cells: list[Cell], n: int, found: Curvature, seconds: float) -> Llc:
    """The result from the draws, and what is wrong with it."""
    traces, ok, nbeta, gamma = drawn.traces, drawn.chains.ok, times(cells), cells[0].gamma
    delta, square = (np.where(ok[..., None], traces[name], 0.0).astype(np.float64) for name in ("delta", "square"))
    reference = np.asarray(drawn.chains.posteriors.reference, np.float64)[0][:n]
    lowest = nbeta * np.where(ok[..., None], delta, np.inf).min((1, 2))
    left = ok & (nbeta[:, None] * delta.min(2) < -LEFT - 2 * found.slope[:, None])
    few = left.sum(1) < ok.sum(1) / 2
    broken, ok = int((~ok).sum()), ok & ~(left & few[:, None])
    raw = estimators.llc(delta, nbeta, ok=ok)
    heat = estimators.heat_capacity(delta, nbeta, ok=ok)
    value = np.asarray(raw.value) + drawn.correction[0]
    stderr = np.hypot(np.asarray(raw.stderr) * (1 if not drawn.correction.any() else 2), drawn.correction[1])
    centred = [values - np.asarray(diagnostics.mean(values, ok=ok).value)[:, None, None] for values in (delta, square)]
    product = diagnostics.mean(centred[0] * centred[1], ok=ok)
    by_gamma = Estimate(*(-gamma / 2 * nbeta * np.asarray(part) for part in product[:2]))
    by_gamma = Estimate(by_gamma.value, np.abs(by_gamma.stderr))
    acceptance = traces["acceptance"] if "acceptance" in traces else np.full(delta.shape, np.nan)
    result = Llc(
        llc=Estimate(value, stderr, raw.ess),
        low=value - Z90 * stderr,
        high=value + Z90 * stderr,
        heat_capacity=heat,
        by_log_gamma=by_gamma,
        t=nbeta,
        n=n,
        beta=nbeta / n,
        gamma=gamma,
        loss=float(-reference.mean()),
        ess=np.asarray(raw.ess),
        rhat=rhat(traces, ok),
        acceptance=np.array([a[k].mean() for a, k in zip(acceptance, ok, strict=True)]),
        drift=drift(square, ok),
        lowest=np.fmin(lowest, 0),
        distance=np.sqrt(np.asarray(diagnostics.mean(square, ok=ok).value)),
        curvature=found,
        flags=(),
        verdict="",
        settings=drawn.settings,
        seconds=seconds,
    )
    precision = np.finfo(drawn.chains.posteriors.reference.dtype).eps
    blur = float(nbeta.max() * precision * np.sqrt(np.mean(np.square(reference)) / reference.size))
    wrong = dict(_wrong(result, square, ok, broken, left, blur))
    verdict = "; ".join(wrong.values()) if wrong else _fine(result)
    return dataclasses.replace(result, flags=tuple(wrong), verdict=verdict)


def _wrong(
    found: Llc, square: np.ndarray, ok: np.ndarray, broken: int, left: np.ndarray, blur: float
) -> Iterator[tuple[str, str]]:
    """(code, sentence) of each thing that is wrong."""
    value, stderr = np.asarray(found.llc.value), np.asarray(found.llc.stderr)
    if broken:
        yield "broken", f"{broken} of {ok.size} chains became infinite or NaN and count nowhere"
    if not np.any(square):
        yield "stuck", f"chains never moved from w*, where the gradient norm is {found.curvature.gradient:.3g}"
    elif not np.any(np.asarray(found.heat_capacity.value)):
        yield "constant", "the loss was the same at every draw: it does not depend on the parameters that are free"
    if blur > 0.1:
        cure = f"subtract L_n(w*) = {found.loss:.6g} from the loss, or turn on jax_enable_x64"
        yield "rounding", f"single precision resolves n beta L_n to {blur:.2g} only: {cure}"
    bent, soft = found.curvature, found.gamma + 1
    steep = (bent.slope > np.fmax(0.05 * np.abs(value), 3 * stderr)) & (bent.slope > 0.02)
    saddle = (found.t * bent.lowest < -0.5 * soft) & (bent.lowest < -1e-4 * bent.highest)
    below = (found.lowest < -np.fmax(1.0, 0.2 * np.abs(value))) & ~left.any(1)
    if np.any(steep | saddle | below):
        reason = (
            f"gradient norm {bent.gradient:.3g}, lowest curvature {bent.lowest:.3g} (highest {bent.highest:.3g}); "
            f"chains reached n beta (L_n - L_n(w*)) = {found.lowest.min():.3g}"
        )
        yield "not a minimum", f"w* is not a minimum of the loss, so the signed value is no lambda: {reason}"
    share = np.abs(np.asarray(found.by_log_gamma.value)) * math.log(2)
    cut = share > np.fmax(0.05 * np.abs(value), 3 * math.log(2) * np.asarray(found.by_log_gamma.stderr))
    if np.any(cut & (share > 0.01)):
        yield (
            "gamma",
            (
                f"soft directions are cut by gamma = {found.gamma:g}: doubling it would move the estimate by about "
                f"{-float(np.max(share)):.3g}"
            ),
        )
    if left.any():
        worst = left[np.argmax(left.sum(1))]
        few = worst.sum() < worst.size / 2
        told = "they count nowhere" if few else "the estimate is of no single basin: raise gamma"
        yield (
            "left",
            (
                f"{int(worst.sum())} of {worst.size} chains left the basin of w* for points where "
                f"n beta (L_n - L_n(w*)) = {found.lowest.min():.3g}: {told}"
            ),
        )
    if np.any(found.rhat > 1.05):
        yield "disagree", f"chains disagree (R-hat {np.nanmax(found.rhat):.3g}): the error may be too small"
    worst = found.drift[np.argmax(np.abs(found.drift))]
    if abs(worst) > 4:
        yield (
            "moving",
            f"chains still move along the degenerate set (their distance drifted by {worst:.2g} standard errors from "
            "half to half): run longer, or raise gamma",
        )
    if np.any(found.ess < 200):
        yield "ess", f"only {np.nanmin(found.ess):.0f} effective draws: run longer"


def _fine(found: Llc) -> str:
    bent = found.curvature
    share = float(np.max(np.abs(np.asarray(found.by_log_gamma.value)))) * math.log(2)
    return (
        f"healthy: w* is a minimum (gradient norm {bent.gradient:.2g}, curvature {bent.lowest:.2g} to "
        f"{bent.highest:.2g}), {np.min(found.ess):.0f} effective draws, R-hat {np.max(found.rhat):.3f}; "
        f"doubling gamma would move the estimate by {share:.2g}"
    )
