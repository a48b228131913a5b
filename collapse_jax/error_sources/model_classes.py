"""Classes of one-dimensional densities on a grid, each with an exact and an early fit.

On a grid a population is as finite as a sample: both are masses of its points, so that fits need no
rows, cost the same for every sample size, and have a limit of infinite data. A model is the
discrete distribution with its density's values as masses; for densities no narrower than 2.5 steps,
sums over the grid are integrals to rounding. The Gaussian and the mixture are here, the neural
density in `neural_density`. Axis legend: G grid points, k components.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GRID = np.linspace(-10.0, 10.0, 501)  # data units
STEP = float(GRID[1] - GRID[0])
# Narrower deviations belong to none of the classes: likelihoods stay bounded, sums stay integrals.
NARROWEST = 0.1
_GRADIENT_RATE = 0.1

Params = Any


class Learner(NamedTuple):
    """A class of densities on `GRID` and how one lane's member of it is fitted.

    Attributes:
      name: of the class.
      right, small: sizes (components, hidden units) that hold the modes, and that do not.
      start: (size) -> params from which every early fit begins.
      candidates: (size) -> params[candidate, ...] from which the fit to a population is sought.
      log_masses: (params) -> f32[G], normalised.
      exact: (params, masses f32[G], steps) -> params that minimise the cross-entropy, warm started.
      early: (start, masses f32[G]) -> params after a few steps.
      steps: of an exact fit between generations.
    """

    name: str
    right: int
    small: int
    start: Callable[[int], Params]
    candidates: Callable[[int], Params]
    log_masses: Callable[[Params], jax.Array]
    exact: Callable[[Params, jax.Array, Any], Params]
    early: Callable[[Params, jax.Array], Params]
    steps: int


class Gaussian(NamedTuple):
    """N(mean, exp(log_deviation)^2), data units."""

    mean: jax.Array  # f32[]
    log_deviation: jax.Array  # f32[]


class Components(NamedTuple):
    """Of a mixture; those of weight 0 are not there, and stay so."""

    weights: jax.Array  # f32[k], of sum 1
    means: jax.Array  # f32[k], data units
    deviations: jax.Array  # f32[k], data units


def gaussian(centre: float, scale: float, steps: int) -> Learner:
    """A Gaussian: exact by moments, early by gradient steps on the mean and the log-deviation.

    Args:
      centre, scale: mean and standard deviation of the population, data units; they place the
        fixed start, N(centre, (scale / 2)^2), and make the gradient free of units.
      steps: of an early fit.
    """

    def start(size: int) -> Gaussian:
        return Gaussian(jnp.float32(centre), jnp.log(jnp.float32(scale / 2)))

    def exact(params: Gaussian, masses: jax.Array, count: Any) -> Gaussian:
        mean, variance = moments(masses)
        return Gaussian(mean, 0.5 * jnp.log(jnp.maximum(variance, NARROWEST**2)))

    def early(begin: Gaussian, masses: jax.Array) -> Gaussian:
        mean, variance = moments(masses)

        def step(_: Any, params: Gaussian) -> Gaussian:
            # The gradient of ln s + (v + (m - mu)^2) / 2 s^2 at mu, s; that of mu in units of
            # the scale, hence its square.
            precision = jnp.exp(-2.0 * params.log_deviation)
            miss = mean - params.mean
            towards = scale**2 * precision * miss
            wider = precision * (variance + miss**2) - 1.0
            return Gaussian(
                params.mean + _GRADIENT_RATE * towards,
                jnp.maximum(params.log_deviation + _GRADIENT_RATE * wider, np.log(NARROWEST)),
            )

        return jax.lax.fori_loop(0, steps, step, begin)

    def candidates(size: int) -> Gaussian:
        return jax.tree.map(lambda leaf: leaf[None], start(size))

    def log_masses(params: Gaussian) -> jax.Array:
        standard = (GRID.astype(np.float32) - params.mean) * jnp.exp(-params.log_deviation)
        return jax.nn.log_softmax(-0.5 * standard**2)

    return Learner("gaussian", 1, 1, start, candidates, log_masses, exact, early, 1)


def moments(masses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of masses on the grid, f32[] each, data units and their square."""
    points = GRID.astype(np.float32)
    mean = jnp.sum(masses * points)
    return mean, jnp.sum(masses * (points - mean) ** 2)


