"""One measurement of free energies: its draws, what they give with and without seeds, and what is wrong with them."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slt.estimators.free_energy import agree, over_runs
from slt.measure import nested, regions, target
from slt.measure import routes as by
from slt.measure import seeds as seeds_of
from slt.measure.evidence import Budget, Draws
from slt.measure.regions import PhaseReport
from slt.measure.target import Target
from slt.phases import Phases
from slt.typing import Estimate, Key

ROUTES = ("thermodynamic", "stepping_stones", "mbar", "smc", "persistent", "nested", "wbic")
FAMILIES = (("mbar", "thermodynamic", "stepping_stones"), ("persistent", "smc"), ("nested",))
"""Routes that share draws; the families are independent of one another."""


@dataclass(frozen=True)
class Report:
    """F(t) by every route that ran, and how far it can be believed.

    t [T]; routes: name -> Estimate [T] of F in nats; wbic: a leading order only (None where it did not run); best: the
    routes that agree, weighed together, or, where they do not, the one that found most mass with an error that covers
    the next; lam: t (<K>_t - K_0), K_0 the known optimum's or else the least K that was seen.
    seeds: Estimate [T, J], F of the region about each seed; agreement: (route, route) -> z [T] of independent routes.
    smallest_mass: the prior mass that a basin must have had for a thermal route to see it without a seed.
    ok: whether no assumption was seen to fail; verdict: sentences, the first one a summary.
    """

    t: np.ndarray
    routes: dict[str, Estimate]
    best: Estimate
    lam: Estimate
    wbic: Estimate | None
    seeds: Estimate | None
    agreement: dict[tuple[str, str], np.ndarray]
    smallest_mass: dict[str, float]
    ok: bool
    verdict: tuple[str, ...]
    checks: dict[str, Any] = field(default_factory=dict)
    phases: PhaseReport | None = None

    def __str__(self) -> str:
        columns = {**self.routes, "best": self.best}
        lines = ["t".rjust(12) + "".join(name.rjust(22) for name in columns)]
        for i, t in enumerate(self.t):
            cells = [f"{np.asarray(e.value)[i]:.4f} +- {np.asarray(e.stderr)[i]:.4f}" for e in columns.values()]
            lines.append(f"{t:.6g}".rjust(12) + "".join(cell.rjust(22) for cell in cells))
        return "\n".join([*lines, *self.verdict])


class Measurement:
    """One call of `free_energy`: its draws, what they give with and without seeds, and the verdict."""

    def __init__(
        self,
        of: Target,
        asked: np.ndarray,
        names: tuple[str, ...],
        points: tuple[Any, ...],
        budget: Budget,
        key: Key,
        phases: Phases | None,
    ):
        draw_key, self.seed_key, self.phase_key = jax.random.split(key, 3)
        self.of, self.asked, self.names, self.budget, self.points = of, asked, set(names), budget, points
        self.draws = Draws(of, asked, budget, draw_key, bool(points) or of.dim <= budget.nested_dim, phases)
        self.phases = phases
        self.raw: dict[str, Estimate] = {}
        self.found: dict[str, Estimate] = {}
        self.basins: Estimate | None = None
        self.faults, self.notes = self.draws.faults, self.draws.notes

    def report(self) -> Report:
        thermal = {*by.OF_LADDERS, "wbic"} & self.names
        if thermal or {"smc", "persistent"} & self.names:
            self.draws.run_smc(self.names)
        if "nested" in self.names and self.of.dim <= self.budget.nested_dim:
            self.draws.run_nested()
        if thermal:
            self.draws.run_ladders("wbic" in self.names)
        self._complete()
        self._seed_what_nested_found()
        agreement, best = self._agreement(), self._best()
        self._verdict(best)
        basins = None
        if self.basins is not None:
            offset = (self.asked * self.of.offset)[:, None]
            basins = Estimate(np.asarray(self.basins.value) + offset, self.basins.stderr)
        told = None
        if self.phases is not None:
            told = regions.measure(
                self.of, self.asked, self.phases, self.phase_key,
                points=self.points, budget=self.budget, ladders=self.draws.ladders, best=best,
            )  # fmt: skip
        return Report(
            t=self.asked,
            routes={name: self._shifted(self.found[name]) for name in ROUTES if name in self.found},
            best=self._shifted(best),
            lam=self._lam(),
            wbic=self._wbic(),
            seeds=basins,
            agreement=agreement,
            smallest_mass=self.draws.smallest,
            ok=not self.faults,
            verdict=(self._summary(agreement, best), *self.faults, *self.notes),
            checks=self.draws.checks,
            phases=told,
        )

    def _shifted(self, estimate: Estimate) -> Estimate:
        return Estimate(np.asarray(estimate.value) + self.asked * self.of.offset, estimate.stderr)

    # ------------------------------------------------------------------------------------------------------ the seeds

    def _complete(self) -> None:
        """`found` from the draws: where a route did not find a seed's region at its weight, its part from the seed."""
        draws, seeds = self.draws, None
        if self.points:
            seeds = seeds_of.about(self.of, self.points, self.asked)
            self.basins = seeds_of.seeded(
                self.of, seeds, self.asked, self.seed_key, runs=self.budget.runs, particles=self.budget.particles
            )
        for name, table in draws.tables.items():
            nests = name == "nested"
            self.found[name] = nested.averaged(draws.nests, self.asked) if nests else over_runs(table)
            if seeds is not None:
                shares = self._nested_shares(seeds) if nests else self._smc_shares(seeds)
                self._add_seeds(name, lambda out, x=table: over_runs(x + np.log(np.maximum(out, 1e-300))), shares)
        for name, route in by.OF_LADDERS.items():
            if name not in self.names or draws.ladders is None:
                continue
            if name not in self.raw:
                self.raw[name] = route(draws.ladders, self.asked)
            if not np.isfinite(np.asarray(self.raw[name].value)).all():
                self.faults.append(f"{name}: neighbouring rungs of some ladder do not overlap; it gives no value.")
                continue
            self.found[name] = self.raw[name]
            if seeds is not None:
                shares = self._ladder_shares(seeds, draws.ladders)
                self._add_seeds(name, lambda out, e=self.raw[name]: _outside(e, out), shares)

    def _smc_shares(self, seeds: seeds_of.Seeds) -> np.ndarray:
        """Of each run's particles [run, t, seed], the share in each seed's region; the others do so of their draws."""
        places = [each.labels for each in self.draws.smc_runs if each.labels is not None]
        labels = [seeds.member(i, np.stack([w[i] for w in places])) for i in range(self.asked.size)]
        return np.stack([_inside(each, seeds.count) for each in labels], axis=1)

    def _nested_shares(self, seeds: seeds_of.Seeds) -> np.ndarray:
        shares = np.empty((len(self.draws.nests), self.asked.size, seeds.count))
        for r, run in enumerate(self.draws.nests):
            for i, t in enumerate(self.asked):
                labels = seeds.member(i, run.w)
                shares[r, i] = [run.share(t, labels == j) for j in range(seeds.count)]
        return shares

    def _ladder_shares(self, seeds: seeds_of.Seeds, found: by.Ladders) -> np.ndarray:
        assert found.params is not None  # noqa: S101
        where = [int(np.argmin(np.abs(found.t - t))) for t in self.asked]
        labels = [seeds.member(i, found.params[found.ok][:, r]) for i, r in enumerate(where)]
        return np.stack([_inside(each, seeds.count) for each in labels], axis=1)

    def _add_seeds(self, name: str, rest: Callable[[np.ndarray], Estimate], shares: np.ndarray) -> None:
        """shares [replicate, t, seed]: of the draws, in each seed's region; rest(out [replicate, t]): F of the others.

        A route sees a seed's region if its own weight for it, share times Z, is within a quarter of the seed's Z.
        """
        assert self.basins is not None  # noqa: S101
        estimate = self.found[name]
        value, error = np.array(estimate.value, np.float64), np.array(estimate.stderr, np.float64)
        known = np.asarray(self.basins.value, np.float64)
        weight = np.exp(np.minimum(value[:, None] - known, 50.0))  # of the seed's region, in units of what was found
        seen = shares.mean(0)
        missing = (weight > 1e-3) & (np.abs(np.log(np.maximum(seen, 1e-12) / weight)) > np.log(1.25))
        never: dict[int, list[str]] = {}
        for i in np.flatnonzero(missing.any(-1)):
            lost = np.flatnonzero(missing[i])
            others = rest(1 - shares[..., lost].sum(-1))
            part = Estimate(np.asarray(others.value)[i], np.asarray(others.stderr)[i])
            pieces = [Estimate(known[i, j], np.asarray(self.basins.stderr)[i, j]) for j in lost]
            both = seeds_of.combined(part, *pieces)
            value[i], error[i] = both.value, both.stderr
            for j in lost[seen[i, lost] < 0.1 * np.minimum(weight[i, lost], 1.0)]:
                never.setdefault(int(j), []).append(f"{self.asked[i]:.4g}")
        for j, times in never.items():
            self.notes.append(
                f"{name} did not reach the region of seed {j} from the prior at t = {', '.join(times)}; its mass was "
                "measured from the seed and added."
            )
        self.found[name] = Estimate(value, error)

    def _seed_what_nested_found(self) -> None:
        """Where nested sampling went much lower in K than thermal routes that disagree with it, its point is a seed."""
        others = [name for name in self._families() if name != "nested"]
        if "nested" not in self.found or not any(self._split("nested", name).any() for name in others):
            return
        lows = self.draws.least()
        rest = min(value for name, value in lows.items() if name != "nested")
        if self.asked[-1] * (rest - lows["nested"]) < 3.0:
            return
        best = min(self.draws.nests, key=lambda each: each.delta.min())
        w = jnp.asarray(best.w[np.argmin(best.delta)])
        self.points = (*self.points, target.unravel(self.of.posterior, w))
        self.notes.append(
            f"Nested sampling found a basin (K = {lows['nested'] + self.of.offset:.4g} against "
            f"{rest + self.of.offset:.4g}) that thermal routes missed: its lowest point became seed "
            f"{len(self.points) - 1}."
        )
        self._complete()

    def _wbic(self) -> Estimate | None:
        """t <K> at t/log t, equal to F to leading order."""
        if "wbic" not in self.names or self.draws.ladders is None:
            return None
        value, error = np.full(self.asked.size, np.nan), np.full(self.asked.size, np.nan)
        for i in np.flatnonzero(self.asked > np.e):
            t = self.asked[i]
            level = by.energy(self.draws.ladders, t / np.log(t))
            value[i] = t * (float(np.asarray(level.value)) + self.of.offset)
            error[i] = t * float(np.asarray(level.stderr))
        return Estimate(value, error)

    def _lam(self) -> Estimate:
        offset = 0.0
        if not self.of.anchored:
            offset = min([0.0, *self.draws.least().values()])
        if self.draws.ladders is not None:
            levels = [by.energy(self.draws.ladders, t) for t in self.asked]
            value, error = (np.array([np.asarray(getattr(x, name)) for x in levels]) for name in ("value", "stderr"))
        elif self.draws.smc_runs:
            table = -np.array([each.work[each.at].mean(-1) for each in self.draws.smc_runs], np.float64)
            value, error = table.mean(0), table.std(0, ddof=1) / np.sqrt(len(table))
        else:
            value = error = np.full(self.asked.size, np.nan)
        return Estimate(self.asked * (value - offset), self.asked * error)

    # --------------------------------------------------------------------------------------------------- the verdict

    def _families(self) -> list[str]:
        """The route of every family that stands for it."""
        chosen = []
        for family in FAMILIES:
            here = [name for name in family if name in self.found and np.isfinite(self.found[name].stderr).all()]
            chosen += here[:1]
        return chosen

    def _agreement(self) -> dict[tuple[str, str], np.ndarray]:
        names = [name for family in FAMILIES for name in family if name in self.found]
        return {
            (a, b): agree(self.found[a], self.found[b])
            for a, b in itertools.combinations(names, 2)
            if not any(a in family and b in family for family in FAMILIES)
        }

    def _split(self, a: str, b: str, far: float = 3.5) -> np.ndarray:
        """Where two routes disagree: by more than `far` standard errors and by more than a hundredth of a nat."""
        gap = np.abs(np.asarray(self.found[a].value) - np.asarray(self.found[b].value))
        error = np.hypot(np.asarray(self.found[a].stderr), np.asarray(self.found[b].stderr))
        return (gap > far * error) & (gap > 0.01)

    def _best(self) -> Estimate:
        names = self._families()
        trusted = [name for name in names if name not in self.draws.slow]
        if trusted:  # ladders that may not have settled count where they are at one with the others
            names = [n for n in names if n in trusted or not any(self._split(n, other, 2.5).any() for other in trusted)]
        if not names:
            blank = np.full(self.asked.size, np.nan)
            self.faults.append("No route gave a value with an error.")
            return Estimate(blank, blank.copy())
        values = np.array([np.asarray(self.found[name].value, np.float64) for name in names])
        errors = np.array([np.asarray(self.found[name].stderr, np.float64) for name in names])
        weights = 1 / np.square(np.maximum(errors, 1e-12))
        value = (weights * values).sum(0) / weights.sum(0)
        error = 1 / np.sqrt(weights.sum(0))
        for a, b in itertools.combinations(range(len(names)), 2):
            apart = self._split(names[a], names[b])
            if not apart.any():
                continue
            low = np.argmin(values + 2 * errors, axis=0)
            columns = np.arange(self.asked.size)
            least = values[low, columns]
            value = np.where(apart, least, value)
            gap = np.max(np.abs(values - least), axis=0)
            error = np.where(apart, np.hypot(errors[low, columns], gap / 2), error)
        return Estimate(value, error)

    def _summary(self, agreement: Mapping[tuple[str, str], np.ndarray], best: Estimate) -> str:
        names = self._families()
        worst = max((float(np.max(np.abs(z))) for z in agreement.values()), default=np.nan)
        if len(names) < 2:
            what = f"One independent route ({', '.join(names) or 'none'}): nothing checks it."
        elif any(self._split(a, b).any() for a, b in itertools.combinations(names, 2)):
            what = f"The routes disagree (largest |z| = {worst:.1f}): see below which assumption fails."
        else:
            what = f"{len(names)} independent routes agree (largest |z| = {worst:.1f})."
        return f"{what} Largest standard error {np.max(np.asarray(best.stderr)):.3g} nats."

    def _verdict(self, best: Estimate) -> None:
        spread = self.draws.checks["smc"]["spread"] if "smc" in self.draws.checks else np.zeros(1)
        if spread.max() > 1.0 and not np.max(self.found.get("smc", best).stderr) <= self.budget.stderr:
            at = self.asked[np.argmax(spread > 1.0)]
            self.faults.append(
                f"smc: log Z of single runs spreads by {spread.max():.1f} nats from t = {at:.4g} on, so the effective "
                f"number of particles behind the increments is too small: give more particles or a seed."
            )
        least = self.draws.least()
        self.draws.checks["least"] = {name: value + self.of.offset for name, value in least.items()}
        for a, b in itertools.combinations(self._families(), 2):
            apart = self._split(a, b)
            if not apart.any():
                continue
            i = int(np.argmax(apart))
            low, high = (a, b) if np.asarray(self.found[a].value)[i] < np.asarray(self.found[b].value)[i] else (b, a)
            gap = abs(float(np.asarray(self.found[a].value)[i] - np.asarray(self.found[b].value)[i]))
            self.faults.append(
                f"{high} misses {gap:.2g} nats of evidence that {low} finds, from t = {self.asked[i]:.4g} on: most "
                f"likely an unseeded basin that the path of {high} did not enter (least K seen: "
                + ", ".join(f"{name} {value + self.of.offset:.4g}" for name, value in least.items())
                + f"); give a point of it as a seed. The value reported is that of {low}."
            )
        if self.basins is not None:
            share = np.exp(np.asarray(best.value)[:, None] - np.asarray(self.basins.value))
            for j in range(share.shape[1]):
                self.notes.append(
                    f"Seed {j}'s region carries {share[-1, j]:.3g} of the evidence at t = {self.asked[-1]:.4g}."
                )
        if self.draws.smallest:
            masses = ", ".join(f"{name} {mass:.1g}" for name, mass in self.draws.smallest.items())
            tail = "" if "nested" in self.found else "; no other kind of route was there to find it"
            self.notes.append(
                f"A basin that parts from the rest with a prior mass below about ({masses}) could not have been seen "
                f"by the thermal routes without a seed{tail}."
            )


def _inside(labels: np.ndarray, count: int) -> np.ndarray:
    """Shares [..., seed] of labels [..., draw]."""
    flat = labels.reshape(len(labels), -1)
    return np.stack([(flat == j).mean(-1) for j in range(count)], axis=-1)


def _outside(estimate: Estimate, out: np.ndarray) -> Estimate:
    """F outside some regions from F of the whole and each ladder's share of draws outside, out [ladder, t]."""
    mean = np.maximum(out.mean(0), 1e-12)
    error = out.std(0, ddof=1) / np.sqrt(len(out)) / mean
    return Estimate(np.asarray(estimate.value) - np.log(mean), np.hypot(np.asarray(estimate.stderr), error))
