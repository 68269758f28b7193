import numpy as np
import pytest
import truth
from scipy import special, stats
from stats import assert_close, assert_coverage, autoregressive

from slt.estimators import free_energy
from slt.estimators.free_energy import agree, difference, mbar, thermodynamic
from slt.typing import Estimate, InputError

GRID = np.array([10.0, 100.0, 300.0, 1000.0])


def rungs(rng, count, shape, top=900.0, at=GRID):
    """Rungs [*shape, 1 + len(at) + count]: 0, the grid, and others that differ from ladder to ladder, even in log t."""
    own = np.exp(np.log(0.05) + (np.arange(count) + rng.random((*shape, count))) / count * np.log(top / 0.05))
    fixed = np.broadcast_to(np.concatenate([[0.0], at]), (*shape, 1 + len(at)))
    return np.sort(np.concatenate([fixed, own], axis=-1), axis=-1)


def normals(rng, t, draws, rho, shared):
    """Standard normals [*t, draw], correlated along draws by rho and across the rungs of a ladder by shared^2."""
    own = autoregressive(rng, rho, (*t.shape, draws))
    common = autoregressive(rng, rho, (*t.shape[:-1], 1, draws))
    return np.sqrt(1 - shared**2) * own + shared * common


def squares(rng, t, d, draws, rho=0.5, shared=0.4):
    """K = |w|^2 under exp(-t K) N(0, I)."""
    return sum(normals(rng, t, draws, rho, shared) ** 2 for _ in range(d)) / (1 + 2 * t[..., None])


def basins(rng, t, draws, rho=0.5, shared=0.4):
    uniform = special.ndtr(normals(rng, t, draws, rho, shared))
    points = np.empty(uniform.shape)
    for index in np.ndindex(t.shape):
        points[index] = truth.quantiles(truth.two_basins_potential, -2.0, 2.0, t[index], uniform[index])
    return truth.two_basins_potential(points[..., None])


def two_basins_f(t):
    u, v, _ = truth.two_basins(float(t))
    return -np.logaddexp(-u.free_energy, -v.free_energy)


ROUTES = [thermodynamic, mbar]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("ladders,draws,shared", [(1, 600, 0.9), (8, 100, 0.4)])
def test_errors_cover(route, ladders, draws, shared):
    """A single ladder's error is asymptotic, correlation of its rungs included; that of 8 rests on their spread too."""
    rng = np.random.default_rng([1, ladders])
    t = rungs(rng, 8, (100, ladders))
    estimate = route(squares(rng, t, 3, draws, shared=shared), t, GRID)
    assert estimate.value.shape == (100, 4)
    exact = truth.sum_of_squares(GRID, 3)[0]
    assert_coverage(estimate, exact, least=0.92, most=0.999, far=0.005)
    assert (np.median(estimate.stderr, 0) < 1.5 * np.std(estimate.value, 0)).all()


def test_difference_covers_and_is_sharper():
    rng = np.random.default_rng(2)
    t = rungs(rng, 8, (50, 8))
    energies = squares(rng, t, 3, 100)
    gap = difference(energies, t, GRID)
    assert_coverage(gap, 0.0, least=0.92, most=0.999, far=0.005)
    one, other = thermodynamic(energies, t, GRID), mbar(energies, t, GRID)
    np.testing.assert_allclose(gap.value, one.value - other.value, atol=1e-10)
    assert (np.median(gap.stderr, 0) < 0.75 * np.median(np.hypot(one.stderr, other.stderr), 0)).all()


def test_two_basins_by_both_routes():
    """A first-order transition, eight ladders that tuned themselves differently."""
    rng = np.random.default_rng(3)
    t = rungs(rng, 24, (8,))
    energies = basins(rng, t, 500)
    exact = [two_basins_f(at) for at in GRID]
    for route in ROUTES:
        assert_close(route(energies, t, GRID), exact, 0.04, what=route.__name__)
    assert_close(difference(energies, t, GRID), 0.0, 0.02)


def test_routes_disagree_when_the_draws_are_of_another_law():
    """Energies sampled at 1.2 t, as if a factor had been forgotten."""
    rng = np.random.default_rng(4)
    t = rungs(rng, 24, (8,))
    energies = squares(rng, 1.2 * t, 3, 1000)
    gap = difference(energies, t, GRID)
    assert (np.abs(gap.value / gap.stderr) > 5).all()


