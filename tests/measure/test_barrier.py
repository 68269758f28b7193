import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy import integrate, special
from stats import assert_close

import slt
from slt.measure.barrier import Profile, barrier, escape
from slt.models import two_basins
from slt.models.gaussian_location import make as gaussian_location
from slt.posterior import Posterior
from slt.samplers import SGLD
from slt.typing import Estimate, InputError

KINK = 0.497836730716  # science.md B2
W = np.unique(np.concatenate([np.linspace(-2, 2, 400_001), KINK + np.linspace(-1e-3, 1e-3, 20_001)]))


def quadrature(t: float) -> tuple[np.ndarray, dict[str, float]]:
    """F on W and the barriers of two_basins, by the trapezoid on a grid that is fine at the kink."""
    energy = t * np.minimum(0.01 + (W + 1) ** 4, 20 * (W - 1) ** 2)
    value = energy + np.log(integrate.trapezoid(np.exp(-energy), W))
    top = float(np.interp(KINK, W, value))
    low, high = (-np.log(integrate.trapezoid(np.exp(-value[part]), W[part])) for part in (W <= KINK, W >= KINK))
    bottoms = [float(np.interp(at, W, value)) for at in (-1.0, 1.0)]
    return value, {
        "up": top - bottoms[0], "down": top - bottoms[1], "basin up": top - low, "basin down": top - high,
        "preference": high - low, "top": top,
    }  # fmt: skip


def read(found: Profile) -> dict[str, Estimate]:
    return {
        "up": found.forward.barrier, "down": found.back.barrier, "basin up": found.forward.from_basin,
        "basin down": found.back.from_basin, "preference": found.preference, "top": found.saddle[1],
    }  # fmt: skip


@pytest.mark.parametrize(
    "t",
    [
        pytest.param(294.14, marks=pytest.mark.slow),
        pytest.param(100.0, marks=pytest.mark.statistics),
        pytest.param(600.0, marks=pytest.mark.statistics),
    ],
)
def test_barrier_of_two_basins_is_that_of_quadrature(t: float, key: jax.Array) -> None:
    found = barrier(two_basins.make(), t=t, order=two_basins.position, key=key, escape_steps=2000, escape_chains=16)
    value, exact = quadrature(t)
    for name, estimate in read(found).items():
        assert_close(estimate, exact[name], 0.1, what=name)
        if name != "preference":
            assert abs(float(estimate.value) - exact[name]) < 0.1, name
    assert found.kink
    assert not found.flags
    assert abs(float(found.saddle[0].value) - KINK) < 1e-4
    assert found.saddle[0].stderr < 1e-4
    truth = np.interp(found.x, W, value)
    z = (found.value - truth) / found.stderr
    assert np.nanmax(np.abs(z)) < 5  # the largest of 300 with Student's tails
    assert not found.point.found  # the top is an edge: no gradient vanishes there
    for way in (found.forward, found.back):
        assert way.escape is not None
        assert way.escape.arrivals == 0
        assert np.isinf(way.escape.time.value)
        assert way.escape.lower == pytest.approx(16 * 2000 / -np.log(0.05))
    assert "metastable" in found.verdict


def well(w: jax.Array) -> jax.Array:
    """A double well in the plane whose valley is bent, tilted towards the right."""
    return jnp.square(jnp.square(w[0]) - 1) + 2 * jnp.square(w[1] - jnp.square(w[0]) / 2) - 0.15 * w[0]


def slanted(w: jax.Array) -> jax.Array:
    return w[0] + 0.3 * w[1]


@pytest.fixture(scope="module")
def planar() -> Profile:
    with jax.numpy_dtype_promotion("strict"):
        model = slt.potential(well, 2, slt.Normal(2.0))
        ends = (jnp.array([0.9, 0.4]), jnp.array([-0.9, 0.4]))  # from the right to the left: orders run backwards
        return barrier(
            model, t=6.0, order=slanted, between=ends, draws=2000, windows=20, key=jax.random.key(3),
            escape_steps=20_000, local=SGLD(step_size=5e-3),
        )  # fmt: skip


