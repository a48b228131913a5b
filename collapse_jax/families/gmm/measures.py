"""What is measured of a mixture, beside its original.

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

_HELD_OUT = 1024  # rows of the original that a model's log-likelihood is averaged over
_DRAWN = 256  # rows of a model by which its distance to the original is measured
_DIRECTIONS = 8  # that they are projected on


class Reference(NamedTuple):
    """The original, and what models are compared with; constants of the program, on no device."""

    truth: GaussianMixture
    mixture: Mixture
    held_out: np.ndarray  # f32[d, _HELD_OUT]
    tails: tuple[np.ndarray, np.ndarray]  # lower and upper quantile by dimension, f64[d]
    directions: np.ndarray  # f32[_DIRECTIONS, d], unit vectors
    projected: np.ndarray  # f32[_DIRECTIONS, _DRAWN], quantiles of the original's projections
    self_product: float  # the integral of p^2
    log_likelihood: float  # mean log-density of the held-out rows


def reference(given: str | Mapping[str, Any], tail: float) -> Reference:
    """What models are compared with.

    Args:
      given: the original, see `collapse_jax.families.gmm.originals.truth`.
      tail: its marginal probability beyond both tail quantiles together.
    """
    original = originals.truth(given)
    rng = np.random.default_rng(0)
    held_out = original.sample(rng, _HELD_OUT).T.astype(np.float32)
    directions = rng.standard_normal((_DIRECTIONS if original.dim > 1 else 1, original.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    quantiles = original.quantiles(directions, (np.arange(_DRAWN) + 0.5) / _DRAWN)
    lower, upper = original.quantiles(np.eye(original.dim), np.array([tail / 2, 1 - tail / 2])).T
    mixture = Mixture(
        jnp.asarray(np.log(np.maximum(original.weights, 1e-30)), jnp.float32),
        jnp.asarray(original.means, jnp.float32),
        jnp.asarray(np.linalg.cholesky(original.covariances), jnp.float32),
    )
    self_product = float(mixtures.inner_product(mixture, mixture))
    if not math.isfinite(self_product):
        raise SettingError(
            "truth.covariances: expected an original whose integral of p^2 is finite in single"
            f" precision, got {original.covariances.tolist()}"
        )
    return Reference(
        original,
        jax.tree.map(np.asarray, mixture),
        held_out,
        (lower, upper),
        directions.astype(np.float32),
        quantiles.astype(np.float32),
        self_product,
        float(np.mean(original.log_density(held_out.T.astype(np.float64)))),
    )


def on_device(mixture: Mixture) -> Mixture:
    """The same mixture as JAX arrays."""
    return Mixture(*map(jnp.asarray, mixture))


def measure(key: jax.Array, mixture: Mixture, training: Training, reference: Reference) -> Metrics:
    """All metrics but those of the fit itself."""
    original = on_device(reference.mixture)
    drawn = mixtures.sample(key, mixture, _DRAWN)
    projected = jnp.sort(jnp.asarray(reference.directions) @ drawn.T, axis=1)
    distance = mixtures.inner_product(mixture, mixture) + reference.self_product
    distance -= 2.0 * mixtures.inner_product(mixture, original)
    weights = jnp.exp(mixture.log_weights)
    held_out = mixtures.log_density(mixture, jnp.asarray(reference.held_out))
    return {
        "integrated_squared_error": jnp.maximum(distance, 0.0),
        "held_out_log_likelihood": jnp.mean(held_out),
        "original_log_likelihood": jnp.mean(mixtures.log_density(original, drawn.T)),
        "tail_mass": jnp.mean(mixtures.marginal_tail_mass(mixture, *reference.tails)),
        "log_variance": mixtures.log_marginal_variance(mixture),
        "w2_squared": jnp.mean((projected - reference.projected) ** 2),
        "live_components": jnp.sum(weights * training.pool.count >= 1.0).astype(jnp.float32),
        "weight": weights,
        "component_mean": mixture.means,
        "component_covariance": mixture.factors @ mixture.factors.swapaxes(1, 2),
        "log_determinant": mixtures.log_determinants(mixture),
    }


def metrics(reference: Reference) -> dict[str, Metric]:
    """Bins of histograms lie where the original is, in its units.

    `integrated_squared_error` is from 1e-6 of the original's integral of p^2 (about 1 / N of it is
    sampling) to that of a component 1e4 times as narrow.
    """
    original, each = reference.truth, ("component",)
    dim, variance, sd = original.dim, original.variance, math.sqrt(original.variance)
    location = tuple((original.weights @ original.means).tolist())
    self_product = max(reference.self_product, 1e-30)
    log_determinant = float(original.weights @ np.linalg.slogdet(original.covariances)[1])

    def likelihood(text: str, known: float | None = None) -> Metric:
        return Metric(text, "nats", (), 0.01, 1e8,
                      centre=reference.log_likelihood, original=known)  # fmt: skip

    return {
        "integrated_squared_error": Metric(
            "integral of (p - q)^2", f"data units^-{dim}", (), 1e-6 * self_product,
            min(1e4**dim, 1e30) * self_product, nonnegative=True,
        ),
        "held_out_log_likelihood": likelihood(
            f"mean log-density of {_HELD_OUT} held-out original rows under the model",
            reference.log_likelihood,
        ),
        "original_log_likelihood": likelihood(
            f"mean log-density of {_DRAWN} rows of the model under the original"
        ),
        "tail_mass": Metric(
            "model's probability beyond the original's tail quantiles, mean over dimensions", "1",
            (), 1e-4, 1.0, nonnegative=True,
        ),
        "log_variance": Metric(
            "log of the mean marginal variance", "ln(data units^2)", (), 0.05, 1e3,
            centre=math.log(variance), symbol=r"\ln\sigma_n^2",
        ),
        "w2_squared": Metric(
            f"sliced squared W2 to the original, {_DRAWN} rows on {_DIRECTIONS} directions",
            "data units^2", (), 0.01 * variance, 1e6 * variance, nonnegative=True, symbol="W_2^2",
        ),
        "live_components": Metric(
            "components of which a sample has one row or more on average", "components",
            (), 1.0, 1e3, nonnegative=True,
        ),
        "weight": Metric("weight of a component", "1", each, 0.01, 1.0, nonnegative=True),
        "component_mean": Metric(
            "mean of a component", "data units", (*each, "dimension"), 0.5 * sd, 1e3 * sd,
            centre=location,
        ),
        "component_covariance": Metric(
            "covariance of a component", "data units^2",
            (*each, "dimension", "other_dimension"), 0.1 * variance, 1e4 * variance,
            symbol=r"\Sigma_n",
        ),
        "log_determinant": Metric(
            "log-determinant of a component's covariance", f"ln(data units^{2 * dim})", each,
            0.1, 1e4, centre=log_determinant, symbol=r"\ln|\Sigma_n|",
        ),
        "log_likelihood": likelihood(
            "mean log-likelihood of the training rows before the last M step"
        ),
        "em_iterations": Metric(
            "EM iterations of the fit", "iterations", (), 5.0, 1e6, nonnegative=True
        ),
    }  # fmt: skip
