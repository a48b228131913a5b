"""The Gaussian family: mean and covariance, refitted to samples of itself (Shumailov et al. 2024).

Two samplers simulate the same process. "exact" draws a sample's moments (normal mean, Bartlett
factor of the scatter matrix), O(d^2) for any M. "rows" draws the M rows. In both, a fit multiplies
the model's factor by that of standardised draws, so log-scales add and variances never underflow.
Axis legend: d dimension.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.families.gaussian import measures
from collapse_jax.families.gaussian.closed_forms import closed_forms
from collapse_jax.family import (
    Curves,
    Family,
    Metrics,
    Origin,
    OwnFigures,
    Request,
    RunData,
    Threshold,
    Training,
)
from collapse_jax.numerics import affine, bartlett, linalg, random
from collapse_jax.numerics.affine import Affine
from collapse_jax.regimes import Regime, Sizes

Estimator = Literal["unbiased", "ml"]
Sampler = Literal["exact", "rows"]


def gaussian(
    dim: int = 1,
    estimator: Estimator = "unbiased",
    sampler: Sampler = "exact",
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
      dim: dimension d, at least 1.
      estimator: estimator of the covariance: "unbiased" divides by M - 1 (the paper's theorem),
        "ml" by M (its notebook).
      sampler: "exact" draws a sample's moments (O(1) in M), "rows" its rows.
      mean: mean of the original distribution, [d]; default 0.
      covariance: covariance of the original distribution, [d, d]; default I.
      sampling_bias: factor lambda > 0; synthetic data are drawn from N(mu, lambda Sigma).
      tail: probability of the original's two tails together, in (0, 1).

    Returns:
      A family with metrics mean (one entry per dimension if d > 1), log_variance (ln of the mean
      marginal variance), w2_squared and kl to the original, and tail_mass; log_determinant if
      d > 1.

    Raises:
      ValueError: if an argument is outside its range.
    """
    dim = arguments.integer("dim", dim, at_least=1)
    estimator = arguments.choice("estimator", estimator, get_args(Estimator))
    sampler = arguments.choice("sampler", sampler, get_args(Sampler))
    sampling_bias = arguments.number("sampling_bias", sampling_bias, above=0)
    tail = arguments.share("tail", tail, above=0, below=1)
    location, spread = _original_moments(dim, mean, covariance)
    start = affine.from_factor(
        jnp.asarray(location, jnp.float32), jnp.asarray(np.linalg.cholesky(spread), jnp.float32)
    )
    start = jax.tree.map(np.asarray, start)  # constants of the program, on no device
    widen = 0.5 * math.log(sampling_bias)

    def original(key: jax.Array, request: Request) -> pools.Pool:
        return _draw(sampler, key, start, request)

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
        return measures.measure(params, location, spread, tail)

    config = {
        "dim": dim,
        "estimator": estimator,
        "sampler": sampler,
        "mean": location.tolist(),
        "covariance": spread.tolist(),
        "sampling_bias": sampling_bias,
        "tail": tail,
    }
    return Family(
        name="gaussian",
        config=config,
        pools=pools.moments() if sampler == "exact" else pools.rows(4 * dim),
        metrics=measures.metrics(location, spread),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half the original's"),
            "late": Threshold(
                "log_variance",
                math.log(0.01 * np.trace(spread) / dim),
                "variance below 1 % of the original's",
            ),
        },
        original=original,
        init=lambda key: jax.tree.map(jnp.asarray, start),
        fit=fit,
        sample=sample,
        measure=measure,
        coords={"dimension": np.arange(dim)} if dim > 1 else {},
        check=functools.partial(_check_sizes, dim, estimator, sampler),
        serves=_check_moments if sampler == "exact" else lambda regime: None,
        description=estimator + (f", d = {dim}" if dim > 1 else ""),
        closed_forms=functools.partial(closed_forms, config),
        figures=_figures,
    )


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    from collapse_jax.reports import moment_figures

    del generations
    drawn = {
        "mean_drift": moment_figures.mean_drift(run.summary, curves),
        "variance_decay": moment_figures.variance_decay(run.summary, curves),
        "estimation_error": moment_figures.estimation_error({"": run.history}),
    }
    return OwnFigures(drawn, replaces=("mean",))


def _draw(sampler: str, key: jax.Array, model: Affine, request: Request) -> pools.Pool:
    dim = model.log_scale.shape[-1]
    if sampler == "rows":
        bits = jax.random.bits(key, (request.capacity, dim))
        return pools.Rows(random.normal(bits), request.count, model)
    return pools.Moments(
        request.count, affine.compose(model, bartlett.moments(key, dim, request.count))
    )


def _fit_rows(pool: pools.Rows) -> Affine:
    """Mean and ddof=0 covariance of rows, computed in the pool's frame, where scales are near 1."""
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
    assert pool.frame is not None, "Gaussian rows always have a frame"
    return affine.compose(pool.frame, affine.from_factor(mean, factor))


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
        raise arguments.setting_error(
            "covariance", "a symmetric positive definite matrix", spread.tolist()
        )
    return location, spread


def _check_moments(regime: Regime) -> None:
    """Rejects regimes that subsample pools or draw random counts, which moments cannot do."""
    if regime.subsamples:
        raise SettingError(
            f"regime: {regime.name} draws from a pool without replacement, which gaussian with"
            " moments cannot do (moments do not contain single samples); use sampler=rows"
        )
    if regime.realise is not None:
        raise SettingError(
            f"regime: {regime.name} with independent members has a random number of real samples,"
            " which gaussian with moments cannot serve; use sampler=rows"
        )


def _check_sizes(dim: int, estimator: str, sampler: str, sizes: Sizes) -> None:
    """Requires that every fit has full rank."""
    if sizes.training.count - 1 < dim:
        raise SettingError(
            f"samples: expected at least {dim + 1} per generation for a Gaussian of dim {dim}, got"
            f" {sizes.training.count}"
        )
    drawn = [sizes.synthetic.count, sizes.fresh.count, sizes.reused.count]
    if sampler == "exact" and max(drawn) - 1 < dim:
        raise SettingError(
            f"samples: expected at least {dim + 1} from one source for the exact sampler at dim"
            f" {dim}, got at most {max(drawn)}; use sampler=rows"
        )
