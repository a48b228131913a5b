"""Closed forms of a run, from its family, and helpers that families share.

Keys are (metric, statistic): "mean" is the expectation of the metric; "variance" is its variance
over chains, except for the metric "mean": there it is the mean squared distance from the original's
mean, as the papers plot it.
"""

import math

import numpy as np

from collapse_jax.family import Curves, Family
from collapse_jax.regimes import Regime

# Largest Var ln sigma^2 = 2n/nu at which means of sigma^2 and W2^2 over chains are reliable.
HEAVY_TAILED = 0.5


def curves(family: Family, regime: Regime, generations: int, heavy_tailed: bool = False) -> Curves:
    """The closed forms that hold for a family under a regime.

    Args:
      family, regime: of the run.
      generations: length of the run; generation g follows g + 1 fits.
      heavy_tailed: whether to keep expectations that a mean over chains does not converge to in
        practice: for figures, not for tests.

    Returns:
      {(metric, statistic): f64[generation, ...]}, NaN where no form applies; empty without forms.
    """
    found = {}
    for key, curve in family.closed_forms(regime, generations).items():
        masked = np.ma.asarray(curve, np.float64)
        values = np.ma.getdata(masked) if heavy_tailed else masked.filled(np.nan)
        if not np.all(np.isnan(values)):
            found[key] = values
    return found


def training_sizes(regime: Regime, generations: int) -> list[int]:
    """The size of each generation's training set."""
    return [int(regime.sizes(generation).training.count) for generation in range(generations)]


def settled(share: float, generations: int) -> np.ndarray:
    """Whether a chain has reached its steady state, bool[generation].

    Args:
      share: share of original data in each training set, in (0, 1].
      generations: length of the run.

    Returns:
      Whether (1 - share)^2n, the relative distance from the steady state after n fits, is < 1e-4.
    """
    fits = np.arange(1, generations + 1)
    decay = 2.0 * math.log1p(-share) if share < 1 else -math.inf
    return fits * decay < math.log(1e-4)
