"""Measures of a mixture and of its distance to the original.

Axis legend: k components, d dimensions, M rows.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.families.gmm import mixtures, originals
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.families.gmm.originals import GaussianMixture
from collapse_jax.family import Metric, Metrics, Training

_HELD_OUT = 1024  # rows of the original over which log-likelihoods are averaged
_DRAWN = 256  # rows of a model from which sliced W2 is estimated
_DIRECTIONS = 8  # directions of projection of sliced W2


class Original(NamedTuple):
    """The original and statistics of it; constants of the program, on no device."""

    distribution: GaussianMixture
    mixture: Mixture
    held_out: np.ndarray  # f32[d, _HELD_OUT]
    tails: tuple[np.ndarray, np.ndarray]  # lower and upper tail quantiles, f64[d]
    directions: np.ndarray  # f32[_DIRECTIONS, d], unit vectors
    projected: np.ndarray  # f32[_DIRECTIONS, _DRAWN], quantiles of the original's projections
    self_product: float  # integral of p^2
    log_likelihood: float  # mean log-density of the held-out rows


def original(given: str | Mapping[str, Any], tail: float) -> Original:
    """Loads the original and computes its statistics.

    Args:
      given: the original, see `collapse_jax.families.gmm.originals.load_original`.
      tail: marginal probability of its two tails together.
    """
    found = originals.load_original(given)
    rng = np.random.default_rng(0)
    held_out = found.sample(rng, _HELD_OUT).T.astype(np.float32)
    directions = rng.standard_normal((_DIRECTIONS if found.dim > 1 else 1, found.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    quantiles = found.quantiles(directions, (np.arange(_DRAWN) + 0.5) / _DRAWN)
    lower, upper = found.quantiles(np.eye(found.dim), np.array([tail / 2, 1 - tail / 2])).T
    mixture = Mixture(
        jnp.asarray(np.log(np.maximum(found.weights, 1e-30)), jnp.float32),
        jnp.asarray(found.means, jnp.float32),
        jnp.asarray(np.linalg.cholesky(found.covariances), jnp.float32),
    )
    self_product = float(mixtures.inner_product(mixture, mixture))
    if not math.isfinite(self_product):
        raise SettingError(
            "truth.covariances: expected a finite integral of p^2 in single precision, got"
            f" {found.covariances.tolist()}"
        )
    return Original(
        distribution=found,
        mixture=jax.tree.map(np.asarray, mixture),
        held_out=held_out,
        tails=(lower, upper),
        directions=directions.astype(np.float32),
        projected=quantiles.astype(np.float32),
        self_product=self_product,
        log_likelihood=float(np.mean(found.log_density(held_out.T.astype(np.float64)))),
    )


def on_device(mixture: Mixture) -> Mixture:
    """The same mixture as JAX arrays."""
    return Mixture(*map(jnp.asarray, mixture))


def measure(key: jax.Array, mixture: Mixture, training: Training, given: Original) -> Metrics:
    """All metrics except those of the fit."""
    original_mixture = on_device(given.mixture)
    drawn = mixtures.sample(key, mixture, _DRAWN)
    projected = jnp.sort(jnp.asarray(given.directions) @ drawn.T, axis=1)
    distance = mixtures.inner_product(mixture, mixture) + given.self_product
    distance -= 2.0 * mixtures.inner_product(mixture, original_mixture)
    weights = jnp.exp(mixture.log_weights)
    held_out = mixtures.log_density(mixture, jnp.asarray(given.held_out))
    return {
        "integrated_squared_error": jnp.maximum(distance, 0.0),
        "held_out_log_likelihood": jnp.mean(held_out),
        "original_log_likelihood": jnp.mean(mixtures.log_density(original_mixture, drawn.T)),
        "tail_mass": jnp.mean(mixtures.marginal_tail_mass(mixture, *given.tails)),
        "log_variance": mixtures.log_marginal_variance(mixture),
        "w2_squared": jnp.mean((projected - given.projected) ** 2),
        "live_components": jnp.sum(weights * training.pool.count >= 1.0).astype(jnp.float32),
        "weight": weights,
        "component_mean": mixture.means,
        "component_covariance": mixture.factors @ mixture.factors.swapaxes(1, 2),
        "log_determinant": mixtures.log_determinants(mixture),
    }


def metrics(given: Original) -> dict[str, Metric]:
    """Metrics with histogram edges scaled to the original.

    The edges of `integrated_squared_error` range from 1e-6 of the original's integral of p^2
    (sampling error is about 1 / M of it) to that of a component 1e4 times as narrow.
    """
    original, each = given.distribution, ("component",)
    dim, variance, sd = original.dim, original.variance, math.sqrt(original.variance)
    location = tuple((original.weights @ original.means).tolist())
    self_product = max(given.self_product, 1e-30)
    log_determinant = float(original.weights @ np.linalg.slogdet(original.covariances)[1])

    def likelihood(text: str, known: float | None = None) -> Metric:
        return Metric(text, "nats", scale=0.01, limit=1e8,
                      centre=given.log_likelihood, original=known)  # fmt: skip

    return {
        "integrated_squared_error": Metric(
            "integral of (p - q)^2", f"data units^-{dim}", scale=1e-6 * self_product,
            limit=min(1e4**dim, 1e30) * self_product, nonnegative=True,
        ),
        "held_out_log_likelihood": likelihood(
            f"mean log-density of {_HELD_OUT} held-out original rows under the model",
            given.log_likelihood,
        ),
        "original_log_likelihood": likelihood(
            f"mean log-density of {_DRAWN} rows of the model under the original"
        ),
        "tail_mass": Metric(
            "model's probability beyond the original's tail quantiles, mean over dimensions", "1",
            scale=1e-4, limit=1.0, nonnegative=True,
        ),
        "log_variance": Metric(
            "log of the mean marginal variance", "ln(data units^2)", scale=0.05, limit=1e3,
            centre=math.log(variance), symbol=r"\ln\sigma_n^2",
        ),
        "w2_squared": Metric(
            f"sliced squared W2 to the original, {_DRAWN} rows on {_DIRECTIONS} directions",
            "data units^2", scale=0.01 * variance, limit=1e6 * variance, nonnegative=True,
            symbol="W_2^2",
        ),
        "live_components": Metric(
            "components with an expected number of training rows of at least 1", "components",
            scale=1.0, limit=1e3, nonnegative=True,
        ),
        "weight": Metric(
            "weight of a component", "1", dims=each, scale=0.01, limit=1.0, nonnegative=True,
        ),
        "component_mean": Metric(
            "mean of a component", "data units", dims=(*each, "dimension"), scale=0.5 * sd,
            limit=1e3 * sd,
            centre=location,
        ),
        "component_covariance": Metric(
            "covariance of a component", "data units^2",
            dims=(*each, "dimension", "other_dimension"), scale=0.1 * variance,
            limit=1e4 * variance,
            symbol=r"\Sigma_n",
        ),
        "log_determinant": Metric(
            "log-determinant of a component's covariance", f"ln(data units^{2 * dim})", dims=each,
            scale=0.1, limit=1e4, centre=log_determinant, symbol=r"\ln|\Sigma_n|",
        ),
        "log_likelihood": likelihood(
            "mean log-likelihood of the training rows before the last M step"
        ),
        "em_iterations": Metric(
            "EM iterations of the fit", "iterations", scale=5.0, limit=1e6, nonnegative=True
        ),
    }  # fmt: skip
