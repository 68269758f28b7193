"""Landau's sixth-order potential: expectations of its phases, exact, and its line of coexistence as a measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import optimize, stats

import slt
from slt.models.landau import size
from slt.theory.quadrature import quadrature
from slt.transitions.lines import Local
from slt.typing import Quantity

ORIGIN, OUTER = 0, 1
FINE = np.linspace(0.0, 2.5, 4001)


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


@dataclass(frozen=True)
class Followed:
    """The line of coexistence that `slt.line` finds in the box of h and t, as a measure of a run.

    h: values at which it is told; runs, particles: of each phase each time that it is sampled, until t has the error
    rtol or half of the seconds are over.
    """

    h: Sequence[float]
    t: Sequence[float]
    runs: int = 16
    particles: int = 512
    rtol: float = 0.004
    seconds: float = 60.0

    def __call__(self, site: Any) -> xr.Dataset:
        main = site.parts["main"]

        def make() -> dict[str, np.ndarray]:
            found = slt.line(
                main.job.model, t=self.t, control={"h": self.h}, order=size, rtol=self.rtol, seconds=self.seconds,
                budget=slt.Budget(runs=self.runs, particles=self.particles), key=site.key,
            )  # fmt: skip
            one = found.line
            return {
                "at": np.stack([found.x, *found.critical[:2], *found.slope[:2]]),
                "points": np.stack([one.h, one.t, one.t_stderr, one.barrier]),
                "marks": np.array([[each.h, each.t, each.h_stderr, each.t_stderr] for each in one.marks]).T,
                "words": np.array([*found.names, str(found), *(each.kind for each in one.marks)]),
            }

        one = site.once("line", make)
        tables = {
            "h": ("critical", "critical_stderr", "slope", "slope_stderr"),
            "point": ("point_h", "point_t", "point_t_stderr", "barrier"),
            "mark": ("mark_h", "mark_t", "mark_h_stderr", "mark_t_stderr"),
        }
        rows = [one["at"][1:], one["points"], one["marks"]]
        found = {
            name: ((dim,), row)
            for (dim, names), table in zip(tables.items(), rows, strict=True)
            for name, row in zip(names, table, strict=True)
        }
        a, b, verdict, *kinds = (str(each) for each in one["words"])
        return xr.Dataset(found, {"h": one["at"][0]}, {"a": a, "b": b, "verdict": verdict, "kinds": kinds})


def followed(run: Any) -> dict[str, Quantity]:
    """critical_t[a->b] and slope[clausius_clapeyron] over h, end_h and end_t where the barrier falls to 1 nat."""
    if "line" not in run.measures:
        return {}
    one, coords = run.measures["line"], {"h": run.measures["line"]["h"].values.tolist()}
    t, error = one["critical"].values, one["critical_stderr"].values
    far = np.exp(stats.norm.ppf(0.95) * error / t)
    found = {
        f"critical_t[{one.attrs['a']}->{one.attrs['b']}]": Quantity(t, error, coords, np.stack([t / far, t * far], -1)),
        "slope[clausius_clapeyron]": Quantity(one["slope"].values, one["slope_stderr"].values, coords),
    }
    for i, kind in enumerate(one.attrs["kinds"]):
        if kind == "end":
            marks = {name: (one[f"mark_{name}"].values[i], one[f"mark_{name}_stderr"].values[i]) for name in ("h", "t")}
            found |= {f"end_{name}": Quantity(np.array(x), np.array(s), {}) for name, (x, s) in marks.items()}
    return found


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
