"""Figures of language models: perplexity under generation 0's model, and survival of types."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.reports import style
from collapse_jax.reports.style import STYLE
from collapse_jax.results.table import describe


@matplotlib.rc_context(STYLE)
def histograms(summary: xr.Dataset, generations: Sequence[int]) -> Figure:
    """Perplexity of training blocks under generation 0's model (the paper's figure).

    Means over chains of each chain's density, on a log axis; the outermost bins include all values
    beyond them.

    Args:
      summary: a run's summary.
      generations: generations to show, up to the run's last, which is always included.
    """
    shown = style.reached(summary, generations)
    figure, (ax,) = style.figure(
        "Perplexity of training blocks under generation 0's model", describe(summary)
    )
    middle = summary["log10_perplexity"].values
    half = (middle[1] - middle[0]) / 2
    edges = 10.0 ** np.append(middle - half, middle[-1] + half)
    density = summary["perplexity_density_mean"].values
    for generation, colour in zip(shown, style.shades(len(shown)), strict=True):
        if generation == 0:
            real = "generation 0 (real text)"
            ax.stairs(density[0], edges, color="0.85", fill=True, label=real)
            continue
        label = f"generation {generation}"
        ax.stairs(density[generation], edges, color=colour, linewidth=1.4, label=label)
    ax.set_xscale("log")
    seen = np.flatnonzero(np.nan_to_num(density[shown]).max(axis=0) > 0)
    if len(seen):  # else every chain has diverged
        ax.set_xlim(edges[max(seen[0] - 1, 0)], edges[min(seen[-1] + 2, len(edges) - 1)])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("perplexity of a block")
    ax.set_ylabel("share of blocks per decade")
    return style.legend(figure)


@matplotlib.rc_context(STYLE)
def survival(summary: xr.Dataset) -> Figure:
    """Share of the first training text's types that still occur, by decile of frequency."""
    figure, (ax,) = style.figure(
        "Types of the first training text that still occur", describe(summary)
    )
    x = style.generations(ax, summary)
    shares = summary["survival_mean"].values
    last = shares.shape[1] - 1
    names = {0: "most frequent tenth", last: "rarest tenth"}
    lines = {names.get(i, f"tenth {i + 1}"): shares[:, i] for i in range(shares.shape[1])}
    style.entries(ax, x, lines)
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("share of types left, mean over chains")
    return style.legend(figure, title="by frequency in the first text")
