"""Lines of coexistence against exact ones: closed forms, quadrature of Landau's potential, triple and end points."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from slt.theory.quadrature import quadrature
from slt.transitions import lines
from slt.transitions.lines import Local
from slt.typing import InputError

WALL = np.sqrt(1 / 3)


def levels(*phases: tuple[float, float, float, float]) -> Callable[[float, float], Local]:
    """Phases with F_a = t (e_a + f_a h) + lambda_a log t + c_a, exact."""
    e, f, lam, c = (np.array(column) for column in zip(*phases, strict=True))

    def at(h: float, t: float) -> Local:
        return Local(t * (e + f * h) + lam * np.log(t) + c, e + f * h + lam / t, f, barrier=5.0)

    return at


def landau(b: float = 2.0, scale: float = 0.4) -> Callable[[float, float], Local]:
    """The sixth-order potential by quadrature, and the barrier of its density."""
    fine = np.linspace(0, 2, 2001)

    def at(h: float, t: float) -> Local:
        def k(w: Any) -> Any:
            z = w[..., 0] ** 2
            return z * (z * (z - b) + h)

        found = quadrature(
            k, t, [(-2.5, 2.5)], lambda w: -np.square(w[..., 0] / scale) / 2, rtol=1e-7,
            region=lambda w: np.abs(w[..., 0]) >= WALL, breaks=[[-1, -WALL, 0, WALL, 1]],
        )  # fmt: skip
        energy = t * k(fine[:, None]) + np.square(fine / scale) / 2
        weight = np.exp(energy.min() - energy)
        outer = fine >= WALL
        square = [np.sum(weight[side] * fine[side] ** 2) / weight[side].sum() for side in (~outer, outer)]
        top = energy[(fine > 0.2) & (fine < 0.95)].max()
        barrier = top - max(energy[0], energy[outer].min())
        return Local(found.region_free_energy, found.region_lam / t, np.array(square), barrier=float(barrier))

    return at


def test_straight_levels_give_the_closed_line() -> None:
    """t (h - 1) = -1 - 0.5 log t for two phases: D = t (1 - h) - 0.5 log t - 1."""
    line = lines.follow(levels((1, -1, 0, 0), (0, 0, 0.5, 1)), (0.8, 10.0), box=((0.5, 1.0), (2.0, 500.0)), step=0.3)
    np.testing.assert_allclose(line.h, 1 - (0.5 * np.log(line.t) + 1) / line.t, atol=3e-4)
    assert line.t.max() > 300
    np.testing.assert_allclose(line.slope[2:-2], line.rise[2:-2], rtol=0.05)
    assert {mark.kind for mark in line.marks} == {"edge"}


def test_clausius_clapeyron_and_its_error(rng: np.random.Generator) -> None:
    loss, force = np.array([1.0, 0.4]), np.array([0.1, 0.9])
    one = lines.clausius_clapeyron(50.0, loss, force, 0.02, 0.03)
    np.testing.assert_allclose(one.value, 50 * 0.8 / 0.6)
    many = lines.clausius_clapeyron(
        50.0, loss + 0.02 * rng.standard_normal((4000, 2)), force + 0.03 * rng.standard_normal((4000, 2))
    )
    np.testing.assert_allclose(np.std(np.asarray(many.value)), one.stderr, rtol=0.06)
    assert np.isnan(lines.clausius_clapeyron(1.0, np.ones(2), force).value)


def test_finite_difference(rng: np.random.Generator) -> None:
    t = np.geomspace(3, 300, 40)
    h = 1 - 3 / t
    found = lines.finite_difference(h, t, 0.002 * t)
    np.testing.assert_allclose(np.asarray(found.value)[1:-1], (t**2 / 3)[1:-1], rtol=0.01)
    many = [lines.finite_difference(h, t * (1 + 0.002 * rng.standard_normal(40))).value for _ in range(500)]
    np.testing.assert_allclose(np.std(many, axis=0), found.stderr, rtol=0.25)
    assert np.isnan(lines.finite_difference([1.0], [2.0]).value).all()


def test_landau_line_slope_and_end() -> None:
    """Along the exact line: t_c by root finding within 2 per cent, dt/dh within 5 per cent of the line's own slope."""
    at = landau()
    line = lines.follow(at, (0.85, 20.0), box=((0.3, 1.0), (3.0, 200.0)), step=0.4, least_barrier=1.0)

    def gap(log_t: float, h: float) -> float:
        found = at(h, float(np.exp(log_t)))
        return found.free_energy[0] - found.free_energy[1]

    exact = [np.exp(optimize.brentq(gap, np.log(t / 1.2), np.log(t * 1.2), args=(h,), xtol=1e-4))
             for h, t in zip(line.h, line.t, strict=True)]  # fmt: skip
    np.testing.assert_allclose(line.t, exact, rtol=0.005)
    np.testing.assert_allclose(line.slope[2:-2], line.rise[2:-2], rtol=0.05)
    kinds = {mark.kind: mark for mark in line.marks}
    assert set(kinds) == {"end", "edge"}
    assert "barrier" in kinds["end"].reason
    np.testing.assert_allclose(at(kinds["end"].h, kinds["end"].t).barrier, 1.0, atol=0.05)
    assert np.all(line.barrier >= 1)


