"""Assertions on estimates with errors. The gate is in standard errors, and the standard error itself is bounded in
advance.

Shared by the tests and free of slt: anything with `.value` and `.stderr` is an estimate.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.signal import lfilter


class Estimate(NamedTuple):
    """A value with its standard error, for tests that make their own."""

    value: Any
    stderr: Any


def z_scores(estimate: Any, exact: Any) -> np.ndarray:
    """(value - exact) / stderr; 0 where both the error and the difference vanish."""
    difference = np.asarray(estimate.value, np.float64) - np.asarray(exact, np.float64)
    stderr = np.asarray(estimate.stderr, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((difference == 0) & (stderr == 0), 0.0, difference / stderr)


def assert_close(estimate: Any, exact: Any, max_stderr: Any, sigmas: float = 4.0, what: str = "estimate") -> None:
    """First that every standard error is at most `max_stderr`, then that every |z| is at most `sigmas`."""
    value, stderr, exact, bound = np.broadcast_arrays(
        *(np.asarray(a, np.float64) for a in (estimate.value, estimate.stderr, exact, max_stderr))
    )
    z = z_scores(Estimate(value, stderr), exact)

    def table(bad: np.ndarray) -> str:
        rows = [
            f"  {i}: {value[i]:.6g} +- {stderr[i]:.2g} (bound {bound[i]:.2g}), exact {exact[i]:.6g}, z = {z[i]:+.2f}"
            for i in map(tuple, np.argwhere(bad)[:12])
        ]
        return "\n".join([f"{what}: {bad.sum()} of {bad.size}", *rows])

    loose = ~((stderr >= 0) & (stderr <= bound))  # NaN is loose too
    assert not loose.any(), "the standard error is missing or above its bound in " + table(loose)
    off = ~(np.abs(z) <= sigmas)
    assert not off.any(), f"more than {sigmas} standard errors from the exact value in " + table(off)


def coverage(estimate: Any, exact: Any, width: float = 1.96) -> float:
    """The share of replicas (all axes) whose interval of +- width standard errors holds the exact value."""
    return float(np.mean(np.abs(z_scores(estimate, exact)) <= width))


def assert_coverage(
    estimate: Any, exact: Any, least: float, most: float = 1.0, far: float = 0.01, what: str = "intervals"
) -> None:
    """Coverage of 1.96 standard errors within [least, most], and at most a share `far` beyond 4 standard errors.

    All three are widened by 3 binomial standard errors of the number of replicas, at least 200 of them.
    """
    z = np.abs(z_scores(estimate, exact))
    assert z.size >= 200, f"{what}: {z.size} replicas cannot tell a coverage"
    assert np.isfinite(z).all(), f"{what}: {(~np.isfinite(z)).sum()} of {z.size} have no finite error"
    inside, beyond = np.mean(z <= 1.96), np.mean(z > 4)

    def slack(share: float) -> float:
        return 3 * np.sqrt(share * (1 - share) / z.size)

    assert least - slack(least) <= inside <= most + slack(most), f"{what}: {inside:.3f} covered, not {least} to {most}"
    assert beyond <= far + slack(far), f"{what}: {beyond:.4f} beyond 4 standard errors, more than {far}"


def autoregressive(rng: np.random.Generator, rho: float, shape: tuple[int, ...]) -> np.ndarray:
    """Stationary AR(1) draws of mean 0 and variance 1 along the last axis; the mean of N has variance
    (1+rho)/(1-rho)/N."""
    noise = rng.standard_normal(shape)
    noise[..., 1:] *= np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], noise, axis=-1))
