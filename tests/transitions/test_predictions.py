"""Predicted crossings against closed forms."""

import numpy as np
import pytest
from scipy import special

from slt.transitions.crossing import Crossing
from slt.transitions.predictions import Form, predictions, roots

U, V = Form(0.01, 0.25), Form(0.0, 0.5)


def test_both_roots_of_the_leading_order():
    """0.01 t = 0.25 log t by both branches of Lambert's W; science.md B2: 119.6."""
    low, high = roots(U, V)
    w = [-25 * np.real(special.lambertw(-0.04, k)) for k in (0, -1)]
    np.testing.assert_allclose([low.t, high.t], w, rtol=1e-9)
    assert (low.upward, high.upward) == (False, True)
    np.testing.assert_allclose(high.t, 119.6, atol=0.05)


def test_no_root_where_the_loss_decides_at_once():
    assert roots(Form(0.1, 0.25), V) == ()  # 0.1/0.25 > 1/e
    assert roots(Form(np.nan, 0.25), V) == ()
    (one,) = roots(Form(0.01, 0.5), Form(0.0, 0.5, 1, 3.0))  # t = 300
    np.testing.assert_allclose(one.t, 300, rtol=1e-9)


def test_close_roots_are_both_found():
    e = Form(np.exp(-1) * (1 - 1e-9), 1.0)
    found = roots(e, Form(0.0, 2.0))
    assert len(found) == 2
    np.testing.assert_allclose([each.t for each in found], np.e, rtol=1e-3)


def test_log_log_terms():
    a, b = Form(0.01, 0.25, 1, 1.0), Form(0.0, 0.5, 2, 0.5)
    for root in roots(a, b):
        np.testing.assert_allclose(a.at(np.array(root.t)), b.at(np.array(root.t)), rtol=1e-9)


def test_predictions_beside_the_measurement():
    constant_u = -np.log(special.gamma(0.25) / 8)  # int exp(-t (w + 1)^4) dw/4 = t^-1/4 gamma(1/4)/8
    constant_v = -np.log(np.sqrt(np.pi / 20) / 4)
    measured = Crossing(294.0, 2.0, (291.0, 297.0), True, 0.0, 2.0, True, 30.0)
    found = {
        each.name: each
        for each in predictions(
            U._replace(constant=constant_u), V._replace(constant=constant_v), measured,
            laplace=(Form(0.01, 0.5, 1, 7.0), Form(0.0, 0.5, 1, constant_v)), laplace_note="singular",
            exact=294.138961658,
        )
    }  # fmt: skip
    assert list(found) == ["leading", "constant", "laplace", "exact"]
    np.testing.assert_allclose(found["constant"].t, 294.138961658, rtol=1e-3)
    np.testing.assert_allclose(found["leading"].miss, 119.6 / 294 - 1, atol=1e-3)
    np.testing.assert_allclose(found["exact"].sigmas, 0.0695, atol=1e-3)
    assert np.isnan(found["laplace"].t)
    assert "no crossing (singular)" in str(found["laplace"])
    assert "multiplicity" in [each.name for each in predictions(U, V._replace(m=2))]
    assert np.isnan(predictions(U, V)[0].miss)


def test_low_must_be_above_one():
    with pytest.raises(ValueError, match="at least 1"):
        roots(U, V, low=0.5)
