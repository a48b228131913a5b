"""Regression from sufficient statistics against rows of NumPy, and its closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from collapse_jax import families, regimes, theory
from collapse_jax.engine import planning
from collapse_jax.families.regression import Gram, Weights
from collapse_jax.family import Request, Training, all_finite
from collapse_jax.results import closed_forms

CHAINS = 20_000


def drawn(dim, count, error, traced):
    """X'X and X'(y - X w), f64, of many data sets labelled by weights with this error."""
    family, weights = families.regression(dim, 0.5), Weights(jnp.asarray(error, jnp.float32), None)

    def draw(keys, count):
        return jax.vmap(lambda key: family.sample(key, weights, Request(count, 1)))(keys)

    keys = jax.random.split(jax.random.key(dim + 10 * count), CHAINS)
    pool = jax.jit(draw, static_argnums=() if traced else 1)(keys, count)
    return np.asarray(pool.matrix, np.float64), np.asarray(pool.moment, np.float64)


def assert_mean(values, theoretical):
    error = values.std(axis=0) / math.sqrt(len(values))
    np.testing.assert_array_less(np.abs(values.mean(axis=0) - theoretical), 4 * error + 1e-9)


@pytest.mark.parametrize(
    ("dim", "count", "traced"),
    [
        (3, 12, False),
        (3, 9, True),
        (4, 2, False),
        pytest.param(4, 2, True, marks=pytest.mark.slow),
        pytest.param(17, 25, False, marks=pytest.mark.slow),
    ],
)
def test_data_are_those_of_rows(dim, count, traced):
    error = np.linspace(-1, 1, dim)
    matrix, moment = drawn(dim, count, error, traced)
    # Wishart: E G = T I, Var G_ij = T (1 + [i = j]); all entries' squares at once.
    assert_mean(matrix, count * np.eye(dim))
    assert_mean((matrix - count * np.eye(dim)) ** 2, count * (1 + np.eye(dim)))
    # Given X'X, X'(y - X w) = X'X e + noise of covariance sigma^2 X'X.
    residual = moment - matrix @ error
    assert_mean(residual, np.zeros(dim))
    assert_mean(residual[:, :, None] * residual[:, None, :] - 0.25 * matrix, 0.0)
    ranks = np.linalg.matrix_rank(matrix[:50], tol=1e-3, hermitian=True)
    assert np.all(ranks == min(dim, count))
    if dim == 3:  # distribution of the smallest eigenvalue, against rows
        rows = np.random.default_rng(0).normal(size=(CHAINS, count, dim))
        ours, theirs = (np.linalg.eigvalsh(g)[:, 0] for g in (matrix, rows.mT @ rows))
        assert stats.ks_2samp(ours, theirs).statistic < 2.23 * math.sqrt(2 / CHAINS)


def rows_of(rng, count, weights):
    x = rng.normal(size=(count, len(weights)))
    return x, x @ weights + 0.3 * rng.normal(size=count)


def gram(x, y, true):
    return Gram(
        len(x), jnp.asarray(x.T @ x, jnp.float32), jnp.asarray(x.T @ (y - x @ true), jnp.float32)
    )


def test_fits_are_least_squares():
    rng, true = np.random.default_rng(1), np.array([2.0, -1.0, 0.5])
    family = families.regression(3)
    parts = [rows_of(rng, count, true) for count in (8, 11)]
    pooled = family.pools.merge(*(gram(x, y, true) for x, y in parts), 0)
    x, y = (np.concatenate(both) for both in zip(*parts, strict=True))
    key = jax.random.key(0)
    weights, _ = family.fit(key, family.init(key), Training(pooled))
    solution = np.linalg.lstsq(x, y)[0]
    np.testing.assert_allclose(weights.error, solution - true, atol=1e-5)
    metrics = family.measure(key, weights, Training(pooled), None)
    excess = np.sum((solution - true) ** 2)
    assert metrics["excess_risk"] == pytest.approx(excess, rel=1e-3)
    assert metrics["log_excess_risk"] == pytest.approx(math.log(excess), abs=1e-3)
    assert metrics["noise_share"] == pytest.approx(1 / (1 + excess), rel=1e-4)
    assert family.pools.size(pooled) == 19


def test_the_same_design_stays_the_same_to_the_bit():
    family, request = families.regression(3, design="same"), Request(9, 9)
    key = jax.random.key(2)
    weights, _ = family.fit(key, family.init(key), Training(family.original(key, request)))
    first = np.asarray(weights.factor)
    for generation in range(4):
        key = jax.random.key(generation + 3)
        data = family.sample(key, weights, request)
        np.testing.assert_allclose(data.matrix, first @ first.T, rtol=1e-6)
        weights, _ = family.fit(key, weights, Training(data))
        np.testing.assert_array_equal(weights.factor, first)


def test_data_without_rank_are_flagged():
    family, key = families.regression(2), jax.random.key(0)
    x = np.array([[1.0, 0.0]] * 6)
    weights, _ = family.fit(key, family.init(key), Training(gram(x, x[:, 0], np.zeros(2))))
    assert not all_finite(weights)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 0}, "dim: expected an integer >= 1, got 0"),
        ({"dim": 2.0}, "dim: expected an integer >= 1, got 2.0"),
        ({"noise": 0.0}, "noise: expected a finite number > 0, got 0"),
        ({"noise": math.nan}, "noise: expected a finite number > 0, got nan"),
        ({"design": "old"}, "design: expected one of same, new, got 'old'"),
    ],
)
def test_bad_input_is_rejected(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        families.regression(**{"dim": 3, **values})


def test_regimes_and_sizes_that_cannot_be_served_are_rejected():
    new, same = families.regression(3), families.regression(3, design="same")
    for regime in (regimes.fresh(12, 0.1), regimes.preserve(12, 0.1, fixed=True)):
        planning.check_pair(new, regime, 3)
        with pytest.raises(ValueError, match=f"^regime: {regime.name} .* use design=new"):
            planning.check_pair(same, regime, 3)
    with pytest.raises(ValueError, match="^regime: replace .* use design=new"):
        planning.check_pair(same, regimes.replace([12, 13]), 3)
    planning.check_pair(same, regimes.accumulate(12), 3)
    with pytest.raises(ValueError, match="^regime: subsample .* cannot") as caught:
        planning.check_pair(new, regimes.subsample(12), 3)
    assert "sampler" not in str(caught.value)
    planning.check_pair(new, regimes.replace(5), 3)
    with pytest.raises(ValueError, match="^samples: expected more than 4 per generation .* got 4"):
        planning.check_pair(new, regimes.replace(4), 3)


LAST, ROWS, DIM, NOISE = 4, 9, 2, 0.7


def brute_force(design, pooled, chains=50_000):
    """|w_n - w|^2, f64[fit, chain], from rows fitted by least squares."""
    rng, true = np.random.default_rng(3), np.array([1.0, -2.0])
    weights, found, xs, ys = np.tile(true, (chains, 1)), [], [], []
    for _ in range(LAST):
        if design == "new" or not xs:
            x = rng.normal(size=(chains, ROWS, DIM))
        y = np.einsum("crd,cd->cr", x, weights) + NOISE * rng.normal(size=(chains, ROWS))
        xs, ys = ([*xs, x], [*ys, y]) if pooled else ([x], [y])
        all_x, all_y = np.concatenate(xs, axis=1), np.concatenate(ys, axis=1)
        right = np.einsum("crd,cr->cd", all_x, all_y)
        weights = np.linalg.solve(all_x.mT @ all_x, right[..., None])[..., 0]
        found.append(np.sum((weights - true) ** 2, axis=1))
    return np.array(found)


@pytest.mark.parametrize("design", ["same", "new"])
@pytest.mark.parametrize("pooled", [False, True])
def test_closed_forms(design, pooled):
    fits, options = np.arange(1, LAST + 1), {"dimension": DIM, "noise_variance": NOISE**2}
    values = brute_force(design, pooled)
    if pooled:
        found = theory.regression_accumulate_excess_risk(ROWS, fits, design=design, **options)
    else:
        found = theory.regression_excess_risk(ROWS, fits, **options)
    error = values.std(axis=1) / math.sqrt(values.shape[1])
    assert np.all(error < 0.02 * found)  # precise enough to reject a wrong formula
    assert np.all(np.abs(values.mean(axis=1) - found) < 4 * error)


@pytest.mark.parametrize("design", ["same", "new"])
def test_accumulating_stays_bounded(design):
    options = {"dimension": 4, "noise_variance": 2.0, "design": design}
    late = theory.regression_accumulate_excess_risk(12, 100_000, **options)
    limit = theory.regression_accumulate_limit(12, **options)
    assert late < limit < late * (1 + 1e-4)


def test_curves_hold_where_moments_are_finite():
    family = families.regression(3)
    shown = closed_forms.curves(family, regimes.replace([12, 24]), 3)["excess_risk", "mean"]
    np.testing.assert_allclose(shown, np.cumsum([3 / 8, 3 / 20, 3 / 20]))
    assert closed_forms.curves(family, regimes.replace(6), 3) == {}  # T = d + 3
    assert closed_forms.curves(family, regimes.fresh(12, 0.5), 3) == {}
    for fault in ({"samples": 4}, {"noise_variance": 0.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(fault))}: expected"):
            theory.regression_excess_risk(**{"samples": 9, "fits": 1, "dimension": 3, **fault})
