"""Fits on the grid against moments, scikit-learn's EM, scipy's optimisers and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn.mixture import GaussianMixture

from collapse_jax.error_sources import model_classes, neural_density
from collapse_jax.error_sources.model_classes import GRID, NARROWEST, STEP, Components, Gaussian
from collapse_jax.error_sources.neural_density import LARGEST, UNITS, Neural
from collapse_jax.error_sources.study import make_learners
from collapse_jax.error_sources.truth import THREE_MODES, log_masses

CLASSES = make_learners(
    THREE_MODES, {"gaussian": 15, "gmm": 20, "neural": 60}, {"gmm": 100, "neural": 20}
)
MODES = np.exp(log_masses(THREE_MODES).astype(np.float64))


def sample(masses, size, seed=0):
    masses = np.asarray(masses, np.float64)
    return np.random.default_rng(seed).multinomial(size, masses / masses.sum())


def cross_entropy(learner, params, masses):
    return -float(np.sum(masses * np.asarray(learner.log_masses(params), np.float64)))


@pytest.mark.parametrize("name", CLASSES)
def test_densities_are_normalised(name):
    learner = CLASSES[name]
    for size in (learner.right, learner.small):
        logs = np.asarray(learner.log_masses(learner.start(size)), np.float64)
        assert np.exp(logs).sum() == pytest.approx(1, abs=1e-5)


def test_grid_sums_are_integrals_for_the_narrowest_density():
    for mean in (0.0, 0.013, STEP / 2):
        density = np.exp(-0.5 * ((GRID - mean) / NARROWEST) ** 2)
        density /= NARROWEST * np.sqrt(2 * np.pi)
        assert STEP * density.sum() == pytest.approx(1, abs=1e-12)
        assert STEP * (density * (GRID - mean) ** 2).sum() == pytest.approx(NARROWEST**2, rel=1e-10)


def test_densities_by_hand():
    params = Gaussian(jnp.float32(0.3), jnp.log(jnp.float32(0.8)))
    density = np.exp(-0.5 * ((GRID - 0.3) / 0.8) ** 2) / (0.8 * np.sqrt(2 * np.pi))
    found = np.exp(CLASSES["gaussian"].log_masses(params)) / STEP
    np.testing.assert_allclose(found, density, rtol=1e-4, atol=1e-6)
    absent = Components(
        *(jnp.array(x) for x in ([1.0, 0.0, 0.0], [0.3, 1.0, 2.0], [0.8, 1.0, 1.0]))
    )
    found = np.exp(CLASSES["gmm"].log_masses(absent)) / STEP
    np.testing.assert_allclose(found, density, rtol=1e-4, atol=1e-6)
    # Without outputs, the neural density is the normal one of the population's moments.
    silent = CLASSES["neural"].start(2)._replace(values=jnp.zeros((3, UNITS)))
    scale = THREE_MODES.scale
    density = np.exp(-0.5 * (GRID / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    found = np.exp(CLASSES["neural"].log_masses(silent)) / STEP
    np.testing.assert_allclose(found, density, rtol=1e-4, atol=1e-6)


def test_gaussian_fits_moments_exactly_and_goes_there_early():
    counts = sample(MODES, 1000)
    rows = np.repeat(GRID, counts)
    learner = CLASSES["gaussian"]
    masses = jnp.asarray(counts / 1000, jnp.float32)
    fitted = learner.exact(learner.start(1), masses, 1)
    assert float(fitted.mean) == pytest.approx(rows.mean(), abs=1e-5)
    assert float(jnp.exp(fitted.log_deviation)) == pytest.approx(rows.std(), rel=1e-5)
    few, many = (
        model_classes.gaussian(0.0, THREE_MODES.scale, steps).early(learner.start(1), masses)
        for steps in (15, 300)
    )
    assert float(many.mean) == pytest.approx(rows.mean(), abs=1e-4)
    assert float(many.log_deviation) == pytest.approx(np.log(rows.std()), abs=1e-4)
    assert 1e-4 < abs(float(few.log_deviation) - np.log(rows.std())) < 0.1


def test_em_never_lowers_the_likelihood():
    learner = CLASSES["gmm"]
    step = jax.jit(model_classes.em_step)
    for size, seed in ((3, 0), (2, 1)):
        masses = sample(MODES, 200, seed) / 200
        params = learner.start(size)
        losses = []
        for _ in range(60):
            losses.append(cross_entropy(learner, params, masses))
            params = step(params, jnp.asarray(masses, jnp.float32))
        assert np.diff(losses).max() < 1e-6
        assert losses[-1] < losses[0] - 1e-3
        weights = np.asarray(params.weights)
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        assert np.all(weights[size:] == 0)


def test_em_agrees_with_scikit_learn():
    learner = CLASSES["gmm"]
    counts = sample(MODES, 5000)
    start = learner.start(3)
    fitted = learner.exact(start, jnp.asarray(counts / 5000, jnp.float32), 3000)
    peer = GaussianMixture(
        3,
        tol=1e-12,
        max_iter=5000,
        reg_covar=0.0,
        weights_init=np.full(3, 1 / 3),
        means_init=np.asarray(start.means, np.float64)[:, None],
        precisions_init=np.asarray(start.deviations, np.float64)[:, None, None] ** -2.0,
    ).fit(np.repeat(GRID, counts)[:, None])
    np.testing.assert_allclose(fitted.weights, peer.weights_, atol=2e-3)
    np.testing.assert_allclose(fitted.means, peer.means_[:, 0], atol=2e-3)
    np.testing.assert_allclose(fitted.deviations, np.sqrt(peer.covariances_.ravel()), atol=2e-3)


def test_components_stay_as_wide_as_the_narrowest():
    masses = np.zeros(len(GRID), np.float32)
    masses[[100, 300, 400]] = [0.2, 0.5, 0.3]
    fitted = CLASSES["gmm"].exact(CLASSES["gmm"].start(3), jnp.asarray(masses), 200)
    np.testing.assert_allclose(fitted.deviations, NARROWEST, rtol=1e-6)
    np.testing.assert_allclose(np.sort(fitted.means), GRID[[100, 300, 400]], atol=1e-3)


def neural_loss(flat, masses, network):
    """Cross-entropy and gradient in float64, from the definition."""
    standard = (GRID - THREE_MODES.centre) / THREE_MODES.scale
    outputs, slopes, biases = flat.reshape(3, -1)
    bent = np.tanh(np.outer(standard, slopes) + biases)
    logits = bent @ outputs - 0.5 * standard**2
    logs = logits - np.logaddexp.reduce(logits)
    inner = outputs * (1 - bent**2)
    jacobian = np.concatenate([bent, inner * standard[:, None], inner], axis=1)
    return -float(masses @ logs), (np.exp(logs) - masses) @ jacobian


def test_derivatives_of_the_network():
    values = np.random.default_rng(0).normal(size=(3, UNITS)).astype(np.float32)
    standard = ((GRID - THREE_MODES.centre) / THREE_MODES.scale).astype(np.float32)
    _, jacobian = neural_density._network(standard, jnp.asarray(values))
    automatic = jax.jacobian(lambda v: neural_density._network(standard, v)[0])(values)
    expected = np.moveaxis(np.asarray(automatic).reshape(len(GRID), -1), 0, 1)
    np.testing.assert_allclose(jacobian, expected, atol=1e-5)


def test_scoring_finds_what_scipy_finds_and_adam_stops_short():
    learner = CLASSES["neural"]
    # Two units, warm started near the best: 20 steps must come within a fraction of one unit of
    # log-likelihood, or the fit's own error would be counted as statistical error.
    truth = np.zeros((3, UNITS), np.float32)
    truth[:, :2] = [[-2.0, 1.5], [2.0, 2.5], [1.5, -1.5]]
    known = Neural(jnp.asarray(truth), learner.start(2).present)
    size = 10_000
    masses = sample(np.exp(np.asarray(learner.log_masses(known), np.float64)), size) / size
    fitted = learner.exact(known, jnp.asarray(masses, jnp.float32), learner.steps)
    assert np.all(np.asarray(fitted.values)[:, 2:] == 0)
    best = optimize.minimize(
        neural_loss,
        truth[:, :2].ravel().astype(np.float64),
        (masses, None),
        jac=True,
        bounds=[(-LARGEST, LARGEST)] * 6,
        options={"ftol": 1e-14, "gtol": 1e-9},
    )
    scored = cross_entropy(learner, fitted, masses)
    # float32 carries a cross-entropy to about 1e-6
    assert best.fun - 2e-6 < scored < best.fun + 0.05 / size
    early = learner.early(learner.start(2), jnp.asarray(masses, jnp.float32))
    assert cross_entropy(learner, early, masses) > best.fun + 1e-3


def test_a_population_in_the_class_is_fitted_by_itself():
    learner = CLASSES["neural"]
    masses = jnp.exp(learner.log_masses(learner.start(UNITS)))
    fitted = learner.exact(learner.start(UNITS), masses, 20)
    assert cross_entropy(learner, fitted, np.asarray(masses)) == pytest.approx(
        -float(jnp.sum(masses * jnp.log(masses))), abs=1e-6
    )
