"""The mixture family: metrics of a known model, chains against a closed form, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collapse_jax
from collapse_jax import families, pools, regimes, theory
from collapse_jax.engine import planning
from collapse_jax.families.gmm.em import Fitting
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.families.gmm.originals import load_original
from collapse_jax.family import Origin, Training
from collapse_jax.results.totals import edges
from experiments.flags import grouped

gmm = families.gmm
measured = jax.jit(gmm().measure)


def exact_model(name):
    original = load_original(name)
    leaves = np.log(original.weights), original.means, np.linalg.cholesky(original.covariances)
    return Mixture(*(jnp.asarray(x, jnp.float32) for x in leaves))


def training(rows):
    return Training(pools.Rows(jnp.asarray(rows, jnp.float32), len(rows)))


def test_metrics_of_the_original_itself():
    rows = load_original("two-gaussians").sample(np.random.default_rng(0), 50)
    model = exact_model("two-gaussians")
    metrics = measured(jax.random.key(0), model, training(rows), Origin(None))
    assert metrics["integrated_squared_error"] < 1e-7
    np.testing.assert_allclose(metrics["tail_mass"], 0.02, rtol=1e-4)
    np.testing.assert_allclose(metrics["log_variance"], np.log((1 + 4 + 1) / 2), rtol=1e-5)
    assert 0 < metrics["w2_squared"] < 0.1  # of 256 rows
    # The entropy, by a large sample; the standard deviation of a log-density is about 1.
    large = load_original("two-gaussians").sample(np.random.default_rng(1), 400_000)
    standard = -0.5 * ((large[:, None] - np.array([[-2.0, 0.0], [2.0, 0.0]])) ** 2).sum(-1)
    entropy = -(np.log(np.exp(standard).mean(1)) - np.log(2 * np.pi)).mean()
    assert abs(metrics["held_out_log_likelihood"] + entropy) < 4 / np.sqrt(1024)
    known = gmm().metrics["held_out_log_likelihood"].original
    np.testing.assert_allclose(metrics["held_out_log_likelihood"], known, rtol=1e-6)
    assert abs(metrics["original_log_likelihood"] + entropy) < 4 / np.sqrt(256)
    assert metrics["live_components"] == 2
    np.testing.assert_allclose(metrics["weight"], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(metrics["component_covariance"], [np.eye(2)] * 2, atol=1e-6)


def test_a_component_below_one_row_is_not_live():
    model = exact_model("two-gaussians")._replace(log_weights=jnp.log(jnp.array([0.99, 0.01])))
    for rows, live in ((50, 1), (150, 2)):
        found = measured(jax.random.key(0), model, training(np.zeros((rows, 2))), None)
        assert found["live_components"] == live


@pytest.mark.slow
def test_one_component_follows_the_gaussian_closed_form():
    """One full component without regularisation is the maximum-likelihood Gaussian."""
    chains, samples, generations = 1000, 20, 8
    family = gmm(components=1, truth="blob", fitting=Fitting(regularisation=0.0))
    history = collapse_jax.run(
        family, regimes.replace(samples), chains=chains, generations=generations, seed=3
    ).history
    assert bool(history["finite"].all())
    fits = np.arange(1, generations + 1)
    expected = theory.expected_log_determinant(
        samples, fits, dimension=2, log_determinant=0.0, estimator="ml"
    )
    values = history["log_determinant"].values[:, :, 0].astype(float)
    error = values.std(0, ddof=1) / np.sqrt(chains)
    assert np.all(np.abs(values.mean(0) - expected) < 4 * error)
    # One iteration finds the answer, a second sees no change; likewise at generation 0.
    assert history["em_iterations"].max() <= 3


def test_degenerate_data_give_a_finite_model_or_a_flag():
    family = gmm(components=3)
    fit = jax.jit(family.fit)
    for rows in (np.full((30, 2), 2.5), np.zeros((30, 2)), np.repeat(np.eye(2), 15, axis=0)):
        for teacher in (None, jnp.float32(0.0)):  # at generation 0, and from the previous model
            start = fit(jax.random.key(0), family.init(jax.random.key(0)), training(rows))[0]
            given = training(rows)._replace(teacher=teacher)
            model, info = fit(jax.random.key(0), start, given)
            assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(model))
            assert np.isfinite(info["log_likelihood"])


def test_rows_far_from_the_origin_are_fitted_as_those_near_it():
    """Overlapping clusters near 10^7, where float32 represents only integers."""
    rng = np.random.default_rng(5)
    centres = np.array([[-6.0, 0.0], [6.0, 0.0]])
    rows = np.round(centres[np.arange(80) % 2] + rng.normal(scale=4.0, size=(80, 2)))
    family = gmm(components=2, fitting=Fitting(tolerance=1e-6))
    fit = jax.jit(family.fit)
    (near, near_info), (far, far_info) = (
        fit(jax.random.key(1), family.init(jax.random.key(0)), training(rows + shift))
        for shift in (0.0, 1e7)
    )
    np.testing.assert_allclose(far_info["log_likelihood"], near_info["log_likelihood"], atol=1e-4)
    np.testing.assert_allclose(far.log_weights, near.log_weights, atol=0.05)
    np.testing.assert_allclose(far.factors, near.factors, atol=0.05)
    np.testing.assert_allclose(far.means - np.float32(1e7), near.means, atol=1.0)


@pytest.mark.slow
def test_a_model_that_cannot_be_fitted_is_flagged():
    point = {"weights": [1.0], "means": [[1000.0]], "covariances": [[[1e-12]]]}  # in float32
    family = gmm(components=1, truth=point, fitting=Fitting(regularisation=0.0))
    result = collapse_jax.run(family, regimes.replace(5), chains=3, generations=3)
    assert not bool(result.history["finite"].any())
    assert result.history["nonfinite"].values.tolist() == [0, 0, 0]


def test_more_components_than_samples_are_rejected():
    with pytest.raises(ValueError, match="components: expected at most samples = 5, got 6"):
        planning.check_pair(gmm(components=6), regimes.replace(5), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 0}, "components: expected an integer >= 1, got 0"),
        ({"components": 2.5}, "components: expected an integer >= 1, got 2.5"),
        ({"components": True}, "components: expected an integer >= 1, got True"),
        ({"components": "2"}, "components: expected an integer >= 1, got '2'"),
        ({"covariance": "tied"}, "covariance: expected one of full, diagonal, spherical"),
        ({"covariance": None}, "covariance: expected one of full, diagonal, spherical"),
        ({"start": "cold"}, "start: expected one of warm, k-means"),
        ({"starts": 0}, "starts: expected an integer >= 1, got 0"),
        ({"starts": 1.5}, "starts: expected an integer >= 1, got 1.5"),
        ({"tolerance": -1.0}, "tolerance: expected a finite number >= 0, got -1.0"),
        ({"tolerance": None}, "tolerance: expected a finite number >= 0, got None"),
        ({"max_iterations": 0}, "max_iterations: expected an integer >= 1, got 0"),
        ({"regularisation": -1e-6}, "regularisation: expected a finite number >= 0, got -1e-06"),
        ({"regularisation": "0"}, "regularisation: expected a finite number >= 0, got '0'"),
        ({"tail": 1.0}, "tail: expected a share in"),
        ({"tail": "0.1"}, "tail: expected a share in"),
        ({"truth": 3}, "truth: expected a name, JSON, a JSON file or a mapping, got 3"),
        ({"truth": None}, "truth: expected a name, JSON, a JSON file or a mapping, got None"),
        (
            {
                "truth": {
                    "weights": [1.0],
                    "means": [[0.0] * 8],
                    "covariances": [(1e-12 * np.eye(8)).tolist()],
                }
            },
            r"truth.covariances: expected a finite integral of p\^2 in single precision",
        ),
        ({"truth": {"weights": [1.0]}}, "truth: expected the fields"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        gmm(**grouped(gmm, arguments))
    assert "\n" not in str(caught.value)


def test_bins_of_summaries_follow_the_units_of_the_original():
    """x -> a x + b transforms histogram edges like the metric."""
    base = load_original("two-gaussians").config
    a, b = 1e-3, np.array([50.0, -7.0])
    moved = {
        "weights": base["weights"],
        "means": a * np.array(base["means"]) + b,
        "covariances": a**2 * np.array(base["covariances"]),
    }
    one, other = (gmm(truth=given).metrics for given in (base, moved))
    for name, metric in one.items():
        before, after = edges(metric), edges(other[name])
        power = {"integrated_squared_error": -2, "w2_squared": 2, "component_covariance": 2}
        expected = before * a ** power.get(name, 0)
        if name == "component_mean":
            expected = a * before + b[:, None]
        if "log" in name:
            shift = {"log_variance": 2, "log_determinant": 4}.get(name, -2)
            expected = before + shift * np.log(a)
        widths = np.gradient(after, axis=-1)
        np.testing.assert_allclose((after - expected) / widths, 0.0, atol=0.01)


def test_numbers_of_any_type_describe_the_same_run():
    given = Fitting(tolerance=0, regularisation=np.float32(0))
    assert gmm(np.int64(2), fitting=given).config == (
        gmm(2, fitting=Fitting(tolerance=0.0, regularisation=0.0)).config
    )
