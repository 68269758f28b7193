"""Targets of the accuracy benchmark: local posteriors whose lam(t) = t (<L> - L(w*)) is known by another route.

Each is exp(-t L(w)) prior(w) exp(-(gamma/2) |w - w*|^2). References: closed forms; quadrature in 1 to 3 dimensions
(slt.theory, or on grids here); exact elimination of one factor of two-layer networks; elsewhere a long run in float64
by the Hamiltonian Monte Carlo written here in NumPy, which shares no code with slt's samplers, with its own error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import slt
from slt.models import _kgon, power_law
from slt.theory.factorisation import power_law as exact_power_law
from slt.theory.quadrature import quadrature
from slt.theory.reference import two_layer_reference

Reference = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class Target:
    """One local posterior. loss: as `slt.llc` takes it; exact() -> lam(t) and its standard error."""

    family: str
    name: str
    loss: Any
    params: Any
    t: float
    exact: Reference
    data: Any = None
    gamma: float = 1.0
    prior: Any = None


def quadratures(fn: Callable[[np.ndarray], np.ndarray], t: float, centre: Any, gamma: float = 1.0) -> Reference:
    """By slt.theory.quadrature under the localiser alone, on a box of 8 of its standard deviations."""
    centre = np.asarray(centre, float)
    box = [(c - 8 / np.sqrt(gamma), c + 8 / np.sqrt(gamma)) for c in centre]
    breaks = [[c] for c in centre]

    def exact() -> tuple[float, float]:
        prior = lambda w: -gamma / 2 * np.square(w - centre).sum(-1)  # noqa: E731
        found = quadrature(fn, t, box, log_prior=prior, breaks=breaks, rtol=1e-6)
        return float(np.squeeze(found.lam)) - t * float(fn(centre[None])[0]), 0.0

    return exact


def grid(
    fn: Callable[..., Any],
    t: float,
    box: Any,
    inside: Any = None,
    at: float = 0.0,
    gamma: float = 1.0,
    centre: Any = 0.0,
) -> Reference:
    """In one dimension, on a million points, of a region if given."""

    def exact() -> tuple[float, float]:
        w = np.linspace(box[0], box[1], 1_000_001)
        value = fn(w)
        weight = np.exp(-t * (value - at) - gamma / 2 * np.square(w - centre)) * (1.0 if inside is None else inside(w))
        return float(t * ((value - at) * weight).sum() / weight.sum()), 0.0

    return exact


def long_run(loss: Callable[[Any], Any], params: Any, t: float, gamma: float = 1.0, prior: float = 0.0) -> Reference:
    """Own Hamiltonian Monte Carlo in float64, 128 chains from w*; the error from their spread."""

    def exact() -> tuple[float, float]:
        with jax.enable_x64(True):
            centre, back = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
            base = loss(back(centre))
            one = jax.value_and_grad(lambda w: loss(back(w)) - base)
            both = jax.jit(jax.vmap(one))
            rng, chains, size = np.random.default_rng(1), 128, centre.size
            w, step = np.repeat(np.asarray(centre)[None], chains, 0), np.full(chains, 0.3 / np.sqrt(t))
            start = np.asarray(centre)

            def at(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                value, slope = (np.asarray(part) for part in both(w))
                energy = t * value + gamma / 2 * np.square(w - start).sum(1) + prior / 2 * np.square(w).sum(1)
                return value, energy, t * slope + gamma * (w - start) + prior * w

            value, energy, slope = at(w)
            kept, warm, draws = [], 400, 2400
            for draw in range(draws):
                h = (step * rng.uniform(0.2, 1.6, chains))[:, None]
                p = rng.standard_normal((chains, size))
                new_value, new_energy = value, energy
                before, x, g = energy + np.square(p).sum(1) / 2, w, slope
                for _ in range(int(rng.integers(5, 60))):
                    p = p - h / 2 * g
                    x = x + h * p
                    new_value, new_energy, g = at(x)
                    p = p - h / 2 * g
                change = before - new_energy - np.square(p).sum(1) / 2
                chance = np.exp(np.minimum(np.where(np.isfinite(change), change, -np.inf), 0))
                yes = rng.uniform(size=chains) < chance
                w, slope = np.where(yes[:, None], x, w), np.where(yes[:, None], g, slope)
                value, energy = np.where(yes, new_value, value), np.where(yes, new_energy, energy)
                if draw < warm:
                    step = step * np.exp((chance - 0.85) / np.sqrt(draw / 8 + 1))
                else:
                    kept.append(t * value)
            means = np.mean(kept, 0)
            return float(means.mean()), float(means.std(ddof=1) / np.sqrt(chains))

    return exact


def tanh_units(x: np.ndarray, hidden: int, t: float, gamma: float = 1.0) -> Reference:
    """Of sum_i a_i tanh(b_i x) with zero truth, two or three units: a in closed form, quadrature over b >= 0.

    K = a^T G(b) a / 2 with G_ij = mean tanh(b_i x) tanh(b_j x), so that b has the density |t G + gamma|^(-1/2) N(b; 0,
    1/gamma) and t <K> at b is (h - gamma tr (t G + gamma)^-1)/2. 168 nodes: as with 84 to nine digits.
    """
    edges = np.array([0, 0.02, 0.06, 0.15, 0.3, 0.5, 0.75, 1, 1.4, 1.8, 2.3, 3, 4, 5.5, 7.5]) / np.sqrt(gamma)

    def exact() -> tuple[float, float]:
        roots, shares = np.polynomial.legendre.leggauss(12)
        half, middle = np.diff(edges)[:, None] / 2, (edges[1:, None] + edges[:-1, None]) / 2
        b, weight = (middle + half * roots).ravel(), (half * shares).ravel()
        weight = weight * np.exp(-gamma * np.square(b) / 2)
        seen = np.tanh(b[:, None] * x)
        gram = t * seen @ seen.T / len(x)
        units = [(i,) for i in range(len(b))] if hidden == 3 else [()]
        total = np.zeros(2)
        for fixed in units:  # one unit at a time, the other two whole
            rows = [np.full((len(b), len(b)), i) for i in fixed] + list(np.indices((len(b), len(b))))
            matrix = np.stack([np.stack([gram[i, j] for j in rows], -1) for i in rows], -2)
            matrix = matrix + gamma * np.eye(hidden)
            density = np.prod([weight[i] for i in rows], 0) / np.sqrt(np.linalg.det(matrix))
            trace = np.trace(np.linalg.inv(matrix), axis1=-2, axis2=-1)
            total += density.sum(), np.sum(density * (hidden - gamma * trace) / 2)
        return float(total[1] / total[0]), 0.0

    return exact


def targets() -> Iterator[Target]:
    """All of them, family by family."""
    yield from _regular()
    yield from _singular()
    yield from _linear_networks()
    yield from _units()
    yield from _landscapes()


def _sum_of_squares(scales: tuple[float, ...]) -> Callable[[Any], Any]:
    return lambda w: jnp.sum(jnp.asarray(scales) * jnp.square(w))


def _regular() -> Iterator[Target]:
    for scales, t in (((1.0,) * 4, 100.0), ((1.0,) * 50, 1e4), (tuple(np.geomspace(1e-3, 1, 30)), 1e3)):
        h = 2 * t * np.array(scales)
        value = float(0.5 * (h / (h + 1)).sum())
        yield Target(
            "regular",
            f"{len(scales)} squares",
            _sum_of_squares(scales),
            jnp.zeros(len(scales)),
            t,
            lambda v=value: (v, 0.0),
        )
    for n, d, seed in ((100, 3, 0), (1000, 10, 1), (3000, 40, 2)):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, d)) * np.geomspace(0.3, 2, d)
        y = x @ rng.normal(size=d) + rng.normal(size=n)
        best, t = np.linalg.lstsq(x, y, rcond=None)[0], n / np.log(n)
        hessian = t * x.T @ x / n
        value = float(0.5 * np.trace(hessian @ np.linalg.inv(hessian + np.eye(d))))
        loss = lambda w, data: 0.5 * jnp.square(data[1] - data[0] @ w)  # noqa: E731
        data = (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
        yield Target("regular", f"regression n={n} d={d}", loss, jnp.asarray(best), t, lambda v=value: (v, 0.0), data)


def _singular() -> Iterator[Target]:
    for k, t in ((2, 1e3), (2, 1e5), (3, 1e3)):
        fn = lambda w, k=k: w[0] ** (2 * k)  # noqa: E731
        yield Target("m = 1", f"x^{2 * k}", fn, jnp.zeros(1), t, grid(lambda w, k=k: w ** (2 * k), t, (-9, 9)))
    curves = {
        "x^4 + y^6": (lambda w: w[..., 0] ** 4 + w[..., 1] ** 6),
        "cusp": (lambda w: (w[..., 1] ** 2 - w[..., 0] ** 3) ** 2),
        "(x^2 y)^2": (lambda w: (w[..., 0] ** 2 * w[..., 1]) ** 2),
    }
    for name, fn in curves.items():
        yield Target("m = 1", name, fn, jnp.zeros(2), 1e3, quadratures(fn, 1e3, (0, 0)))
    node = lambda w: (w[..., 0] * w[..., 1]) ** 2  # noqa: E731
    for t in (1e2, 1e3, 1e4):
        yield Target("m = 2", "(xy)^2", node, jnp.zeros(2), t, quadratures(node, t, (0, 0)))
    eight = lambda w: (w[..., 1] ** 2 - w[..., 0] ** 2 + w[..., 0] ** 4) ** 2  # noqa: E731
    yield Target("m = 2", "figure eight", eight, jnp.zeros(2), 1e3, quadratures(eight, 1e3, (0, 0)))
    triple = lambda w: (w[..., 0] * w[..., 1] * w[..., 2]) ** 2  # noqa: E731
    for t in (1e2, 1e3):
        yield Target("m = 3", "(xyz)^2", triple, jnp.zeros(3), t, quadratures(triple, t, (0, 0, 0)))


def _network(widths: tuple[int, ...], rank: int, seed: int) -> tuple[Any, Any, np.ndarray]:
    """(loss, an optimum with all unused blocks zero, M) of |W_L .. W_1 - M|^2 with M of that rank."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in (widths[-1], widths[0]))
    matrix = u @ np.diag(np.linspace(1.0, 2.0, rank)) @ v.T
    root = np.diag(np.linspace(1.0, 2.0, rank) ** (1 / (len(widths) - 1)))
    layers = []
    for i in range(len(widths) - 1):
        w = np.zeros((widths[i + 1], widths[i]))
        if len(widths) == 2:
            w[:] = matrix
        elif i == 0:
            w[:rank] = root @ v.T
        elif i == len(widths) - 2:
            w[:, :rank] = u @ root
        else:
            w[:rank, :rank] = root
        layers.append(w)

    def loss(w: Any) -> Any:
        product = w[0]
        for factor in w[1:]:
            product = factor @ product
        return jnp.sum(jnp.square(product - jnp.asarray(matrix, product.dtype)))

    return loss, tuple(jnp.asarray(w) for w in layers), matrix


