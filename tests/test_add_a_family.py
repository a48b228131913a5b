"""The code of docs/add_a_family.md runs, and its family fulfils the contract."""

import csv
import re
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.special import digamma, polygamma

import collapse_jax
from collapse_jax import regimes
from collapse_jax.reports import figures, files
from collapse_jax.results import closed_forms
from tests import test_conformance

GUIDE = Path(__file__).parents[1] / "docs" / "add_a_family.md"
# No more chains than a batch, and few capacities: compiling dominates.
CHAINS, GENERATIONS, M = 16_384, 4, 10


@pytest.fixture(scope="module")
def guide():
    module = types.ModuleType("guide")
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), module.__dict__)
    return module


def history_of(family, regime):
    history = collapse_jax.run(family, regime, chains=CHAINS, generations=GENERATIONS).history
    assert bool(history["finite"].all())
    return history


def assert_mean(values, expected):
    """Mean over chains [chain, generation] within 4 standard errors at every generation."""
    values = values.astype(np.float64)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - expected) < 4.0 * error)


@pytest.mark.slow
def test_replace_follows_the_closed_form(guide):
    log_mean = history_of(guide.exponential(mean=3.0), regimes.replace(M))["log_mean"].values
    fits = np.arange(1, GENERATIONS + 1)
    expected = np.log(3.0) + fits * (digamma(M) - np.log(M))
    assert_mean(log_mean, expected)
    # Independent steps: the variance is a sum too.
    assert_mean((log_mean - expected) ** 2, fits * polygamma(1, M))


@pytest.mark.slow
def test_accumulate_follows_the_closed_form(guide):
    mean = history_of(guide.exponential(mean=3.0), regimes.accumulate(M))["mean"].values / 3.0
    # m_{n+1} = m_n + (x - m_n) / (n + 1) with x the average of M draws of mean m_n:
    # a martingale, E m_n^2 = prod_k (1 + 1 / (M k^2)).
    fits = np.arange(1, GENERATIONS + 1)
    assert_mean(mean, np.ones(GENERATIONS))
    assert_mean(mean**2, np.cumprod(1.0 + 1.0 / (M * fits**2)))


def test_steps_reach_the_same_fit(guide):
    whole, cut = (
        collapse_jax.run(
            guide.exponential(in_steps=cut), regimes.replace(M), chains=5, generations=6
        ).history
        for cut in (False, True)
    )
    np.testing.assert_allclose(cut["log_mean"], whole["log_mean"], atol=1e-5)


@pytest.mark.multidevice
@pytest.mark.parametrize("in_steps", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_promises_hold(guide, in_steps, monkeypatch):
    monkeypatch.setitem(
        test_conformance.FAMILIES, "exponential", guide.exponential(in_steps=in_steps)
    )
    test_conformance.test_promises("exponential", "replace")
    test_conformance.test_every_step_exports("exponential")
    if not in_steps:
        test_conformance.test_a_spoilt_chain_leaves_the_others_alone("exponential")


def test_bad_arguments_are_named(guide):
    with pytest.raises(ValueError, match="mean: expected a finite number > 0, got -1"):
        guide.exponential(mean=-1)


@pytest.fixture(scope="module")
def written(guide, tmp_path_factory):
    """A run of the example family, and the directory of its files."""
    workdir = tmp_path_factory.mktemp("exponential")
    result = collapse_jax.run(
        guide.exponential(mean=3.0), regimes.replace(M), chains=2_000, generations=GENERATIONS,
        workdir=str(workdir),
    )  # fmt: skip
    files.write_all(str(workdir), result)
    return result, workdir


def test_closed_forms_reach_the_table_with_scores(written):
    _, workdir = written
    with (workdir / "summary.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    scored = [line for line in lines if line["z"]]
    assert {(line["metric"], line["statistic"]) for line in scored} == {
        ("log_mean", "mean"), ("log_mean", "variance"), ("mean", "mean"),
    }  # fmt: skip
    assert len(scored) == 3 * GENERATIONS
    assert all(abs(float(line["z"])) < 4 for line in scored if line["statistic"] == "mean")


def test_the_report_says_what_ran_and_how_it_compares(written):
    _, workdir = written
    page = (workdir / "report.html").read_text()
    assert "family exponential (mean 3) ran for" in page
    assert "The largest |z| against a closed form is" in page
    assert {path.stem for path in (workdir / "plots").iterdir()} == {
        "density", "mean", "log_mean", "w2_squared", "kl", "tail_mass", "collapse_times",
    }  # fmt: skip
    assert page.count("<img") == 7


def test_figures_have_the_symbol(written):
    result, _ = written
    curves = closed_forms.curves(result.family, result.regime, GENERATIONS)
    drawn = figures.of_run(result.family, result, curves, [0, 2])
    (ax,) = drawn["log_mean"].axes
    assert ax.get_ylabel().startswith(r"$\ln m_n$")
    assert r"theory: $E\,\ln m_n$" in [line.get_label() for line in ax.get_lines()]
    (own,) = drawn["density"].axes
    assert [line.get_label() for line in own.get_lines()] == [
        "generation 0", "generation 2", f"generation {GENERATIONS - 1}",
    ]  # fmt: skip


def test_heavy_tails_are_drawn_and_not_compared(guide):
    run = guide.exponential(), regimes.replace(M), 20
    drawn, compared = (closed_forms.curves(*run, heavy_tailed=heavy) for heavy in (True, False))
    np.testing.assert_array_equal(drawn["mean", "mean"], 1.0)
    spread = np.arange(1, 21) * polygamma(1, M)
    np.testing.assert_array_equal(np.isnan(compared["mean", "mean"]), spread > 0.5)
    assert closed_forms.curves(guide.exponential(), regimes.accumulate(M), 20) == {}
