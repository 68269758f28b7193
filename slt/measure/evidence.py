"""The draws that free energies are estimated from: tempered SMC, nested sampling and ladders, until a budget is met."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from slt.estimators.free_energy import over_runs
from slt.measure import nested, smc
from slt.measure import routes as by
from slt.measure.paths import Path
from slt.measure.target import Target
from slt.phases import Phases
from slt.typing import Estimate, InputError, Key


@dataclass(frozen=True)
class Budget:
    """How much may be computed. Rounds of independent replicates are added to a route until its standard error is at
    most `stderr` at every t, or there are `rounds` of them, or another would pass `seconds` (of each family of routes).
    Ladders that have not forgotten their start are thrown away for ones four times as long.

    particles, runs: of tempered SMC; points, nests: of nested sampling, which runs up to `nested_dim` parameters;
    ladders, draws: of replica exchange, with half as many draws of burn-in.
    """

    stderr: float = 0.04
    seconds: float = 120.0
    rounds: int = 8
    particles: int = 512
    runs: int = 16
    points: int = 512
    nests: int = 8
    ladders: int = 8
    draws: int = 800
    nested_dim: int = nested.LARGEST

    def check(self) -> None:
        """InputError where a number cannot be used."""
        for name, low in (("rounds", 1), ("particles", 32), ("runs", 2), ("points", 32), ("nests", 2), ("ladders", 2)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low:
                raise InputError(f"budget.{name}", getattr(self, name), f"must be a whole number, at least {low}")
        for name in ("stderr", "seconds", "draws"):
            if not isinstance(getattr(self, name), int | float) or not getattr(self, name) > 0:
                raise InputError(f"budget.{name}", getattr(self, name), "must be positive")


class Draws:
    """The draws of one measurement, route by route, and what they tell of themselves.

    tables: log Z [run, t] of routes that give it run by run; smallest: prior masses, `Report.smallest_mass`; faults and
    notes: sentences; slow: routes whose errors may be too small.
    """

    def __init__(
        self, of: Target, asked: np.ndarray, budget: Budget, key: Key, keep_places: bool, phases: Phases | None
    ):
        self.of, self.asked, self.budget, self.keep_places = of, asked, budget, keep_places
        self.phases = phases
        self.keys = dict(zip(("smc", "nested", "ladder"), jax.random.split(key, 3), strict=True))
        self.smc_runs: list[smc.Run] = []
        self.nests: list[nested.Run] = []
        self.ladders: by.Ladders | None = None
        self.tables: dict[str, np.ndarray] = {}
        self.smallest: dict[str, float] = {}
        self.checks: dict[str, Any] = {}
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.slow: set[str] = set()

    def _rounds(self, once: Callable[[int], Estimate], growing: bool = False) -> None:
        """Rounds of replicates until the error is small enough, the rounds are through, or the time is."""
        began = time.monotonic()
        for number in range(self.budget.rounds):
            before = time.monotonic()
            worst = np.max(np.asarray(once(number).stderr))
            spent = time.monotonic() - before
            expected = time.monotonic() - began + (3 if growing else 1) * spent
            if worst <= self.budget.stderr or expected > self.budget.seconds:
                return

    def run_smc(self, names: set[str]) -> None:
        path = Path(self.of.posterior)

        def look(_: int, at: int, w: Any) -> np.ndarray:
            return np.asarray(w)

        share = 0.9 if self.of.dim <= 40 else 0.7
        count, particles = self._affordable(path, share)

        def once(number: int) -> Estimate:
            key = jax.random.fold_in(self.keys["smc"], number)
            watch = look if self.keep_places else None
            runs = smc.run(path, self.asked, key, runs=count, particles=particles, share=share, watch=watch)
            self.smc_runs += [each for each in runs if each.ended]
            if not self.smc_runs:
                raise InputError("model", "no SMC run reached t", "its loss is not finite under the prior")
            return over_runs(np.array([each.log_z[each.at] for each in self.smc_runs]))

        if not {"smc", "persistent"} & names:
            once(0)  # for the rungs alone
            return
        self._rounds(once)
        table = np.array([each.log_z[each.at] for each in self.smc_runs])
        work = sum(each.work.shape[0] ** 2 * each.work.shape[1] for each in self.smc_runs)
        if "smc" in names:
            self.tables["smc"] = table
        if "persistent" in names and work < 2e9:
            self.tables["persistent"] = np.array([smc.persistent(each) for each in self.smc_runs])
        self.smallest["smc"] = 10 / (len(self.smc_runs) * particles)
        spread = np.std(table, axis=0)
        self.checks["smc"] = {"runs": len(self.smc_runs), "stages": len(self.smc_runs[0].s), "spread": spread}

    def _affordable(self, path: Path, share: float) -> tuple[int, int]:
        """(runs, particles) of a round; of many parameters, as many as fit into the seconds, by a small trial."""
        budget = self.budget
        if self.of.dim <= 40:
            return budget.runs, budget.particles
        smc.run(path, self.asked[:1] / 100, self.keys["smc"], runs=4, particles=64, share=share)  # compiles
        began = time.monotonic()
        smc.run(path, self.asked, jax.random.fold_in(self.keys["smc"], 2**31), runs=4, particles=64, share=share)
        each = (time.monotonic() - began) / (4 * 64)
        afford = int(budget.seconds / each)
        count = int(np.clip(afford // 128, min(8, budget.runs), budget.runs))
        return count, int(np.clip(afford // count // 32 * 32, min(128, budget.particles), budget.particles))

    def run_nested(self) -> None:
        def once(number: int) -> Estimate:
            key = jax.random.fold_in(self.keys["nested"], number)
            self.nests += nested.run(
                self.of.posterior, self.asked[-1], key, runs=self.budget.nests, points=self.budget.points
            )
            return nested.averaged(self.nests, self.asked)

        self._rounds(once)
        self.tables["nested"] = np.array([each.log_z(self.asked) for each in self.nests])
        self.checks["nested"] = {"runs": len(self.nests), "points": len(self.nests) * self.budget.points}
        if not all(each.ended for each in self.nests):
            self.faults.append("nested: the live points had not contracted when the run ended: give fewer t.")

    def run_ladders(self, with_wbic: bool) -> None:
        tempered = self.asked[self.asked > np.e] / np.log(self.asked[self.asked > np.e])
        extra = tempered if with_wbic else np.zeros(0)
        at = np.unique(np.concatenate([by.rungs(self.smc_runs, self.asked), extra]))
        at = at[np.concatenate([[True], np.diff(at) > 1e-6 * at[1:]])]
        every = 20 if self.keep_places else 0
        key, count, draws = self.keys["ladder"], self.budget.ladders, self.budget.draws
        ladders = by.LadderRun(self.of, at, self.smc_runs, key, count=count, phases=self.phases, every=every)
        ladders.run(max(200, draws // 4), burn_in=True)

        def once(number: int) -> Estimate:
            if number and not by.settled(ladders.found(), self.asked):
                ladders.forget()
                ladders.run(draws * 3**number)
            else:
                ladders.run(max(draws, ladders.draws))
            found = ladders.found()
            estimate = by.integrated(found, self.asked)
            slow = not by.settled(found, self.asked)
            return Estimate(estimate.value, np.asarray(estimate.stderr) + np.where(slow, np.inf, 0.0))

        self._rounds(once, growing=True)
        found = self.ladders = ladders.found()
        self.smallest["ladders"] = 1 / max(1.0, float(np.asarray(by.energy(found, 0.0).ess)))
        trips = found.trips[found.ok]
        self.checks["ladders"] = {
            "rungs": at, "swap": found.swap, "round_trips": trips, "broken": int((~found.ok).sum()),
        }  # fmt: skip
        closed = np.flatnonzero(found.swap < 0.05)
        if closed.size:
            low, high = at[closed[0]], at[closed[0] + 1]
            self.faults.append(
                f"ladders: no exchange through t = {low:.4g} to {high:.4g} ({1 - found.swap[closed[0]]:.0%} of swaps "
                "refused): what lies on either side is not weighed against the other."
            )
        elif not by.settled(found, self.asked):
            self.notes.append(
                f"ladders: {trips.mean():.1f} round trips a ladder between the prior and the largest t (or F drifts): "
                "they may be caught where SMC started them, and count only where they are at one with other routes."
            )
            self.slow.update(by.OF_LADDERS)

    def least(self) -> dict[str, float]:
        """The least K - K(reference) that each family of draws saw."""
        lows = {
            "smc": [-each.work.max() for each in self.smc_runs],
            "nested": [each.delta.min() for each in self.nests],
        }
        if self.ladders is not None:
            lows["ladders"] = [self.ladders.delta[self.ladders.ok].min()]
        return {name: float(min(values)) for name, values in lows.items() if values}
