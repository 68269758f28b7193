"""WAIC, WBIC, PSIS-LOO, training and generalisation losses, functional variance and singular fluctuation of a model
with data, each with its Monte Carlo error and its data error.

Per-sample log-likelihoods are folded over the draws of each chain (`slt.observables.pointwise`): no draws x samples
matrix is kept, but for the thinned one whose tails PSIS-LOO smooths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from slt.cells import Cell, beta_value
from slt.engine import Schedule, Start
from slt.estimators import criteria as estimators
from slt.estimators import diagnostics
from slt.estimators.criteria import HIGH_PARETO_K, HIGH_VARIANCE
from slt.measure.predictive import Seen, check_numbers, generalisation, sample, size
from slt.model import Model, Truth
from slt.posterior import Restriction
from slt.samplers import HMC
from slt.samplers.base import Sampler
from slt.typing import Batch, Estimate, InputError, Params

LOO_NUMBERS = 2**28  # of 4 bytes each, draws x samples
WHICH = ("waic", "wbic", "loo")
SAMPLER = HMC(diagonal=True, jitter=0.9)  # trajectories of all lengths: half again the effective draws of jitter .2


@dataclass(frozen=True)
class Criteria:
    """What one data set says of a model. Losses and criteria are per sample, but WBIC and V_n, which are sums.

    `stderr` of each Estimate is its Monte Carlo error (autocorrelation and chains); of a generalisation loss also the
    noise of its test samples. `data_stderr` has, by the name of the field, the error from the data's own randomness,
    sd over samples as ArviZ states it. None stands for what was not asked for or cannot be known.
    """

    n: int
    beta: float
    bayes_training_loss: Estimate
    """T_n = -(1/n) sum_i log E_w[p(z_i|w)]."""
    gibbs_training_loss: Estimate
    """E_w[L_n(w)]."""
    functional_variance: Estimate
    """V_n = sum_i Var_w[log p(z_i|w)]."""
    singular_fluctuation: Estimate
    """nu = (beta/2) V_n."""
    waic: Estimate | None
    """T_n + V_n/n; forced at another beta, T_n + beta V_n/n."""
    wbic: Estimate | None
    """n E_w[L_n(w)] of the posterior at beta = 1/log n."""
    loo: Estimate | None
    """-(1/n) sum_i log p(z_i | the others), by PSIS."""
    bayes_generalisation_loss: Estimate | None
    """G_n = -E_q[log E_w[p(z|w)]]."""
    gibbs_generalisation_loss: Estimate | None
    """E_w[L(w)]."""
    bayes_generalisation_error: Estimate | None
    """G_n - L(w0), where the test samples are of the model's own truth and its optimum w0 is known."""
    gibbs_generalisation_error: Estimate | None
    data_stderr: dict[str, float]
    pointwise: dict[str, np.ndarray] = field(repr=False)
    """Arrays [n]: "waic" and "loo", whose means they are; "variance", whose sum V_n is; "pareto_k"."""
    high_variance: tuple[int, ...]
    """Samples whose variance is above 0.4."""
    high_pareto_k: tuple[int, ...]
    """Samples whose Pareto k is above 0.7."""
    ess: float
    """Effective draws, of the mean of L_n(w)."""
    rhat: float
    """R-hat, the larger of that of L_n(w) and that of the predictions of all samples."""
    draws: int
    """Draws that count, of all chains together."""
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        rows = [f"n = {self.n}, beta = {self.beta:g}, {self.draws} draws, ESS {self.ess:.0f}, R-hat {self.rhat:.3f}"]
        for name, value in vars(self).items():
            if isinstance(value, Estimate):
                data = f"  (data {self.data_stderr[name]:.2g})" if name in self.data_stderr else ""
                rows.append(f"{name:<28}{value.value:.6g} +- {value.stderr:.2g}{data}")
        return "\n".join([*rows, *self.warnings])


