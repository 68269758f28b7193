"""Three ReLU nodes in the plane, x -> sum_j relu(w_j . x + b_j), whose truth has two nodes that an angle makes one.

The truth's nodes are v_1, v_2, of length 1 and an angle theta apart, and v_3 = -(v_1 + v_2), without biases. As theta
goes to 0 the first two become one, and two nodes suffice: the third may then be dead, or share the place of another.
As the vectors sum to 0, all orientations may be reversed, w_j -> -w_j, without a change of the function (relu(u) -
relu(-u) = u): a truth of three nodes is met by two nodes to the right and one to the left, or the reverse, in two
phases of equal loss and equal prior. Inputs are uniform on the points of a square lattice within a disc, so that the
population loss is a finite sum and exact.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

from slt.model import Model, Potential, Truth
from slt.models._units import set_apart
from slt.phases import ActiveUnits, Basin, Phases
from slt.priors import Gaussian, Normal, Prior
from slt.typing import Batch, InputError, Integer, Key, Number, Params, Scalar

NODES = 3
RADIUS = 2.0


def lattice(spacing: float = 0.25) -> Float[np.ndarray, "points 2"]:
    """The points of a square lattice, symmetric about 0, within the disc of radius 2."""
    line = np.arange(-RADIUS + spacing / 2, RADIUS, spacing)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return points[np.hypot(*points.T) < RADIUS]


_POINTS = lattice()


def nodes(theta: Number) -> Float[Array, "3 2"]:
    """The truth's nodes at the angle theta."""
    across, along = jnp.sin(theta / 2), jnp.cos(theta / 2)
    first, second = jnp.stack([along, across]), jnp.stack([along, -across])
    return jnp.stack([first, second, -(first + second)])


def network(w: Float[Array, "h 2"], b: Float[Array, " h"], x: Float[Array, "n 2"]) -> Float[Array, " n"]:
    """sum_j relu(w_j . x + b_j) of every sample; nodes first inside."""
    return jnp.sum(jax.nn.relu(w @ x.T + b[:, None]), axis=0)


def _split(params: Any) -> tuple[Array, Array]:
    if isinstance(params, dict):
        return params["w"], params["b"]
    return params[: 2 * NODES].reshape(NODES, 2), params[2 * NODES :]


@dataclass(frozen=True)
class Activity:
    """Root mean square of every node's output over the inputs, and its output scaled to size one; idle: of no place."""

    idle: float

    def __call__(self, params: Any) -> tuple[Float[Array, " h"], Float[Array, "h points"]]:
        w, b = _split(params)
        points = jnp.asarray(_POINTS.astype(w.dtype))
        output = jax.nn.relu(w @ points.T + b[:, None]) / np.sqrt(len(_POINTS)).astype(w.dtype)
        size = jnp.sqrt(jnp.sum(jnp.square(output), axis=1))
        return size, set_apart(size, output / jnp.maximum(size, 1e-6)[:, None], self.idle)


@dataclass(frozen=True)
class Label:
    """0: fewer than three distinct nodes; 1: three, of which two or three point to the right; 2: the reverse."""

    count: ActiveUnits

    def __call__(self, params: Any) -> Integer:
        right = jnp.sum(_split(params)[0][:, 0] > 0) >= 2
        return jnp.where(self.count(params) < NODES, 0, jnp.where(right, 1, 2)).astype(jnp.int32)


def phases(threshold: float = 0.36, merge: float = 0.35) -> Phases:
    """degenerate (a node dead, or merged with another), or three nodes oriented 'right' or 'left'.

    threshold: of a node's root mean square output, half that of the truth's first two; merge: distance of outputs
    scaled to size one, which is 0.47 between the truth's first two at theta = 0.5, and more beyond.
    """
    rule = f"nodes of output above {threshold:g}, merged within {merge:g}; orientation by the majority's side"
    label = Label(ActiveUnits(Activity(float(threshold)), NODES, float(threshold), float(merge)))
    return Phases(("degenerate", "right", "left"), label, rule)


@dataclass(frozen=True)
class Excess:
    """K(w) = E[(f_w - f_theta)^2]/(2 sigma^2) over the lattice, w = (w_1 .. w_3, b_1 .. b_3)."""

    sigma: float

    def __call__(self, w: Float[Array, " 9"], theta: Number = 1.0) -> Scalar:
        points = jnp.asarray(_POINTS.astype(w.dtype))
        truth = network(nodes(jnp.asarray(theta, w.dtype)), jnp.zeros(NODES, w.dtype), points)
        return jnp.mean(jnp.square(network(*_split(w), points) - truth)) / (2 * self.sigma**2)


def optimum(theta: float, reverse: bool = False) -> Float[np.ndarray, " 9"]:
    """The truth's own parameters, or those with all orientations reversed."""
    best = np.concatenate([np.asarray(nodes(theta), np.float64).ravel(), np.zeros(NODES)])
    return -best if reverse else best


