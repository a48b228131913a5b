"""Classes of one-dimensional densities on a grid, each with an exact and an early-stopped fit.

Samples and the limit of infinite data are both probability masses on the grid's points, so fits
need no rows and cost the same for every sample size. A model is the discrete distribution with
masses proportional to its density; for densities no narrower than 2.5 grid steps, sums over the
grid equal integrals up to rounding. This module has the Gaussian and the mixture,
`neural_density` the neural density. Axis legend: G grid points, k components.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

GRID = np.linspace(-10.0, 10.0, 501)  # data units
STEP = float(GRID[1] - GRID[0])
# Smallest standard deviation, data units: bounds likelihoods, and keeps sums equal to integrals.
NARROWEST = 0.1
_GRADIENT_RATE = 0.1

Params = Any


class Learner(NamedTuple):
    """A class of densities on `GRID`, with its two fits; all functions are for one lane.

    Attributes:
      name: name of the class.
      right: size (components, hidden units) at which the class can represent the true density.
      small: size at which it cannot.
      start: (size) -> initial params of every early-stopped fit.
      candidates: (size) -> params[candidate, ...], initial params of the fits to infinite data.
      log_masses: (params) -> f32[G], normalised.
      exact: (params, masses f32[G], steps) -> params that minimise the cross-entropy, starting
        from the given ones.
      early: (start, masses f32[G]) -> params after a few steps.
      steps: number of steps of an exact fit between generations.
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
    """Components of a mixture; a weight of 0 marks an unused component and stays 0."""

    weights: jax.Array  # f32[k], sum 1
    means: jax.Array  # f32[k], data units
    deviations: jax.Array  # f32[k], data units


def gaussian(centre: float, scale: float, steps: int) -> Learner:
    """Gaussian class: exact fit by moments, early fit by gradient steps on mean and log-deviation.

    Args:
      centre, scale: mean and standard deviation of the true density, data units; they set the
        fixed start, N(centre, (scale / 2)^2), and make the gradient dimensionless.
      steps: number of steps of an early fit.
    """

    def start(size: int) -> Gaussian:
        return Gaussian(jnp.float32(centre), jnp.log(jnp.float32(scale / 2)))

    def exact(params: Gaussian, masses: jax.Array, count: Any) -> Gaussian:
        mean, variance = moments(masses)
        return Gaussian(mean, 0.5 * jnp.log(jnp.maximum(variance, NARROWEST**2)))

    def early(begin: Gaussian, masses: jax.Array) -> Gaussian:
        mean, variance = moments(masses)

        def step(_: Any, params: Gaussian) -> Gaussian:
            # Gradient of ln s + (v + (m - mu)^2) / 2 s^2 with respect to mu and ln s; with mu in
            # units of the scale, whence its square.
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

    return Learner(
        name="gaussian",
        right=1,
        small=1,
        start=start,
        candidates=candidates,
        log_masses=log_masses,
        exact=exact,
        early=early,
        steps=1,
    )


def moments(masses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of masses f32[G] on the grid, f32[] each, data units and their square."""
    points = GRID.astype(np.float32)
    mean = jnp.sum(masses * points)
    return mean, jnp.sum(masses * (points - mean) ** 2)


def mixture(
    weights: np.ndarray, means: np.ndarray, deviations: np.ndarray, steps: int, exact_steps: int
) -> Learner:
    """Gaussian mixtures of k components (right) or k - 1 (small), fitted by EM.

    Args:
      weights, means, deviations: the modes of the true density, f64[k].
      steps: number of steps of an early fit, which starts from evenly spread components.
      exact_steps: number of steps of an exact fit between generations.
    """
    count = len(weights)
    centre = float(weights @ means)
    scale = float(np.sqrt(weights @ (deviations**2 + means**2) - centre**2))

    def start(size: int) -> Components:
        places = centre + 1.5 * scale * (2 * (np.arange(count) + 0.5) / size - 1)
        used = np.arange(count) < size
        return _components(used / size, np.where(used, places, centre), np.full(count, scale))

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
        name="gmm",
        right=count,
        small=count - 1,
        start=start,
        candidates=candidates,
        log_masses=log_masses,
        exact=exact,
        early=early,
        steps=exact_steps,
    )


def _components(*parts: np.ndarray) -> Components:
    return Components(*(jnp.asarray(part, jnp.float32) for part in parts))


def merged_neighbours(
    weights: np.ndarray, means: np.ndarray, deviations: np.ndarray
) -> list[tuple[np.ndarray, ...]]:
    """For each pair of neighbouring modes, the modes with that pair merged by moment matching.

    Args:
      weights, means, deviations: the modes, f64[k].

    Returns:
      (weights, means, deviations), f64[k] each, per pair: the merged mode first, and a mode of
      weight 0 at the end.
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
    """Log of weight times density, f32[k, G], up to a constant; -inf for unused components."""
    precision = 1.0 / params.deviations
    standard = (GRID.astype(np.float32) - params.means[:, None]) * precision[:, None]
    return jnp.log(params.weights * precision)[:, None] - 0.5 * standard**2


def em_step(params: Components, masses: jax.Array) -> Components:
    """One step of expectation-maximisation on masses f32[G] of the grid.

    Deviations are bounded below by NARROWEST: this is still the constrained maximum, so that no
    step lowers the likelihood.
    """
    points = GRID.astype(np.float32)
    shares = jax.nn.softmax(_log_joint(params), axis=0) * masses
    weights = shares.sum(axis=1)
    divisor = jnp.maximum(weights, 1e-30)
    means = shares @ points / divisor
    variances = jnp.sum(shares * (points - means[:, None]) ** 2, axis=1) / divisor
    # A component without mass has no moments and keeps its parameters.
    alive = weights > 1e-12
    return Components(
        weights / weights.sum(),
        jnp.where(alive, means, params.means),
        jnp.where(alive, jnp.sqrt(jnp.maximum(variances, NARROWEST**2)), params.deviations),
    )
