"""A learning coefficient as `slt.llc` reports it: its numbers from the draws, and what is wrong with them."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt.cells import Cell
from slt.estimators import diagnostics
from slt.estimators import llc as estimators
from slt.measure.calibration import Drawn, drift, rhat, times
from slt.measure.curvature import Curvature
from slt.typing import Estimate

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


def report(drawn: Drawn, cells: list[Cell], n: int, found: Curvature, seconds: float) -> Llc:
    """The result from the draws, and what is wrong with it."""
    traces, ok, nbeta, gamma = drawn.traces, drawn.chains.ok, times(cells), cells[0].gamma
    delta, square = (np.where(ok[..., None], traces[name], 0.0).astype(np.float64) for name in ("delta", "square"))
    reference = np.asarray(drawn.chains.posteriors.reference, np.float64)[0][:n]
    least = (_smooth(delta) if "batch_size" in drawn.settings else delta).min(2)
    lowest = nbeta * np.where(ok, least, np.inf).min(1)
    left = ok & (nbeta[:, None] * least < -LEFT - 2 * found.slope[:, None])
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
    moved = np.abs(drawn.correction[0])
    if np.any(moved > np.fmax(0.1 * np.abs(value), 4 * stderr)):
        wrong["step"] = (
            f"half the step, or half its noise, changed the estimate by {moved.max():.3g}, more than can be "
            "extrapolated: give larger batches (batch_size) or more seconds"
        )
    verdict = "; ".join(wrong.values()) if wrong else _fine(result)
    return dataclasses.replace(result, flags=tuple(wrong), verdict=verdict)


def _smooth(delta: np.ndarray) -> np.ndarray:
    """Means of 64 successive draws: of one minibatch the loss may be anything."""
    count = max(1, delta.shape[2] // 64)
    return np.stack([part.mean(2) for part in np.array_split(delta, count, axis=2)], axis=2)


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
