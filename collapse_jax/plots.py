"""Figures of a run, drawn from its summary; without pyplot, so no global state and no display.

Bands are shares of chains; a dashed dark line is a closed form, labelled with what it is of.
"""

import os
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import matplotlib
import numpy as np
import xarray as xr
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from collapse_jax import history
from collapse_jax.summary_table import (
    Expected,
    describe,
    long_name,
    measured,
    metric_names,
    original_mean,
    sample_size,
    settings,
    total,
)

# Okabe and Ito's palette, told apart with any colour vision.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9",
)  # fmt: skip
DARK, GREY = "#222222", "#777777"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 10.0,
    "axes.titlesize": 9.0,
    "axes.titlecolor": "#555555",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "figure.titlesize": 12.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "text.usetex": False,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
}
FORMULAS = {
    ("mean", "mean"): r"$E\,\mu_n$",
    ("mean", "variance"): r"$E(\mu_n-\mu)^2$",
    ("log_variance", "mean"): r"$E\,\ln\sigma_n^2$",
    ("log_determinant", "mean"): r"$E\,\ln|\Sigma_n|$",
    ("w2_squared", "mean"): r"$E\,W_2^2$",
    ("heterozygosity", "mean"): r"$E\,H_n$",
    ("support", "mean"): "expected support",
}
_MOST_LINES = 10  # of a vector metric in one panel
_DECADES = 12  # that a log axis shows at most
_styled = matplotlib.rc_context(STYLE)
Quantile = Callable[[float], np.ndarray]


class Run(Protocol):
    """What `standard` needs of a `collapse_jax.Result`."""

    @property
    def history(self) -> xr.Dataset: ...  # noqa: D102

    @property
    def summary(self) -> xr.Dataset: ...  # noqa: D102


@_styled
def metric(summary: xr.Dataset, name: str, expected: Expected) -> Figure:
    """Median, 50 % and 90 % bands and mean of a metric over chains; a line an entry of a vector."""
    figure, (ax,) = _figure(long_name(summary, name), describe(summary))
    mean = summary[f"{name}_mean"]
    theory = expected.get((name, "mean"))
    x = _generations(ax, summary)
    ax.set_ylabel(_with_units(name.replace("_", " "), summary, name))
    if mean.ndim > 1:
        return _entries(figure, ax, x, summary, name, theory)
    _spread(ax, x, _quantiles(summary, name), BLUE)
    if summary.attrs.get("chains") != 1:
        ax.plot(x, _y(mean.values), color=VERMILION, linewidth=1.1, label="mean")
    _theory(ax, x, theory, FORMULAS.get((name, "mean"), f"expected {name.replace('_', ' ')}"))
    _choose_log_y(ax)
    return _legend(figure)


@_styled
def mean_drift(summary: xr.Dataset, expected: Expected) -> Figure:
    """The Gaussian's drift: E(mu_n - mu)^2 against its closed form, and mu itself."""
    figure, (left, right) = _figure("Drift of the mean", describe(summary), panels=2)
    found = measured(summary, "mean", "variance")
    vector = found.value.ndim > 1
    if vector:
        found = total(found)
    x = _generations(left, summary)
    near = (_y(found.value - 1.96 * found.se), _y(found.value + 1.96 * found.se))
    left.fill_between(x, *near, color=VERMILION, alpha=0.25, linewidth=0, label="95 % interval")
    left.plot(x, _y(found.value), color=VERMILION, label="mean square over chains")
    _theory(left, x, expected.get(("mean", "variance")), FORMULAS["mean", "variance"])
    square = r"$|\mu_n-\mu|^2$" if vector else r"$(\mu_n-\mu)^2$"
    left.set_ylabel(f"mean of {square} [{_units(summary, 'mean')}$^2$]")
    _choose_log_y(left)
    x = _generations(right, summary)
    of_mean = summary["mean_quantile"]
    _spread(right, x, _quantiles(summary, "mean", (0,) if vector else ()), BLUE)
    right.axhline(np.ravel(original_mean(summary))[0], color=GREY, linewidth=0.9, label="original")
    which = f", dimension 0 of {of_mean.shape[1]}" if vector else ""
    right.set_ylabel(_with_units(rf"$\mu_n${which}", summary, "mean"))
    return _legend(figure)


@_styled
def variance_decay(summary: xr.Dataset, expected: Expected) -> Figure:
    """The Gaussian's sigma = exp(log_variance / 2), bands over chains, and exp(E ln sigma^2 / 2)."""
    figure, (ax,) = _figure("Decay of the standard deviation", describe(summary))
    x = _generations(ax, summary)
    of_log = _quantiles(summary, "log_variance")
    _spread(ax, x, lambda level: np.exp(0.5 * of_log(level)), BLUE)
    if summary.attrs.get("chains") != 1:
        geometric = np.exp(0.5 * _y(summary["log_variance_mean"].values))
        ax.plot(x, geometric, color=VERMILION, linewidth=1.1, label="geometric mean")
    curve = expected.get(("log_variance", "mean"))
    if curve is not None:
        formula = r"$\exp(\frac{1}{2}E\,\ln\sigma_n^2)$"
        _theory(ax, x, np.exp(0.5 * np.asarray(curve)), formula)
    ax.axhline(_original_sd(summary), color=GREY, linewidth=0.9, label="original")
    ax.set_yscale("log")
    _plain_log_ticks(ax)
    several = settings(summary, "family").get("dim", 1) > 1
    symbol = r"root mean marginal variance" if several else r"$\sigma_n$"
    ax.set_ylabel(f"{symbol} [{_units(summary, 'mean')}]")
    return _legend(figure)


