"""What kind of transition a crossing is: coexistence of two basins, a crossover, or unresolved.

A classifier alone always makes a crossing: it cuts a single hill in two. Coexistence asks that the free energy along an
order parameter rises between the two phases, by a nat at least and beyond its error, and by more than one order
parameter's account. "First order" and "continuous" are words for a limit, and need a family of systems that grows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from slt.typing import Estimate, InputError, Quantity

NATS = 1.0
"""The least barrier of a coexistence."""
BEYOND = float(stats.norm.ppf(0.95))
"""Standard errors by which a barrier must lie above or below it."""
BINS = 40
FEW = 5  # draws on top below which only a lower bound of the barrier is told
PLACES = 8  # where a phase may lie, by which its draws are measured
SHARED = 0.5 * float(np.log(2))
"""The least label entropy of a coexistence: shares of 0.11 and 0.89 have it."""


class Height(NamedTuple):
    """A barrier at the crossing, in nats: the rise of F from the shallower of two minima to the top between them.

    bound: only a lower bound is known (no draws on top). order: the order parameter or classifier it belongs to.
    """

    value: float
    stderr: float
    order: str
    bound: bool = False

    def __str__(self) -> str:
        return f"{'at least ' if self.bound else ''}{self.value:.4g} +- {self.stderr:.1g} nats ({self.order})"


class Kind(NamedTuple):
    """kind: "coexistence", "crossover" or "unresolved"; barrier: the lowest of the heights that are known, else of
    their bounds (None without any).

    label_entropy: of the posterior's shares of all phases at the crossing, in nats (log 2 where two share it evenly);
    reasons: what spoke for the kind and what against, a sentence each.
    """

    kind: str
    barrier: Height | None
    label_entropy: float | None
    reasons: tuple[str, ...]

    @property
    def quantities(self) -> dict[str, Quantity]:
        """coexistence (1, 0 for a crossover, NaN where it is unresolved), barrier and label_entropy in nats, each NaN
        where it was not measured.
        """
        told = {"coexistence": 1.0, "crossover": 0.0}.get(self.kind, np.nan)
        value, stderr = (np.nan, np.nan) if self.barrier is None else self.barrier[:2]
        entropy = np.nan if self.label_entropy is None else self.label_entropy
        rows = {"coexistence": (told, np.nan), "barrier": (value, stderr), "label_entropy": (entropy, np.nan)}
        return {name: Quantity(np.array(x), np.array(error), {}) for name, (x, error) in rows.items()}


class Scaling(NamedTuple):
    """How the barrier grows along a family: kind "first order", "continuous" or "unresolved"; its slope in the size."""

    kind: str
    slope: Estimate
    sentence: str


def classify(
    heights: Sequence[Height],
    *,
    interior: tuple[float, float] | None = None,
    masses: Any = None,
    hysteresis: Estimate | None = None,
) -> Kind:
    """The kind of a crossing from what was measured at it.

    heights: barriers by at least two order parameters or classifiers. interior: shares of the two phases' draws whose
    descent ends in their own phase: where one is low, that phase has no minimum of its own. masses: shares of all
    phases at the crossing: with an entropy below SHARED no two of them coexist. hysteresis: width of the loop between
    sweeps up and down, extrapolated to slow sweeps (`slow_loop`), infinite where it stayed open (`slt.hysteresis`); NaN
    says nothing. An open loop speaks against a crossover; a closed one not against coexistence, whose barrier slow
    sweeps may cross.
    """
    said: list[str] = []
    votes = [_vote(each) for each in heights]
    measured = [each for each in heights if not each.bound]
    lowest = min(measured or heights, key=lambda each: each.value, default=None)
    if not heights:
        kind, why = "unresolved", "no barrier was measured"
    elif all(vote > 0 for vote in votes):
        kind, why = "coexistence", f"F rises by {lowest} between the phases"
        if len(heights) < 2:
            kind, why = "unresolved", f"{why}, but by one order parameter's account only: give a second"
    elif all(vote < 0 for vote in votes):
        kind, why = "crossover", f"no barrier of a nat lies between the phases: {lowest}"
    else:
        kind, why = "unresolved", "barriers are not on one side of a nat: " + "; ".join(str(each) for each in heights)
    said.append(why)
    if interior is not None and min(interior) < 0.5:
        text = f"only {min(interior):.0%} of the draws of one phase descend to a minimum of its own"
        said.append(text)
        if kind == "coexistence":
            kind = "unresolved"
        elif not any(vote > 0 for vote in votes):
            kind = "crossover"
    if hysteresis is not None and not np.isnan(hysteresis.value):
        width, error = float(hysteresis.value), float(hysteresis.stderr)
        persists = width - 2 * error > 0
        verb = "stays open" if persists else "closes"
        size = f"{width:.3g} +- {error:.1g}" if np.isfinite(width) else "of the slowest few came over"
        said.append(f"the loop between sweeps up and down {verb} in the limit of slow sweeps ({size})")
        if persists and kind == "crossover":
            kind = "unresolved"
            said.append("which no crossover does: something slow is hidden from the order parameter")
    entropy = None if masses is None else label_entropy(masses)
    if entropy is not None and entropy < SHARED:
        said.append(f"they do not share the posterior where they cross: label entropy {entropy:.2g}, not log 2")
        if kind == "coexistence":
            kind = "unresolved"
    if masses is not None and np.sort(np.asarray(masses))[-2:].sum() < 0.5:
        said.append("other phases hold most of the posterior where these two cross")
    return Kind(kind, lowest, entropy, tuple(said))


def _vote(height: Height) -> int:
    """1 above a nat beyond the error, -1 below it, 0 neither."""
    if height.value - BEYOND * height.stderr >= NATS:
        return 1
    return -1 if not height.bound and height.value + BEYOND * height.stderr < NATS else 0


def height(a: Float[np.ndarray, "_run _k"], b: Float[np.ndarray, "_run _k"], order: str) -> Height:
    """The barrier between two phases that weigh the same, from an order parameter's values at draws confined to each.

    a, b [run, draw]: equally weighted draws of either phase in independent runs. F = -log of the pooled histogram of
    BINS bins; the height is that of its least filled bin between the modes of a and of b over the lower mode. Bins
    wider than a mode, and the least of noisy bins, change it by tenths of a nat; above log(draws/BINS) nats there is
    only a bound. Errors are Poisson's, widened by how much more than that the runs differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("a, b", (a.shape, b.shape), "give finite values [run, draw] of the order parameter")
    ends = np.quantile(np.concatenate([a.ravel(), b.ravel()]), [0.002, 0.998])
    if not ends[1] > ends[0]:
        return Height(0.0, 0.0, order)
    edges = np.linspace(ends[0], ends[1], BINS + 1)
    by_run = [np.array([np.histogram(row, edges)[0] for row in each]) for each in (a, b)]
    counts = [each.sum(0) for each in by_run]
    pooled = counts[0] * (b.size / a.size) + counts[1] if a.size < b.size else counts[0] + counts[1] * (a.size / b.size)
    modes = sorted(int(each.argmax()) for each in counts)
    peak = float(min(pooled[modes[0]], pooled[modes[1]]))
    inner = pooled[modes[0] : modes[1] + 1]
    least = float(inner.min())
    wide = max(1.0, *(_overdispersion(each) for each in by_run))
    if least < FEW:
        upper = stats.chi2.ppf(0.95, 2 * (least + 1)) / 2
        return Height(max(0.0, float(np.log(peak / upper))), float(np.sqrt(wide / max(peak, 1.0))), order, bound=True)
    return Height(float(np.log(peak / least)), float(np.sqrt(wide / peak + wide / least)), order)


