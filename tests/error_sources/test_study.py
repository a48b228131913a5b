"""The study against closed forms and scipy: 1/M, constant expressivity, lasting approximation.

All slow tests share one small study, which is compiled once.
"""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
import xarray as xr
from matplotlib import image
from scipy import optimize, stats

from collapse_jax import theory
from collapse_jax.error_sources import figure, study, summary, words
from collapse_jax.error_sources.model_classes import GRID
from collapse_jax.error_sources.truth import THREE_MODES, Modes, log_masses, parse_modes
from collapse_jax.reports import figures
from collapse_jax.saving.workdir import Workdir
from experiments.error_sources import EXACT_STEPS, ErrorSourcesConfig, _identity, run

GENERATIONS, CHAINS, SIZES, SIZE = 8, 60, [100, 1000, 100_000], 1000
EARLY = {"gaussian": 15, "gmm": 20, "neural": 60}


@pytest.fixture(scope="module")
def found():
    classes = study.make_learners(THREE_MODES, EARLY, EXACT_STEPS)
    return study.study(THREE_MODES, SIZES, SIZE, CHAINS, GENERATIONS, 0, classes)


@pytest.mark.slow
def test_gaussian_statistical_error_is_the_closed_form(found):
    for samples in SIZES:
        one = summary.mean(found["statistical_kl"].sel(model="gaussian", samples=samples))
        fits = np.arange(1, GENERATIONS + 1)
        expected = theory.expected_divergence_of_truth(samples, fits, estimator="ml")
        # KL is about n / 2M times chi-square of 2, whose standard deviation is its mean: a few
        # dozen draws of so skewed a distribution may have far too small a deviation.
        z = (one.value - expected) / np.maximum(one.error, expected / np.sqrt(CHAINS))
        assert np.all(np.abs(z) < 4), z


@pytest.mark.parametrize("estimator", ["unbiased", "ml"])
def test_closed_form_by_direct_simulation(estimator):
    rng, samples, chains = np.random.default_rng(0), 30, 200_000
    mean, variance = np.zeros(chains), np.ones(chains)
    for n in (1, 2, 3):
        mean = mean + np.sqrt(variance / samples) * rng.normal(size=chains)
        divisor = samples - (estimator == "unbiased")
        variance = variance * rng.chisquare(samples - 1, chains) / divisor
        divergence = 0.5 * (np.log(variance) + (1 + mean**2) / variance - 1)
        error = divergence.std(ddof=1) / np.sqrt(chains)
        expected = theory.expected_divergence_of_truth(samples, n, estimator=estimator)
        assert abs(divergence.mean() - expected) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(("model", "parameters"), [("gmm", 8), ("neural", 18)])
def test_first_statistical_error_is_half_a_parameter_a_sample(found, model, parameters):
    """Wilks: 2 M KL is about chi-square; a redundant parameter (neural) can only lower it."""
    one = summary.mean(found["statistical_kl"].sel(model=model, samples=100_000))
    scaled, error = (2 * 100_000 * x[0] for x in (one.value, one.error))
    assert scaled < parameters + 4 * error
    assert scaled > (parameters - 4 * error if model == "gmm" else parameters / 2)