def test_line_ends_where_the_phases_become_one() -> None:
    """e_a - e_b shrinks to nothing at h = 1."""

    def at(h: float, t: float) -> Local:
        gap = (1 - h) * 0.5
        return Local(np.array([t * gap**2 - 0.04, 0.0]), np.array([gap**2, 0.0]), np.array([-gap, 0.0]))

    line = lines.follow(at, (0.6, 1.0), box=((0.0, 1.2), (0.5, 1e9)), step=0.2)
    assert "end" in {mark.kind for mark in line.marks}
    assert line.h.max() < 1


def test_triple_point() -> None:
    """Three levels that meet at h = 0.5, t = 8 (c chosen so)."""
    at = levels((0.5, -0.5, 0, 0.0), (0, 0, 0, 2.0), (0.125, 0.0, 0, 1.0))
    line = lines.follow(at, (0.8, 20.0), box=((0.0, 0.95), (1.0, 100.0)), names=("a", "b", "c"), step=0.1)
    triple = [mark for mark in line.marks if mark.kind == "triple"]
    assert len(triple) == 1
    assert triple[0].phase == "c"
    np.testing.assert_allclose([triple[0].h, triple[0].t], [0.5, 8.0], rtol=0.01)
    other = lines.follow(at, (0.5, 8.0), pair=(1, 2), box=((0.3, 0.7), (6.0, 10.0)), names=("a", "b", "c"), step=0.1)
    assert other.names == ("b", "c")


def test_lines_meet() -> None:
    first = lines.follow(levels((1, -1, 0, 0), (0, 0, 0, 2)), (0.8, 10.0), box=((0.1, 0.95), (1.5, 50.0)))
    second = lines.follow(levels((0.1, 0.5, 0, 0), (0, 0, 0, 4)), (0.6, 10.0), box=((0.1, 0.95), (1.5, 50.0)))
    met = lines.meet(first, second)
    assert len(met) == 1
    np.testing.assert_allclose(met[0].h, 0.76, atol=1e-3)  # 2/(1 - h) = 4/(0.1 + 0.5 h)
    np.testing.assert_allclose(met[0].t, 2 / 0.24, rtol=0.02)


def test_errors_move_points_as_told() -> None:
    def noisy(h: float, t: float) -> Local:
        exact = levels((1, -1, 0, 0), (0, 0, 0, 2))(h, t)
        return exact._replace(free_energy_stderr=np.array([0.1, 0.0]), loss_stderr=0.01, force_stderr=0.0)

    line = lines.follow(noisy, (0.8, 10.0), box=((0.5, 0.95), (2.0, 50.0)))
    np.testing.assert_allclose(line.t_stderr, 0.1 / (1 - line.h), rtol=1e-3)
    np.testing.assert_allclose(line.h_stderr, 0.1 / line.t, rtol=1e-3)


def test_input_errors() -> None:
    at = levels((1, -1, 0, 0), (0, 0, 0, 2))
    with pytest.raises(InputError, match="box"):
        lines.follow(at, (0.8, 10.0), box=((1.0, 0.5), (2.0, 50.0)))
    with pytest.raises(InputError, match="start"):
        lines.follow(at, (0.8, 1e6), box=((0.5, 0.9), (2.0, 50.0)))
    with pytest.raises(InputError, match="expectations"):
        lines.follow(at, (0.8, 10.0), box=((0.5, 0.9), (2.0, 50.0)), pair=(0, 3))