def criteria(
    model: Model,
    data: Batch | int,
    *,
    beta: float = 1.0,
    test: Batch | int | None = None,
    which: Sequence[str] = WHICH,
    sampler: Sampler | None = None,
    schedule: Schedule | None = None,
    start: Start | None = None,
    centre: Params | None = None,
    gamma: float = 0.0,
    restriction: Restriction | None = None,
    wbic_beta: float | str = "1/log n",
    loo_draws: int = 4000,
    seed: int = 0,
    force: bool = False,
) -> Criteria:
    """Sample the Bayes posterior of `model` given `data` and measure every criterion that they allow.

    data: a batch, or the number n of samples to draw from the model's true distribution under data seed `seed`.
    test: a batch of new samples, whose distribution is then q; or how many to draw from the model's true distribution.
      Default: as many as n, at least 1024, where the data are drawn too, else none. With test samples of the model's
      own truth, and without any, its closed-form L(w) serves where known: the Gibbs loss needs no samples then, and
      the Bayes loss only for E_q[log E_w p - E_w log p], which varies little.
    which: of "waic", "wbic", "loo"; losses, V_n and nu come in any case. WBIC has its own posterior, one more cell of
      the same program. For PSIS-LOO about loo_draws x n numbers are kept, of thinned draws.
    sampler: default HMC with a diagonal metric. schedule: default 32 chains of 250 draws of burn-in and 500 to 5000
      more, the more the fewer samples and parameters, a draw being two trajectories.
    start: default every other chain from the prior, the others from the known optimum and basins in turn.
    centre: the reference w_ref whose log-likelihoods are subtracted; default the known optimum, or the best point of a
      pilot run, which then goes before the burn-in.

    Raises InputError, unless forced, for what the criteria are not defined on: a potential, gamma > 0, a restriction,
    beta != 1 for WAIC and LOO, beta != 1/log n for WBIC, a sampler that is not exact. What was forced is a warning.
    """
    sampler = SAMPLER if sampler is None else sampler
    which = (which,) if isinstance(which, str) else which
    n = size(data, "data")
    for name in which:
        if name not in WHICH:
            raise InputError("which", name, f"known are {', '.join(WHICH)}")
    if "wbic" in which and n < 3:
        raise InputError("data", n, "WBIC needs n >= 3, for 1/log n below 1: leave 'wbic' out of which=")
    if loo_draws < 100:
        raise InputError("loo_draws", loo_draws, "give at least 100: a Pareto is fitted to the tail of the draws")
    if "loo" in which and n * loo_draws > LOO_NUMBERS:
        cure = f"PSIS-LOO would keep {n * loo_draws:.2g} numbers: lower loo_draws, or leave 'loo' out of which="
        raise InputError("loo_draws", loo_draws, cure)
    other = beta_value(wbic_beta, n) if "wbic" in which else 1.0
    wrong = undefined(model, sampler, n, beta, which=which, wbic_beta=other, gamma=gamma, restriction=restriction)
    if wrong and not force:
        raise wrong[0]
    drawn = isinstance(data, int)
    if test is None and drawn and not model.is_potential:
        test = max(n, 1024)
    schedule = _schedule(model, n, 0 if test is None else size(test, "test")) if schedule is None else schedule
    check_numbers(schedule, beta=beta, wbic_beta=other)
    cells = [Cell(n, float(beta), gamma, seed if drawn else 0)]
    if "wbic" in which:
        cells.append(Cell(n, other, gamma, seed if drawn else 0))
    truth = model.truth() or Truth()
    own = test is None or isinstance(test, int)
    kept = (schedule.draws - schedule.burn_in) * schedule.chains
    seen = sample(
        model, data, cells, sampler, schedule, purpose="criteria", seed=seed, test=test,
        population=own and truth.population_loss is not None, every=-(-kept // loo_draws) if "loo" in which else 0,
        start=start, centre=centre, restriction=restriction,
    )  # fmt: skip
    at_optimum = own and centre is None and truth.params is not None
    return _summary(seen, truth, at_optimum, which, force, [f"forced: {error}" for error in wrong])


def _schedule(model: Model, n: int, test: int) -> Schedule:
    shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shape))
    # a draw costs twenty gradients of n samples and one fold of the test samples, which all but doubles what it tells
    kept = min(max(int(8e5 / (parameters * (n + test / 20))), 500), 5000)
    return Schedule(draws=250 + kept, chains=32, burn_in=250, thin=2)


