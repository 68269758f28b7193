import numpy as np
import pytest
from scipy import integrate, stats
from stats import Estimate, assert_close, assert_coverage

from slt.estimators import profile
from slt.typing import InputError

X = np.unique(np.concatenate([np.linspace(-2, 2, 4001), 0.3 + np.linspace(-0.02, 0.02, 2001)]))


def kinked(x: np.ndarray) -> np.ndarray:
    """Two branches that meet at an angle at x = 0.3, 12 nats up."""
    return np.minimum(12 * ((x + 1) / 1.3) ** 2, 12 * ((x - 1) / 0.7) ** 2)


EXACT = kinked(X) + np.log(integrate.trapezoid(np.exp(-kinked(X)), X))
CENTRES = np.linspace(-1, 1, 13)


def reduced(x: np.ndarray) -> np.ndarray:
    """Harmonic windows over a bias that flattens the profile to about a nat."""
    flat = -kinked(x) + 0.5 * np.cos(3 * x)
    return flat + 0.5 * np.square((x - CENTRES[:, None]) / (CENTRES[1] - CENTRES[0]))


def umbrellas(rng: np.random.Generator, replicates: int, draws: int) -> np.ndarray:
    """Independent draws of every window, by inversion on a fine grid."""
    density = np.exp(-kinked(X) - reduced(X))
    below = integrate.cumulative_trapezoid(density, X, axis=1, initial=0)
    uniform = rng.random((replicates, len(CENTRES), draws))
    return np.stack([np.interp(uniform[:, k] * below[k, -1], below[k], X) for k in range(len(CENTRES))], axis=1)


EDGES = np.concatenate([np.linspace(-1.4, 0.2, 41)[:-1], np.linspace(0.2, 0.4, 41)[:-1], np.linspace(0.4, 1.4, 31)])
TABLE = np.linspace(-2, 2, 8001)


def test_mbar_of_gaussians_has_the_exact_normalisations(rng: np.random.Generator) -> None:
    centres = np.linspace(0, 3, 5)
    draws = centres[None, :, None] / 2 + rng.standard_normal((8, 5, 500)) / np.sqrt(2)
    energies = 0.5 * np.square(draws.reshape(-1) - centres[:, None])
    weights = profile.mbar(energies, np.arange(draws.size).reshape(draws.shape))
    exact = np.square(centres) / 4  # -log E_{N(0,1)} exp(-(x - c)^2/2), up to a constant
    stderr = weights.series.std((1, 2)) / np.sqrt(8 * 500)
    assert_close(Estimate(weights.f, stderr), exact, 0.05)
    np.testing.assert_allclose(weights.series.mean((1, 2)), weights.f, atol=1e-9)
    np.testing.assert_allclose(weights.shares.sum(0), 1)


def test_states_that_do_not_overlap_have_no_free_energy(rng: np.random.Generator) -> None:
    draws = np.array([0.0, 60.0])[None, :, None] + rng.standard_normal((4, 2, 50))
    energies = 20 * np.square(draws.reshape(-1) - np.array([[0.0], [60.0]]))
    assert np.isnan(profile.mbar(energies, np.arange(draws.size).reshape(draws.shape)).f).all()


def test_profile_keeps_a_kink_sharp(rng: np.random.Generator) -> None:
    curve = profile.curve(umbrellas(rng, 8, 2000), reduced, EDGES, TABLE)
    assert_close(curve, np.interp(curve.x, X, EXACT), 0.2, sigmas=5, what="profile")  # 110 points
    top = profile.extremum(curve.x, curve.value, curve.stderr, top=True)
    assert top.kink
    assert abs(top.x - 0.3) < 0.01
    found = profile.jackknife(
        curve, lambda f: np.array([profile.extremum(curve.x, f[1:-1], curve.stderr, True, kink=True).value])
    )
    assert_close(found, [np.interp(0.3, X, EXACT)], 0.1, what="top")
    np.testing.assert_allclose(curve.mass.sum(), 1)


def test_masses_are_those_of_the_bins(rng: np.random.Generator) -> None:
    curve = profile.curve(umbrellas(rng, 8, 2000), reduced, EDGES, TABLE)
    below = integrate.cumulative_trapezoid(np.exp(-EXACT), X, initial=0)
    exact = np.log(np.diff(np.interp(EDGES, X, below)))
    assert_close(Estimate(np.log(curve.mass[1:-1]), curve.stderr), exact, 0.2, sigmas=5)


