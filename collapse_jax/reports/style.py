"""Elements that all figures share: style, axes, bands, theory lines, legends."""

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

Quantile = Callable[[float], np.ndarray]  # level -> f64[generation]

# Okabe and Ito's palette, distinguishable with any colour vision.
COLOURS = BLUE, VERMILION, *_ = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9",
)  # fmt: skip
DARK, GREY = "#222222", "#777777"
STYLE: dict[Any, Any] = {
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
    "text.usetex": False,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
}
_RAISED = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_MOST_LINES = 10  # lines of a vector metric in one panel
_DECADES = 12  # largest range of a log axis


def symbol(summary: xr.Dataset, name: str) -> str:
    """Axis label of a metric: its symbol, or its name if the family gives no symbol."""
    latex = _latex(summary, name)
    return f"${latex}$" if latex else plain(name.replace("_", " "))


def expectation(summary: xr.Dataset, name: str) -> str:
    """Label of the closed form of a metric's mean."""
    latex = _latex(summary, name)
    return rf"$E\,{latex}$" if latex else plain(f"expected {name.replace('_', ' ')}")


def _latex(summary: xr.Dataset, name: str) -> str:
    return str(summary[f"{name}_mean"].attrs.get("symbol", ""))


def plain(text: str) -> str:
    """Escapes mathematics in text for matplotlib; integer powers become superscripts."""
    raised = re.sub(r"\^(-?\d+)", lambda power: power[1].translate(_RAISED), text)
    return raised.replace("$", r"\$")


def figure(title: str, subtitle: str, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side; the subtitle describes the runs."""
    one = panels == 1
    made = Figure(figsize=(7.2, 4.6) if one else (10.8, 4.6), layout="constrained")
    heading = _wrapped(title[:1].upper() + title[1:], 74 if one else 112)
    made.suptitle(heading, x=0.012, horizontalalignment="left")
    axes = [made.add_subplot(1, panels, i + 1) for i in range(panels)]
    axes[0].set_title(_wrapped(subtitle, 95 if one else 150))
    return made, axes


def _wrapped(text: str, letters: int) -> str:
    return plain(textwrap.fill(text.replace(" %", "\u00a0%"), letters, break_on_hyphens=False))


def generations(
    ax: Axes, dataset: xr.Dataset, log_above: int = 50, like: xr.Dataset | None = None
) -> np.ndarray:
    """Prepares a generation axis, logarithmic for long runs.

    Args:
      ax: axes to prepare.
      dataset: history or summary of the run.
      log_above: number of generations above which the axis is logarithmic.
      like: run whose length decides that, if it is not `dataset`.

    Returns:
      The x position of each generation; a single one is drawn as a short line (see `y`).
    """
    count = dataset.sizes["generation"]
    longest = count if like is None else like.sizes["generation"]
    if longest > log_above:
        ax.set_xscale("log")
        ax.set_xlabel("generation + 1 (= number of fits)")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        shift = 1
    else:
        ax.set_xlabel("generation")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        shift = 0
    if count == 1:
        return np.array([-0.3, 0.3]) + shift
    return dataset["generation"].values + float(shift)


def y(values: np.ndarray) -> np.ndarray:
    """f64[generation] as drawn: gaps where not finite; a single generation is a short line."""
    values = np.asarray(values, np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    return np.repeat(values, 2) if len(values) == 1 else values


def quantiles(summary: xr.Dataset, name: str, entry: tuple[int, ...] = ()) -> Quantile:
    """A function from a level to that quantile over chains, f64[generation]."""
    of_metric = summary[f"{name}_quantile"]
    index: Any = (slice(None), *entry)
    return lambda level: y(of_metric.sel(quantile=level).values[index])


def spread(
    ax: Axes,
    x: np.ndarray,
    quantile: Quantile,
    colour: str,
    label: str = "",
    *,
    single: bool = False,
    half_only: bool = False,
) -> None:
    """Median and bands over chains; only a line for a single chain."""
    if single:
        ax.plot(x, quantile(0.5), color=colour, label=label or "the only chain")
        return
    if not half_only:
        shade(
            ax, x, quantile(0.05), quantile(0.95), colour=colour, label="90 % of chains", alpha=0.16
        )
    name = "" if half_only else "50 % of chains"
    shade(ax, x, quantile(0.25), quantile(0.75), colour=colour, label=name, alpha=0.3)
    ax.plot(x, quantile(0.5), color=colour, label=label or "median")


def shade(
    ax: Axes,
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    colour: str,
    label: str = "",
    *,
    alpha: float = 0.2,
    steps: bool = False,
) -> None:
    """A band between two curves."""
    step: Any = "post" if steps else None
    ax.fill_between(
        x, low, high, color=colour, alpha=alpha, linewidth=0, label=label or None, step=step
    )


def theory(ax: Axes, x: np.ndarray, curve: np.ndarray | None, label: str) -> None:
    """Draws a closed form dashed and dark, or as a marker if it is known at one generation only."""
    if curve is None or not np.any(np.isfinite(curve)):
        return
    values = y(curve)
    seen = [text.get_label() for text in ax.get_lines()]
    label = f"theory: {label}"
    (line,) = ax.plot(x, values, color=DARK, linestyle=(0, (5, 3)), linewidth=1.3, zorder=4,
                      label="_" if label in seen else label)  # fmt: skip
    if np.sum(np.isfinite(values)) == 1:
        line.set(marker="D", markersize=4, linestyle="none")


def log_y(ax: Axes) -> None:
    """A log axis if the lines are positive and span more than two decades."""
    drawn = [np.asarray(line.get_ydata(), np.float64) for line in ax.get_lines()]
    values = np.concatenate([values[np.isfinite(values)] for values in drawn])
    if not values.size or np.any(values < 0):
        return
    positive = values[values > 0]
    if positive.size < 0.9 * values.size or positive.max() <= 100 * positive.min():
        return
    top = positive.max()
    plain_log(ax)
    ax.set_ylim(max(positive.min(), top / 10.0**_DECADES) / 2, 1.5 * max(ax.dataLim.y1, top))


def plain_log(ax: Axes) -> None:
    """A log axis for y with a moderate number of labels; linear for a range below a factor of 3."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high < 3 * low:
        return
    ax.set_yscale("log")
    short = low > 0 and high < 300 * low
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=8))
    if short:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def entries(
    ax: Axes,
    x: np.ndarray,
    lines: dict[str, np.ndarray],
    curve: np.ndarray | None = None,
    label: str = "",
) -> None:
    """One line per entry of a vector metric, in the colours of viridis.

    Args:
      ax: where to draw.
      x: generations as drawn.
      lines: {label: f64[generation]}; if there are many, an evenly spaced selection is drawn.
      curve: f64[generation] or f64[generation, entry], with NaN for entries without a closed form.
      label: label of the closed form.
    """
    chosen = np.unique(np.linspace(0, len(lines) - 1, min(len(lines), _MOST_LINES)).round())
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.92, len(chosen)))
    pairs = list(lines.items())
    for i, colour in zip(chosen.astype(int), colours, strict=True):
        ax.plot(x, y(pairs[i][1]), color=colour, label=pairs[i][0])
        if curve is not None and np.ndim(curve) > 1:
            theory(ax, x, curve[:, i], label)
    if curve is not None and np.ndim(curve) == 1:
        theory(ax, x, curve, label)


