"""Free energies F(t) = -log int exp(-t K(w)) prior(w) dw by routes that check one another, with a verdict.

K is a potential, or L_n of a model on data with t = n beta. Routes: thermodynamic integration and MBAR over the same
ladders of replica exchange; tempered SMC and, from the same particles, persistent sampling; nested sampling in few
dimensions; WBIC, which is a leading order only and takes part in no comparison.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slt.estimators.free_energy import agree
from slt.measure import nested, smc, target
from slt.measure import routes as by
from slt.measure.target import Target
from slt.model import Model
from slt.typing import Batch, Estimate, InputError, Key

ROUTES = ("thermodynamic", "mbar", "smc", "persistent", "nested", "wbic")
FAMILIES = (("mbar", "thermodynamic"), ("persistent", "smc"), ("nested",))
"""Routes that share draws; the families are independent of one another."""


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
            if getattr(self, name) < low:
                raise InputError(f"budget.{name}", getattr(self, name), f"must be at least {low}")
        for name in ("stderr", "seconds", "draws"):
            if not getattr(self, name) > 0:
                raise InputError(f"budget.{name}", getattr(self, name), "must be positive")


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
    phases: Any = None

    def __str__(self) -> str:
        columns = {**self.routes, "best": self.best}
        lines = ["t".rjust(12) + "".join(name.rjust(22) for name in columns)]
        for i, t in enumerate(self.t):
            cells = [f"{np.asarray(e.value)[i]:.4f} +- {np.asarray(e.stderr)[i]:.4f}" for e in columns.values()]
            lines.append(f"{t:.6g}".rjust(12) + "".join(cell.rjust(22) for cell in cells))
        return "\n".join([*lines, *self.verdict])


def free_energy(
    model: Model,
    t: Any = None,
    data: Batch | None = None,
    *,
    n: int | None = None,
    beta: Any = None,
    routes: Sequence[str] = ROUTES,
    seeds: Sequence[Any] = (),
    phases: Any = None,
    budget: Budget | None = None,
    key: Key | None = None,
) -> Report:
    """F at every t by every route that applies, with errors and a verdict on whether they agree: see `Report`.

    model: a potential (give t), or a model with `data` on which t = n beta, beta = 1 unless t or beta is given.
    routes: some of ROUTES. seeds: parameters in known basins: a basin that the thermal path does not reach by itself
    has its mass measured from the seed and added. phases: True, or an `slt.Phases`: also each phase's own F
    (`slt.measure.regions`). Raises InputError for an improper prior (no absolute F exists) and unusable arguments.
    """
    budget = Budget() if budget is None else budget
    budget.check()
    key = jax.random.key(0) if key is None else key
    unknown = [name for name in routes if name not in ROUTES]
    if unknown or not routes:
        raise InputError("routes", list(routes), f"choose from {', '.join(ROUTES)}")
    of = target.make(model, data, n, seeds)
    asked = _asked(of, t, beta)
    return _Measurement(of, asked, tuple(routes), tuple(seeds), budget, key).report(phases)


def _asked(of: Target, t: Any, beta: Any) -> np.ndarray:
    if of.model.is_potential and (t is None or beta is not None):
        raise InputError("t", t, "a potential is asked for its F at values of t, not beta")
    if t is not None and beta is not None:
        raise InputError("beta", beta, "give t = n beta or beta, not both")
    values = t if t is not None else np.multiply(1.0 if beta is None else beta, of.n)
    asked = np.unique(np.atleast_1d(np.asarray(values, np.float64)))
    if asked.size == 0 or not np.isfinite(asked).all() or asked[0] <= 0:
        raise InputError("t", values, "give finite values > 0 (F(0) = 0)")
    return asked


class _Measurement:
    """One call of `free_energy`: the draws of its routes, and what they say."""

    def __init__(
        self, of: Target, asked: np.ndarray, names: tuple[str, ...], points: tuple[Any, ...], budget: Budget, key: Key
    ):
        self.of, self.asked, self.names, self.budget = of, asked, names, budget
        self.keys = dict(zip(("smc", "nested", "ladder", "seeds", "phases"), jax.random.split(key, 5), strict=True))
        self.points = points
        self.tables: dict[str, np.ndarray] = {}
        self.raw: dict[str, Estimate] = {}
        self.found: dict[str, Estimate] = {}
        self.notes: list[str] = []
        self.faults: list[str] = []
        self.smallest: dict[str, float] = {}
        self.checks: dict[str, Any] = {}
        self.basins: Estimate | None = None
        self.smc_runs: list[smc.Run] = []
        self.nests: list[nested.Run] = []
        self.ladders: by.Ladders | None = None
        self.wbic: Estimate | None = None
        self.slow: set[str] = set()

    # ---------------------------------------------------------------------------------------------------- the routes

    def report(self, phases: Any) -> Report:
        names, budget = set(self.names), self.budget
        thermal = {"thermodynamic", "mbar", "wbic"} & names
        if thermal or {"smc", "persistent"} & names:
            self._smc(only_pilot=not {"smc", "persistent"} & names)
        if "nested" in names and self.of.dim <= budget.nested_dim:
            self._nested()
        if thermal:
            self._ladders()
        self._complete()
        self._seed_what_nested_found()
        agreement = self._agreement()
        best = self._best()
        self._verdict(best)
        if self.ladders is not None and "wbic" in names:
            self._wbic(self.ladders)
        shifted = {name: self._shifted(self.found[name]) for name in ROUTES if name in self.found}
        basins = None
        if self.basins is not None:
            offset = (self.asked * self.of.offset)[:, None]
            basins = Estimate(np.asarray(self.basins.value) + offset, self.basins.stderr)
        told = None
        if phases is not None:
            from slt.measure import regions

            told = regions.measure(self.of, self.asked, phases, self.keys["phases"], best=self._shifted(best))
        return Report(
            self.asked, shifted, self._shifted(best), self._lam(), self.wbic, basins, agreement, self.smallest,
            not self.faults, (*self._summary(agreement, best), *self.faults, *self.notes), self.checks, told,
        )  # fmt: skip

    def _shifted(self, estimate: Estimate) -> Estimate:
        return Estimate(np.asarray(estimate.value) + self.asked * self.of.offset, estimate.stderr)

    def _rounds(self, once: Callable[[int], Estimate]) -> None:
        """Rounds of replicates until the error is small enough, the rounds are through, or the time is."""
        began = time.monotonic()
        for number in range(self.budget.rounds):
            before = time.monotonic()
            worst = np.max(np.asarray(once(number).stderr))
            spent = time.monotonic() - before
            if worst <= self.budget.stderr or time.monotonic() - began + spent > self.budget.seconds:
                return

    def _smc(self, only_pilot: bool) -> None:
        path = smc.Path(self.of.posterior)

        def look(_: int, at: int, w: Any) -> np.ndarray:
            return np.asarray(w)

        def once(number: int) -> Estimate:
            runs = smc.run(
                path, self.asked, jax.random.fold_in(self.keys["smc"], number), runs=self.budget.runs,
                particles=self.budget.particles, watch=look if self.keep_places else None,
            )  # fmt: skip
            self.smc_runs += [each for each in runs if each.ended]
            if not self.smc_runs:
                raise InputError("model", "no SMC run reached t", "its loss is not finite under the prior")
            return smc.averaged(np.array([each.log_z[each.at] for each in self.smc_runs]))

        if only_pilot:
            once(0)
            return
        self._rounds(once)
        table = np.array([each.log_z[each.at] for each in self.smc_runs])
        work = sum(each.work.shape[0] ** 2 * each.work.shape[1] for each in self.smc_runs)
        if "smc" in self.names:
            self.tables["smc"] = table
        if "persistent" in self.names and work < 2e9:
            self.tables["persistent"] = np.array([smc.persistent(each) for each in self.smc_runs])
        self.smallest["smc"] = 10 / (len(self.smc_runs) * self.budget.particles)
        spread = np.std(table, axis=0)
        self.checks["smc"] = {"runs": len(self.smc_runs), "stages": len(self.smc_runs[0].s), "spread": spread}
        if spread.max() > 1.0:
            at = self.asked[np.argmax(spread > 1.0)]
            self.faults.append(
                f"smc: log Z of single runs spreads by {spread.max():.1f} nats from t = {at:.4g} on, so the effective "
                f"number of particles behind the increments is too small: give more particles or a seed."
            )

    def _nested(self) -> None:
        def once(number: int) -> Estimate:
            key = jax.random.fold_in(self.keys["nested"], number)
            self.nests += nested.run(
                self.of.posterior, self.asked[-1], key, runs=self.budget.nests, points=self.budget.points
            )
            return smc.averaged(np.array([each.log_z(self.asked) for each in self.nests]))

        self._rounds(once)
        self.tables["nested"] = np.array([each.log_z(self.asked) for each in self.nests])
        self.checks["nested"] = {"runs": len(self.nests), "points": len(self.nests) * self.budget.points}
        if not all(each.ended for each in self.nests):
            self.faults.append("nested: the live points had not contracted when the run ended: give fewer t.")

    def _ladders(self) -> None:
        tempered = self.asked[self.asked > np.e] / np.log(self.asked[self.asked > np.e])
        extra = tempered if "wbic" in self.names else np.zeros(0)
        at = np.unique(np.concatenate([by.rungs(self.smc_runs, self.asked), extra]))
        at = at[np.concatenate([[True], np.diff(at) > 1e-6 * at[1:]])]
        parts: list[by.Ladders] = []
        draws = self.budget.draws

        def once(number: int) -> Estimate:
            nonlocal draws
            if parts and not by.settled(parts[-1], self.asked):
                parts.clear()
                draws *= 4
            key = jax.random.fold_in(self.keys["ladder"], number)
            parts.append(
                by.ladders(
                    self.of,
                    at,
                    key,
                    count=self.budget.ladders,
                    draws=draws,
                    burn_in=max(100, draws // 2),
                    params_every=max(8, draws // 100) if self.keep_places else 0,
                )
            )
            estimate = by.integrated(by.joined(parts), self.asked)
            slow = not by.settled(parts[-1], self.asked)
            return Estimate(estimate.value, np.asarray(estimate.stderr) + np.where(slow, np.inf, 0.0))

        self._rounds(once)
        found = self.ladders = by.joined(parts)
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
        elif trips.sum() == 0:
            self.faults.append(
                "ladders: no walker made a round trip between the prior and the largest t, so every ladder may be "
                "caught where it started: run longer, or seed the basins."
            )
        elif not by.settled(parts[-1], self.asked):
            self.notes.append(
                f"ladders: only {trips.mean():.1f} round trips a ladder, or F still drifts: their errors may be too "
                "small; they are left out of the best value where other routes ran."
            )
            self.slow.update(("thermodynamic", "mbar"))

    # ------------------------------------------------------------------------------------------------------ the seeds

    @property
    def keep_places(self) -> bool:
        """Whether draws' positions are kept: to be told apart by seeds, given or found."""
        return bool(self.points) or self.of.dim <= self.budget.nested_dim

    def _complete(self) -> None:
        """`found` from the draws: where a route did not find a seed's region at its weight, its part from the seed."""
        seeds = None
        if self.points:
            seeds = by.about(self.of, self.points, self.asked)
            self.basins = by.seeded(
                self.of, seeds, self.asked, self.keys["seeds"], runs=self.budget.runs, particles=self.budget.particles
            )

        def inside(labels: Any) -> np.ndarray:
            return np.stack([(labels == j).mean(-1) for j in range(len(self.points))], axis=-1)

        for name, table in self.tables.items():
            self.found[name] = smc.averaged(table)
            if seeds is None:
                continue
            if name == "nested":
                parts = [[each.w, each, self.asked] for each in self.nests]
                shares = np.array(
                    [
                        [
                            [each.share(t, labels == j) for j in range(seeds.count)]
                            for t, labels in ((t, seeds.member(i, w)) for i, t in enumerate(asked))
                        ]
                        for w, each, asked in parts
                    ]
                )
            else:
                places = [each.labels for each in self.smc_runs if each.labels is not None]
                shares = np.stack(
                    [inside(seeds.member(i, np.stack([w[i] for w in places]))) for i in range(self.asked.size)], axis=1
                )
            self._add_seeds(name, lambda out, x=table: smc.averaged(x + np.log(np.maximum(out, 1e-300))), shares)
        for name, route in (("thermodynamic", by.integrated), ("mbar", by.reweighted)):
            found = self.ladders
            if name not in self.names or found is None:
                continue
            estimate = self.raw[name] if name in self.raw else route(found, self.asked)
            self.raw[name] = estimate
            if not np.isfinite(np.asarray(estimate.value)).all():
                self.faults.append(f"{name}: neighbouring rungs of some ladder do not overlap; it gives no value.")
                continue
            self.found[name] = estimate
            if seeds is not None and found.params is not None:
                where = [int(np.argmin(np.abs(found.t - t))) for t in self.asked]
                labels = [seeds.member(i, found.params[found.ok][:, r]) for i, r in enumerate(where)]
                shares = np.stack([inside(each) for each in labels], axis=1)
                self._add_seeds(name, lambda out, e=estimate: _outside(e, out), shares)

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
            both = by.combined(part, *pieces)
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
        lows = self._least()
        rest = min(value for name, value in lows.items() if name != "nested")
        if self.asked[-1] * (rest - lows["nested"]) < 3.0:
            return
        best = min(self.nests, key=lambda each: each.delta.min())
        w = jnp.asarray(best.w[np.argmin(best.delta)])
        self.points = (*self.points, target.unravel(self.of.posterior, w))
        self.notes.append(
            f"Nested sampling found a basin (K = {lows['nested'] + self.of.offset:.4g} against "
            f"{rest + self.of.offset:.4g}) that thermal routes missed: its lowest point became seed "
            f"{len(self.points) - 1}."
        )
        self._complete()

    def _wbic(self, found: by.Ladders) -> None:
        value, error = np.full(self.asked.size, np.nan), np.full(self.asked.size, np.nan)
        for i in np.flatnonzero(self.asked > np.e):
            t = self.asked[i]
            level = by.energy(found, t / np.log(t))
            value[i] = t * (float(level.value) + self.of.offset)
            error[i] = t * float(level.stderr)
        self.wbic = Estimate(value, error)

    def _lam(self) -> Estimate:
        offset = 0.0
        if not self.of.anchored:
            offset = min([0.0, *self._least().values()])
        if self.ladders is not None:
            levels = [by.energy(self.ladders, t) for t in self.asked]
            value, error = (np.array([np.asarray(getattr(x, name)) for x in levels]) for name in ("value", "stderr"))
        elif self.smc_runs:
            table = -np.array([each.work[each.at].mean(-1) for each in self.smc_runs], np.float64)
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

    def _split(self, a: str, b: str) -> np.ndarray:
        """Where two routes disagree: by more than 3.5 standard errors and by more than a hundredth of a nat."""
        gap = np.abs(np.asarray(self.found[a].value) - np.asarray(self.found[b].value))
        error = np.hypot(np.asarray(self.found[a].stderr), np.asarray(self.found[b].stderr))
        return (gap > 3.5 * error) & (gap > 0.01)

    def _best(self) -> Estimate:
        names = [name for name in self._families() if name not in self.slow] or self._families()
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

    def _summary(self, agreement: Mapping[tuple[str, str], np.ndarray], best: Estimate) -> list[str]:
        names = self._families()
        worst = max((float(np.max(np.abs(z))) for z in agreement.values()), default=np.nan)
        if len(names) < 2:
            what = f"One independent route ({', '.join(names) or 'none'}): nothing checks it."
        elif any(self._split(a, b).any() for a, b in itertools.combinations(names, 2)):
            what = f"The routes disagree (largest |z| = {worst:.1f}): see below which assumption fails."
        else:
            what = f"{len(names)} independent routes agree (largest |z| = {worst:.1f})."
        return [f"{what} Largest standard error {np.max(np.asarray(best.stderr)):.3g} nats."]

    def _least(self) -> dict[str, float]:
        """The least K - K(reference) that each family of draws saw."""
        lows = {
            "smc": [-each.work.max() for each in self.smc_runs],
            "nested": [each.delta.min() for each in self.nests],
        }
        if self.ladders is not None:
            lows["ladders"] = [self.ladders.delta[self.ladders.ok].min()]
        return {name: float(min(values)) for name, values in lows.items() if values}

    def _verdict(self, best: Estimate) -> None:
        least = self._least()
        self.checks["least"] = {name: value + self.of.offset for name, value in least.items()}
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
        if self.smallest:
            masses = ", ".join(f"{name} {mass:.1g}" for name, mass in self.smallest.items())
            tail = "" if "nested" in self.found else "; no other kind of route was there to find it"
            self.notes.append(
                f"A basin that parts from the rest with a prior mass below about ({masses}) could not have been seen "
                f"by the thermal routes without a seed{tail}."
            )


def _outside(estimate: Estimate, out: np.ndarray) -> Estimate:
    """F outside some regions from F of the whole and each ladder's share of draws outside, out [ladder, t]."""
    mean = np.maximum(out.mean(0), 1e-12)
    error = out.std(0, ddof=1) / np.sqrt(len(out)) / mean
    return Estimate(np.asarray(estimate.value) - np.log(mean), np.hypot(np.asarray(estimate.stderr), error))
