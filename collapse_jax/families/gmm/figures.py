"""Densities of a chain's mixtures at some generations, side by side as in Shumailov et al. 2024."""

import json
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collapse_jax.families.gmm.originals import GaussianMixture, truth
from collapse_jax.reports import style
from collapse_jax.reports.style import BLUE, DARK, STYLE
from collapse_jax.results.table import describe

_POINTS = 161  # of a grid, per axis
_REACH = 3.5  # standard deviations of the original that panels show
_ALIVE = 1e-3  # weight above which a component's mean is marked
_SHADES = "Shades: density, each panel from 2 % of its own peak to the peak"


@matplotlib.rc_context(STYLE)
def densities(history: xr.Dataset, generations: Sequence[int], chain: int = 0) -> Figure:
    """The density of one chain's model at each of the generations that it has reached.

    In one dimension a line beside the original's; in more, contours of the marginal density in the
    first two. Panels of a chain that is not finite say so.

    Args:
      history: of a mixture run, every chain kept.
      generations: of the snapshots.
      chain: which is drawn.
    """
    shown = [g for g in dict.fromkeys(generations) if g < history.sizes["generation"]]
    shown = shown or [history.sizes["generation"] - 1]
    drawn = history.isel(chain=chain)
    models = [_model(drawn.isel(generation=g)) for g in shown]
    original = truth(json.loads(history.attrs["family"])["truth"])
    columns = min(len(shown) + 1, 4)
    rows = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.6 * rows + 1.2), layout="constrained")
    title = f"Densities of chain {chain}: {describe(history)}"
    figure.suptitle(
        textwrap.fill(style.plain(title), 36 * columns, break_on_hyphens=False),
        x=0.012, horizontalalignment="left", fontsize=10.0,
    )  # fmt: skip
    units = str(history["component_mean"].attrs.get("units", ""))
    labels = [style.with_units(f"dimension {i}", units) for i in range(2)]
    if original.dim == 1:
        labels = [style.with_units("x", units), style.with_units("density", f"({units})^-1")]
    titles = ["original", *(f"generation {g}" for g in shown)]
    first: Axes | None = None
    for i, (title, model) in enumerate(zip(titles, [original, *models], strict=True)):
        ax = figure.add_subplot(rows, columns, i + 1, sharex=first, sharey=first)
        first = first or ax
        ax.set(title=title, xlabel=labels[0], ylabel=labels[1])
        if model is None:
            ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", va="center")
        else:
            _panel(ax, model, original)
    return style.legend(figure, columns=1, title="" if original.dim == 1 else _SHADES)


def _model(at: xr.Dataset) -> GaussianMixture | None:
    """The model of a chain at a generation; None where the chain is not finite."""
    names = ("weight", "component_mean", "component_covariance")
    return (
        GaussianMixture(*(np.asarray(at[name].values, float) for name in names))
        if at["finite"]
        else None
    )


def _panel(ax: Axes, model: GaussianMixture, original: GaussianMixture) -> None:
    middle = original.weights @ original.means
    reach = _REACH * np.sqrt(original.variance)
    axes = [np.linspace(c - reach, c + reach, _POINTS) for c in middle[:2]]
    if original.dim == 1:
        grid = axes[0][:, None]
        ax.plot(axes[0], _density(original, grid), color=DARK, linestyle="--", linewidth=1.0,
                label="original")  # fmt: skip
        if model is not original:
            ax.plot(axes[0], _density(model, grid), color=BLUE, label="model")
        return
    values = _density(model, np.stack(np.meshgrid(*axes), axis=-1))
    peak = values.max()
    if peak > 0:
        ax.contourf(*axes, values, levels=np.linspace(0.02, 1, 9) * peak, cmap="Blues")
    # Components narrower than the grid are seen as points.
    alive = model.weights > _ALIVE
    ax.plot(*model.means[alive, :2].T, linestyle="", marker="+", color=style.VERMILION,
            label=f"mean of a component of weight above {_ALIVE:g}")  # fmt: skip
    ax.set_xlim(axes[0][0], axes[0][-1])
    ax.set_ylim(axes[1][0], axes[1][-1])
    ax.set_aspect("equal")


def _density(model: GaussianMixture, grid: np.ndarray) -> np.ndarray:
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
