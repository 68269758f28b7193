"""Free-energy profiles from umbrella sampling: multistate reweighting of biased draws, densities without blur, extrema.

Draws x [replicate, window, draw] of one order parameter, window k under the density p(x) exp(-B_k(x)); B_k known.
Replicates are independent; within one the windows may be correlated (exchanges), and draw i of all windows belongs to
one moment. Every result is linearised: moment i of replicate r contributes a number whose mean is the result and whose
fluctuation is that of the result to first order, so that errors are those of `diagnostics.mean` with replicates for
chains, and those of differences and integrals come from the same contributions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.polynomial import polynomial
from scipy import linalg, special

from slt.estimators import diagnostics
from slt.typing import Estimate, InputError

MOMENTS = 1000  # a replicate, that errors are taken from


class Weights(NamedTuple):
    """Outcome of `mbar`."""

    f: Float[np.ndarray, " state"]
    "-log of the normalisation of each state relative to state 0; NaN where the states do not overlap"
    series: Float[np.ndarray, "state replicate draw"]
    "contributions to f, of mean f"
    log_mixture: Float[np.ndarray, " point"]
    "log D, D = mean_k exp(f_k - B_k): the pooled draws have the density p D up to a constant"
    shares: Float[np.ndarray, "state point"]
    "responsibilities exp(f_k - B_k) / sum_j exp(f_j - B_j)"


def mbar(reduced: Float[np.ndarray, "state point"], index: Int[np.ndarray, "replicate state draw"]) -> Weights:
    """Multistate reweighting (MBAR, Shirts and Chodera 2008) of equally many draws from each of several states.

    reduced: the energies B_k of all states at a table of points; index: which point each draw is. With a point for
    every draw this is the general case (tempering: B_k = t_k K); draws of umbrellas, whose energies depend on one
    number alone, share a fine table. f minimises the convex mean_n log sum_k exp(f_k - B_k(x_n)) - mean_k f_k over all
    draws n, f_0 = 0, by damped Newton steps. To first order f - F = -H^-1 mean_i(q_i - 1/K), with q_i the
    responsibilities for moment i averaged over its K draws.
    """
    reduced, index = np.asarray(reduced, np.float64), np.asarray(index)
    if index.ndim != 3 or 0 in index.shape or reduced.ndim != 2 or len(reduced) != index.shape[1]:
        raise InputError("index", (reduced.shape, index.shape), "give (state, point) and (replicate, state, draw)")
    replicates, states, draws = index.shape
    counts = np.bincount(index.reshape(-1), minlength=reduced.shape[1]) / index.size
    seen = counts > 0
    if not np.isfinite(reduced[:, seen]).all():
        raise InputError("reduced", "not finite", "leave out replicates with broken chains")
    f, hessian = _solve(reduced[:, seen], counts[seen], _neighbours(reduced, index))
    if not np.isfinite(f).all():
        hole = np.full(reduced.shape, np.nan)
        return Weights(f, np.full((states, replicates, draws), np.nan), hole[0], hole)
    shares, log_total = _responsibilities(f, reduced)
    mean = np.zeros((states, replicates, draws))  # of the responsibilities over the draws of each moment
    for state in range(states):
        mean += shares[:, index[:, state]] / states
    deviation = (mean - mean.mean((1, 2), keepdims=True)).reshape(states, -1)
    moved = np.concatenate([np.zeros((1, deviation.shape[1])), np.linalg.solve(hessian, deviation[1:])])
    return Weights(f, f[:, None, None] - moved.reshape(mean.shape), log_total - np.log(states), shares)


def _responsibilities(f: np.ndarray, reduced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q_k = exp(f_k - B_k) / sum_j, log of that sum)."""
    q = f[:, None] - reduced
    top = q.max(0)
    np.exp(q - top, out=q)
    total = q.sum(0)
    return q / total, top + np.log(total)


