"""Watanabe's equations of state, checked over many data sets of a model with a known optimum."""

import math
from dataclasses import dataclass, field

import numpy as np

from slt.cells import Cell
from slt.engine import Schedule
from slt.estimators import criteria as estimators
from slt.estimators import diagnostics
from slt.estimators.criteria import EquationsOfState
from slt.measure.criteria import SAMPLER, undefined
from slt.measure.predictive import Seen, check_numbers, generalisation, sample
from slt.model import Model, Truth
from slt.samplers.base import Sampler
from slt.typing import InputError


@dataclass(frozen=True)
class StateReport:
    """The equations of state of a model at one n; errors are the spread over data sets."""

    n: int
    beta: float
    replicates: int
    equations: EquationsOfState
    lam: float | None
    """The model's learning coefficient where known. n (E[G] - L(w0)) tends to it at beta = 1, slowly where m > 1."""
    per_set: dict[str, np.ndarray] = field(repr=False)
    """By name, arrays [replicates]: bayes and gibbs generalisation and training errors, functional_variance, rhat."""
    warnings: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether both equations hold within 3 standard errors."""
        return bool(max(abs(self.equations.bayes_z), abs(self.equations.gibbs_z)) <= 3)

    def __str__(self) -> str:
        found = {k: v for k, v in self.equations._asdict().items() if not k.endswith("_z")}
        rows = [f"{name:<24}{each.value:.6g} +- {each.stderr:.2g}" for name, each in found.items()]
        z = f"z of the equations: Bayes {self.equations.bayes_z:+.2f}, Gibbs {self.equations.gibbs_z:+.2f}"
        return "\n".join([*rows, z, *self.warnings])


def equations_of_state(
    model: Model,
    n: int,
    replicates: int = 200,
    *,
    beta: float = 1.0,
    sampler: Sampler | None = None,
    schedule: Schedule | None = None,
    test: int | None = None,
    memory: int = 2**28,
    seed: int = 0,
    force: bool = False,
) -> StateReport:
    """Check E[G] - E[T] = E[Gibbs_gen] - E[Gibbs_train] = 2 nu/n (Watanabe 2010) over data sets of the model's truth.

    Draws `replicates` data sets of n samples, under data seeds from 2^20 `seed` on, and samples their posteriors as
    cells of one program, in several passes where the folds would take more than `memory` bytes. L(w0) and L_n(w0) at
    the optimum w0 are subtracted from generalisation and training losses: their noise would bury the difference.
    test: new samples for each data set, default n; where L(w) is known in closed form they serve only
    E_q[log E_w p - E_w log p].
    sampler: default HMC with a diagonal metric; schedule: default 4 chains of 200 draws of burn-in and 300 more.

    Raises InputError for a model without a known optimum, and for a sampler that is not exact, unless forced.
    """
    schedule = Schedule(draws=500, chains=4, burn_in=200) if schedule is None else schedule
    sampler = SAMPLER if sampler is None else sampler
    test = n if test is None else test
    for name, value, least in (("n", n, 1), ("replicates", replicates, 2), ("test", test, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(name, value, f"give a whole number, at least {least}")
    wrong = undefined(model, sampler, n, beta)
    if model.is_potential:
        raise InputError("model", type(model).__name__, "a potential has no data sets to average over")
    if wrong and not force:
        raise wrong[0]
    truth = model.truth() or Truth()
    if truth.params is None:
        raise InputError("model", type(model).__name__, "its truth() gives no optimum w0, whose losses are subtracted")
    check_numbers(schedule, beta=beta)
    passes = math.ceil(replicates * schedule.chains * (n + test) * 20 / memory)
    cells = math.ceil(replicates / passes)  # alike in every pass, so that one program serves; surplus sets are dropped
    seen: list[Seen] = []
    for first in range(seed << 20, (seed << 20) + passes * cells, cells):
        seen += sample(
            model,
            n,
            [Cell(n, float(beta), data_seed=data_seed) for data_seed in range(first, first + cells)],
            sampler,
            schedule,
            purpose="equations of state",
            seed=seed,
            test=test,
            population=truth.population_loss is not None and truth.loss is not None,
        )
    del seen[replicates:]
    rows = [_errors(one, truth) for one in seen]
    per_set = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    bayes, gibbs = (
        np.stack([per_set[f"{kind}_generalisation_error"], per_set[f"{kind}_training_error"]], axis=1)
        for kind in ("bayes", "gibbs")
    )
    found = estimators.equations_of_state(bayes, gibbs, per_set["functional_variance"], n, float(beta))
    warnings = [f"forced: {error}" for error in wrong]
    slow = int((per_set["rhat"] > 1.1).sum())
    if slow:
        warnings.append(f"R-hat of L_n is above 1.1 in {slow} of {replicates} data sets: raise schedule.draws")
    broken = sum(one.broken for one in seen)
    if broken:
        sentence = next(one.sentence for one in seen if one.broken)
        warnings.append(f"{broken} chains were left out: {sentence}")
    return StateReport(n, float(beta), replicates, found, truth.lam, per_set, tuple(warnings))


def _errors(seen: Seen, truth: Truth) -> dict[str, float]:
    """One data set's V_n, and its losses less those of w0, which is the reference."""
    pseudo = estimators.pseudo_values(seen.train)
    less = -np.asarray(seen.test_reference) if seen.population is None else np.float64(truth.loss)
    general = generalisation(seen, less)
    return {
        "bayes_generalisation_error": float(general["bayes"].value),
        "gibbs_generalisation_error": float(general["gibbs"].value),
        "bayes_training_error": -float(pseudo.log_predictive.mean()),
        "gibbs_training_error": float(seen.delta.mean()),
        "functional_variance": float(pseudo.variance.mean(0).sum()),
        "rhat": float(diagnostics.rhat(seen.delta)),
    }
