"""Expectations of the phases of Landau's sixth-order potential: exact, or reweighted from the draws of a sweep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import optimize

from slt.theory.quadrature import quadrature
from slt.transitions.lines import Local
from slt.typing import InputError

ORIGIN, OUTER = 0, 1
FINE = np.linspace(0.0, 2.5, 4001)
NEAR = 4
"""Cells of the grid whose draws are reweighted to a point between them."""
MOST = 1500
"""Draws of each ladder that are used for it, evenly spread."""


def k(z: np.ndarray, h: float, b: float) -> np.ndarray:
    """The sixth-order potential at w^2 = z, zero at the origin."""
    return z * (z * (z - b) + h)


@dataclass(frozen=True)
class Exact:
    """Expectations of the phases by quadrature, prior N(0, scale^2), divided at |w| = wall."""

    b: float
    scale: float
    wall: float

    def density(self, h: float, t: float) -> np.ndarray:
        """-log of the density of |w| on FINE, up to a constant."""
        return t * k(FINE**2, h, self.b) + np.square(FINE / self.scale) / 2

    def __call__(self, h: float, t: float) -> Local:
        found = quadrature(
            lambda w: k(w[..., 0] ** 2, h, self.b), t, [(-2.5, 2.5)], lambda w: -np.square(w[..., 0] / self.scale) / 2,
            region=lambda w: np.abs(w[..., 0]) >= self.wall, breaks=[[-1, -self.wall, 0, self.wall, 1]], rtol=1e-7,
        )  # fmt: skip
        energy = self.density(h, t)
        weight = np.exp(energy.min() - energy)
        outside = self.wall <= FINE
        force = [weight[side] @ FINE[side] ** 2 / max(weight[side].sum(), 1e-300) for side in (~outside, outside)]
        return Local(found.region_free_energy, found.region_lam / t, np.array(force), barrier=barrier(FINE, energy))


def barrier(x: np.ndarray, energy: np.ndarray) -> float:
    """From the shallower of the two lowest minima of a profile to the top between them; 0 with fewer than two."""
    padded = np.concatenate([[np.inf], energy, [np.inf]])
    minima = np.flatnonzero((energy < padded[:-2]) & (energy <= padded[2:]))
    best = 0.0
    for i in minima:
        for j in minima[minima > i]:
            best = max(best, float(energy[i : j + 1].max() - max(energy[i], energy[j])))
    return best


class Sampled:
    """Expectations of the phases anywhere between the cells of a sweep: draws of the cells near by, reweighted."""

    def __init__(self, data: xr.Dataset, b: float):
        data = data.squeeze([d for d in ("gamma", "data_seed", "b") if d in data.dims], drop=True)
        keep = ~data["burn_in"].values
        order = ("h", "t", "chain", "draw")
        self.z = data["square"].transpose(*order).values[..., keep].astype(np.float64)
        label = data["phase"].transpose(*order).values[..., keep]
        self.label = np.where(data["status"].transpose(*order[:3]).values[..., None] == 0, label, -1)
        thin = max(1, self.z.shape[-1] // MOST)
        self.z, self.label = self.z[..., ::thin], self.label[..., ::thin]
        self.h, self.t, self.b = data["h"].values.astype(float), data["t"].values.astype(float), b
        shares = [(self.label == phase).mean((-2, -1)) for phase in (ORIGIN, OUTER)]
        self.cells = np.argwhere(np.minimum(*shares) > 0.01)

    def __call__(self, h: float, t: float) -> Local:
        if not len(self.cells):
            raise InputError("run", 0, "no cell has draws in both phases: more draws, or a grid nearer to the line")
        i, j = self.cells.T
        apart = np.square(np.log(t / self.t[j]) / 0.3) + np.square(t * (h - self.h[i]) / 2)
        chosen = np.argsort(apart)[:NEAR]
        parts = [self._moved(int(i[one]), int(j[one]), h, t) for one in chosen]
        value = np.array([part[0] for part in parts])  # [cell, (D, K_a, K_b, z_a, z_b)]
        error = np.array([part[1] for part in parts])
        weight = np.exp(-0.5 * (apart[chosen] - apart[chosen].min()))[:, None] / np.square(error)
        weight = weight / weight.sum(0)
        mean, spread = (weight * value).sum(0), np.sqrt((np.square(weight) * np.square(error)).sum(0))
        return Local(
            np.array([0.0, -mean[0]]), mean[1:3], mean[3:], np.array([0.0, spread[0]]), spread[1:3], spread[3:],
            parts[0][2],
        )  # fmt: skip

    def _moved(self, i: int, j: int, h: float, t: float) -> tuple[np.ndarray, np.ndarray, float]:
        """D, <K> and <w^2> of both phases at (h, t) from one cell, their errors from its ladders, and the barrier."""
        z, label = self.z[i, j], self.label[i, j]
        log_weight = self.t[j] * k(z, self.h[i], self.b) - t * k(z, h, self.b)
        weight = np.where(label >= 0, np.exp(log_weight - log_weight.max()), 0.0)
        sums = np.array([
            [(weight * f * (label == phase)).sum(-1) for f in (1.0, k(z, h, self.b), z)] for phase in (ORIGIN, OUTER)
        ])  # fmt: skip
        whole = _read(sums.sum(-1))
        chains = sums.shape[-1]
        left = np.array([_read(sums.sum(-1) - sums[..., c]) for c in range(chains)])
        error = np.sqrt((chains - 1) / chains * np.square(left - left.mean(0)).sum(0)) + 1e-12
        count, edges = np.histogram(np.sqrt(z).ravel(), bins=40, weights=weight.ravel())
        seen = count > 0
        profile = np.where(seen, -np.log(np.where(seen, count, 1.0)), -np.log(count[seen].min()) + 1.0)
        return whole, error, barrier(edges[:-1], profile)


def _read(sums: np.ndarray) -> np.ndarray:
    """(F_origin - F_outer, <K> twice, <w^2> twice) of sums [phase, (1, K, w^2)]."""
    total = np.maximum(sums[:, 0], 1e-300)
    return np.concatenate([[np.log(total[OUTER] / total[ORIGIN])], sums[:, 1] / total, sums[:, 2] / total])


def exact_t(exact: Exact, h: float, t: Sequence[float] | np.ndarray) -> float:
    """t at which the phases weigh the same at h, NaN where they do not within thrice the range of t."""
    return _root(lambda x: _gap(exact(h, np.exp(x))), np.log(min(t) / 3), np.log(max(t) * 3), np.exp)


def exact_h(exact: Exact, t: float) -> float:
    """h at which they do at t."""
    return _root(lambda x: _gap(exact(x, t)), -0.5 * exact.b**2, 0.5 * exact.b**2, float)


def _gap(local: Local) -> float:
    return float(local.free_energy[ORIGIN] - local.free_energy[OUTER])


def _root(fn: Callable[[float], float], low: float, high: float, back: Callable[[float], float]) -> float:
    if fn(low) * fn(high) > 0:
        return float("nan")
    return float(back(optimize.root_scalar(fn, bracket=(low, high), xtol=1e-5).root))


def coexistence(b: float, t: float, scale: float) -> tuple[float, float] | None:
    """(h, b) at which both sides of the barrier weigh the same at t; None where it is below 1 nat."""

    def sides(h: float) -> tuple[float, float]:
        energy = Exact(b, scale, 1.0).density(h, t)
        weight, middle = np.exp(energy.min() - energy), int(np.searchsorted(FINE, np.sqrt(b / 6)))
        outer, inner = (max(float(part.sum()), 1e-300) for part in (weight[middle:], weight[:middle]))
        return float(np.log(outer) - np.log(inner)), barrier(FINE, energy)

    low, high = -0.5 * b * b - 1.0, b * b / 4 + 0.5
    h = _root(lambda x: sides(x)[0], low, high, float)
    return (h, b) if np.isfinite(h) and sides(h)[1] >= 1 else None