@pytest.mark.slow
@pytest.mark.parametrize("model", study.CLASSES)
def test_statistical_error_goes_as_one_over_samples(found, model):
    assert summary.slope(found, model, 0)[0] == pytest.approx(-1, abs=0.08)
    assert summary.slope(found, model, GENERATIONS - 1)[0] == pytest.approx(-1, abs=0.2)
    growing = found["statistical_kl"].sel(model=model).mean("chain").values
    assert np.all(growing[:, -1] > 3 * growing[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize("model", study.CLASSES)
def test_expressivity_acts_once(found, model):
    values = found["expressivity_kl"].sel(model=model).values
    assert values[0] > 0.05
    np.testing.assert_allclose(values, values[0], atol=2e-6)


def best_small(model):
    """The smallest divergence within the small class, in float64 by scipy from many starts."""
    masses = np.exp(log_masses(THREE_MODES).astype(np.float64))
    masses /= masses.sum()
    standard = GRID / THREE_MODES.scale

    def gaussian(flat):
        return stats.norm.logpdf(GRID, flat[0], np.exp(flat[1]))

    def gmm(flat):
        weight = np.log([stats.norm.cdf(flat[0]), stats.norm.cdf(-flat[0])])
        parts = stats.norm.logpdf(GRID[:, None], flat[1:3], np.exp(flat[3:]))
        return np.logaddexp.reduce(weight + parts, axis=1)

    def neural(flat):
        return (flat[:2] * np.tanh(np.outer(standard, flat[2:4]) + flat[4:])).sum(1) - (
            0.5 * standard**2
        )

    logits, count, bound = {
        "gaussian": (gaussian, 2, 3.0),
        "gmm": (gmm, 5, 2.0),
        "neural": (neural, 6, 8.0),
    }[model]

    def divergence(flat):
        logs = logits(flat)
        return float(masses @ (np.log(masses) - logs + np.logaddexp.reduce(logs)))

    rng = np.random.default_rng(0)
    starts = rng.uniform(-1, 1, (10, count)) * min(bound, 4.0)
    bounds = [(-bound, bound)] * count
    return min(optimize.minimize(divergence, s, bounds=bounds).fun for s in starts)


@pytest.mark.slow
@pytest.mark.parametrize("model", study.CLASSES)
def test_expressivity_is_what_scipy_finds(found, model):
    value = float(found["expressivity_kl"].sel(model=model)[0])
    assert value == pytest.approx(best_small(model), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", study.CLASSES)
def test_approximation_grows(found, model):
    values = found["approximation_kl"].sel(model=model).values
    assert values[0] > 1e-5
    assert np.all(np.diff(values) > 0)
    assert values[-1] > 2 * values[0]


def test_lanes_have_keys_of_their_own():
    key = jax.random.key(0, impl="philox4x32")
    streams = np.array([[5, 100, 0], [5, 100, 1], [5, 1000, 0]], np.uint32)
    keys = [study._stream_key(key, stream) for stream in streams]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3


def test_measure_against_float64():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(len(GRID)))
    for size in (1e-4, 1e-2, 2.0):
        q = p * np.exp(size * rng.normal(size=len(GRID)))
        q /= q.sum()
        both = [np.log(x).astype(np.float32) for x in (p, q)]
        value = study.measure(*both)
        expected = np.sum(p * np.log(p / q))
        assert float(value["kl"]) == pytest.approx(expected, rel=2e-2 + 1e-5 / size)
        assert float(value["edge_mass"]) == pytest.approx(q[0] + q[-1], rel=1e-4)


@pytest.mark.slow
def test_comparison_by_hand(found):
    one = summary.compare(found, "gmm")
    chosen = found.sel(model="gmm").isel(generation=-1)
    full = chosen["full_kl"].values
    statistical = chosen["statistical_kl"].sel(samples=SIZE).values
    total = (
        statistical.mean() + float(chosen["expressivity_kl"]) + float(chosen["approximation_kl"])
    )
    assert one.ratio[-1] == pytest.approx(full.mean() / total)
    spread = [x.std(ddof=1) / np.sqrt(CHAINS) for x in (full, statistical)]
    error = one.ratio[-1] * np.hypot(spread[0] / full.mean(), spread[1] / total)
    assert one.ratio_error[-1] == pytest.approx(error)


@pytest.mark.slow
def test_lost_chains_are_left_out(found):
    values = found["full_kl"].sel(model="gmm").copy()
    values[0, 3] = np.nan
    one = summary.mean(values)
    assert one.chains.tolist() == [CHAINS] * 3 + [CHAINS - 1] + [CHAINS] * (GENERATIONS - 4)
    assert one.value[3] == pytest.approx(values.values[1:, 3].mean())


@pytest.mark.slow
def test_figure_and_table_hold_the_data(found, tmp_path):
    whole = figure.error_sources(found)
    axes = np.array(whole.axes).reshape(3, 4)
    drawn = {line.get_label(): line.get_ydata() for line in axes[1, 0].get_lines()}
    expected = found["statistical_kl"].sel(model="gmm", samples=1000).mean("chain")
    np.testing.assert_allclose(drawn["M = 1,000"], expected)
    (line,) = axes[2, 1].get_lines()
    np.testing.assert_allclose(line.get_ydata(), found["expressivity_kl"].sel(model="neural"))
    paths = figures.save({"error_sources": whole}, tmp_path)
    assert image.imread(paths["error_sources"]).shape[1] > 1000
    text = words.in_words(found)
    assert f"{summary.compare(found, 'neural').ratio.min():.3f} \u00b1" in text
    assert "0.177 for gaussian, less than 1e-10 (rounding) for gmm" in text
    table = summary.table(found)
    assert len(table.rows) == 9
    assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.slow
def test_files_of_a_run(found, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "study", lambda *_, **__: found.copy())
    config = ErrorSourcesConfig(workdir=str(tmp_path), generations=GENERATIONS, chains=CHAINS)
    run(config)
    assert json.loads((tmp_path / "config.json").read_text())["chains"] == CHAINS
    with (tmp_path / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * (len(SIZES) + 3) * GENERATIONS
    (line,) = [
        x for x in lines if (x["model"], x["source"], x["generation"]) == ("neural", "full", "7")
    ]
    last = found["full_kl"].sel(model="neural").values[:, -1].mean()
    assert float(line["kl_mean"]) == pytest.approx(last)
    assert "data:image/png" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "history.nc").exists()
    with pytest.raises(ValueError, match="seed: was 0, now 1"):
        run(dataclasses.replace(config, seed=1))


def made(
    whole=(1.0,) * 6,
    approximation=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    sizes=(100, 1000, 10_000),
    power=-1.0,
    edge=0.0,
):
    """A synthetic study of 32 chains, 6 generations, where the whole is `whole` times the sum."""
    rng, count = np.random.default_rng(0), len(whole)
    growth = np.arange(1.0, count + 1)
    noise = rng.normal(1, 0.05, (len(sizes), 32, count))
    statistical = (np.asarray(sizes, float)[:, None, None] / sizes[0]) ** power * growth * noise
    total = growth + 0.2 + np.asarray(approximation)
    values = {
        "statistical": (("samples", "chain"), statistical),
        "expressivity": ((), np.full(count, 0.2)),
        "approximation": ((), np.asarray(approximation)),
        "full": (("chain",), whole * total * rng.normal(1, 0.05, (32, count))),
    }
    variables = {"right_class_kl": ("model", [0.125])}
    for name, (dims, kl) in values.items():
        dims = ("model", *dims, "generation")
        variables[f"{name}_kl"] = (dims, kl[None])
        variables[f"{name}_edge_mass"] = (dims, np.full_like(kl, edge)[None])
    coords = {"model": ["gaussian"], "samples": list(sizes), "generation": np.arange(count)}
    return xr.Dataset(variables, coords, {"compared_samples": sizes[0]})


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ([1, 1, 1, 1, 1, 1], "of 6 generations it is further from it at none, furthest"),
        ([1.5, 1, 1, 1, 1, 1], "further above it at 1 (0), furthest at generation 0 (z = "),
        ([1, 2, 2, 1, 0.5, 1], "further above it at 2 (1 to 2) and below it at 1 (4), furthest"),
        ([2, 1, 2, 1, 1, 1], "further above it at 2 (between 0 and 2), furthest"),
    ],
)
def test_the_whole_is_judged_at_every_generation(whole, said):
    text = words.in_words(made(whole=np.array(whole, float)))
    assert said in text
    assert ("Simple additivity fails for gaussian." in text) == (len(set(whole)) > 1)
    assert "0.125 for gaussian" in text


