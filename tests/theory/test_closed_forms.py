"""Each closed form against simulation of the process by its definition, or exact enumeration.

The tests do not use the recursions behind the formulas: Gaussian chains draw and fit rows, discrete
ones enumerate all count vectors. Moments must agree within four standard errors, which must be
small enough (`resolution`) to detect a wrong formula.
"""

import functools
import math

import numpy as np
import pytest

from collapse_jax import theory

MEAN, VARIANCE = -3.0, 4.0
ESTIMATORS = ("unbiased", "ml")
DDOF = {"unbiased": 1, "ml": 0}
SCHEDULES = {"constant": 8, "schedule": (7, 12, 8, 10)}
LAST = 4
ORIGINAL = (0.6, 0.3, 0.1)


def assert_mean(values, expected, resolution=0.05):
    """Compare means over chains, the last axis; `resolution` bounds 4 standard errors."""
    error = 4 * values.std(axis=-1) / np.sqrt(values.shape[-1])
    np.testing.assert_array_less(error, resolution * np.maximum(np.abs(expected), 0.25))
    np.testing.assert_array_less(np.abs(values.mean(axis=-1) - expected), error)


def squared_deviation(values):
    return (values - values.mean(axis=-1, keepdims=True)) ** 2


def fitted(rows, estimator):
    """Fit rows f64[chain, row]: means and variances f64[chain]."""
    return rows.mean(axis=1), rows.var(axis=1, ddof=DDOF[estimator])


def normal_rows(rng, mean, variance, count):
    return mean[:, None] + np.sqrt(variance)[:, None] * rng.normal(size=(len(mean), count))


def truth(chains):
    return np.full(chains, MEAN), np.full(chains, VARIANCE)


@functools.cache
def replace_chains(sizes, estimator, sampling_bias=1.0, chains=200_000, real_rows=normal_rows):
    """Means and variances f64[fit, chain] of fits 1, 2, ... in the replace regime."""
    rng = np.random.default_rng(7)
    history = [fitted(real_rows(rng, *truth(chains), sizes[0]), estimator)]
    for size in sizes[1:]:
        mean, variance = history[-1]
        rows = normal_rows(rng, mean, sampling_bias * variance, size)
        history.append(fitted(rows, estimator))
    return tuple(np.stack(moment) for moment in zip(*history, strict=True))


STATISTICS = {
    "expected_variance": lambda mean, variance: variance,
    "expected_standard_deviation": lambda mean, variance: np.sqrt(variance),
    "expected_squared_variance": lambda mean, variance: variance**2,
    "mean_squared_drift": lambda mean, variance: (mean - MEAN) ** 2,
    "expected_w2_squared": lambda mean, variance: (
        (mean - MEAN) ** 2 + (np.sqrt(variance) - np.sqrt(VARIANCE)) ** 2
    ),
    "expected_log_variance": lambda mean, variance: np.log(variance),
}


