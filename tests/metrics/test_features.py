"""Distances in feature space against scipy, and against their definitions point by point."""

import jax
import numpy as np
import pytest
from scipy.linalg import sqrtm

from collapse_jax.metrics import features


def clouds(dim=6):
    rng = np.random.default_rng(3)
    one = rng.standard_normal((300, dim)) @ rng.standard_normal((dim, dim))
    other = 0.5 + rng.standard_normal((200, dim)) * np.linspace(0.2, 1.5, dim)
    return one.astype(np.float32), other.astype(np.float32)


@pytest.mark.parametrize("dim", [2, 20])
def test_frechet_distance_against_scipy(dim):
    one, other = clouds(dim)
    got = jax.jit(lambda a, b: features.frechet_distance(features.summary(a), features.summary(b)))(
        one, other
    )
    covariances = [np.cov(x.astype(float).T, ddof=0) for x in (one, other)]
    root = sqrtm(covariances[0] @ covariances[1])
    shift = one.mean(axis=0, dtype=float) - other.mean(axis=0, dtype=float)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_frechet_distance_of_features_that_depend_on_each_other():
    one, other = clouds(4)
    mix = np.random.default_rng(5).standard_normal((4, 10)).astype(np.float32)
    one, other = one @ mix, 0.1 * other @ mix
    got = features.frechet_distance(features.summary(one), features.summary(other))
    covariances = [np.cov(x.astype(float).T, ddof=0) for x in (one, other)]
    values = np.linalg.eigvals(covariances[0] @ covariances[1])  # rank 4 of 10: no root by Schur
    root = np.sqrt(np.maximum(values.real, 0)).sum()
    shift = one.mean(axis=0, dtype=float) - other.mean(axis=0, dtype=float)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1]) - 2 * root
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_frechet_distance_of_points_that_never_vary():
    one, other = np.zeros((50, 4), np.float32), np.full((50, 4), 3.0, np.float32)
    distance = features.frechet_distance(features.summary(one), features.summary(other))
    np.testing.assert_allclose(distance, 36.0, rtol=1e-5)
    assert float(features.frechet_distance(features.summary(one), features.summary(one))) == 0.0


def test_neighbourhoods_by_their_definitions():
    one, other = clouds(3)
    k = 4

    @jax.jit
    def measured(one, other):
        return features.neighbourhoods(features.manifold(one, k), features.manifold(other, k), k)

    got = measured(one, other)

    def radius(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]

    around_one = [radius(one, i) for i in range(len(one))]
    around_other = [radius(other, j) for j in range(len(other))]
    hits = np.zeros((len(one), len(other)), bool)
    reverse = np.zeros_like(hits)
    for i in range(len(one)):
        for j in range(len(other)):
            distance = np.linalg.norm(one[i] - other[j])
            hits[i, j] = distance < around_one[i]
            reverse[i, j] = distance < around_other[j]
    expected = (
        np.mean([hits[:, j].any() for j in range(len(other))]),
        np.mean([reverse[i].any() for i in range(len(one))]),
        hits.sum() / (k * len(other)),
        np.mean([hits[i].any() for i in range(len(one))]),
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert 0.1 < got.precision < 1.0


def test_a_sample_that_shrinks_keeps_precision_and_loses_recall_and_coverage():
    one, _ = clouds(3)
    near = one.mean(axis=0) + 0.1 * (one - one.mean(axis=0))
    found = features.neighbourhoods(features.manifold(one), features.manifold(near))
    assert found.precision > 0.95
    assert found.recall < 0.3
    assert found.coverage < 0.5