def stratified(kind, t, draws=20_000):
    """Energies at each t without noise: equally spaced quantiles of their law."""
    uniform = (np.arange(draws) + 0.5) / draws
    if kind == "squares":
        return stats.gamma.ppf(uniform, 8.5) / (0.5 + t[:, None])
    draw = [truth.quantiles(truth.two_basins_potential, -2.0, 2.0, each, uniform) for each in t]
    return truth.two_basins_potential(np.array(draw)[..., None])


@pytest.mark.parametrize("kind", ["squares", "basins"])
@pytest.mark.parametrize("count", [4, 7, 10, 16, 32])
def test_quadrature_error_bounds_the_truth(kind, count):
    t = np.unique(np.concatenate([[0.0], GRID, np.geomspace(0.05, 900.0, count)]))
    energies = stratified(kind, t)[None]
    exact = truth.sum_of_squares(GRID, 17)[0] if kind == "squares" else np.array([two_basins_f(at) for at in GRID])
    route = free_energy._thermodynamic(free_energy._checked(energies, t, GRID, None))
    error = np.abs(route.series.mean((0, 2, 3)) - exact)
    floor = 2e-4  # of the stratified draws
    assert (error <= 2 * route.bias[0] + floor).all()
    assert route.bias.max() < {4: 0.25, 7: 0.25, 10: 0.25, 16: 0.05, 32: 0.004}[count]
    if count == 32:
        assert (error < 3e-4).all()


def test_mbar_solves_its_equations():
    """f_k = -log sum_n exp(-t_k K_n) / sum_j N exp(f_j - t_j K_n), iterated blindly to convergence."""
    rng = np.random.default_rng(5)
    t = np.array([0.0, 0.3, 1.0, 3.0, 10.0])
    energies = squares(rng, t, 2, 200)
    weights = -t[:, None] * energies.ravel()
    f = np.zeros(5)
    for _ in range(2000):
        mixture = special.logsumexp(weights + f[:, None], axis=0) + np.log(200)
        f = -special.logsumexp(weights - mixture, axis=1)
        f -= f[0]
    estimate = mbar(energies[None], t, t)
    np.testing.assert_allclose(estimate.value, f, atol=1e-8)
    assert estimate.value[0] == estimate.stderr[0] == 0


@pytest.mark.parametrize("route", [*ROUTES, difference])
def test_constants_units_and_batches(route):
    rng = np.random.default_rng(6)
    t = rungs(rng, 10, (2, 3))
    energies = squares(rng, t, 2, 300)
    estimate = route(energies, t, GRID)
    assert estimate.value.shape == (2, 4)
    moved = route(energies + 0.7, t, GRID)
    shift = 0.0 if route is difference else 0.7 * GRID
    np.testing.assert_allclose(moved.value, estimate.value + shift, atol=1e-7)
    np.testing.assert_allclose(moved.stderr, estimate.stderr, rtol=1e-5)
    scaled = route(energies * 50, t / 50, GRID / 50)
    np.testing.assert_allclose(scaled.value, estimate.value, atol=1e-7)
    np.testing.assert_allclose(scaled.stderr, estimate.stderr, rtol=1e-5)
    alone = route(energies[1], t[1], GRID)
    np.testing.assert_allclose(alone.value, estimate.value[1], atol=1e-9)
    np.testing.assert_allclose(alone.stderr, estimate.stderr[1], rtol=1e-7)
    single = route(energies.astype(np.float32), t.astype(np.float32), GRID.astype(np.float32))
    np.testing.assert_allclose(single.value, estimate.value, atol=1e-4)


@pytest.mark.parametrize("route", [*ROUTES, difference])
def test_broken_ladders_are_named_or_refused(route):
    rng = np.random.default_rng(7)
    t = rungs(rng, 6, (5,))
    energies = squares(rng, t, 2, 200)
    sound = route(energies[[0, 1, 3, 4]], t[[0, 1, 3, 4]], GRID)
    energies[2, 3, 50:] = np.nan
    t[2, 4:] = np.nan
    ok = np.array([True, True, False, True, True])
    with pytest.raises(InputError):
        route(energies, np.nan_to_num(t, nan=2e3), GRID)
    found = route(energies, t, GRID, ok)
    np.testing.assert_allclose(found.value, sound.value, atol=1e-9)
    np.testing.assert_allclose(found.stderr, sound.stderr, rtol=1e-6)
    none = route(energies, t, GRID, np.zeros(5, bool))
    assert np.isnan(none.value).all()
    assert np.isnan(none.stderr).all()


