"""Every suite of the benchmark in miniature: cases, printed fields, and peers' correctness."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import families, pools, theory
from collapse_jax.family import Origin, Training
from collapse_jax.numerics.affine import Affine
from collapse_jax.pools import Counts
from experiments import benchmark
from experiments.benchmarks import (
    checkpoint,
    discrete,
    error_sources,
    gaussian,
    gmm,
    kde,
    language,
    opt,
    regression,
    vae,
)
from experiments.error_sources import EXACT_STEPS
from tests.lm.small import SMALL

pytestmark = pytest.mark.slow  # compiling takes most of a minute

KEYS = {"suite", "case", "ours", "peer", "peer_name", "unit", "ratio"}


@pytest.fixture(autouse=True)
def _quick_compilation():
    """Compiling takes most of the time here, and speed is not tested."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def assert_printable(cases, names):
    records = [json.loads(json.dumps(case.record())) for case in cases]
    assert [record["case"] for record in records] == names
    for record in records:
        assert record.keys() >= KEYS
        for name in ("ours", "peer", "ratio"):
            assert math.isfinite(record[name])
            assert record[name] > 0
        assert record["ratio"] == pytest.approx(record["ours"] / record["peer"], rel=2e-3)
    benchmark.print_table(records)


def test_gaussian():
    cases = gaussian.cases(
        chains=64, repeats=1, generations=2, few=3, many=4,
        rows=12, rows_chains=8, rows_generations=2, prngs=["philox4x32"],
    )  # fmt: skip
    names = ["exact M=3", "exact M=4", "exact against exact", "flat in M", "rows M=12"]
    assert_printable(cases, names)


def test_discrete():
    cases = discrete.cases(
        chains=2, repeats=1, generations=2, counts=discrete.zipf(50, 900), with_breakdown=False
    )
    assert_printable(cases, ["given counts", "given counts with metrics"])


def test_checkpoint():
    cases = checkpoint.cases(
        chains=8, generations=6, generations_kept=4, every=3, pairs=1, samples=3
    )
    names = [
        "checkpoint_every=3, keep=summary",
        "checkpoint_every=3, keep=chains",
        "history written, keep=chains",
    ]
    assert_printable(cases, names)


def test_gmm():
    cases = gmm.cases(
        chains=4, repeats=1, generations=2, samples=40, many=50, peer_chains=2, originals=("blob",)
    )
    names = ["blob, N=40", "blob, N=40", "chains that fit into 4 GB at N=50"]
    assert_printable(cases, names)


def test_kde():
    cases = kde.cases(
        chains=6, repeats=1, generations=2, few=5, many=6, peer_chains=2, with_breakdown=False
    )
    assert_printable(cases, ["M=5"] * 3 + ["M=6"] * 3)


def test_regression():
    cases = regression.cases(
        chains=4,
        repeats=1,
        generations=2,
        few=8,
        many=9,
        dim=2,
        peer_chains=2,
        with_breakdown=False,
    )
    assert_printable(cases, ["T=8, d=2"] * 2 + ["T=9, d=2"] + ["T=8, d=2"] * 2)


def test_error_sources():
    cases = error_sources.cases(chains=2, repeats=1, generations=2, few=40, many=50, rows=200)
    names = [f"{name}, M={samples}" for samples in (40, 50)
             for name in ["gaussian"] * 3 + ["gmm"] * 2]  # fmt: skip
    assert_printable(cases, names)


def assert_mean_is(expected, values):
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(values.size)


@pytest.mark.parametrize(
    "refit",
    [
        regression.refit_by_lstsq,
        regression.refit_by_normal_equations,
        regression.refit_by_gram,
        regression.refit_by_factor,
    ],
)
def test_regression_peers_follow_the_closed_form(refit):
    record = regression.NumpyRegression(refit, samples=20, dim=4, chains=5000, generations=2)()
    expected = theory.regression_excess_risk(20, 3, dimension=4)
    assert_mean_is(expected, record["excess_risk"][-1])


def test_kde_peers_follow_the_closed_form():
    expected = theory.kde_moments(20, 3, bandwidth="scott").expected_variance
    blocks = kde.NumpyKde(samples=20, chains=5000, generations=2)()
    assert_mean_is(expected, np.concatenate([block[-1]["variance"] for block in blocks]))
    rows = kde.ScikitLearnKde(samples=20, chains=500, generations=2)()[..., 0]
    squared = theory.kde_bandwidth_factor("scott", 20) ** 2
    assert_mean_is(expected, rows.var(axis=1) + squared * rows.var(axis=1, ddof=1))


