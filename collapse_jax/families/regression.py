"""The linear regression family: weights refitted by least squares to their own predictions.

Rows X ~ N(0, I_d), y = X w + noise. A data set is represented by X'X and X'y: O(d^2) numbers for
any number of rows, drawn by the Bartlett decomposition. Results depend on the true w only through
the error of the weights, so data and models are stored relative to w, without loss of precision.
Axis legend: d dimension, T rows.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, theory
from collapse_jax.arguments import SettingError
from collapse_jax.family import (
    Curves,
    Family,
    Metric,
    Metrics,
    Origin,
    Request,
    Threshold,
    Training,
)
from collapse_jax.numerics import bartlett, linalg, random
from collapse_jax.pools import Count, Pools
from collapse_jax.regimes import Regime, Sizes
from collapse_jax.results.closed_forms import training_sizes

Design = Literal["same", "new"]


class Gram(NamedTuple):
    """Sufficient statistics of `count` rows (X, y)."""

    count: Count  # type: ignore[assignment]
    matrix: jax.Array  # f32[d, d], X'X
    moment: jax.Array  # f32[d], X'(y - X w) with the true w


class Weights(NamedTuple):
    """A fitted regression."""

    error: jax.Array  # f32[d], fitted weights less the true ones
    factor: jax.Array | None  # f32[d, d], lower factor of the first X'X, if X is always the same


def regression(dim: int = 10, noise: float = 1.0, design: Design = "new") -> Family:
    r"""Chains of linear regressions fitted to predictions of earlier ones, plus noise.

    A generation's labels are $y = X \hat w_{n-1} + \sigma \epsilon$. Under replace $E |\hat w_n -
    w|^2 = n \sigma^2 d / (T - d - 1)$; under accumulate it stays bounded (Gerstgrasser et al.,
    arXiv 2404.01413). The process is the same for every true w, up to its shift.

    Args:
      dim: number of weights d, at least 1.
      noise: standard deviation sigma > 0 of the noise, in units of y.
      design: rows X: "new" every generation, or always the "same" (under replace, accumulate).

    Returns:
      A family with metrics excess_risk $|\hat w - w|^2$ (of predictions at x ~ N(0, I)), its
      logarithm log_excess_risk, noise_share $\sigma^2 / (\sigma^2 + |\hat w - w|^2)$ and
      weights_error (one entry per dimension).

    Raises:
      ValueError: if an argument is outside its range.
    """
    dim = arguments.integer("dim", dim, at_least=1)
    noise = arguments.number("noise", noise, above=0)
    design = arguments.choice("design", design, get_args(Design))
    same = design == "same"

    def original(key: jax.Array, request: Request) -> Gram:
        return _draw(key, jnp.zeros(dim), request.count, noise)

    def init(key: jax.Array) -> Weights:
        del key
        return Weights(jnp.zeros(dim), jnp.zeros((dim, dim)) if same else None)

    def sample(key: jax.Array, params: Weights, request: Request) -> Gram:
        if not same:
            return _draw(key, params.error, request.count, noise)
        normals = random.normal(jax.random.bits(key, (dim,)))
        return _labelled(params.factor, params.error, normals, count=request.count, noise=noise)

    def fit(key: jax.Array, params: Weights, training: Training) -> tuple[Weights, Metrics]:
        del key
        pool = training.pool
        factor = None
        if params.factor is not None:
            first = params.factor[0, 0] == 0.0
            factor = jnp.where(first, linalg.cholesky(pool.matrix), params.factor)
        return Weights(linalg.solve_positive(pool.matrix, pool.moment), factor), {}

    def measure(key: jax.Array, params: Weights, training: Training, origin: Origin) -> Metrics:
        del key, training, origin
        excess = jnp.sum(params.error**2)
        return {
            "excess_risk": excess,
            "log_excess_risk": jnp.log(excess),
            "noise_share": 1.0 / (1.0 + excess / np.float32(noise**2)),
            "weights_error": params.error,
        }

    return Family(
        name="regression",
        config={"dim": dim, "noise": noise, "design": design},
        pools=_additive(),
        metrics=_metrics(noise),
        thresholds={
            "early": Threshold("noise_share", 0.5, "excess risk above the noise's variance"),
            "late": Threshold("noise_share", 0.01, "excess risk above 99 times the noise's"),
        },
        original=original,
        init=init,
        fit=fit,
        sample=sample,
        measure=measure,
        coords={"dimension": np.arange(dim)},
        check=lambda sizes: _check_sizes(dim, sizes),
        serves=_check_same_design if same else lambda regime: None,
        description=f"design {design}" + (f", d = {dim}" if dim > 1 else ""),
        closed_forms=functools.partial(_closed_forms, dim, noise, design),
    )


def _closed_forms(dim: int, noise: float, design: str, regime: Regime, generations: int) -> Curves:
    """The mean excess risk; its variance over chains is finite only for T > d + 3."""
    fits, samples = np.arange(1, generations + 1), training_sizes(regime, generations)
    options: dict[str, Any] = {"dimension": dim, "noise_variance": noise**2}
    if regime.name == "replace":
        curve = theory.regression_excess_risk(samples, fits, **options)
    elif regime.name == "accumulate" and regime.constant_samples:
        options["design"] = design
        curve = theory.regression_accumulate_excess_risk(samples[0], fits, **options)
    else:
        return {}
    heavy_tailed = np.full(generations, min(samples) <= dim + 3)
    return {("excess_risk", "mean"): np.ma.masked_where(heavy_tailed, curve)}


def _draw(key: jax.Array, error: jax.Array, count: Count, noise: float) -> Gram:
    """Draws `count` rows of new X, labelled by weights with this error."""
    dim = error.shape[0]
    k_design, k_noise = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    normals = random.normal(jax.random.bits(k_noise, (dim,)))
    return _labelled(
        bartlett.factor(k_design, dim, count), error, normals, count=count, noise=noise
    )


def _labelled(
    factor: Any, error: jax.Array, normals: jax.Array, count: Count, noise: float
) -> Gram:
    """Given X'X = L L', X'(y - X w) is X'X (w_hat - w) + sigma L z with z ~ N(0, I)."""
    matrix = factor @ factor.T
    return Gram(count, matrix, matrix @ error + jnp.float32(noise) * (factor @ normals))


def _additive() -> Pools:
    """The pool algebra: X'X and X'y add up; single rows are unknown."""

    def merge(a: Gram, b: Gram, capacity: int) -> Gram:
        del capacity
        return Gram(a.count + b.count, a.matrix + b.matrix, a.moment + b.moment)

    return Pools(
        "Gram matrices",
        merge,
        subsample=None,
        size=lambda pool: pool.count,
        grow=lambda pool, capacity: pool,
        bytes=lambda capacity: None,
    )


def _metrics(noise: float) -> dict[str, Metric]:
    squared = float(noise**2)
    return {
        "excess_risk": Metric(
            "excess risk, |fitted - true weights|^2",
            "units of y^2",
            scale=1e-3 * squared,
            limit=1e6 * squared,
            nonnegative=True,
            symbol=r"|\hat w_n-w|^2",
        ),
        "log_excess_risk": Metric(
            "log of the excess risk",
            "ln(units of y^2)",
            scale=0.5,
            limit=1e3,
            symbol=r"\ln|\hat w_n-w|^2",
        ),
        "noise_share": Metric(
            "share of the noise in the squared error of predictions",
            scale=1e-2,
            limit=1.0,
            nonnegative=True,
        ),
        "weights_error": Metric(
            "fitted less true weights",
            "units of y",
            dims=("dimension",),
            scale=1e-2 * noise,
            limit=1e3 * noise,
        ),
    }


def _check_sizes(dim: int, sizes: Sizes) -> None:
    """Requires T > d + 1, so that the expected excess risk is finite."""
    if sizes.training.count <= dim + 1:
        raise SettingError(
            f"samples: expected more than {dim + 1} per generation for a regression of dim {dim},"
            f" got {sizes.training.count}"
        )


def _check_same_design(regime: Regime) -> None:
    """Requires that each generation relabels all rows of the same X."""
    later = regime.sizes(1)
    if later.fresh or later.reused or not regime.constant_samples:
        raise SettingError(
            f"regime: {regime.name} mixes data sets or changes their size, which regression with"
            " design=same cannot serve; use design=new"
        )
