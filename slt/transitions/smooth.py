"""Steps in a curve that is otherwise smooth on a given scale: for curves of which no theory bounds the shape.

The null is a line plus a Gaussian process (Matern 5/2 of that scale, its amplitude fitted) plus the stated noise. A
step between two neighbouring points is estimated by generalised least squares; the law of the largest is simulated from
the fitted null, its amplitude fitted anew each time. A change is told from a smooth one only where the grid resolves
the scale: with fewer than about three points a scale nothing is abrupt.
"""

import numpy as np
from scipy import linalg

AMPLITUDES = np.concatenate([[0.0], np.geomspace(0.03, 30.0, 13)])
"""Of the process, in standard deviations of the curve: the likeliest is taken."""
EDGE = 2
"""Points that a step leaves on either side at the least."""


def steps(
    x: np.ndarray, value: np.ndarray, stderr: np.ndarray, scale: float, dof: float, simulations: int,
    rng: np.random.Generator,
) -> tuple[float, np.ndarray, tuple[int, int]]:  # fmt: skip
    """(largest |step| in its standard errors, that of each simulated null, indices of x on both sides of it)."""
    use = np.flatnonzero(np.isfinite(value))
    at, y, s = x[use], value[use], stderr[use]
    unit = float(np.std(y)) + 1e-300
    models = [_Model(at, s / unit, amplitude, scale) for amplitude in AMPLITUDES]
    z, chosen = _largest(models, y[:, None] / unit)
    null = models[int(chosen[0])]
    smooth = null.root @ rng.standard_normal((len(at), simulations))
    noise = (s / unit)[:, None] * rng.standard_t(dof, (len(at), simulations))
    law, _ = _largest(models, smooth + noise)
    place = int(np.argmax(np.abs(null.z(y[:, None] / unit)[:, 0]))) + EDGE - 1
    return float(z[0]), law, (int(use[place]), int(use[place + 1]))


def _largest(models: "list[_Model]", y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest |z| of each column of y under the amplitude likeliest for it, and which that is."""
    chosen = np.argmax(np.array([model.log_likelihood(y) for model in models]), axis=0)
    found = np.zeros(y.shape[1])
    for k, model in enumerate(models):
        mine = chosen == k
        if mine.any():
            found[mine] = np.abs(model.z(y[:, mine])).max(0)
    return found, chosen


class _Model:
    """One amplitude: likelihoods and steps of many curves y [k, m] at once."""

    def __init__(self, x: np.ndarray, stderr: np.ndarray, amplitude: float, scale: float):
        r = np.sqrt(5.0) * np.abs(x[:, None] - x) / scale
        kernel = amplitude**2 * (1 + r + r**2 / 3) * np.exp(-r) + 1e-12 * np.eye(len(x))
        self.root = np.linalg.cholesky(kernel + 1e-12 * max(amplitude, 1.0) ** 2 * np.eye(len(x)))
        lower = np.linalg.cholesky(kernel + np.diag(np.square(np.maximum(stderr, 1e-6))))
        self.log_det = float(np.log(np.diag(lower)).sum())
        trend = np.stack([np.ones_like(x), (x - x.mean()) / np.ptp(x)], axis=1)
        places = np.arange(EDGE, len(x) - EDGE + 1)
        jumps = (np.arange(len(x))[:, None] >= places).astype(float)
        self.white = linalg.solve_triangular(lower, np.eye(len(x)), lower=True)
        basis, upper = np.linalg.qr(self.white @ trend)
        self.log_det += float(np.log(np.abs(np.diag(upper))).sum())  # restricted likelihood: the line is free
        self.off = np.eye(len(x)) - basis @ basis.T
        rows = self.off @ self.white @ jumps
        self.rows = rows / np.maximum(np.linalg.norm(rows, axis=0), 1e-300)

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        return -0.5 * np.square(self.off @ (self.white @ y)).sum(0) - self.log_det

    def z(self, y: np.ndarray) -> np.ndarray:
        return self.rows.T @ (self.off @ (self.white @ y))
