"""Figures of a run, drawn from its summary; without pyplot, so no global state and no display.

Bands are shares of chains; a dashed dark line is a closed form, labelled with what it is of.
"""

import io
import os
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Protocol

import matplotlib
import numpy as np
import xarray as xr
from etils import epath
from matplotlib.figure import Figure

from collapse_jax.reports import style
from collapse_jax.reports.style import BLUE, COLOURS, GREY, STYLE, VERMILION
from collapse_jax.results import survival
from collapse_jax.results.table import (
    Expected,
    average,
    describe,
    entry_label,
    estimation_errors,
    long_name,
    measured,
    metric_names,
    number_of_chains,
    original_mean,
    original_sd,
    sample_size,
    settings,
)

_styled = matplotlib.rc_context(STYLE)


class Run(Protocol):
    """What `standard` needs of a `collapse_jax.Result`."""

    @property
    def history(self) -> xr.Dataset: ...  # noqa: D102

    @property
    def summary(self) -> xr.Dataset: ...  # noqa: D102


@_styled
def metric(summary: xr.Dataset, name: str, expected: Expected) -> Figure:
    """Median, 50 % and 90 % bands and mean of a metric over chains; of a vector, its mean."""
    figure, (ax,) = style.figure(long_name(summary, name), describe(summary))
    mean, curve = summary[f"{name}_mean"], expected.get((name, "mean"))
    x = style.generations(ax, summary)
    single = number_of_chains(summary) == 1
    ax.set_ylabel(style.with_units(style.symbol(name), mean.attrs.get("units", "")))
    if mean.ndim > 1:
        flat = mean.values.reshape(mean.shape[0], -1)
        lines = {
            style.plain(entry_label(mean, i)): flat[:, k]
            for k, i in enumerate(np.ndindex(mean.shape[1:]))
        }
        style.entries(ax, x, lines, curve, style.formula(name))
        style.log_y(ax)
        return style.legend(figure, title="" if single else "mean over chains")
    style.spread(ax, x, style.quantiles(summary, name), BLUE, single=single)
    if not single:
        ax.plot(x, style.y(mean.values), color=VERMILION, linewidth=1.1, label="mean")
    style.theory(ax, x, curve, style.formula(name))
    if "original" in mean.attrs:
        original = float(mean.attrs["original"])
        label = f"the original itself: {original:.4g}"
        ax.axhline(original, color=GREY, linewidth=1.0, label=label)
    if not name.startswith("log_"):  # a logarithm of a logarithm shows nothing
        style.log_y(ax)
    return style.legend(figure)


@_styled
def mean_drift(summary: xr.Dataset, expected: Expected) -> Figure:
    """The Gaussian's drift: E(mu_n - mu)^2 against its closed form, and mu itself.

    In several dimensions the square is averaged over them, and mu's first entry is shown.
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
        style.shade(left, x, low, high, VERMILION, "95 % interval (normal theory)")
    label = "squared drift" if single else "mean over chains"
    left.plot(x, style.y(found.value), color=VERMILION, label=label)
    formula = style.formula("mean", "variance") + (" per dimension" if dims else "")
    style.theory(left, x, expected.get(("mean", "variance")), formula)
    square = r"$|\mu_n-\mu|^2/d$" if dims else r"$(\mu_n-\mu)^2$"
    left.set_ylabel(style.with_units(square, f"({units})^2" if units else ""))
    style.log_y(left)
    x, first = style.generations(right, summary), (0,) * len(dims)
    style.spread(right, x, style.quantiles(summary, "mean", first), BLUE, single=single)
    original = float(np.ravel(original_mean(summary))[0])
    right.axhline(original, color=GREY, linewidth=1.0, label=r"original $\mu$")
    which = f", dimension 0 of {dims[0]}" if dims else ""
    right.set_ylabel(style.with_units(rf"$\mu_n${which}", units))
    return style.legend(figure)


@_styled
def variance_decay(summary: xr.Dataset, expected: Expected) -> Figure:
    """The Gaussian's sigma = exp(log_variance / 2) over chains, and exp(E ln sigma^2 / 2)."""
    figure, (ax,) = style.figure("Decay of the standard deviation", describe(summary))
    x = style.generations(ax, summary)
    of_log = style.quantiles(summary, "log_variance")
    single = number_of_chains(summary) == 1
    style.spread(ax, x, lambda level: np.exp(0.5 * of_log(level)), BLUE, single=single)
    if not single:
        geometric = np.exp(0.5 * style.y(summary["log_variance_mean"].values))
        ax.plot(x, geometric, color=VERMILION, linewidth=1.1, label="geometric mean")
    ax.axhline(original_sd(summary), color=GREY, linewidth=1.0, label=r"original $\sigma$")
    curve = expected.get(("log_variance", "mean"))
    if curve is not None:
        formula = r"$\exp(E\,\ln\sigma_n^2\,/\,2)$"
        style.theory(ax, x, np.exp(0.5 * np.asarray(curve)), formula)
    style.plain_log(ax)
    several = settings(summary, "family").get("dim", 1) > 1
    symbol = r"$\sigma_n$" + (" (rms over dimensions)" if several else "")
    ax.set_ylabel(style.with_units(symbol, str(summary["mean_mean"].attrs.get("units", ""))))
    return style.legend(figure)


