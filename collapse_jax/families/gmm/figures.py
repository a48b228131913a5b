"""Density panels of a chain's mixtures by generation, as in Shumailov et al. 2024."""

import json
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collapse_jax.families.gmm.originals import GaussianMixture, load_original
from collapse_jax.reports import style
from collapse_jax.reports.style import BLUE, DARK, STYLE
from collapse_jax.results.table import describe

_POINTS = 161  # of a grid, per axis
_REACH = 3.5  # half-width of panels, in standard deviations of the original
_ALIVE = 1e-3  # weight above which a component's mean is marked
_SHADES = "Shades: density, from 2 % of each panel's peak to its peak"


@matplotlib.rc_context(STYLE)
def densities(history: xr.Dataset, generations: Sequence[int], chain: int = 0) -> Figure:
    """Density of one chain's model at each of the given generations that it has reached.

    In one dimension, lines of the model's and the original's density; in more, contours of the
    marginal density of the first two. Panels say "not finite" where the chain is not finite.

    Args:
      history: a mixture run's history, with every chain.
      generations: generations to show.
      chain: number of the chain to show.
    """
    shown = [g for g in dict.fromkeys(generations) if g < history.sizes["generation"]]
    shown = shown or [history.sizes["generation"] - 1]
    drawn = history.isel(chain=chain)
    models = [_model(drawn.isel(generation=g)) for g in shown]
    original = load_original(json.loads(history.attrs["family"])["truth"])
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
    """The model of a chain at a generation; None if it is not finite."""
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
    # Components narrower than the grid would be invisible without markers.
    alive = model.weights > _ALIVE
    ax.plot(*model.means[alive, :2].T, linestyle="", marker="+", color=style.VERMILION,
            label=f"mean of a component of weight above {_ALIVE:g}")  # fmt: skip
    ax.set_xlim(axes[0][0], axes[0][-1])
    ax.set_ylim(axes[1][0], axes[1][-1])
    ax.set_aspect("equal")


def _density(model: GaussianMixture, grid: np.ndarray) -> np.ndarray:
    """Marginal density on a grid f64[..., m], without components of zero volume."""
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
