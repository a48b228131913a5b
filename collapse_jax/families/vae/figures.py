"""Figures of image chains: grids of generated images, the latent density, shares of the classes."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax.reports import style
from collapse_jax.reports.style import DARK, STYLE
from collapse_jax.results.table import describe

_ACROSS = 4  # images in a row of a grid


@matplotlib.rc_context(STYLE)
def grids(history: xr.Dataset, generations: Sequence[int], chain: int = 0) -> Figure:
    """What one chain's model generates, a grid of images for each of the generations reached.

    Args:
      history: of a run that kept pictures, every chain kept.
      generations: to be shown; those beyond the run are left out, its last is always there.
      chain: which is drawn.
    """
    shown = style.reached(history, generations)
    pictures = history["picture"].isel(chain=chain)
    side = round(pictures.sizes["pixel"] ** 0.5)
    columns = min(len(shown), 5)
    rows = -(-len(shown) // columns)
    down = -(-pictures.sizes["image"] // _ACROSS)
    height = 2.1 * down / _ACROSS + 0.3
    figure = Figure(figsize=(2.1 * max(columns, 3), height * rows + 0.6), layout="constrained")
    figure.suptitle(
        f"Generated images of chain {chain}: {describe(history)}",
        x=0.012, horizontalalignment="left", fontsize=10.0, wrap=True,
    )  # fmt: skip
    for i, generation in enumerate(shown):
        ax = figure.add_subplot(rows, columns, i + 1)
        ax.set_title(f"generation {generation}")
        tiles = pictures.isel(generation=generation).values.reshape(-1, side, side)
        ax.imshow(_tiled(tiles, down), cmap="gray", vmin=0.0, vmax=1.0)
        ax.set_axis_off()
    return figure


def _tiled(tiles: np.ndarray, down: int) -> np.ndarray:
    """Images f32[image, side, side] as one, with a line between them."""
    side = tiles.shape[-1] + 1
    sheet = np.ones((down * side - 1, _ACROSS * side - 1))
    for i, tile in enumerate(tiles):
        top, left = (i // _ACROSS) * side, (i % _ACROSS) * side
        sheet[top : top + side - 1, left : left + side - 1] = tile
    return sheet


@matplotlib.rc_context(STYLE)
def latent_density(summary: xr.Dataset, generations: Sequence[int]) -> Figure:
    """The paper's figure: generation 0's encoder on generated images, by generation.

    Medians over chains with the band between the 5 % and the 95 % quantile.

    Args:
      summary: of a run.
      generations: to be shown; those beyond the run are left out, its last is always there.
    """
    shown = style.reached(summary, generations)
    figure, (ax,) = style.figure(
        "Density of generation 0's encoder mean on generated images", describe(summary)
    )
    x = summary["latent"].values
    for generation, colour in zip(shown, style.shades(len(shown)), strict=True):
        at = summary.isel(generation=generation)
        quantile = {
            level: at["latent_density_quantile"].sel(quantile=level).values
            for level in (0.05, 0.5, 0.95)
        }
        ax.fill_between(x, quantile[0.05], quantile[0.95], color=colour, alpha=0.2, linewidth=0)
        ax.plot(x, quantile[0.5], color=colour, label=f"generation {generation}")
    ax.set_xlabel("mean of q(z | x), all dimensions")
    ax.set_ylabel("density")
    ax.set_xlim(-3, 3)
    ax.set_ylim(bottom=0)
    return style.legend(figure)


@matplotlib.rc_context(STYLE)
def class_shares(summary: xr.Dataset) -> Figure:
    """The share of generated images in each class: means over chains with 90 % bands."""
    figure, (ax,) = style.figure("Shares of the classes among generated images", describe(summary))
    x = style.generations(ax, summary)
    labels = summary["class"].values
    palette = matplotlib.colormaps["tab10" if len(labels) <= 10 else "nipy_spectral"]
    places = np.arange(10) if len(labels) <= 10 else np.linspace(0, 1, len(labels))
    for label, colour in zip(labels, palette(places[: len(labels)]), strict=True):
        at = summary.sel({"class": label})
        low, high = (
            style.y(at["class_share_quantile"].sel(quantile=level).values) for level in (0.05, 0.95)
        )
        ax.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.plot(x, style.y(at["class_share_mean"].values), color=colour, label=str(label))
    even = 1.0 / len(labels)
    ax.axhline(even, color=DARK, linestyle=":", linewidth=1.0, label="all alike")
    ax.set_ylabel("share of images")
    ax.set_ylim(bottom=0)
    return style.legend(figure, columns=6)