def test_chance_seldom_passes_the_limit():
    """Largest |z| of 51 generations of skewed, dependent means of 32 chains, without any effect."""
    rng, runs, chains = np.random.default_rng(0), 300, 32
    steps = rng.normal(size=(2, runs, chains, 51))
    whole, total = 0.2 + 1e-3 * np.cumsum(steps, axis=-1) ** 2
    means = [x.mean(1) for x in (whole, total)]
    errors = [x.std(1, ddof=1) / np.sqrt(chains) for x in (whole, total)]
    z = np.max(np.abs(means[0] - means[1]) / np.hypot(*errors), axis=1)
    assert np.mean(z > summary.limit(chains, 51)) < 0.03 < np.mean(z > 2)


@pytest.mark.parametrize(
    ("approximation", "said"),
    [
        (
            [0, 1, 2, 3, 4, 5],
            "from less than 1e-10 (rounding) to 5, never falling; 60% of the rise",
        ),
        ([0, 1, 2, 3, 4, 5], "(of a linear rise, 60%): it continues to accumulate."),
        ([0, 0.9, 0.8, 0.99, 1, 1], "from less than 1e-10 (rounding) to 1, falling by 0.1 at most"),
        ([0, 0.9, 0.8, 0.99, 1, 1], "it levels off."),
        ([0, 0.9, 1, 0.99, 0.99, 0.98], "0% of the rise is after generation 2"),
        ([1, 0.9, 0.8, 0.7, 0.6, 0.5], "it does not accumulate."),
        ([1.4e-13, 1e-13, 1.8e-14, 0, 0, 0], "costs less than 1e-10 (rounding) at any generation."),
    ],
)
def test_words_of_the_approximation(approximation, said):
    assert said in words.in_words(made(approximation=approximation))


