import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth
from stats import assert_close, z_scores

from benchmarks.evidence import T, potentials
from slt.measure.free_energy import Budget, free_energy
from slt.model import potential
from slt.models import linear_regression, power_law, superposition, two_basins
from slt.priors import Flat, Normal, Uniform
from slt.theory import exact, factorisation
from slt.typing import InputError

SMALL = Budget(stderr=0.1, rounds=1, particles=128, runs=8, points=128, nests=8, ladders=8, draws=300)
INDEPENDENT = ("mbar", "smc", "nested")


class Mixture:
    """K = -log[(1 - p) N(w; 0, broad^2) + p N(w; centre, narrow^2)]/t + constant on [-1, 1]^d: a narrow basin of K
    that carries the share p of the evidence at t, where F is known but for the tails beyond the box."""

    def __init__(self, d=5, t=100.0, broad=0.15, narrow=0.01, centre=0.1, p=0.9):
        self.d, self.t, self.broad, self.narrow, self.centre = d, t, broad, narrow, centre
        log_peak = lambda s: -d * np.log(s) - d / 2 * np.log(2 * np.pi)  # noqa: E731
        self.top = np.log(p) + log_peak(narrow)
        self.low = np.log(1 - p) + log_peak(broad) - self.top
        self.free_energy = self.top + d * np.log(2)
        self.seed = jnp.full(d, centre)

    def __call__(self, w):
        deep = -0.5 * jnp.sum(jnp.square((w - self.centre) / self.narrow))
        return -jnp.logaddexp(deep, self.low - 0.5 * jnp.sum(jnp.square(w / self.broad))) / self.t

    def model(self):
        return potential(self, self.d, Uniform(-1.0, 1.0))


@pytest.mark.slow
def test_all_routes_on_data():
    """Linear regression, whose evidence is known to nine digits."""
    model, batch = linear_regression.make(), linear_regression.example()
    report = free_energy(model, data=batch, budget=SMALL, key=jax.random.key(1))
    assert set(report.routes) == {"thermodynamic", "stepping_stones", "mbar", "smc", "persistent", "nested"}
    for name, estimate in report.routes.items():
        assert_close(estimate, truth.REGRESSION["evidence"], max_stderr=0.1, what=name)
    assert_close(report.best, truth.REGRESSION["evidence"], max_stderr=0.05)
    assert report.ok
    assert ("mbar", "smc") in report.agreement
    assert "agree" in report.verdict[0]
    assert "could not have been seen" in report.verdict[-1]
    assert report.wbic.value == pytest.approx(truth.REGRESSION["wbic"], abs=6 * float(report.wbic.stderr[0]))
    assert "best" in str(report)


@pytest.mark.parametrize(
    "arguments,field",
    [
        ({"t": None}, "t"),
        ({"t": [0.0]}, "t"),
        ({"t": [1.0], "beta": 1.0}, "t"),
        ({"t": [1.0], "routes": ("magic",)}, "routes"),
        ({"t": [1.0], "seeds": (jnp.zeros(7),)}, "seeds"),
        ({"t": [1.0], "data": jnp.zeros((3, 0))}, "data"),
        ({"t": [1.0], "budget": Budget(runs=1)}, "budget.runs"),
        ({"t": [1.0], "budget": 3}, "budget"),
        ({"t": [1.0], "budget": Budget(runs="x")}, "budget.runs"),  # pyright: ignore[reportArgumentType]
        ({"t": "x"}, "t"),
        ({"t": [1.0], "key": 3}, "key"),
        ({"t": [1.0], "seeds": jnp.zeros(1)}, "seeds"),
        ({"t": [1.0], "seeds": [jnp.full(1, 9.0)]}, "log_prior"),
    ],
)
def test_bad_input(arguments, field):
    with pytest.raises(InputError) as caught:
        free_energy(two_basins.make(), **arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fn, said",
    [
        (lambda w: w["a"], "log_likelihood = .TypeError"),
        (lambda w: w**2, "must return one value a sample"),
        (lambda w: jnp.log(-jnp.square(w[0])), "not finite"),
    ],
)
def test_a_potential_that_cannot_be_used(fn, said):
    with pytest.raises(InputError, match=said):
        free_energy(potential(fn, 1, Normal()), t=[1.0])
    with pytest.raises(InputError, match="prior = 3"):
        potential(fn, 1, 3)  # pyright: ignore[reportArgumentType]


def test_an_improper_prior_has_no_free_energy():
    with pytest.raises(InputError, match="no integral"):
        free_energy(potential(lambda w: jnp.sum(w**2), 2, Flat()), t=[1.0])
    with pytest.raises(InputError, match="needs them"):
        free_energy(linear_regression.make())


@pytest.mark.statistics
def test_known_potentials():
    """Every route: |z| at most 4; the best value: standard error at most 0.05; RMS z of all between 0.7 and 1.3.

    A single route has 13 targets of about two independent values each: the RMS of one whose errors are right lies
    between 0.6 and 1.45 with 99.9 per cent.
    """
    z = {}
    for name, model, curve in potentials():
        report = free_energy(model, T)
        assert report.ok, (name, report.verdict)
        assert_close(report.best, curve.free_energy, max_stderr=0.05, what=name)
        for route, estimate in {**report.routes, "best": report.best}.items():
            assert_close(estimate, curve.free_energy, max_stderr=0.08, what=f"{name}, {route}")
            z.setdefault(route, []).append(z_scores(estimate, curve.free_energy))
        assert_close(report.lam, curve.lam, max_stderr=0.2, what=f"{name}, lam(t)")
    assert 0.7 < np.sqrt(np.mean(np.square([z[route] for route in z if route != "best"]))) < 1.3
    for route, scores in z.items():
        assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.45, route


