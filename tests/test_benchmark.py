"""Every suite of the benchmark runs, in miniature, and prints what it promises."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import families
from collapse_jax.family import Origin, Training
from collapse_jax.pools import Counts
from experiments import benchmark
from experiments.benchmarks import checkpoint, discrete, gaussian, gmm

pytestmark = pytest.mark.slow  # compiling takes most of a minute

KEYS = {"suite", "case", "ours", "peer", "peer_name", "unit", "ratio"}


@pytest.fixture(autouse=True)
def _quick_compilation():
    """Nothing here is judged by its speed, and compiling is nearly all there is to do."""
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


def test_numpy_peer_follows_the_same_law():
    exact, rows = (
        gaussian.Numpy(draw, samples=20, chains=20_000, generations=3)()["log_variance"][-1]
        for draw in (gaussian.draw_moments, gaussian.draw_rows)
    )
    error = math.sqrt((exact.var() + rows.var()) / exact.size)
    assert abs(exact.mean() - rows.mean()) < 4 * error


def test_numpy_peer_computes_our_metrics():
    law = discrete.zipf(50, 3000)
    family = families.discrete(law)
    counts = np.random.default_rng(0).multinomial(3000, law / 3000)
    params = Counts(jnp.asarray(counts, jnp.int32), jnp.int32(3000))
    assert callable(family.measure)
    ours = family.measure(None, params, Training(None), Origin(None))
    peer = discrete.Numpy(family, law, 1, 1, with_metrics=True).measure(counts, 3000)
    assert ours.keys() == peer.keys()
    for name, value in peer.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_zipf_law_has_the_size_of_wikitext():
    counts = discrete.zipf(33_278, 2_088_628)
    assert counts.sum() == 2_088_628
    assert counts.min() >= 1


def test_missing_data_are_named_in_the_case(tmp_path):
    name, counts = discrete._corpus(str(tmp_path))
    assert "Zipf" in name
    assert counts.sum() == 2_088_628


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="repeats: expected at least 5, got 4"):
        benchmark.BenchmarkConfig(repeats=4)
    with pytest.raises(ValueError, match="suite: expected one of"):
        benchmark.BenchmarkConfig(suite="vae")
