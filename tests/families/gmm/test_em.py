"""EM against scikit-learn's on many problems, and its invariants."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from collapse_jax.families.gmm import em
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.families.gmm.originals import load_original

PROBLEMS, ITERATIONS = 10, 12
SMALL = (3, 2, 150)  # components, dimensions, rows
SKLEARN = {"full": "full", "diagonal": "diag", "spherical": "spherical"}


def problem(seed, components, dim, rows):
    """Rows of a random mixture and a start of EM: f64 arrays of float32 values."""
    rng = np.random.default_rng([seed, components, dim])
    means = rng.normal(scale=2.0, size=(components, dim))
    shears = rng.normal(scale=0.6, size=(components, dim, dim)) + np.eye(dim)
    chosen = rng.choice(components, rows, p=rng.dirichlet(np.full(components, 5.0)))
    data = means[chosen] + np.einsum("nij,nj->ni", shears[chosen], rng.normal(size=(rows, dim)))
    start_means = data[rng.choice(rows, components, replace=False)]
    scale = np.full((components, dim), data.std())
    weights = rng.dirichlet(np.full(components, 10.0))
    return np.float32(data).astype(float), weights, start_means, scale


def theirs(settings, data, weights, means, scale):
    precisions = {
        "full": np.array([np.diag(1 / row**2) for row in scale]),
        "diagonal": 1 / scale**2,
        "spherical": 1 / scale[:, 0] ** 2,
    }[settings.covariance]
    model = GaussianMixture(
        len(weights), covariance_type=SKLEARN[settings.covariance], tol=settings.tolerance,
        max_iter=settings.max_iterations, reg_covar=settings.regularisation, weights_init=weights,
        means_init=means, precisions_init=precisions, init_params="random", random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data)
    covariances = {
        "full": lambda c: c,
        "diagonal": lambda c: np.stack([np.diag(row) for row in c]),
        "spherical": lambda c: c[:, None, None] * np.eye(data.shape[1]),
    }[settings.covariance](model.covariances_)
    return model.weights_, model.means_, covariances, model.lower_bound_, model.n_iter_


def ours(settings, problems, dtype):
    def one(data, weights, means, scale):
        start = Mixture(jnp.log(weights), means, jax.vmap(jnp.diag)(scale))
        found = em.fit(start, data.T, jnp.ones(data.shape[0], data.dtype), settings)
        factors = found.mixture.factors
        covariances = factors @ factors.swapaxes(1, 2)
        shares = jnp.exp(found.mixture.log_weights)
        return shares, found.mixture.means, covariances, found.log_likelihood, found.iterations

    stacked = (jnp.asarray(np.stack(x), dtype) for x in zip(*problems, strict=True))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(*stacked))


def case(covariance, shape, dtype, slow=False):
    return pytest.param(covariance, shape, dtype, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("covariance", "shape", "dtype"),
    [
        case("full", SMALL, "float64"),
        case("diagonal", (4, 3, 200), "float64"),
        case("spherical", (3, 1, 100), "float64"),
        case("full", (5, 8, 400), "float64", slow=True),
        case("diagonal", (2, 7, 200), "float64", slow=True),
        case("spherical", (5, 5, 300), "float64", slow=True),
        case("full", SMALL, "float32", slow=True),
        case("diagonal", (4, 3, 200), "float32"),
        case("spherical", (3, 1, 100), "float32", slow=True),
        case("full", (5, 8, 400), "float32", slow=True),
        case("diagonal", (2, 7, 200), "float32", slow=True),
        case("spherical", (5, 5, 300), "float32", slow=True),
    ],
)
def test_agrees_with_scikit_learn(covariance, shape, dtype):
    """60 problems in each precision, 12 programs."""
    problems = [problem(seed, *shape) for seed in range(PROBLEMS)]
    settings = em.Fitting(covariance, tolerance=0.0, max_iterations=ITERATIONS)
    assert agreed(settings, problems, dtype) == {ITERATIONS}


def agreed(settings, problems, dtype="float64"):
    """Compares fits with scikit-learn's, and returns the numbers of iterations of both."""
    with jax.enable_x64(dtype == "float64"):
        found = ours(settings, problems, dtype)
    tolerance = 1e-5 if dtype == "float64" else 1e-3
    for i, given in enumerate(problems):
        *expected, iterations = theirs(settings, *given)
        assert found[4][i] == iterations
        for one, other in zip(found[:4], expected, strict=True):
            assert np.abs(one[i] - other).max() <= tolerance * np.abs(other).max()
    return set(found[4].tolist())