@pytest.mark.statistics
def test_two_basins():
    t = [10.0, 100.0, 300.0, 1000.0, 10_000.0]
    report = free_energy(two_basins.make(), t, key=jax.random.key(2))
    for name in ("thermodynamic", "mbar", "smc", "persistent", "nested"):
        assert_close(report.routes[name], exact.two_basins(t).free_energy, max_stderr=0.06, what=name)
    assert_close(report.best, exact.two_basins(t).free_energy, max_stderr=0.05)
    assert_close(report.lam, exact.two_basins(t).lam, max_stderr=0.1)


@pytest.mark.statistics
@pytest.mark.parametrize("d", [4, 5, 6])
def test_first_order_trap(d):
    """Unseeded, nested sampling is right and its point seeds the others; without nested the thermal routes are about
    2.3 nats high, say what they could not have seen, and are right when the basin is seeded."""
    case = Mixture(d)
    report = free_energy(case.model(), t=[case.t], key=jax.random.key(3))
    for name, estimate in report.routes.items():
        assert abs(estimate.value[0] - case.free_energy) < 0.2 or not report.ok, name
    assert abs(report.best.value[0] - case.free_energy) < 0.2
    thermal = ("thermodynamic", "mbar", "smc", "persistent")
    blind = free_energy(case.model(), t=[case.t], routes=thermal, key=jax.random.key(4))
    assert blind.smallest_mass["smc"] > 1e-5
    assert "could not have been seen" in blind.verdict[-1]
    seen = free_energy(case.model(), t=[case.t], routes=thermal, seeds=(case.seed,), key=jax.random.key(4))
    for estimate in seen.routes.values():
        assert abs(estimate.value[0] - case.free_energy) < 0.2


@pytest.mark.statistics
def test_trap_beyond_nested_sampling():
    """d = 12, a pit in a bowl under N(0, I): blind and saying so unseeded, right with the seed."""
    d, t, centre, steep = 12, 200.0, 0.5, 2e4
    pit = d / 2 * np.log(1 + steep) + d / 2 * centre**2 * steep / (1 + steep)
    depth = (pit + np.log(9.0) - d / 2 * np.log(1 + t)) / t  # of the bowl, so that the pit has 90 per cent
    both = pit - np.log(10 / 9)

    def k(w):
        return jnp.minimum(depth + 0.5 * jnp.sum(jnp.square(w)), steep / 2 * jnp.sum(jnp.square(w - centre)) / t)

    model = potential(k, d, Normal())
    blind = free_energy(model, [t], budget=Budget(seconds=30))
    assert abs(blind.best.value[0] - both - np.log(10)) < 0.2
    assert "could not have been seen" in blind.verdict[-1]
    seen = free_energy(model, [t], seeds=(jnp.full(d, centre),), budget=Budget(seconds=30))
    for name, estimate in seen.routes.items():
        assert abs(estimate.value[0] - both) < 0.2, name


@pytest.mark.statistics
def test_evidence_of_the_regression_by_sampling():
    report = free_energy(
        linear_regression.make(), data=linear_regression.example(), budget=Budget(stderr=0.006, seconds=60)
    )
    for name, estimate in report.routes.items():
        assert abs(estimate.value[0] - truth.REGRESSION["evidence"]) < 0.02 + 2 * estimate.stderr[0], name
    assert abs(report.best.value[0] - truth.REGRESSION["evidence"]) < 0.02


@pytest.mark.statistics
def test_superposition_by_particles_and_by_integration():
    """F of the population posterior at c = 6: the routes within 0.1 nats of one another, errors below 0.05."""
    t = [10.0, 30.0, 100.0, 300.0, 1000.0]
    report = free_energy(
        superposition.population(6),
        t,
        routes=("thermodynamic", "mbar", "smc", "persistent"),
        budget=Budget(stderr=0.025, seconds=400),
    )
    for a in ("thermodynamic", "mbar"):
        for b in ("smc", "persistent"):
            gap = report.routes[a].value - report.routes[b].value
            assert (np.abs(gap) < 0.1).all(), (a, b, gap)
    assert report.ok, report.verdict


@pytest.mark.statistics
def test_power_law_factorisation():
    """576 parameters: lam(t) within 1 per cent of the exact curve, which does not look like lambda log t."""
    t = np.array([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    curve = factorisation.power_law(t, 64, 0.4)
    report = free_energy(
        power_law.make(),
        t,
        routes=("thermodynamic", "mbar", "smc"),
        budget=Budget(stderr=0.3, particles=128, runs=8, draws=600, rounds=2, seconds=240),
    )
    np.testing.assert_allclose(report.lam.value, curve.lam, rtol=0.01)
    assert_close(report.best, curve.free_energy, max_stderr=2.0)