@pytest.mark.parametrize("sampling_bias", [1.0, 0.8])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", STATISTICS)
def test_replace_moments(name, schedule, estimator, sampling_bias):
    samples = SCHEDULES[schedule]
    sizes = tuple(np.broadcast_to(samples, LAST))
    values = STATISTICS[name](*replace_chains(sizes, estimator, sampling_bias))
    options = {"variance": VARIANCE, "estimator": estimator, "sampling_bias": sampling_bias}
    expected = getattr(theory, name)(samples, np.arange(1, LAST + 1), **options)
    assert_mean(values, expected)
    before = STATISTICS[name](MEAN, VARIANCE)
    assert getattr(theory, name)(samples, 0, **options) == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_variance_of_log_variance(schedule):
    samples = SCHEDULES[schedule]
    _, variance = replace_chains(tuple(np.broadcast_to(samples, LAST)), "ml")
    expected = theory.variance_of_log_variance(samples, np.arange(1, LAST + 1))
    assert_mean(squared_deviation(np.log(variance)), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_variance_and_drift_hold_for_any_original(estimator):
    def exponential_rows(rng, mean, variance, count):
        shape = (len(mean), count)
        return MEAN + np.sqrt(VARIANCE) * (rng.exponential(size=shape) - 1)

    mean, variance = replace_chains((6, 6), estimator, chains=400_000, real_rows=exponential_rows)
    options = {"variance": VARIANCE, "estimator": estimator}
    assert_mean(variance, theory.expected_variance(6, [1, 2], **options))
    assert_mean((mean - MEAN) ** 2, theory.mean_squared_drift(6, [1, 2], **options))


@pytest.mark.parametrize("sampling_bias", [1.0, 0.7])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_three_dimensions(estimator, sampling_bias):
    rng = np.random.default_rng(11)
    sizes, dimension, chains = (6, 9, 7), 3, 60_000
    true = np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]])
    mean, covariance, seen = np.zeros((chains, 3)), np.broadcast_to(true, (chains, 3, 3)), 1.0
    trace, drift, log_determinant = [], [], []
    for size in sizes:
        factor = np.linalg.cholesky(seen * covariance)
        noise = rng.normal(size=(chains, size, dimension))
        rows = mean[:, None] + noise @ factor.swapaxes(1, 2)
        mean = rows.mean(axis=1)
        centred = rows - mean[:, None]
        covariance = centred.swapaxes(1, 2) @ centred / (size - DDOF[estimator])
        seen = sampling_bias
        trace.append(np.trace(covariance, axis1=1, axis2=2))
        drift.append((mean**2).sum(axis=1))
        log_determinant.append(np.log(np.linalg.det(covariance)))
    fits = np.arange(1, len(sizes) + 1)
    options = {"estimator": estimator, "sampling_bias": sampling_bias}
    assert_mean(
        np.stack(trace), theory.expected_trace(sizes, fits, trace=np.trace(true), **options)
    )
    assert_mean(
        np.stack(drift),
        theory.mean_squared_drift(sizes, fits, variance=np.trace(true), **options),
    )
    log_true = np.log(np.linalg.det(true))
    assert_mean(
        np.stack(log_determinant),
        theory.expected_log_determinant(
            sizes, fits, dimension=dimension, log_determinant=log_true, **options
        ),
    )
    assert_mean(
        squared_deviation(np.stack(log_determinant)),
        theory.variance_of_log_determinant(sizes, fits, dimension=dimension),
    )


