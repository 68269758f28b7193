"""Reference values of lam(t) with standard errors for two-layer linear networks that `two_layer` cannot do exactly.

B is integrated out (see `two_layer`), also with a Gaussian prior around any centre, so that a localised posterior
is one case; A is sampled by Hamiltonian Monte Carlo on the exact marginal, and the exact mean of K given A is
averaged. NumPy only, float64, many independent chains: it shares nothing with the samplers that it is there to
judge.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from slt.theory.coefficient import integer, refusal

FAR = 1e4
"""Beyond this a trajectory has diverged: it is rejected."""
Chains = Float[np.ndarray, "chains p h"]


class Reference(NamedTuple):
    """t <K> with the standard error of the mean over chains.

    `drift` is the difference between the second and first halves of the draws in its own standard errors: beyond 4 the
    chains still move, and the value is not to be used. `acceptance` is the mean over chains.
    """

    lam: float
    stderr: float
    drift: float
    acceptance: float


class _Marginal(NamedTuple):
    """-log of the density of A up to a constant: (q/2) log det S + t tr M'G M + (tau/2) |A - A0|^2, M = target - A B0.

    S = I + c A'A, G = (I + c A A')^-1 = I - c A S^-1 A', c = 2t/tau.
    """

    t: float
    target: np.ndarray
    centre_a: np.ndarray
    centre_b: np.ndarray
    precision: float

    def at(self, a: Chains) -> tuple[np.ndarray, Chains, np.ndarray]:
        """The value, its gradient, and the mean of K over B given A."""
        t, q = self.t, self.target.shape[1]
        c = 2 * t / self.precision
        at = np.swapaxes(a, 1, 2)
        s = np.eye(a.shape[2]) + c * at @ a
        inverse = np.linalg.inv(s)
        m = self.target - a @ self.centre_b
        x = m - c * a @ (inverse @ (at @ m))
        offset = a - self.centre_a
        value = q / 2 * np.linalg.slogdet(s)[1] + t * np.sum(m * x, axis=(1, 2))
        value = value + self.precision / 2 * np.sum(offset**2, axis=(1, 2))
        gradient = q * c * a @ inverse - 2 * t * x @ self.centre_b.T - 2 * t * c * x @ (np.swapaxes(x, 1, 2) @ a)
        energy = q / self.precision * np.trace(inverse @ (at @ a), axis1=1, axis2=2) + np.sum(x**2, axis=(1, 2))
        return value, gradient + self.precision * offset, energy


def _sample(
    marginal: _Marginal,
    a: Chains,
    draws: int,
    leapfrogs: int,
    log_step: np.ndarray,
    adapt: bool,
    rng: np.random.Generator,
) -> tuple[Chains, np.ndarray, np.ndarray]:
    """Hamiltonian Monte Carlo with jittered steps, one step size a chain: positions, energies [draws, chains],
    acceptance.
    """
    value, gradient, energy = marginal.at(a)
    energies, accepted = np.zeros((draws, len(a))), np.zeros(len(a))
    for draw in range(draws):
        step = np.exp(log_step + rng.uniform(-0.4, 0.2, len(a)))[:, None, None]
        momentum = rng.standard_normal(a.shape)
        start = value + np.sum(momentum**2, axis=(1, 2)) / 2
        new, slope, lost = a, gradient, np.zeros(len(a), bool)
        end, end_energy = value, energy
        for _ in range(leapfrogs):
            momentum = momentum - step / 2 * slope
            new = new + step * momentum
            lost |= ~(np.abs(new).max(axis=(1, 2)) < FAR)
            new, momentum = (np.where(lost[:, None, None], old, each) for old, each in ((a, new), (0.0, momentum)))
            end, slope, end_energy = marginal.at(new)
            momentum = momentum - step / 2 * slope
        fall = start - end - np.sum(momentum**2, axis=(1, 2)) / 2
        probability = np.exp(np.minimum(np.where(np.isfinite(fall) & ~lost, fall, -np.inf), 0.0))
        yes = rng.uniform(size=len(a)) < probability
        wide = yes[:, None, None]
        a, gradient = np.where(wide, new, a), np.where(wide, slope, gradient)
        value, energy = np.where(yes, end, value), np.where(yes, end_energy, energy)
        energies[draw] = energy
        accepted += probability / draws
        if adapt:
            log_step += 2.0 / np.sqrt(draw + 4) * (probability - 0.8)
    return a, energies, accepted


def two_layer_reference(
    t: float | int,
    target: Any,
    hidden: int,
    centre: tuple[Any, Any] | None = None,
    precision: float | int = 1,
    chains: int = 64,
    draws: int = 600,
    leapfrogs: int = 16,
    seed: int = 0,
) -> Reference:
    """lam(t) = t <K> of K = |A B - M|^2 with A and B Gaussian of the given `precision` around `centre`, 0 unless
    given.

    The prior N(0, 1) with a localiser of strength gamma at w* is precision 1 + gamma, centre gamma w*/(1 + gamma);
    a flat prior with one is precision gamma, centre w*. A K with a factor, as |A B - M|^2/2, is t times as much.
    Burn-in is half as long as `draws`, at t rising to its value.
    """
    target = np.asarray(target, dtype=np.float64)
    if target.ndim != 2 or 0 in target.shape or not np.isfinite(target).all():
        raise refusal("target", target.shape, "give a finite matrix p x q")
    if not (np.isfinite(t) and t >= 0):
        raise refusal("t", t, "give a finite number >= 0")
    if not (np.isfinite(precision) and precision > 0):
        raise refusal("precision", precision, "give a number > 0")
    for field, value, least in (("hidden", hidden, 1), ("chains", chains, 8), ("draws", draws, 100)):
        integer(field, value, least)
    integer("leapfrogs", leapfrogs, 1)
    p, q = target.shape
    a0, b0 = (np.zeros((p, hidden)), np.zeros((hidden, q))) if centre is None else map(np.asarray, centre)
    if a0.shape != (p, hidden) or b0.shape != (hidden, q):
        raise refusal("centre", (a0.shape, b0.shape), f"give matrices {p} x {hidden} and {hidden} x {q}")
    if p > q:  # sample the smaller factor
        target, a0, b0 = target.T, b0.T, a0.T
    rng = np.random.default_rng(seed)
    a = a0 + rng.standard_normal((chains, *a0.shape)) / np.sqrt(precision)
    log_step = np.full(chains, np.log(0.2 / np.sqrt(precision + t)))
    burn_in = draws // 2
    for fraction in (1e-3, 1e-2, 0.1, 0.3, 1.0):
        marginal = _Marginal(float(t) * fraction, target, a0, b0, float(precision))
        a, _, _ = _sample(marginal, a, burn_in // (2 if fraction == 1.0 else 8), leapfrogs, log_step, True, rng)
    a, energies, accepted = _sample(marginal, a, draws, leapfrogs, log_step, False, rng)
    lam = t * energies
    mean = lam.mean(axis=0)
    change = lam[draws // 2 :].mean(axis=0) - lam[: draws // 2].mean(axis=0)
    spread = float(change.std(ddof=1)) / float(np.sqrt(chains))
    drift = float(change.mean()) / spread if spread > 0 else 0.0
    return Reference(float(mean.mean()), float(mean.std(ddof=1) / np.sqrt(chains)), drift, float(accepted.mean()))