@pytest.mark.slow
def test_barrier_in_the_plane_is_that_of_quadrature(planar: Profile) -> None:
    def density(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        energy = (x**2 - 1) ** 2 + 2 * (y - x**2 / 2) ** 2 - 0.15 * x
        return np.exp(-6 * energy - (x**2 + y**2) / 8)

    grid, y = np.linspace(-2, 2.5, 1501), np.linspace(-2.5, 3.5, 1501)
    marginal = integrate.trapezoid(density(y[None, :], grid[:, None] - 0.3 * y[None, :]), y, axis=1)
    value = -np.log(marginal / integrate.trapezoid(marginal, grid))
    assert_close(
        Estimate(planar.value[5:-5], planar.stderr[5:-5]), np.interp(planar.x, grid, value)[5:-5], 0.3, sigmas=5
    )
    middle = (grid > -0.5) & (grid < 0.7)
    top = grid[middle][np.argmax(value[middle])]
    left, right = value[grid < top].min(), value[grid > top].min()
    assert_close(planar.forward.barrier, value[middle].max() - right, 0.08, what="from the right")
    assert_close(planar.back.barrier, value[middle].max() - left, 0.08, what="from the left")
    mass = integrate.trapezoid(np.exp(-value[grid < top]), grid[grid < top])
    assert_close(planar.preference, -np.log(mass / (1 - mass)), 0.08, what="preference: a is the right")
    assert abs(float(planar.saddle[0].value) - top) < 0.1
    assert not planar.kink
    assert not planar.flags


@pytest.mark.slow
def test_saddle_of_the_plane_is_the_stationary_point(planar: Profile) -> None:
    def gradient(w: np.ndarray) -> np.ndarray:
        x, y = w
        bend = y - x**2 / 2
        slope = np.array([4 * x * (x**2 - 1) - 4 * bend * x - 0.15, 4 * bend])
        return 6 * slope + np.array([x, y]) / 4

    exact = scipy.optimize.fsolve(gradient, [0.0, 0.0], xtol=1e-12)
    assert planar.point.found
    assert planar.point.negative == 1
    assert np.abs(np.asarray(planar.point.params) - np.asarray(exact)).max() < 1e-3
    assert planar.point.loss == pytest.approx(float(well(jnp.asarray(exact, jnp.float32))), abs=1e-4)
    assert np.linalg.norm(np.asarray(planar.top) - exact) < 0.3


@pytest.mark.slow
def test_escape_and_preference_stand_side_by_side(planar: Profile) -> None:
    up, down = planar.forward.escape, planar.back.escape
    assert up is not None
    assert down is not None
    assert down.arrivals > 0.9 * down.chains  # from the left, the shallower basin
    assert float(up.time.value) > float(down.time.value)
    assert float(down.time.stderr) == pytest.approx(float(down.time.value) / np.sqrt(down.arrivals))
    # Kramers: the ratio of the times is that of the basins' masses
    ratio = np.log(float(up.time.value) / float(down.time.value))
    assert ratio == pytest.approx(float(planar.preference.value), abs=4 * np.sqrt(2 / up.arrivals))
    assert "prefers a to b" in planar.verdict
    assert "reach the preferred basin" in planar.verdict


def test_first_passages_are_those_of_the_diffusion(key: jax.Array) -> None:
    """Overdamped Langevin from -1 to 1 in t (x^2-1)^2: int_-1^1 e^U int_-inf^y e^-U, in time eps a step."""
    t, eps, chains = 3.0, 2e-3, 400
    model = slt.potential(lambda w: jnp.square(jnp.square(w[0]) - 1), 1, slt.Flat())
    x = np.linspace(-3, 1, 20_001)
    energy = t * (x**2 - 1) ** 2
    inner = integrate.cumulative_trapezoid(np.exp(-energy), x, initial=0)
    exact = integrate.trapezoid((np.exp(energy) * inner)[x >= -1], x[x >= -1]) / eps
    posterior = Posterior.build(model, jnp.zeros((1, 0)), 1, t, centre=jnp.zeros(1))
    starts = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None, None], (2, chains, 1))
    ways = escape.times(SGLD(step_size=eps), posterior, lambda w: w[0], starts, (1.0, -1.0), key, most=int(8 * exact))
    for way in ways:
        assert way.arrivals > 0.99 * chains
        assert_close(way.time, exact, 0.06 * exact, what="mean first passage")  # the step's own bias is 2 per cent