def heights(
    draws: Sequence[Float[np.ndarray, "_run _k d"]], losses: Sequence[Float[np.ndarray, "..."]] | None
) -> tuple[list[Height], list[np.ndarray]]:
    """Barriers between draws of two phases by two order parameters, the projection on the line between the phases and
    the ratio of the distances to them; and the places [place, d] of either phase.

    losses: a phase may lie in several places (mirror images), each draw is measured by the place of either phase next
    to it, and the first is the draw of least loss. None: it lies in one place, which is the mean of its draws. The loss
    itself is no order parameter: its density has peaks of its own at every minimum and every saddle.
    """
    flat = [each.reshape(-1, each.shape[-1]) for each in draws]
    size = float(np.mean([np.square(each - each.mean(0)).sum(-1).mean() for each in flat])) + 1e-300
    ends = [each.mean(0, keepdims=True) for each in flat]
    if losses is not None:
        ends = [places(each, np.ravel(loss)) for each, loss in zip(flat, losses, strict=True)]
    spread = float(np.mean([squares(each, own).min(-1).mean() for each, own in zip(flat, ends, strict=True)]))
    size = min(size, 2 * spread) + 1e-300

    def projection(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far from a to b, and the square of the distance between these two."""
        a, b = (own[squares(w, own).argmin(-1)] for own in ends)
        line = b - a
        length = np.maximum(np.square(line).sum(-1), 1e-300)
        return ((w - a) * line).sum(-1) / length, length

    # on the line the ratio turns round where L^2 p (p - 1) = size: with a fold among the draws, both ends of a single
    # hill would look like peaks
    for way, length in map(projection, draws):
        size = max(size, 2 * float(np.quantile(length * way * (way - 1), 0.99)))

    def ratio(w: np.ndarray) -> np.ndarray:
        a, b = (squares(w, own).min(-1) for own in ends)
        return np.log((a + size) / (b + size))

    rules = {
        "projection on the line between the phases": lambda w: projection(w)[0],
        "ratio of the distances to them": ratio,
    }
    return [height(rule(draws[0]), rule(draws[1]), name) for name, rule in rules.items()], ends


def squares(w: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Squared distances [..., place]."""
    return np.square(w[..., None, :] - places).sum(-1)


def places(w: Float[np.ndarray, "i d"], loss: Float[np.ndarray, " i"]) -> Float[np.ndarray, "place d"]:
    """Up to PLACES points of a phase, among its tenth of draws of least loss: the least, then again and again the
    farthest from those there are, as long as it is farther than these draws are spread.
    """
    low = w[np.argsort(np.where(np.isfinite(loss), loss, np.inf))[: max(8, len(w) // 10)]]
    typical = float(np.square(low - low.mean(0)).sum(-1).mean())
    found = low[:1]
    while len(found) < PLACES:
        apart = squares(low, found).min(-1)
        if apart.max() <= typical / 2:
            break
        found = np.concatenate([found, low[int(apart.argmax())][None]])
    return found


def _overdispersion(counts: np.ndarray) -> float:
    """Variance over mean of the counts of the fullest bins between runs; 1 for independent draws."""
    mean = counts.mean(0)
    if len(counts) < 3:
        return 1.0
    share = mean / max(mean.sum(), 1.0)
    some = (mean >= max(1.0, 0.3 * np.sort(mean)[-2])) & (share < 0.9)
    return float((counts[:, some].var(0, ddof=1) / (mean * (1 - share))[some]).mean()) if some.any() else 1.0


def label_entropy(masses: Any) -> float:
    """-sum p log p of the shares of phases, in nats."""
    p = np.asarray(masses, np.float64)
    if p.ndim != 1 or not (p >= 0).all() or not p.sum() > 0:
        raise InputError("masses", p, "give the shares of all phases, none below 0")
    p = p[p > 0] / p.sum()
    return float(-(p * np.log(p)).sum())


def slow_loop(rate: Any, width: Any, stderr: Any) -> Estimate:
    """Width of the hysteresis loop extrapolated to rate 0: the intercept of width = w0 + c rate^p, weighted.

    rate [k]: speeds of the sweep, at least three of them; width, stderr [k]: the difference between the crossing on the
    way up and on the way down. p in {1/3, 1/2, 2/3, 1} is the one that fits best (a crossover lags by the rate itself,
    a first-order jump by a power below 1); what the choice changes joins the error.
    """
    rate, width, stderr = (np.asarray(each, np.float64) for each in (rate, width, stderr))
    if rate.ndim != 1 or rate.size < 3 or not (rate > 0).all() or width.shape != rate.shape or not (stderr > 0).all():
        raise InputError("rate", rate, "give at least three positive rates, with widths and their errors")
    fits = []
    for power in (1 / 3, 1 / 2, 2 / 3, 1.0):
        design = np.stack([np.ones_like(rate), rate**power], axis=1) / stderr[:, None]
        covariance = np.linalg.inv(design.T @ design)
        best = covariance @ design.T @ (width / stderr)
        chi2 = float(np.square(design @ best - width / stderr).sum())
        fits.append((chi2, float(best[0]), float(covariance[0, 0])))
    weight = np.exp(-0.5 * (np.array([f[0] for f in fits]) - min(f[0] for f in fits)))
    weight /= weight.sum()
    value = float(weight @ [f[1] for f in fits])
    spread = float(weight @ [f[2] + (f[1] - value) ** 2 for f in fits])
    return Estimate(np.asarray(value), np.asarray(np.sqrt(spread)))


def scaling(family: str, size: Any, barrier: Any, stderr: Any) -> Scaling:
    """Whether the barrier grows along the named family of systems (first order), or stays below a nat (continuous).

    size [k], at least three; barrier, stderr [k] at each size's own crossing. InputError without a name: a single
    system has no order.
    """
    size, barrier, stderr = (np.asarray(each, np.float64) for each in (size, barrier, stderr))
    if not family:
        raise InputError("family", family, "name the family of systems along which the size grows")
    if size.ndim != 1 or size.size < 3 or barrier.shape != size.shape or not (stderr > 0).all():
        raise InputError("size", size, "give at least three sizes with barriers and their errors")
    design = np.stack([np.ones_like(size), size], axis=1) / stderr[:, None]
    covariance = np.linalg.inv(design.T @ design)
    slope, error = float((covariance @ design.T @ (barrier / stderr))[1]), float(np.sqrt(covariance[1, 1]))
    last = int(size.argmax())
    kind = "unresolved"
    if slope - BEYOND * error > 0 and barrier[last] - BEYOND * stderr[last] >= NATS:
        kind = "first order"
    elif (barrier + BEYOND * stderr < NATS).all():
        kind = "continuous"
    told = f"along {family} the barrier changes by {slope:.3g} +- {error:.1g} nats a unit of size: {kind}"
    return Scaling(kind, Estimate(np.asarray(slope), np.asarray(error)), told)