def _linear_networks() -> Iterator[Target]:
    for widths, rank, t in (((3, 2, 3), 0, 1e3), ((5, 3, 5), 1, 1e3), ((10, 5, 8), 3, 587.0), ((6, 4, 7), 2, 1e4)):
        loss, params, matrix = _network(widths, rank, 0)

        def exact(t: float = t, w: Any = params, m: Any = matrix, h: int = widths[1]) -> tuple[float, float]:
            found = two_layer_reference(
                t, m, h, centre=(np.asarray(w[1], float), np.asarray(w[0], float)), draws=2500, seed=3
            )
            return found.lam, found.stderr

        family = "reduced rank" if rank and widths[1] < 5 else "deep linear"
        yield Target(family, f"{widths} r={rank}", loss, params, t, exact)
    deep = ((4, 3, 3, 4), 1, 1e3), ((3, 3, 3, 3), 0, 1e3), ((5, 5, 5, 5, 5), 2, 1e3), ((4, 4, 4, 4, 4, 4), 1, 1e3)
    for widths, rank, t in deep:
        loss, params, _ = _network(widths, rank, 1)
        yield Target("deep linear", f"{widths} r={rank}", loss, params, t, long_run(loss, params, t))
    for widths, rank, t in (((7, 4, 6), 1, 1e3), ((7, 3, 6), 2, 1e3), ((4, 3, 8), 1, 300.0)):
        loss, params, matrix = _network(widths, rank, 2)

        def regression(t: float = t, w: Any = params, m: Any = matrix, h: int = widths[1]) -> tuple[float, float]:
            centre = (np.asarray(w[1], float), np.asarray(w[0], float))
            found = two_layer_reference(t, m, h, centre=centre, draws=2500, seed=4)
            return found.lam, found.stderr

        yield Target("reduced rank", f"{widths} r={rank}", loss, params, t, regression)