def test_ends_where_scikit_learn_ends_though_the_likelihood_falls():
    """Large regularisation moves EM from a start at the optimum to a lower likelihood."""
    original = load_original("two-gaussians")
    scale = np.full((2, 2), 0.3)
    problems = [
        (0.3 * original.sample(np.random.default_rng(seed), 1000), original.weights,
         0.3 * original.means, scale)
        for seed in range(3)
    ]  # fmt: skip
    iterations = agreed(em.Fitting(tolerance=1e-5, regularisation=0.1), problems)
    assert min(iterations) > 20


@pytest.mark.parametrize(
    ("covariance", "shape"),
    [("full", SMALL), ("full", (2, 4, 100)), ("diagonal", (4, 3, 100)), ("spherical", SMALL)],
)
def test_likelihood_never_falls(covariance, shape):
    """Without regularisation, falls are by rounding only."""
    settings = em.Fitting(covariance, regularisation=0.0)
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def path(data, weights, means, scale):
            start = Mixture(jnp.log(weights), means, jax.vmap(jnp.diag)(scale))
            ones = jnp.ones(data.shape[0])
            step = lambda at, _: em.iterate(at, data.T, ones, settings)  # noqa: E731
            return jax.lax.scan(step, start, length=40)[1]

        problems = [problem(seed, *shape) for seed in range(PROBLEMS)]
        climbed = path(*(jnp.asarray(np.stack(x)) for x in zip(*problems, strict=True)))
    climbed = np.asarray(climbed)
    assert np.all(np.diff(climbed, axis=1) >= -1e-12 * np.abs(climbed[:, 1:]))
    assert (climbed[:, -1] - climbed[:, 0]).min() > 0.02


def test_responsibilities_by_brute_force():
    data, weights, means, _ = problem(3, *SMALL)
    rng = np.random.default_rng(4)
    factors = np.tril(rng.normal(size=(3, 2, 2)), -1) + rng.uniform(0.5, 3.0, (3, 1, 2)) * np.eye(2)
    densities = np.stack(
        [
            share * stats.multivariate_normal(mean, factor @ factor.T).pdf(data)
            for share, mean, factor in zip(weights, means, factors, strict=True)
        ]
    )
    masked = np.where(np.arange(len(data)) < 100, 1.0, 0.0)
    mixture = Mixture(*(jnp.asarray(x, jnp.float32) for x in (np.log(weights), means, factors)))
    shifted = data.T[None] - means[:, :, None]
    shares, log_likelihood = jax.jit(em.responsibilities)(
        mixture, jnp.asarray(shifted, jnp.float32), jnp.asarray(masked, jnp.float32)
    )
    expected = densities / densities.sum(0) * masked
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    exact = np.log(densities.sum(0))[:100].mean()
    np.testing.assert_allclose(log_likelihood, exact, rtol=1e-5)


def padded(data, capacity=None):
    """Columns and weights; rows beyond the data have no weight."""
    data = np.atleast_2d(np.asarray(data, np.float32))
    missing = (capacity or len(data)) - len(data)
    columns = np.concatenate([data, np.full((missing, data.shape[1]), 77.0)]).T
    weights = np.concatenate([np.ones(len(data)), np.zeros(missing)])
    return jnp.asarray(columns, jnp.float32), jnp.asarray(weights, jnp.float32)


@jax.jit
def fitted(key, columns, weights):
    return em.best_of(key, columns, weights, 3, 2, em.Fitting(regularisation=1e-6))


def clusters(scale=1.0):
    rng = np.random.default_rng(5)
    centres = np.array([[-5.0, 0.0], [5.0, 0.0], [0.0, 8.0]])
    return scale * (centres[rng.integers(0, 3, 90)] + rng.normal(size=(90, 2)))


