"""Power-law factorisation: the asymptotic forms against quadrature, and the demo against both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_close

from experiments import power_law as experiment
from slt import config, runs
from slt.models.power_law import PowerLaw, make
from slt.theory import factorisation
from slt.typing import InputError


@pytest.mark.parametrize("q", [2, 3, 8])
@pytest.mark.parametrize("learned", [0, 1, 3])
def test_cut_off_is_the_asymptote_of_the_truth_cut_off(q, learned):
    """Modes of strength 0 after the learned ones, less t times what these leave of the loss."""
    fn, t = PowerLaw(3, 0.7, q), np.array([1e8, 1e9])
    strengths = np.where(np.arange(3) < learned, fn.strengths, 0.0)
    exact = factorisation.decoupled(t, strengths, q).free_energy
    rest = t * np.sum(np.square(fn.strengths[learned:]))
    assert fn.cut_off(t, learned) - rest == pytest.approx(exact, abs=2e-3)
    gap = np.diff(fn.cut_off(t, learned, constant=False) - fn.cut_off(t, learned))
    assert gap == pytest.approx(0, abs=1e-6)


def test_forms_are_the_cut_offs():
    fn, t = PowerLaw(5, 0.4, 8), np.array([20.0, 3e3])
    for k in range(6):
        np.testing.assert_allclose(experiment.form(fn, k).at(t), fn.cut_off(t, k), rtol=1e-12)


def test_cut_off_is_refused_where_its_multiplicity_is_another():
    with pytest.raises(InputError):
        PowerLaw(3, 0.7, 1).cut_off(10.0, 1)
    with pytest.raises(InputError):
        PowerLaw(3, 0.7, 8).cut_off(10.0, 4)


def test_asymptotics_hold_only_where_the_header_says():
    fn = PowerLaw(16, 0.4, 8)
    assert experiment.asymptotic_t(fn) == pytest.approx(178, rel=0.07)
    assert experiment.asymptotic_t(PowerLaw(64, 0.4, 8)) == pytest.approx(1884, rel=0.07)
    t = np.geomspace(1, 60, 20)
    truth = experiment.exact(fn, t).free_energy
    least = np.min([np.abs(fn.cut_off(t, k) - truth) for k in range(17)], axis=0)
    assert least.max() > 1.5
    assert experiment.exact(fn, [1.0, 100.0, 2000.0]).lam == pytest.approx([11.06, 66.62, 64.08], abs=0.01)


@pytest.mark.statistics
def test_demo_samples_the_exact_curves(tmp_path):
    """F and lam(t) of 16 modes; standard errors at most 0.8, about 1 per cent of lambda = 64."""
    run = runs.begin(config.compose("power_law/demo"), tmp_path / "run")
    t = np.array(run.quantities["llc"].coords["t"])
    truth = factorisation.power_law(t, 16, 0.4)
    assert_close(run.quantities["llc"], truth.lam, 0.8, what="lam(t)")
    assert_close(run.quantities["free_energy"], truth.free_energy, 1.5, what="F(t)")


def test_phases_count_learned_modes() -> None:
    """All at the optimum, none at 0, two fewer with two modes gone; of prior draws hardly any mode is learned."""
    model = make(16, 0.4, 8)
    phases, best = model.truth().phases, np.array(model.truth().params)
    assert phases.names[0] == "rank 0"
    assert len(phases.names) == 17
    for gone, rank in (([], 16), (range(16), 0), ([3, 7], 14)):
        w = best.copy()
        w[list(gone)] = 0
        assert int(phases.label(jnp.asarray(w))) == rank
    prior = jax.vmap(lambda key: phases.label(model.init(key)))(jax.random.split(jax.random.key(0), 500))
    assert float(prior.mean()) < 0.1
    assert make(127, 0.4, 2).truth().phases is None
