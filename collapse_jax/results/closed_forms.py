"""Closed forms of a run as its family names them, and what families share in naming them.

Keys are (metric, statistic): "mean" is E of the metric; "variance" is its variance over chains, but
for the metric "mean" the mean squared distance from the original's mean, as the papers plot it.
"""

import math

import numpy as np

from collapse_jax.family import Curves, Family
from collapse_jax.regimes import Regime

# Var ln sigma^2 = 2n/nu up to which means of sigma^2 and W2^2 over chains are trustworthy.
HEAVY_TAILED = 0.5


def curves(family: Family, regime: Regime, generations: int, heavy_tailed: bool = False) -> Curves:
    """The closed forms that hold for a family under a regime.

    Args:
      family, regime: of the run.
      generations: its length; generation g has had g + 1 fits.
      heavy_tailed: whether to keep values that a mean over chains does not settle on: right to
        draw, wrong to test.

    Returns:
      {(metric, statistic): f64[generation, ...]}, NaN where a form says nothing; empty if there is
      none.
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
    """Generations by which the approach to a steady state is over, bool[generation].

    Args:
      share: of real data in each training set, in (0, 1].
      generations: length of the run.

    Returns:
      Whether (1 - share)^2n, the distance from the steady state after n fits, is below 1e-4.
    """
    fits = np.arange(1, generations + 1)
    decay = 2.0 * math.log1p(-share) if share < 1 else -math.inf
    return fits * decay < math.log(1e-4)
