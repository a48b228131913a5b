"""Figures show the given data, and unusual inputs are drawn without warnings."""

import json
import types
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from collapse_jax import families
from collapse_jax.families.discrete.figures import symbol_survival
from collapse_jax.family import Metric, OwnFigures
from collapse_jax.reports import figures, moment_figures, style
from collapse_jax.results import summary

FAMILY = families.gaussian(estimator="ml")
GAUSSIAN = {
    "mean": Metric("mean of the model", "data units"),
    "log_variance": Metric(
        "log-variance of the model", "ln(data units^2)", original=0.0, symbol=r"\ln\sigma_n^2"
    ),
    "w2_squared": Metric("squared distance", "data units^2", nonnegative=True, symbol="W_2^2"),
}


def attributes(family: str, chains: int, **extra: object) -> dict[str, object]:
    return {
        "family": json.dumps({"name": family, **extra}),
        "description": "ml",
        "regime": json.dumps({"name": "preserve", "samples": 50, "fraction": 0.1}),
        "chains": chains,
    }


def gaussian(
    chains: int = 40, generations: int = 20, dim: int = 1, nan: bool = False
) -> tuple[xr.Dataset, xr.Dataset]:
    """History and summary of random numbers, in the layout of a run."""
    rng = np.random.default_rng(0)
    shape = (chains, generations)
    dims: dict[str, tuple[str, ...]] = {"mean": ("dimension",) if dim > 1 else ()}
    finite = np.ones(shape, bool)
    if nan:
        finite[0] = False
        finite[:, -1] = False
    data = {
        "mean": rng.normal(size=(*shape, dim) if dim > 1 else shape),
        "log_variance": -np.abs(rng.normal(size=shape)).cumsum(1),
        "w2_squared": rng.gamma(1.0, size=shape),
    }
    metrics = {name: m._replace(dims=dims.get(name, ())) for name, m in GAUSSIAN.items()}
    metrics["mean"] = metrics["mean"]._replace(original=(0.5,) * dim if dim > 1 else 0.5)
    whole = xr.Dataset(
        {
            name: (
                ("chain", "generation", *metrics[name].dims),
                values,
                {} if metrics[name].original is None else {"original": metrics[name].original},
            )
            for name, values in data.items()
        }
        | {"finite": (("chain", "generation"), finite)},
        {"generation": np.arange(generations)},
    )
    short = summary.from_chains(whole, metrics, {})
    times = {
        "early_collapse": np.where(np.arange(chains) % 2, generations // 2, -1),
        "late_collapse": np.full(chains, -1),
        "nonfinite": np.where(np.arange(chains) == 0, 0, -1) if nan else np.full(chains, -1),
    }
    variables = {name: ("chain", value.astype(np.int32)) for name, value in times.items()}
    short.attrs |= attributes("gaussian", chains)
    whole.attrs |= {k: v for k, v in short.attrs.items() if k != "chains"}
    return whole.assign(variables), short.assign(variables)


def discrete(generations: int = 10) -> xr.Dataset:
    shares = np.linspace(1.0, 0.2, generations)[:, None] * np.array([0.0, 0.5, 1.0])
    history = xr.Dataset(
        {
            "surviving_share": (
                ("chain", "generation", "frequency_bin"),
                np.stack([shares, shares]),
            ),
            "finite": (("chain", "generation"), np.ones((2, generations), bool)),
        },
        {"generation": np.arange(generations), "frequency_bin": [1e-3, 1e-2, 0.1]},
    )
    metrics = {"surviving_share": Metric("share left", "1", ("frequency_bin",))}
    short = summary.from_chains(history, metrics, {"frequency_bin": [1e-3, 1e-2, 0.1]})
    short.attrs |= attributes("discrete", 2) | {"description": "tales of $5 <b>"}
    return short


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The data of the only line with this label."""
    (found,) = [x for x in axes.get_lines() if x.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def test_metric_draws_what_the_summary_holds() -> None:
    _, short = gaussian()
    theory = np.linspace(1.0, 2.0, 20)
    (ax,) = figures.metric(short, "w2_squared", {("w2_squared", "mean"): theory}).axes
    np.testing.assert_array_equal(line(ax, "mean")[1], short["w2_squared_mean"])
    np.testing.assert_array_equal(
        line(ax, "median")[1], short["w2_squared_quantile"].sel(quantile=0.5)
    )
    x, drawn = line(ax, "theory: $E\\,W_2^2$")
    np.testing.assert_array_equal(drawn, theory)
    np.testing.assert_array_equal(x, np.arange(20))
    assert ax.get_title(loc="left") == "gaussian (ml), preserve (fraction = 0.1), M = 50, 40 chains"
    assert "data units\u00b2" in ax.get_ylabel()


def test_long_runs_have_a_log_axis_that_starts_at_one() -> None:
    _, short = gaussian(generations=60)
    (ax,) = figures.metric(short, "log_variance", {}).axes
    assert ax.get_xscale() == "log"
    assert line(ax, "mean")[0][0] == 1


def test_vectors_say_that_they_are_means_over_chains() -> None:
    for chains, title in ((40, "mean over chains"), (1, "")):
        _, short = gaussian(dim=2, chains=chains)
        figure = figures.metric(short, "mean", {})
        assert figure.legends[0].get_title().get_text() == title


def test_whole_powers_are_raised() -> None:
    assert style.plain("$ m^2 s^-12") == "\\$ m\u00b2 s\u207b\u00b9\u00b2"


@pytest.mark.parametrize("panels", [1, 2])
def test_long_titles_stay_within_the_figure(panels) -> None:
    longest = "mean log-probability of the training text's tokens under generation 0's model"
    figure, _ = style.figure(f"{longest}: medians and 50 % bands", "", panels)
    figure.draw_without_rendering()
    assert figure.get_suptitle().count("\n") == (panels == 1)
    assert figure._suptitle.get_window_extent().x1 < figure.bbox.x1


def test_the_value_of_the_original_itself_is_a_line() -> None:
    whole, _ = gaussian()
    metrics = {"log_variance": GAUSSIAN["log_variance"]._replace(original=-2.5)}
    short = summary.from_chains(whole, metrics, {})
    (ax,) = figures.metric(short, "log_variance", {}).axes
    np.testing.assert_array_equal(line(ax, "the original itself: -2.5")[1], [-2.5, -2.5])


def test_drift_is_measured_about_the_original_mean() -> None:
    whole, short = gaussian()
    left, _ = moment_figures.mean_drift(short, {("mean", "variance"): np.ones(20)}).axes
    about_original = ((whole["mean"] - 0.5) ** 2).mean("chain")
    np.testing.assert_allclose(line(left, "mean over chains")[1], about_original)
    np.testing.assert_array_equal(line(left, r"theory: $E(\mu_n-\mu)^2$")[1], np.ones(20))


def test_sigma_is_the_exponential_of_half_the_log_variance() -> None:
    _, short = gaussian()
    theory = -0.1 * np.arange(20.0)
    (ax,) = moment_figures.variance_decay(short, {("log_variance", "mean"): theory}).axes
    (dashed,) = [x for x in ax.get_lines() if str(x.get_label()).startswith("theory")]
    np.testing.assert_allclose(np.asarray(dashed.get_ydata()), np.exp(theory / 2))
    median = short["log_variance_quantile"].sel(quantile=0.5)
    np.testing.assert_allclose(line(ax, "median")[1], np.exp(median / 2))


def test_estimation_error_agrees_between_history_and_summary() -> None:
    whole, short = gaussian(chains=4000, generations=3)
    from_history, from_summary = (
        [
            np.asarray(ax.get_lines()[0].get_ydata())
            for ax in moment_figures.estimation_error({"": run}).axes
        ]
        for run in (whole, short)
    )
    exact = np.median(np.abs(1 - np.exp(whole["log_variance"] / 2)), axis=0)
    np.testing.assert_allclose(from_history[0], exact)
    np.testing.assert_allclose(from_summary, from_history, rtol=0.05)


def test_estimation_error_names_each_run_and_its_size() -> None:
    whole, short = gaussian()
    figure = moment_figures.estimation_error({"a": whole, "b": short})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a, M = 50: median", "b, M = 50: median"]


def test_collapse_curves_say_what_was_reached() -> None:
    _, short = gaussian(chains=40)
    figure = figures.collapse_times(short)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "early collapse: 20 of 40 chains, 20 censored",
        "late collapse: not reached within the run (40 chains)",
    ]
    x, share = line(figure.axes[0], labels[0])
    np.testing.assert_array_equal(share, np.where(x < 11, 1.0, 0.5))  # generation 10 is drawn at 11


def test_nonfinite_chains_have_a_curve_of_their_own() -> None:
    _, short = gaussian(nan=True)
    labels = [text.get_text() for text in figures.collapse_times(short).legends[0].get_texts()]
    assert labels[0] == "early collapse: 20 of 40 chains, 20 censored, 1 of them non-finite"
    assert labels[2] == "non-finite: 1 of 40 chains, 39 censored"


def test_survival_has_one_line_a_bin_that_was_seen() -> None:
    short = discrete()
    figure = symbol_survival(short, {})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["$10^{-2}$ to $10^{-1}$", "$10^{-1}$ and more"]
    np.testing.assert_allclose(
        line(figure.axes[0], labels[1])[1], short["surviving_share_mean"][:, 2]
    )
    assert r"tales of \$5 <b>" in figure.axes[0].get_title(loc="left")


def test_overlay_draws_means_against_theory_and_else_medians() -> None:
    _, short = gaussian()
    _, longer = gaussian(generations=60)
    runs = {"a": short, "b": longer}
    (ax,) = figures.overlay(runs, "w2_squared", {"a": {("w2_squared", "mean"): np.ones(20)}}).axes
    np.testing.assert_array_equal(line(ax, "b")[1], longer["w2_squared_mean"])
    assert len(ax.get_lines()) == 3
    assert line(ax, "a")[0][0] == 1  # the longest run decides the axis
    (ax,) = figures.overlay(runs, "w2_squared", {}).axes
    np.testing.assert_array_equal(line(ax, "b")[1], longer["w2_squared_quantile"].sel(quantile=0.5))


@pytest.mark.parametrize(
    "given",
    [
        {"generations": 1},
        {"chains": 1},
        {"chains": 1, "generations": 1},
        {"nan": True, "dim": 2, "generations": 4},
    ],
)
def test_odd_runs_are_drawn_and_saved_without_a_warning(
    given: dict[str, Any], tmp_path: Path
) -> None:
    whole, short = gaussian(**given)
    theory = np.full(short.sizes["generation"], np.nan)
    theory[0] = 1.0
    expected = {("mean", "variance"): theory, ("log_variance", "mean"): theory}
    for history in (whole, short):
        run: Any = types.SimpleNamespace(history=history, summary=short)
        drawn = figures.of_run(FAMILY, run, expected, [0])
    assert {"mean_drift", "variance_decay", "estimation_error", "collapse_times"} < set(drawn)
    few = {name: drawn[name] for name in ("mean_drift", "collapse_times")}
    paths = figures.save(few, tmp_path / "plots")
    assert list(paths) == list(few)
    assert all(matplotlib.image.imread(path).shape[0] == 552 for path in paths.values())


def test_families_without_figures_of_their_own_get_one_a_metric() -> None:
    short = discrete()
    run: Any = types.SimpleNamespace(history=short, summary=short)
    plain = FAMILY._replace(figures=lambda run, curves, generations: OwnFigures())
    assert list(figures.of_run(plain, run, {}, [])) == ["surviving_share"]


def test_what_a_family_replaces_is_not_drawn_twice() -> None:
    short = discrete()
    run: Any = types.SimpleNamespace(history=short, summary=short)
    assert list(figures.of_run(families.discrete([1, 1]), run, {}, [])) == ["symbol_survival"]


def test_labels_are_made_of_the_symbol_or_of_the_name() -> None:
    _, short = gaussian()
    assert style.symbol(short, "w2_squared") == "$W_2^2$"
    assert style.expectation(short, "log_variance") == r"$E\,\ln\sigma_n^2$"
    assert style.symbol(short, "mean") == "mean"
    assert style.expectation(short, "mean") == "expected mean"


def test_titles_in_other_scripts_are_saved_without_a_warning(tmp_path: Path) -> None:
    short = discrete()
    short.attrs["description"] = "\u6587"
    figures.save({"a": symbol_survival(short, {})}, tmp_path)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_theory_is_drawn_per_entry_of_a_vector() -> None:
    short = discrete()
    theory = np.ones((10, 3)) * [0.1, 0.2, 0.3]
    (ax,) = symbol_survival(short, {("surviving_share", "mean"): theory}).axes
    dashed = [np.asarray(x.get_ydata())[0] for x in ax.get_lines() if x.get_linestyle() == "--"]
    assert dashed == [0.2, 0.3]