def _units() -> Iterator[Target]:
    x = np.linspace(-1, 1, 101)
    for t in (100.0, 1000.0):

        def one(w: Any, x: Any) -> Any:
            return 0.5 * jnp.square(w[0] * jnp.tanh(w[1] * x[:, 0]))

        def flat(w: np.ndarray) -> np.ndarray:
            a, b = w[..., 0, None], w[..., 1, None]
            return 0.5 * np.square(a * np.tanh(b * x)).mean(-1)

        data = jnp.asarray(x, jnp.float32)[:, None]
        yield Target("tanh", "1 unit, zero truth", one, jnp.zeros(2), t, quadratures(flat, t, (0, 0)), data)
    for hidden, t in ((2, 300.0), (3, 1000.0)):

        def several(w: Any, x: Any) -> Any:
            return 0.5 * jnp.square(jnp.tanh(x * w["b"]) @ w["a"])

        params = {"a": jnp.zeros(hidden), "b": jnp.zeros(hidden)}
        data = jnp.asarray(x, jnp.float32)[:, None]
        yield Target("tanh", f"{hidden} units, zero truth", several, params, t, tanh_units(x, hidden, t), data)
    for n, t in ((200, 200.0), (1000, 1000.0)):
        z = np.random.default_rng(n).normal(size=n)

        def mixture(w: Any, z: Any) -> Any:
            share, b = jax.nn.sigmoid(w[0] - 2), w[1]
            return -jnp.log1p(share * jnp.expm1(b * z - b * b / 2))

        def numpy(w: np.ndarray, z: np.ndarray = z) -> np.ndarray:
            share, b = 1 / (1 + np.exp(2 - w[..., 0, None])), w[..., 1, None]
            return -np.log1p(share * np.expm1(b * z - b * b / 2)).mean(-1)

        data = jnp.asarray(z, jnp.float32)
        yield Target("mixture", f"n={n}", mixture, jnp.zeros(2), t, quadratures(numpy, t, (0, 0)), data)

    def relu(w: Any, x: Any) -> Any:
        return 0.5 * jnp.square(w[0] * jax.nn.relu(w[1] * x[:, 0] + w[2]))

    def rectified(w: np.ndarray) -> np.ndarray:
        return 0.5 * np.square(w[..., :1] * np.maximum(w[..., 1:2] * x + w[..., 2:], 0)).mean(-1)

    for t in (100.0, 587.0):
        w = np.array([1.0, 0.5, -1.0])
        draws = np.random.default_rng(5).normal(w, size=(400_000, 3))

        def dead(t: float = t, draws: np.ndarray = draws) -> tuple[float, float]:
            value = np.concatenate([rectified(part) for part in np.array_split(draws, 40)])
            weight = np.exp(-t * value)
            ratio = (value * weight).mean() / weight.mean()
            spread = ((value - ratio) * weight).std() / weight.mean() / np.sqrt(len(value))
            return float(t * ratio), float(t * spread)

        yield Target("dead unit", "relu", relu, jnp.asarray(w), t, dead, jnp.asarray(x, jnp.float32)[:, None])