DEGENERATE = {
    "all points equal": np.full((40, 2), 3.0),
    "one point": np.full((1, 2), -2.0),
    "fewer places than components": np.repeat([[0.0, 1.0], [4.0, 4.0]], 20, axis=0),
    "on a line": np.stack([np.linspace(0, 1, 50)] * 2, axis=1),
    "scaled by a million": clusters(1e6),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data_have_a_finite_fit(name):
    data = DEGENERATE[name]
    columns, weights = padded(data - data.mean(0), 90)  # the family centres its rows
    found = fitted(jax.random.key(1), columns, weights)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(np.exp(found.mixture.log_weights).sum(), 1.0, rtol=1e-5)
    spread = np.asarray(found.mixture.means)
    low, high = (data - data.mean(0)).min(0), (data - data.mean(0)).max(0)
    slack = 1e-5 * (1 + np.abs(data).max())
    assert np.all((spread >= low - slack) & (spread <= high + slack))


def test_rows_without_weight_change_nothing():
    data = clusters()
    found = fitted(jax.random.key(2), *padded(data[:60]))
    with_padding = fitted(jax.random.key(2), *padded(data[:60], 90))
    np.testing.assert_allclose(found.log_likelihood, with_padding.log_likelihood, rtol=1e-5)
    # Rounding decides between starts with equal ends, so components may be permuted.
    means, others = (np.sort(fit.mixture.means, axis=0) for fit in (found, with_padding))
    np.testing.assert_allclose(means, others, atol=1e-4)


def test_nan_ends_at_once_and_shows():
    columns, weights = padded(clusters())
    found = fitted(jax.random.key(2), columns.at[0, 3].set(jnp.nan), weights)
    assert not np.all(np.isfinite(found.mixture.means))
    assert found.iterations <= 4  # of two starts


@jax.jit
def started(key, columns, weights):
    return em.plus_plus(key, columns, weights, 3, em.Fitting())


def test_plus_plus_starts_in_every_cluster():
    columns, weights = padded(clusters(), 120)
    for seed in range(20):
        means = np.asarray(started(jax.random.key(seed), columns, weights).means)
        nearest = [np.hypot(*(means - centre).T).min() for centre in ([-5, 0], [5, 0], [0, 8])]
        if max(nearest) < 1.5:
            break
    else:
        pytest.fail("no start of 20 had a mean in each of three clusters")
    assert np.all(np.abs(means) < 20)  # rows of weight 0, at 77, are never starts


def test_second_start_is_drawn_by_squared_distance():
    """Starts at rows 0, 1 and 3, the second with probability ~ D^2: exact enumeration."""
    places = np.array([[0.0], [1.0], [3.0]])
    columns, weights = padded(places)

    @jax.jit
    @jax.vmap
    def pairs(key):
        return jnp.sort(em.plus_plus(key, columns, weights, 3, em.Fitting()).means[:, 0]), (
            em.plus_plus(key, columns, weights, 2, em.Fitting()).means[:, 0]
        )

    draws = 20_000
    three, two = pairs(jax.random.split(jax.random.key(0), draws))
    np.testing.assert_allclose(np.asarray(three).mean(0), [0, 1, 3], atol=1e-3)
    # From 0: 1 with 1/10, 3 with 9/10. From 1: 0 with 1/5, 3 with 4/5. From 3: 9/13, 4/13. The
    # pair {0, 1} leaves 3 with 1 (means 0 and 2), {0, 3} 1 with 0 (0.5 and 3), {1, 3} 0 with 1.
    apart = np.sort(np.asarray(two), axis=1)
    near, far = 1 / 10 + 1 / 5, 9 / 10 + 9 / 13
    chance = {(0.0, 2.0): near / 3, (0.5, 3.0): (far + 4 / 5 + 4 / 13) / 3}
    for pair, expected in chance.items():
        share = np.mean(np.all(np.isclose(apart, pair, atol=1e-3), axis=1))
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)


def test_more_starts_do_not_do_worse():
    columns, weights = padded(clusters())
    fit = jax.jit(em.best_of, static_argnums=(3, 4, 5))
    one, many = (
        fit(jax.random.key(4), columns, weights, 3, starts, em.Fitting()) for starts in (1, 6)
    )
    assert many.log_likelihood >= one.log_likelihood
    assert many.iterations > one.iterations
