"""The kernel density family: a normal kernel on each row of the training set (Scott 1992).

A draw is a random row (with replacement) plus normal noise of the bandwidth. A fit already chooses
the rows of the next generation's draws, one per draw. Draws then have exactly the distribution of
the full density, while the size of the state does not grow with the pool. As in the Gaussian
family, rows are stored in a frame, so that scales never underflow.
Axis legend: d dimension, C centres, M rows.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from scipy.special import ndtri

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.families.kde.closed_forms import closed_forms
from collapse_jax.family import (
    Curves,
    Family,
    Metric,
    Metrics,
    Origin,
    OwnFigures,
    Request,
    RunData,
    Threshold,
    Training,
)
from collapse_jax.numerics import affine, random
from collapse_jax.numerics.affine import Affine
from collapse_jax.regimes import Sizes

Rule = Literal["scott", "silverman"]


class Kernels(NamedTuple):
    """A kernel density: the centres of the next draws, and its exact moments."""

    centres: jax.Array  # f32[C, d], in the frame; the i-th is that of the i-th draw
    frame: Affine  # mean and standard deviations of all rows; shear None
    log_bandwidth: jax.Array  # f32[d], ln h
    log_variance: jax.Array  # f32[d], ln (ddof=0 variance of all rows + h^2)


def kde(
    centres: int, dim: int = 1, bandwidth: float | Rule = "scott", tail: float = 0.02
) -> Family:
    r"""Chains of kernel density estimates fitted to their own draws; the original is N(0, I).

    The density is $\frac1M \sum_i \prod_j N(x_j; x_{ij}, h_j^2)$. For fixed h the variance tends to
    M h^2; for h proportional to the standard deviation it grows by 1 - 1/M + c^2 per generation.
    The rules set h_j = c s_j, with s_j the unbiased standard deviation of dimension j and M the
    size of the training set. (scipy.stats.gaussian_kde uses the same c, but the full covariance as
    kernel if d > 1.)

    Args:
      centres: largest number of synthetic draws per generation.
      dim: dimension d, at least 1.
      bandwidth: h > 0 in data units, the same in every dimension; or a rule, a factor c times each
        standard deviation: "scott", c = M^(-1/(d+4)), or "silverman",
        c = (M (d+2) / 4)^(-1/(d+4)).
      tail: probability of the original's two tails together, in (0, 1).

    Returns:
      A family with metrics mean (one entry per dimension if d > 1), variance and log_variance (of
      the density, mean over dimensions), log_bandwidth (mean over dimensions), tail_mass (exact, of
      the kernels on all rows), and lower bounds on W2^2 and KL to the original.

    Raises:
      ValueError: if an argument is outside its range.
    """
    centres = arguments.integer("centres", centres, at_least=1)
    dim = arguments.integer("dim", dim, at_least=1)
    bandwidth = _bandwidth(bandwidth)
    tail = arguments.share("tail", tail, above=0, below=1)

    def original(key: jax.Array, request: Request) -> pools.Rows:
        bits = jax.random.bits(key, (request.capacity, dim))
        identity = Affine(jnp.zeros(dim), jnp.zeros(dim), None)
        return pools.Rows(random.normal(bits), request.count, identity)

    def init(key: jax.Array) -> Kernels:
        del key
        blank = jnp.zeros(dim)
        return Kernels(jnp.zeros((centres, dim)), Affine(blank, blank, None), blank, blank)

    def fit(key: jax.Array, params: Kernels, training: Training) -> tuple[Kernels, Metrics]:
        del params
        return _fit(key, training.pool, centres, bandwidth), {}

    def measure(key: jax.Array, params: Kernels, training: Training, origin: Origin) -> Metrics:
        del key, origin
        return _measure(params, training.pool, tail)

    def check(sizes: Sizes) -> None:
        if sizes.synthetic.count > centres:
            raise SettingError(
                f"centres: expected at least {sizes.synthetic.count}, the draws per generation,"
                f" got {centres}"
            )

    return Family(
        name="kde",
        config={"dim": dim, "bandwidth": bandwidth, "centres": centres, "tail": tail},
        pools=pools.rows(4 * dim),
        metrics=_metrics(dim),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half the original's"),
            "late": Threshold(
                "log_variance", math.log(0.01), "variance below 1 % of the original's"
            ),
        },
        original=original,
        init=init,
        fit=fit,
        sample=_sample,
        measure=measure,
        coords={"dimension": np.arange(dim)} if dim > 1 else {},
        check=check,
        description=f"bandwidth {bandwidth}" + (f", d = {dim}" if dim > 1 else ""),
        closed_forms=functools.partial(closed_forms, dim, bandwidth, tail),
        figures=_figures,
    )


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    """As for Gaussians, without the decay of the variance, which may grow here."""
    from collapse_jax.reports import moment_figures

    del generations
    drawn = {
        "mean_drift": moment_figures.mean_drift(run.summary, curves),
        "estimation_error": moment_figures.estimation_error({"": run.history}),
    }
    return OwnFigures(drawn, replaces=("mean",))


def _sample(key: jax.Array, params: Kernels, request: Request) -> pools.Rows:
    """Draws row i around centre i; rows beyond the count are never used."""
    dim = params.centres.shape[1]
    # A barrier here and in the fit: XLA does not vectorise a hash fused with its uses.
    bits = jax.lax.optimization_barrier(jax.random.bits(key, (request.capacity, dim)))
    width = jnp.exp(params.log_bandwidth - params.frame.log_scale)
    chosen = jnp.resize(params.centres, (request.capacity, dim))
    return pools.Rows(chosen + width * random.normal(bits), request.count, params.frame)


def _fit(key: jax.Array, pool: pools.Rows, centres: int, bandwidth: float | str) -> Kernels:
    frame = pool.frame
    assert frame is not None, "rows of a kernel density always have a frame"
    count = jnp.float32(pool.count)
    mean, log_sd = _standardising(pool)
    # Identical rows have no scale: they keep that of the pool.
    inner = Affine(mean, jnp.where(jnp.isfinite(log_sd), log_sd, 0.0), None)
    index = random.mulhi(jax.random.bits(key, (centres,)), jnp.uint32(pool.count))
    chosen = pool.values[jax.lax.optimization_barrier(index.astype(jnp.int32))]
    log_sd = frame.log_scale + log_sd
    if isinstance(bandwidth, str):
        dim = mean.shape[0]
        effective = count if bandwidth == "scott" else count * jnp.float32((dim + 2) / 4)
        unbiased = log_sd + 0.5 * jnp.log(count / (count - 1.0))
        log_bandwidth = unbiased - jnp.log(effective) / jnp.float32(dim + 4)
    else:
        log_bandwidth = jnp.full_like(log_sd, math.log(bandwidth))
    return Kernels(
        (chosen - mean) * jnp.exp(-inner.log_scale),
        affine.compose(frame, inner),
        log_bandwidth,
        jnp.logaddexp(2.0 * log_sd, 2.0 * log_bandwidth),
    )


def _standardising(pool: pools.Rows) -> tuple[jax.Array, jax.Array]:
    """Mean and log of the ddof=0 standard deviation of the live rows, in the pool's frame."""
    # Sums are along the last axis: on CPU, XLA took seven times as long over a middle axis.
    mask, count, columns = pools.live(pool), jnp.float32(pool.count), pool.values.T
    if mask is not None:
        columns = jnp.where(mask, columns, 0.0)
    mean = jnp.sum(columns, axis=1) / count
    residuals = columns - mean[:, None]
    if mask is not None:
        residuals = jnp.where(mask, residuals, 0.0)
    # Rows may lie within a bandwidth of each other, so that squared residuals would underflow.
    peak = jnp.max(jnp.abs(residuals), axis=1)
    relative = residuals / jnp.where(peak > 0, peak, 1.0)[:, None]
    return mean, jnp.log(peak) + 0.5 * jnp.log(jnp.sum(relative**2, axis=1) / count)