def test_numpy_peer_computes_the_metrics_of_kernel_densities():
    rows = np.random.default_rng(0).normal(0.3, 0.8, (9, 1)).astype(np.float32)
    family = families.kde(9)
    pool = pools.Rows(jnp.asarray(rows), 9, Affine(jnp.zeros(1), jnp.zeros(1), None))
    key = jax.random.key(0)
    params, _ = family.fit(key, family.init(key), Training(pool))
    assert callable(family.measure)
    ours = family.measure(key, params, Training(pool), Origin(None))
    peer = kde.measure(rows.T, theory.kde_bandwidth_factor("scott", 9) * rows.std(axis=0, ddof=1))
    assert ours.keys() == peer.keys()
    for name, value in peer.items():
        np.testing.assert_allclose(ours[name], value[0], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("draw", "chains"),
    [
        (gaussian.draw_rows, 5000),
        (gaussian.draw_moments, 5000),
        (error_sources.draw_by_scipy, 500),
    ],
)
def test_error_source_peers_follow_the_closed_form(draw, chains):
    values = error_sources.ScipyGaussian(draw, samples=30, chains=chains, generations=3)()
    assert_mean_is(theory.expected_divergence_of_truth(30, 3, estimator="ml"), values[-1])


def test_mixture_peer_takes_as_many_steps_unless_it_may_stop():
    assert error_sources.ScikitLearnFits(100, 1, 1, tolerance=0.0).iterations == EXACT_STEPS["gmm"]
    assert error_sources.ScikitLearnFits(100, 1, 1, tolerance=1e-3).iterations < EXACT_STEPS["gmm"]


def test_numpy_peer_follows_the_same_distribution():
    exact, rows = (
        gaussian.NumpyGaussian(draw, samples=20, chains=20_000, generations=3)()["log_variance"][-1]
        for draw in (gaussian.draw_moments, gaussian.draw_rows)
    )
    error = math.sqrt((exact.var() + rows.var()) / exact.size)
    assert abs(exact.mean() - rows.mean()) < 4 * error


def test_numpy_peer_computes_our_metrics():
    weights = discrete.zipf(50, 3000)
    family = families.discrete(weights)
    counts = np.random.default_rng(0).multinomial(3000, weights / 3000)
    params = Counts(jnp.asarray(counts, jnp.int32), jnp.int32(3000))
    assert callable(family.measure)
    ours = family.measure(None, params, Training(None), Origin(None))
    peer = discrete.NumpyDiscrete(family, weights, 1, 1, with_metrics=True).measure(counts, 3000)
    assert ours.keys() == peer.keys()
    for name, value in peer.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_zipf_counts_have_the_size_of_wikitext():
    counts = discrete.zipf(33_278, 2_088_628)
    assert counts.sum() == 2_088_628
    assert counts.min() >= 1


def test_missing_data_are_named_in_the_case(tmp_path):
    name, counts = discrete._corpus(str(tmp_path))
    assert "Zipf" in name
    assert counts.sum() == 2_088_628


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="repeats: expected an integer >= 5, got 4"):
        benchmark.BenchmarkConfig(repeats=4)
    with pytest.raises(ValueError, match="suite: expected one of"):
        benchmark.BenchmarkConfig(suite="everything")


def test_vae():
    pytest.importorskip("torch", reason="PyTorch is not installed: its side was not run")
    cases = vae.cases(repeats=1, images=300, chains=2)
    assert_printable(cases, ["mlp", "mlp, 2 chains", "conv", "conv, 2 chains"])


def test_opt():
    pytest.importorskip("transformers", reason="the extra benchmark is not installed")
    settings = {"repeats": 1, "length": 5, "memory": False}
    assert_printable(opt.beam_cases(batches=(2, 3), config=SMALL, **settings),
                     ["batch=2", "batch=3", "batch=3, bfloat16"])  # fmt: skip
    assert_printable(opt.finetune_cases(batch=4, config=SMALL, **settings),
                     ["batch=4", "batch=4, bfloat16"])  # fmt: skip


def test_opt_without_transformers_says_what_to_install(monkeypatch):
    monkeypatch.setattr(opt.importlib.util, "find_spec", lambda name: None)
    for cases in (opt.beam_cases(), opt.finetune_cases()):
        with pytest.raises(ValueError, match="^suite: .* compares with transformers.* benchmark$"):
            next(cases)


def test_vae_without_pytorch_says_what_to_install(monkeypatch):
    monkeypatch.setattr(vae.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^suite: vae compares with PyTorch.* extra benchmark$"):
        next(vae.cases())


def test_language():
    pytest.importorskip("transformers")
    config = dataclasses.replace(SMALL, vocabulary=300)
    cases = language.cases(repeats=1, config=config, blocks=4, length=8)
    names = [f"{name}, 4 blocks" for name in ("decode", "fit", "measure", "generation")]
    assert_printable(cases, names)
