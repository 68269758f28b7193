"""Exact free energies of any potential in one to three dimensions, whole and by region, by nested adaptive
quadrature.

Each coordinate in turn is integrated by Gauss-Kronrod (7, 15) rules on intervals that are halved where the rule's
error is too large, or where -log of the integrand varies so fast between nodes that a peak may lie between them. So
basins far narrower than the first mesh are found, if its nodes see their slopes: the first mesh has 15 `panels`
nodes a coordinate.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from slt.theory.coefficient import integer, refusal
from slt.theory.exact import times

Points = Float[np.ndarray, "... d"]
Potential = Callable[[Any], Any]

# Gauss-Kronrod (7, 15), from QUADPACK (Piessens et al. 1983): nodes >= 0 and weights; every other node is Gauss's.
_NODES = [0.991455371120812639206854697526329, 0.949107912342758524526189684047851, 0.864864423359769072789712788640926]
_NODES += [
    0.741531185599394439863864773280788,
    0.586087235467691130294144691693640,
    0.405845151377397166906606412076961,
]
_NODES += [0.207784955007898467600689403773245, 0.0]
_KRONROD = [
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
]
_KRONROD += [
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
]
_KRONROD += [0.204432940075298892414161999234649, 0.209482141084727828012999174891714]
_GAUSS = [0.129484966168869693270611432679082, 0.279705391489276667901467771423780, 0.381830050505118944950369775488975]
_GAUSS += [0.417959183673469387755102040816327]
# The ends have no weight: they are looked at so that a jump of the integrand just inside an end is seen.
NODES = np.array([-1.0, *(-x for x in _NODES), *reversed(_NODES[:-1]), 1.0])
KRONROD = np.array([0.0, *_KRONROD, *_KRONROD[-2::-1], 0.0])
GAUSS = np.zeros(17)
GAUSS[2:-1:2] = _GAUSS + _GAUSS[-2::-1]

PANELS = {1: 64, 2: 8, 3: 4}
RTOL = {1: 1e-9, 2: 1e-9, 3: 1e-7}
ROUGH = 0.05
STEP = 64.0
NEGLIGIBLE = 60.0
ROUNDS = 60
LIMIT = 1_000_000_000
CHUNK = 400_000
"""Potentials evaluated at once."""


class Quadrature(NamedTuple):
    """At t: F = -log int exp(-t K) prior, lam = t <K>, heat capacity t^2 Var K; and F and lam of every region.

    `error` and `lam_error` bound their errors by the rules' own estimates, pessimistic by orders of magnitude where
    K is smooth. A region where exp(-t K) prior vanishes has F = inf and lam = NaN.
    """

    free_energy: Float[np.ndarray, "*t"]
    lam: Float[np.ndarray, "*t"]
    heat_capacity: Float[np.ndarray, "*t"]
    error: Float[np.ndarray, "*t"]
    lam_error: Float[np.ndarray, "*t"]
    region_free_energy: Float[np.ndarray, "*t regions"]
    region_lam: Float[np.ndarray, "*t regions"]
    evaluations: Int[np.ndarray, "*t"]


def normal_log_prior(w: Points) -> Float[np.ndarray, "..."]:
    """log N(w; 0, I), to be used on a box such as [-10, 10] in every coordinate."""
    return -np.sum(w**2, axis=-1) / 2 - w.shape[-1] / 2 * np.log(2 * np.pi)


class _LowerError(Exception):
    """-log of the integrand falls far below the shift: a pass is of no use, start again from there."""


class _Integral:
    """Nested integrals of exp(shift - t K) prior times the powers 0 to 2 of t K - base over a box that is cut down."""

    def __init__(self, energy, box, breaks, panels):
        self.energy, self.box, self.breaks, self.panels = energy, [tuple(each) for each in box], breaks, panels
        self.edges: list[np.ndarray] = []
        self.evaluations = 0
        self.t = self.base = self.lam = 0.0
        self.lowest_at = np.zeros(0)
        self.lay()

    def lay(self):
        """The first mesh of the box."""
        edges = [np.linspace(low, high, self.panels + 1) for low, high in self.box]
        inside = [cuts[(cuts > e[0]) & (cuts < e[-1])] for e, cuts in zip(edges, self.breaks, strict=True)]
        self.edges = [np.unique([*e, *cuts]) for e, cuts in zip(edges, inside, strict=True)]

    def mark(self):
        """Cut the mesh where -log is lowest, so that every pass looks there."""
        self.breaks = [np.append(cuts, x) for cuts, x in zip(self.breaks, self.lowest_at, strict=True)]
        self.lay()

    def run(self, shift: float, scale: float, tolerance: float):
        """The integrals [3] and their error, to a tolerance relative to the larger of themselves and `scale`."""
        self.shift, self.scale, self.tolerance = shift, scale, tolerance
        self.lowest, self.highest, self.least_k = np.inf, -np.inf, np.inf
        self.reach = [(np.inf, -np.inf)] * len(self.box)
        value, error, _ = self.level(np.zeros((1, 0)))
        return value[0], float(error[0])

    def leaf(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The integrands [points, 3] and -log of the first, before the shift."""
        self.evaluations += len(w)
        if self.evaluations > LIMIT:
            raise refusal(
                "potential", self.evaluations, "not resolved after so many evaluations: loosen rtol, cut the box"
            )
        k, log_prior = self.energy(w)
        total = self.t * k - log_prior
        finite = total[np.isfinite(total)]
        self.least_k = min(self.least_k, float(k[np.isfinite(total)].min(initial=np.inf)))
        if float(finite.min(initial=np.inf)) < self.lowest:
            self.lowest, self.lowest_at = float(finite.min()), w[np.argmin(total)]
        self.highest = max(self.highest, float(finite.max(initial=-np.inf)))
        if self.lowest < self.shift - 5:
            raise _LowerError
        weight = np.exp(self.shift - total)
        energy = self.t * k - self.base
        return weight[:, None] * np.stack([np.ones_like(k), energy, energy**2], axis=1), total

    def level(self, prefix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Over the coordinates after those in `prefix` [n, j]: integrals [n, 3], errors [n], least -log [n]."""
        n, j = prefix.shape
        last = j == len(self.box) - 1
        most = max(1, CHUNK // (len(NODES) * (len(self.edges[j]) - 1))) if last else 256
        if n > most:
            parts = [self.level(prefix[i : i + most]) for i in range(0, n, most)]
            return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]
        # Errors count relative to the integral itself, or to its mean over the box of the coordinates before.
        floor = self.scale / np.prod([high - low for low, high in self.box[:j]])
        tolerance = self.tolerance * 0.2**j
        low, high = self.edges[j][:-1], self.edges[j][1:]
        owner = np.repeat(np.arange(n), len(low))
        low, high = np.tile(low, n), np.tile(high, n)
        total, inner, least = np.zeros((n, 3)), np.zeros(n), np.full(n, np.inf)
        kept = _Leaves.empty()
        for _ in range(ROUNDS):
            fresh = self.measure(prefix, owner, low, high, last)
            np.minimum.at(least, owner, fresh.least)
            kept = _Leaves(*(np.concatenate(pair) for pair in zip(kept, fresh, strict=True)))
            count = np.bincount(kept.owner, minlength=n)
            total = np.stack([np.bincount(kept.owner, column, n) for column in kept.value.T], axis=1)
            inner = np.bincount(kept.owner, kept.inner, n)
            allowed = tolerance * np.maximum(total[:, 0], floor)
            error = np.bincount(kept.owner, kept.error, n)
            size = kept.high - kept.low
            split = (error > allowed)[kept.owner] & (kept.error > (allowed / (2 * np.maximum(count, 1)))[kept.owner])
            split |= np.exp(np.minimum(self.shift - kept.bound, 600.0)) * size > allowed[kept.owner]
            split &= size > 1e-14 * np.maximum(np.abs(kept.low), np.abs(kept.high))
            split &= size > 1e-15 * (self.edges[j][-1] - self.edges[j][0])
            if not split.any():
                break
            middle = (kept.low[split] + kept.high[split]) / 2
            owner = np.concatenate([kept.owner[split]] * 2)
            low, high = np.concatenate([kept.low[split], middle]), np.concatenate([middle, kept.high[split]])
            kept = _Leaves(*(column[~split] for column in kept))
        if j == 0:
            self.mesh = np.unique([*kept.low, *kept.high])
        counts = kept.least < self.lowest + NEGLIGIBLE
        low, high = kept.low[counts].min(initial=np.inf), kept.high[counts].max(initial=-np.inf)
        self.reach[j] = (min(self.reach[j][0], float(low)), max(self.reach[j][1], float(high)))
        return total, np.bincount(kept.owner, kept.error, n) + inner, least

    def measure(self, prefix, owner, low, high, last) -> "_Leaves":
        """The rule on every interval."""
        half = (high - low) / 2
        x = (low + high)[:, None] / 2 + half[:, None] * NODES
        x[:, 0], x[:, -1] = low, high
        w = np.concatenate([np.repeat(prefix[owner], len(NODES), axis=0), x.reshape(-1, 1)], axis=1)
        if last:
            value, steep = self.leaf(w)
            inner = np.zeros(len(w))
        else:
            value, inner, steep = self.level(w)
        value, steep = value.reshape(len(x), len(NODES), -1), steep.reshape(x.shape)
        kronrod = half[:, None] * np.einsum("k,ikc->ic", KRONROD, value)
        gauss = half[:, None] * np.einsum("k,ikc->ic", GAUSS, value)
        mean = kronrod / np.maximum(2 * half, 1e-300)[:, None]
        spread = half[:, None] * np.einsum("k,ikc->ic", KRONROD, np.abs(value - mean[:, None, :]))
        inner = half * (inner.reshape(x.shape) @ KRONROD)
        unit = np.array([1.0, 1 + abs(self.lam), (1 + abs(self.lam)) ** 2])
        # What the integrals inside leave undecided is no reason to cut here.
        gap = np.maximum(np.abs(kronrod - gauss) - 2 * inner[:, None] * unit, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = spread * np.minimum(1.0, (200 * gap / spread) ** 1.5)
        error = (np.where(spread > 0, error, gap) / unit).max(1)
        # Between nodes -log may fall by as much again as it does from a node to its neighbour, where that is steep.
        steepest = 2.0 if last else 4.0
        with np.errstate(invalid="ignore"):
            step = np.abs(np.diff(steep, axis=1))
        step = np.where(np.isfinite(step), step, steepest + 1)  # at the edge of the support
        fall = np.maximum(np.pad(step, ((0, 0), (1, 0))), np.pad(step, ((0, 0), (0, 1))))
        bound = np.where((fall > steepest) & np.isfinite(steep), steep - fall, np.inf).min(1)
        return _Leaves(owner, low, high, kronrod, error, inner, bound, steep.min(1))


class _Leaves(NamedTuple):
    """Intervals of the integrals numbered `owner`; `bound` is how low -log may be where it is not resolved."""

    owner: np.ndarray
    low: np.ndarray
    high: np.ndarray
    value: np.ndarray
    error: np.ndarray
    inner: np.ndarray
    bound: np.ndarray
    least: np.ndarray

    @classmethod
    def empty(cls) -> "_Leaves":
        """No intervals."""
        none = np.zeros(0)
        return cls(none.astype(np.int64), none, none, np.zeros((0, 3)), none, none, none, none)


class _Solved(NamedTuple):
    """Of one region: F, the mean and the variance of t K, the relative error of Z and the error of the mean."""

    free_energy: float
    lam: float
    heat_capacity: float
    error: float
    lam_error: float


def _settle(integral: _Integral, shift: float, z: float) -> tuple[float, float]:
    """Rough passes until the lowest -log and the scale of Z are known.

    What counts is judged by a guess of Z, at most twice too high; it starts low.
    """
    guess = 1e-3 * z
    while True:
        integral.base = integral.t * integral.least_k
        try:
            value, _ = integral.run(shift, guess, ROUGH)
        except _LowerError:
            integral.mark()
            shift = integral.lowest
            continue
        z = max(float(value[0]) * np.exp(integral.lowest - shift), 1e-250)
        shift, integral.lam = integral.lowest, float(value[1]) / max(float(value[0]), 1e-300)
        if guess < 2 * z:
            return shift, z
        guess = z / 10


def _solve(integral: _Integral, t: float, rtol: float) -> _Solved:
    """Passes of rising t cut the box down to where the integrand counts: it only shrinks as t grows."""
    integral.t = t
    integral.run(-np.inf, 1.0, np.inf)
    if integral.lowest == np.inf:
        return _Solved(np.inf, np.nan, np.nan, 0.0, 0.0)
    rise = max(integral.highest - integral.lowest, 1.0) / 200
    steps = 0 if t == 0 else max(0, int(np.ceil(np.log(rise) / np.log(STEP))))
    shift, z = integral.lowest, 1.0
    for k in range(steps, -1, -1):
        integral.t = t / STEP**k
        integral.run(-np.inf, 1.0, np.inf)
        shift, z = _settle(integral, integral.lowest, z)
        box = [tuple(np.clip(reach, *each)) for reach, each in zip(integral.reach, integral.box, strict=True)]
        if any(new[1] - new[0] < 0.7 * (old[1] - old[0]) for new, old in zip(box, integral.box, strict=True)):
            integral.box = box
            integral.lay()
        else:
            integral.edges[0] = integral.mesh
    while True:
        integral.base = t * integral.least_k
        try:
            value, error = integral.run(shift, z, rtol)
            break
        except _LowerError:
            integral.mark()
            shift, z = _settle(integral, integral.lowest, z)
    z, first, second = (float(each) for each in value)
    error, first = error / z, first / z
    heat_capacity = second / z - first**2
    return _Solved(shift - float(np.log(z)), integral.base + first, heat_capacity, error, error * (1 + abs(first)))


def quadrature(
    potential: Potential,
    t: Any,
    box: Sequence[Any],
    log_prior: Potential | None = None,
    region: Potential | None = None,
    regions: int = 2,
    breaks: Sequence[Any] = (),
    panels: int | None = None,
    rtol: float | None = None,
) -> Quadrature:
    """F and lam of exp(-t K(w)) prior(w) on a box of one to three dimensions, for a number or an array of t >= 0.

    `potential` and `log_prior` take points [..., d] and give [...]; K may be infinite, the prior is uniform on the
    box unless given, and need not be normalised (a localiser can be part of it: F is then relative to its total
    mass). `region` gives a truth value or a label 0 .. regions-1 for each point; every region is integrated by
    itself, so that its F is exact also where its share of the mass is nothing. `breaks` lists, for each coordinate,
    points at which to cut: kinks, known minima, basins narrower than the box/(15 panels). `rtol` is the relative
    error of Z that the rules' estimates are brought down to, 1e-9 and in three dimensions 1e-7 unless given; true
    errors are far below 1e-8. lam is t <K>: subtract t min K where that is not 0.
    """
    d = len(box)
    if d not in PANELS:
        raise refusal("box", box, "give one to three intervals (low, high), one a coordinate")
    for low, high in box:
        if not (np.isfinite([low, high]).all() and low < high):
            raise refusal(
                "box", box, "give finite intervals with low < high; cut a prior's tails where they do not count"
            )
    if breaks and len(breaks) != d:
        raise refusal("breaks", breaks, f"give {d} lists of points, one a coordinate")
    rtol = RTOL[d] if rtol is None else rtol
    if not 1e-14 <= rtol < 1:
        raise refusal("rtol", rtol, "give a relative error from 1e-14 up, below 1")
    panels = PANELS[d] if panels is None else integer("panels", panels, 1)
    cuts = [np.asarray(breaks[i] if breaks else [], np.float64) for i in range(d)]
    t = times(t)
    uniform = -float(np.sum([np.log(high - low) for low, high in box]))

    def energy(w: np.ndarray, member: int | None) -> tuple[np.ndarray, np.ndarray]:
        k = np.asarray(potential(w), np.float64)
        prior = np.full(len(w), uniform) if log_prior is None else np.asarray(log_prior(w), np.float64)
        if k.shape != (len(w),) or prior.shape != (len(w),) or np.isnan(k).any() or np.isnan(prior).any():
            raise refusal(
                "potential", (k.shape, prior.shape), "give functions of [..., d] with values [...], nowhere NaN"
            )
        if region is not None:
            label = np.asarray(region(w)).astype(np.int64)
            if label.shape != (len(w),) or label.min() < 0 or label.max() >= regions:
                raise refusal(
                    "region", label.shape, f"give each point a truth value or a label from 0 to {regions - 1}"
                )
            prior = np.where(label == member, prior, -np.inf)
        outside = ~np.isfinite(k)
        return np.where(outside, 0.0, k), np.where(outside, -np.inf, prior)

    members = [None] if region is None else list(range(integer("regions", regions, 1)))
    found = []
    for each in t.ravel():
        parts, evaluations = [], 0
        for member in members:
            integral = _Integral(functools.partial(energy, member=member), box, cuts, panels)
            parts.append(_solve(integral, float(each), rtol))
            evaluations += integral.evaluations
        f, lam, heat, error, lam_error = np.array(parts).T
        if not np.isfinite(f).any():
            raise refusal(
                "potential", float(each), "exp(-t K) prior is 0 at every node of the first mesh: cut the box down"
            )
        share = np.exp(f.min() - f)
        total = f.min() - np.log(share.sum())
        share = share[some := share > 0] / share.sum()
        mean = share @ lam[some]
        spread = lam[some] - mean
        heat = share @ (heat[some] + spread**2)
        errors = share @ error[some], share @ (lam_error[some] + error[some] * np.abs(spread))
        found.append((total, mean, heat, *errors, f, lam, evaluations))
    columns = [np.array(column) for column in zip(*found, strict=True)]
    return Quadrature(*(column.reshape((*t.shape, *column.shape[1:])) for column in columns))