def test_powers_of_samples():
    found = made(power=-1.2)
    value, error = summary.slope(found, "gaussian", 2)
    assert abs(value + 1.2) < 4 * error < 0.1
    assert "says -1: steeper at generation 0 and steeper at generation 5." in (
        words.in_words(found)
    )
    assert "says -1: both agree." in words.in_words(made())
    # A chain without a finite divergence is left out of the fit, as of every mean.
    lost = found.copy(deep=True)
    lost["statistical_kl"][0, 0, 0, 2] = np.inf
    kept = found.copy(deep=True)
    kept["statistical_kl"][0, 0, 0, 2] = np.nan
    assert summary.slope(lost, "gaussian", 2) == summary.slope(kept, "gaussian", 2)
    assert np.isfinite(summary.slope(lost, "gaussian", 2)).all()
    one = made(sizes=[1000])
    assert summary.slope(one, "gaussian", 0) is None
    assert "One sample size alone" in words.in_words(one)


def test_a_grid_that_cuts_off_is_said_and_has_no_closed_form():
    for edge, cut in ((1e-8, False), (1e-6, True)):
        found = made(edge=edge)
        assert ("WARNING: the grid cuts models off" in words.in_words(found)) == cut
        (first, *_) = figure.error_sources(found).axes
        labels = [line.get_label() for line in first.get_lines()]
        assert any(label.startswith("theory") for label in labels) == (not cut)
    # One very wide chain says nothing about the others.
    found = made()
    found["statistical_edge_mass"][0, 0, 0] = 1e-3
    assert "WARNING" not in words.in_words(found)


def as_json(weights, means, variances):
    fields = {
        "weights": weights,
        "means": [[mean] for mean in means],
        "covariances": [[[variance]] for variance in variances],
    }
    return json.dumps(fields)


def test_truth_as_json_or_file(tmp_path):
    text = as_json([1, 1], [-1, 2], [0.25, 1])
    (tmp_path / "truth.json").write_text(text)
    truth = parse_modes(text)
    assert isinstance(truth, Modes)
    masses = np.exp(log_masses(truth).astype(np.float64))
    assert masses @ GRID == pytest.approx(truth.centre, abs=1e-6) == 0.5
    assert np.sqrt(masses @ (GRID - 0.5) ** 2) == pytest.approx(truth.scale, abs=1e-6)
    for one, other in zip(truth, parse_modes(str(tmp_path / "truth.json")), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_changed_truth_file_is_another_study(tmp_path):
    path, directory = tmp_path / "truth.json", Workdir(str(tmp_path))
    path.write_text(as_json([1, 1], [-1, 2], [0.25, 1]))
    config = ErrorSourcesConfig(workdir=str(tmp_path), truth=str(path))
    (tmp_path / "config.json").write_text(_identity(config, directory))
    assert _identity(config, directory) == (tmp_path / "config.json").read_text()
    path.write_text(as_json([1, 1], [-1, 2], [0.25, 4]))
    with pytest.raises(ValueError, match=r"another study \(truth"):
        _identity(config, directory)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"truth": "{"}, "truth: expected JSON"),
        ({"truth": '{"weights": [1]}'}, "truth: expected the fields weights, means, covariances"),
        ({"truth": as_json([1, 1], [0, "a"], [1, 1])}, "truth.means: expected an array of numbers"),
        ({"truth": as_json([1], [0], [1])}, "truth.weights: expected at least 2"),
        ({"truth": as_json([1, 0], [0, 1], [1, 1])}, "truth.weights: expected at least 2"),
        ({"truth": "two-gaussians"}, "truth.means: expected one dimension, got 2"),
        ({"truth": as_json([1, 1], [0, 1], [1, 0.001])}, "truth.covariances: expected variances"),
        (
            {"truth": as_json([1, 1], [0, 9], [1, 1])},
            "truth: expected 4 deviations around its modes",
        ),
        # Each mode fits on the grid, but not the Gaussian of all modes, or of the distant pair.
        ({"truth": as_json([0.7, 0.3], [4, -6], [0.09, 0.25])}, "got -17.4 to 19.4"),
        ({"truth": as_json([0.99, 0.005, 0.005], [0, 5, 8], [1, 0.1, 0.1])}, "got -4.72 to 12.6"),
        ({"chains": 1}, "chains: expected an integer >= 2"),
        ({"generations": 1}, "generations: expected an integer >= 2"),
        ({"neural_steps": 0}, "neural_steps: expected an integer >= 1, got 0"),
        ({"sizes": "1,2"}, "sizes: expected integers in"),
        ({"sizes": "x"}, "sizes: expected comma-separated integers, got 'x'"),
        ({"samples": 77}, "samples: expected one of sizes 100,1000"),
        ({"seed": -1}, "seed: expected an integer"),
        ({"workdir": ""}, "workdir: expected a path"),
    ],
)
def test_bad_settings_are_one_line(given, message):
    with pytest.raises(ValueError, match=r"^[\w.]+: ") as error:
        ErrorSourcesConfig(**given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
