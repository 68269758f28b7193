"""Landau's potentials: exact free energies of their phases, and what their truth says of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt.models import landau
from slt.theory.quadrature import quadrature
from slt.typing import InputError


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("h, b", [(0.9, 2.0), (1.1, 2.0), (2.0, 2.0), (-0.3, 1.0), (0.2, -1.0), (0.0, 0.0)])
def test_sixth_order_is_the_polynomial_less_its_minimum(h: float, b: float) -> None:
    w = np.linspace(-2, 2, 4001)
    plain = w**6 - b * w**4 + h * w**2
    found = jax.vmap(lambda x: landau.sixth_order(x[None], h, b))(jnp.asarray(w))
    np.testing.assert_allclose(found, plain - plain.min(), atol=2e-6)
    assert float(jnp.min(found)) >= 0


@pytest.mark.parametrize("h", [-0.5, 0.0, 0.5])
def test_pitchfork_is_the_polynomial_less_its_minimum(h: float) -> None:
    w = np.linspace(-2, 2, 4001)
    plain = w**4 / 4 - h * w**2 / 2
    found = jax.vmap(lambda x: landau.fourth_order(x[None], h))(jnp.asarray(w))
    np.testing.assert_allclose(found, plain - plain.min(), atol=1e-5)


def test_no_cancellation_at_the_outer_minimum() -> None:
    at = landau.make(0.9).truth().params  # pyright: ignore[reportOptionalMemberAccess]
    m = (2 + np.sqrt(4 - 2.7)) / 3
    value = float(landau.sixth_order(jnp.asarray(at) + 1e-3, 0.9))
    np.testing.assert_allclose(value, 4 * m * (3 * m - 2) * 1e-6, rtol=0.01)  # (2 sqrt(m) x)^2 (3 m - b)


def test_minima_and_coefficients() -> None:
    def told(model: Any) -> Any:
        known = model.truth()
        return [(basin.name, round(basin.loss, 6), basin.lam) for basin in known.basins], known.lam

    def outer(h: float) -> Any:
        z = np.linspace(0.5, 1.5, 200001)
        return pytest.approx(abs(np.min(z**3 - 2 * z**2 + h * z)), abs=1e-6)

    assert told(landau.make(0.9)) == ([("origin", outer(0.9), 0.5), ("outer", 0.0, 0.5)], 0.5)
    assert told(landau.make(1.1)) == ([("origin", 0.0, 0.5), ("outer", outer(1.1), 0.5)], 0.5)
    assert told(landau.make(2.0)) == ([("origin", 0.0, 0.5)], 0.5)
    assert told(landau.make(-0.1)) == ([("outer", 0.0, 0.5)], 0.5)
    assert told(landau.make(0.0, 0.0)) == ([("origin", 0.0, pytest.approx(1 / 6))], pytest.approx(1 / 6))
    assert told(landau.make(0.0, -1.0))[1] == 0.25
    assert told(landau.pitchfork(0.5)) == ([("outer", 0.0, 0.5)], 0.5)
    assert told(landau.pitchfork(0.0))[1] == 0.25


def test_phases_take_the_pair_as_one() -> None:
    phases = landau.make().truth().phases  # pyright: ignore[reportOptionalMemberAccess]
    assert phases is not None
    assert phases.names == ("origin", "outer")
    assert [int(phases.label(jnp.array([w]))) for w in (-1.0, -0.1, 0.0, 0.5, 0.6)] == [1, 0, 0, 0, 1]


@pytest.mark.usefixtures("x64")
def test_barrier_vanishes_at_the_tricritical_point() -> None:
    for b in (2.0, 1.0, 0.1):
        top = landau.sixth_order(jnp.sqrt(jnp.array([b / 6])), b * b / 4, b)
        np.testing.assert_allclose(float(top), b**3 / 54, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_outer_phase_wins_at_large_t_only() -> None:
    """Below h = b^2/4 the narrow prior prefers the origin until t (K_origin - K_outer) makes up for it."""
    model = landau.make(0.9)
    sides = [quadrature(
        lambda w: np.asarray(landau.sixth_order(w.T, 0.9)), t, [(-3, 3)], lambda w: -np.square(w[..., 0]) / 0.32,
        region=lambda w: np.abs(w[..., 0]) >= np.sqrt(1 / 3), breaks=[[-1, -0.57735, 0.57735, 0, 1]],
    ).region_free_energy for t in (10.0, 100.0)]  # fmt: skip
    assert sides[0][0] < sides[0][1] - 1
    assert sides[1][1] < sides[1][0] - 1
    assert model.control_value("h") == 0.9


def test_input_errors() -> None:
    with pytest.raises(InputError, match="h"):
        landau.make(h=float("nan"))
    with pytest.raises(InputError, match="radius"):
        landau.pitchfork(radius=0.0)
