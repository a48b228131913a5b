r"""How a sample lies beside the original in a space of features.

Axis legend: n points of the original, m of the sample, d features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.numerics import linalg

NEIGHBOURS = 5  # k, as in Naeem et al. 2020
# Added to covariances, relative to their mean variance: features that never vary have factors too.
_RIDGE = 1e-6


class Summary(NamedTuple):
    """Mean and covariance of features."""

    mean: jax.Array  # f32[d]
    covariance: jax.Array  # f32[d, d]


class Manifold(NamedTuple):
    """What the original keeps for `neighbourhoods`."""

    points: jax.Array  # f32[n, d]
    radii: jax.Array  # f32[n], squared distance to the k-th nearest neighbour


class Neighbourhoods(NamedTuple):
    """Improved precision and recall, density and coverage; f32[] each, at best about 1."""

    precision: jax.Array
    recall: jax.Array
    density: jax.Array
    coverage: jax.Array


def summary(points: jax.Array) -> Summary:
    """Mean and ddof=0 covariance of f32[m, d]."""
    mean = jnp.mean(points, axis=0)
    centred = points - mean
    return Summary(mean, centred.T @ centred / points.shape[0])


def frechet_distance(one: Summary, other: Summary) -> jax.Array:
    r"""The squared W2 distance of two Gaussians, which Heusel et al. 2017 named Fréchet distance.

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
    """Points with the radii that reach their k-th nearest neighbour."""
    # A point is its own nearest: the k-th neighbour is number k from 0.
    near, _ = jax.lax.top_k(-_squared_distances(points, points), neighbours + 1)
    return Manifold(points, -near[:, neighbours])


def neighbourhoods(original: Manifold, sample: Manifold, k: int = NEIGHBOURS) -> Neighbourhoods:
    """How the two samples lie within each other's k-nearest-neighbour balls.

    Precision: the share of the sample inside some ball of the original; recall: the other way round
    (Kynkäänniemi et al., arXiv 1904.06991). Density: the number of the original's balls that a
    member of the sample is in, over k; coverage: the share of the original's balls that hold a
    member (Naeem et al., arXiv 2002.09797). A point on the edge of a ball is outside.

    Args:
      original, sample: their points, and radii for this k.
      k: neighbours that the radii reach, which density is counted in.
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
    """f32[n, m], as sums of squares: no cancellation, so that a point is at 0 from itself."""

    def row(point: jax.Array) -> jax.Array:
        return jnp.sum((other - point) ** 2, axis=1)

    return jax.lax.map(row, one, batch_size=64)
