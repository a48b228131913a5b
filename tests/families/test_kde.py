"""Kernel densities against scipy's, quadrature, and a brute-force simulation of the process."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from collapse_jax import families, pools, regimes, theory
from collapse_jax.engine import planning
from collapse_jax.family import Training, all_finite
from collapse_jax.numerics.affine import Affine
from collapse_jax.results import closed_forms
from collapse_jax.runner import run

BANDWIDTHS = (0.3, "scott", "silverman")
CENTRE, SCALE = 0.5, 2.0


def in_frame(rows, spare=0):
    """Rows f64[M, d] in a frame that is not the identity; unused capacity holds large values."""
    dim = rows.shape[1]
    values = np.concatenate([(rows - CENTRE) / SCALE, np.full((spare, dim), np.nan)])
    frame = Affine(jnp.full(dim, CENTRE), jnp.full(dim, math.log(SCALE)), None)
    count = jnp.int32(len(rows)) if spare else len(rows)
    return pools.Rows(jnp.asarray(values, jnp.float32), count, frame)


def fitted(rows, bandwidth, spare=0, centres=7):
    """Parameters and metrics of a density on rows."""
    family = families.kde(centres, rows.shape[1], bandwidth)

    @jax.jit
    def fit_and_measure(pool):
        key = jax.random.key(3)
        params, _ = family.fit(key, family.init(key), Training(pool))
        return params, family.measure(key, params, Training(pool), None)

    return jax.tree.map(np.asarray, fit_and_measure(in_frame(rows, spare)))


def scipys(rows, bandwidth):
    """The same density in one dimension."""
    factor = bandwidth if isinstance(bandwidth, str) else bandwidth / rows.std(ddof=1)
    return stats.gaussian_kde(rows[:, 0], factor)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
@pytest.mark.parametrize("dim", [1, 3])
def test_factors_are_scipys(rule, dim):
    rows = np.random.default_rng(0).normal(size=(50, dim))
    density = stats.gaussian_kde(rows.T, rule)
    factor = theory.kde_bandwidth_factor(rule, 50, dim)
    assert factor == pytest.approx(density.factor, rel=1e-12)
    params, _ = fitted(rows, rule)
    np.testing.assert_allclose(
        np.exp(params.log_bandwidth), factor * rows.std(axis=0, ddof=1), rtol=1e-5
    )


@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
def test_one_dimension_is_scipys(bandwidth, spare):
    rows = np.random.default_rng(1).normal(0.4, 1.3, size=(20, 1))
    density, (params, metrics) = scipys(rows, bandwidth), fitted(rows, bandwidth, spare)
    h_squared = density.covariance.item()
    assert np.exp(2 * params.log_bandwidth[0]) == pytest.approx(h_squared, rel=1e-5)
    assert metrics["log_bandwidth"] == pytest.approx(0.5 * math.log(h_squared), abs=1e-5)
    assert metrics["mean"] == pytest.approx(rows.mean(), abs=1e-6)
    assert metrics["variance"] == pytest.approx(rows.var() + h_squared, rel=1e-5)
    assert metrics["log_variance"] == pytest.approx(math.log(rows.var() + h_squared), abs=1e-5)
    quantile = stats.norm.isf(0.01)
    tail = 1 - density.integrate_box_1d(-quantile, quantile)
    assert metrics["tail_mass"] == pytest.approx(tail, rel=1e-4)


def test_distances_are_lower_bounds():
    rows = np.random.default_rng(2).normal(0.4, 1.3, size=(9, 1))
    density, (_, metrics) = scipys(rows, 0.3), fitted(rows, 0.3)
    grid = np.linspace(-9, 9, 20_001)
    p = density(grid)
    kl = integrate.trapezoid(p * (np.log(np.maximum(p, 1e-300)) - stats.norm.logpdf(grid)), grid)
    cumulative = integrate.cumulative_trapezoid(p, grid, initial=0)
    moved = (grid - stats.norm.ppf(np.clip(cumulative, 1e-15, 1 - 1e-15))) ** 2
    w2_squared = integrate.trapezoid(p * moved, grid)
    assert 0 < metrics["kl_bound"] < kl
    assert 0 < metrics["w2_squared_bound"] < w2_squared
    # On one Gaussian kernel they are exact: KL(N(m, h^2) || N(0, 1)) and its W2.
    _, metrics = fitted(np.full((4, 1), 0.5), 0.3)
    kl = 0.5 * (0.09 + 0.25 - 1 - math.log(0.09))
    assert metrics["kl_bound"] == pytest.approx(kl, rel=1e-5)
    assert metrics["w2_squared_bound"] == pytest.approx(0.25 + 0.49, rel=1e-5)


def test_several_dimensions():
    rows = np.random.default_rng(3).normal([0.0, 1.0], [1.0, 0.2], size=(15, 2))
    _, metrics = fitted(rows, 0.3, spare=3)
    variances = rows.var(axis=0) + 0.09
    np.testing.assert_allclose(metrics["mean"], rows.mean(axis=0), atol=1e-6)
    assert metrics["log_variance"] == pytest.approx(math.log(variances.mean()), abs=1e-5)
    quantile = stats.norm.isf(0.01)
    tails = [1 - scipys(rows[:, [j]], 0.3).integrate_box_1d(-quantile, quantile) for j in range(2)]
    assert metrics["tail_mass"] == pytest.approx(np.mean(tails), rel=1e-4)
    distance = np.sum(rows.mean(axis=0) ** 2 + (np.sqrt(variances) - 1) ** 2)
    assert metrics["w2_squared_bound"] == pytest.approx(distance, rel=1e-4)


def test_draws_have_the_law_of_the_whole_density():
    rows = np.random.default_rng(4).exponential(size=(6, 1))
    family, pool, chains = families.kde(3, bandwidth=0.2), in_frame(rows, spare=2), 20_000

    @jax.jit
    @jax.vmap
    def draw(key):
        k_fit, k_sample = jax.random.split(key)
        params, _ = family.fit(k_fit, family.init(key), Training(pool))
        drawn = family.sample(k_sample, params, regimes.Request(3, 4))
        return drawn.frame.centre + jnp.exp(drawn.frame.log_scale) * drawn.values[:3]

    drawn = np.asarray(draw(jax.random.split(jax.random.key(5), chains)))[:, :, 0]
    density = scipys(rows, 0.2)

    def cdf(x):
        return stats.norm.cdf(
            (x[:, None] - rows[:, 0]) / math.sqrt(density.covariance.item())
        ).mean(1)

    for i in range(3):
        assert stats.kstest(drawn[:, i], cdf).statistic < 2.23 / math.sqrt(chains)  # 1 in 10^4
    # Given the rows, draws are independent: each has its own centre, with replacement.
    correlation = np.corrcoef(drawn.T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlation) < 4 / math.sqrt(chains))


@pytest.mark.parametrize("dim", [1, 2])
def test_equal_rows_are_a_kernel_or_flagged(dim):
    rows = np.full((5, dim), 0.5)
    params, metrics = fitted(rows, 0.3)
    assert all_finite((params, metrics))
    assert metrics["variance"] == pytest.approx(0.09, rel=1e-4)
    params, metrics = fitted(rows, "scott")
    assert not all_finite((params, metrics))
    params, metrics = fitted(np.concatenate([rows, rows + 1]), "scott")  # two distinct points
    assert all_finite((params, metrics))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"centres": 0}, "centres: expected an integer >= 1, got 0"),
        ({"centres": 2.5}, "centres: expected an integer >= 1, got 2.5"),
        ({"dim": 0}, "dim: expected an integer >= 1, got 0"),
        ({"bandwidth": 0.0}, "bandwidth: expected a positive number or one of scott, silverman"),
        ({"bandwidth": math.nan}, "bandwidth: .* got nan"),
        ({"bandwidth": "wide"}, "bandwidth: .* got 'wide'"),
        ({"tail": 1.0}, r"tail: expected a share in \(0, 1\), got 1"),
    ],
)
def test_bad_input_is_rejected(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        families.kde(**{"centres": 5, **values})


def test_more_draws_than_centres_are_rejected():
    family = families.kde(20)
    planning.check_pair(family, regimes.replace([10, 20]), 5)
    with pytest.raises(ValueError, match="^centres: expected at least 21, .* got 20"):
        planning.check_pair(family, regimes.replace([10, 21]), 5)
    planning.check_pair(family, regimes.fresh(40, 0.5), 5)  # 20 of 40 rows are synthetic


SAMPLES, LAST, TAIL = 6, 4, 0.1


def brute_force(rng, chains, regime, bandwidth):
    """Variance, mean and tail mass f64[fit, chain] of densities on rows, refitted to draws."""
    rows, found = rng.normal(size=(chains, SAMPLES)), []
    quantile = stats.norm.isf(TAIL / 2)
    for _ in range(LAST):
        count = rows.shape[1]
        h = np.full((chains, 1), bandwidth)
        if isinstance(bandwidth, str):
            h = (
                stats.gaussian_kde(np.arange(count), bandwidth).factor
                * rows.std(1, ddof=1)[:, None]
            )
        beyond = stats.norm.sf((quantile - rows) / h) + stats.norm.sf((quantile + rows) / h)
        found.append((rows.var(1) + h[:, 0] ** 2, rows.mean(1), beyond.mean(1)))
        drawn = SAMPLES - 2 if regime == "fresh" else SAMPLES
        chosen = rng.integers(0, count, (chains, drawn))
        new = np.take_along_axis(rows, chosen, 1) + h * rng.normal(size=(chains, drawn))
        rest = {"replace": rows[:, :0], "accumulate": rows, "fresh": rng.normal(size=(chains, 2))}
        rows = np.concatenate([rest[regime], new], axis=1)
    return map(np.array, zip(*found, strict=True))


def assert_means(values, theoretical):
    error = values.std(axis=1) / math.sqrt(values.shape[1])
    assert np.all(error < 0.02 * np.maximum(theoretical, 0.05))  # rejects wrong formulas
    assert np.all(np.abs(values.mean(axis=1) - theoretical) < 4 * error)


@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
@pytest.mark.parametrize("regime", ["replace", "accumulate", "fresh"])
def test_closed_forms(regime, bandwidth):
    fits = np.arange(1, LAST + 1)
    variance, mean, tail = brute_force(np.random.default_rng(6), 50_000, regime, bandwidth)
    if regime == "accumulate":
        moments = theory.kde_accumulate_moments(SAMPLES, fits, bandwidth=bandwidth)
    else:
        real = 2 if regime == "fresh" else 0
        moments = theory.kde_moments(SAMPLES, fits, bandwidth=bandwidth, real_samples=real)
    assert_means(variance, moments.expected_variance)
    assert_means(mean**2, moments.mean_squared_drift)
    if bandwidth == 0.3 and regime != "fresh":
        accumulate = regime == "accumulate"
        masses = theory.kde_expected_tail_mass(fits, 0.3, TAIL, accumulate=accumulate)
        assert_means(tail, masses)


def test_replace_in_closed_form():
    fits, h, m = np.arange(50), 0.2, 12
    r = (m - 1) / m
    found = theory.kde_moments(m, fits, bandwidth=h, variance=3.0).expected_variance
    np.testing.assert_allclose(found, m * h**2 + (3.0 - m * h**2) * r**fits, rtol=1e-12)
    factor = theory.kde_bandwidth_factor("scott", m)
    found = theory.kde_moments(m, fits, bandwidth="scott", variance=3.0).expected_variance
    np.testing.assert_allclose(found, 3.0 * (r + factor**2) ** fits, rtol=1e-12)


def test_curves_leave_out_what_does_not_settle():
    family = families.kde(20, bandwidth=0.3)
    curves = functools.partial(closed_forms.curves, family, generations=30)
    shown = curves(regimes.replace(20))
    assert np.isfinite(shown["variance", "mean"]).sum() == 4  # 2n / 19 <= 1/2
    assert np.isfinite(shown["tail_mass", "mean"]).all()
    drawn = curves(regimes.replace(20), heavy_tailed=True)
    assert np.isfinite(drawn["mean", "variance"]).all()
    assert set(curves(regimes.fresh(20, 0.5))) == {("variance", "mean"), ("mean", "variance")}
    assert curves(regimes.subsample(20)) == {}


@pytest.mark.slow
def test_a_tiny_bandwidth_is_followed_all_the_way_down():
    family, h = families.kde(5, bandwidth=1e-30), 1e-30
    last = run(family, regimes.replace(5), chains=50, generations=900, keep="chains").history
    assert bool(last["finite"].all())
    # ln of a variance between that of one kernel and a few thousand times M h^2
    final = last["log_variance"].values[:, -1] - 2 * math.log(h)
    assert np.all(final > 0)
    assert np.median(final) < math.log(5e3)
