"""Change points: false alarms over nulls whose lam(t) drifts, exact and sampled; power and place on two basins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from slt.estimators import diagnostics, llc
from slt.theory import exact
from slt.transitions import changepoints, maxwell
from slt.transitions.changepoints import detect
from slt.typing import Estimate, InputError

T = np.geomspace(10, 1000, 12)
UNIT = np.linspace(0, 1, 8001)[1:]
FALL = np.linspace(0, 30, 6001)[1:]
RADIUS = np.linspace(0, 10, 20001)[1:]
NULLS = {
    "|w|^2, d = 2": (RADIUS**2, RADIUS * np.exp(-(RADIUS**2) / 2)),
    "|w|^2, d = 20": (RADIUS**2, RADIUS**19 * np.exp(-(RADIUS**2) / 2)),
    "x^4": (UNIT**4, np.ones_like(UNIT)),
    "(xy)^2": (np.exp(-2 * FALL), FALL * np.exp(-FALL)),
    "(xyz)^2": (np.exp(-2 * FALL), FALL**2 * np.exp(-FALL)),
}
"""K and the weights of a fine grid: -log of a product of uniforms is Gamma."""


def two_basins() -> tuple[np.ndarray, np.ndarray]:
    w = np.linspace(-2, 2, 8001)
    return np.minimum(0.01 + (w + 1) ** 4, 20 * (w - 1) ** 2), np.ones_like(w)


def moments(k: np.ndarray, weight: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """lam(t) and C(t)."""
    found = []
    for each in t:
        p = weight * np.exp(-each * (k - k.min()))
        p, e = p / p.sum(), each * k
        found.append((p @ e, p @ np.square(e - p @ e)))
    lam, heat = np.array(found).T
    return lam, heat


def noisy(lam: np.ndarray, heat: np.ndarray, t: np.ndarray, ess: float, rng: np.random.Generator) -> dict[str, Any]:
    """Curves as a sampler gives them: errors from `ess` independent draws, known to 15 degrees of freedom."""

    def drawn(value: np.ndarray, stderr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        told = stderr * np.sqrt(rng.chisquare(15, len(t)) / 15)
        return value + stderr * rng.standard_normal(len(t)), told

    value, stderr = drawn(lam, np.sqrt(heat / ess))
    spread = heat * np.sqrt((2 + 4 / np.maximum(lam, 0.1)) / ess)
    return {"llc": (value, stderr), "heat_capacity": drawn(heat, spread), "loss": (1.3 + value / t, stderr / t)}


def test_one_phase_never_falls_and_two_do() -> None:
    """The null's curves never fall; those of two basins do, by more than the slack."""
    t = np.geomspace(1, 1e4, 40)
    for name, (energy, weight) in NULLS.items():
        lam, heat = moments(energy, weight, t)
        assert np.all(np.diff(lam) > -2e-3 * lam.max()), name
        assert np.all(np.diff(heat) > -2e-3 * lam.max()), name
        assert np.all(heat <= lam * 1.002), name
    lam, heat = moments(*two_basins(), t)
    assert lam.max() - lam[-1] > 1
    assert heat.max() - heat[-1] > 2


@pytest.mark.parametrize("name", NULLS)
def test_no_alarm_on_drifts(name: str, rng: np.random.Generator) -> None:
    t = np.geomspace(1, 1e4, 20)
    found = detect(t, noisy(*moments(*NULLS[name], t), t, 400, rng), simulations=500)
    assert found.change_points == ()
    assert set(found.detectors) == {"llc", "heat_capacity", "loss"}


