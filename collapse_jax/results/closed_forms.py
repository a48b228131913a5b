"""Which closed forms of `theory` describe a run, as curves over its generations.

Keys are (metric, statistic): "mean" is E of the metric; "variance" is its variance over chains, but
for the metric "mean" the mean squared distance from the original's mean, as the papers plot it.
Moments that are too heavy-tailed for a mean over chains to settle are left out.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from collapse_jax import theory
from collapse_jax.family import Family
from collapse_jax.regimes import Regime

Curves = dict[tuple[str, str], np.ndarray]
# Var ln sigma^2 = 2n/nu up to which means of sigma^2 and W2^2 over chains are trustworthy.
HEAVY_TAILED = 0.5


def curves(family: Family, regime: Regime, generations: int, heavy_tailed: bool = False) -> Curves:
    """The closed forms that hold for a family under a regime.

    Args:
      family, regime: of the run.
      generations: its length; generation g has had g + 1 fits.
      heavy_tailed: whether to keep moments whose mean over chains does not settle: right to draw,
        wrong to test.

    Returns:
      {(metric, statistic): f64[generation]}, NaN where a form says nothing; empty if there is none.
    """
    if family.name == "gaussian":
        found = _gaussian(family.config, regime, generations)
        if regime.name == "replace" and not heavy_tailed:
            _drop_heavy_tails(found, regime, generations)
        return found
    if family.name == "discrete":
        return _discrete(family, regime, generations)
    if family.name == "kde":
        return _kde(family.config, regime, generations, heavy_tailed)
    if family.name == "regression":
        return _regression(family.config, regime, generations, heavy_tailed)
    return {}


def _gaussian(config: Mapping[str, Any], regime: Regime, generations: int) -> Curves:
    if regime.name == "replace":
        return _gaussian_replace(config, regime, generations)
    if regime.name == "accumulate" and regime.constant_samples and config["sampling_bias"] == 1:
        drift = theory.accumulate_mean_squared_drift(
            regime.config["samples"],
            np.arange(1, generations + 1),
            variance=float(np.trace(config["covariance"])) / config["dim"],
            estimator=config["estimator"],
        )
        return {("mean", "variance"): drift}
    if regime.name == "fresh" and regime.constant_samples and config["sampling_bias"] == 1:
        return _gaussian_fresh(config, regime, generations)
    return {}


def _gaussian_replace(config: Mapping[str, Any], regime: Regime, generations: int) -> Curves:
    dim, covariance = config["dim"], np.array(config["covariance"])
    fits = np.arange(1, generations + 1)
    samples = [int(regime.sizes(g).training.count) for g in range(generations)]
    options = {"estimator": config["estimator"], "sampling_bias": config["sampling_bias"]}
    variance = float(np.trace(covariance)) / dim
    drift = theory.mean_squared_drift(samples, fits, variance=variance, **options)
    found: Curves = {("mean", "variance"): drift}
    if dim > 1:
        log_determinant = float(np.linalg.slogdet(covariance)[1])
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
    found["log_variance", "variance"] = theory.variance_of_log_variance(samples, fits)
    found["w2_squared", "mean"] = theory.expected_w2_squared(
        samples, fits, variance=variance, **options
    )
    # KL = (sigma^2 + drift^2 - 1 - ln sigma^2) / 2 in units of the original's variance.
    ratio = theory.expected_variance(samples, fits, variance=1.0, **options)
    logarithm = theory.expected_log_variance(samples, fits, variance=1.0, **options)
    found["kl", "mean"] = 0.5 * (ratio + drift / variance - 1.0 - logarithm)
    return found


def _drop_heavy_tails(found: Curves, regime: Regime, generations: int) -> None:
    """Leaves out raw moments of sigma and mu once sigma spreads over orders of magnitude."""
    samples = [int(regime.sizes(g).training.count) for g in range(generations)]
    spread = theory.variance_of_log_variance(samples, np.arange(1, generations + 1))
    for key in (("mean", "variance"), ("w2_squared", "mean"), ("kl", "mean")):
        if key in found:
            found[key] = np.where(spread <= HEAVY_TAILED, found[key], np.nan)


def _gaussian_fresh(config: Mapping[str, Any], regime: Regime, generations: int) -> Curves:
    """The steady state, over the generations by which its approach is over to 1e-4."""
    samples, share = regime.config["samples"], regime.config["fraction"]
    if share == 0:
        return {}
    options = {
        "variance": float(np.trace(config["covariance"])) / config["dim"],
        "estimator": config["estimator"],
    }
    try:
        if regime.config["independent"]:
            steady = theory.random_count_steady_state(samples, share, **options)
        else:
            real = int(regime.sizes(1).fresh.count)
            share = real / samples
            steady = theory.fixed_count_steady_state(samples, real, **options)
    except ValueError:  # no steady state exists
        return {}
    settled = _settled(share, generations)
    return {("mean", "variance"): np.where(settled, steady.mean_squared_drift, np.nan)}


def _settled(share: float, generations: int) -> np.ndarray:
    """Whether (1 - share)^2n, the distance from the steady state, is below 1e-4."""
    fits = np.arange(1, generations + 1)
    decay = 2.0 * math.log1p(-share) if share < 1 else -math.inf
    return fits * decay < math.log(1e-4)


def _discrete(family: Family, regime: Regime, generations: int) -> Curves:
    frequencies, config = family.population, family.config
    fits = np.arange(1, generations + 1)
    if regime.name == "replace" and regime.constant_samples:
        samples = regime.config["samples"]
        found: Curves = {
            ("heterozygosity", "mean"): theory.expected_heterozygosity(samples, fits, frequencies)
        }
        support = np.full(generations, np.nan)
        support[0] = theory.expected_support(samples, frequencies)
        found["support", "mean"] = support
        tail = config["tail_probability"]
        found["tail_mass", "mean"] = np.full(generations, tail)
        found["tail_mass", "variance"] = theory.variance_of_frequency(samples, fits, tail)
        return found
    if regime.name == "fresh" and regime.constant_samples and regime.config["fraction"] > 0:
        samples = regime.config["samples"]
        if regime.config["independent"]:
            share = regime.config["fraction"]
            steady = theory.random_count_steady_homozygosity(samples, share, frequencies)
        else:
            real = int(regime.sizes(1).fresh.count)
            share = real / samples
            steady = theory.fixed_count_steady_homozygosity(samples, real, frequencies)
        settled = _settled(share, generations)
        return {("heterozygosity", "mean"): np.where(settled, 1.0 - steady, np.nan)}
    return {}


def _kde(config: Mapping[str, Any], regime: Regime, generations: int, heavy_tailed: bool) -> Curves:
    """Second moments; with a fixed bandwidth the expected tail mass, which is bounded, too."""
    fits = np.arange(1, generations + 1)
    options = {"bandwidth": config["bandwidth"], "dimension": config["dim"]}
    samples = [int(regime.sizes(g).training.count) for g in range(generations)]
    constant = regime.constant_samples
    if regime.name == "accumulate" and constant:
        moments = theory.kde_accumulate_moments(regime.config["samples"], fits, **options)
    elif regime.name == "replace":
        moments = theory.kde_moments(samples, fits, **options)
    elif regime.name == "fresh" and constant and not regime.config["independent"]:
        real = int(regime.sizes(1).fresh.count)
        moments = theory.kde_moments(samples, fits, real_samples=real, **options)
    else:
        return {}
    found: Curves = {
        ("variance", "mean"): moments.expected_variance,
        ("mean", "variance"): moments.mean_squared_drift,
    }
    if regime.name != "accumulate" and not heavy_tailed:
        # A variance of M draws spreads at most as that of M normal ones, generation by generation.
        settles = theory.variance_of_log_variance(samples, fits) <= HEAVY_TAILED
        found = {key: np.where(settles, curve, np.nan) for key, curve in found.items()}
    if not isinstance(config["bandwidth"], str) and regime.name != "fresh":
        pooled = regime.name == "accumulate"
        found["tail_mass", "mean"] = theory.kde_expected_tail_mass(
            fits, config["bandwidth"], config["tail"], accumulate=pooled
        )
    return found


def _regression(
    config: Mapping[str, Any], regime: Regime, generations: int, heavy_tailed: bool
) -> Curves:
    """The excess risk, where its variance over chains is finite: T > d + 3."""
    fits = np.arange(1, generations + 1)
    samples = [int(regime.sizes(g).training.count) for g in range(generations)]
    if min(samples) <= config["dim"] + 3 and not heavy_tailed:
        return {}
    options = {"dimension": config["dim"], "noise_variance": config["noise"] ** 2}
    if regime.name == "replace":
        curve = theory.regression_excess_risk(samples, fits, **options)
    elif regime.name == "accumulate" and regime.constant_samples:
        curve = theory.regression_accumulate_excess_risk(
            samples[0], fits, design=config["design"], **options
        )
    else:
        return {}
    return {("excess_risk", "mean"): curve}
