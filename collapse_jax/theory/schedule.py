"""Sample sizes per fit, and running sums and products over fits, shared by all closed forms.

A constant sample size is unrolled like a schedule, so that each formula is written once, as a sum
or product over fits.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collapse_jax import arguments

Floats: TypeAlias = NDArray[np.float64]
"""Real numbers of any shape; results are scalars if all inputs are."""

Integers: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]]
"""Integers of any shape."""

SampleSizes: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]]
"""M: one sample size for all fits, or a schedule with one sample size per fit."""


def check_integers(name: str, values: Integers, minimum: int) -> NDArray[np.int64]:
    """Return `values` as int64, or raise SettingError unless all are integers >= `minimum`."""
    array = np.asarray(values)
    whole = np.issubdtype(array.dtype, np.integer) or array.size == 0
    if not whole or np.any(array < minimum):
        raise arguments.setting_error(name, f"integers >= {minimum}", values)
    return array.astype(np.int64)


def check_constant_samples(samples: int, minimum: int = 2) -> int:
    """Return one constant sample size, or raise SettingError for a schedule or a small one."""
    sizes = check_integers("samples", samples, minimum)
    if sizes.ndim:
        raise arguments.setting_error("samples", "one integer, not a schedule", samples)
    return int(sizes)


def check_share(name: str, share: float | Floats) -> Floats:
    """Return `share` as float64, or raise SettingError unless it lies in [0, 1]."""
    array = np.asarray(share, dtype=np.float64)
    if not np.all((array >= 0) & (array <= 1)):
        raise arguments.setting_error(name, "shares in [0, 1]", share)
    return array


def unroll(
    samples: SampleSizes, fits: Integers, minimum: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample sizes of all fits up to the largest of `fits`.

    Args:
        samples: M >= `minimum`, or one per fit, at least as many as the largest of `fits`.
        fits: n >= 0, any shape.
        minimum: smallest sample size that the formula allows.

    Returns:
        sizes: i64[fit], sample sizes of fits 1, 2, ..., max(fits).
        fits: i64[...], the validated `fits`.

    Raises:
        SettingError: for values outside their range, or a schedule that is too short.
    """
    sizes = check_integers("samples", samples, minimum)
    counts = check_integers("fits", fits, 0)
    last = int(counts.max(initial=0))
    if sizes.ndim == 0:
        return np.full(last, sizes), counts
    if sizes.ndim > 1 or len(sizes) < last:
        raise arguments.setting_error("samples", f"one size for each of {last} fits", samples)
    return sizes[:last], counts


def running_sum(terms: Floats, fits: NDArray[np.int64]) -> Floats:
    """Sum the first n of `terms` (f64[fit]), for each n in `fits`."""
    sums: Floats = np.concatenate([[0.0], np.cumsum(terms)])
    return sums[fits]


def running_product(factors: Floats, fits: NDArray[np.int64]) -> Floats:
    """Multiply the first n of `factors` (f64[fit]), for each n in `fits`."""
    products: Floats = np.concatenate([[1.0], np.cumprod(factors)])
    return products[fits]
