"""The Gaussian family: mean and covariance, refitted to samples of itself (Shumailov et al. 2024).

Two samplers of the same process. "exact" draws a sample's moments (normal mean, Bartlett factor of
the scatter): O(d^2), whatever M is. "rows" draws the M rows. In both, a fit multiplies the model's
factor by that of standardised draws, so log-scales add and no variance underflows.
Axis legend: d dimension.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from scipy.stats import norm

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.family import Family, Metric, Metrics, Origin, Request, Threshold, Training
from collapse_jax.numerics import affine, bartlett, linalg, random
from collapse_jax.numerics.affine import Affine

ESTIMATORS = ("unbiased", "ml")
SAMPLERS = ("exact", "rows")


def gaussian(
    dim: int = 1,
    estimator: str = "unbiased",
    sampler: str = "exact",
    mean: Sequence[float] | None = None,
    covariance: Sequence[Sequence[float]] | None = None,
    sampling_bias: float = 1.0,
    tail: float = 0.02,
) -> Family:
    r"""Chains of Gaussians fitted to samples of Gaussians.

    One generation of replace: $\mu' = \mu + L z / \sqrt M$, $\Sigma' = L A A^T L^T / \nu$ with
    $\Sigma = L L^T$, $\nu = M - 1$ and $A$ a Bartlett factor (1-D: $\sigma'^2 = \sigma^2
    \chi^2_\nu / \nu$); the maximum-likelihood estimator divides by M.

    Args:
      dim: d >= 1.
      estimator: "unbiased" (divide by M - 1, the paper's theorem) or "ml" (by M, its notebook).
      sampler: "exact" (moments) or "rows".
      mean: of the original distribution, [d]; default 0.
      covariance: of the original distribution, [d, d]; default I.
      sampling_bias: lambda; synthetic data are drawn from N(mu, lambda Sigma).
      tail: the original's probability beyond both tail quantiles together, in (0, 1).

    Returns:
      A family with metrics mean (one entry a dimension if d > 1), log_variance (ln of the mean
      marginal variance), w2_squared, kl and tail_mass to the original; log_determinant if d > 1.

    Raises:
      ValueError: for an argument outside its range, saying what was expected and what came.
    """
    dim = arguments.integer("dim", dim, at_least=1)
    estimator = arguments.choice("estimator", estimator, ESTIMATORS)
    sampler = arguments.choice("sampler", sampler, SAMPLERS)
    sampling_bias = arguments.number("sampling_bias", sampling_bias, above=0)
    tail = arguments.share("tail", tail, above=0, below=1)
    location, spread = _original_moments(dim, mean, covariance)
    population = affine.from_factor(
        jnp.asarray(location, jnp.float32), jnp.asarray(np.linalg.cholesky(spread), jnp.float32)
    )
    population = jax.tree.map(np.asarray, population)  # constants of the program, on no device
    widen = 0.5 * math.log(sampling_bias)

    def original(key: jax.Array, request: Request) -> pools.Pool:
        return _draw(sampler, key, population, request)

    def sample(key: jax.Array, params: Affine, request: Request) -> pools.Pool:
        widened = params._replace(log_scale=params.log_scale + widen)
        return _draw(sampler, key, widened, request)

    def fit(key: jax.Array, params: Affine, training: Training) -> tuple[Affine, Metrics]:
        del key, params
        pool = training.pool
        spread = pool.spread if sampler == "exact" else _fit_rows(pool)
        ddof = 1 if estimator == "unbiased" else 0
        divisor = jnp.float32(pool.count) / jnp.float32(pool.count - ddof)
        return spread._replace(log_scale=spread.log_scale + 0.5 * jnp.log(divisor)), {}

    def measure(key: jax.Array, params: Affine, training: Training, origin: Origin) -> Metrics:
        del key, training, origin
        return _measure(params, location, spread, tail)

    return Family(
        name="gaussian",
        config={
            "dim": dim,
            "estimator": estimator,
            "sampler": sampler,
            "mean": location.tolist(),
            "covariance": spread.tolist(),
            "sampling_bias": sampling_bias,
            "tail": tail,
        },
        pools=pools.moments() if sampler == "exact" else pools.rows(4 * dim),
        metrics=_metrics(dim),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half the original's"),
            "late": Threshold(
                "log_variance",
                math.log(0.01 * np.trace(spread) / dim),
                "variance below 1 % of the original's",
            ),
        },
        original=original,
        init=lambda key: jax.tree.map(jnp.asarray, population),
        fit=fit,
        sample=sample,
        measure=measure,
        coords={"dimension": np.arange(dim)} if dim > 1 else {},
        check=functools.partial(_check_sizes, dim, estimator, sampler),
    )


def _draw(sampler: str, key: jax.Array, model: Affine, request: Request) -> pools.Pool:
    dim = model.log_scale.shape[-1]
    if sampler == "rows":
        bits = jax.random.bits(key, (request.capacity, dim))
        return pools.Rows(random.normal(bits), request.count, model)
    return pools.Moments(
        request.count, affine.compose(model, bartlett.moments(key, dim, request.count))
    )


def _fit_rows(pool: pools.Rows) -> Affine:
    """Mean and ddof=0 covariance of rows; computed on residuals, so at the scale of 1."""
    mask = pools.live(pool)
    values = pool.values if mask is None else jnp.where(mask[:, None], pool.values, 0.0)
    count = jnp.float32(pool.count)
    mean = jnp.sum(values, axis=0) / count
    residuals = values - mean
    if mask is not None:
        residuals = jnp.where(mask[:, None], residuals, 0.0)
    if values.shape[-1] == 1:
        factor = jnp.sqrt(jnp.sum(residuals**2, axis=0) / count)[:, None]
    else:
        factor = linalg.cholesky(residuals.T @ residuals / count)
    assert pool.frame is not None, "Gaussian rows are residuals in a frame"
    return affine.compose(pool.frame, affine.from_factor(mean, factor))


def _measure(params: Affine, location: np.ndarray, spread: np.ndarray, tail: float) -> Metrics:
    dim = location.shape[0]
    log_marginal = affine.log_marginal_variances(params)
    log_variance = jax.nn.logsumexp(log_marginal) - math.log(dim) if dim > 1 else log_marginal[0]
    shift = params.centre - location.astype(np.float32)
    marginal = np.sqrt(np.diagonal(spread)).astype(np.float32)
    w2_squared, kl = _distances(params, shift, spread)
    metrics = {
        "mean": params.centre if dim > 1 else params.centre[0],
        "log_variance": log_variance,
        "w2_squared": w2_squared,
        "kl": kl,
        "tail_mass": jnp.mean(_tail_mass(shift / marginal, log_marginal, marginal, tail)),
    }
    if dim > 1:
        metrics["log_determinant"] = 2.0 * jnp.sum(params.log_scale)
    return metrics


def _tail_mass(
    shift: jax.Array, log_variances: jax.Array, scale: np.ndarray, tail: float
) -> jax.Array:
    """The model's marginal probability beyond the original's two quantiles, f32[d]."""
    quantile = np.float32(norm.isf(tail / 2) / math.sqrt(2.0))
    ratio = scale * jnp.exp(-0.5 * log_variances)
    offset = shift * np.float32(math.sqrt(0.5))
    return 0.5 * (
        special.erfc((quantile - offset) * ratio) + special.erfc((quantile + offset) * ratio)
    )


def _distances(params: Affine, shift: jax.Array, spread: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Squared 2-Wasserstein distance and KL(model || original), closed forms.

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


def _metrics(dim: int) -> dict[str, Metric]:
    metrics = {
        "mean": Metric(
            "mean of the model", "data units", ("dimension",) if dim > 1 else (), 0.2, 1e3
        ),
        "log_variance": Metric(
            "log of the mean marginal variance" if dim > 1 else "log-variance of the model",
            "ln(data units^2)",
            scale=0.5,
            limit=1e3,
        ),
        "w2_squared": Metric(
            "squared 2-Wasserstein distance to the original",
            "data units^2",
            scale=0.01,
            limit=1e6,
            nonnegative=True,
        ),
        "kl": Metric("KL(model || original)", "nats", scale=0.01, limit=1e6, nonnegative=True),
        "tail_mass": Metric(
            "model's probability beyond the original's tail quantiles",
            scale=1e-4,
            limit=1.0,
            nonnegative=True,
        ),
    }
    if dim > 1:
        metrics["log_determinant"] = Metric(
            "log-determinant of the model's covariance",
            f"ln(data units^{2 * dim})",
            scale=1.0,
            limit=1e4,
        )
    return metrics


def _original_moments(
    dim: int, mean: Sequence[float] | None, covariance: Sequence[Sequence[float]] | None
) -> tuple[np.ndarray, np.ndarray]:
    location = np.zeros(dim) if mean is None else np.asarray(mean, np.float64)
    spread = np.eye(dim) if covariance is None else np.asarray(covariance, np.float64)
    if location.shape != (dim,):
        raise SettingError(f"mean: expected shape ({dim},), got {location.shape}")
    if spread.shape != (dim, dim):
        raise SettingError(f"covariance: expected shape ({dim}, {dim}), got {spread.shape}")
    if not np.allclose(spread, spread.T) or np.min(np.linalg.eigvalsh(spread)) <= 0:
        raise SettingError("covariance: expected a symmetric positive definite matrix")
    return location, spread


def _check_sizes(dim: int, estimator: str, sampler: str, sizes: Any) -> None:
    """Every fit must have full rank."""
    if sizes.training.count - 1 < dim:
        raise SettingError(
            f"samples: a Gaussian of dim {dim} needs at least {dim + 1} samples a generation,"
            f" got {sizes.training.count}"
        )
    drawn = [sizes.synthetic.count, sizes.fresh.count, sizes.reused.count]
    if sampler == "exact" and max(drawn) - 1 < dim:
        raise SettingError(
            f"samples: the exact sampler at dim {dim} needs a part of at least {dim + 1} samples"
            f" from one source, got at most {max(drawn)}; use sampler=rows"
        )
