"""Local learning coefficient and heat capacity from loss traces: draws on the last axis, chains before it, axes in
front batch.

L_n is the loss per sample, w_ref the point against which losses are traced (differences keep float32 honest), w* the
baseline, n beta = t. Estimates of several cells come from one call: n beta and the baseline broadcast against [...].
"""

from typing import Any

import numpy as np

from slt.estimators import diagnostics
from slt.typing import Estimate, InputError


def _number(field: str, value: Any, shape: tuple[int, ...], least: float = -np.inf) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(array) & (array >= least)).all():
        raise InputError(
            field, value, "give finite numbers" if least == -np.inf else f"give finite numbers >= {least:g}"
        )
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise InputError(field, array.shape, f"its shape must broadcast to {shape}") from None


def llc(
    delta: Any, nbeta: Any, baseline: Any = 0.0, baseline_stderr: Any = 0.0, ok: Any = None, keep: Any = None
) -> Estimate:
    """lambda_hat = n beta (E[L_n(w)] - L_n(w*)) of Lau et al. (arXiv 2308.12108), as an Estimate [...].

    `delta` [..., chain, draw] is L_n(w) - L_n(w_ref); `baseline` [...] is L_n(w*) - L_n(w_ref) with
    `baseline_stderr`, both 0 where w_ref is w* and L_n the full-data loss; `ok` bool [..., chain] names the chains
    that count and `keep` bool [..., chain, draw] the draws. The error counts autocorrelation and the spread of chains
    (`diagnostics.mean`), and the baseline's own noise, taken as independent of the draws.

    At finite n beta the target is t (<L_n> - L_n(w*)), not lambda. A negative value is a finding: w* is no minimum.
    """
    delta, use = diagnostics.checked(delta, ok, keep, "delta")
    mean = diagnostics.mean(delta, keep=use)
    shape = np.shape(mean.value)
    scale = _number("nbeta", nbeta, shape, 0.0)
    noise = _number("baseline_stderr", baseline_stderr, shape, 0.0)
    value = scale * (mean.value - _number("baseline", baseline, shape))
    return Estimate(value, scale * np.hypot(mean.stderr, noise), mean.ess)


def llc_by_phase(
    delta: Any,
    labels: Any,
    count: int,
    nbeta: Any,
    baseline: Any = 0.0,
    baseline_stderr: Any = 0.0,
    ok: Any = None,
) -> Estimate:
    """`llc` [..., phase] of each phase 0 .. count - 1 from its own draws alone; `labels` like `delta`, -1 for none.

    `nbeta` broadcasts against [...], `baseline` and its error against [..., phase]: each phase may have its own w*. The
    value is that of the posterior restricted to the region whether or not chains move between phases. NaN where no draw
    lies in the phase.
    """
    delta, use = diagnostics.checked(delta, ok, field="delta")
    shape = (*delta.shape[:-2], count)
    labels = diagnostics.labelled(labels, count, delta.shape)
    offset, noise = _number("baseline", baseline, shape), _number("baseline_stderr", baseline_stderr, shape, 0.0)
    return diagnostics.stacked(
        llc(delta, nbeta, offset[..., phase], noise[..., phase], keep=use & (labels == phase)) for phase in range(count)
    )


def heat_capacity(delta: Any, nbeta: Any, ok: Any = None, keep: Any = None) -> Estimate:
    """C(t) = t^2 Var_t(K) = -t^2 d<K>/dt as an Estimate [...], from K up to a constant: `delta` [..., chain, draw].

    t = n beta; arguments as in `llc`. The variance is about the mean of all draws that count, so that phases with
    different losses add theirs; its error is that of the mean of (K - mean)^2 (the mean's own error is of second order,
    and the bias -1/ESS of the value is a tenth of the error at an ESS of 50).
    """
    delta, use = diagnostics.checked(delta, ok, keep, "delta")
    centre = np.asarray(diagnostics.mean(delta, keep=use).value)
    square = diagnostics.mean(np.square(np.where(use, delta, 0.0) - np.nan_to_num(centre)[..., None, None]), keep=use)
    scale = np.square(_number("nbeta", nbeta, centre.shape, 0.0))
    return Estimate(scale * square.value, scale * square.stderr, square.ess)


def extrapolate(t: Any, lam: Estimate, heat: Estimate | None = None) -> Estimate:
    """lambda by extrapolation of lam(t) = lambda - a/log t (a = m - 1 at leading order) over a ladder of t.

    `t` [k] increasing; `lam` and `heat` (the heat capacities) Estimates [k]. Weighted least squares; the error counts
    the scatter about the fit and the difference from a fit to the upper half of the ladder. InputError where the
    ladder cannot tell: fewer than 4 values, less than a factor 30 of t, a poor fit, or a heat capacity far from lam(t)
    at the largest t (no plateau: a transition, or a tail that is still being learned).
    """
    t, value, error = (np.asarray(part, np.float64) for part in (t, lam.value, lam.stderr))
    if t.ndim != 1 or t.size < 4 or np.any(np.diff(t) <= 0) or t[0] <= 1 or t[-1] < 30 * t[0]:
        raise InputError("t", t, "an asymptote needs at least 4 increasing values above 1, over a factor of 30 or more")
    columns = np.stack([np.ones_like(t), -1 / np.log(t)], axis=-1)
    found, spread, misfit = _fitted(columns, value, error)
    if misfit > 4:
        raise InputError("lam(t)", value, f"is not on its asymptote (chi^2 of {misfit:.3g} a degree): go to larger t")
    if heat is not None:
        gap = float(np.asarray(heat.value)[-1] - value[-1])
        noise = float(np.hypot(np.asarray(heat.stderr)[-1], error[-1]))
        if abs(gap) > max(0.15 * abs(value[-1]), 4 * noise):
            cure = f"no plateau at t = {t[-1]:g}: the heat capacity differs by {gap:.3g}; go to larger t"
            raise InputError("lam(t)", value[-1], cure)
    upper = slice(-max(3, t.size // 2), None)
    other, _, _ = _fitted(columns[upper], value[upper], error[upper])
    return Estimate(np.asarray(found[0]), np.asarray(np.hypot(np.sqrt(spread[0, 0]), found[0] - other[0])))


def _fitted(columns: np.ndarray, value: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(coefficients, their covariance with the scatter counted, chi^2 a degree of freedom)."""
    scaled, target = columns / error[:, None], value / error
    covariance = np.linalg.inv(scaled.T @ scaled)
    found = covariance @ scaled.T @ target
    misfit = float(np.square(target - scaled @ found).sum() / max(1, value.size - found.size))
    return found, covariance * max(1.0, misfit), misfit