def test_c4_of_control_chart_tables_and_at_large_samples():
    assert theory.c4([2, 3, 5, 10, 25]) == pytest.approx(
        [0.7979, 0.8862, 0.9400, 0.9727, 0.9896], abs=5e-5
    )
    samples = np.array([300, 10_000, 10**8])
    series = 1 / (4 * samples) + 7 / (32 * samples**2) + 19 / (128 * samples**3)
    assert 1 - theory.c4(samples) == pytest.approx(series, rel=1e-6)
    ratio = theory.standard_deviation_factor(samples, "ml") / theory.c4(samples)
    assert ratio**2 == pytest.approx(1 - 1 / samples, rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_constant_samples_agree_with_the_geometric_forms(estimator):
    n, m, ratio = np.arange(60), 9, 8 / 9
    c = theory.standard_deviation_factor(m, estimator)
    options = {"variance": VARIANCE, "estimator": estimator}
    if estimator == "ml":
        distance, rho = 2 * (1 - c**n), 0.9 * ratio
    else:
        distance, rho = n / m + 2 * (1 - c**n), 0.9
    assert theory.expected_w2_squared(m, n, **options) == pytest.approx(VARIANCE * distance)
    assert theory.mean_squared_drift(m, n, sampling_bias=0.9, **options) == pytest.approx(
        VARIANCE / m * (1 - rho**n) / (1 - rho)
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_e_fold_time_of_the_median(estimator):
    samples, early, late = 8, 20, 80
    _, variance = replace_chains((samples,) * late, estimator, chains=20_000)
    deviation = np.log(variance[[early - 1, late - 1]]) / 2
    fall = -np.diff(np.median(deviation, axis=-1))[0]
    error = 4 * np.sqrt(np.pi / 2 * deviation.var(axis=-1).sum() / deviation.shape[-1])
    folds = (late - early) / theory.e_fold_time(samples, estimator=estimator)
    assert error < 0.05 * folds
    assert abs(fall - folds) < error
    large = {"unbiased": 2 * (10**5 - 1), "ml": 10**5}[estimator]
    assert theory.e_fold_time(10**5, estimator=estimator) == pytest.approx(large, rel=1e-4)


def test_standard_deviation_exceedance_bound_holds():
    sizes = (5,) * 30
    _, variance = replace_chains(sizes, "unbiased", chains=20_000)
    threshold = np.sqrt(VARIANCE) * np.array([0.05, 0.2, 0.5, 1.0])
    exceeds = np.sqrt(variance)[..., None, :] > threshold[:, None]
    fits = np.arange(1, len(sizes) + 1)[:, None]
    bound = theory.standard_deviation_exceedance_bound(5, fits, threshold, variance=VARIANCE)
    error = exceeds.std(axis=-1) / np.sqrt(exceeds.shape[-1])
    assert np.all(exceeds.mean(axis=-1) <= bound + 4 * error)
    assert bound.max() == 1


@pytest.mark.parametrize("sizes", [(60,) * 40, (40, 80) * 20])
def test_standard_deviation_exceedance_bound_is_markov_at_large_samples(sizes):
    _, variance = replace_chains(sizes, "unbiased", chains=4_000)
    threshold = 2 * np.sqrt(VARIANCE)
    markov = np.sqrt(variance[-1]).mean() / threshold
    bound = theory.standard_deviation_exceedance_bound(
        sizes, len(sizes), threshold, variance=VARIANCE
    )
    assert bound == pytest.approx(markov, rel=0.03)


def test_c4_stays_below_the_decay_of_the_exceedance_bound():
    samples = np.arange(2, 10_000)
    assert np.all(theory.c4(samples) < np.exp(-1 / (4 * samples)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_accumulate(estimator):
    rng = np.random.default_rng(3)
    samples, chains, last = 3, 300_000, 5
    mean, variance = truth(chains)
    pool = np.empty((chains, 0))
    means, variances = [], []
    for _ in range(last):
        pool = np.concatenate([pool, normal_rows(rng, mean, variance, samples)], axis=1)
        mean, variance = fitted(pool, estimator)
        means.append(mean)
        variances.append(variance)
    fits = np.arange(1, last + 1)
    options = {"variance": VARIANCE, "estimator": estimator}
    assert_mean(
        np.stack(variances),
        theory.accumulate_expected_variance(samples, fits, **options),
        resolution=0.02,
    )
    assert_mean(
        (np.stack(means) - MEAN) ** 2,
        theory.accumulate_mean_squared_drift(samples, fits, **options),
        resolution=0.02,
    )


@pytest.mark.parametrize("samples", [2, 5, 100])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_accumulate_limit(estimator, samples):
    options = {"variance": VARIANCE, "estimator": estimator}
    far = theory.accumulate_expected_variance(samples, 100_000, **options)
    limit = theory.accumulate_variance_limit(samples, **options)
    assert limit == pytest.approx(far, rel=2e-5 / samples)
    assert 0.3 * VARIANCE < limit < VARIANCE


def steady_chains(estimator, is_real):
    """Means and variances f64[chain] after 30 fits; `is_real(rng)` selects the real rows."""
    rng = np.random.default_rng(5)
    mean, variance = truth(len(is_real(rng)))
    for _ in range(30):
        real = is_real(rng)
        centre = np.where(real, MEAN, mean[:, None])
        scale = np.sqrt(np.where(real, VARIANCE, variance[:, None]))
        mean, variance = fitted(centre + scale * rng.normal(size=scale.shape), estimator)
    return mean, variance


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_fresh_real_data(kind, estimator):
    shape = (80_000, 6)
    if kind == "fixed":
        mean, variance = steady_chains(
            estimator, lambda rng: np.broadcast_to(np.arange(6) < 2, shape)
        )
        state = theory.fixed_count_steady_state(6, 2, variance=VARIANCE, estimator=estimator)
    else:
        mean, variance = steady_chains(estimator, lambda rng: rng.random(shape) < 0.3)
        state = theory.random_count_steady_state(6, 0.3, variance=VARIANCE, estimator=estimator)
    assert_mean((mean - MEAN) ** 2, state.mean_squared_drift)
    assert_mean(variance, state.expected_variance)


@pytest.mark.parametrize("steady", ["fixed_count_steady_state", "random_count_steady_state"])
def test_fresh_real_data_limits(steady):
    only_real = 10 if steady == "fixed_count_steady_state" else 1.0
    function = getattr(theory, steady)
    assert function(10, only_real, variance=VARIANCE) == pytest.approx((0.4, 4.0))
    assert function(10, only_real, variance=VARIANCE, estimator="ml") == pytest.approx((0.4, 3.6))
    assert function(10, 0, estimator="ml") == pytest.approx((1.0, 0.0))  # replace: collapse
    assert function(10, [1, 1], estimator="ml").expected_variance.shape == (2,)


def compositions(total, parts):
    """All count vectors of `total` draws among `parts` symbols."""
    if parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(total + 1)
        for rest in compositions(total - first, parts - 1)
    ]


def multinomial(probabilities, draws):
    """Probability of every count vector of `draws` draws from `probabilities`."""
    return {
        counts: math.factorial(draws)
        * math.prod(
            p**count / math.factorial(count) for p, count in zip(probabilities, counts, strict=True)
        )
        for counts in compositions(draws, len(probabilities))
    }


def resample(states, draws, real=None):
    """Push weighted distributions through a fit to draws, some counts given by `real` if any."""
    pushed = {}
    real = real or {(0,) * len(next(iter(states))): 1.0}
    for probabilities, weight in states.items():
        for counts, probability in multinomial(probabilities, draws).items():
            for real_counts, real_probability in real.items():
                total = tuple(map(sum, zip(counts, real_counts, strict=True)))
                after = tuple(count / sum(total) for count in total)
                pushed[after] = pushed.get(after, 0) + weight * probability * real_probability
    return pushed


def exact_mean(states, statistic):
    return sum(
        weight * statistic(np.array(probabilities)) for probabilities, weight in states.items()
    )


def homozygosity(probabilities):
    return (probabilities**2).sum()


@pytest.mark.parametrize("samples", [4, (3, 5, 2, 4)])
def test_wright_fisher_moments_by_enumeration(samples):
    probabilities, states = np.array(ORIGINAL), {ORIGINAL: 1.0}
    for fits in range(5):
        mean = exact_mean(states, lambda after: after)
        assert theory.expected_frequency(fits, ORIGINAL) == pytest.approx(mean)
        assert theory.variance_of_frequency(samples, fits, ORIGINAL) == pytest.approx(
            exact_mean(states, lambda after: (after - probabilities) ** 2)
        )
        assert theory.expected_heterozygosity(samples, fits, ORIGINAL) == pytest.approx(
            1 - exact_mean(states, homozygosity)
        )
        if fits < 4:
            states = resample(states, int(np.broadcast_to(samples, 4)[fits]))


def test_expected_support_by_enumeration():
    support = exact_mean(resample({ORIGINAL: 1.0}, 4), np.count_nonzero)
    assert theory.expected_support(4, ORIGINAL) == pytest.approx(support)
    assert theory.expected_support([1, 4], ORIGINAL) == pytest.approx([1, support])
    assert theory.expected_support(3, [1.0, 0.0]) == 1
    assert theory.expected_support(5, [1e-18, 1.0]) - 1 == pytest.approx(0, abs=1e-15)


def test_fixation_probability_by_enumeration():
    states = {ORIGINAL: 1.0}
    for _ in range(60):
        states = resample(states, 3)
    fixed = [states[tuple(row)] for row in np.eye(3)]
    assert theory.fixation_probability(ORIGINAL) == pytest.approx(fixed, abs=1e-9)


def test_mean_absorption_time_by_enumeration():
    for samples, p in [(1, 0.3), (4, 0.3), (4, 0.25), (5, 0.9)]:
        states, time = {(p, 1 - p): 1.0}, 0.0
        for _ in range(150):
            time += exact_mean(states, lambda probabilities: float(probabilities.max() < 1))
            states = resample(states, samples)
        assert theory.mean_absorption_time(samples, p) == pytest.approx(time, rel=1e-9)
    assert list(theory.mean_absorption_time(4, [0.0, 1.0])) == [0, 0]


@pytest.mark.parametrize(("samples", "excess"), [(4, 0.22), (100, 0.015)])
def test_approximate_absorption_time(samples, excess):
    ratio = theory.approximate_absorption_time(samples, 0.5) / theory.mean_absorption_time(
        samples, 0.5
    )
    assert ratio - 1 == pytest.approx(excess, rel=0.05)
    assert theory.approximate_absorption_time(samples, [0.0, 1.0]) == pytest.approx([0, 0])
    skewed = theory.mean_absorption_time(400, 0.2)
    assert theory.approximate_absorption_time(400, 0.2) == pytest.approx(skewed, rel=0.02)


def test_transition_matrix_is_binomial():
    exact = [
        [math.comb(5, j) * (i / 5) ** j * (1 - i / 5) ** (5 - j) for j in range(6)]
        for i in range(6)
    ]
    assert theory.wright_fisher_transition_matrix(5) == pytest.approx(np.array(exact))
    rows = theory.wright_fisher_transition_matrix(600).sum(axis=1)
    assert rows == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_steady_homozygosity_by_enumeration(kind):
    draws, real_draws = 4, 1
    states = {ORIGINAL: 1.0}
    for _ in range(40):
        if kind == "fixed":
            states = resample(states, draws - real_draws, multinomial(ORIGINAL, real_draws))
        else:
            mixed = {}
            for probabilities, weight in states.items():
                mixture = tuple(0.25 * np.array(ORIGINAL) + 0.75 * np.array(probabilities))
                mixed[mixture] = mixed.get(mixture, 0) + weight
            states = resample(mixed, draws)
    name = f"{kind}_count_steady_homozygosity"
    expected = getattr(theory, name)(draws, 1 if kind == "fixed" else 0.25, ORIGINAL)
    assert expected == pytest.approx(exact_mean(states, homozygosity), rel=1e-6)
    assert getattr(theory, name)(draws, 0, ORIGINAL) == pytest.approx(1)


def test_symbol_survival_bound():
    samples, last = 400, 20
    count = np.arange(samples + 1)
    ways = [math.comb(samples, j) for j in count]
    step = np.array([ways * q**count * (1 - q) ** count[::-1] for q in count / samples])
    step = step.astype(float)
    expected_count = np.array([1, 2, 5])
    lost = np.zeros(samples + 1)
    lost[0] = 1
    for k in range(1, last + 1):
        lost = step @ lost
        survival = 1 - lost[expected_count]
        bound = theory.symbol_survival_bound(expected_count, k)
        assert np.all(bound <= survival)
        assert np.all(survival <= 2 * bound)  # a branching process: about 2 m / k at large k
    assert theory.symbol_survival_bound(2.0, 1) == pytest.approx(1 - (1 - 2e-6) ** 10**6, rel=1e-5)


@pytest.mark.parametrize("name", [*STATISTICS, "variance_of_log_variance"])
def test_shape_follows_fits(name):
    function = getattr(theory, name)
    grid = function(6, np.arange(6).reshape(2, 3))
    assert grid.shape == (2, 3)
    assert grid[1, 2] == function([6] * 9, 5)
    assert np.shape(function(6, 5)) == ()


def test_log_moments_outlast_the_range_of_floats():
    values = theory.expected_log_variance(10, [50_000, 100_001], sampling_bias=0.5)
    # digamma(9/2) = -euler_gamma - 2 ln 2 + 2 (1 + 1/3 + 1/5 + 1/7)
    digamma = -np.euler_gamma - 2 * np.log(2) + 2 * (1 + 1 / 3 + 1 / 5 + 1 / 7)
    rate = digamma + np.log(2 / 9) + np.log(0.5)
    assert values[1] - values[0] == pytest.approx(50_001 * rate, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.c4(1), "samples: expected integers >= 2, got 1"),
        (lambda: theory.expected_variance(1, 3), "samples: expected integers >= 2, got 1"),
        (lambda: theory.expected_variance(2.5, 3), "samples: expected integers >= 2, got 2.5"),
        (lambda: theory.expected_variance(5, -1), "fits: expected integers >= 0, got -1"),
        (lambda: theory.expected_variance([5, 6], 3), "one size for each of 3 fits"),
        (
            lambda: theory.expected_w2_squared(5, 3, estimator="map"),
            "one of unbiased, ml, got 'map'",
        ),
        (lambda: theory.accumulate_expected_variance(5, 3, estimator="map"), "'map'"),
        (lambda: theory.fixed_count_steady_state(5, 3, estimator="map"), "'map'"),
        (lambda: theory.random_count_steady_state(5, 0.3, estimator="map"), "'map'"),
        (
            lambda: theory.mean_squared_drift(5, 3, sampling_bias=0.0),
            "sampling_bias: expected a finite number > 0",
        ),
        (
            lambda: theory.expected_log_variance(5, 3, variance=0.0),
            "variance: expected a finite number > 0",
        ),
        (
            lambda: theory.expected_log_determinant(3, 1, dimension=3),
            "samples: expected more than dim",
        ),
        (lambda: theory.accumulate_mean_squared_drift([5, 5], 2), "not a schedule"),
        (
            lambda: theory.fixed_count_steady_state(10, 0),
            "real_samples: expected more real rows, as the unbiased fit",
        ),
        (
            lambda: theory.fixed_count_steady_state(10, 11),
            "real_samples: expected at most samples = 10, got 11",
        ),
        (
            lambda: theory.random_count_steady_state(10, 0.0),
            "real_share: expected more real rows, as the unbiased fit",
        ),
        (
            lambda: theory.random_count_steady_state(10, 1.5),
            r"real_share: expected shares in \[0, 1\]",
        ),
        (lambda: theory.expected_support(3, [0.5, 0.4]), "frequencies: expected a sum of 1"),
        (lambda: theory.fixation_probability(1.2), r"frequency: expected shares in \[0, 1\]"),
        (lambda: theory.symbol_survival_bound(1.0, 0), "fits: expected integers >= 1"),
        (
            lambda: theory.standard_deviation_exceedance_bound(5, 3, 0.0),
            "threshold: expected numbers > 0",
        ),
    ],
)
def test_errors_say_what_was_expected_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_smallest_real_share_with_an_unbiased_steady_state():
    # Each row real: M a (2 - a) = 1 - a; the drift grows without bound as a falls to the root.
    root = (21 - np.sqrt(21**2 - 40)) / 20
    near = theory.random_count_steady_state(10, root + 1e-6)
    assert near.mean_squared_drift > 1e3
    with pytest.raises(
        ValueError, match="real_share: expected more real rows, as the unbiased fit"
    ):
        theory.random_count_steady_state(10, root - 1e-6)