@pytest.mark.parametrize("points, ess", [(9, 400), (30, 100)])
def test_two_basins_is_found_where_it_is(points: int, ess: int, rng: np.random.Generator) -> None:
    t = np.geomspace(10, 1000, points)
    curves = noisy(*moments(*two_basins(), t), t, ess, rng)
    share = np.asarray(exact.two_basins(t).mass_v)
    curves["occupancy[V]"] = share, np.sqrt(share * (1 - share) / ess)
    found = detect(t, curves, simulations=500)
    assert len(found.change_points) == 1
    point = found.change_points[0]
    assert found.false_alarm < 0.02
    assert point.method == "two phases"
    assert abs(np.log(point.x / exact.two_basins_critical_t())) < 4 * point.stderr < 0.5
    assert 2 < point.sharpness < 3.6
    assert "llc" in point.detectors
    assert f"{point.x:.4g}" in found.verdict


def test_loss_alone_needs_no_baseline(rng: np.random.Generator) -> None:
    t = np.geomspace(10, 2000, 16)
    curves = noisy(*moments(*two_basins(), t), t, 2000, rng)
    found = detect(t, {"loss": curves["loss"]}, simulations=500)
    assert len(found.change_points) == 1
    np.testing.assert_allclose(found.change_points[0].x, 294, rtol=0.25)


def test_smooth_learning_is_no_change_point(rng: np.random.Generator) -> None:
    """The scalar chain w1 w2 = 0.3: lam falls from 0.6 to 0.5."""
    t = np.geomspace(1, 1e4, 20)
    lam = np.array([0.3, 0.32, 0.35, 0.4, 0.45, 0.5, 0.55, 0.58, 0.6, 0.59, 0.56, 0.53] + [0.5] * 8)
    assert detect(t, {"llc": (lam, 0.01)}, simulations=500).change_points == ()


def test_two_transitions(rng: np.random.Generator) -> None:
    """Three phases one after another: lam of the exact mixture has two falls."""
    t = np.geomspace(3, 3e4, 40)
    energies = np.stack([0.5 * t + 0.5 * np.log(t), 0.03 * t + 1.0 * np.log(t) + 3.5, 1.5 * np.log(t) + 8.0])
    weight = np.exp(-(energies - energies.min(0)))
    weight /= weight.sum(0)
    lam = (weight * np.stack([0.5 * t + 0.5, 0.03 * t + 1.0, 1.5 + 0 * t])).sum(0)
    found = detect(t, {"llc": (lam + 0.05 * rng.standard_normal(40), 0.05)}, simulations=500)
    gap = energies[0] - energies[1], energies[1] - energies[2]
    truth = [float(np.exp(np.interp(0, each, np.log(t)))) for each in gap]
    assert len(found.change_points) == 2
    for point, at in zip(found.change_points, truth, strict=True):
        assert abs(np.log(point.x / at)) < max(4 * point.stderr, 0.1)


def test_occupancy_alone_is_refused() -> None:
    with pytest.raises(InputError, match="curves"):
        detect(T, {"occupancy[a]": (np.linspace(0, 1, 12), 0.01)})


def test_ball_of_a_quadratic_is_no_transition(rng: np.random.Generator) -> None:
    """The share of draws within a ball turns over quickly in many dimensions, but no faster than C allows."""
    radii, weight = NULLS["|w|^2, d = 20"]
    t = np.geomspace(1, 300, 24)
    share = []
    for each in t:
        p = weight * np.exp(-each * radii)
        share.append(p[radii < 0.3].sum() / p.sum())
    share = np.array(share)
    curves = noisy(*moments(radii, weight, t), t, 400, rng)
    curves["occupancy[ball]"] = share, np.sqrt((share * (1 - share)).clip(0) / 400)
    assert detect(t, curves, simulations=500).change_points == ()


def test_step_along_a_control(rng: np.random.Generator) -> None:
    h = np.linspace(0, 1, 24)
    smooth = np.sin(3 * h) + 0.02 * rng.standard_normal(24)
    assert detect(h, {"order": (smooth, 0.02)}, axis="control").change_points == ()
    found = detect(h, {"order": (smooth + 0.6 * (h > 0.55), 0.02)}, axis="control")
    assert len(found.change_points) == 1
    assert found.change_points[0].interval[0] <= 0.56 <= found.change_points[0].interval[1] + 0.05
    assert np.isnan(found.change_points[0].sharpness)