@_styled
def estimation_error(runs: Mapping[str, xr.Dataset]) -> Figure:
    """The paper's figure: |sigma - sigma_n| and |mu - mu_n| over generations, for several runs.

    Args:
      runs: {label: history with every chain, or summary}; from a summary the quantiles are
        interpolated between those it holds.
    """
    title = "Error of the estimates" + (": medians and 50 % bands" if len(runs) > 1 else "")
    figure, axes = style.figure(title, describe(*runs.values()), panels=2)
    longest = max(runs.values(), key=lambda run: run.sizes["generation"])
    for (label, run), colour in zip(runs.items(), style.palette(len(runs)), strict=True):
        size = f"M = {sample_size(run)}"
        named = label if size in label else ", ".join(filter(None, (label, size)))
        single = number_of_chains(run) == 1
        for ax, errors in zip(axes, estimation_errors(run), strict=True):
            x = style.generations(ax, run, 10, like=longest)
            style.spread(
                ax,
                x,
                lambda level, errors=errors: style.y(errors(level)),  # type: ignore[misc]
                colour,
                f"{named}: {'the only chain' if single else 'median'}",
                single=single,
                half_only=len(runs) > 1,
            )
    first = next(iter(runs.values()))
    units = str(first["mean" if "mean" in first else "mean_mean"].attrs.get("units", ""))
    several = settings(first, "family").get("dim", 1) > 1
    axes[0].set_ylabel(style.with_units(r"$|\sigma-\sigma_n|$", units))
    norm = r"$|\mu-\mu_n|$" + (", dimension 0" if several else "")
    axes[1].set_ylabel(style.with_units(norm, units))
    for ax in axes:
        style.log_y(ax)
    return style.legend(figure)


@_styled
def symbol_survival(summary: xr.Dataset, expected: Expected) -> Figure:
    """Share of words still in use, by how frequent they were: one line a bin of frequency.

    Bins of which no chain's first fit saw a word (empty ones, too) are left out.
    """
    figure, (ax,) = style.figure("Survival of words by initial frequency", describe(summary))
    x = style.generations(ax, summary)
    shares = summary["surviving_share_mean"]
    edges = summary["frequency_bin"].values if "frequency_bin" in summary.coords else None
    labels = style.bin_labels(np.arange(shares.shape[1]) if edges is None else edges)
    seen = [i for i in range(shares.shape[1]) if not np.all(shares.values[:, i] == 0)]
    lines = {labels[i]: shares.values[:, i] for i in seen}
    curve = expected.get(("surviving_share", "mean"))
    if curve is not None and np.ndim(curve) > 1:
        curve = np.asarray(curve)[:, seen]
    style.entries(ax, x, lines, curve, "expected share")
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("share of words left, mean over chains")
    return style.legend(figure, title="initial frequency")


@_styled
def collapse_times(summary: xr.Dataset) -> Figure:
    """Kaplan-Meier curves of each collapse with 95 % bands, and of non-finite chains if any."""
    figure, (ax,) = style.figure("Time to collapse (Kaplan\u2013Meier)", describe(summary))
    generations = summary.sizes["generation"]
    lost = summary["nonfinite"].values
    kinds = [str(name) for name in summary.data_vars if str(name).endswith("_collapse")]
    kinds += ["nonfinite"] if np.any(lost >= 0) else []
    origin = 1 if generations > 10 else 0  # log axes show generation + 1
    style.generations(ax, summary, log_above=10)
    dashes = ("-", (0, (6, 2)), (0, (2, 1.5)))  # told apart where curves coincide
    for i, name in enumerate(kinds):
        curve = survival.kaplan_meier(
            summary[name].values, generations, None if name == "nonfinite" else lost
        )
        colour = GREY if name == "nonfinite" else COLOURS[i % len(COLOURS)]
        x = origin + np.concatenate([[0], curve.generation, [generations]])
        shapes = [np.concatenate([[1.0], part, part[-1:]]) for part in curve[1:4]]
        style.shade(ax, x, shapes[1], shapes[2], colour, steps=True)
        text = _events(name, curve, summary[name].values, lost)
        ax.step(x, shapes[0], where="post", color=colour, linestyle=dashes[i % 3], label=text)
    ax.set_xlim(origin * 0.95, origin + generations)
    ax.set_ylim(-0.02, 1.04)
    ax.set_ylabel("share of chains still without the event")
    return style.legend(figure, columns=1)


