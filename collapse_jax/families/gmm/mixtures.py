"""Gaussian mixtures: densities, draws and closed-form properties.

Axis legend: k components, d dimensions, n rows. Rows are stored as columns, f[d, n], so that sums
over them are contiguous in memory.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from collapse_jax.numerics import linalg, random


class Mixture(NamedTuple):
    """Weights, means, and Cholesky factors of covariances."""

    log_weights: jax.Array  # f[k], logarithms of normalised weights
    means: jax.Array  # f[k, d]
    factors: jax.Array  # f[k, d, d], lower-triangular


def log_densities(mixture: Mixture, columns: jax.Array) -> jax.Array:
    """Log-densities ln(w_i N(x | mu_i, Sigma_i)), f[k, n], of columns f[d, n]."""
    shifted = columns[None] - mixture.means[:, :, None]
    return log_densities_of_shifted(mixture, shifted)


def log_densities_of_shifted(mixture: Mixture, shifted: jax.Array) -> jax.Array:
    """As `log_densities`, for columns relative to each component's mean, f[k, d, n]."""
    dim = shifted.shape[1]
    identity = jnp.eye(dim, dtype=shifted.dtype)
    whiten = jax.vmap(lambda factor: linalg.solve_lower(factor, identity))(mixture.factors)
    standard = whiten @ shifted
    log_scales = jnp.sum(jnp.log(jnp.diagonal(mixture.factors, axis1=1, axis2=2)), axis=1)
    constant = mixture.log_weights - log_scales - 0.5 * dim * math.log(2.0 * math.pi)
    return constant[:, None] - 0.5 * jnp.sum(standard**2, axis=1)


def log_density(mixture: Mixture, columns: jax.Array) -> jax.Array:
    """Log-density ln p(x), f[n], of columns f[d, n]."""
    return log_sum(log_densities(mixture, columns))


def log_sum(logarithms: jax.Array) -> jax.Array:
    """Log-sum-exp over the first axis; -inf if all entries are -inf."""
    top = jnp.max(logarithms, axis=0)
    safe = jnp.where(jnp.isfinite(top), top, 0.0)
    return safe + jnp.log(jnp.sum(jnp.exp(logarithms - safe), axis=0))


def sample(key: jax.Array, mixture: Mixture, count: int) -> jax.Array:
    """Independent rows f32[count, d]: normal draws from components chosen by weight."""
    components, dim = mixture.means.shape
    bits = jax.random.bits(key, (dim + 1, count))
    below = jnp.cumsum(jnp.exp(mixture.log_weights))[:-1]
    uniform = (bits[0].astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    chosen = jnp.sum(uniform[None] > below[:, None], axis=0)
    normal = random.normal(bits[1:])
    rows = jnp.zeros((count, dim), jnp.float32)
    for i in range(components):  # a few masked sums are faster than gathers of small matrices
        drawn = mixture.means[i][:, None] + mixture.factors[i] @ normal
        rows = jnp.where((chosen == i)[:, None], drawn.T, rows)
    return rows


def log_marginal_variance(mixture: Mixture) -> jax.Array:
    """Logarithm of the mean marginal variance, f[]."""
    weights = jnp.exp(mixture.log_weights)
    mean = weights @ mixture.means
    within = weights @ jnp.sum(mixture.factors**2, axis=(1, 2))
    between = weights @ jnp.sum((mixture.means - mean) ** 2, axis=1)
    return jnp.log((within + between) / mean.shape[0])


def log_determinants(mixture: Mixture) -> jax.Array:
    """Log-determinants ln |Sigma_i|, f[k]."""
    diagonals = jnp.diagonal(mixture.factors, axis1=1, axis2=2)
    return 2.0 * jnp.sum(jnp.log(diagonals), axis=1)


def marginal_tail_mass(mixture: Mixture, lower: np.ndarray, upper: np.ndarray) -> jax.Array:
    """P(x_j < lower_j or x_j > upper_j) for each dimension j, f[d]."""
    scales = jnp.sqrt(2.0 * jnp.sum(mixture.factors**2, axis=2))
    below = special.erfc((mixture.means - lower.astype(np.float32)) / scales)
    above = special.erfc((upper.astype(np.float32) - mixture.means) / scales)
    return 0.5 * jnp.exp(mixture.log_weights) @ (below + above)


def inner_product(one: Mixture, other: Mixture) -> jax.Array:
    """Integral of p q, the sum over pairs of w_i w_j N(mu_i | mu_j, Sigma_i + Sigma_j), f[]."""
    dim = one.means.shape[1]
    covariances = [m.factors @ m.factors.swapaxes(1, 2) for m in (one, other)]

    def pair(mean, covariance, log_weight, other_mean, other_covariance, other_log_weight):
        lower = linalg.cholesky(covariance + other_covariance)
        standard = linalg.solve_lower(lower, mean - other_mean)
        log_scale = jnp.sum(jnp.log(jnp.diagonal(lower))) + 0.5 * dim * math.log(2.0 * math.pi)
        return jnp.exp(log_weight + other_log_weight - log_scale - 0.5 * jnp.sum(standard**2))

    against = jax.vmap(pair, in_axes=(None, None, None, 0, 0, 0))
    everything = jax.vmap(against, in_axes=(0, 0, 0, None, None, None))(
        one.means, covariances[0], one.log_weights, other.means, covariances[1], other.log_weights
    )
    return jnp.sum(everything)
