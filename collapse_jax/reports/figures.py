"""Figures of a run, drawn from its summary without pyplot: no global state, no display needed.

Bands contain shares of the chains; dashed dark lines are closed forms, labelled by their formula.
"""

import io
import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence

import matplotlib
import numpy as np
import xarray as xr
from etils import epath
from matplotlib.figure import Figure

from collapse_jax.family import Curves, Family, RunData
from collapse_jax.reports import style
from collapse_jax.reports.style import BLUE, COLOURS, GREY, STYLE, VERMILION
from collapse_jax.results import survival
from collapse_jax.results.table import (
    describe,
    entry_label,
    long_name,
    metric_names,
    number_of_chains,
    original,
)

Figures = dict[str, Figure]
_styled = matplotlib.rc_context(STYLE)


@_styled
def metric(summary: xr.Dataset, name: str, expected: Curves) -> Figure:
    """Median, 50 % and 90 % bands and mean over chains; only means for a vector's entries."""
    figure, (ax,) = style.figure(long_name(summary, name), describe(summary))
    mean, curve = summary[f"{name}_mean"], expected.get((name, "mean"))
    x = style.generations(ax, summary)
    single = number_of_chains(summary) == 1
    ax.set_ylabel(style.with_units(style.symbol(summary, name), mean.attrs.get("units", "")))
    if mean.ndim > 1:
        flat = mean.values.reshape(mean.shape[0], -1)
        lines = {
            style.plain(entry_label(mean, i)): flat[:, k]
            for k, i in enumerate(np.ndindex(mean.shape[1:]))
        }
        style.entries(ax, x, lines, curve=curve, label=style.expectation(summary, name))
        style.log_y(ax)
        return style.legend(figure, title="" if single else "mean over chains")
    style.spread(ax, x, style.quantiles(summary, name), BLUE, single=single)
    if not single:
        ax.plot(x, style.y(mean.values), color=VERMILION, linewidth=1.1, label="mean")
    style.theory(ax, x, curve, style.expectation(summary, name))
    level = original(summary, name)
    if level is not None:
        label = f"the original itself: {level:.4g}"
        ax.axhline(float(level), color=GREY, linewidth=1.0, label=label)
    if not name.startswith("log_"):  # no log axis for a logarithm
        style.log_y(ax)
    return style.legend(figure)


@_styled
def collapse_times(summary: xr.Dataset) -> Figure:
    """Kaplan-Meier curves with 95 % bands of each collapse, and of non-finite chains if any."""
    figure, (ax,) = style.figure("Time to collapse (Kaplan\u2013Meier)", describe(summary))
    generations = summary.sizes["generation"]
    lost = summary["nonfinite"].values
    kinds = [str(name) for name in summary.data_vars if str(name).endswith("_collapse")]
    kinds += ["nonfinite"] if np.any(lost >= 0) else []
    origin = 1 if generations > 10 else 0  # log axes show generation + 1
    style.generations(ax, summary, log_above=10)
    dashes = ("-", (0, (6, 2)), (0, (2, 1.5)))  # keeps coinciding curves apart
    for i, name in enumerate(kinds):
        curve = survival.kaplan_meier(
            summary[name].values, generations, None if name == "nonfinite" else lost
        )
        colour = GREY if name == "nonfinite" else COLOURS[i % len(COLOURS)]
        x = origin + np.concatenate([[0], curve.generation, [generations]])
        shapes = [np.concatenate([[1.0], part, part[-1:]]) for part in curve[1:4]]
        style.shade(ax, x, shapes[1], shapes[2], colour=colour, steps=True)
        text = _events(name, curve, summary[name].values, lost)
        ax.step(x, shapes[0], where="post", color=colour, linestyle=dashes[i % 3], label=text)
    ax.set_xlim(origin * 0.95, origin + generations)
    ax.set_ylim(-0.02, 1.04)
    ax.set_ylabel("share of chains still without the event")
    return style.legend(figure, columns=1)


