"""Sufficient statistics of a metric over chains, and the edges of its histogram.

Axis legend: t generations of a segment.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.family import Metric

BINS = 130  # of which the first and last are open-ended


class Totals(NamedTuple):
    """Sufficient statistics over finite chains, per generation and entry of a metric.

    JAX arrays for one batch, NumPy arrays for merged batches.
    """

    count: Any  # f32[t, ...]
    mean: Any  # f32[t, ...]
    squares: Any  # f32[t, ...], sum of squared deviations from `mean`
    histogram: Any  # i32[t, ..., BINS]


def merge(batches: Sequence[Totals]) -> Totals:
    """Merges the totals of batches, in order and in float64 (Chan et al. 1983)."""
    first = batches[0]
    count, mean, squares = (np.asarray(x, np.float64) for x in first[:3])
    whole = Totals(count, mean, squares, np.asarray(first.histogram, np.int64))
    for batch in batches[1:]:
        count = whole.count + batch.count
        share = np.divide(batch.count, count, out=np.zeros_like(count), where=count > 0)
        delta = batch.mean - whole.mean
        whole = Totals(
            count,
            whole.mean + delta * share,
            whole.squares + batch.squares + delta**2 * whole.count * share,
            whole.histogram + np.asarray(batch.histogram, np.int64),
        )
    return whole


def edges(metric: Metric) -> np.ndarray:
    """The fixed edges between a metric's bins, uniform in asinh((x - centre) / scale).

    Returns:
      f64[BINS - 1], or f64[entry, BINS - 1] if entries have their own centres.
    """
    bottom, top = bin_range(metric)
    about_zero = metric.scale * np.sinh(np.linspace(bottom, top, BINS - 1))
    return np.asarray(metric.centre)[..., None] + about_zero


def bin_range(metric: Metric) -> tuple[float, float]:
    """The lowest and the highest edge, as values of asinh((x - centre) / scale)."""
    top = float(np.arcsinh(metric.limit / metric.scale))
    return 0.0 if metric.nonnegative else -top, top
