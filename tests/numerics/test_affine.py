"""Affine frames against explicit float64 matrices, in one, two and five dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.numerics import affine
from collapse_jax.numerics.affine import Affine

DIMENSIONS = (1, 2, 5)
TRIALS = 40


class Matrices:
    """Random frames in float64, [TRIALS, ...], and the same frames in float32."""

    def __init__(self, seed, dim, widest=3.0):
        rng = np.random.default_rng(seed)
        self.centre = rng.normal(size=(TRIALS, dim))
        self.log_scale = rng.uniform(-widest, widest, (TRIALS, dim))
        self.lower = np.tril(rng.normal(size=(TRIALS, dim, dim)), -1) + np.eye(dim)
        below = np.tril_indices(dim, -1)
        shear = self.lower[:, below[0], below[1]] if dim > 1 else None
        self.frame = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float32), Affine(self.centre, self.log_scale, shear)
        )
        # The float32 values are taken as exact.
        self.centre, self.log_scale = (np.asarray(x, float) for x in self.frame[:2])
        self.lower = np.float32(self.lower).astype(float)
        self.factor = self.lower * np.exp(self.log_scale)[:, None, :]


def everything(frame, other, third, rows):
    """Results of all functions of frames, in one compiled program."""
    there = affine.relative(frame, other)
    composed = affine.compose(frame, other)
    return {
        "unit_lower": affine.unit_lower(frame),
        "factor": affine.factor(frame),
        "log_marginal_variances": affine.log_marginal_variances(frame),
        "applied": affine.apply(frame, rows),
        "composed": composed,
        "composed factor": affine.factor(composed),
        "relative": there,
        "relative factor": affine.factor(there),
        "back": affine.compose(frame, there),
        "from_factor": affine.from_factor(frame.centre, affine.factor(frame)),
        "left": affine.compose(composed, third),
        "right": affine.compose(frame, affine.compose(other, third)),
    }


@pytest.fixture(scope="module", params=DIMENSIONS)
def results(request):
    dim = request.param
    frames = [Matrices(seed, dim) for seed in range(3)]
    rows = np.random.default_rng(9).normal(size=(TRIALS, 7, dim)).astype(np.float32)
    out = jax.jit(jax.vmap(everything))(*(f.frame for f in frames), jnp.asarray(rows))
    return frames, rows, jax.tree.map(np.asarray, out)


def assert_close(actual, exact, tolerance=2e-5):
    """Compares entries relative to the largest of their trial, as sums may cancel."""
    actual, exact = np.asarray(actual, float), np.asarray(exact, float)
    scale = np.abs(exact).max(axis=tuple(range(1, exact.ndim)), keepdims=True)
    assert (np.abs(actual - exact) / scale).max() < tolerance


def assert_same_frame(actual, exact, tolerance=2e-5):
    np.testing.assert_allclose(actual.log_scale, exact.log_scale, rtol=0, atol=1e-5)
    assert_close(actual.centre, exact.centre, tolerance)
    assert (actual.shear is None) == (exact.shear is None)
    if exact.shear is not None:
        assert_close(actual.shear, exact.shear, tolerance)


def test_matrices_of_a_frame(results):
    (one, _, _), _, out = results
    np.testing.assert_array_equal(out["unit_lower"], one.lower)
    np.testing.assert_allclose(out["factor"], one.factor, rtol=1e-5)
    variances = np.diagonal(one.factor @ one.factor.transpose(0, 2, 1), axis1=1, axis2=2)
    np.testing.assert_allclose(out["log_marginal_variances"], np.log(variances), atol=1e-5)


def test_apply_is_the_affine_map(results):
    (one, _, _), rows, out = results
    exact = np.einsum("tij,tnj->tni", one.factor, rows) + one.centre[:, None]
    assert_close(out["applied"], exact)


def test_compose_multiplies_factors(results):
    (one, two, _), _, out = results
    assert_close(out["composed factor"], one.factor @ two.factor)
    exact = one.centre + np.einsum("tij,tj->ti", one.factor, two.centre)
    assert_close(out["composed"].centre, exact)


def test_relative_is_the_inverse_of_compose(results):
    (one, two, _), _, out = results
    assert_close(out["relative factor"], np.linalg.solve(one.factor, two.factor), 2e-4)
    shift = (two.centre - one.centre)[..., None]
    assert_close(out["relative"].centre, np.linalg.solve(one.factor, shift)[..., 0], 2e-4)
    assert_same_frame(out["back"], two.frame, 2e-4)


def test_from_factor_inverts_factor(results):
    (one, _, _), _, out = results
    assert_same_frame(out["from_factor"], one.frame)


def test_compose_is_associative(results):
    _, _, out = results
    assert_same_frame(out["left"], out["right"], 2e-4)


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_collapsed_scales_compose_without_underflow(dim):
    outer, inner = (
        jax.tree.map(lambda x: x[0], Matrices(seed, dim, widest=1.0).frame) for seed in (0, 1)
    )
    compose = jax.jit(affine.compose)
    exact = compose(outer, inner)
    narrow = outer._replace(log_scale=outer.log_scale - 1000)
    composed = compose(narrow, inner)
    np.testing.assert_allclose(composed.log_scale, exact.log_scale - 1000, atol=2e-4)
    np.testing.assert_array_equal(composed.centre, outer.centre)
    if dim > 1:  # the shear doesn't depend on a common scale
        np.testing.assert_allclose(composed.shear, exact.shear, rtol=1e-3, atol=1e-4)
    again = compose(composed, inner._replace(log_scale=inner.log_scale - 1000))
    assert (again.log_scale < -1990).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(again))


def test_a_frame_relative_to_a_collapsed_one_of_the_same_centre_is_finite():
    centre = jnp.array([0.5, -2.0])
    frame = Affine(centre, jnp.array([-1000.0, -1001.0]), jnp.array([0.5]))
    other = Affine(centre, jnp.array([-1001.0, -1000.0]), jnp.array([0.25]))
    there = jax.jit(affine.relative)(frame, other)
    np.testing.assert_allclose(there.log_scale, [-1.0, 1.0], atol=1e-4)
    np.testing.assert_array_equal(there.centre, [0.0, 0.0])


def test_log_marginal_variances_reach_below_the_smallest_float():
    shear = jnp.array([0.0])
    for log_scale in ([0.0, -1000.0], [-1000.0, 0.0], [-1000.0, -1000.0]):
        frame = Affine(jnp.zeros(2), jnp.array(log_scale), shear)
        np.testing.assert_allclose(
            affine.log_marginal_variances(frame), 2 * np.array(log_scale), atol=1e-3
        )


def test_from_factor_of_a_single_point_has_no_spread():
    frame = affine.from_factor(jnp.array([1.0, 2.0]), jnp.zeros((2, 2)))
    np.testing.assert_array_equal(frame.log_scale, [-np.inf, -np.inf])
    np.testing.assert_array_equal(affine.factor(frame), np.zeros((2, 2)))
    np.testing.assert_array_equal(affine.apply(frame, jnp.ones((3, 2))), [[1.0, 2.0]] * 3)
