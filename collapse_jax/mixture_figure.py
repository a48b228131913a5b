"""Densities of a chain's mixtures at some generations, side by side as in Shumailov et al. 2024."""

import json
from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collapse_jax import drawing
from collapse_jax.drawing import BLUE, DARK, STYLE
from collapse_jax.summary_table import describe
from collapse_jax.truths import Truth, truth

_POINTS = 161  # of a grid, per axis
_REACH = 3.5  # standard deviations of the original that panels show


@matplotlib.rc_context(STYLE)
def densities(history: xr.Dataset, generations: Sequence[int], chain: int = 0) -> Figure:
    """The density of one chain's model at each of the generations that it has reached.

    In one dimension a line beside the original's; in more, contours in the first two.

    Args:
      history: of a mixture run, every chain kept.
      generations: of the snapshots.
      chain: which is drawn.
    """
    shown = [g for g in dict.fromkeys(generations) if g < history.sizes["generation"]]
    shown = shown or [history.sizes["generation"] - 1]
    models = [_model(history.isel(chain=chain, generation=g)) for g in shown]
    family = json.loads(history.attrs["family"])
    original = truth(family["truth"])
    columns = min(len(shown) + 1, 4)
    rows = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.6 * rows + 0.7), layout="constrained")
    figure.suptitle(
        f"Densities of chain {chain}: {describe(history)}",
        x=0.012, horizontalalignment="left", fontsize=10.0,
    )  # fmt: skip
    titles = ["original", *(f"generation {g}" for g in shown)]
    first: Axes | None = None
    for i, (title, model) in enumerate(zip(titles, [original, *models], strict=True)):
        ax = figure.add_subplot(rows, columns, i + 1, sharex=first, sharey=first)
        first = first or ax
        ax.set_title(title)
        _panel(ax, model, original)
    return figure


def _model(at: xr.Dataset) -> Truth:
    """The first two dimensions of a model, as marginals."""
    return Truth(*(np.asarray(at[name].values, float)
                   for name in ("weight", "component_mean", "component_covariance")))  # fmt: skip


def _panel(ax: Axes, model: Truth, original: Truth) -> None:
    middle = original.weights @ original.means
    reach = _REACH * np.sqrt(original.variance)
    axes = [np.linspace(c - reach, c + reach, _POINTS) for c in middle[:2]]
    ax.set_xlabel("x" if original.dim == 1 else "dimension 0")
    if original.dim == 1:
        grid = axes[0][:, None]
        ax.plot(axes[0], _density(original, grid), color=DARK, linestyle="--", linewidth=1.0)
        ax.plot(axes[0], _density(model, grid), color=BLUE)
        ax.set_ylabel("density")
        return
    values = _density(model, np.stack(np.meshgrid(*axes), axis=-1))
    ax.set_ylabel("dimension 1")
    peak = values.max()
    if peak > 0:
        ax.contourf(*axes, values, levels=np.linspace(0.02, 1, 9) * peak, cmap="Blues")
    # Components narrower than the grid are seen as points.
    alive = model.weights > 1e-3
    ax.plot(*model.means[alive, :2].T, linestyle="", marker="+", color=drawing.VERMILION)
    ax.set_xlim(axes[0][0], axes[0][-1])
    ax.set_ylim(axes[1][0], axes[1][-1])
    ax.set_aspect("equal")


def _density(model: Truth, grid: np.ndarray) -> np.ndarray:
    """Of the first one or two dimensions, on f64[..., m]; 0 where a component has no extent."""
    dims = grid.shape[-1]
    total = np.zeros(grid.shape[:-1])
    for weight, mean, covariance in zip(*model, strict=True):
        part = covariance[:dims, :dims]
        determinant = np.linalg.det(part)
        if not determinant > 0:
            continue
        shifted = grid - mean[:dims]
        square = np.einsum("...i,ij,...j->...", shifted, np.linalg.inv(part), shifted)
        total += weight * np.exp(-0.5 * square) / np.sqrt((2 * np.pi) ** dims * determinant)
    return total