def degenerate(theta: float, sigma: float = 0.5) -> tuple[Float[np.ndarray, " 9"], float]:
    """The best network of two nodes, the third dead, and its loss K: the best of BFGS from a few starts, in float64."""
    across, along = np.sin(theta / 2), np.cos(theta / 2)
    v = np.array([[along, across], [along, -across], [-2 * along, 0.0]])
    truth = np.maximum(_POINTS @ v.T, 0).sum(1)

    def both(free: np.ndarray) -> tuple[float, np.ndarray]:
        at = _POINTS @ free[:4].reshape(2, 2).T + free[4:]
        residual = np.maximum(at, 0).sum(1) - truth
        slope = residual[:, None] * (at > 0) / (sigma**2 * len(_POINTS))
        return float(np.mean(residual**2) / (2 * sigma**2)), np.concatenate([(slope.T @ _POINTS).ravel(), slope.sum(0)])

    starts = [np.concatenate([*pair, [0.0, 0.0]]) for pair in ((v[0] + v[1], v[2]), (2 * v[0], v[2]), (v[0], v[1]))]
    options = {"gtol": 1e-10}
    found = [scipy.optimize.minimize(both, start, jac=True, method="BFGS", options=options) for start in starts]
    best = min(found, key=lambda each: each.fun)
    return np.concatenate([best.x[:4], [0.0, 0.0], best.x[4:], [-1.0]]), float(best.fun)


def _known(theta: float, sigma: float, least: float, tree: bool) -> Truth:
    """Phases and basins; `least` is the loss of the truth. tree: of parameters as a dict, else as one array."""

    def params(w: np.ndarray) -> Any:
        flat = jnp.asarray(w, jnp.result_type(float))
        return dict(zip(("w", "b"), _split(flat), strict=True)) if tree else flat

    def loss(at: Any) -> Scalar:
        w = jnp.concatenate([at["w"].reshape(-1), at["b"]]) if isinstance(at, dict) else at
        return Excess(sigma)(w, theta) + least

    poor, height = degenerate(theta, sigma)
    basins = (
        Basin("right", params(optimum(theta)), "right", least, 9 / 2, 1),
        Basin("left", params(optimum(theta, reverse=True)), "left", least, 9 / 2, 1),
        Basin("degenerate", params(poor), "degenerate", least + height, 3.0, 1),
    )
    return Truth(
        params=basins[0].params,
        loss=least,
        entropy=least if tree else None,
        lam=9 / 2,
        multiplicity=1,
        source="regular for 0 < theta < pi: three distinct nodes of three parameters each",
        population_loss=loss,
        basins=basins,
        phases=phases(),
    )


@dataclass(frozen=True)
class Nodes(Model):
    """y = f_theta(x) + N(0, sigma^2), x uniform on the lattice; parameters {"w": f[3, 2], "b": f[3]}; batch (x, y).

    Controls: theta, prior.scale, likelihood.sigma.
    """

    theta: float = 1.0
    prior: Prior = field(default_factory=Normal)
    likelihood: Gaussian = field(default_factory=lambda: Gaussian(0.5))

    controls: ClassVar[tuple[str, ...]] = ("theta", "prior.scale", "likelihood.sigma")

    def __post_init__(self) -> None:
        _check(self.theta)

    def init(self, key: Key) -> Params:
        return self.prior.sample(key, {"w": jnp.zeros((NODES, 2)), "b": jnp.zeros(NODES)})

    def log_prior(self, params: Params) -> Scalar:
        return self.prior.log_density(params)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        x, y = batch
        return self.likelihood.log_density(network(params["w"], params["b"], x), y)

    def sample(self, key: Key, num: int) -> Batch:
        where, noise = jax.random.split(key)
        dtype = jnp.result_type(float)
        x = jnp.asarray(_POINTS.astype(dtype))[jax.random.randint(where, (num,), 0, len(_POINTS))]
        truth = network(nodes(jnp.asarray(self.theta, dtype)), jnp.zeros(NODES, dtype), x)
        return x, self.likelihood.sample(noise, truth)

    def truth(self) -> Truth:
        sigma = float(self.likelihood.sigma)
        return _known(float(self.theta), sigma, float(0.5 * np.log(2 * np.pi * np.e) + np.log(sigma)), tree=True)


def make(theta: float = 1.0, sigma: float = 0.5, scale: float = 1.0) -> Nodes:
    """The model with data: noise sigma, prior N(0, scale^2)."""
    return Nodes(theta, Normal(scale), Gaussian(sigma))


def population(theta: float = 1.0, sigma: float = 0.5, scale: float = 1.0) -> Potential:
    """K(w) of the population; t = n beta. Control: theta."""
    _check(theta)
    return Potential(
        Excess(sigma), 3 * NODES, Normal(scale), (("theta", theta),), _known(theta, sigma, 0.0, tree=False)
    )


def _check(theta: float) -> None:
    if not 0 < theta < np.pi:
        raise InputError("theta", theta, "must lie between 0, where two nodes are one, and pi")