def _optimum(model: slt.Model) -> Any:
    return (model.truth() or slt.Truth()).params


def _landscapes() -> Iterator[Target]:
    for k, plus, t in ((6, 0, 1e3), (6, 0, 1e4), (5, 0, 1e4), (5, 1, 1e4), (4, 2, 1e5)):
        w = _kgon.kgon(k, plus, 6)
        reference = long_run(_kgon.population_loss, w, t, 10.0, 1.0)
        name = f"{k}{'+' * plus}, t={t:g}"
        yield Target("superposition", name, _kgon.population_loss, w, t, reference, gamma=10.0, prior=slt.Normal())
    both = lambda w: np.minimum(0.01 + (w + 1) ** 4, 20 * (w - 1) ** 2)  # noqa: E731
    jaxed = lambda w: jnp.minimum(0.01 + (w[0] + 1) ** 4, 20 * (w[0] - 1) ** 2)  # noqa: E731
    edge = 0.497836730716
    for t in (100.0, 300.0, 1000.0):
        sharp = grid(both, t, (-2, 2), lambda w: w > edge, 0.0, 1.0, 1.0)
        yield Target("two basins", f"V, t={t:g}", jaxed, jnp.ones(1), t, sharp, prior=slt.Uniform(-2, 2))
    for t in (50.0, 100.0):
        wide = grid(both, t, (-2, 2), lambda w: w < edge, 0.01, 1.0, -1.0)
        yield Target("two basins", f"U, t={t:g}", jaxed, -jnp.ones(1), t, wide, prior=slt.Uniform(-2, 2))
    for modes, t in ((16, 100.0), (64, 100.0), (64, 1000.0)):
        model = power_law.make(modes)

        def law(t: float = t, modes: int = modes) -> tuple[float, float]:
            return float(np.squeeze(exact_power_law(t, modes, 0.4).lam)), 0.0

        yield Target("power law", f"{modes} modes", model, _optimum(model), t, law, gamma=0.0)