def undefined(
    model: Model,
    sampler: Sampler,
    n: int,
    beta: float,
    *,
    which: Sequence[str] = (),
    wbic_beta: float = 1.0,
    gamma: float = 0.0,
    restriction: Restriction | None = None,
) -> list[InputError]:
    """What the criteria asked for are not defined on, each by its name."""
    for name, value, kind in (("model", model, Model), ("sampler", sampler, Sampler)):
        if not isinstance(value, kind):
            raise InputError(name, value, "must be an slt.Model" if kind is Model else "give one of slt.samplers")
    every = "the criteria are of the global Bayes posterior of a model with data"
    wrong = []
    if model.is_potential:
        wrong.append(InputError("model", type(model).__name__, f"is a potential, it has no samples: {every}"))
    if gamma != 0:
        wrong.append(InputError("gamma", gamma, f"localises the posterior: {every}; leave it 0, or pass force=True"))
    if restriction is not None:
        wrong.append(InputError("restriction", "given", f"freezes parameters: {every}; drop it, or pass force=True"))
    if not sampler.exact:
        cure = "is biased by its step size, and variances most: take slt.samplers.HMC or NUTS, or pass force=True"
        wrong.append(InputError("sampler", type(sampler).__name__, cure))
    for name in ("waic", "loo"):
        if name in which and beta != 1:
            cure = f"{name.upper()} is defined at beta = 1: leave {name!r} out of which=, or pass force=True"
            wrong.append(InputError("beta", beta, cure))
    if "wbic" in which and not math.isclose(wbic_beta, 1 / math.log(n), rel_tol=1e-6):
        cure = "WBIC is defined at beta = 1/log n: leave wbic_beta out, or pass force=True"
        wrong.append(InputError("wbic_beta", wbic_beta, cure))
    return wrong