def legend(made: Figure, columns: int = 0, title: str = "") -> Figure:
    """One legend for all panels, below them, with each label once."""
    found = {
        text: handle
        for ax in made.axes
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if not found:
        return made
    if not columns:
        widest = max(len(re.sub(r"\\\w+|[${}_^\\,]", "", text)) for text in found)
        most = int((92 if made.get_figwidth() < 9 else 140) // (widest + 7))
        rows = -(-len(found) // max(most, 1))
        columns = -(-len(found) // rows)
    made.legend(
        list(found.values()),
        list(found),
        loc="outside lower left",
        ncols=columns,
        title=title or None,
        title_fontsize=STYLE["legend.fontsize"],
        alignment="left",
    )
    return made


def reached(data: xr.Dataset, generations: Sequence[int]) -> list[int]:
    """The given generations that a run has reached, and its last one, in order."""
    last = data.sizes["generation"] - 1
    return sorted({g for g in generations if g <= last} | {last})


def shades(count: int) -> np.ndarray:
    """Colours from light to dark for successive generations, f64[count, 4]."""
    return matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1.0, count))


def palette(count: int) -> Sequence[str]:
    """Colours for runs; they repeat after six."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def with_units(text: str, units: str) -> str:
    """An axis label with units, unless the quantity is dimensionless."""
    return text if units in ("", "1") else f"{text} [{plain(units)}]"


def bin_labels(edges: np.ndarray) -> list[str]:
    """Names of probability bins from their lower edges; edges that are text are names already."""
    if not np.issubdtype(np.asarray(edges).dtype, np.number):
        return [str(edge) for edge in edges]
    shown = [_number(float(edge)) for edge in edges]
    inner = [f"{low} to {high}" for low, high in zip(shown[:-1], shown[1:], strict=True)]
    return [*inner, f"{shown[-1]} and more"]


def _number(value: float) -> str:
    power = np.log10(value) if value > 0 else 0.5
    if abs(power - round(power)) < 1e-9 and not 0 <= power <= 4:
        return rf"$10^{{{round(power)}}}$"
    return f"{value:g}"
