"""Measures of a Gaussian: its moments, and its closed-form distances to the original.

Axis legend: d dimension.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from scipy.special import ndtri

from collapse_jax.family import Metric, Metrics
from collapse_jax.numerics import affine, linalg
from collapse_jax.numerics.affine import Affine


def measure(params: Affine, location: np.ndarray, spread: np.ndarray, tail: float) -> Metrics:
    """Metrics of a model, for an original with this mean, f64[d], and covariance, f64[d, d]."""
    dim = location.shape[0]
    log_marginal = affine.log_marginal_variances(params)
    log_variance = jax.nn.logsumexp(log_marginal) - math.log(dim) if dim > 1 else log_marginal[0]
    shift = params.centre - location.astype(np.float32)
    marginal = np.sqrt(np.diagonal(spread)).astype(np.float32)
    w2_squared, kl = _distances(params, shift, spread)
    found = {
        "mean": params.centre if dim > 1 else params.centre[0],
        "log_variance": log_variance,
        "w2_squared": w2_squared,
        "kl": kl,
        "tail_mass": jnp.mean(_tail_mass(shift / marginal, log_marginal, marginal, tail)),
    }
    if dim > 1:
        found["log_determinant"] = 2.0 * jnp.sum(params.log_scale)
    return found


def _tail_mass(
    shift: jax.Array, log_variances: jax.Array, scale: np.ndarray, tail: float
) -> jax.Array:
    """The model's marginal probability beyond the original's tail quantiles, f32[d]."""
    quantile = np.float32(-ndtri(tail / 2) / math.sqrt(2.0))
    ratio = scale * jnp.exp(-0.5 * log_variances)
    offset = shift * np.float32(math.sqrt(0.5))
    return 0.5 * (
        special.erfc((quantile - offset) * ratio) + special.erfc((quantile + offset) * ratio)
    )


def _distances(params: Affine, shift: jax.Array, spread: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Squared 2-Wasserstein distance and KL(model || original), in closed form.

    W2^2 = |mu - mu0|^2 + tr S + tr S0 - 2 tr (S0^1/2 S S0^1/2)^1/2, the last the nuclear norm of
    L0' L; KL = (tr S0^-1 S + (mu - mu0)' S0^-1 (mu - mu0) - d - ln(|S| / |S0|)) / 2.
    """
    dim = shift.shape[0]
    if dim == 1:
        variance = np.float32(spread[0, 0])
        sigma0 = np.float32(math.sqrt(spread[0, 0]))
        log_scale = params.log_scale[0]
        squared = shift[0] ** 2
        w2_squared = squared + (jnp.exp(log_scale) - sigma0) ** 2
        log_ratio = 2.0 * log_scale - np.float32(math.log(spread[0, 0]))
        kl = 0.5 * (jnp.exp(log_ratio) + squared / variance - 1.0 - log_ratio)
        return w2_squared, kl
    lower = np.linalg.cholesky(spread)
    factor = affine.factor(params)
    cross = jnp.asarray(lower.T, jnp.float32) @ factor
    squared = jnp.sum(shift**2)
    w2_squared = squared + jnp.sum(factor**2) + np.float32(np.trace(spread))
    w2_squared -= 2.0 * linalg.nuclear_norm(cross)
    whiten = np.linalg.inv(lower).astype(np.float32)
    log_ratio = 2.0 * jnp.sum(params.log_scale) - np.float32(np.linalg.slogdet(spread)[1])
    kl = 0.5 * (jnp.sum((whiten @ factor) ** 2) + jnp.sum((whiten @ shift) ** 2) - dim - log_ratio)
    return jnp.maximum(w2_squared, 0.0), kl


def metrics(location: np.ndarray, spread: np.ndarray) -> dict[str, Metric]:
    """Metrics for an original with this mean, f64[d], and covariance, f64[d, d]."""
    dim = len(location)
    found = {
        "mean": Metric(
            "mean of the model",
            "data units",
            ("dimension",) if dim > 1 else (),
            scale=0.2,
            limit=1e3,
            original=tuple(location.tolist()) if dim > 1 else float(location[0]),
            symbol=r"\mu_n",
        ),
        "log_variance": Metric(
            "log of the mean marginal variance" if dim > 1 else "log-variance of the model",
            "ln(data units^2)",
            scale=0.5,
            limit=1e3,
            original=math.log(np.trace(spread) / dim),
            symbol=r"\ln\sigma_n^2",
        ),
        "w2_squared": Metric(
            "squared 2-Wasserstein distance to the original",
            "data units^2",
            scale=0.01,
            limit=1e6,
            nonnegative=True,
            symbol="W_2^2",
        ),
        "kl": Metric(
            "KL(model || original)",
            "nats",
            scale=0.01,
            limit=1e6,
            nonnegative=True,
            symbol=r"\mathrm{KL}",
        ),
        "tail_mass": Metric(
            "model's probability beyond the original's tail quantiles",
            scale=1e-4,
            limit=1.0,
            nonnegative=True,
        ),
    }
    if dim > 1:
        found["log_determinant"] = Metric(
            "log-determinant of the model's covariance",
            f"ln(data units^{2 * dim})",
            scale=1.0,
            limit=1e4,
            symbol=r"\ln|\Sigma_n|",
        )
    return found