def _neighbours(reduced: np.ndarray, index: np.ndarray) -> np.ndarray:
    """First guess: mean of forward and backward exponential averages between neighbours."""
    f = [0.0]
    for k in range(len(reduced) - 1):
        rise = reduced[k + 1] - reduced[k]
        here, there = -rise[index[:, k]], rise[index[:, k + 1]]
        forward, backward = (special.logsumexp(each) - np.log(each.size) for each in (here, there))
        f.append(f[-1] + (backward - forward) / 2)
    return np.array(f)


def _solve(energies: np.ndarray, weights: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    states = len(f)
    if states == 1:
        return f, np.zeros((0, 0))

    def at(f: np.ndarray) -> tuple[float, np.ndarray]:
        q, total = _responsibilities(f, energies)
        return float(weights @ total - f.mean()), q

    objective, q = at(f)
    for _ in range(100):
        mean = q @ weights
        hessian = np.diag(mean[1:]) - (q[1:] * weights) @ q[1:].T
        if not np.linalg.cond(hessian) < 1e12:
            break
        step = np.concatenate([[0.0], np.linalg.solve(hessian, mean[1:] - 1 / states)])
        if np.abs(step).max() < 1e-7:
            return f - step, hessian
        after, q = at(f - step)
        while after > objective + 1e-12 * abs(objective) and np.abs(step).max() > 1e-6:
            step /= 2
            after, q = at(f - step)
        f, objective = f - step, after
    return np.full(states, np.nan), np.eye(states - 1)


class Curve(NamedTuple):
    """F(x) = -log p(x) on the points x, p normalised over the whole range, with all that errors need."""

    x: Float[np.ndarray, " point"]
    value: Float[np.ndarray, " point"]
    stderr: Float[np.ndarray, " point"]
    mass: Float[np.ndarray, " bin"]
    "probabilities of the bins; one more at each end than points: below and above all of them"
    edges: Float[np.ndarray, " edge"]
    drawn: Float[np.ndarray, " bin"]
    "how many draws fell in each bin"
    replicates: Float[np.ndarray, "bin replicate"]
    "what each replicate contributes to F (to -log of the mass for the end bins): deviations of mean 0"

    @property
    def whole(self) -> Float[np.ndarray, " bin"]:
        """F of the points between -log of the masses of the two end bins."""
        with np.errstate(divide="ignore"):
            return np.concatenate([-np.log(self.mass[:1]), self.value, -np.log(self.mass[-1:])])


def curve(draws: Any, reduced: Callable[[np.ndarray], np.ndarray], edges: Any, table: Any) -> Curve:
    """The profile F(x) = -log p(x) at the middles of the bins `edges`, from umbrella draws [replicate, window, draw].

    reduced(x [point]) -> B_k [window, point]; table [point]: increasing places to which draws are rounded where B_k is
    concerned, so close that B_k hardly changes between them (its error is second order in the spacing).

    F = log D(x) - log rho(x) - log of the norm: the steepness of the profile lies in D, which is known at every x
    (`Weights.log_mixture`); the histogram counts only the pooled density rho, which the biases have flattened. What
    blur remains is that of rho's curvature, rho'' width^2/24 in each bin. The masses are sums of 1/D over draws and
    have none. A bin with no draw is NaN. Beyond 1000 moments a replicate, neighbours are taken together for the errors.
    """
    draws, edges, table = (np.asarray(each, np.float64) for each in (draws, edges, table))
    if draws.ndim != 3 or 0 in draws.shape or not np.isfinite(draws).all():
        raise InputError("draws", draws.shape, "give finite draws with axes (replicate, window, draw)")
    for name, places in (("edges", edges), ("table", table)):
        if places.ndim != 1 or len(places) < 2 or not (np.diff(places) > 0).all():
            raise InputError(name, places.shape, "give at least two increasing numbers")
    block = max(1, draws.shape[2] // MOMENTS)
    draws = draws[..., : draws.shape[2] // block * block]
    replicates, windows, every = draws.shape
    bins, per = len(edges) + 1, every // block
    moments = replicates * per
    index = np.searchsorted((table[1:] + table[:-1]) / 2, draws)
    x, known = (edges[1:] + edges[:-1]) / 2, reduced(table)
    weights = mbar(known, index)

    where = np.searchsorted(edges, draws, side="right")
    moment = np.arange(replicates)[:, None, None] * per + np.arange(every) // block
    tally = np.bincount((where * moments + moment).reshape(-1), minlength=bins * moments).reshape(bins, moments)
    count = tally.sum(1).astype(np.float64)
    least = weights.log_mixture[index].min()
    sums = np.bincount(where.reshape(-1), np.exp(least - weights.log_mixture[index]).reshape(-1), bins)
    total = sums.sum()
    mass = sums / total

    ends = [np.median(draws[where == b]) if count[b] else edges[i] for b, i in ((0, 0), (bins - 1, -1))]
    shares, log_d = _responsibilities(weights.f, reduced(np.concatenate([[ends[0]], x, [ends[1]]])))
    log_norm = np.log(total / draws.size) - least  # log mean 1/D, with p's own norm in it
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = np.log(count[1:-1] / draws.size / np.diff(edges))
        value = np.where(count[1:-1] > 0, log_d[1:-1] - np.log(windows) - rho + log_norm, np.nan)
        counted = np.where(count[:, None] > 0, tally * (moments / count)[:, None] - 1, np.nan)
    blocks = weights.series.reshape(windows, moments, block).mean(-1)
    series = shares.T @ (blocks - weights.f[:, None]) - counted
    series -= np.where(mass > 0, mass, 0) @ np.where(mass[:, None] > 0, series, 0)
    by_replicate = series.reshape(bins, replicates, per)
    finite = np.isfinite(by_replicate).all((-1, -2))
    stderr = np.full(bins, np.nan)
    stderr[finite] = np.asarray(diagnostics.mean(by_replicate[finite]).stderr)
    return Curve(x, value, stderr[1:-1], mass, edges, count, by_replicate.mean(-1))


class Extremum(NamedTuple):
    """Where a profile is highest or lowest, and how high it is there."""

    x: float
    value: float
    kink: bool
    "whether two branches meet there at an angle, rather than one passing through smoothly"


def extremum(
    x: np.ndarray, value: np.ndarray, stderr: np.ndarray, top: bool, drop: float = 1.0, kink: bool | None = None
) -> Extremum:
    """The maximum (top) or minimum of noisy values [point] with standard errors: of a fitted curve, not of the noise.

    The fit takes the points around the extreme one up to where the profile has changed by `drop`, at least 8 on either
    side: a polynomial of degree 4, or, if that lowers chi^2 by 16 (or as `kink` says), two of degree 3 that meet at a
    point found by a scan.
    """
    ok = np.isfinite(value) & np.isfinite(stderr) & (stderr > 0)
    x, y, error = x[ok], np.where(top, value, -value)[ok], stderr[ok]
    if len(x) < 10:
        raise InputError("x", len(x), "an extremum needs at least 10 points of the profile with draws in them")
    smooth = np.convolve(np.pad(y, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    peak = int(np.argmax(smooth))
    low, high = peak, peak
    while low > 0 and (y[low] > y[peak] - drop or peak - low < 8):
        low -= 1
    while high < len(x) - 1 and (y[high] > y[peak] - drop or high - peak < 8):
        high += 1
    x, y, weight = x[low : high + 1], y[low : high + 1], 1 / error[low : high + 1]
    level = float(y.max())
    y = y - level
    scale = max(x[-1] - x[0], np.finfo(float).tiny)
    u = (x - x[0]) / scale  # [0, 1]
    fine = np.linspace(0, 1, 401)

    def fit(design: Callable[[np.ndarray], np.ndarray], weight: np.ndarray = weight) -> tuple[float, np.ndarray]:
        columns = design(u) * weight[:, None]
        solution = np.linalg.lstsq(columns, y * weight, rcond=None)[0]
        return float(np.square(columns @ solution - y * weight).sum()), design(fine) @ solution

    def whole(u: np.ndarray) -> np.ndarray:
        return polynomial.polyvander(u, 4)

    def broken(at: float) -> Callable[[np.ndarray], np.ndarray]:
        def design(u: np.ndarray) -> np.ndarray:
            left, right = np.minimum(u - at, 0), np.maximum(u - at, 0)
            return np.stack([np.ones_like(u), *(side**p for p in (1, 2, 3) for side in (left, right))], axis=-1)

        return design

    chi, best = fit(whole)
    chosen = False
    if kink is not False and len(x) >= 14:
        around = (x[max(peak - low - 4, 1)] - x[0]) / scale, (x[min(peak - low + 4, len(x) - 2)] - x[0]) / scale
        places = np.linspace(*around, 81)
        columns = np.stack([broken(place)(u) * weight[:, None] for place in places])
        misfit = np.square(y * weight).sum() - np.square(np.linalg.qr(columns)[0].swapaxes(1, 2) @ (y * weight)).sum(1)
        which = int(np.argmin(misfit))
        if kink or misfit[which] < chi - 16:
            place = places[which]
            if 0 < which < len(places) - 1:  # the vertex of a parabola through three places
                before, here, after = misfit[which - 1 : which + 2]
                bend = before - 2 * here + after
                place += (places[1] - places[0]) * (before - after) / (2 * bend) if bend > 0 else 0.0
            fine = np.append(fine, place)
            clear = np.arange(len(u)) != np.argmin(np.abs(u - place))  # the point whose bin the kink lies in is blurred
            chosen, best = True, fit(broken(place), weight * clear)[1]
    where = int(np.argmax(best))
    highest = level + float(best[where])
    return Extremum(float(x[0] + scale * fine[where]), highest if top else -highest, chosen)


def jackknife(curve: Curve, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """statistic(F [bin]) -> [m] of the curve, with delete-one-replicate standard errors, Student's quantile in them.

    F: as `Curve.whole`.
    """
    base = curve.whole
    count = curve.replicates.shape[1]
    value = np.asarray(statistic(base), np.float64)
    left = np.stack([statistic(base - curve.replicates[:, r] / (count - 1)) for r in range(count)])
    spread = np.sqrt((count - 1) / count * np.square(left - left.mean(0)).sum(0))
    return Estimate(value, spread * special.stdtrit(count - 1, 0.975) / special.ndtri(0.975))


def smoothed(value: np.ndarray, stderr: np.ndarray) -> np.ndarray:
    """Noisy values on an even grid as the smoothest curve that fits them: Whittaker's smoother (1923) with the largest
    penalty on second differences at which chi^2 is at most the number of points (the discrepancy principle).

    Points without a value or an error are filled in.
    """
    ok = np.isfinite(value) & np.isfinite(stderr) & (stderr > 0)
    if ok.sum() < 3:
        raise InputError("value", int(ok.sum()), "give at least three values with errors")
    weight = np.where(ok, 1 / np.where(ok, np.square(stderr), 1.0), 0.0)
    y, size = np.where(ok, value, 0.0), len(value)
    second = np.diff(np.eye(size), 2, axis=0)
    penalty = second.T @ second
    bands = np.stack([np.pad(np.diag(penalty, k), (k, 0)) for k in (2, 1, 0)])  # upper, as LAPACK has it
    diagonal = np.stack([np.zeros(size), np.zeros(size), weight])

    def at(log_penalty: float) -> np.ndarray:
        return linalg.solveh_banded(diagonal + np.exp(log_penalty) * bands, weight * y)

    low, high = np.log(weight[ok].min()) - 15, np.log(weight.max()) + 25
    for _ in range(30):
        middle = (low + high) / 2
        fits = (weight * np.square(at(middle) - y)).sum() <= ok.sum()
        low, high = (middle, high) if fits else (low, middle)
    return at(low)
