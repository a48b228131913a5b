"""Mixtures against scipy, quadrature and large samples; originals by name and from files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from collapse_jax.families.gmm import mixtures, originals
from collapse_jax.families.gmm.mixtures import Mixture

PLANE = {
    "weights": [3.0, 1.0],  # normalised when read
    "means": [[-1.0, 0.5], [2.0, -0.5]],
    "covariances": [[[1.0, 0.4], [0.4, 0.5]], [[0.2, -0.1], [-0.1, 0.3]]],
}
LINE = {"weights": [0.6, 0.4], "means": [[0.0], [2.0]], "covariances": [[[0.5]], [[0.05]]]}
OTHER_LINE = {"weights": [1.0], "means": [[0.7]], "covariances": [[[1.3]]]}


def mixture(given):
    original = originals.load_original(given)
    leaves = np.log(original.weights), original.means, np.linalg.cholesky(original.covariances)
    return Mixture(*(jnp.asarray(x, jnp.float32) for x in leaves))


def density(given, rows):
    original = originals.load_original(given)
    return sum(
        weight * stats.multivariate_normal(mean, covariance).pdf(rows)
        for weight, mean, covariance in zip(*original, strict=True)
    )


def test_density():
    rows = np.random.default_rng(0).normal(scale=2.0, size=(50, 2))
    found = jax.jit(mixtures.log_density)(mixture(PLANE), jnp.asarray(rows.T, jnp.float32))
    np.testing.assert_allclose(np.exp(found), density(PLANE, rows), rtol=1e-4, atol=1e-7)


def test_density_on_the_host():
    rows = np.random.default_rng(0).normal(scale=2.0, size=(50, 2))
    found = originals.load_original(PLANE).log_density(rows)
    np.testing.assert_allclose(found, np.log(density(PLANE, rows)), rtol=1e-10)
    alone = {**PLANE, "weights": [1.0, 0.0]}
    one = originals.load_original({name: value[:1] for name, value in PLANE.items()})
    np.testing.assert_allclose(
        originals.load_original(alone).log_density(rows), one.log_density(rows)
    )


def test_log_sum_of_nothing_is_minus_infinity():
    logarithms = jnp.array([[-jnp.inf, 0.0, -jnp.inf], [-jnp.inf, -jnp.inf, 3.0]])
    np.testing.assert_array_equal(mixtures.log_sum(logarithms), [-np.inf, 0.0, 3.0])


def test_inner_product_by_quadrature():
    product = jax.jit(mixtures.inner_product)(mixture(LINE), mixture(OTHER_LINE))
    exact, _ = integrate.quad(
        lambda x: density(LINE, np.array([[x]])) * density(OTHER_LINE, np.array([[x]])), -15, 15,
        limit=200, points=[0, 2],
    )  # fmt: skip
    np.testing.assert_allclose(product, exact, rtol=1e-5)


def test_inner_product_in_the_plane():
    x = np.linspace(-8, 8, 801)
    grid = np.stack(np.meshgrid(x, x), axis=-1)
    exact = np.sum(density(PLANE, grid) ** 2) * (x[1] - x[0]) ** 2
    product = jax.jit(mixtures.inner_product)(mixture(PLANE), mixture(PLANE))
    np.testing.assert_allclose(product, exact, rtol=1e-4)


def test_samples_have_the_moments_and_the_shares():
    count = 200_000
    rows = np.asarray(
        jax.jit(mixtures.sample, static_argnums=2)(jax.random.key(3), mixture(PLANE), count)
    ).astype(float)
    original = originals.load_original(PLANE)
    mean = original.weights @ original.means
    error = rows.std(0) / np.sqrt(count)
    assert np.all(np.abs(rows.mean(0) - mean) < 4 * error)
    np.testing.assert_allclose(np.mean(rows.var(0)), original.variance, rtol=4 * np.sqrt(3 / count))
    right = rows[:, 0] > 0.8  # by integrating the marginals of both components
    scales = np.sqrt(original.covariances[:, 0, 0])
    exact = original.weights @ stats.norm.sf(0.8, original.means[:, 0], scales)
    assert abs(right.mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / count)


def test_variance_and_tails():
    original = originals.load_original(PLANE)
    found = jax.jit(mixtures.log_marginal_variance)(mixture(PLANE))
    np.testing.assert_allclose(np.exp(found), original.variance, rtol=1e-5)
    levels = np.array([0.01, 0.99])
    lower, upper = original.quantiles(np.eye(2), levels).T
    tails = jax.jit(lambda m: mixtures.marginal_tail_mass(m, lower, upper))(mixture(PLANE))
    np.testing.assert_allclose(tails, [0.02, 0.02], rtol=1e-4)
    determinants = np.linalg.det(original.covariances)
    np.testing.assert_allclose(
        np.exp(mixtures.log_determinants(mixture(PLANE))), determinants, rtol=1e-5
    )


def test_quantiles_of_projections():
    original = originals.load_original(PLANE)
    direction = np.array([[0.6, 0.8]])
    levels = np.array([0.05, 0.5, 0.9])
    found = original.quantiles(direction, levels)[0]
    centres = original.means @ direction[0]
    scales = np.sqrt([direction[0] @ c @ direction[0] for c in original.covariances])
    for value, level in zip(found, levels, strict=True):
        assert abs(original.weights @ stats.norm.cdf(value, centres, scales) - level) < 1e-10


def test_host_samples():
    rows = originals.load_original(PLANE).sample(np.random.default_rng(1), 100_000)
    exact = originals.load_original(PLANE)
    error = rows.std(0) / np.sqrt(len(rows))
    assert np.all(np.abs(rows.mean(0) - exact.weights @ exact.means) < 4 * error)


@pytest.mark.parametrize("name", originals.NAMES)
def test_named_originals_survive_json(name):
    original = originals.load_original(name)
    again = originals.load_original(json.dumps(original.config))
    for one, other in zip(original, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_from_a_file(tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(PLANE))
    np.testing.assert_allclose(originals.load_original(str(path)).weights, [0.75, 0.25])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.5, -0.5]}, r"truth.weights: expected numbers >= 0"),
        ({"weights": [0.0, 0.0]}, r"truth.weights: .* positive sum"),
        ({"weights": [[1.0, 1.0]]}, r"truth.weights: expected shape \(k,\), got \(1, 2\)"),
        ({"weights": ["a", "b"]}, r"truth.weights: expected an array of numbers"),
        ({"weights": [float("nan"), 1.0]}, r"truth.weights: expected finite"),
        ({"weights": ["1", "1"]}, r"truth.weights: expected an array of numbers, got \['1', '1'\]"),
        ({"weights": [True, 1]}, r"truth.weights: expected an array of numbers, got \[True, 1\]"),
        ({"weights": [1e308, 1e308]}, r"truth.weights: expected numbers up to 1e\+18"),
        ({"weights": [10**400, 1]}, r"truth.weights: expected an array of numbers"),
        ({"means": [[1e300], [0.0]]}, r"truth.means: expected numbers up to 1e\+09"),
        ({"means": [[0.0, 0.0]]}, r"truth.means: expected shape \(2, d\), got \(1, 2\)"),
        ({"means": [[0.0], [0.0, 1.0]]}, r"truth.means: expected an array of numbers"),
        ({"covariances": [np.eye(2).tolist()]}, r"truth.covariances: expected shape \(2, 2, 2\)"),
        (
            {"covariances": [np.eye(2).tolist(), [[1.0, 2.0], [2.0, 1.0]]]},
            r"truth.covariances: expected symmetric positive definite .* component 1",
        ),
        (
            {"covariances": [np.eye(2).tolist(), [[1e-9, 5e-10], [0.0, 1e-9]]]},
            r"truth.covariances: expected symmetric positive definite .* component 1",
        ),
        (
            {"covariances": [(1e-300 * np.eye(2)).tolist()] * 2},
            r"truth.covariances: expected variances of at least 1e-18 .* component 0",
        ),
        ({"scales": []}, r"truth: expected the fields weights, means, covariances"),
    ],
)
def test_bad_mixtures_are_named(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        originals.load_original({**PLANE, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.json", "truth: expected two-gaussians, blob, JSON, or a JSON file"),
        ("{", "truth: expected JSON"),
        ("a\0b", "truth: expected two-gaussians, blob, JSON, or a JSON file"),
        (3, "truth: expected a name, JSON, a JSON file or a mapping, got 3"),
        (None, "truth: expected a name, JSON, a JSON file or a mapping, got None"),
    ],
)
def test_bad_texts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        originals.load_original(text)


def test_rounding_of_a_covariance_is_no_asymmetry():
    given = {**PLANE, "covariances": [np.eye(2), [[1.0, 1e-17], [0.0, 1.0]]]}
    assert originals.load_original(given).covariances[1, 0, 1] == 1e-17


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="truth: expected a JSON object, got list"):
        originals.load_original(str(path))
