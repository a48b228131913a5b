"""Figures of the mean and the standard deviation of models over generations.

They need the metrics `mean` and `log_variance`, with their values for the original.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import norm

from collapse_jax.family import Curves
from collapse_jax.reports import style
from collapse_jax.reports.style import BLUE, GREY, STYLE, VERMILION, Quantile
from collapse_jax.results.table import (
    average,
    describe,
    measured,
    number_of_chains,
    original,
    sample_size,
)


@matplotlib.rc_context(STYLE)
def mean_drift(summary: xr.Dataset, curves: Curves) -> Figure:
    """Drift of the mean: E(mu_n - mu)^2 against its closed form, and mu_n itself.

    In several dimensions, the square is averaged over dimensions and mu_n's first entry is shown.
    """
    figure, (left, right) = style.figure("Drift of the mean", describe(summary), panels=2)
    found = measured(summary, "mean", "variance")
    dims = found.value.shape[1:]
    if dims:
        found = average(found)
    x = style.generations(left, summary)
    units = str(summary["mean_mean"].attrs.get("units", ""))
    single = number_of_chains(summary) == 1
    if not single:
        low, high = (style.y(found.value + sign * 1.96 * found.se) for sign in (-1, 1))
        style.shade(left, x, low, high, colour=VERMILION, label="95 % interval (normal theory)")
    label = "squared drift" if single else "mean over chains"
    left.plot(x, style.y(found.value), color=VERMILION, label=label)
    formula = r"$E(\mu_n-\mu)^2$" + (" per dimension" if dims else "")
    style.theory(left, x, curves.get(("mean", "variance")), formula)
    square = r"$|\mu_n-\mu|^2/d$" if dims else r"$(\mu_n-\mu)^2$"
    left.set_ylabel(style.with_units(square, f"({units})^2" if units else ""))
    style.log_y(left)
    x, first = style.generations(right, summary), (0,) * len(dims)
    style.spread(right, x, style.quantiles(summary, "mean", first), BLUE, single=single)
    level = _original_moments(summary)[1]
    right.axhline(level, color=GREY, linewidth=1.0, label=r"original $\mu$")
    which = f", dimension 0 of {dims[0]}" if dims else ""
    right.set_ylabel(style.with_units(rf"$\mu_n${which}", units))
    return style.legend(figure)


@matplotlib.rc_context(STYLE)
def variance_decay(summary: xr.Dataset, curves: Curves) -> Figure:
    """Sigma = exp(log_variance / 2) over chains, and its closed form exp(E ln sigma^2 / 2)."""
    figure, (ax,) = style.figure("Decay of the standard deviation", describe(summary))
    x = style.generations(ax, summary)
    of_log = style.quantiles(summary, "log_variance")
    single = number_of_chains(summary) == 1
    style.spread(ax, x, lambda level: np.exp(0.5 * of_log(level)), BLUE, single=single)
    if not single:
        geometric = np.exp(0.5 * style.y(summary["log_variance_mean"].values))
        ax.plot(x, geometric, color=VERMILION, linewidth=1.1, label="geometric mean")
    ax.axhline(_original_moments(summary)[0], color=GREY, linewidth=1.0, label=r"original $\sigma$")
    curve = curves.get(("log_variance", "mean"))
    if curve is not None:
        formula = r"$\exp(E\,\ln\sigma_n^2\,/\,2)$"
        style.theory(ax, x, np.exp(0.5 * np.asarray(curve)), formula)
    style.plain_log(ax)
    several = summary["mean_mean"].ndim > 1
    symbol = r"$\sigma_n$" + (" (rms over dimensions)" if several else "")
    ax.set_ylabel(style.with_units(symbol, str(summary["mean_mean"].attrs.get("units", ""))))
    return style.legend(figure)


@matplotlib.rc_context(STYLE)
def estimation_error(runs: Mapping[str, xr.Dataset]) -> Figure:
    """The paper's figure: |sigma - sigma_n| and |mu - mu_n| over generations, for several runs.

    Args:
      runs: {label: history of every chain, or summary}; a summary's quantiles are interpolated.
    """
    title = "Error of the estimates" + (": medians and 50 % bands" if len(runs) > 1 else "")
    figure, axes = style.figure(title, describe(*runs.values()), panels=2)
    longest = max(runs.values(), key=lambda run: run.sizes["generation"])
    for (label, run), colour in zip(runs.items(), style.palette(len(runs)), strict=True):
        size = f"M = {sample_size(run)}" if sample_size(run) else ""
        named = label if size in label else ", ".join(filter(None, (label, size)))
        single = number_of_chains(run) == 1
        for ax, errors in zip(axes, _estimation_errors(run), strict=True):
            x = style.generations(ax, run, 10, like=longest)
            style.spread(
                ax,
                x,
                lambda level, errors=errors: style.y(errors(level)),  # type: ignore[misc]
                colour=colour,
                label=": ".join(filter(None, (named, "the only chain" if single else "median"))),
                single=single,
                half_only=len(runs) > 1,
            )
    first = next(iter(runs.values()))
    mean = first["mean" if "mean" in first else "mean_mean"]
    units, several = str(mean.attrs.get("units", "")), "dimension" in mean.dims
    axes[0].set_ylabel(style.with_units(r"$|\sigma-\sigma_n|$", units))
    norm = r"$|\mu-\mu_n|$" + (", dimension 0" if several else "")
    axes[1].set_ylabel(style.with_units(norm, units))
    for ax in axes:
        style.log_y(ax)
    return style.legend(figure)


def _original_moments(run: xr.Dataset) -> tuple[float, float]:
    """The original's standard deviation (rms over dimensions) and mean (first dimension)."""
    log_variance, mean = original(run, "log_variance"), original(run, "mean")
    if log_variance is None or mean is None:
        raise ValueError(
            "original: expected a value for the metrics mean and log_variance, got none"
        )
    return float(np.exp(0.5 * log_variance)), float(np.ravel(mean)[0])


