"""slt.line on planes whose line, end and triple point are known by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import slt
from experiments._landau import Exact, exact_t
from slt.models import landau
from slt.theory.quadrature import quadrature
from slt.transitions import lines
from slt.typing import InputError

FIELD = [0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
KNOWN = Exact(2.0, 0.4, float(np.sqrt(1 / 3)))


def wells(w, h, xp):
    """Three parabolas on the line: broad and high, middle, and sharp, whose depth is the control's."""
    return xp.stack(
        [0.35 + xp.square(w + 1.2), 0.15 + 8 * xp.square(w), 0.5 * h - 0.2 + 60 * xp.square(w - 1.2)], axis=-1
    )


THREE = slt.Phases(
    ("broad", "middle", "sharp"), lambda w: jnp.argmin(wells(w[0], 0.3, jnp)).astype(jnp.int32), "lowest parabola"
)


def three():
    def lowest(w, h):
        """Of pairs: the slope of jnp.min is 0/0 where XLA, unoptimised, rounds the wells in two ways."""
        a, b, c = wells(w[0], h, jnp)
        return jnp.minimum(jnp.minimum(a, b), c)

    return slt.potential(lowest, 1, slt.Uniform(-2.0, 2.0), controls={"h": 0.3})


def free_energies(h, t):
    """By quadrature, of the regions that the partition at h = 0.3 makes."""
    return quadrature(
        lambda w: wells(w[..., 0], h, np).min(-1), t, [(-2, 2)],
        region=lambda w: wells(w[..., 0], 0.3, np).argmin(-1), regions=3, breaks=[[-2, -1.2, -0.5, 0, 0.9, 1.2, 2]],
    ).region_free_energy  # fmt: skip


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"t": [5.0]}, "t = "),
        ({"control": {"c": [0.5, 1.0]}}, "no such control"),
        ({"control": {}}, "give one control"),
        ({"control": {"h": [0.5]}}, "at least four"),
        ({"between": ("origin", "origin")}, "names of two phases"),
    ],
)
def test_bad_input(wrong, said):
    with pytest.raises(InputError, match=said):
        slt.line(landau.make(), **{"t": [3.0, 100.0], "control": {"h": [0.5, 1.0]}} | wrong)


@pytest.mark.statistics
def test_landau_along_its_line():
    """t_c within 2 per cent of quadrature, slope within 5; the end within what the barrier's error allows."""
    found = slt.line(landau.make(), t=(3, 100), control={"h": [0.4, *FIELD]}, order=landau.size, seconds=600)
    t, slope = (np.asarray(each.value)[1:] for each in (found.critical, found.slope))
    exact = np.array([exact_t(KNOWN, h, [3, 100]) for h in FIELD])
    told = [KNOWN(h, float(x)) for h, x in zip(FIELD, exact, strict=True)]
    steep = [float(lines.clausius_clapeyron(x, one.loss, one.force).value) for x, one in zip(exact, told, strict=True)]
    np.testing.assert_allclose(t, exact, rtol=0.02)
    np.testing.assert_allclose(slope, steep, rtol=0.05)
    assert (np.abs(t - exact) < 4 * np.asarray(found.critical.stderr)[1:]).all()
    true = lines.follow(KNOWN, (0.7, 10.33), box=((0.4, 0.95), (3.0, 100.0)), step=0.25, unit=0.2)
    (end,) = [mark for mark in true.marks if mark.kind == "end"]
    q = found.quantities
    assert abs(q["end_h"].value - end.h) < 4 * q["end_h"].stderr
    assert abs(q["end_t"].value - end.t) < 4 * q["end_t"].stderr
    assert q["end_t"].stderr < 0.15 * end.t
    interval = q["critical_t[origin->outer]"].interval
    assert interval is not None
    assert (interval[1:, 0] < t).all()


def two_valleys(w, h):
    """The phase w < 0 has minima at -1 and -2, of like weight where h is small; phase w > 0 one at 1."""
    return (w**2 - 1) ** 2 * (1 + w / 2) ** 2 + h * (1 - w)


def exact_valleys(h):
    """t at which both signs of w weigh the same under a standard normal prior, by a sum over a fine grid."""
    w = np.linspace(-6, 6, 240001)
    k = two_valleys(w, h)

    def gap(log_t):
        log_p = -np.exp(log_t) * (k - k.min()) - w**2 / 2
        return special.logsumexp(log_p[w >= 0]) - special.logsumexp(log_p[w < 0])

    return np.exp(optimize.brentq(gap, np.log(2), np.log(300)))


@pytest.mark.statistics
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_phase_of_two_valleys(seed):
    """Draws from large h lack the valley at -2: moved to small h they look whole, and t_c would be 4 per cent low."""
    h = [0.005, 0.007, 0.01, 0.02, 0.05, 0.08]
    model = slt.potential(lambda w, h: two_valleys(w[0], h), 1, slt.Normal(1.0), controls={"h": 0.1})
    phases = slt.phases.by_threshold(("left", "right"), lambda w: w[0], 0.0, "w > 0")
    found = slt.line(model, phases, t=(2, 200), control={"h": h}, seconds=60, key=jax.random.key(seed))
    exact = np.array([exact_valleys(each) for each in h])
    t, stderr = (np.asarray(each) for each in found.critical[:2])
    np.testing.assert_allclose(t, exact, rtol=0.02)
    assert (np.abs(t - exact) < 4 * stderr).all()
    assert (stderr < 0.015 * exact).all()
    assert found.sampled[[0, -1]].tolist() == [0.005, 0.08]


@pytest.mark.statistics
def test_three_wells_meet():
    found = slt.line(three(), THREE, t=(2, 30), control={"h": [0.0, 0.8]}, between=("broad", "middle"), seconds=600)

    def gaps(x):
        value = free_energies(x[0], np.exp(x[1]))
        return value[:2] - value[2]

    def gap(x, log_t):
        return float(np.subtract(*free_energies(x, np.exp(log_t))[:2]))

    h, log_t = optimize.root(gaps, [0.31, np.log(5.2)]).x
    (mark,) = [mark for mark in found.line.marks if mark.kind == "triple"]
    assert mark.phase == "sharp"
    assert [mark.h, mark.t] == pytest.approx([h, np.exp(log_t)], rel=0.03)
    assert abs(mark.h - h) < 4 * mark.h_stderr
    assert abs(mark.t - np.exp(log_t)) < 4 * mark.t_stderr
    assert found.names == ("broad", "middle")
    assert found.quantities["triple_h"].value == mark.h
    at = np.isfinite(np.asarray(found.critical.value))
    for x, t in zip(found.x[at], np.asarray(found.critical.value)[at], strict=True):
        exact = optimize.root_scalar(lambda s, x=x: gap(x, s), bracket=(0.5, 3.0)).root
        assert t == pytest.approx(np.exp(exact), rel=0.02)
