"""Gaussian fits in the regimes with real data after generation 0: accumulate and fresh.

Symbols as in `collapse_jax.theory.gaussian`: M = `samples`, nu = M - 1, r = (M - 1) / M, sigma^2 =
`variance`. All are second moments, so they hold for any original with finite variance, and in
d dimensions with traces in place of variances.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.theory.gaussian import Estimator, check_estimator
from collapse_jax.theory.schedule import (
    Floats,
    Integers,
    check_constant_samples,
    check_integers,
    check_share,
    running_product,
    running_sum,
    unroll,
)


class SteadyState(NamedTuple):
    """Steady-state second moments of the fitted Gaussian."""

    mean_squared_drift: Floats  # f64[...], v = E (mu - mu_0)^2, squared data units
    expected_variance: Floats  # f64[...], s = E sigma^2, squared data units


def accumulate_expected_variance(
    samples: int, fits: Integers, *, variance: float = 1.0, estimator: Estimator = "unbiased"
) -> Floats:
    """E sigma_t^2 when fit t pools M real rows and t-1 batches of M, batch k drawn from fit k.

    ml: sigma^2 prod_{k<=t} [1 - 1 / (M k^2)]; unbiased: sigma^2 times the product over k = 2..t of
    1 - 1 / [k (kM - 1)]. Derived: the pool before fit k has (k-1)M rows of mean mu_{k-1} and sum of
    squares (k-1)M s (ml) or ((k-1)M - 1) s (unbiased), s = sigma_{k-1}^2. A batch of M rows from
    N(mu_{k-1}, s) adds (M - 1) s within and (1 - 1/k) s between, on average; fit k divides the
    total by kM or kM - 1.

    Args:
        samples: M >= 2, rows in each batch.
        fits: t >= 0, any shape; t = 1 is the fit to real rows.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.

    Returns:
        E sigma_t^2 in squared data units, of the shape of `fits`.

    Examples:
        >>> [float(v) for v in accumulate_expected_variance(4, [0, 1, 2], estimator="ml")]
        [1.0, 0.75, 0.703125]
    """
    sizes, fits = unroll(check_constant_samples(samples), fits)
    check_estimator(estimator)
    k = np.arange(1.0, len(sizes) + 1)
    if estimator == "ml":
        loss = 1 / (sizes * k**2)
    else:
        loss = np.where(k > 1, 1 / (k * (k * sizes - 1)), 0.0)
    return variance * running_product(1 - loss, fits)


def accumulate_mean_squared_drift(
    samples: int, fits: Integers, *, variance: float = 1.0, estimator: Estimator = "unbiased"
) -> Floats:
    """E (mu_t - mu)^2 = sum_{k<=t} E sigma_{k-1}^2 / (M k^2), with sigma_0 = sigma.

    Derived: batch k moves the pool's mean by 1/k of the batch's own error, of variance
    sigma_{k-1}^2 / M. For ml the sum telescopes to sigma^2 - E sigma_t^2.

    Args:
        samples: M >= 2, rows in each batch.
        fits: t >= 0, any shape; t = 1 is the fit to real rows.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.

    Returns:
        Mean squared drift in squared data units, of the shape of `fits`.
    """
    sizes, fits = unroll(check_constant_samples(samples), fits)
    last = len(sizes)
    seen = accumulate_expected_variance(
        samples, np.arange(last), variance=variance, estimator=estimator
    )
    return running_sum(seen / (sizes * np.arange(1.0, last + 1) ** 2), fits)


def accumulate_variance_limit(
    samples: int, *, variance: float = 1.0, estimator: Estimator = "unbiased"
) -> float:
    """E sigma_t^2 as t -> infinity: above 0, so that accumulating avoids collapse.

    ml: sigma^2 sin(x) / x, x = pi / sqrt(M), by Euler's product. Unbiased: sigma^2 Gamma(2 - 1/M) /
    [Gamma(2 - a) Gamma(2 - b)], with a and b the roots of M k^2 - k - 1 = 0, since each factor is
    (k - a)(k - b) / [k (k - 1/M)] (derived).

    Args:
        samples: M >= 2, rows in each batch.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.

    Returns:
        Limit of E sigma_t^2 in squared data units.
    """
    samples = check_constant_samples(samples)
    check_estimator(estimator)
    if estimator == "ml":
        return float(variance * np.sinc(1 / np.sqrt(samples)))
    roots = (1 + np.array([1, -1]) * np.sqrt(1 + 4 * samples)) / (2 * samples)
    return float(variance * np.exp(gammaln(2 - 1 / samples) - gammaln(2 - roots).sum()))


def fixed_count_steady_state(
    samples: int,
    real_samples: Integers,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
) -> SteadyState:
    """Steady state when every fit sees exactly A fresh real rows and M - A synthetic ones.

    alpha = A / M. ml: v = sigma^2 / [M alpha (2 - alpha) + 1 - alpha], s = sigma^2 - v; unbiased:
    v = sigma^2 / {M [1 - (1 - alpha)^2 / r]}, s = sigma^2 + (1 - alpha) v / r (derived). With
    the same real rows in every fit, v is larger.

    Args:
        samples: M >= 2, rows per fit.
        real_samples: A in 0..M, any shape; for a share alpha, round(alpha * M).
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.

    Returns:
        The steady state, fields of the shape of `real_samples`.

    Raises:
        ValueError: unbiased and (1 - alpha)^2 >= r: the second moments grow without bound.

    Examples:
        >>> round(float(fixed_count_steady_state(10, 3, estimator="ml").mean_squared_drift), 4)
        0.1724
    """
    samples = check_constant_samples(samples)
    check_estimator(estimator)
    real = check_integers("real_samples", real_samples, 0) / samples
    if np.any(real > 1):
        raise arguments.setting_error("real_samples", f"at most samples = {samples}", real_samples)
    if estimator == "ml":
        drift = variance / (samples * real * (2 - real) + 1 - real)
        return SteadyState(drift, variance - drift)
    r = (samples - 1) / samples
    margin = 1 - (1 - real) ** 2 / r
    _check_bounded(margin, "real_samples", real_samples, samples)
    drift = variance / (samples * margin)
    return SteadyState(drift, variance + (1 - real) * drift / r)


def random_count_steady_state(
    samples: int,
    real_share: float | Floats,
    *,
    variance: float = 1.0,
    estimator: Estimator = "unbiased",
) -> SteadyState:
    """Steady state when each of the M rows is a fresh real one with probability alpha.

    ml: v = sigma^2 / [M alpha (2 - alpha) + (1 - alpha)^2], s = sigma^2 - v; unbiased:
    v = sigma^2 / [M alpha (2 - alpha) - (1 - alpha)], s = sigma^2 + (1 - alpha) v (derived).

    Args:
        samples: M >= 2, rows per fit.
        real_share: alpha in [0, 1], any shape.
        variance: original variance sigma^2, in squared data units.
        estimator: variance estimator.

    Returns:
        The steady state, fields of the shape of `real_share`.

    Raises:
        ValueError: unbiased and M alpha (2 - alpha) <= 1 - alpha: the second moments grow without
            bound.
    """
    samples = check_constant_samples(samples)
    check_estimator(estimator)
    real = check_share("real_share", real_share)
    fresh = samples * real * (2 - real)
    if estimator == "ml":
        drift = variance / (fresh + (1 - real) ** 2)
        return SteadyState(drift, variance - drift)
    margin = fresh - (1 - real)
    _check_bounded(margin, "real_share", real_share, samples)
    drift = variance / margin
    return SteadyState(drift, variance + (1 - real) * drift)


def _check_bounded(margin: Floats, name: str, value: object, samples: int) -> None:
    """Raise SettingError unless the share of real rows is large enough for a steady state."""
    if not np.all(margin > 0):
        raise SettingError(
            f"{name}: expected more real rows, as the unbiased fit has no steady state at"
            f" samples = {samples} otherwise, got {value!r}"
        )