@_styled
def estimation_error(runs: Mapping[str, xr.Dataset]) -> Figure:
    """The paper's figure: |sigma - sigma_n| and |mu - mu_n| over generations, for several runs.

    Args:
      runs: {label: history with every chain, or summary}; from a summary the quantiles are
        interpolated between those it holds.
    """
    first = next(iter(runs.values()))
    several = f"{len(runs)} runs, the first: " if len(runs) > 1 else ""
    figure, axes = _figure("Error of the estimates", several + describe(first), panels=2)
    for (label, run), colour in zip(runs.items(), _palette(len(runs)), strict=True):
        named = label if "M =" in label else f"{label}, M = {sample_size(run)}"
        for ax, quantile in zip(axes, _errors(run), strict=True):
            x = _generations(ax, run, log_above=10)
            _spread(ax, x, quantile, colour, f"{named}: ", only_half=len(runs) > 1)
    units = _units(first, "mean")
    axes[0].set_ylabel(rf"$|\sigma-\sigma_n|$ [{units}]")
    several_dims = settings(first, "family").get("dim", 1) > 1
    norm = r"$\|\mu-\mu_n\|$" if several_dims and "chain" in first["mean"].dims else r"$|\mu-\mu_n|$"
    axes[1].set_ylabel(f"{norm} [{units}]")
    for ax in axes:
        _choose_log_y(ax)
    return _legend(figure)


@_styled
def symbol_survival(summary: xr.Dataset, expected: Expected) -> Figure:
    """Share of words still in use, by how frequent they were: one line a bin of frequency."""
    figure, (ax,) = _figure("Survival of words by initial frequency", describe(summary))
    x = _generations(ax, summary)
    ax.set_ylabel("share of words that survive")
    ax.set_ylim(-0.02, 1.02)
    theory = expected.get(("surviving_share", "mean"))
    return _entries(figure, ax, x, summary, "surviving_share", theory)


@_styled
def collapse_times(summary: xr.Dataset) -> Figure:
    """Kaplan-Meier curves of each kind of collapse, with 95 % bands; of non-finite chains if any."""
    figure, (ax,) = _figure("Time to collapse (Kaplan\u2013Meier)", describe(summary))
    generations = summary.sizes["generation"]
    lost = summary["nonfinite"].values
    curves = [str(name) for name in summary.data_vars if str(name).endswith("_collapse")]
    styles = dict(zip(curves, COLOURS, strict=False))
    if np.any(lost >= 0):
        styles["nonfinite"] = GREY
    edge = 0.0 if generations <= 10 else 1.0
    for name, colour in styles.items():
        censored = None if name == "nonfinite" else lost
        curve = history.kaplan_meier(summary[name].values, generations, censored)
        x = edge + np.concatenate([[0], curve.generation, [generations]])
        shape = [np.concatenate([[1.0], y, y[-1:]]) for y in curve[1:4]]
        ax.step(x, shape[0], where="post", color=colour, label=_events(name, curve, lost))
        ax.fill_between(x, *shape[1:], step="post", color=colour, alpha=0.2, linewidth=0)
    _generations(ax, summary, log_above=10)
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("share of chains not yet collapsed")
    return _legend(figure, columns=1)


@_styled
def overlay(
    runs: Mapping[str, xr.Dataset], name: str, expected_by_label: Mapping[str, Expected]
) -> Figure:
    """One scalar metric of several runs: means where there is theory to compare, else medians."""
    first = next(iter(runs.values()))
    curves = {label: expected_by_label.get(label, {}).get((name, "mean")) for label in runs}
    compared = any(curve is not None for curve in curves.values())
    lines = f"lines: {'means' if compared else 'medians'}; bands: 50 % of chains"
    figure, (ax,) = _figure(long_name(first, name), f"{lines}; the first run: {describe(first)}")
    longest = max(runs.values(), key=lambda run: run.sizes["generation"])
    _generations(ax, longest)
    for (label, run), colour in zip(runs.items(), _palette(len(runs)), strict=True):
        x, quantile = _generations(ax, run, like=longest), _quantiles(run, name)
        ax.fill_between(x, quantile(0.25), quantile(0.75), color=colour, alpha=0.2, linewidth=0)
        centre = _y(run[f"{name}_mean"].values) if compared else quantile(0.5)
        ax.plot(x, centre, color=colour, label=label)
    formula = FORMULAS.get((name, "mean"), f"expected {name.replace('_', ' ')}")
    for label, curve in curves.items():
        _theory(ax, _generations(ax, runs[label], like=longest), curve, formula)
    ax.set_ylabel(_with_units(name.replace("_", " "), first, name))
    _choose_log_y(ax)
    return _legend(figure)