def _measure(params: Kernels, pool: pools.Rows, tail: float) -> Metrics:
    """Metrics of the density on all rows, not only on the stored centres.

    W2^2 and KL of two distributions are at least those of the Gaussians with the same moments
    (Gelbrich 1990; a Gaussian has the largest entropy), and at least the sum over marginals if the
    original's are independent. For a single Gaussian kernel both bounds are exact.
    """
    mean, log_variances = params.frame.centre, params.log_variance
    dim = mean.shape[0]
    variances = jnp.exp(log_variances)
    log_variance = jax.nn.logsumexp(log_variances) - math.log(dim) if dim > 1 else log_variances[0]
    deviation = jnp.exp(0.5 * log_variances) - 1.0
    return {
        "mean": mean if dim > 1 else mean[0],
        "variance": jnp.mean(variances),
        "log_variance": log_variance,
        "log_bandwidth": jnp.mean(params.log_bandwidth),
        "tail_mass": _tail_mass(params, pool, tail),
        "w2_squared_bound": jnp.sum(mean**2 + deviation**2),
        "kl_bound": 0.5 * jnp.sum(variances + mean**2 - 1.0 - log_variances),
    }


def _tail_mass(params: Kernels, pool: pools.Rows, tail: float) -> jax.Array:
    """Probability beyond the original's tail quantiles, mean over kernels and dimensions."""
    assert pool.frame is not None
    rows = affine.apply(pool.frame, pool.values)
    precision = math.sqrt(0.5) * jnp.exp(-params.log_bandwidth)
    quantile = np.float32(-ndtri(tail / 2))
    beyond = 0.5 * (
        special.erfc((quantile - rows) * precision) + special.erfc((quantile + rows) * precision)
    )
    mask = pools.live(pool)
    if mask is not None:
        beyond = jnp.where(mask[:, None], beyond, 0.0)
    return jnp.mean(jnp.sum(beyond, axis=0)) / pool.count


