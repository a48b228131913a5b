"""Bartlett's factors against the moments of scatter matrices, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.numerics import affine, bartlett

CHAINS = 40_000


def keys(seed):
    return jax.random.split(jax.random.key(seed, impl="philox4x32"), CHAINS)


def scatters(dim, count, traced, seed):
    """L L' of the second form, f64[chain, d, d]."""
    if traced:
        draw = jax.vmap(lambda key, count: bartlett.factor(key, dim, count), (0, None))
        factors = jax.jit(draw)(keys(seed), jnp.int32(count))
    else:
        factors = jax.jit(jax.vmap(lambda key: bartlett.factor(key, dim, count)))(keys(seed))
    factors = np.asarray(factors, float)
    assert not np.triu(factors, 1).any()
    return factors @ factors.mT


def covariances(dim, count, traced, seed):
    """Means f64[chain, d], and covariances (ddof=0) of the first form."""

    def chain(key, count):
        frame = bartlett.moments(key, dim, count)
        return frame.centre, affine.factor(frame) if dim > 1 else jnp.exp(frame.log_scale)[:, None]

    if traced:
        drawn = jax.jit(jax.vmap(chain, (0, None)))(keys(seed), jnp.int32(count))
    else:
        drawn = jax.jit(jax.vmap(lambda key: chain(key, count)))(keys(seed))
    mean, factors = (np.asarray(array, float) for array in drawn)
    return mean, factors @ factors.mT


def assert_wishart(scatter, dim, freedom):
    """Mean nu I, and variances nu (1 + (i = j)), within 5 standard errors of the means."""
    squares = (scatter - freedom * np.eye(dim)) ** 2
    for values, expected in (
        (scatter, freedom * np.eye(dim)),
        (squares, freedom * (1.0 + np.eye(dim))),
    ):
        error = values.std(axis=0, ddof=1) / np.sqrt(CHAINS)
        assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * error)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("dim", "count"), [(1, 3), (3, 12), (3, 2)])
def test_about_the_origin(dim, count, traced):
    scatter = scatters(dim, count, traced, seed=dim)
    assert_wishart(scatter, dim, count)
    if count < dim:
        assert (np.linalg.matrix_rank(scatter[:50], tol=1e-3) == count).all()


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("dim", "count"), [(1, 3), (3, 12)])
def test_about_the_mean(dim, count, traced):
    mean, covariance = covariances(dim, count, traced, seed=dim)
    assert_wishart(count * covariance, dim, count - 1)
    scaled = np.sqrt(count) * mean
    assert np.all(np.abs(scaled.mean(axis=0)) < 5 / np.sqrt(CHAINS))
    assert np.all(np.abs((scaled**2).mean(axis=0) - 1) < 5 * np.sqrt(2 / CHAINS))


def test_fewer_rows_than_dimensions_have_no_spread_beyond_them():
    frame = bartlett.moments(jax.random.key(0), 3, 2)
    assert np.isfinite(frame.log_scale).tolist() == [True, False, False]
    assert np.isfinite(affine.factor(frame)).all()
