"""The code of docs/add_a_regime.md works: its regime runs, resumes and is reported."""

import csv
import re
import types
from pathlib import Path

import numpy as np
import pytest

import collapse_jax
from collapse_jax import families
from collapse_jax.reports import files
from tests import test_conformance
from tests.runs import assert_same_bits

GUIDE = Path(__file__).parents[1] / "docs" / "add_a_regime.md"
CHAINS, GENERATIONS, M = 20_000, 12, 10


@pytest.fixture(scope="module")
def guide():
    module = types.ModuleType("guide")
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), module.__dict__)
    return module


def stationary(guide, samples, real, synthetic):
    """Steady state of M E (mu_n - mu)^2 by the page's closed form."""
    regime = guide.weighted(samples, real, synthetic)
    return samples * guide.closed_forms(regime, 200)["mean", "variance"][-1]


@pytest.mark.parametrize(("real", "synthetic"), [(1, 3), (5, 3), (8, 2)])
def test_theory_is_he_et_als_for_large_samples(guide, real, synthetic):
    w = real / (real + synthetic)
    theirs = (w**2 + (1 - w) ** 2) / (1 - (1 - w) ** 2)  # of known variance
    assert stationary(guide, 10**6, real, synthetic) == pytest.approx(theirs, rel=1e-5)


def test_the_golden_ratio_is_best(guide):
    tried = {(a, b): stationary(guide, 10**6, a, b) for a in range(1, 13) for b in range(1, 13)}
    assert min(tried, key=tried.get) == (8, 5)
    assert tried[8, 5] == pytest.approx((5**0.5 - 1) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("sampler", "real", "synthetic"),
    [("exact", 5, 3), ("rows", 5, 3), pytest.param("exact", 1, 3, marks=pytest.mark.slow)],
)
def test_chains_follow_the_closed_form(guide, sampler, real, synthetic):
    family = families.gaussian(estimator="ml", sampler=sampler)
    regime = guide.weighted(M, real, synthetic)
    mean = collapse_jax.run(
        family, regime, chains=CHAINS, generations=GENERATIONS, seed=1
    ).history["mean"].values.astype(np.float64)  # fmt: skip
    expected = guide.closed_forms(regime, GENERATIONS)["mean", "variance"]
    error = (mean**2).std(axis=0) / np.sqrt(CHAINS)
    assert np.all(error < 0.02 * expected)  # precise enough to reject a wrong formula
    assert np.all(np.abs((mean**2).mean(axis=0) - expected) < 4 * error)


def test_it_resumes_and_reports(guide, tmp_path):
    regime, settings = guide.weighted(M), {"chains": 500, "seed": 2}
    whole = collapse_jax.run(guide.family, regime, generations=GENERATIONS, **settings)
    for generations in (5, GENERATIONS):
        result = collapse_jax.run(
            guide.family, guide.weighted(M), generations=generations, workdir=str(tmp_path),
            **settings,
        )  # fmt: skip
    assert_same_bits(whole.history, result.history)
    with pytest.raises(ValueError, match="regime.real: was 5, now 8"):
        collapse_jax.run(
            guide.family, guide.weighted(M, 8), generations=GENERATIONS, workdir=str(tmp_path),
            **settings,
        )  # fmt: skip
    files.write_all(str(tmp_path), result)
    page = (tmp_path / "report.html").read_text()
    assert "under the regime weighted (real 5, synthetic 3) with M = 10 samples" in page
    assert "The largest |z| against a closed form is" in page
    assert {"mean_drift.png", "kl.png"} < {path.name for path in (tmp_path / "plots").iterdir()}
    with (tmp_path / "summary.csv").open(newline="") as file:
        scored = [line for line in csv.DictReader(file) if line["z"]]
    assert {(line["metric"], line["statistic"]) for line in scored} == {("mean", "variance")}
    assert len(scored) == GENERATIONS


def test_a_regime_needs_no_sample_size_to_be_reported(guide, tmp_path):
    regime = guide.weighted(M)._replace(config={"weights": [5, 3]})
    result = collapse_jax.run(families.gaussian(), regime, chains=20, generations=3)
    files.write_all(str(tmp_path), result)
    page = (tmp_path / "report.html").read_text()
    assert "under the regime weighted (weights [5, 3])." in page


@pytest.mark.multidevice
@pytest.mark.parametrize(
    "family", ["discrete", *(pytest.param(name, marks=pytest.mark.slow) for name in
                             ("gaussian rows", "kde", "regression", "gmm"))],
)  # fmt: skip
def test_promises_hold(guide, family, monkeypatch):
    monkeypatch.setitem(test_conformance.REGIMES, "weighted", guide.weighted(12))
    test_conformance.test_promises(family, "weighted")


def test_bad_arguments_are_named(guide):
    with pytest.raises(ValueError, match="real, synthetic: expected at least 1, got 0, 3"):
        guide.weighted(10, 0)