def _estimation_errors(run: xr.Dataset) -> tuple[Quantile, Quantile]:
    """Quantiles over chains of |sigma - sigma_n| and |mu - mu_n|: {level: f64[generation]}.

    Args:
      run: history, or summary, whose quantiles are interpolated linearly in the normal score. In
        several dimensions mu's first entry is taken.
    """
    centres = _original_moments(run)
    if "log_variance" in run:
        finite = run["finite"].values
        mean = run["mean"].values
        values = np.exp(0.5 * run["log_variance"].values), mean.reshape(*mean.shape[:2], -1)[..., 0]
        samples = [np.where(finite, x, np.nan).astype(np.float64) for x in values]
    else:
        mean = run["mean_quantile"].values
        mean = mean.reshape(len(mean), -1, mean.shape[-1])[:, 0]
        values = np.exp(0.5 * run["log_variance_quantile"].values), mean
        samples = [_resampled(run["quantile"].values, x) for x in values]
    sigma, mu = (_quantile_of(np.abs(x - c)) for x, c in zip(samples, centres, strict=True))
    return sigma, mu


def _resampled(levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """f64[sample, generation] with quantiles [generation, level], linear in the normal score."""
    scores = norm.ppf(levels)
    wanted = norm.ppf((np.arange(2000) + 0.5) / 2000)
    return np.stack([np.interp(wanted, scores, row) for row in quantiles], axis=1)


def _quantile_of(samples: np.ndarray) -> Quantile:
    """Quantile function of f64[sample, generation]; NaN samples are left out."""

    def quantile(level: float) -> np.ndarray:
        kept = [column[~np.isnan(column)] for column in samples.T]
        return np.array([np.quantile(x, level) if x.size else np.nan for x in kept])

    return quantile
