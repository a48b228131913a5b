"""Figure of a study of error sources: one row per class; columns per source, then the whole."""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collapse_jax import theory
from collapse_jax.error_sources.summary import (
    ALONE,
    EDGE_MASS,
    ROUNDING,
    Mean,
    compare,
    edge_mass,
    mean,
)
from collapse_jax.reports import style
from collapse_jax.reports.style import COLOURS, DARK, STYLE

_TITLES = (
    "statistical alone, by M",
    "expressivity alone",
    "approximation alone",
    "sum of the three against the whole",
)
_COLOUR = dict(zip(ALONE, (COLOURS[0], COLOURS[2], COLOURS[3]), strict=True))


@matplotlib.rc_context(STYLE)
def error_sources(found: xr.Dataset) -> Figure:
    """Each source alone, and the whole process over the stacked sources.

    Bands are two standard errors of the mean over chains.

    Args:
      found: dataset of `study.study`.
    """
    models = [str(model) for model in found["model"].values]
    figure = Figure(figsize=(14.4, 2.9 * len(models) + 1.5), layout="constrained")
    figure.suptitle(
        "Three sources of error: KL(truth || model) by generation",
        x=0.012,
        horizontalalignment="left",
    )
    axes = figure.subplots(len(models), 4, squeeze=False, sharex=True)
    for row, model in zip(axes, models, strict=True):
        _statistical(row[0], found, model)
        for ax, source in zip(row[1:3], ALONE[1:], strict=True):
            one = mean(found[f"{source}_kl"].sel(model=model))
            ax.plot(_x(found), one.value, color=_COLOUR[source])
            ax.set_ylim(0, max(1.15 * np.nanmax(one.value), ROUNDING))
        _whole(row[3], found, model)
        row[0].set_ylabel(f"{model}\nnats")
    for ax, title in zip(axes[0], _TITLES, strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        style.generations(ax, found, log_above=10**6)
    return style.legend(figure, columns=6)


def _x(found: xr.Dataset) -> np.ndarray:
    return np.asarray(found["generation"].values)


def _band(ax: Axes, x: np.ndarray, one: Mean, colour: str, label: str) -> None:
    low, high = (one.value + sign * 2 * one.error for sign in (-1, 1))
    floor = 1e-3 * np.abs(one.value)  # keeps the band positive on a log axis
    ax.fill_between(x, np.maximum(low, floor), high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(x, one.value, color=colour, label=label)


def _statistical(ax: Axes, found: xr.Dataset, model: str) -> None:
    x, sizes = _x(found), found["samples"].values
    edge = edge_mass(found, "statistical").sel(model=model)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(sizes)))
    for size, colour in zip(sizes, colours, strict=True):
        one = mean(found["statistical_kl"].sel(model=model, samples=size))
        _band(ax, x, one, colour=matplotlib.colors.to_hex(colour), label=f"M = {size:,}")
        # The closed form does not hold for Gaussians truncated by the grid.
        if model == "gaussian" and edge.sel(samples=size) <= EDGE_MASS:
            exact = theory.expected_divergence_of_truth(int(size), x + 1, estimator="ml")
            style.theory(ax, x, exact, r"$E\,\mathrm{KL}$ (Gaussian)")
    ax.set_yscale("log")


def _whole(ax: Axes, found: xr.Dataset, model: str) -> None:
    x, one = _x(found), compare(found, model)
    below = np.zeros(len(x))
    for name in ALONE:
        above = below + one.parts[name].value
        ax.fill_between(x, below, above, color=_COLOUR[name], alpha=0.45, linewidth=0, label=name)
        below = above
    size = found.attrs["compared_samples"]
    _band(ax, x, one.total, colour=style.GREY, label=f"sum of the three, M = {size:,}")
    _band(ax, x, one.full, colour=COLOURS[1], label=f"whole process, M = {size:,}")
    ends = (int(find(one.ratio)) for find in (np.nanargmin, np.nanargmax))
    text = "\nto ".join(
        f"{one.ratio[g]:.3f} \u00b1 {one.ratio_error[g]:.3f} (generation {g})" for g in ends
    )
    text = f"whole / sum =\n{text}"
    ax.annotate(text, (0.03, 0.95), xycoords="axes fraction", va="top", fontsize=9, color=DARK)
    ax.set_ylim(0, 1.4 * max(np.nanmax(one.full.value), np.nanmax(one.total.value)))
