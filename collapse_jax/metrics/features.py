r"""Fréchet distance, precision, recall, density and coverage in a feature space.

Axis legend: n points of the original, m of the sample, d features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.numerics import linalg

NEIGHBOURS = 5  # k, as in Naeem et al. 2020
# Added to covariances, relative to their mean variance, so that constant features have factors.
_RIDGE = 1e-6


class Summary(NamedTuple):
    """Mean and covariance of features."""

    mean: jax.Array  # f32[d]
    covariance: jax.Array  # f32[d, d]


class Manifold(NamedTuple):
    """Points and their nearest-neighbour radii, for `neighbourhoods`."""

    points: jax.Array  # f32[n, d]
    radii: jax.Array  # f32[n], squared distance to the k-th nearest neighbour


class Neighbourhoods(NamedTuple):
    """Improved precision and recall, density and coverage; f32[] each, ideally about 1."""

    precision: jax.Array
    recall: jax.Array
    density: jax.Array
    coverage: jax.Array


def summary(points: jax.Array) -> Summary:
    """Mean and ddof=0 covariance of points f32[m, d]."""
    mean = jnp.mean(points, axis=0)
    centred = points - mean
    return Summary(mean, centred.T @ centred / points.shape[0])


def frechet_distance(one: Summary, other: Summary) -> jax.Array:
    r"""Squared W2 distance of two Gaussians, the Fréchet distance of Heusel et al. 2017.

    $|\mu_1 - \mu_2|^2 + tr(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})$; the trace of the
    root is the nuclear norm of $L_1^T L_2$ for any factors $\Sigma = L L^T$ (Dowson & Landau 1982).
    Covariances get a ridge of 1e-6 of their mean variance.
    """
    covariances = [_regular(each.covariance) for each in (one, other)]
    factors = [linalg.cholesky(covariance) for covariance in covariances]
    root = linalg.nuclear_norm(factors[0].T @ factors[1])
    total = jnp.trace(covariances[0]) + jnp.trace(covariances[1]) - 2.0 * root
    return jnp.maximum(jnp.sum((one.mean - other.mean) ** 2) + total, 0.0)


def _regular(covariance: jax.Array) -> jax.Array:
    dim = covariance.shape[0]
    return covariance + (_RIDGE * jnp.trace(covariance) / dim + 1e-12) * jnp.eye(dim)


def manifold(points: jax.Array, neighbours: int = NEIGHBOURS) -> Manifold:
    """Points f32[n, d] with the distances to their k-th nearest neighbours."""
    # The nearest point is the point itself, so the k-th neighbour has index k.
    near, _ = jax.lax.top_k(-_squared_distances(points, points), neighbours + 1)
    return Manifold(points, -near[:, neighbours])


def neighbourhoods(original: Manifold, sample: Manifold, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Precision, recall, density and coverage from k-nearest-neighbour balls.

    Precision is the share of the sample inside any ball of the original, recall the share of the
    original inside any ball of the sample (Kynkäänniemi et al., arXiv 1904.06991). Density is the
    mean number of the original's balls around a sample point, over k; coverage is the share of the
    original's balls that contain a sample point (Naeem et al., arXiv 2002.09797). Balls are open.

    Args:
      original, sample: points, with radii for this k.
      k: number of the nearest neighbour that defines the radii.
    """
    distances = _squared_distances(original.points, sample.points)  # f32[n, m]
    inside = distances < original.radii[:, None]
    around = distances < sample.radii[None, :]
    share = lambda hits: jnp.mean(hits.astype(jnp.float32))  # noqa: E731
    return Neighbourhoods(
        precision=share(jnp.any(inside, axis=0)),
        recall=share(jnp.any(around, axis=1)),
        density=jnp.mean(jnp.sum(inside, axis=0, dtype=jnp.float32)) / k,
        coverage=share(jnp.any(inside, axis=1)),
    )


def _squared_distances(one: jax.Array, other: jax.Array) -> jax.Array:
    """Squared distances f32[n, m], as sums of squares: exactly 0 from a point to itself."""

    def row(point: jax.Array) -> jax.Array:
        return jnp.sum((other - point) ** 2, axis=1)

    return jax.lax.map(row, one, batch_size=64)
