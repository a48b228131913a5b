"""Expectation-maximisation for Gaussian mixtures (Dempster, Laird and Rubin 1977), of one chain.

Axis legend: k components, d dimensions, n rows. Rows come as columns, f[d, n].
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.families.gmm import mixtures
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.numerics import linalg

Covariance = Literal["full", "diagonal", "spherical"]
# EM ends after so many iterations that lower the likelihood, if at all, by rounding alone. Larger
# falls are the regularisation's doing, and EM goes on.
_FALLS = 5
_ROUNDING = 8.0  # machine epsilons, times 1 nat and the likelihood


class Fitting(NamedTuple):
    """How a mixture is fitted.

    Attributes:
      covariance: covariances of components: "full", "diagonal" or "spherical".
      tolerance: EM ends when the mean log-likelihood of a row changes by less, nats.
      max_iterations: EM iterations of a fit at most.
      regularisation: added to variances at each iteration, data units^2 (scikit-learn's reg_covar);
        under replace it keeps them from collapsing: they settle at M times as much on average.
    """

    covariance: Covariance = "full"
    tolerance: float = 1e-5
    max_iterations: int = 2000
    regularisation: float = 1e-6


class Fit(NamedTuple):
    """A fitted mixture and how it was reached."""

    mixture: Mixture
    log_likelihood: jax.Array  # f[], mean over rows, before the last M step; nats
    iterations: jax.Array  # i32[]


def responsibilities(
    mixture: Mixture, shifted: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The E step.

    Args:
      mixture: at which they are computed.
      shifted: rows relative to each component's mean, f[k, d, n].
      weights: of the rows, f[n]; 0 for those that are not there.

    Returns:
      Weighted responsibilities f[k, n], and the mean log-likelihood of a row, f[].
    """
    logarithms = mixtures.log_densities_of_shifted(mixture, shifted)
    total = mixtures.log_sum(logarithms)
    shares = jnp.exp(logarithms - total) * weights
    return shares, jnp.where(weights > 0, total, 0.0) @ weights / jnp.sum(weights)


def maximised(shares: jax.Array, means: jax.Array, shifted: jax.Array, fitting: Fitting) -> Mixture:
    """The M step.

    Second moments are about the new means: in single precision, moments about anything far off
    would lose components that are narrow.

    Args:
      shares: weighted responsibilities, f[k, n].
      means: that `shifted` is relative to, f[k, d].
      shifted: rows, f[k, d, n].
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
    """The Cholesky factor of a regularised covariance of the wanted type, f[d, d]."""
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
    """One E and one M step; also the mean log-likelihood of a row before them, f[]."""
    shifted = columns[None] - mixture.means[:, :, None]
    shares, log_likelihood = responsibilities(mixture, shifted, weights)
    return maximised(shares, mixture.means, shifted, fitting), log_likelihood


def fit(start: Mixture, columns: jax.Array, weights: jax.Array, fitting: Fitting) -> Fit:
    """Iterates until the likelihood changes by less than the tolerance, or only by rounding.

    Args:
      start: where EM begins, with an E step.
      columns: rows, f[d, n].
      weights: of the rows, f[n]; 0 for those that are not there.
      fitting: see `Fitting`.
    """

    def going_on(carry):
        # Also false, hence ends, once anything is NaN.
        _, _, change, iterations, falls = carry
        unsettled = (jnp.abs(change) >= fitting.tolerance) & (falls < _FALLS)
        return unsettled & (iterations < fitting.max_iterations)

    def turn(carry):
        mixture, before, _, iterations, falls = carry
        mixture, log_likelihood = iterate(mixture, columns, weights, fitting)
        change = log_likelihood - before
        rounding = _ROUNDING * jnp.finfo(columns.dtype).eps * (1.0 + jnp.abs(log_likelihood))
        falls = falls + ((change <= 0) & (change >= -rounding)).astype(jnp.int32)
        return mixture, log_likelihood, change, iterations + 1, falls

    infinity = jnp.asarray(jnp.inf, columns.dtype)
    carry = (start, -infinity, infinity, jnp.int32(0), jnp.int32(0))
    mixture, log_likelihood, _, iterations, _ = jax.lax.while_loop(going_on, turn, carry)
    return Fit(mixture, log_likelihood, iterations)


def plus_plus(
    key: jax.Array, columns: jax.Array, weights: jax.Array, components: int, fitting: Fitting
) -> Mixture:
    """A start by k-means++ (Arthur and Vassilvitskii 2007): far-apart rows, and the rows nearest.

    Args:
      key: typed PRNG key.
      columns: rows, f[d, n].
      weights: of the rows, f[n].
      components: k.
      fitting: covariance type and regularisation.
    """
    nearest = jnp.full(weights.shape, jnp.inf, columns.dtype)
    owner = jnp.zeros(weights.shape, jnp.int32)
    centres = []
    for i in range(components):
        chance = weights if i == 0 else weights * nearest
        chance = jnp.where(jnp.sum(chance) > 0, chance, weights)  # fewer places than components
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (), columns.dtype)
        # Not beyond the last row that is there, whatever rounding does.
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
    """The last index with a positive chance."""
    return chance.shape[0] - 1 - jnp.argmax(chance[::-1] > 0)


def best_of(
    key: jax.Array,
    columns: jax.Array,
    weights: jax.Array,
    components: int,
    starts: int,
    fitting: Fitting,
) -> Fit:
    """The likeliest of EM's ends from several k-means++ starts."""

    def attempt(i: jax.Array | int) -> Fit:
        k_start = jax.random.fold_in(key, i)
        start = plus_plus(k_start, columns, weights, components, fitting)
        return fit(start, columns, weights, fitting)

    def turn(i: jax.Array, best: Fit) -> Fit:
        new = attempt(i)
        better = ~(new.log_likelihood <= best.log_likelihood)
        better &= jnp.isfinite(new.log_likelihood) | ~jnp.isfinite(best.log_likelihood)
        chosen = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)
        return chosen._replace(iterations=best.iterations + new.iterations)

    return jax.lax.fori_loop(1, starts, turn, attempt(0)) if starts > 1 else attempt(0)