def _summary(
    cells: list[Seen], truth: Truth, at_optimum: bool, which: Sequence[str], force: bool, warnings: list[str]
) -> Criteria:
    seen, n, beta = cells[0], cells[0].n, cells[0].beta
    away = estimators.pseudo_values(seen.train)
    pseudo = away._replace(log_predictive=away.log_predictive + seen.reference, mean=away.mean + seen.reference)
    training, variance = estimators.training_loss(pseudo), estimators.functional_variance(pseudo)
    ess = float(np.asarray(diagnostics.mean(seen.delta).ess))
    rhats = [max(float(diagnostics.rhat(cell.delta)), estimators.chains_disagree(cell.train)) for cell in cells]
    data_stderr = {
        "bayes_training_loss": training.data_stderr,
        "gibbs_training_loss": estimators.summed(pseudo.mean, -1 / n).data_stderr,
        "functional_variance": variance.data_stderr,
        "singular_fluctuation": beta / 2 * variance.data_stderr,
    }
    found: dict[str, Estimate] = {}
    terms, bad_k = {"variance": variance.pointwise}, ()
    if "waic" in which:
        waic = estimators.waic(pseudo, beta, force)
        found["waic"], data_stderr["waic"], terms["waic"] = waic.estimate, waic.data_stderr, n * waic.pointwise
    if "loo" in which and seen.differences is not None:
        thinned = seen.differences.shape[0] * seen.differences.shape[1]
        loo = estimators.loo(seen.differences, min(1.0, ess / thinned), beta, force)
        terms["loo"], terms["pareto_k"] = loo.pointwise - seen.reference, loo.pareto_k
        found["loo"] = Estimate(terms["loo"].mean(), loo.estimate.stderr)
        data_stderr["loo"] = float(terms["loo"].std(ddof=1) / np.sqrt(n)) if n > 1 else math.nan
        bad_k = tuple(np.flatnonzero(loo.pareto_k > HIGH_PARETO_K).tolist())
    if "wbic" in which:
        other = cells[1]
        gibbs = _gibbs(other)
        found["wbic"] = Estimate(n * gibbs.value, n * gibbs.stderr)
        losses = estimators.pseudo_values(other.train).mean + other.reference
        data_stderr["wbic"] = estimators.summed(losses, -1.0).data_stderr
    general, errors = _generalisation(seen, truth, at_optimum)
    bad_variance = tuple(np.flatnonzero(variance.pointwise > HIGH_VARIANCE).tolist())
    warnings += _doubts(cells, bad_variance if "waic" in which else (), bad_k, rhats, ess)
    return Criteria(
        n=n,
        beta=beta,
        bayes_training_loss=training.estimate,
        gibbs_training_loss=_gibbs(seen),
        functional_variance=variance.estimate,
        singular_fluctuation=Estimate(beta / 2 * variance.estimate.value, beta / 2 * variance.estimate.stderr),
        waic=found.get("waic"),
        wbic=found.get("wbic"),
        loo=found.get("loo"),
        bayes_generalisation_loss=general.get("bayes"),
        gibbs_generalisation_loss=general.get("gibbs"),
        bayes_generalisation_error=errors.get("bayes"),
        gibbs_generalisation_error=errors.get("gibbs"),
        data_stderr=data_stderr,
        pointwise=terms,
        high_variance=bad_variance,
        high_pareto_k=bad_k,
        ess=ess,
        rhat=rhats[0],
        draws=seen.delta.size,
        warnings=tuple(warnings),
    )


def _gibbs(seen: Seen) -> Estimate:
    mean = diagnostics.mean(seen.delta)
    return Estimate(mean.value - seen.reference.mean(), mean.stderr)


def _generalisation(seen: Seen, truth: Truth, at_optimum: bool) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """(losses, errors). The errors rest on L(w0) in closed form, or else on the test samples' own losses at w0."""
    if seen.population is not None and truth.loss is not None:
        less, shift = np.float64(truth.loss), truth.loss
    elif seen.test_reference is not None and at_optimum:
        less, shift = -seen.test_reference, truth.loss
    else:
        return generalisation(seen, 0.0), {}
    errors = generalisation(seen, less)
    if shift is None:
        return generalisation(seen, 0.0), errors
    return {name: Estimate(error.value + shift, error.stderr) for name, error in errors.items()}, errors


def _doubts(
    cells: list[Seen], variance: tuple[int, ...], pareto: tuple[int, ...], rhats: list[float], ess: float
) -> list[str]:
    found = []
    for bad, threshold, name in (
        (variance, f"posterior variance above {HIGH_VARIANCE}", "WAIC"),
        (pareto, f"Pareto k above {HIGH_PARETO_K}", "LOO"),
    ):
        if bad:
            listed = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
            found.append(f"{name} is doubtful: {len(bad)} of {cells[0].n} samples have {threshold} ({listed})")
    for cell, rhat in zip(cells, rhats, strict=True):
        if not rhat <= 1.05:
            place = f"R-hat is {rhat:.3f} at beta = {cell.beta:.3g}"
            found.append(f"chains disagree: {place}; raise schedule.draws, or look for several modes")
        if cell.broken:
            found.append(f"{cell.broken} chains at beta = {cell.beta:.3g} were left out: {cell.sentence}")
    if not ess >= 400:
        found.append(f"only {ess:.0f} effective draws: raise schedule.draws or schedule.chains")
    return found
