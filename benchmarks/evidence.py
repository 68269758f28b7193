"""The other estimators of the accuracy benchmark: free energies by every route, and criteria, against exact values.

Rows are {"estimator", "target", "t", "exact", "value", "stderr", "z"}; `python benchmarks/accuracy.py` prints them.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import slt
from slt.models import linear_regression, normal_crossing, power_law, sums_of_squares, two_basins
from slt.theory import exact, factorisation
from slt.theory.regression import linear_regression as exact_regression
from slt.theory.regression import wbic

T = np.array([10.0, 100.0, 1000.0, 10_000.0])
Z90 = 1.6448536


def potentials(t: np.ndarray = T) -> Iterator[tuple[str, slt.Model, Any]]:
    """(name, model, its exact F and lam at t) of the potentials of science.md B1, B2 and B4."""
    yield "squares", sums_of_squares.make(4), exact.gaussian_squares(t, 4)
    for k in (2, 3):
        model = slt.potential(lambda w, k=k: w[0] ** (2 * k), 1, slt.Uniform(-1.0, 1.0))
        yield f"x^{2 * k}", model, exact.monomial(t, k)
    for d in (2, 3):
        yield f"crossing {d}", normal_crossing.make((1,) * d), exact.normal_crossing(t, d)
    yield "x^2 y", normal_crossing.make((2, 1)), exact.crossing(t, [2, 1])
    yield "two basins", two_basins.make(), exact.two_basins(t)
    for depth in (2, 3):
        for s in (0.0, 0.1, 1.0):
            model = normal_crossing.make((1,) * depth, s=s, prior=slt.Normal())
            yield f"chain {depth}, {s}", model, factorisation.scalar_chain(t, depth, s)


def _rows(estimator: str, target: str, t: Any, known: Any, found: slt.Estimate) -> Iterator[dict[str, Any]]:
    for at, truth, value, stderr in zip(*np.broadcast_arrays(t, known, found.value, found.stderr), strict=True):
        z = (value - truth) / stderr
        yield {
            "estimator": estimator, "target": target, "t": float(at), "exact": float(truth), "value": float(value),
            "stderr": float(stderr), "z": float(z),
        }  # fmt: skip


def free_energies(seeds: int) -> Iterator[dict[str, Any]]:
    """F of every potential and, of the largest, of the power law, by every route."""
    for seed in range(seeds):
        for name, model, curve in potentials():
            report = slt.free_energy(model, T, key=jax.random.key(seed))
            for route, estimate in {**report.routes, "best": report.best}.items():
                yield from _rows(f"F, {route}", name, T, curve.free_energy, estimate)
            yield from _rows("lam(t)", name, T, curve.lam, report.lam)
            jax.clear_caches()
    modes = 64
    curve = factorisation.power_law(T, modes, 0.4)
    report = slt.free_energy(
        power_law.make(modes), T, routes=("thermodynamic", "mbar", "smc"), budget=slt.Budget(stderr=0.3, seconds=200)
    )
    yield from _rows("F, best", "power law", T, curve.free_energy, report.best)
    yield from _rows("lam(t)", "power law", T, curve.lam, report.lam)


def criteria(seeds: int) -> Iterator[dict[str, Any]]:
    """Criteria of the regression of science.md B3 and of one with 40 samples and 4 parameters."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    cases = {
        "regression n=8": (linear_regression.make(), linear_regression.example()),
        "regression n=40": (
            linear_regression.make((0.0,) * 4),
            (x.astype(np.float32), (x @ rng.normal(size=4) + rng.normal(size=40)).astype(np.float32)),
        ),
    }
    for name, (model, data) in cases.items():
        inputs, outputs = (np.asarray(part, np.float64) for part in data)
        known = exact_regression(inputs, outputs)
        truths = {
            "bayes_training_loss": known.training_loss, "gibbs_training_loss": known.gibbs_training_loss,
            "functional_variance": known.functional_variance, "singular_fluctuation": known.singular_fluctuation,
            "waic": known.waic, "wbic": wbic(inputs, outputs),
        }  # fmt: skip
        for seed in range(seeds):
            found = slt.criteria(model, data, seed=seed)
            for field, truth in truths.items():
                yield from _rows(field, name, [len(outputs)], truth, getattr(found, field))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By estimator: how many, the root mean square z and its largest, the largest stated error, coverage at 90 %."""
    found = {}
    for name in dict.fromkeys(row["estimator"] for row in rows):
        z = np.array([row["z"] for row in rows if row["estimator"] == name])
        found[name] = {
            "estimates": len(z), "rms_z": float(np.sqrt(np.mean(z**2))), "largest_z": float(np.abs(z).max()),
            "largest_stderr": max(row["stderr"] for row in rows if row["estimator"] == name),
            "coverage_90": float(np.mean(np.abs(z) <= Z90)),
        }  # fmt: skip
    return found
