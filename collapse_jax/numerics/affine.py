"""Affine frames x = c + U e^l z with logarithmic scales, so that collapse never underflows.

A Gaussian is such a frame with z ~ N(0, I); rows are stored as a frame and standardised residuals.
U is unit lower-triangular, so U e^l is the Cholesky factor of the covariance. The replace regime
multiplies factors, which here adds logarithms. Axis legend: d dimension.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.numerics import linalg


class Affine(NamedTuple):
    """The map z -> centre + U (exp(log_scale) * z)."""

    centre: jax.Array  # f32[d]
    log_scale: jax.Array  # f32[d]; -inf for a direction without variance
    shear: jax.Array | None  # f32[d(d-1)/2], U below its diagonal, row by row; None where d = 1


def unit_lower(frame: Affine) -> jax.Array:
    """The matrix U, f32[d, d]."""
    dim = frame.log_scale.shape[-1]
    matrix = jnp.eye(dim, dtype=jnp.float32)
    if frame.shear is None:
        return matrix
    return matrix.at[np.tril_indices(dim, -1)].set(frame.shear)


def from_factor(centre: jax.Array, factor: jax.Array) -> Affine:
    """A frame from a lower-triangular factor of the covariance, f32[d, d]."""
    dim = factor.shape[-1]
    diagonal = jnp.diagonal(factor)
    shear = None
    if dim > 1:
        columns = jnp.where(diagonal > 0, factor / jnp.where(diagonal > 0, diagonal, 1.0), 0.0)
        shear = columns[np.tril_indices(dim, -1)]
    return Affine(centre, jnp.log(diagonal), shear)


def apply(frame: Affine, z: jax.Array) -> jax.Array:
    """Maps rows f32[..., d] from the frame's coordinates to data coordinates."""
    scaled = jnp.exp(frame.log_scale) * z
    if frame.shear is not None:
        scaled = scaled @ unit_lower(frame).T
    return frame.centre + scaled


def compose(outer: Affine, inner: Affine) -> Affine:
    """The frame z -> outer(inner(z)); only differences of log-scales are exponentiated."""
    centre = apply(outer, inner.centre)
    log_scale = outer.log_scale + inner.log_scale
    if inner.shear is None:
        return Affine(centre, log_scale, None)
    # (U D)(V E) = U (D V D^-1) (D E), and D V D^-1 is again unit lower-triangular.
    ratios = jnp.exp(outer.log_scale[:, None] - outer.log_scale[None, :])
    dim = ratios.shape[-1]
    tilted = jnp.where(np.tri(dim, dtype=bool), unit_lower(inner) * ratios, 0.0)
    shear = (unit_lower(outer) @ tilted)[np.tril_indices(dim, -1)]
    return Affine(centre, log_scale, shear)


def relative(frame: Affine, other: Affine) -> Affine:
    """`other` in the coordinates of `frame`, so that composing `frame` with it gives `other`."""
    shift = other.centre - frame.centre
    log_scale = other.log_scale - frame.log_scale
    if frame.shear is None:
        return Affine(_unscaled(frame, shift), log_scale, None)
    lower = unit_lower(frame)
    centre = linalg.solve_lower(lower, shift)
    between = linalg.solve_lower(lower, unit_lower(other))
    ratios = jnp.exp(frame.log_scale[None, :] - frame.log_scale[:, None])
    dim = ratios.shape[-1]
    shear = (between * ratios)[np.tril_indices(dim, -1)]
    return Affine(_unscaled(frame, centre), log_scale, shear)


def _unscaled(frame: Affine, shift: jax.Array) -> jax.Array:
    # Equal centres give no shift, even if the frame is below the float resolution of its centre.
    return jnp.where(shift == 0, 0.0, shift * jnp.exp(-frame.log_scale))


def factor(frame: Affine) -> jax.Array:
    """The Cholesky factor U e^l, f32[d, d]."""
    return unit_lower(frame) * jnp.exp(frame.log_scale)


def log_marginal_variances(frame: Affine) -> jax.Array:
    """Logarithms of the covariance's diagonal, f32[d]."""
    if frame.shear is None:
        return 2.0 * frame.log_scale
    lower = unit_lower(frame)
    present = lower != 0
    logs = jnp.where(present, jnp.log(jnp.abs(jnp.where(present, lower, 1.0))), -jnp.inf)
    return jax.nn.logsumexp(2.0 * (logs + frame.log_scale), axis=-1)