def mixture(
    weights: np.ndarray, means: np.ndarray, deviations: np.ndarray, steps: int, exact_steps: int
) -> Learner:
    """A Gaussian mixture with as many components as there are modes, or one fewer; fitted by EM.

    Args:
      weights, means, deviations: of the modes, f64[k]; the population is in the class.
      steps: of an early fit, from components spread evenly over the population.
      exact_steps: of an exact fit between generations.
    """
    count = len(weights)
    centre = float(weights @ means)
    scale = float(np.sqrt(weights @ (deviations**2 + means**2) - centre**2))

    def start(size: int) -> Components:
        places = centre + 1.5 * scale * (2 * (np.arange(count) + 0.5) / size - 1)
        there = np.arange(count) < size
        return _components(there / size, np.where(there, places, centre), np.full(count, scale))

    def candidates(size: int) -> Components:
        if size == count:
            found = [_components(weights, means, deviations)]
        else:
            merged = merged_neighbours(weights, means, deviations)
            found = [start(size)] + [_components(*parts) for parts in merged]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    def log_masses(params: Components) -> jax.Array:
        return jax.nn.log_softmax(jax.nn.logsumexp(_log_joint(params), axis=0))

    def exact(params: Components, masses: jax.Array, number: Any) -> Components:
        return jax.lax.fori_loop(0, number, lambda _, now: em_step(now, masses), params)

    def early(begin: Components, masses: jax.Array) -> Components:
        return exact(begin, masses, steps)

    return Learner(
        "gmm",
        count,
        count - 1,
        start,
        candidates,
        log_masses,
        exact,
        early,
        exact_steps,
    )


def _components(*parts: np.ndarray) -> Components:
    return Components(*(jnp.asarray(part, jnp.float32) for part in parts))


def merged_neighbours(
    weights: np.ndarray, means: np.ndarray, deviations: np.ndarray
) -> list[tuple[np.ndarray, ...]]:
    """Modes with one pair of neighbours merged into one of their joint moments, for every pair.

    Args:
      weights, means, deviations: of the modes, f64[k].

    Returns:
      (weights, means, deviations) f64[k] of each: the merged mode first, an absent one at the end.
    """
    order = np.argsort(means)
    weights, means, deviations = weights[order], means[order], deviations[order]
    found = []
    for first in range(len(weights) - 1):
        pair = slice(first, first + 2)
        weight = weights[pair].sum()
        share = weights[pair] / weight
        mean = share @ means[pair]
        deviation = np.sqrt(share @ (deviations[pair] ** 2 + (means[pair] - mean) ** 2))
        joined = (weights, weight, 0.0), (means, mean, mean), (deviations, deviation, deviation)
        found.append(
            tuple(
                np.concatenate([[one], np.delete(values, pair), [filler]])
                for values, one, filler in joined
            )
        )
    return found


def _log_joint(params: Components) -> jax.Array:
    """Log-density of component and point, f32[k, G]; -inf for components that are not there."""
    precision = 1.0 / params.deviations
    standard = (GRID.astype(np.float32) - params.means[:, None]) * precision[:, None]
    return jnp.log(params.weights * precision)[:, None] - 0.5 * standard**2


def em_step(params: Components, masses: jax.Array) -> Components:
    """One step of expectation-maximisation on masses of the grid, f32[G].

    A component whose variance falls below the narrowest is given that: still the best of what is
    allowed, so that no step lowers the likelihood.
    """
    points = GRID.astype(np.float32)
    shares = jax.nn.softmax(_log_joint(params), axis=0) * masses
    weights = shares.sum(axis=1)
    divisor = jnp.maximum(weights, 1e-30)
    means = shares @ points / divisor
    variances = jnp.sum(shares * (points - means[:, None]) ** 2, axis=1) / divisor
    # A component without any mass has no moments: it stays where it was.
    alive = weights > 1e-12
    return Components(
        weights / weights.sum(),
        jnp.where(alive, means, params.means),
        jnp.where(alive, jnp.sqrt(jnp.maximum(variances, NARROWEST**2)), params.deviations),
    )