def _events(name: str, curve: survival.Survival, reached: np.ndarray, lost: np.ndarray) -> str:
    event = "non-finite" if name == "nonfinite" else name.replace("_", " ")
    chains = f"{curve.chains:,} chain{'' if curve.chains == 1 else 's'}"
    if curve.events == 0:
        return f"{event}: not reached within the run ({chains})"
    censored = curve.chains - curve.events
    left = (
        0 if name == "nonfinite" else int(np.sum((lost >= 0) & ((reached < 0) | (reached >= lost))))
    )
    unseen = f", {left:,} of them non-finite" if left else ""
    return f"{event}: {curve.events:,} of {chains}, {censored:,} censored{unseen}"


@_styled
def overlay(
    runs: Mapping[str, xr.Dataset],
    name: str,
    expected_by_label: Mapping[str, Curves],
    level: tuple[str, float] | None = None,
) -> Figure:
    """One scalar metric of several runs: means if there is a closed form, else medians.

    Args:
      runs: {label: summary}.
      name: name of the metric.
      expected_by_label: {label: closed forms}.
      level: label and value of a horizontal line, such as the starting value; None for no line.
    """
    first = next(iter(runs.values()))
    curves = {label: expected_by_label.get(label, {}).get((name, "mean")) for label in runs}
    compared = any(curve is not None for curve in curves.values())
    title = f"{long_name(first, name)}: {'means' if compared else 'medians'} and 50 % bands"
    figure, (ax,) = style.figure(title, describe(*runs.values()))
    longest = max(runs.values(), key=lambda run: run.sizes["generation"])
    for (label, run), colour in zip(runs.items(), style.palette(len(runs)), strict=True):
        x, quantile = style.generations(ax, run, like=longest), style.quantiles(run, name)
        style.shade(ax, x, quantile(0.25), quantile(0.75), colour=colour)
        centre = style.y(run[f"{name}_mean"].values) if compared else quantile(0.5)
        ax.plot(x, centre, color=colour, label=style.plain(label))
        style.theory(ax, x, curves[label], style.expectation(run, name))
    if level is not None:
        ax.axhline(level[1], color="0.35", linewidth=1.0, linestyle=":", label=level[0])
    units = str(first[f"{name}_mean"].attrs.get("units", ""))
    ax.set_ylabel(style.with_units(style.symbol(first, name), units))
    style.log_y(ax)
    return style.legend(figure)


def of_run(family: Family, run: RunData, curves: Curves, generations: Sequence[int]) -> Figures:
    """All figures of a run: the family's own, one per metric, and the times to collapse.

    Args:
      family: family of the run.
      run: history and summary of the run.
      curves: closed forms of the run, heavy-tailed ones included.
      generations: generations that the family's own figures select, if they show single ones.

    Returns:
      {file name: figure}.
    """
    with matplotlib.rc_context(STYLE):
        own = family.figures(run, curves, generations)
    return {**own.drawn, **standard(run.summary, curves, own.replaces)}


def standard(summary: xr.Dataset, curves: Curves, without: Collection[str] = ()) -> Figures:
    """One figure per metric except those in `without`, and the times to collapse, by file name."""
    names = [name for name in metric_names(summary) if name not in without]
    figures = {_file_name(name): metric(summary, name, curves) for name in names}
    if "nonfinite" in summary:
        figures["collapse_times"] = collapse_times(summary)
    return figures


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


@_styled
def save(figures: Mapping[str, Figure], directory: str | os.PathLike[str]) -> dict[str, epath.Path]:
    """Writes figures as PNG files into a directory, local or gs://; returns their paths by name."""
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, figure in figures.items():
        image = io.BytesIO()
        with warnings.catch_warnings():
            # A corpus's title may be in a script that the font lacks; boxes are drawn instead.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(image, format="png", dpi=120)
        paths[name] = folder / f"{name}.png"
        paths[name].write_bytes(image.getvalue())
    return paths
