"""Kullback-Leibler divergence from the original to a refitted Gaussian, in the replace regime.

Unlike the reverse divergence, its expectation involves negative moments of chi-square.
"""

import numpy as np

from collapse_jax.theory.gaussian import Estimator, variance_factor
from collapse_jax.theory.gaussian_log_moments import expected_log_variance
from collapse_jax.theory.schedule import Floats, Integers, check_integers


def expected_divergence_of_truth(
    samples: int, fits: Integers, *, estimator: Estimator = "unbiased"
) -> Floats:
    r"""E KL(original || model) = [a^n - 1 + (a + ... + a^n) / M + E ln(sigma_n^2/sigma^2)] / 2.

    With a = E(sigma_k^2 / sigma_{k+1}^2) = nu / (nu - 2) (unbiased) or M / (nu - 2) (ml):
    E(sigma^2 / sigma_n^2) = a^n, and u_n = E((mu_n - mu)^2 / sigma_n^2) follows from
    mu_{n+1} = mu_n + sigma_n Z / sqrt(M) as u_{n+1} = a (u_n + 1 / M). To leading order n / M.

    Args:
      samples: M >= 4: for fewer, nu <= 2 and the expectation is infinite.
      fits: n >= 0, any shape.
      estimator: variance estimator.

    Returns:
      Expected divergence in nats, of the shape of `fits`.

    Raises:
      ValueError: if M or n is too small or not an integer.

    Examples:
      >>> round(float(expected_divergence_of_truth(1000, 1)), 6)
      0.001003
    """
    size = int(check_integers("samples", samples, 4))
    counts = check_integers("fits", fits, 0)
    growth = (size - 1) / (size - 3) / variance_factor(size, estimator)
    power = growth**counts
    drift = growth * (power - 1) / (growth - 1) / size
    logarithm = expected_log_variance(size, counts, estimator=estimator)
    return np.asarray(0.5 * (power - 1 + drift + logarithm))[()]
