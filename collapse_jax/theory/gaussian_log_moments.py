"""Log-moments in the replace regime; tests of them keep power where raw moments are heavy-tailed.

ln sigma_n^2 is a sum of n independent log chi-square terms, so its mean and variance are exact and
its tails light, whereas raw moments of sigma_n need ever more chains. Symbols as in
`collapse_jax.theory.gaussian`. All forms need a Gaussian original.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma, psi

from collapse_jax import arguments
from collapse_jax.theory.gaussian import Estimator, variance_factor
from collapse_jax.theory.schedule import (
    Floats,
    Integers,
    SampleSizes,
    check_constant_samples,
    check_integers,
    running_sum,
    unroll,
)


def _degrees_of_freedom(
    samples: SampleSizes, fits: Integers, dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sizes i64[fit], degrees of freedom nu - i i64[fit, dimension], and the validated fits."""
    dimension = int(check_integers("dimension", dimension, 1))
    sizes, counts = unroll(samples, fits)
    if np.any(check_integers("samples", samples, 2) <= dimension):
        raise arguments.setting_error("samples", f"more than dimension = {dimension}", samples)
    return sizes, sizes[:, None] - 1 - np.arange(dimension), counts


def expected_log_determinant(
    samples: SampleSizes,
    fits: Integers,
    *,
    dimension: int,
    log_determinant: float = 0.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E ln det Sigma_n, by Bartlett's decomposition of the sample covariance (derived).

    ln det Sigma + d (n-1) ln lambda + sum_k sum_{i<d} [psi((nu_k - i) / 2) + ln(2 / nu_k)];
    the ml estimator adds d sum_k ln r_k.

    Args:
        samples: M > d, or one per fit.
        fits: n >= 0, any shape.
        dimension: d >= 1.
        log_determinant: ln det of the original covariance.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        Mean of the natural logarithm of the determinant, of the shape of `fits`; at
        `log_determinant` 0 the mean of ln(det Sigma_n / det Sigma).
    """
    sizes, freedom, counts = _degrees_of_freedom(samples, fits, dimension)
    scale = np.log(2 / (sizes - 1)) + np.log(variance_factor(sizes, estimator))
    terms = np.sum(psi(freedom / 2) + scale[:, None], axis=-1)
    arguments.number("sampling_bias", sampling_bias, above=0)
    bias = dimension * np.maximum(counts - 1, 0) * np.log(sampling_bias)
    return np.asarray(log_determinant + bias + running_sum(terms, counts))[()]


def variance_of_log_determinant(samples: SampleSizes, fits: Integers, *, dimension: int) -> Floats:
    """Var ln det Sigma_n = sum_k sum_{i<d} psi'((nu_k - i) / 2), for both estimators (derived).

    Args:
        samples: M > d, or one per fit.
        fits: n >= 0, any shape.
        dimension: d >= 1.

    Returns:
        Variance of the natural logarithm of the determinant, of the shape of `fits`.
    """
    _, freedom, counts = _degrees_of_freedom(samples, fits, dimension)
    return running_sum(np.sum(polygamma(1, freedom / 2), axis=-1), counts)


def expected_log_variance(
    samples: SampleSizes,
    fits: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
    sampling_bias: float = 1.0,
) -> Floats:
    """E ln sigma_n^2 = ln sigma^2 + (n-1) ln lambda + sum_k [psi(nu_k/2) + ln(2/nu_k)].

    The ml estimator adds sum_k ln r_k. Approximately ln sigma^2 - n / nu at large nu (derived).

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.
        sampling_bias: lambda > 0.

    Returns:
        Mean of the natural logarithm of the variance, of the shape of `fits`; at `variance` 1 the
        mean of ln(sigma_n^2 / sigma^2).
    """
    arguments.number("variance", variance, above=0)
    return expected_log_determinant(
        samples,
        fits,
        dimension=1,
        log_determinant=float(np.log(variance)),
        estimator=estimator,
        sampling_bias=sampling_bias,
    )


def variance_of_log_variance(samples: SampleSizes, fits: Integers) -> Floats:
    """Var ln sigma_n^2 = sum_k psi'(nu_k / 2), approximately 2n / nu at large nu (derived).

    Equal for both estimators and any sampling bias, which only shift the logarithm.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.

    Returns:
        Variance of the natural logarithm of the variance, of the shape of `fits`.
    """
    return variance_of_log_determinant(samples, fits, dimension=1)


def e_fold_time(samples: int, *, estimator: Estimator = "unbiased") -> float:
    """Number of fits in which the median sigma falls by a factor e: about 2 nu (unbiased), M (ml).

    ln sigma_n is a sum of independent terms, so once it is near normal each fit shifts its median
    by E ln(sigma' / sigma), half of the mean log variance ratio (derived).

    Args:
        samples: M >= 2.
        estimator: variance estimator.

    Returns:
        e-fold time in fits.
    """
    samples = check_constant_samples(samples)
    return float(-2 / expected_log_variance(samples, 1, estimator=estimator))