def _metrics(dim: int) -> dict[str, Metric]:
    def distance(text: str, units: str, symbol: str) -> Metric:
        return Metric(text, units, scale=0.01, limit=1e6, nonnegative=True, symbol=symbol)

    dims = ("dimension",) if dim > 1 else ()
    per_dimension = ", mean over dimensions" if dim > 1 else ""
    return {
        "mean": Metric(
            "mean of the density",
            "data units",
            dims,
            scale=0.2,
            limit=1e3,
            original=(0.0,) * dim if dim > 1 else 0.0,
            symbol=r"\mu_n",
        ),
        "variance": distance(
            f"variance of the density{per_dimension}", "data units^2", r"\sigma_n^2"
        ),
        "log_variance": Metric(
            "log of the mean marginal variance" if dim > 1 else "log-variance of the density",
            "ln(data units^2)",
            scale=0.5,
            limit=1e3,
            original=0.0,
            symbol=r"\ln\sigma_n^2",
        ),
        "log_bandwidth": Metric(
            f"log of the bandwidth{per_dimension}",
            "ln(data units)",
            scale=0.5,
            limit=1e3,
            symbol=r"\ln h_n",
        ),
        "tail_mass": Metric(
            "density's probability beyond the original's tail quantiles",
            scale=1e-4,
            limit=1.0,
            nonnegative=True,
        ),
        "w2_squared_bound": distance(
            "lower bound on the squared 2-Wasserstein distance to the original",
            "data units^2",
            r"\mathrm{lower\ bound\ on}\ W_2^2",
        ),
        "kl_bound": distance(
            "lower bound on KL(density || original)", "nats", r"\mathrm{lower\ bound\ on\ KL}"
        ),
    }


def _bandwidth(given: float | Rule) -> float | Rule:
    """Returns a positive number or the name of a rule; rejects anything else."""
    if isinstance(given, str) and given in get_args(Rule):
        return given
    try:
        return arguments.number("bandwidth", given, above=0)
    except SettingError:
        raise SettingError(
            f"bandwidth: expected a positive number or one of {', '.join(get_args(Rule))}, got"
            f" {given!r}"
        ) from None
