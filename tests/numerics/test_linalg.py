"""Factorisations of small matrices against NumPy in float64, unrolled and in loops."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collapse_jax
from collapse_jax.numerics import linalg

TRIALS = 20
DIMENSIONS = (1, 2, 3, 4, 5, 8, 11)  # on both sides of the switch to loops


def problems(dim):
    """Matrices of condition number up to 1e4, positive definite ones, and right-hand sides."""
    rng = np.random.default_rng(dim)
    left, right = (np.linalg.qr(rng.normal(size=(TRIALS, dim, dim)))[0] for _ in range(2))
    values = np.exp(rng.uniform(-np.log(1e4), 0, (TRIALS, 1, dim)))
    return left * values @ right, left * values @ left.swapaxes(1, 2), rng.normal(size=(dim, 3))


@jax.jit
@jax.vmap
def everything(matrix, positive, right):
    lower = linalg.cholesky(positive)
    return {
        "cholesky": lower,
        "lower": linalg.solve_lower(lower, right),
        "vector": linalg.solve_lower(lower, right[:, 0]),
        "solved": linalg.solve_positive(positive, right),
        "nuclear": linalg.nuclear_norm(matrix),
    }


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_against_numpy(dim):
    matrix, positive, right = problems(dim)
    right = np.broadcast_to(right, (TRIALS, *right.shape))
    single = [jnp.asarray(x, jnp.float32) for x in (matrix, positive, right)]
    out = jax.tree.map(lambda x: np.asarray(x, float), everything(*single))
    matrix, positive, right = (np.asarray(x, float) for x in single)
    # Forward error: rounding (6e-8) times the condition number, at most 1e4 (its root for L).
    lower = np.linalg.cholesky(positive)
    np.testing.assert_allclose(out["cholesky"], lower, atol=1e-4)
    np.testing.assert_allclose(np.triu(out["cholesky"], 1), 0.0)
    solved = np.linalg.solve(out["cholesky"], right)
    np.testing.assert_allclose(out["lower"], solved, rtol=1e-4, atol=1e-4 * np.abs(solved).max())
    np.testing.assert_allclose(out["vector"], out["lower"][..., 0], rtol=1e-3, atol=1e-5)
    residual = positive @ out["solved"] - right
    assert np.abs(residual).max() < 1e-5 * np.abs(out["solved"]).max()
    singular = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(out["nuclear"], singular.sum(1), rtol=2e-6)


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_nuclear_norm_of_what_is_already_orthogonal_or_nothing(dim):
    nuclear = jax.jit(linalg.nuclear_norm)
    assert nuclear(jnp.zeros((dim, dim))) == 0
    np.testing.assert_allclose(nuclear(jnp.eye(dim)), dim, rtol=1e-6)
    np.testing.assert_allclose(nuclear(jnp.ones((dim, dim))), dim, rtol=1e-6)  # of rank one


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_what_is_not_positive_definite_has_no_finite_factor(dim):
    indefinite = jnp.eye(dim).at[-1, -1].set(-1.0)
    assert not bool(jnp.all(jnp.isfinite(linalg.cholesky(indefinite))))
    assert not bool(jnp.all(jnp.isfinite(linalg.solve_positive(indefinite, jnp.ones(dim)))))


def test_the_library_calls_no_lapack():
    """Its batched calls can deadlock; see collapse_jax/numerics/linalg.py."""
    for path in Path(collapse_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if isinstance(node, ast.ImportFrom):
                name = node.module or ""
            assert "jnp.linalg" not in name, path
            assert "jax.scipy.linalg" not in name, path
