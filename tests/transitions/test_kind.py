"""The kind of a transition: what a barrier, its error and a second opinion make of it."""

import numpy as np
import pytest

from slt.transitions import kind
from slt.transitions.kind import Height
from slt.typing import Estimate, InputError

YES, NO, OPEN = Height(5.0, 0.2, "one"), Height(0.1, 0.1, "two"), Height(1.1, 0.4, "three")


def test_barriers_decide_only_together_and_beyond_their_error():
    assert kind.classify([YES, YES]).kind == "coexistence"
    assert kind.classify([YES]).kind == "unresolved"
    assert kind.classify([NO, NO]).kind == "crossover"
    assert kind.classify([YES, NO]).kind == "unresolved"
    assert kind.classify([YES, OPEN]).kind == "unresolved"
    assert kind.classify([]).kind == "unresolved"
    assert kind.classify([Height(0.5, 0.1, "a bound", bound=True)] * 2).kind == "unresolved"
    assert kind.classify([Height(3.0, 0.1, "a bound", bound=True)] * 2).kind == "coexistence"
    assert kind.classify([YES, NO]).barrier == NO


def test_what_else_speaks():
    assert kind.classify([YES, YES], interior=(1.0, 0.1)).kind == "unresolved"
    assert kind.classify([OPEN, OPEN], interior=(1.0, 0.1)).kind == "crossover"
    loop = Estimate(np.array(5.0), np.array(1.0))
    assert kind.classify([NO, NO], hysteresis=loop).kind == "unresolved"
    assert kind.classify([NO, NO], hysteresis=Estimate(np.array(0.5), np.array(1.0))).kind == "crossover"
    found = kind.classify([YES, YES], masses=[0.1, 0.1, 0.8])
    np.testing.assert_allclose(found.label_entropy, -(0.2 * np.log(0.1) + 0.8 * np.log(0.8)))
    np.testing.assert_allclose(kind.label_entropy([0.5, 0.5, 0.0]), np.log(2))
    alone = kind.classify([YES, YES], masses=[0.02, 0.98])  # what coexists shares the posterior
    assert alone.kind == "unresolved"
    assert "label entropy" in " ".join(alone.reasons)
    assert kind.classify([YES, YES], masses=[0.3, 0.7]).kind == "coexistence"
    assert kind.classify([NO, NO], masses=[0.02, 0.98]).kind == "crossover"


def test_kinds_as_numbers():
    told = kind.classify([YES, YES], masses=[0.5, 0.5]).quantities
    assert told["coexistence"].value == 1
    assert tuple(told["barrier"][:2]) == YES[:2]
    np.testing.assert_allclose(told["label_entropy"].value, np.log(2))
    assert kind.classify([NO, NO]).quantities["coexistence"].value == 0
    assert all(np.isnan(one.value) for one in kind.classify([]).quantities.values())


def test_heights_from_draws(rng):
    runs = (16, 64)
    apart = kind.height(rng.normal(-3, 1, runs), rng.normal(3, 1, runs), "x")
    assert abs(apart.value - (4.5 - np.log(2))) < 1.0  # the density of either at 3 sigma, twice
    far = kind.height(rng.normal(-20, 1, runs), rng.normal(20, 1, runs), "x")
    assert far.bound
    assert far.value - 2 * far.stderr > 2
    low = []
    for _ in range(100):  # one hill cut in two
        hill = np.sort(rng.normal(size=2048))
        halves = [rng.permutation(half).reshape(runs) for half in (hill[:1024], hill[1024:])]
        bent = (np.arcsinh(half / 2) for half in halves)
        low.append(kind.classify([kind.height(*halves, "x"), kind.height(*bent, "arcsinh x/2")]).kind)
    assert low.count("coexistence") == 0
    assert low.count("crossover") > 80
    with pytest.raises(InputError, match="finite"):
        kind.height(np.full(runs, np.nan), np.zeros(runs), "x")


def test_heights_between_mirror_images(rng):
    """A ring of radius 3 about a hill: apart by the nearest of several places, not by the mean of all."""
    runs = (8, 256)
    angle = rng.choice(4, size=runs) * np.pi / 2
    ring = np.stack([3 * np.cos(angle), 3 * np.sin(angle)], -1) + 0.3 * rng.normal(size=(*runs, 2))
    middle = 0.3 * rng.normal(size=(*runs, 2))
    losses = [np.square(middle).sum(-1), np.square(np.hypot(*np.moveaxis(ring, -1, 0)) - 3)]
    found, places = kind.heights([middle, ring], losses)
    assert kind.classify(found).kind == "coexistence"
    assert 4 <= len(places[1]) <= kind.PLACES
    radius = [np.hypot(*np.moveaxis(each, -1, 0))[..., None] for each in (middle, ring)]
    assert kind.classify(kind.heights(radius, None)[0]).kind == "coexistence"  # told by what mirror images share


def test_loops_of_slow_sweeps(rng):
    rate = np.array([0.01, 0.03, 0.1, 0.3])
    error = np.full(4, 0.02)
    closed = kind.slow_loop(rate, 2 * rate + rng.normal(size=4) * error, error)
    stays = kind.slow_loop(rate, 1 + 2 * rate**0.5 + rng.normal(size=4) * error, error)
    assert closed.value - 2 * closed.stderr < 0
    assert stays.value - 2 * stays.stderr > 0.3
    with pytest.raises(InputError, match="at least three"):
        kind.slow_loop([1.0, 2.0], [1.0, 1.0], [0.1, 0.1])


def test_orders_need_a_family():
    size = np.array([1.0, 2, 4, 8])
    assert kind.scaling("the depth", size, 2 * size, np.full(4, 0.1)).kind == "first order"
    assert kind.scaling("the depth", size, 0 * size + 0.1, np.full(4, 0.1)).kind == "continuous"
    assert kind.scaling("the depth", size, 0 * size + 1.0, np.full(4, 0.5)).kind == "unresolved"
    with pytest.raises(InputError, match="name the family"):
        kind.scaling("", size, size, size)
