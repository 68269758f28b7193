"""Free energies from ladders of replicas: F(t) = -log E_prior[exp(-t K)], by three routes from the same draws.

`energies` [..., ladder, rung, draw] are values of K (any constant in it is kept) under exp(-t K) prior at `t` [...,
ladder, rung], which increases along the rungs from t = 0, the normalised prior, so that F(0) = 0. Ladders tune
themselves: their rungs differ, but each value of `at` is a rung of every ladder. Ladders are independent; within one,
the rungs may be correlated (swaps), and draw i of all rungs belongs to one moment.

All routes are linearised: each draw index i contributes Z_i, summed over rungs, such that F is the mean of Z and its
fluctuation that of F to first order. The error is then that of `diagnostics.mean` with ladders for chains:
autocorrelation, correlation of rungs and the spread of ladders all count. With 8 ladders or more that is the spread
of ladders over sqrt(their number), at least the error within; with a single ladder it is the asymptotic (sandwich)
error.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from slt.estimators import diagnostics
from slt.typing import Estimate, InputError


class _Ladders(NamedTuple):
    """Checked input, flattened to one batch axis."""

    energies: Float[np.ndarray, "batch ladder rung draw"]
    t: Float[np.ndarray, "batch ladder rung"]
    rung: np.ndarray
    "which rung [batch, ladder, at] each value asked for is"
    ok: Bool[np.ndarray, "batch ladder"]
    shape: tuple[int, ...]


class _Route(NamedTuple):
    """Contributions of each draw index to F, [batch, at, ladder, draw], and an error [batch, at] apart."""

    series: np.ndarray
    bias: np.ndarray


def thermodynamic(energies: Any, t: Any, at: Any, ok: Any = None) -> Estimate:
    """Thermodynamic integration F(t) = int_0^t <K> dt at each of `at`, as an Estimate [..., at].

    `energies`, `t` as described above; `at` [at], each a rung of every ladder; `ok` bool [..., ladder], the ladders
    that count.

    The integral runs over u = log(t + s), s = <K>_0/Var_0(K), in which a regular or singular posterior, <K> =
    lambda/(t + s), is constant, by the corrected trapezoidal (cubic Hermite) rule: with g = dF/du = (t + s)<K> and g'
    = g - (t + s)^2 Var(K), both known at the rungs, h (g_0 + g_1)/2 + h^2 (g_0' - g_1')/12, of error h^5 g''''/720. K
    is taken from its least value, whose part of F is exact. This rule is the mean of two quadratic ones that know the
    slope at one end only; half their difference, h/6 (g_1 - g_0 - h (g_0' + g_1')/2), is of order h^4 and grows
    wherever the rungs do not resolve a transition. Its mean over ladders, less what their noise contributes, summed
    over the intervals in quadrature, is the quadrature error that joins the statistical one
    (measured: the true one is below twice this).
    """
    data = _checked(energies, t, at, ok)
    return _estimate(data, _thermodynamic(data))


def mbar(energies: Any, t: Any, at: Any, ok: Any = None) -> Estimate:
    """Multistate reweighting (MBAR, Shirts and Chodera 2008) of each ladder's draws, as an Estimate [..., at].

    Arguments as for `thermodynamic`. It has no quadrature error and the smaller statistical one (by a third in the
    tests): the value to report. It needs neighbouring rungs that overlap: NaN where those of some ladder do not. As F
    is a log, its bias is about half its variance in a single ladder.
    """
    data = _checked(energies, t, at, ok)
    return _estimate(data, _mbar(data))


def pooled(energies: Any, t: Any, at: Any, ok: Any = None) -> Estimate:
    """`mbar` of the draws of all ladders as one sample, for ladders that share their rungs; an Estimate [..., at].

    F is a log, so that of many draws together is less biased than the mean of each ladder's: where basins are found by
    few ladders, or few draws a ladder, this is the one to use. The error is linearised as that of `mbar`, with ladders
    for chains. InputError where rungs differ.
    """
    data = _shared(_checked(energies, t, at, ok))
    batch, ladders, levels, draws = data.energies.shape
    series = np.zeros((batch, data.rung.shape[-1], ladders, draws))
    for b in np.flatnonzero(data.ok.any(-1)):
        keep = data.ok[b]
        together = data.energies[b, keep].swapaxes(0, 1).reshape(levels, -1)
        shares = _reweighted(together, data.t[b, keep.argmax()]).reshape(levels, keep.sum(), draws)
        series[b][:, keep] = shares[data.rung[b, keep.argmax()]]
    return _estimate(data, _Route(series, np.zeros(series.shape[:2])))


def stepping_stones(energies: Any, t: Any, at: Any, ok: Any = None) -> Estimate:
    """Z_k+1/Z_k = E_k[exp(-(t_k+1 - t_k) K)] (Xie et al. 2011), of the draws of all ladders as one sample, summed up.

    Arguments, error and what is raised as for `pooled`. It looks one way only, so that its error is above MBAR's and
    its largest weights tell where rungs are too far apart.
    """
    data = _shared(_checked(energies, t, at, ok))
    batch, ladders, _, draws = data.energies.shape
    series = np.zeros((batch, data.rung.shape[-1], ladders, draws))
    for b in np.flatnonzero(data.ok.any(-1)):
        keep, first = data.ok[b], data.ok[b].argmax()
        exponents = -np.diff(data.t[b, first])[:, None] * data.energies[b, keep, :-1]  # [ladder, rung, draw]
        level = _log_mean(exponents.swapaxes(0, 1).reshape(exponents.shape[1], -1))[:, None]
        moved = np.cumsum(level + np.expm1(exponents - level), axis=1)
        shares = np.concatenate([np.zeros_like(moved[:, :1]), moved], axis=1)
        series[b][:, keep] = -shares[:, data.rung[b, first]].swapaxes(0, 1)
    return _estimate(data, _Route(series, np.zeros(series.shape[:2])))


def difference(energies: Any, t: Any, at: Any, ok: Any = None) -> Estimate:
    """`thermodynamic` minus `mbar` with the error of the difference, as an Estimate [..., at]; z tests their agreement.

    The routes share their draws, so the difference is known far better than either: it is taken ladder by ladder and
    draw by draw. The quadrature error of the first counts.
    """
    data = _checked(energies, t, at, ok)
    one, other = _thermodynamic(data), _mbar(data)
    return _estimate(data, _Route(one.series - other.series, np.hypot(one.bias, other.bias)))


def agree(a: Estimate, b: Estimate) -> Float[np.ndarray, "*batch"]:
    """z = (a - b)/sqrt(stderr_a^2 + stderr_b^2) of two *independent* estimates, such as two seeds; 0 where both are
    exact.

    For two routes from the same draws use `difference`: their errors are not independent.
    """
    gap = np.asarray(a.value, np.float64) - np.asarray(b.value, np.float64)
    error = np.hypot(np.asarray(a.stderr, np.float64), np.asarray(b.stderr, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((gap == 0) & (error == 0), 0.0, gap / error)


def _checked(energies: Any, t: Any, at: Any, ok: Any) -> _Ladders:
    energies = np.asarray(energies, np.float64)
    if energies.ndim < 3 or 0 in energies.shape or energies.shape[-2] < 2:
        raise InputError(
            "energies", energies.shape, "give an array with axes (..., ladder, rung, draw), at least two rungs"
        )
    shape, (ladders, rungs, draws) = energies.shape[:-3], energies.shape[-3:]
    try:
        t = np.broadcast_to(np.asarray(t, np.float64), energies.shape[:-1]).reshape(-1, ladders, rungs)
        ok = np.broadcast_to(np.ones((), bool) if ok is None else np.asarray(ok, bool), energies.shape[:-2])
    except ValueError:
        cure = f"their shapes must broadcast to {energies.shape[:-1]} and {energies.shape[:-2]}"
        raise InputError("t, ok", (t, ok), cure) from None
    ok = ok.reshape(-1, ladders)
    t = np.where(ok[..., None], t, np.arange(rungs))  # a broken ladder may have broken rungs; it counts nowhere
    used = t[ok]
    if not ((used[:, 0] == 0).all() and np.isfinite(used).all() and (np.diff(used) > 0).all()):
        raise InputError("t", used, "must increase along the rungs of every ladder from t = 0, the prior, where F is 0")
    at = np.atleast_1d(np.asarray(at, np.float64))
    distance = np.abs(t[..., None, :] - at[:, None])
    missing = np.any(~(distance[ok].min(-1) <= 1e-5 * at), axis=0)
    if np.any(missing):
        raise InputError("at", at[missing], "each value asked for must be a rung of every ladder")
    flat = energies.reshape(-1, ladders, rungs, draws)
    diagnostics.checked(flat.reshape(-1, ladders, rungs * draws), ok, field="energies")
    return _Ladders(np.where(ok[..., None, None], flat, 0.0), t, distance.argmin(-1), ok, shape)


def _shared(data: _Ladders) -> _Ladders:
    """The same, with InputError where the rungs of ladders differ."""
    pairs = list(zip(data.t, data.ok, strict=True))
    if any(np.ptp(own[keep], axis=0).any() for own, keep in pairs if keep.any()):
        raise InputError("t", "differs from ladder to ladder", "draws pool only at the same rungs: use mbar")
    return data


def _estimate(data: _Ladders, route: _Route) -> Estimate:
    count = np.broadcast_to(data.ok[:, None], route.series.shape[:-1])
    failed = np.any(count & ~np.isfinite(route.series).all(-1), axis=-1, keepdims=True)
    mean = diagnostics.mean(np.where(failed[..., None], 0.0, route.series), ok=count)
    shape = (*data.shape, data.rung.shape[-1])
    numbers = (mean.value, np.hypot(np.asarray(mean.stderr), route.bias), mean.ess)
    return Estimate(*(np.where(failed[..., 0], np.nan, np.asarray(each)).reshape(shape) for each in numbers))


def _thermodynamic(data: _Ladders) -> _Route:
    energies, t, rung, ok, _ = data
    counted = np.where(ok[..., None, None], energies, np.inf)
    least = counted.min((-3, -2, -1), initial=np.inf)
    least = np.where(np.isfinite(least), least, 0.0)
    above = energies - least[:, None, None, None]
    mean, variance = above.mean(-1), above.var(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, spread = (np.where(ok, values[..., 0], 0.0).sum(-1) for values in (mean, variance))
        shift = np.where((first > 0) & (spread > 0), first / spread, 1.0)

    scale = t + shift[:, None, None]
    steps = np.diff(np.log(scale))
    rungs = np.arange(t.shape[-1])
    below = rung[..., None] > rungs[:-1]  # [batch, ladder, at, interval]: intervals below each value asked for
    width = np.where(below, steps[..., None, :], 0.0)
    left = np.concatenate([width, np.zeros_like(width[..., :1])], axis=-1)
    right = np.concatenate([np.zeros_like(width[..., :1]), width], axis=-1)
    value, slope = (left + right) / 2, (left**2 - right**2) / 12  # weights of g and of g' at each rung
    linear, square = (value + slope) * scale[..., None, :], -slope * np.square(scale)[..., None, :]
    deviation = np.square(above - mean[..., None])
    series = np.einsum("blar,blrn->baln", linear, above) + np.einsum("blar,blrn->baln", square, deviation)
    series += least[:, None, None, None] * np.take_along_axis(t, rung, -1).swapaxes(1, 2)[..., None]

    height = scale * mean
    slopes = height - np.square(scale) * variance
    apart = steps / 6 * (np.diff(height) - steps * (slopes[..., :-1] + slopes[..., 1:]) / 2)
    apart = np.where(below, apart[..., None, :], 0.0) * ok[..., None, None]
    count = ok.sum(1).clip(1)[:, None, None]
    typical = apart.sum(1) / count
    noise = (np.square(apart).sum(1) / count - np.square(typical)) / (count - 1).clip(1)
    return _Route(series, np.sqrt((np.square(typical) - noise).sum(-1).clip(0)))


def _mbar(data: _Ladders) -> _Route:
    energies, t, rung, ok, _ = data
    batch, ladders, _, draws = energies.shape
    series = np.zeros((batch, rung.shape[-1], ladders, draws))
    for b, ladder in zip(*np.nonzero(ok), strict=True):
        series[b, :, ladder] = _reweighted(energies[b, ladder], t[b, ladder])[rung[b, ladder]]
    return _Route(series, np.zeros(series.shape[:2]))


def _reweighted(energies: np.ndarray, t: np.ndarray) -> np.ndarray:
    """MBAR of one ladder [rung, draw]: contributions [rung, draw] whose mean over draws is F; NaN where it fails.

    f minimises the convex mean_n log sum_k exp(f_k - t_k K_n) - mean_k f_k over all draws n, with f_0 = 0, by damped
    Newton steps whose Hessian H is taken over some 8000 draws, the gradient over all. To first order
    f - F = -H^-1 mean_i(q_i - 1/R), with q_i the responsibilities of the rungs for draw i, averaged over its R rungs.
    It fails where a group of rungs does not overlap with the others (H singular).
    """
    rungs, draws = energies.shape
    exponent = -t[:, None] * energies.ravel()
    steps = np.diff(t)[:, None]
    forward, backward = _log_mean(-steps * energies[:-1]), _log_mean(steps * energies[1:])
    f = np.concatenate([[0.0], np.cumsum((backward - forward) / 2)])

    def at(f: np.ndarray) -> tuple[float, np.ndarray]:
        weights = exponent + f[:, None]
        top = weights.max(0)
        np.exp(np.subtract(weights, top, out=weights), out=weights)
        total = weights.sum(0)
        weights /= total
        return float(np.mean(top + np.log(total)) - f.mean()), weights

    objective, weights = at(f)
    for _ in range(60):
        some = weights[1:, :: max(1, rungs * draws // 8000)]
        hessian = np.diag(some.mean(1)) - some @ some.T / some.shape[1]
        if np.linalg.cond(hessian) > 1e12:
            break
        step = np.concatenate([[0.0], np.linalg.solve(hessian, weights.mean(1)[1:] - 1 / rungs)])
        if np.abs(step).max() < 1e-7:
            share = weights.reshape(rungs, rungs, draws).mean(1)[1:]
            moved = np.linalg.solve(hessian, share - share.mean(1, keepdims=True))
            return (f - step)[:, None] - np.concatenate([np.zeros((1, draws)), moved])
        after, weights = at(f - step)
        while after > objective + 1e-12 * abs(objective) and np.abs(step).max() > 1e-6:
            step /= 2
            after, weights = at(f - step)
        f, objective = f - step, after
    return np.full((rungs, draws), np.nan)


def _log_mean(exponents: np.ndarray) -> np.ndarray:
    return special.logsumexp(exponents, axis=-1) - np.log(exponents.shape[-1])


def over_runs(log_z: Float[np.ndarray, "run ..."]) -> Estimate:
    """-log of the mean of Z over independent runs, as an Estimate [...]: Z is unbiased, its log is not.

    The error is that of the mean, to first order, with Student's quantile for few runs (`diagnostics.mean`), at least
    that of log Z averaged over as many runs as the mean of Z rests on, (sum Z)^2/sum Z^2: where log Z spreads by nats
    these are one or two, which cannot tell their error. Runs that found nothing (log Z = -inf) count as Z = 0.
    """
    log_z = np.asarray(log_z, np.float64)
    top = log_z.max(0)
    ratio = np.exp(log_z - np.where(np.isfinite(top), top, 0.0))
    mean = ratio.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = -(np.where(np.isfinite(top), top, -np.inf) + np.log(mean))
        series = np.moveaxis(ratio / mean, 0, -1)[..., None]
        carried = np.sqrt(len(ratio) * np.square(ratio).sum(0)) / ratio.sum(0)
    bad = ~np.isfinite(series).all((-1, -2))
    error = np.asarray(diagnostics.mean(np.where(bad[..., None, None], 0.0, series)).stderr)
    logs = np.moveaxis(np.where(np.isfinite(log_z).all(0), log_z, 0.0), 0, -1)[..., None]
    error = np.maximum(error, np.asarray(diagnostics.mean(logs).stderr) * np.where(bad, 1.0, carried))
    return Estimate(value, np.where(bad | (len(log_z) < 2), np.nan, error))
