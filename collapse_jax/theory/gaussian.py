"""Gaussian fits in the replace regime: each fit sees only samples of the previous fit.

n = `fits` is the number of fits including generation 0's, so generation g has n = g + 1 and n = 0
is the original; M = `samples`; nu = M - 1; r = (M - 1) / M. Sampling bias lambda draws synthetic
rows from N(mu, lambda * sigma^2); real rows are never scaled. Products and sums over k run over the
fits, each with its own M_k. E sigma_n^2 and the mean squared drift hold for any original with
finite variance; all other forms need a Gaussian original.
"""

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import poch

from collapse_jax import arguments
from collapse_jax.theory.schedule import (
    Floats,
    Integers,
    SampleSizes,
    check_integers,
    running_product,
    running_sum,
    unroll,
)

Estimator: TypeAlias = Literal["unbiased", "ml"]
"""Variance estimator: divide by M - 1 ("unbiased") or by M ("ml", maximum likelihood)."""


def check_estimator(estimator: Estimator) -> None:
    """Raise SettingError unless `estimator` is a known variance estimator."""
    arguments.choice("estimator", estimator, get_args(Estimator))


def c4(samples: SampleSizes) -> Floats:
    """E sqrt(s^2) / sigma for the unbiased variance s^2 of M Gaussian rows.

    c4 = sqrt(2 / nu) * Gamma(M / 2) / Gamma(nu / 2). The ratio is computed as a Pochhammer symbol:
    a difference of log-gammas would lose the digits of 1 - c4 at large M.

    Args:
        samples: M >= 2, any shape.

    Returns:
        c4, dimensionless, of the shape of `samples`.

    Examples:
        >>> round(float(c4(2)), 6)
        0.797885
    """
    half = (check_integers("samples", samples, 2) - 1) / 2
    return np.asarray(poch(half, 0.5) / np.sqrt(half))[()]


def variance_factor(samples: SampleSizes, estimator: Estimator = "unbiased") -> Floats:
    """E sigma'^2 / sigma^2 over one fit: 1 (unbiased) or r = (M - 1) / M (ml).

    Args:
        samples: M >= 2, any shape.
        estimator: variance estimator.

    Returns:
        The factor, dimensionless, of the shape of `samples`.
    """
    check_estimator(estimator)
    sizes = check_integers("samples", samples, 2)
    return (sizes - 1.0 * (estimator == "ml")) / sizes


def standard_deviation_factor(samples: SampleSizes, estimator: Estimator = "unbiased") -> Floats:
    """E sigma' / sigma over one fit: c = c4 (unbiased) or c4 * sqrt(r) (ml).

    Args:
        samples: M >= 2, any shape.
        estimator: variance estimator.

    Returns:
        c, dimensionless, of the shape of `samples`.
    """
    return c4(samples) * np.sqrt(variance_factor(samples, estimator))


def _bias_power(sampling_bias: float, fits: NDArray[np.int64]) -> Floats:
    """lambda^(n-1), and 1 at n = 0: the first fit sees real rows, which are not scaled.

    Raises SettingError unless lambda > 0.
    """
    arguments.number("sampling_bias", sampling_bias, above=0)
    return np.float64(sampling_bias) ** np.maximum(fits - 1, 0)