@pytest.mark.slow
@pytest.mark.parametrize("kink", [True, False])
def test_extremum_is_of_the_curve_and_not_of_its_noise(rng: np.random.Generator, kink: bool) -> None:
    x, error = np.linspace(-1, 1, 101), np.full(101, 0.03)
    shape = -6 * np.abs(x - 0.1) - x if kink else -8 * np.square(x - 0.1)
    exact = -0.1 if kink else 0.0
    found = [profile.extremum(x, shape + 0.03 * rng.standard_normal(101), error, top=True) for _ in range(40)]
    values = np.array([each.value for each in found])
    assert np.mean([each.kink for each in found]) == pytest.approx(float(kink), abs=0.1)
    assert abs(values.mean() - exact) < 0.03  # less than one point's error
    assert np.std(values) < 0.05
    assert abs(np.median([each.x for each in found]) - 0.1) < 0.03
    low = profile.extremum(x, -shape, error / 3, top=False)
    assert low.value == pytest.approx(-exact, abs=0.02)


def test_smoother_follows_what_the_errors_resolve(rng: np.random.Generator) -> None:
    x = np.linspace(0, 1, 120)
    exact = np.sin(5 * x)
    noisy = exact + 0.2 * rng.standard_normal(120)
    noisy[7] = np.nan
    assert np.sqrt(np.mean(np.square(profile.smoothed(noisy, np.full(120, 0.2)) - exact))) < 0.1


def test_bad_input_is_named() -> None:
    draws = np.zeros((2, 13, 5))
    with pytest.raises(InputError, match="edges"):
        profile.curve(draws, reduced, [0.0, 0.0], TABLE)
    with pytest.raises(InputError, match="table"):
        profile.curve(draws, reduced, EDGES, [1.0])
    with pytest.raises(InputError, match="draws"):
        profile.curve(draws * np.nan, reduced, EDGES, TABLE)
    with pytest.raises(InputError, match="reduced"):
        profile.mbar(np.full((2, 5), np.nan), np.zeros((2, 2, 2), int))
    with pytest.raises(InputError, match="at least 10"):
        profile.extremum(np.arange(5.0), np.arange(5.0), np.ones(5), top=True)


@pytest.mark.statistics
def test_errors_of_the_profile_cover(rng: np.random.Generator) -> None:
    exact = np.interp(0.3, X, EXACT)
    left = X <= 0.3
    preference = -np.log(
        integrate.trapezoid(np.exp(-EXACT[~left]), X[~left]) / integrate.trapezoid(np.exp(-EXACT[left]), X[left])
    )
    tops, gaps, points = [], [], []
    for _ in range(200):
        curve = profile.curve(umbrellas(rng, 16, 200), reduced, EDGES, TABLE)

        def read(f: np.ndarray, curve: profile.Curve = curve) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                mass = curve.mass * np.exp(curve.whole - f)
            low = np.concatenate([[True], curve.x < 0.3, [False]])
            top = profile.extremum(curve.x, f[1:-1], curve.stderr, top=True, kink=True)
            return np.array([top.value, -np.log(np.nansum(mass[~low]) / np.nansum(mass[low]))])

        found = profile.jackknife(curve, read)
        tops.append((found.value[0], found.stderr[0]))
        gaps.append((found.value[1], found.stderr[1]))
        points.append((curve.value[20], curve.stderr[20]))
    point = float(np.interp(profile.curve(umbrellas(rng, 4, 50), reduced, EDGES, TABLE).x[20], X, EXACT))
    for what, pairs, truth in (("top", tops, exact), ("preference", gaps, preference), ("point", points, point)):
        assert_coverage(Estimate(*np.array(pairs).T), truth, 0.91, 0.99, what=what)


def test_normal_profile_without_any_bias_is_the_density(rng: np.random.Generator) -> None:
    draws = rng.standard_normal((8, 1, 4000))
    curve = profile.curve(draws, lambda x: np.zeros((1, len(x))), np.linspace(-2, 2, 21), np.linspace(-5, 5, 101))
    assert_close(curve, -stats.norm.logpdf(curve.x), 0.06, sigmas=5)
