"""Bartlett's decomposition: scatter of standard normal rows from O(d^2) random numbers.

The factor of a scatter matrix is lower triangular, with chi's on its diagonal and normals below
(Bartlett 1933). There are two forms, one per family that uses them: about the rows' mean with a
logarithmic diagonal, and about the origin as a matrix. They draw their words in different orders,
on which saved results depend. Axis legend: d dimension.
"""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.numerics import random
from collapse_jax.numerics.affine import Affine

# Up to this dimension each column has a chi-square polynomial; beyond, programs grow too long.
_WRITTEN_OUT = 16


def moments(key: jax.Array, dim: int, count: int | jax.Array) -> Affine:
    """Mean and factor of the covariance (ddof=0) of `count` standard normal rows.

    The factor is A / sqrt(M), A the factor of the scatter about the mean. Its diagonal is returned
    as logarithms, since chains multiply such factors until they underflow float32.

    Args:
      key: typed PRNG key; must not be used for anything else.
      dim: d.
      count: M; if M <= d, the last directions have no variance. A Python int is faster.

    Returns:
      A frame, which maps standard normals to draws from the fitted Gaussian.
    """
    normals = dim + dim * (dim - 1) // 2
    if isinstance(count, int):
        degrees = [max(count - 1 - i, 0) for i in range(dim)]
        # All words at once: hashing is most of the work.
        bits = random.words(key, normals + random.chi_square_words(degrees))
        shifts = np.log(np.maximum(degrees, 1) / count).astype(np.float32)
        log_squares = random.log_chi_square_ratio_of(bits[normals:], degrees) + shifts
    else:  # a schedule: there is no fitted polynomial, so by rejection
        bits = random.words(jax.random.fold_in(key, 0), normals)
        shape = 0.5 * (count - 1 - jnp.arange(dim)).astype(jnp.float32)
        log_squares = jax.random.loggamma(jax.random.fold_in(key, 1), shape) + jnp.log(2.0 / count)
    z = random.normal(jnp.stack(bits[:normals]))
    centre = z[:dim] / jnp.sqrt(jnp.float32(count))
    log_diagonal = 0.5 * log_squares
    if dim == 1:
        return Affine(centre, log_diagonal, None)
    # Below the diagonal A is standard normal; its unit form divides each column by its diagonal.
    column = np.tril_indices(dim, -1)[1]
    scale = jnp.exp(-log_diagonal - 0.5 * jnp.log(jnp.float32(count)))
    scale = jnp.where(jnp.isfinite(log_diagonal), scale, 0.0)
    return Affine(centre, log_diagonal, z[dim:] * scale[column])


def factor(key: jax.Array, dim: int, count: int | jax.Array) -> jax.Array:
    """The lower factor L of X'X = L L' for `count` standard normal rows X.

    Its diagonal is sqrt(chi-square) with count - i degrees of freedom, i = 0, 1, ...; entries below
    are standard normals. With fewer than d rows, columns from `count` on are zero.

    Args:
      key: typed PRNG key; must not be used for anything else.
      dim: d.
      count: number of rows. A Python int is faster.

    Returns:
      f32[d, d].
    """
    k_diagonal, k_below = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    below = random.normal(jax.random.bits(k_below, (dim * (dim - 1) // 2,)))
    if isinstance(count, int) and dim <= _WRITTEN_OUT:
        degrees = [max(count - i, 0) for i in range(dim)]
        shift = np.log(np.maximum(degrees, 1)).astype(np.float32)
        diagonal = jnp.exp(0.5 * (random.log_chi_square_ratio(k_diagonal, degrees) + shift))
    else:
        left = jnp.float32(count) - jnp.arange(dim, dtype=jnp.float32)
        logs = jax.random.loggamma(k_diagonal, 0.5 * jnp.maximum(left, 1.0))
        diagonal = jnp.where(left > 0, jnp.sqrt(2.0) * jnp.exp(0.5 * logs), 0.0)
    factor = jnp.diag(diagonal).at[np.tril_indices(dim, -1)].set(below)
    return jnp.where(jnp.arange(dim) < count, factor, 0.0)