def test_false_alarms_of_the_smooth_null(rng: np.random.Generator) -> None:
    h = np.linspace(-1, 1, 20)
    alarms = 0
    for k in range(10):
        y = (1 + k % 3) * np.tanh((1 + 0.1 * k) * h) + 0.03 * rng.standard_normal(20)
        alarms += bool(detect(h, {"order": (y, 0.03)}, axis="control", scale=0.5, seed=k).change_points)
    assert alarms <= 1


@pytest.mark.parametrize("d, away", [(1, 3.0), (4, 2.0), (10, 2.0), (20, 2.5)])
def test_a_prior_that_lets_go_is_no_change_point(d: int, away: float, rng: np.random.Generator) -> None:
    """|w - w0|^2/2 under N(0, 1), exact: lam falls by up to 7 nats as the prior lets go, and no faster than that."""
    alarms = []
    for seed in range(8):
        t = np.geomspace(rng.uniform(0.05, 1), 100, 16)
        s = t / (1 + t)
        lam, heat = d * (s * (1 - s) * away**2 / 2 + s / 2), d * (s**2 * (1 - s) * away**2 + s**2 / 2)
        scan = detect(t, noisy(lam, heat, t, 2000, rng), seed=seed)
        assert scan.releases or scan.false_alarm > scan.level
        alarms.append(len(scan.change_points))
    assert sum(alarms) == 0


W = np.linspace(-3, 3, 12001)
LANDSCAPES = {
    "sextic and |w|^1.5": np.minimum(0.03 + (W + 1) ** 6, 4 * np.abs(W - 1) ** 1.5),
    "narrow": np.minimum(0.005 + (W + 1) ** 4, 100 * (W - 1) ** 2),
    "two quadratics": np.minimum(0.02 + (W + 1) ** 2, 100 * (W - 1) ** 2),
    "a cusp": np.minimum(0.1 + 3 * (W + 1) ** 2, 10 * np.abs(W - 1)),
}


@pytest.mark.statistics
@pytest.mark.parametrize("name", LANDSCAPES)
def test_other_pairs_of_phases_are_dated(name: str, rng: np.random.Generator) -> None:
    """The t at which two basins weigh the same, from curves of the whole: within four per cent of sums over a grid."""
    k, weight = LANDSCAPES[name], np.exp(-(W**2) / 2)

    def odds(log_t: float) -> float:
        p = weight * np.exp(-np.exp(log_t) * k)
        return float(np.log(p[W > 0].sum() / p[W <= 0].sum()))

    critical = np.exp(optimize.brentq(odds, np.log(5.0), np.log(5000.0)))
    dates = []
    for seed in range(10):
        t = np.geomspace(critical / 20, critical * 20, 17) * rng.uniform(0.8, 1.25)
        (point,) = detect(t, noisy(*moments(k, weight, t), t, 3000, rng), seed=seed).change_points
        assert point.interval[0] < critical < point.interval[1]
        dates.append(np.log(point.x / critical))
    assert abs(np.mean(dates)) < 0.04
    assert np.std(dates) < 0.1


def test_maxwell_fit_on_exact_curves() -> None:
    t = np.geomspace(20, 1500, 25)
    lam, heat = moments(*two_basins(), t)
    curves = {"llc": (lam, 0.01 + 0 * lam), "heat_capacity": (heat, 0.02 + 0 * heat)}
    top = int(np.argmax(lam))
    found = maxwell.fit(t, curves, top, top + 6)
    assert found is not None
    np.testing.assert_allclose(found.t, exact.two_basins_critical_t(), rtol=0.04)
    np.testing.assert_allclose(found.sharpness, 2.69, rtol=0.1)  # t_c <K_U> - t_c <K_V>


