"""Kernel density estimates refitted to their own draws: second moments and expected tail mass.

n = `fits` is the number of fits including generation 0's, which sees M real rows; generation g has
n = g + 1, and n = 0 is the original. v_n is the ddof=0 variance of the rows of fit n and h_n its
bandwidth, so V_n = v_n + h_n^2 is the variance of its density; r = (M - 1) / M. Second moments are
linear in those of the previous fit, so they hold for any original with finite variance, and in d
dimensions for each dimension and for the mean over dimensions. In the literature that counts
resamplings instead of fits, v_0 is the variance of the real rows, here v_1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from collapse_jax import arguments
from collapse_jax.theory.schedule import (
    Floats,
    Integers,
    SampleSizes,
    check_constant_samples,
    check_integers,
    running_sum,
    unroll,
)

RULES = ("scott", "silverman")


class KdeMoments(NamedTuple):
    """Second moments of a density after n fits."""

    expected_variance: Floats  # f64[...], E V_n, squared data units
    mean_squared_drift: Floats  # f64[...], E (mu_n - mu)^2, squared data units


def kde_bandwidth_factor(rule: str, samples: SampleSizes, dimension: int = 1) -> Floats:
    """The factor c in h = c s, s the unbiased standard deviation of the rows in one dimension.

    scott: M^(-1/(d+4)); silverman: (M (d + 2) / 4)^(-1/(d+4)), as scipy.stats.gaussian_kde.
    Sources: Scott 1992; Silverman 1986.

    Args:
        rule: "scott" or "silverman".
        samples: M >= 2, any shape.
        dimension: d >= 1.

    Returns:
        c, dimensionless, of the shape of `samples`.

    Examples:
        >>> round(float(kde_bandwidth_factor("scott", 100)), 4)
        0.3981
    """
    arguments.choice("rule", rule, RULES)
    sizes = check_integers("samples", samples, 2)
    effective = sizes * (1.0 if rule == "scott" else (dimension + 2) / 4)
    return np.asarray(effective ** (-1 / (dimension + 4)))[()]


def kde_moments(
    samples: SampleSizes,
    fits: Integers,
    *,
    bandwidth: float | str,
    dimension: int = 1,
    variance: float = 1.0,
    real_samples: int = 0,
) -> KdeMoments:
    """E V_n and E (mu_n - mu)^2 when A rows are fresh real ones and the rest are synthetic.

    Synthetic rows are draws from the previous fit; A = 0 is replace. With D = E (mu - mu_0)^2,
    B = M - A and u = [A sigma^2 + B V_n] / M^2 (derived): D_{n+1} = (B/M)^2 D_n + u; E v_{n+1} =
    M u + B D_n / M - D_{n+1}; V = v + h^2 for fixed h, and V = v (1 + c^2 / r) for h = c s. For
    replace:

    - fixed h: E V_n = M h^2 + (sigma^2 - M h^2) r^n, so that E v_n = (M-1) h^2 + (v_1 - (M-1) h^2)
      r^(n-1), v_1 = r sigma^2: the bandwidth sustains a variance of M h^2.
    - h = c s: E V_n = sigma^2 (r + c^2)^n, which grows for both rules: c^2 > 1 / M.
    - E (mu_n - mu)^2 = sum_{k<=n} E V_{k-1} / M, with V_0 = sigma^2.

    Args:
        samples: M >= 2, or one per fit.
        fits: n >= 0, any shape.
        bandwidth: h > 0 in data units, "scott" or "silverman".
        dimension: d, on which the two rules depend.
        variance: original variance sigma^2 (the mean over dimensions), in squared data units.
        real_samples: A, for every fit after the first, whose rows are all real.

    Returns:
        The moments, of the shape of `fits`.

    Examples:
        >>> moments = kde_moments(4, [0, 1, 1000], bandwidth=0.5)
        >>> [round(float(v), 9) for v in moments.expected_variance]
        [1.0, 1.0, 1.0]
    """
    sizes, counts = unroll(samples, fits)
    if not 0 <= real_samples <= sizes.min(initial=np.iinfo(np.int64).max):
        raise arguments.setting_error("real_samples", "0 to samples", real_samples)
    add, factors = _density(bandwidth, sizes, dimension)
    spread, drift = [variance], [0.0]
    for size, factor in zip(sizes, factors, strict=True):
        drawn = size - real_samples
        moved = (real_samples * variance + drawn * spread[-1]) / size**2
        drift_now = (drawn / size) ** 2 * drift[-1] + moved
        rows = size * moved + drawn * drift[-1] / size - drift_now
        spread.append(rows * factor + add)
        drift.append(drift_now)
    return KdeMoments(np.array(spread)[counts], np.array(drift)[counts])


def kde_accumulate_moments(
    samples: int,
    fits: Integers,
    *,
    bandwidth: float | str,
    dimension: int = 1,
    variance: float = 1.0,
) -> KdeMoments:
    """E V_t and E (mu_t - mu)^2 when fit t pools M real rows and t - 1 batches of M synthetic ones.

    Derived: the batch from fit t - 1 adds (M - 1) V_{t-1} within and (1 - 1/t) V_{t-1} between
    batches to the pool's sum of squares, so E v_t = (1 - 1/t) v_{t-1} + (1/t) (1 - 1/(tM)) V_{t-1},
    and moves its mean by 1/t of an error of variance V_{t-1} / M. With fixed h, V_t grows like
    h^2 ln t; with h = c s growth is slower, as c falls with the pool's size tM.

    Args:
        samples: M >= 2, rows in each batch.
        fits: t >= 0, any shape; t = 1 is the fit to real rows.
        bandwidth: h > 0 in data units, "scott" or "silverman".
        dimension: d, on which the two rules depend.
        variance: original variance sigma^2 (the mean over dimensions), in squared data units.

    Returns:
        The moments, of the shape of `fits`.
    """
    sizes, counts = unroll(check_constant_samples(samples), fits)
    k = np.arange(1, len(sizes) + 1)
    add, factors = _density(bandwidth, sizes * k, dimension)
    rows, spread = 0.0, [variance]
    for t, factor in zip(k, factors, strict=True):
        rows = (1 - 1 / t) * rows + (1 - 1 / (t * samples)) / t * spread[-1]
        spread.append(rows * factor + add)
    seen = np.array(spread[:-1]) / (sizes * k**2)
    return KdeMoments(np.array(spread)[counts], running_sum(seen, counts))


def kde_expected_tail_mass(
    fits: Integers, bandwidth: float, tail: float, *, accumulate: bool = False
) -> Floats:
    """Expected probability of the density beyond the two tail quantiles of a standard normal.

    Fixed bandwidth only, as fitting is then linear: the expected density is that of the expected
    rows, convolved with N(0, h^2). Replace: N(0, 1 + n h^2) for every M. Accumulate: a share
    (t - 1) / t of the rows of fit t are those of fit t - 1, the others are draws from it, which
    gives a mixture of N(0, 1 + j h^2), j <= t (derived).

    Args:
        fits: n >= 0, any shape.
        bandwidth: h > 0, in standard deviations of the original.
        tail: the original's probability beyond the two quantiles, in (0, 1).
        accumulate: whether all data so far are pooled (accumulate), else replace.

    Returns:
        Expected probability, of the shape of `fits`.

    Examples:
        >>> [round(float(v), 4) for v in kde_expected_tail_mass([0, 1, 10], 0.5, 0.02)]
        [0.02, 0.0375, 0.2137]
    """
    arguments.number("bandwidth", bandwidth, above=0)
    counts = check_integers("fits", fits, 0)
    last = int(counts.max(initial=0))
    widened = np.sqrt(1 + np.arange(last + 2) * bandwidth**2)
    masses = 2 * ndtr(ndtri(tail / 2) / widened)
    if not accumulate:
        return np.asarray(masses[counts])
    rows = np.zeros(last + 1)  # weight of N(0, 1 + j h^2) among the rows of fit t
    rows[0] = 1.0
    found = [tail]
    for t in range(1, last + 1):
        drawn = np.concatenate([[0.0], rows[:-1]]) if t > 1 else rows
        rows = (1 - 1 / t) * rows + drawn / t
        found.append(float(rows @ masses[1:]))
    return np.array(found)[counts]


def _density(
    bandwidth: float | str, pooled: NDArray[np.int64], dimension: int
) -> tuple[float, Floats]:
    """(a, b f64[fit]) such that a fit to rows of ddof=0 variance v has the variance b v + a."""
    if isinstance(bandwidth, str):
        squared = kde_bandwidth_factor(bandwidth, pooled, dimension) ** 2
        return 0.0, 1 + squared * pooled / (pooled - 1)
    arguments.number("bandwidth", bandwidth, above=0)
    return bandwidth**2, np.ones(len(pooled))