def _events(name: str, curve: survival.Survival, reached: np.ndarray, lost: np.ndarray) -> str:
    what = "non-finite" if name == "nonfinite" else name.replace("_", " ")
    chains = f"{curve.chains:,} chain{'' if curve.chains == 1 else 's'}"
    if curve.events == 0:
        return f"{what}: not reached within the run ({chains})"
    censored = curve.chains - curve.events
    left = (
        0 if name == "nonfinite" else int(np.sum((lost >= 0) & ((reached < 0) | (reached >= lost))))
    )
    unseen = f", {left:,} of them non-finite" if left else ""
    return f"{what}: {curve.events:,} of {chains}, {censored:,} censored{unseen}"


@_styled
def overlay(
    runs: Mapping[str, xr.Dataset],
    name: str,
    expected_by_label: Mapping[str, Expected],
    level: tuple[str, float] | None = None,
) -> Figure:
    """One scalar metric of several runs: means where there is theory to compare, else medians.

    Args:
      runs: {label: summary}.
      name: of the metric.
      expected_by_label: closed forms of each run.
      level: label and value of what the runs started from, drawn across; None for nothing.
    """
    first = next(iter(runs.values()))
    curves = {label: expected_by_label.get(label, {}).get((name, "mean")) for label in runs}
    compared = any(curve is not None for curve in curves.values())
    title = f"{long_name(first, name)}: {'means' if compared else 'medians'} and 50 % bands"
    figure, (ax,) = style.figure(title, describe(*runs.values()))
    longest = max(runs.values(), key=lambda run: run.sizes["generation"])
    for (label, run), colour in zip(runs.items(), style.palette(len(runs)), strict=True):
        x, quantile = style.generations(ax, run, like=longest), style.quantiles(run, name)
        style.shade(ax, x, quantile(0.25), quantile(0.75), colour)
        centre = style.y(run[f"{name}_mean"].values) if compared else quantile(0.5)
        ax.plot(x, centre, color=colour, label=style.plain(label))
        style.theory(ax, x, curves[label], style.formula(name))
    if level is not None:
        ax.axhline(level[1], color="0.35", linewidth=1.0, linestyle=":", label=level[0])
    units = str(first[f"{name}_mean"].attrs.get("units", ""))
    ax.set_ylabel(style.with_units(style.symbol(name), units))
    style.log_y(ax)
    return style.legend(figure)


def standard(result: Run, expected: Expected, drawn: Collection[str] = ()) -> dict[str, Figure]:
    """The figures of a run, {name of the file: figure}, by family; not those drawn already."""
    summary = result.summary
    family = settings(summary, "family").get("name")
    figures: dict[str, Figure] = {}
    names = metric_names(summary)
    if family in ("gaussian", "kde"):
        whole = result.history if "mean" in result.history else summary
        figures["mean_drift"] = mean_drift(summary, expected)
        if family == "gaussian":  # a density's bandwidth may as well make it grow
            figures["variance_decay"] = variance_decay(summary, expected)
        figures["estimation_error"] = estimation_error({"": whole})
        names.remove("mean")
    if family == "discrete":
        figures["symbol_survival"] = symbol_survival(summary, expected)
        names.remove("surviving_share")
    for name in names:
        if name in drawn:
            continue
        figures[_file_name(name)] = metric(summary, name, expected)
    if "nonfinite" in summary:
        figures["collapse_times"] = collapse_times(summary)
    return figures


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


@_styled
def save(figures: Mapping[str, Figure], directory: str | os.PathLike[str]) -> dict[str, epath.Path]:
    """Writes figures as PNG into a directory, local or gs://, and returns their paths by name."""
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, figure in figures.items():
        image = io.BytesIO()
        with warnings.catch_warnings():
            # A corpus's title may be in a script that the font lacks: boxes will do.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(image, format="png", dpi=120)
        paths[name] = folder / f"{name}.png"
        paths[name].write_bytes(image.getvalue())
    return paths