def test_censored_passages_count(key: jax.Array) -> None:
    taken, arrived = np.array([100, 300, 500, 500]), np.array([True, True, False, False])
    found = escape._escape(taken, arrived, np.zeros(4, bool))
    assert float(found.time.value) == 700
    assert float(found.time.stderr) == pytest.approx(700 / np.sqrt(2))
    assert found.lower == pytest.approx(2 * 1400 / special.chdtri(6, 0.05))


@pytest.mark.statistics
def test_a_hidden_slow_direction_is_flagged(key: jax.Array) -> None:
    """Two channels that the order parameter does not tell apart, one open to each end, far apart in the other one."""

    def channels(w: jax.Array) -> jax.Array:
        return jnp.square(jnp.square(w[0]) - 1) + 3 * jnp.square(jnp.square(w[1]) - 1) + 0.5 * w[0] * w[1]

    model = slt.potential(channels, 2, slt.Normal(2.0))
    ends = (jnp.array([-1.0, 1.0]), jnp.array([1.0, -1.0]))
    found = barrier(
        model, t=20.0, order=two_basins.position, between=ends, draws=400, windows=12, escape_steps=0, key=key
    )
    assert any("hysteresis" in flag for flag in found.flags)
    assert "Not to be trusted" in found.verdict


@pytest.mark.statistics
def test_a_model_with_data_takes_pytrees(key: jax.Array) -> None:
    """One Gaussian posterior: no barrier between two points of it, which is said."""
    model = gaussian_location(d=2)
    data = model.sample(jax.random.fold_in(key, 1), 40)
    params = model.init(key)
    ends = [jax.tree.map(lambda leaf, s=s: jnp.full_like(leaf, s), params) for s in (-0.4, 0.4)]

    def order(w: object) -> jax.Array:
        return jax.tree.leaves(w)[0].reshape(-1)[0]

    found = barrier(model, data=data, order=order, between=ends, draws=400, windows=8, escape_steps=0, key=key)
    assert any("less than a nat" in flag for flag in found.flags)
    mean, n = float(np.mean(np.asarray(data)[:, 0])), 40
    spread = 1 / np.sqrt(n + 1 / getattr(model.prior, "scale", 1.0) ** 2)
    exact = np.square((found.x - n * mean * spread**2) / spread) / 2 + np.log(spread * np.sqrt(2 * np.pi))
    seen = np.isfinite(found.value)
    assert seen.mean() > 0.9
    assert_close(Estimate(found.value[seen], found.stderr[seen]), exact[seen], 0.5, sigmas=5)


def test_bad_input_is_named() -> None:
    model = two_basins.make()
    order = two_basins.position
    bare = dataclasses.replace(model, known=None)
    with pytest.raises(InputError, match="between"):
        barrier(bare, t=10.0, order=order)
    with pytest.raises(InputError, match="no such basin"):
        barrier(model, t=10.0, order=order, between=("U", "X"))
    with pytest.raises(InputError, match="takes t"):
        barrier(model, order=order)
    with pytest.raises(InputError, match="positive"):
        barrier(model, t=-1.0, order=order)
    with pytest.raises(InputError, match="one floating-point number"):
        barrier(model, t=10.0, order=lambda w: w)
    with pytest.raises(InputError, match="same at both points"):
        barrier(model, t=10.0, order=lambda w: jnp.square(w[0]))
    with pytest.raises(InputError, match="vanishes there"):
        barrier(model, t=10.0, order=order, between=(jnp.array([-3.0]), jnp.array([1.0])))
    with pytest.raises(InputError, match=r"between\[0\] = \(3,\): a point needs the shapes"):
        barrier(model, t=10.0, order=order, between=(jnp.zeros(3), jnp.ones(3)))
    with pytest.raises(InputError, match=r"order = .*fails at these parameters"):
        barrier(model, t=10.0, order=lambda w: w["a"])
    with pytest.raises(InputError, match=r"gamma = -1\.0"):
        barrier(model, t=10.0, order=order, gamma=-1.0)
    with pytest.raises(InputError, match="windows"):
        barrier(model, t=10.0, order=order, windows=1)
