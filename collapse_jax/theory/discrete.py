"""Discrete distributions refitted exactly to their own draws: the haploid Wright-Fisher process.

n = `fits` is the number of resamplings (generation g has n = g + 1), M = `samples`,
r = (M - 1) / M, homozygosity is F = sum p^2 and heterozygosity H = 1 - F. p_0 is the original
distribution. Unless a real share alpha is given, each fit sees only draws from the previous fit.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlog1py, xlogy

from collapse_jax import arguments
from collapse_jax.theory.schedule import (
    Floats,
    Integers,
    SampleSizes,
    check_constant_samples,
    check_integers,
    check_share,
    running_product,
    unroll,
)


def _check_frequency(frequency: ArrayLike) -> Floats:
    return check_share("frequency", np.asarray(frequency, dtype=np.float64))


def _check_frequencies(frequencies: ArrayLike) -> Floats:
    """Return frequencies f64[..., symbol], or raise SettingError unless they sum to 1."""
    checked = check_share("frequencies", np.asarray(frequencies, dtype=np.float64))
    if checked.ndim == 0 or not np.allclose(checked.sum(axis=-1), 1, rtol=0, atol=1e-9):
        raise arguments.setting_error("frequencies", "a sum of 1 over the last axis", frequencies)
    return checked


def expected_frequency(fits: Integers, frequency: ArrayLike) -> Floats:
    """E p_n = p_0: the frequency is a martingale (Wright-Fisher).

    Args:
        fits: n >= 0; broadcasts with `frequency`.
        frequency: original frequency p_0 of a symbol, in [0, 1].

    Returns:
        Expected frequency, of the broadcast shape.
    """
    counts = check_integers("fits", fits, 0)
    return _check_frequency(frequency) + np.zeros(counts.shape)


def fixation_probability(frequency: ArrayLike) -> Floats:
    """Probability p_0 that only this symbol survives in the end (Shumailov et al. 2024).

    Args:
        frequency: original frequency p_0 of the symbol, in [0, 1], any shape.

    Returns:
        Fixation probability, of the shape of `frequency`.
    """
    return _check_frequency(frequency)[()]


def variance_of_frequency(samples: SampleSizes, fits: Integers, frequency: ArrayLike) -> Floats:
    """Var p_n = p_0 (1 - p_0) (1 - prod_k r_k); constant M: 1 - r^n (Wright-Fisher).

    Args:
        samples: M >= 1, or one per fit.
        fits: n >= 0; broadcasts with `frequency`.
        frequency: original frequency p_0 of a symbol, in [0, 1].

    Returns:
        Variance of the frequency, of the broadcast shape.
    """
    sizes, counts = unroll(samples, fits, minimum=1)
    p = _check_frequency(frequency)
    return p * (1 - p) * (1 - running_product(1 - 1 / sizes, counts))


def expected_heterozygosity(samples: SampleSizes, fits: Integers, frequencies: ArrayLike) -> Floats:
    """E H_n = H_0 prod_k (1 - 1 / M_k), H = 1 - sum p^2 (Wright-Fisher).

    Args:
        samples: M >= 1, or one per fit.
        fits: n >= 0; broadcasts with the leading axes of `frequencies`.
        frequencies: original distribution, f64[..., symbol].

    Returns:
        Expected heterozygosity, of the broadcast shape.

    Examples:
        >>> float(expected_heterozygosity(2, 3, [0.5, 0.5]))
        0.0625
    """
    sizes, counts = unroll(samples, fits, minimum=1)
    heterozygosity: Floats = 1 - np.sum(_check_frequencies(frequencies) ** 2, axis=-1)
    return heterozygosity * running_product(1 - 1 / sizes, counts)


def expected_support(samples: Integers, frequencies: ArrayLike) -> Floats:
    """Expected number of distinct symbols in one resampling, sum_i [1 - (1 - p_i)^M].

    Source: derived; Shumailov et al. 2024 for the loss of symbols with p <= 1 / M.

    Args:
        samples: M >= 1; broadcasts with the leading axes of `frequencies`.
        frequencies: distribution before the resampling, f64[..., symbol].

    Returns:
        Expected support size in symbols, of the broadcast shape.
    """
    sizes = check_integers("samples", samples, 1)
    missed: Floats = xlog1py(sizes[..., None], -_check_frequencies(frequencies))
    support: Floats = -np.sum(np.expm1(missed), axis=-1)
    return support


def symbol_survival_bound(expected_count: ArrayLike, fits: Integers) -> Floats:
    """Pr(symbol is still drawn at the k-th resampling) >= 1 - exp(-m / k) (Suresh et al.).

    Args:
        expected_count: m = M p_0 >= 0, expected draws of the symbol at k = 1.
        fits: k >= 1; broadcasts with `expected_count`.

    Returns:
        Lower bound on the probability, of the broadcast shape.
    """
    expected = np.asarray(expected_count, dtype=np.float64)
    if not np.all(expected >= 0):
        raise arguments.setting_error("expected_count", "numbers >= 0", expected_count)
    return -np.expm1(-expected / check_integers("fits", fits, 1))


def _binomial_probabilities(samples: int, frequency: Floats) -> Floats:
    """Pr(count) for counts 0..M of M draws: frequency f64[...] -> f64[..., count]."""
    count = np.arange(samples + 1.0)
    ways = gammaln(samples + 1) - gammaln(count + 1) - gammaln(samples - count + 1)
    p = frequency[..., None]
    probabilities: Floats = np.exp(ways + xlogy(count, p) + xlog1py(samples - count, -p))
    return probabilities


def wright_fisher_transition_matrix(samples: int) -> Floats:
    """Transition probabilities of one symbol's count among M draws, Binomial(M, count / M).

    Args:
        samples: M >= 1.

    Returns:
        Row-stochastic matrix, f64[count, next count], counts 0..M.
    """
    samples = check_constant_samples(samples, minimum=1)
    return _binomial_probabilities(samples, np.arange(samples + 1) / samples)


def mean_absorption_time(samples: int, frequency: ArrayLike) -> Floats:
    """Exact mean number of resamplings until one of two symbols is lost, (I - Q)^-1 1.

    Q is the transition matrix among the counts 1..M-1. The first draw is from the original
    distribution, so p_0 need not be a multiple of 1 / M (derived).

    Args:
        samples: M >= 1; the cost is one linear solve of size M - 1.
        frequency: original frequency p_0 of one of the two symbols, in [0, 1], any shape.

    Returns:
        Mean absorption time in resamplings, of the shape of `frequency`.

    Examples:
        >>> round(float(mean_absorption_time(2, 0.5)), 12)
        2.0
    """
    p = _check_frequency(frequency)
    transient = wright_fisher_transition_matrix(samples)[1:-1, 1:-1]
    size = len(transient)
    times = np.linalg.solve(np.eye(size) - transient, np.ones(size))
    after_first = _binomial_probabilities(samples, p)[..., 1:-1] @ times
    return np.where((p == 0) | (p == 1), 0.0, 1 + after_first)[()]


def approximate_absorption_time(samples: Integers, frequency: ArrayLike) -> Floats:
    """Mean absorption time to leading order in M, -2 M [p ln p + (1 - p) ln(1 - p)].

    Source: diffusion limit of Wright-Fisher. At p = 1/2 it is too high by 22 % for M = 4 and by
    1.5 % for M = 100.

    Args:
        samples: M >= 1; broadcasts with `frequency`.
        frequency: original frequency p_0 of one of the two symbols, in [0, 1].

    Returns:
        Approximate mean absorption time in resamplings, of the broadcast shape.
    """
    sizes = check_integers("samples", samples, 1)
    p = _check_frequency(frequency)
    time: Floats = -2 * sizes * (xlogy(p, p) + xlog1py(1 - p, -p))
    return time


def random_count_steady_homozygosity(
    samples: int, real_share: float | Floats, frequencies: ArrayLike
) -> Floats:
    """Steady-state E sum p^2 when each of M draws is real with probability alpha.

    F* = [1/M + r (1 - (1 - alpha)^2) S_0] / [1 - r (1 - alpha)^2], S_0 = sum p_0^2 (derived).

    Args:
        samples: M >= 1.
        real_share: alpha in [0, 1]; broadcasts with the leading axes of `frequencies`.
        frequencies: original distribution, f64[..., symbol].

    Returns:
        Steady-state homozygosity, of the broadcast shape.
    """
    samples = check_constant_samples(samples, minimum=1)
    kept = (1 - check_share("real_share", real_share)) ** 2
    original = np.sum(_check_frequencies(frequencies) ** 2, axis=-1)
    r = 1 - 1 / samples
    homozygosity: Floats = (1 / samples + r * (1 - kept) * original) / (1 - r * kept)
    return homozygosity


def fixed_count_steady_homozygosity(
    samples: int, real_samples: Integers, frequencies: ArrayLike
) -> Floats:
    """Steady-state E sum p^2 when exactly A of M draws are real, alpha = A / M.

    F* = [(1 - (1 - alpha)^2) S_0 + (1 - alpha S_0) / M] / [1 - (1 - alpha)^2 + (1 - alpha) / M],
    S_0 = sum p_0^2 (derived).

    Args:
        samples: M >= 1.
        real_samples: A in 0..M; broadcasts with the leading axes of `frequencies`.
        frequencies: original distribution, f64[..., symbol].

    Returns:
        Steady-state homozygosity, of the broadcast shape.
    """
    samples = check_constant_samples(samples, minimum=1)
    real: NDArray[Any] = check_integers("real_samples", real_samples, 0) / samples
    if np.any(real > 1):
        raise arguments.setting_error("real_samples", f"at most samples = {samples}", real_samples)
    kept = (1 - real) ** 2
    original = np.sum(_check_frequencies(frequencies) ** 2, axis=-1)
    inflow = (1 - kept) * original + (1 - real * original) / samples
    homozygosity: Floats = inflow / (1 - kept + (1 - real) / samples)
    return homozygosity
