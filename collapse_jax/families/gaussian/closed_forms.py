"""Closed forms of `theory` that hold for Gaussian chains, by regime."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from collapse_jax import theory
from collapse_jax.family import Curves
from collapse_jax.regimes import Regime
from collapse_jax.results.closed_forms import HEAVY_TAILED, settled, training_sizes


def closed_forms(config: Mapping[str, Any], regime: Regime, generations: int) -> Curves:
    """The `closed_forms` of a Gaussian family with this config."""
    if regime.name == "replace":
        return _replace(config, training_sizes(regime, generations))
    if not (regime.constant_samples and config["sampling_bias"] == 1):
        return {}
    options = {"variance": _variance(config), "estimator": config["estimator"]}
    if regime.name == "accumulate":
        fits = np.arange(1, generations + 1)
        drift = theory.accumulate_mean_squared_drift(regime.config["samples"], fits, **options)
        return {("mean", "variance"): drift}
    if regime.name == "fresh":
        return _fresh(options, regime, generations)
    return {}


def _variance(config: Mapping[str, Any]) -> float:
    """The original's mean marginal variance."""
    return float(np.trace(config["covariance"])) / config["dim"]


def _replace(config: Mapping[str, Any], samples: list[int]) -> Curves:
    dim, fits = config["dim"], np.arange(1, len(samples) + 1)
    options = {"estimator": config["estimator"], "sampling_bias": config["sampling_bias"]}
    variance = _variance(config)
    drift = theory.mean_squared_drift(samples, fits, variance=variance, **options)
    # Means of raw moments do not converge once sigma spreads over orders of magnitude.
    spread = theory.variance_of_log_variance(samples, fits)
    heavy_tailed = spread > HEAVY_TAILED
    found: dict[tuple[str, str], np.ndarray] = {
        ("mean", "variance"): np.ma.masked_where(heavy_tailed, drift)
    }
    if dim > 1:
        log_determinant = float(np.linalg.slogdet(config["covariance"])[1])
        found["log_determinant", "mean"] = theory.expected_log_determinant(
            samples, fits, dimension=dim, log_determinant=log_determinant, **options
        )
        found["log_determinant", "variance"] = theory.variance_of_log_determinant(
            samples, fits, dimension=dim
        )
        return found
    found["log_variance", "mean"] = theory.expected_log_variance(
        samples, fits, variance=variance, **options
    )
    found["log_variance", "variance"] = spread
    distance = theory.expected_w2_squared(samples, fits, variance=variance, **options)
    found["w2_squared", "mean"] = np.ma.masked_where(heavy_tailed, distance)
    # KL = (sigma^2 + drift^2 - 1 - ln sigma^2) / 2 in units of the original's variance.
    ratio = theory.expected_variance(samples, fits, variance=1.0, **options)
    logarithm = theory.expected_log_variance(samples, fits, variance=1.0, **options)
    divergence = 0.5 * (ratio + drift / variance - 1.0 - logarithm)
    found["kl", "mean"] = np.ma.masked_where(heavy_tailed, divergence)
    return found


def _fresh(options: Mapping[str, Any], regime: Regime, generations: int) -> Curves:
    """The steady state, from the generation at which chains have approached it to 1e-4."""
    samples, share = regime.config["samples"], regime.config["fraction"]
    if share == 0:
        return {}
    try:
        if regime.config["independent"]:
            steady = theory.random_count_steady_state(samples, share, **options)
        else:
            real = int(regime.sizes(1).fresh.count)
            share = real / samples
            steady = theory.fixed_count_steady_state(samples, real, **options)
    except ValueError:  # no steady state exists
        return {}
    drift = np.where(settled(share, generations), steady.mean_squared_drift, np.nan)
    return {("mean", "variance"): drift}
