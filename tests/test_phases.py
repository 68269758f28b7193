"""Classifiers of draws: what each counts, their symmetries, and that equal ones recompile nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt.phases import (
    ActiveUnits,
    Basin,
    Gram,
    HiddenUnits,
    Phases,
    Product,
    by_level,
    by_nearest,
    by_rank,
    by_threshold,
    by_units,
    unit_symmetries,
)
from slt.typing import InputError


def norm(params: Any) -> jax.Array:
    return jnp.sum(jnp.square(params))


def double_well(params: Any) -> jax.Array:
    """Minima at x = -1, of loss 0, and near x = 1, of loss .2."""
    x, y = params
    return jnp.square(jnp.square(x) - 1) + 0.1 * (x + 1) + jnp.square(y)


def place(params: Any) -> jax.Array:
    return params["b"]


def units(params: Any) -> tuple[jax.Array, jax.Array]:
    """Odd units: turned so that b > 0."""
    sign = jnp.sign(params["b"])
    return sign * params["a"] * jnp.tanh(sign * params["b"]), (sign * params["b"])[:, None]


def label(phases: Phases, params: Any) -> int:
    return int(jax.jit(phases.label)(params))


def test_by_rank_counts_singular_values() -> None:
    phases = by_rank(3, 0.5)
    assert phases.names == ("rank 0", "rank 1", "rank 2", "rank 3")
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    matrix = u @ np.diag([4.0, 2.0, 0.6, 0.4, 0.0]) @ v
    right = rng.normal(size=(5, 5)) + 3 * np.eye(5)
    split = {"w0": jnp.asarray(matrix @ np.linalg.inv(right)), "w1": jnp.asarray(right)}
    assert label(phases, split) == 3
    assert label(by_rank(2, 0.5), split) == 2
    assert label(by_rank(3, (1.0, 1.0, 1.0)), split) == 2
    assert label(by_rank(3, (5.0, 1.0, 1.0)), split) == 1  # the second counts by its own threshold
    assert label(by_rank(3, 0.5, lambda w: w), jnp.array([0.1, -2.0, 0.6])) == 2  # strengths as they are


def test_product_reads_numbers_in_names() -> None:
    matrices = {f"w{i}": jnp.eye(2) * (i + 1) for i in range(11)} | {"bias": jnp.ones(2)}
    matrices["w2"], matrices["w10"] = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [1.0, 0.0]])
    assert float(Product()(matrices)[0, 0]) > 0  # w2 before w10: their product is diag(1, 0), else diag(0, 1)
    with pytest.raises(InputError, match="matrix"):
        Product()({"b": jnp.ones(3)})
    np.testing.assert_array_equal(Product(("w0", "w2"))(matrices), matrices["w2"])


def test_by_units_counts_what_acts() -> None:
    phases = by_units(3, 0.1, units, merge=0.2)
    assert phases.names == ("0 units", "1 unit", "2 units", "3 units")

    def count(a: list[float], b: list[float]) -> int:
        return label(phases, {"a": jnp.array(a), "b": jnp.array(b)})

    assert count([0.0, 0.05, 0.0], [1.0, 2.0, 3.0]) == 0
    assert count([1.0, 0.05, -1.0], [1.0, 2.0, 3.0]) == 2
    assert count([1.0, 1.0, 1.0], [1.0, 1.1, 3.0]) == 2  # two of one place are one
    assert count([1.0, 1.0, 1.0], [1.0, 1.15, 1.3]) == 1  # through chains of neighbours
    assert count([1.0, -1.0, 1.0], [1.0, 1.0, 3.0]) == 1  # two that cancel are none
    assert count([1.0, -1.0, 1.0], [1.0, -1.0, 3.0]) == 2  # an odd unit is its own image


def test_units_do_not_know_their_order_or_sign(rng: np.random.Generator) -> None:
    phases = by_units(4, 0.3, units, merge=0.5)
    draws = {name: jnp.asarray(rng.normal(size=(60, 4)), jnp.float32) for name in "ab"}
    expected = jax.vmap(phases.label)(draws)
    for symmetry in unit_symmetries(4, (("a", 0), ("b", 0)), flips=True)[::37]:
        np.testing.assert_array_equal(jax.vmap(lambda w, g=symmetry: phases.label(g(w)))(draws), expected)


def test_hidden_units_of_a_layer() -> None:
    phases = by_units(3, 0.5, HiddenUnits((("w", 1), ("c", 0)), (("a", 0),)), what="relu")
    assert phases.names == ("0 relus", "1 relu", "2 relus", "3 relus")
    weights = {"w": jnp.array([[1.0, 0.0, 3.0], [0.0, 0.0, 4.0]]), "c": jnp.array([0.0, 0.1, 0.0])}
    assert label(phases, weights | {"a": jnp.array([[1.0], [1.0], [0.2]])}) == 2


def test_levels_of_the_loss() -> None:
    names, heights = ("left", "right"), (0.0, 0.2)
    near = by_level(names, double_well, heights, tolerance=0.05)
    assert [label(near, jnp.array(w)) for w in ([-1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.2])] == [0, 1, -1, 0]
    below = by_level(names, double_well, heights, tolerance=0.02, descend=True, steps=300, rate=0.05)
    assert [label(below, jnp.array(w)) for w in ([-0.3, 1.0], [0.5, -2.0], [np.nan, 0.0])] == [0, 1, -1]
    with pytest.raises(InputError, match="levels"):
        by_level(names, double_well, (0.0,))


def test_nearest_modulo_symmetries(rng: np.random.Generator) -> None:
    centres = [{"a": jnp.array([1.0, 1.0]), "b": jnp.array([1.0, 3.0])}, {"a": jnp.zeros(2), "b": jnp.zeros(2)}]
    group = unit_symmetries(2, (("a", 0), ("b", 0)), flips=True)
    assert len(group) == 8
    phases = by_nearest(("two", "none"), centres, group)
    for symmetry in group:
        moved = symmetry({"a": jnp.array([0.9, 1.1]), "b": jnp.array([1.2, 2.7])})
        assert label(phases, moved) == 0
    assert label(by_nearest(("two", "none"), centres), {"a": -jnp.ones(2), "b": -jnp.array([1.0, 3.0])}) == 1
    assert label(by_nearest(("two", "none"), centres, group, radius=0.5), {"a": jnp.ones(2), "b": jnp.ones(2)}) == -1
    shown = by_nearest(("low", "high", "low"), [{"b": jnp.ones(1) * i} for i in (0, 1, 5)], features=place)
    assert shown.names == ("low", "high")
    assert [label(shown, {"b": jnp.array([x])}) for x in (0.1, 1.2, 4.0)] == [0, 1, 0]


def test_a_canonicaliser_takes_out_rotations(rng: np.random.Generator) -> None:
    corners = 2 * np.pi * np.arange(5) / 5
    polygon = np.stack([np.cos(corners), np.sin(corners)])
    centres = [{"W": jnp.asarray(polygon, jnp.float32)}, {"W": jnp.zeros((2, 5))}]
    phases = by_nearest(("5", "0"), centres, Gram("W"), radius=1.0)
    for angle in rng.uniform(0, 2 * np.pi, 5):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = turn @ polygon @ np.diag([1, 1, 1, 1, 1.05])
        assert label(phases, {"W": jnp.asarray(moved, jnp.float32)}) == 0
    assert label(phases, {"W": jnp.asarray(polygon[:, [0, 2, 1, 3, 4]], jnp.float32)}) == -1


def test_equal_partitions_recompile_nothing() -> None:
    def made() -> list[Phases]:
        centres = [{"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.zeros(2), "b": jnp.zeros(2)}]
        return [
            by_threshold(("in", "out"), norm, 1.0, "the norm"),
            by_rank(2, (0.5, 0.25)),
            by_units(2, 0.1, units, merge=0.5),
            by_level(("left", "right"), double_well, (0.0, 0.2), descend=True),
            by_nearest(("x", "y"), centres, unit_symmetries(2, (("a", 0), ("b", 0)))),
        ]

    assert made() == made()
    assert [hash(one) for one in made()] == [hash(one) for one in made()]
    different = by_nearest(("x", "y"), [{"a": jnp.ones(2), "b": jnp.ones(2) * i} for i in (1, 2)])
    assert different != made()[-1]
    traced = []

    def count(phases: Phases, params: Any) -> Any:
        traced.append(phases)
        return phases.label(params)

    run = jax.jit(count, static_argnums=0)
    for _ in range(2):
        run(made()[1], {"w0": jnp.eye(2), "w1": jnp.eye(2)})
    assert len(traced) == 1


def test_input_errors() -> None:
    for bad in (
        lambda: Phases(("a", "a"), norm, ""),
        lambda: Phases((), norm, ""),
        lambda: by_rank(0),
        lambda: by_rank(3, (0.5,)),
        lambda: by_units(True, 0.1, units),
        lambda: by_nearest(("a",), []),
    ):
        with pytest.raises(InputError):
            bad()
    with pytest.raises(InputError, match="unknown"):
        by_rank(2).index("rank 7")
    assert by_rank(2).index("rank 1") == 1
    assert Basin("b", None, "b").loss is None
    assert ActiveUnits(units, 2, 0.1) == ActiveUnits(units, 2, 0.1, 0.0)
