"""Sums of squares, normal crossings and two basins: free energies by quadrature of the models' own densities."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth
from scipy.special import logsumexp

from slt.model import Potential
from slt.models import normal_crossing, sums_of_squares, two_basins
from slt.models.normal_crossing import PowerPrior
from slt.priors import Normal
from slt.theory import exact
from slt.typing import InputError

pytestmark = pytest.mark.usefixtures("x64")


def free_energy(
    model: Potential, t: float, edges: Sequence[float] | np.ndarray, order: int = 10, label: int | None = None
) -> float:
    """-log of the integral of exp(log prior + t log likelihood), or of its part in one phase."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    edges = np.asarray(edges)
    half = np.diff(edges)[:, None] / 2
    x, log_weight = (edges[:-1, None] + half * (1 + nodes)).ravel(), np.log(half * weights).ravel()
    w = np.stack(np.meshgrid(*[x] * model.dim, indexing="ij"), axis=-1).reshape(-1, model.dim)
    total = sum(np.meshgrid(*[log_weight] * model.dim, indexing="ij")).ravel()  # pyright: ignore[reportAttributeAccessIssue]
    batch = model.sample(jax.random.key(0), 1)
    known = model.truth()
    assert known is not None

    @jax.jit
    def density(w: Any) -> Any:
        value = model.log_prior(w) + t * model.log_likelihood(w, batch)[0]
        if label is None:
            return value
        assert known.phases is not None
        return jnp.where(known.phases.label(w) == label, value, -jnp.inf)

    return -float(logsumexp(total + np.asarray(jax.vmap(density)(jnp.asarray(w)))))


LINE = np.linspace(-8, 8, 41)
UNIT = np.concatenate([[0.0], np.geomspace(1e-8, 1.0, 24)])


def test_sums_of_squares() -> None:
    for t in (10.0, 100.0):
        expected = truth.sum_of_squares(t, 2)[0]
        np.testing.assert_allclose(free_energy(sums_of_squares.make(2), t, LINE), expected, rtol=1e-6)
    model = sums_of_squares.make(2, condition=9.0, shift=0.5)
    expected = sum(0.5 * np.log1p(20 * a) + 10 * a * 0.25 / (1 + 20 * a) for a in (1.0, 9.0))
    np.testing.assert_allclose(free_energy(model, 10.0, LINE), expected, rtol=1e-6)
    wide = sums_of_squares.make(3, squares=2, condition=9.0, shift=0.5)
    known = wide.truth()
    assert known is not None
    assert known.lam == 1.0
    assert wide.fn(jnp.array([0.1, 0.2, 7.0]), shift=0.5) == model.fn(jnp.array([0.1, 0.2]), shift=0.5)


@pytest.mark.parametrize("k, table", [((1, 1), 0.51452289), ((2, 1), 0.30223326), ((2,), 0.67392019)])
def test_normal_crossings_on_the_unit_box(k: tuple[int, ...], table: float) -> None:
    """At t = 10; x^4 is even, so that [0, 1] gives what science.md says of [-1, 1]."""
    np.testing.assert_allclose(free_energy(normal_crossing.make(k), 10.0, UNIT), table, atol=2e-8)


def test_scalar_chain() -> None:
    for s, table in ((0.0, 0.900633), (0.1, 0.942014), (1.0, 2.524175)):
        grid = np.sign(LINE) * np.abs(LINE) ** 2 / 8
        value = free_energy(normal_crossing.make((1, 1), s=s, prior=Normal()), 10.0, grid)
        np.testing.assert_allclose(value, table, atol=2e-6)


COEFFICIENTS = [((1, 1), None, 0.5, 2), ((2, 1), (0.5, 2.0), 0.375, 1), ((3,), None, 1 / 6, 1)]


@pytest.mark.parametrize("k, h, lam, m", COEFFICIENTS)
def test_coefficients(k: Any, h: Any, lam: float, m: int) -> None:
    known = normal_crossing.make(k, h=h).truth()
    assert known is not None
    assert (known.lam, known.multiplicity) == (lam, m)


def test_unfolded_crossing_is_regular_where_it_is_reached() -> None:
    known = [normal_crossing.make((1, 1), s=s).truth() for s in (0.1, 4.0, -0.1)]
    assert [truth and truth.lam for truth in known] == [0.5, None, None]
    np.testing.assert_allclose(known[0].params, np.sqrt(0.1))  # pyright: ignore[reportOptionalMemberAccess]


def test_power_prior(key: jax.Array) -> None:
    prior = PowerPrior((0.5, 2.0))
    model = normal_crossing.make((1, 1), h=(0.5, 2.0))
    np.testing.assert_allclose(free_energy(model, 0.0, UNIT), 0.0, atol=1e-6)
    draws = np.asarray(jax.vmap(lambda k: prior.sample(k, jnp.zeros(2)))(jax.random.split(key, 4000)))
    h = np.array(prior.h)
    mean, variance = (h + 1) / (h + 2), (h + 1) / (h + 3) - ((h + 1) / (h + 2)) ** 2
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), 4 * np.sqrt(variance / 4000))
    assert prior.log_density(jnp.array([-0.1, 0.5])) == -np.inf
    assert np.isfinite(np.asarray(jax.grad(prior.log_density)(jnp.array([1e-300, 0.5])))).all()


def test_two_basins_and_their_phases() -> None:
    model = two_basins.make()
    scales = np.concatenate([np.geomspace(1e-4, 1.0, 40), [1.2]])
    boundary = exact.TWO_BASINS_BOUNDARY
    edges = np.unique(
        np.concatenate([[boundary, -1.0, 1.0, -2.0, 2.0], *(p + s * scales for p in (-1, 1) for s in (-1, 1))])
    )
    edges = edges[(edges >= -2) & (edges <= 2)]
    for t in (10, 200, 1000):
        known = truth.TWO_BASINS[t]
        np.testing.assert_allclose([free_energy(model, float(t), edges, label=i) for i in (0, 1)], known[:2], atol=2e-8)
    known = model.truth()
    assert known is not None
    assert known.phases is not None
    assert known.phases.names == ("U", "V")
    labels = [int(known.phases.label(jnp.array([boundary + d]))) for d in (-1e-9, 1e-9)]
    assert labels == [0, 1]
    assert [basin.lam for basin in known.basins] == [0.25, 0.5]


def test_gap_turns_the_better_basin() -> None:
    lams = []
    for gap in (0.01, 0.0, -0.01):
        known = two_basins.make(gap).truth()
        assert known is not None
        lams.append(known.lam)
    assert lams == [0.5, 0.25, 0.25]


def test_input_errors() -> None:
    with pytest.raises(InputError, match="prior"):
        normal_crossing.make((1, 1), h=(0.0, 0.0), prior=Normal())
    with pytest.raises(InputError):
        normal_crossing.make((0, 0))
    with pytest.raises(InputError, match="gap"):
        two_basins.make(100.0)
    with pytest.raises(InputError, match="condition"):
        sums_of_squares.make(condition=0.0)