def test_ladders_that_are_off_as_a_whole_widen_the_error() -> None:
    """Replicates whose t are off by a factor each: the error of log t_c is that of the mean of these factors' logs."""
    t, off = np.geomspace(20, 1500, 25), np.linspace(-0.6, 0.6, 12)
    lam, heat = moments(*two_basins(), t)
    top = int(np.argmax(lam))
    curves = {"llc": (lam, 0.01 + 0 * lam), "heat_capacity": (heat, 0.02 + 0 * heat)}
    each = [moments(*two_basins(), t * np.exp(0.05 * one)) for one in off]
    replicates = {"llc": np.stack([a for a, _ in each], 1), "heat_capacity": np.stack([b for _, b in each], 1)}
    alone, together = maxwell.fit(t, curves, top, top + 6), maxwell.fit(t, curves, top, top + 6, replicates)
    assert alone is not None
    assert together is not None
    assert (alone.t, alone.sharpness) == (together.t, together.sharpness)
    large = {name: table.mean(1, keepdims=True) + 6 * (table - table.mean(1, keepdims=True))
             for name, table in replicates.items()}  # fmt: skip
    widened = maxwell.fit(t, curves, top, top + 6, large)
    assert widened is not None
    expected = 6 * 0.05 * off.std(ddof=1) / np.sqrt(12) * 1.7959 / 1.6449  # Student, 11 degrees of freedom
    np.testing.assert_allclose(widened.stderr, np.hypot(expected, maxwell.FLOOR), rtol=0.15)


def test_sweeps_share_the_level(rng: np.random.Generator) -> None:
    t = np.geomspace(10, 1000, 9)
    curves = noisy(*moments(*two_basins(), t), t, 12, rng)
    one, many = (detect(t, curves, sweeps=sweeps, simulations=500) for sweeps in (1, 100))
    assert 0 < one.false_alarm < many.false_alarm <= 1
    np.testing.assert_allclose(many.false_alarm, 1 - (1 - one.false_alarm) ** 100, rtol=0.5)


def test_input_errors() -> None:
    flat = {"llc": (np.ones(12), 0.1)}
    for x, curves, options in [
        (T[::-1], flat, {}),
        (T, {}, {}),
        (T, {"llc": (np.ones(11), 0.1)}, {}),
        (T, {"llc": (np.full(12, np.nan), 0.1)}, {}),
        (T, flat, {"axis": "width"}),
        (T, flat, {"level": 0.0}),
        (T - 10, flat, {}),
    ]:
        with pytest.raises(InputError):
            detect(x, curves, **options)


@jax.jit
def ladders(key: Any, t: Any, which: Any) -> Any:
    """K of draws [chain, t, draw] by replica exchange: Metropolis steps, then swaps of neighbours, in four potentials.

    Chains are as short as they can be and still be used; t ascends from nearly the prior.
    """
    chains, steps, burn_in = 16, 500, 100

    def energy(w: Any) -> Any:
        quadratic = jnp.sum(jnp.square(w), -1)
        crossing = jnp.square(w[..., 0] * w[..., 1])
        return jnp.stack([quadratic, w[..., 0] ** 4, crossing, crossing * jnp.square(w[..., 2])])[which]

    def minus_log(w: Any) -> Any:
        return t * energy(w) + jnp.sum(jnp.square(w), -1) / 2

    def step(carry: Any, number: Any) -> Any:
        w, key = carry
        key, *keys = jax.random.split(key, 5)
        for move, accept in (keys[:2], keys[2:]):
            scale = jnp.exp(jax.random.uniform(move, (chains, len(t), 1), minval=-3.5, maxval=0.7))
            there = w + scale * jax.random.normal(accept, w.shape)
            w = jnp.where((jnp.log(jax.random.uniform(jax.random.fold_in(move, 1), w.shape[:2])) <
                           minus_log(w) - minus_log(there))[..., None], there, w)  # fmt: skip
        k, odd = energy(w), number % 2
        pairs = (jnp.arange(len(t)) % 2 == odd) & (jnp.arange(len(t)) + 1 < len(t))
        gain = (t[1:] - t[:-1]) * (k[:, 1:] - k[:, :-1])
        swap = jnp.log(jax.random.uniform(key, gain.shape)) < gain
        swap = jnp.concatenate([swap, jnp.zeros((chains, 1), bool)], 1) & pairs
        down = jnp.concatenate([jnp.zeros((chains, 1), bool), swap[:, :-1]], 1)
        w = jnp.where(swap[..., None], jnp.roll(w, -1, 1), jnp.where(down[..., None], jnp.roll(w, 1, 1), w))
        return (w, jax.random.fold_in(key, 2)), energy(w)

    start = jax.random.normal(jax.random.fold_in(key, 3), (chains, len(t), 3))
    _, found = jax.lax.scan(step, (start, key), jnp.arange(steps))
    return jnp.moveaxis(found[burn_in:], 0, 2)


