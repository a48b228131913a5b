"""Figures of discrete chains: survival of symbols."""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.family import Curves
from collapse_jax.reports import style
from collapse_jax.reports.style import STYLE
from collapse_jax.results.table import describe


@matplotlib.rc_context(STYLE)
def symbol_survival(summary: xr.Dataset, curves: Curves) -> Figure:
    """Share of surviving words, one line per bin of initial frequency.

    Bins without words, or without a word in any chain's first fit, are omitted.
    """
    figure, (ax,) = style.figure("Survival of words by initial frequency", describe(summary))
    x = style.generations(ax, summary)
    shares = summary["surviving_share_mean"]
    edges = summary["frequency_bin"].values if "frequency_bin" in summary.coords else None
    labels = style.bin_labels(np.arange(shares.shape[1]) if edges is None else edges)
    seen = [i for i in range(shares.shape[1]) if not np.all(shares.values[:, i] == 0)]
    lines = {labels[i]: shares.values[:, i] for i in seen}
    curve = curves.get(("surviving_share", "mean"))
    if curve is not None and np.ndim(curve) > 1:
        curve = np.asarray(curve)[:, seen]
    style.entries(ax, x, lines, curve=curve, label="expected share")
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("share of surviving words, mean over chains")
    return style.legend(figure, title="initial frequency")