def test_rungs_that_do_not_overlap():
    """Nothing between t = 0.1 and 1e7: reweighting has no answer and says so, quadrature has a poor one and says so."""
    rng = np.random.default_rng(8)
    t = np.array([0.0, 0.1, 1e7, 1.1e7])
    energies = squares(rng, np.tile(t, (4, 1)), 3, 300) + 0.5 * (t[:, None] > 1)
    failed = mbar(energies, t, [0.1, 1.1e7])
    assert np.isnan(failed.value).all()
    poor = thermodynamic(energies, t, [0.1, 1.1e7])
    assert poor.stderr[0] < 0.05
    assert poor.stderr[1] > 1
    few = thermodynamic(energies[:, :2], t[:2], [0.1])  # two rungs are the fewest
    assert_close(few, truth.sum_of_squares(0.1, 3)[0], 0.05)


@pytest.mark.parametrize(
    "field,change",
    [
        ("t", {"t": [1.0, 2.0, 3.0]}),
        ("t", {"t": [0.0, 2.0, 1.0]}),
        ("at", {"at": [0.5]}),
        ("at", {"at": [np.nan]}),
        ("energies", {"energies": np.zeros((3, 10))}),
        ("energies", {"energies": np.zeros((2, 1, 10))}),
        ("t, ok", {"t": [0.0, 1.0]}),
        ("t, ok", {"ok": np.ones(3, bool)}),
    ],
)
def test_bad_input(field, change):
    arguments = {"energies": np.ones((2, 3, 10)), "t": [0.0, 1.0, 2.0], "at": [1.0], "ok": None} | change
    for route in (*ROUTES, difference):
        with pytest.raises(InputError) as error:
            route(**arguments)
        assert error.value.field == field


def test_agree():
    z = agree(
        Estimate(np.array([1.0, 2.0]), np.array([0.3, 0.0])), Estimate(np.array([1.5, 2.0]), np.array([0.4, 0.0]))
    )
    np.testing.assert_allclose(z, [-1.0, 0.0])


def test_stepping_stones():
    """From shared rungs close to one another; it errs by more than MBAR, whose weights look both ways."""
    rng = np.random.default_rng(12)
    t = np.unique(np.concatenate([[0.0], np.geomspace(0.05, 1000.0, 24), GRID]))
    t = np.broadcast_to(t, (100, 8, len(t)))
    energies = squares(rng, t, 4, 60, rho=0.3, shared=0.3)
    estimate, better = free_energy.stepping_stones(energies, t, GRID), free_energy.pooled(energies, t, GRID)
    exact = truth.sum_of_squares(GRID, 4)[0]
    assert_coverage(estimate, exact, least=0.92, most=0.999, far=0.005)
    assert (np.mean(estimate.stderr, 0) > np.mean(better.stderr, 0)).all()
    assert (np.median(estimate.stderr, 0) < 1.5 * np.std(estimate.value, 0)).all()
    with pytest.raises(InputError, match="same rungs"):
        free_energy.stepping_stones(squares(rng, rungs(rng, 5, (2,)), 2, 10), rungs(rng, 5, (2,)), GRID)


def test_pooled_ladders_are_less_biased_than_single_ones():
    """Few draws a ladder: the mean of each ladder's log is high by half its variance, that of all draws is not."""
    rng = np.random.default_rng(11)
    t = np.concatenate([[0.0], np.geomspace(0.1, 1000.0, 7)])
    t = np.broadcast_to(np.unique(np.concatenate([t, GRID])), (100, 12, len(np.unique(np.concatenate([t, GRID])))))
    energies = squares(rng, t, 4, 12, rho=0.0, shared=0.0)
    exact = truth.sum_of_squares(GRID, 4)[0]
    together, single = free_energy.pooled(energies, t, GRID), mbar(energies, t, GRID)
    assert_coverage(together, exact, least=0.92, most=0.999, far=0.005)
    assert abs(np.mean(together.value[:, -1] - exact[-1])) < 0.5 * np.mean(single.value[:, -1] - exact[-1])
    with pytest.raises(InputError, match="same rungs"):
        free_energy.pooled(squares(rng, rungs(rng, 5, (2,)), 2, 10), rungs(rng, 5, (2,)), GRID)