def estimated(draws: np.ndarray, t: np.ndarray) -> dict[str, Estimate]:
    """The curves that slt reports of draws [chain, t, draw]."""
    delta = np.moveaxis(draws, 0, 1).astype(np.float64)
    mean = diagnostics.mean(delta)
    return {
        "loss": mean,
        "llc": Estimate(t * np.asarray(mean.value), t * np.asarray(mean.stderr)),
        "heat_capacity": llc.heat_capacity(delta, t),
    }


@pytest.mark.statistics
def test_false_alarms_of_sampled_runs(key: jax.Array) -> None:
    """100 runs of short replica exchange, 25 of each of |w|^2 in 3 dimensions, x^4, (xy)^2 and (xyz)^2, with normal
    priors and 10 to 25 values of t: at most 5 alarms at a run-wise 2 per cent, in the null itself and with no slack.
    """
    t = jnp.concatenate([jnp.array([0.1, 0.5]), jnp.geomspace(2.0, 2000.0, 23)])
    run = jax.jit(jax.vmap(ladders, (0, None, None)))
    alarms = {0.0: 0, changepoints.SLACK: 0}
    for which in range(4):
        drawn = np.asarray(run(jax.random.split(jax.random.fold_in(key, which), 25), t, which))
        for k, one in enumerate(drawn):
            use = np.arange(2, 25) if k % 2 else np.arange(2, 25, 2)
            curves = {name: (np.asarray(e.value)[use], np.asarray(e.stderr)[use])
                      for name, e in estimated(one, np.asarray(t)).items()}  # fmt: skip
            for slack in alarms:
                found = detect(np.asarray(t)[use], curves, slack=slack, simulations=1000, seed=k)
                alarms[slack] += bool(found.change_points)
    assert max(alarms.values()) <= 5, alarms


@pytest.mark.statistics
def test_false_alarms_and_power_in_repetition(rng: np.random.Generator) -> None:
    """With the errors of 30 to 1000 draws: 100 nulls alarm 5 times at most; two basins is found from 100 draws up, its
    interval of 90 per cent covers in 80 to 100 of 100, and its median is within 2 per cent of exact."""
    alarms = 0
    for k in range(100):
        t = np.geomspace(rng.choice([1.0, 10.0]), rng.choice([300.0, 1e4]), int(rng.integers(9, 31)))
        curves = noisy(*moments(*NULLS[list(NULLS)[k % 5]], t), t, float(rng.choice([30, 100, 1000])), rng)
        alarms += bool(detect(t, curves, slack=0.0, simulations=1000, seed=k).change_points)
    assert alarms <= 5
    found = []
    for k in range(100):
        t = np.geomspace(10, 1000, int(rng.integers(9, 31)))
        curves = noisy(*moments(*two_basins(), t), t, float(rng.choice([100, 1000])), rng)
        found.append(detect(t, curves, simulations=1000, seed=k).change_points)
    assert np.mean([len(each) == 1 for each in found]) >= 0.95
    critical = exact.two_basins_critical_t()
    ones = [each[0] for each in found if len(each) == 1]
    covered = np.mean([one.interval[0] <= critical <= one.interval[1] for one in ones])
    assert 0.8 <= covered <= 1.0
    np.testing.assert_allclose(np.median([one.x for one in ones]), critical, rtol=0.02)
