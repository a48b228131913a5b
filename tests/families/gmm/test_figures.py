"""Density panels show the history, and say what it lacks."""

import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from collapse_jax import families
from collapse_jax.families.gmm import figures
from collapse_jax.reports.figures import save

LINE = {"weights": [1.0], "means": [[1.0]], "covariances": [[[0.25]]]}


def history(truth: Any, dim: int) -> xr.Dataset:
    """Two chains of two standard components; chain 0 is not finite from generation 2 on."""
    family = families.gmm(truth=truth)
    shape = (2, 4, 2)  # chain, generation, component
    data = {
        "weight": np.full(shape, 0.5),
        "component_mean": np.broadcast_to(np.array([[-1.0], [1.0]]), (*shape, dim)).copy(),
        "component_covariance": np.broadcast_to(np.eye(dim), (*shape, dim, dim)).copy(),
    }
    finite = np.ones((2, 4), bool)
    finite[0, 2:] = False
    data["component_mean"][0, 2:] = np.nan
    variables: dict[str, Any] = {
        name: (
            ("chain", "generation", *family.metrics[name].dims),
            values,
            {"units": family.metrics[name].units},
        )
        for name, values in data.items()
    }
    attributes = {
        "family": json.dumps({"name": "gmm", **family.config}),
        "regime": json.dumps({"name": "replace", "samples": 50}),
    }
    return xr.Dataset({**variables, "finite": (("chain", "generation"), finite)}, attrs=attributes)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_panels_in_the_plane(tmp_path: Path) -> None:
    figure = figures.densities(history("two-gaussians", 2), [0, 1, 2])
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles == ["original", "generation 0", "generation 1", "generation 2"]
    assert [len(ax.collections) for ax in figure.axes] == [1, 1, 1, 0]
    assert [text.get_text() for text in figure.axes[3].texts] == ["not finite"]
    (marks,) = figure.axes[1].get_lines()
    np.testing.assert_array_equal(marks.get_xdata(), [-1.0, 1.0])
    assert figure.axes[1].get_xlabel() == "dimension 0 [data units]"
    assert figure.axes[1].get_ylabel() == "dimension 1 [data units]"
    assert legend(figure) == ["mean of a component of weight above 0.001"]
    assert "each panel's peak" in figure.legends[0].get_title().get_text()
    save({"densities": figure}, tmp_path)


def test_panels_on_a_line(tmp_path: Path) -> None:
    figure = figures.densities(history(LINE, 1), [1, 3], chain=1)
    panel = figure.axes[2]
    assert panel.get_ylabel() == "density [(data units)\u207b\u00b9]"
    original, model = panel.get_lines()
    assert np.trapezoid(original.get_ydata(), original.get_xdata()) == pytest.approx(1, abs=1e-3)
    x = np.asarray(model.get_xdata())
    exact = (np.exp(-0.5 * (x - 1) ** 2) + np.exp(-0.5 * (x + 1) ** 2)) / np.sqrt(8 * np.pi)
    np.testing.assert_allclose(np.asarray(model.get_ydata()), exact)
    assert legend(figure) == ["original", "model"]
    save({"densities": figure}, tmp_path)


def test_a_run_without_single_chains_says_that_it_has_no_panels() -> None:
    run: Any = types.SimpleNamespace(history=xr.Dataset())
    with pytest.warns(UserWarning, match="^densities: omitted"):
        assert families.gmm().figures(run, {}, [0]).drawn == {}
