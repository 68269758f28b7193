"""Clusters of draws with a known number of clumps: sizes, noise, duplicates, none where there is none."""

import numpy as np
import pytest

from slt.estimators.clusters import clusters, levels, principal
from slt.typing import InputError


def test_density_finds_clumps_and_leaves_one_clump_whole(rng: np.random.Generator) -> None:
    apart = np.concatenate([0.2 * rng.normal(size=(400, 5)), 2 + 0.2 * rng.normal(size=(300, 5))])
    found = clusters(apart, least=20)
    assert found.size.tolist() == [400, 300]
    assert (found.label[:400] == 0).all()
    assert (found.label[400:] == 1).all()
    np.testing.assert_allclose(found.spread, 0.2 * np.sqrt(5), rtol=0.1)
    np.testing.assert_allclose(apart[found.medoid].mean(axis=1), [0, 2], atol=0.2)
    one = clusters(rng.normal(size=(400, 5)), least=20)
    assert one.size.tolist() == [400]


def test_length_joins_chains_of_neighbours() -> None:
    line = np.linspace(0, 1, 50)[:, None] * np.ones((1, 3))  # a valley floor, one cluster
    far = np.full((3, 3), 5.0)
    found = clusters(np.concatenate([far, line, [[9.0, 9.0, 9.0]]]), least=2, length=0.05)
    assert found.size.tolist() == [50, 3]
    assert found.label.tolist() == [1, 1, 1] + [0] * 50 + [-1]


def test_equal_points_are_one_cluster() -> None:
    assert clusters(np.ones((30, 4)), least=5).size.tolist() == [30]
    doubled = np.repeat([[0.0, 0.0], [1.0, 0.0]], 20, axis=0)
    assert clusters(doubled, least=5).size.tolist() == [20, 20]
    assert clusters(np.ones((2, 4)), least=5).label.tolist() == [-1, -1]


def test_levels_are_apart_by_more_than_the_gap() -> None:
    values = np.array([0.3, 0.1, 0.1004, 0.5, 0.3001])
    assert levels(values, 0.001).tolist() == [1, 0, 0, 2, 1]


def test_principal_axes_hold_the_variance(rng: np.random.Generator) -> None:
    flat = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 40))
    seen = principal(flat)
    assert seen.shape == (200, 2)
    np.testing.assert_allclose(np.square(seen).sum(), np.square(flat - flat.mean(0)).sum(), rtol=2e-3)
    assert principal(np.ones((5, 3))).shape == (5, 1)


def test_input_errors() -> None:
    for bad in (np.ones((0, 3)), np.full((9, 2), np.nan)):
        with pytest.raises(InputError, match="points"):
            clusters(bad)
    for options in ({"least": 0}, {"length": 0.0}):
        with pytest.raises(InputError, match=r"least|length"):
            clusters(np.ones((9, 2)), **options)
