"""Closed forms of `theory` that hold for chains of kernel density estimates, by regime."""

from typing import Any

import numpy as np

from collapse_jax import theory
from collapse_jax.family import Curves
from collapse_jax.regimes import Regime
from collapse_jax.results.closed_forms import HEAVY_TAILED, training_sizes


def closed_forms(
    dim: int, bandwidth: float | str, tail: float, regime: Regime, generations: int
) -> Curves:
    """Closed forms of second moments, and of the expected tail mass if the bandwidth is fixed."""
    fits, samples = np.arange(1, generations + 1), training_sizes(regime, generations)
    options: dict[str, Any] = {"bandwidth": bandwidth, "dimension": dim}
    if regime.name == "accumulate" and regime.constant_samples:
        moments = theory.kde_accumulate_moments(regime.config["samples"], fits, **options)
    elif regime.name == "replace":
        moments = theory.kde_moments(samples, fits, **options)
    elif regime.name == "fresh" and regime.constant_samples and not regime.config["independent"]:
        real = int(regime.sizes(1).fresh.count)
        moments = theory.kde_moments(samples, fits, real_samples=real, **options)
    else:
        return {}
    pooled = regime.name == "accumulate"
    # The variance of M draws spreads at most as much per generation as that of M normal draws.
    spread = theory.variance_of_log_variance(samples, fits)
    heavy_tailed = (spread > HEAVY_TAILED) & (not pooled)
    found: dict[tuple[str, str], np.ndarray] = {
        ("variance", "mean"): np.ma.masked_where(heavy_tailed, moments.expected_variance),
        ("mean", "variance"): np.ma.masked_where(heavy_tailed, moments.mean_squared_drift),
    }
    if not isinstance(bandwidth, str) and regime.name != "fresh":
        found["tail_mass", "mean"] = theory.kde_expected_tail_mass(
            fits, bandwidth, tail, accumulate=pooled
        )
    return found
