"""Linear regression refitted to its own predictions: expected excess risk |w_hat - w|^2.

y = X w + noise of variance sigma^2, X of T = `samples` rows of N(0, I_d), d = `dimension`, fitted
by least squares. n = `fits` is the number of fits, the first to real y; generation g has
n = g + 1. For x ~ N(0, I_d) the risk of a prediction is sigma^2 + |w_hat - w|^2. Sources:
Gerstgrasser et al., arXiv 2404.01413 (same X); new X derived. The expectation is finite for
T > d + 1, its variance for T > d + 3.
"""

from typing import Literal, TypeAlias

import numpy as np
from scipy.special import digamma

from collapse_jax import arguments
from collapse_jax.theory.schedule import (
    Floats,
    Integers,
    SampleSizes,
    check_constant_samples,
    running_sum,
    unroll,
)

Design: TypeAlias = Literal["same", "new"]
"""Design: every generation has the first one's rows X ("same"), or newly drawn ones ("new")."""


def regression_excess_risk(
    samples: SampleSizes, fits: Integers, *, dimension: int, noise_variance: float = 1.0
) -> Floats:
    """Replace: E |w_n - w|^2 = sum_{k<=n} sigma^2 d / (T_k - d - 1), for the same X and for new X.

    Each fit adds an independent error X^+ epsilon, E tr (X'X)^-1 = d / (T - d - 1).

    Args:
        samples: T > d + 1, or one per fit (new X).
        fits: n >= 0, any shape.
        dimension: d >= 1.
        noise_variance: sigma^2, in squared units of y.

    Returns:
        Expected excess risk in squared units of y, of the shape of `fits`.

    Examples:
        >>> [float(v) for v in regression_excess_risk(14, [0, 1, 5], dimension=3)]
        [0.0, 0.3, 1.5]
    """
    arguments.number("noise_variance", noise_variance, above=0)
    sizes, counts = unroll(samples, fits, minimum=dimension + 2)
    return noise_variance * running_sum(dimension / (sizes - dimension - 1), counts)


def regression_accumulate_excess_risk(
    samples: int,
    fits: Integers,
    *,
    dimension: int,
    noise_variance: float = 1.0,
    design: Design = "new",
) -> Floats:
    """Accumulate: E |w_n - w|^2 when fit i pools i batches of T rows.

    A batch labelled by the previous fit changes it only by (sum of X'X)^-1 X' epsilon. Same X:
    sum_i sigma^2 d / (T - d - 1) / i^2. New X: batches are exchangeable, so each contributes
    sigma^2 / i of the pool's E tr (X'X)^-1 = d / (iT - d - 1): sum_i sigma^2 d / [i (iT - d - 1)].

    Args:
        samples: T > d + 1, rows of each batch.
        fits: n >= 0, any shape.
        dimension: d >= 1.
        noise_variance: sigma^2, in squared units of y.
        design: "same" X at every generation, or "new".

    Returns:
        Expected excess risk in squared units of y, of the shape of `fits`.
    """
    arguments.number("noise_variance", noise_variance, above=0)
    check_design(design)
    sizes, counts = unroll(check_constant_samples(samples, dimension + 2), fits, dimension + 2)
    i = np.arange(1.0, len(sizes) + 1)
    if design == "same":
        terms = dimension / (sizes - dimension - 1) / i**2
    else:
        terms = dimension / (i * (i * sizes - dimension - 1))
    return noise_variance * running_sum(terms, counts)


def regression_accumulate_limit(
    samples: int, *, dimension: int, noise_variance: float = 1.0, design: Design = "new"
) -> float:
    """Accumulate as n -> infinity: the excess risk stays bounded, so collapse is avoided.

    Same X: pi^2 / 6 times the first fit's excess risk. New X: sigma^2 d [psi(1) - psi(1 - a / T)]
    / a, a = d + 1 (derived, by partial fractions).

    Args:
        samples: T > d + 1, rows of each batch.
        dimension: d >= 1.
        noise_variance: sigma^2, in squared units of y.
        design: "same" X at every generation, or "new".

    Returns:
        Limit of the expected excess risk in squared units of y.
    """
    arguments.number("noise_variance", noise_variance, above=0)
    check_design(design)
    samples, lost = check_constant_samples(samples, dimension + 2), dimension + 1
    if design == "same":
        return float(noise_variance * dimension / (samples - lost) * np.pi**2 / 6)
    return float(noise_variance * dimension * (digamma(1) - digamma(1 - lost / samples)) / lost)


def check_design(design: str) -> None:
    """Raise SettingError unless `design` is a known one."""
    arguments.choice("design", design, ("same", "new"))