def expected_variance(
    samples: SampleSizes,
    fits: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E sigma_n^2 = sigma^2 lambda^(n-1) (unbiased), times prod_k r_k (ml).

    Source: Shumailov et al. 2024 for the martingale (unbiased); ml and lambda derived.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        E sigma_n^2 in squared data units, of the shape of `fits`.

    Examples:
        >>> [round(float(v), 4) for v in expected_variance(4, [0, 1, 2], estimator="ml")]
        [1.0, 0.75, 0.5625]
    """
    sizes, fits = unroll(samples, fits)
    decay = running_product(variance_factor(sizes, estimator), fits)
    return variance * _bias_power(sampling_bias, fits) * decay


def expected_standard_deviation(
    samples: SampleSizes,
    fits: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E sigma_n = sigma lambda^((n-1)/2) prod_k c_k.

    c as in `standard_deviation_factor` (derived).

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        E sigma_n in data units, of the shape of `fits`.
    """
    sizes, fits = unroll(samples, fits)
    decay = running_product(standard_deviation_factor(sizes, estimator), fits)
    return np.sqrt(variance * _bias_power(sampling_bias, fits)) * decay


def expected_squared_variance(
    samples: SampleSizes,
    fits: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E sigma_n^4 = sigma^4 lambda^(2(n-1)) prod_k (1 + 2 / nu_k), times prod_k r_k^2 (ml).

    Derived. For the unbiased estimator it grows without bound although sigma_n tends to 0.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        E sigma_n^4 in data units to the fourth, of the shape of `fits`.
    """
    sizes, fits = unroll(samples, fits)
    factors = (1 + 2 / (sizes - 1)) * variance_factor(sizes, estimator) ** 2
    return (variance * _bias_power(sampling_bias, fits)) ** 2 * running_product(factors, fits)


def mean_squared_drift(
    samples: SampleSizes,
    fits: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E (mu_n - mu)^2 = sum_k (expected variance of the rows of fit k) / M_k.

    With constant M: (sigma^2 / M) (1 - rho^n) / (1 - rho), rho = lambda (unbiased) or lambda r
    (ml); at lambda = 1, n sigma^2 / M (unbiased) and sigma^2 (1 - r^n) (ml). Source: Shumailov et
    al. 2024 (unbiased); ml and lambda derived. In d dimensions, with the trace of the original
    covariance as `variance`, this is E ||mu_n - mu||^2, a lower bound on E W2^2.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        variance: original variance sigma^2 (or trace), in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        Mean squared drift in squared data units, of the shape of `fits`.

    Examples:
        >>> [round(float(v), 12) for v in mean_squared_drift(100, [0, 1, 50], variance=2.0)]
        [0.0, 0.02, 1.0]
    """
    sizes, fits = unroll(samples, fits)
    arguments.number("sampling_bias", sampling_bias, above=0)
    seen = running_product(sampling_bias * variance_factor(sizes, estimator), np.arange(len(sizes)))
    return variance * running_sum(seen / sizes, fits)


def expected_w2_squared(
    samples: SampleSizes,
    fits: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E W2^2 to the original = E (mu_n - mu)^2 + E sigma_n^2 + sigma^2 - 2 sigma E sigma_n.

    With constant M and no bias: sigma^2 [n / M + 2 (1 - c4^n)] (unbiased), which diverges, and
    2 sigma^2 (1 - c^n) (ml), which stays below 2 sigma^2. Source: Shumailov et al. 2024 for the
    divergence; exact forms derived. One dimension only.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        E W2^2 in squared data units, of the shape of `fits`.

    Examples:
        >>> round(float(expected_w2_squared(2, 10_000, estimator="ml")), 6)
        2.0
    """
    drift, second, first = (
        moment(samples, fits, variance=variance, estimator=estimator, sampling_bias=sampling_bias)
        for moment in (mean_squared_drift, expected_variance, expected_standard_deviation)
    )
    distance: Floats = drift + second + variance - 2 * np.sqrt(variance) * first
    return distance


def expected_trace(
    samples: SampleSizes,
    fits: Integers,
    *,
    trace: float,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E tr Sigma_n = tr Sigma lambda^(n-1) (unbiased), times prod_k r_k (ml).

    Source: Shumailov et al. 2024 (unbiased); ml and lambda derived.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        trace: trace of the original covariance, in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        E tr Sigma_n in squared data units, of the shape of `fits`.
    """
    return expected_variance(
        samples, fits, variance=trace, estimator=estimator, sampling_bias=sampling_bias
    )


def standard_deviation_exceedance_bound(
    samples: SampleSizes, fits: Integers, threshold: float | Floats, *, variance: float = 1.0
) -> Floats:
    """Pr(sigma_n > epsilon) <= (sigma / epsilon) exp(-sum_k 1 / (4 M_k)), cut at 1.

    With constant M the exponent is -n / (4 M). Holds for both estimators. Source: Suresh et al.;
    Markov's inequality and c4 < exp(-1 / (4 M)).

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        threshold: epsilon > 0, in data units; broadcasts with `fits`.
        variance: original variance sigma^2, in squared data units.

    Returns:
        Upper bound on the probability, of the broadcast shape.
    """
    epsilon = np.asarray(threshold, dtype=np.float64)
    if not np.all(epsilon > 0):
        raise arguments.setting_error("threshold", "numbers > 0", threshold)
    sizes, counts = unroll(samples, fits)
    decay = np.exp(-running_sum(1 / (4 * sizes), counts))
    bound: Floats = np.minimum(1.0, np.sqrt(variance) / epsilon * decay)
    return bound
