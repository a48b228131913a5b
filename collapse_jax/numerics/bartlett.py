"""Bartlett's decomposition: scatter of standard normal rows from O(d^2) random numbers.

The factor of a scatter matrix is lower triangular, with chi's on its diagonal and normals below
(Bartlett 1933). Two forms, each as its family needs it: about the rows' mean with logarithms on the
diagonal, and about the origin as a matrix. They also draw their words in different order, which
what was saved with them depends on. Axis legend: d dimension.
"""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.numerics import random
from collapse_jax.numerics.affine import Affine

# Up to this dimension chi-squares are polynomials, one a column; beyond it, programs grow too long.
_WRITTEN_OUT = 16


def moments(key: jax.Array, dim: int, count: int | jax.Array) -> Affine:
    """Mean and factor of the covariance (ddof=0) of `count` standard normal rows.

    The factor is A / sqrt(M), A that of the scatter about the mean: its log-diagonal is kept as it
    is, since chains multiply such factors until they are smaller than any float32.

    Args:
      key: typed PRNG key; must not be used for anything else.
      dim: d.
      count: M; of d rows or fewer the last directions have no spread. A Python int is the faster.

    Returns:
      A frame, of which standard normals are the coordinates.
    """
    normals = dim + dim * (dim - 1) // 2
    if isinstance(count, int):
        degrees = [max(count - 1 - i, 0) for i in range(dim)]
        # All words in one go: hashing is most of the work.
        bits = random.words(key, normals + random.chi_square_words(degrees))
        shifts = np.log(np.maximum(degrees, 1) / count).astype(np.float32)
        log_squares = random.log_chi_square_ratio_of(bits[normals:], degrees) + shifts
    else:  # a schedule: no polynomial was fitted, so by rejection
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
    """The lower factor L of X'X = L L' of `count` standard normal rows X.

    Its diagonal is sqrt(chi-square) of count - i degrees of freedom, i = 0, 1, ...; below it are
    standard normals. Of fewer than d rows it has as many columns.

    Args:
      key: typed PRNG key; must not be used for anything else.
      dim: d.
      count: of rows. A Python int is the faster.

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
