"""Expectation-maximisation (EM) for one Gaussian mixture (Dempster, Laird and Rubin 1977).

Axis legend: k components, d dimensions, n rows. Rows are stored as columns, f[d, n].
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.families.gmm import mixtures
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.numerics import linalg

Covariance = Literal["full", "diagonal", "spherical"]
# EM stops after this many iterations in which the likelihood is constant or falls by rounding only.
# Larger falls are due to regularisation and do not stop it.
_FALLS = 5
_ROUNDING = 8.0  # largest fall by rounding, in machine epsilons of 1 + |log-likelihood|


class Fitting(NamedTuple):
    """Settings of EM.

    Attributes:
      covariance: type of the components' covariances: "full", "diagonal" or "spherical".
      tolerance: change of the mean log-likelihood per row below which EM stops, nats.
      max_iterations: largest number of EM iterations per fit.
      regularisation: variance added at each iteration, data units^2 (scikit-learn's reg_covar); it
        prevents full collapse under replace, where the mean variance tends to M times this value.
    """

    covariance: Covariance = "full"
    tolerance: float = 1e-5
    max_iterations: int = 2000
    regularisation: float = 1e-6


class Fit(NamedTuple):
    """A fitted mixture, with its log-likelihood and number of iterations."""

    mixture: Mixture
    log_likelihood: jax.Array  # f[], mean over rows, before the last M step; nats
    iterations: jax.Array  # i32[]


def responsibilities(
    mixture: Mixture, shifted: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The E step.

    Args:
      mixture: the current mixture.
      shifted: rows relative to each component's mean, f[k, d, n].
      weights: weights of the rows, f[n]; 0 for unused capacity.

    Returns:
      Weighted responsibilities f[k, n], and the mean log-likelihood per row, f[].
    """
    logarithms = mixtures.log_densities_of_shifted(mixture, shifted)
    total = mixtures.log_sum(logarithms)
    shares = jnp.exp(logarithms - total) * weights
    return shares, jnp.where(weights > 0, total, 0.0) @ weights / jnp.sum(weights)


def maximised(shares: jax.Array, means: jax.Array, shifted: jax.Array, fitting: Fitting) -> Mixture:
    """The M step.

    Second moments are taken about the new means: in single precision, moments about distant points
    would lose narrow components.

    Args:
      shares: weighted responsibilities, f[k, n].
      means: current means, f[k, d].
      shifted: rows relative to `means`, f[k, d, n].
      fitting: covariance type and regularisation.
    """
    mass = jnp.sum(shares, axis=1) + 10.0 * jnp.finfo(shares.dtype).eps
    step = jnp.einsum("kdn,kn->kd", shifted, shares) / mass[:, None]
    centred = shifted - step[:, :, None]
    scatter = (centred * shares[:, None]) @ centred.swapaxes(1, 2)
    covariances = scatter / mass[:, None, None]
    factors = jax.vmap(lambda covariance: _factor(covariance, fitting))(covariances)
    return Mixture(jnp.log(mass / jnp.sum(mass)), means + step, factors)


def _factor(covariance: jax.Array, fitting: Fitting) -> jax.Array:
    """Cholesky factor of a regularised covariance of the given type, f[d, d]."""
    dim = covariance.shape[0]
    identity = jnp.eye(dim, dtype=covariance.dtype)
    if fitting.covariance == "full":
        return linalg.cholesky(covariance + fitting.regularisation * identity)
    variances = jnp.diagonal(covariance)
    if fitting.covariance == "spherical":
        variances = jnp.full((dim,), jnp.mean(variances))
    return identity * jnp.sqrt(variances + fitting.regularisation)[:, None]


def iterate(
    mixture: Mixture, columns: jax.Array, weights: jax.Array, fitting: Fitting
) -> tuple[Mixture, jax.Array]:
    """One EM iteration; also returns the mean log-likelihood per row before it, f[]."""
    shifted = columns[None] - mixture.means[:, :, None]
    shares, log_likelihood = responsibilities(mixture, shifted, weights)
    return maximised(shares, mixture.means, shifted, fitting), log_likelihood


def fit(start: Mixture, columns: jax.Array, weights: jax.Array, fitting: Fitting) -> Fit:
    """Iterates until the log-likelihood changes by less than the tolerance, or only by rounding.

    Args:
      start: initial mixture.
      columns: rows, f[d, n].
      weights: weights of the rows, f[n]; 0 for unused capacity.
      fitting: see `Fitting`.
    """

    def unconverged(carry):
        # Comparisons with NaN are false, so EM also stops if anything is NaN.
        _, _, change, iterations, falls = carry
        unsettled = (jnp.abs(change) >= fitting.tolerance) & (falls < _FALLS)
        return unsettled & (iterations < fitting.max_iterations)

    def body(carry):
        mixture, before, _, iterations, falls = carry
        mixture, log_likelihood = iterate(mixture, columns, weights, fitting)
        change = log_likelihood - before
        rounding = _ROUNDING * jnp.finfo(columns.dtype).eps * (1.0 + jnp.abs(log_likelihood))
        falls = falls + ((change <= 0) & (change >= -rounding)).astype(jnp.int32)
        return mixture, log_likelihood, change, iterations + 1, falls

    infinity = jnp.asarray(jnp.inf, columns.dtype)
    carry = (start, -infinity, infinity, jnp.int32(0), jnp.int32(0))
    mixture, log_likelihood, _, iterations, _ = jax.lax.while_loop(unconverged, body, carry)
    return Fit(mixture, log_likelihood, iterations)


def plus_plus(
    key: jax.Array, columns: jax.Array, weights: jax.Array, components: int, fitting: Fitting
) -> Mixture:
    """Initial mixture by k-means++ (Arthur and Vassilvitskii 2007).

    Centres are distant rows; each component is fitted to the rows nearest to its centre.

    Args:
      key: typed PRNG key.
      columns: rows, f[d, n].
      weights: weights of the rows, f[n].
      components: k.
      fitting: covariance type and regularisation.
    """
    nearest = jnp.full(weights.shape, jnp.inf, columns.dtype)
    owner = jnp.zeros(weights.shape, jnp.int32)
    centres = []
    for i in range(components):
        chance = weights if i == 0 else weights * nearest
        chance = jnp.where(
            jnp.sum(chance) > 0, chance, weights
        )  # fewer distinct rows than components
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (), columns.dtype)
        # Rounding must not select a row beyond the last one with a positive weight.
        reached = jnp.cumsum(chance)
        index = jnp.minimum(jnp.searchsorted(reached, uniform * reached[-1], side="right"),
                            _last(chance))  # fmt: skip
        centres.append(columns[:, index])
        distance = jnp.sum((columns - centres[i][:, None]) ** 2, axis=0)
        owner = jnp.where(distance < nearest, i, owner)
        nearest = jnp.minimum(nearest, distance)
    shares = (jnp.arange(components)[:, None] == owner) * weights
    means = jnp.stack(centres)
    return maximised(shares, means, columns[None] - means[:, :, None], fitting)


def _last(chance: jax.Array) -> jax.Array:
    """The last index with a positive probability."""
    return chance.shape[0] - 1 - jnp.argmax(chance[::-1] > 0)


def best_of(
    key: jax.Array,
    columns: jax.Array,
    weights: jax.Array,
    components: int,
    starts: int,
    fitting: Fitting,
) -> Fit:
    """The EM fit with the highest likelihood from several k-means++ starts."""

    def attempt(i: jax.Array | int) -> Fit:
        k_start = jax.random.fold_in(key, i)
        start = plus_plus(k_start, columns, weights, components=components, fitting=fitting)
        return fit(start, columns, weights, fitting)

    def body(i: jax.Array, best: Fit) -> Fit:
        new = attempt(i)
        better = ~(new.log_likelihood <= best.log_likelihood)
        better &= jnp.isfinite(new.log_likelihood) | ~jnp.isfinite(best.log_likelihood)
        chosen = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
        return chosen._replace(iterations=best.iterations + new.iterations)

    return jax.lax.fori_loop(1, starts, body, attempt(0)) if starts > 1 else attempt(0)
