"""A finished run can be extended by generations and chains, and rejects other changes."""

import json

import numpy as np
import pytest

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.engine import planning
from collapse_jax.results.summary import QUANTILES
from collapse_jax.results.totals import edges
from tests.runs import assert_same_bits

# The same objects and batches in all tests, so that few programs are compiled.
FAMILY, REGIME = families.gaussian(), regimes.replace(10)
PLANE = families.gaussian(dim=2, sampler="rows")
SETTINGS = {"chains": 8, "chains_per_batch": 4, "generations": 9, "checkpoint_every": 4}


def run(workdir=None, family=FAMILY, regime=REGIME, **settings):
    workdir = str(workdir) if workdir else None
    return collapse_jax.run(family, regime, workdir=workdir, **{**SETTINGS, **settings}).history


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([{"generations": 14}], marks=pytest.mark.slow),
        pytest.param([{"chains": 12}], marks=pytest.mark.slow),
        [{"chains": 12}, {"chains": 12, "generations": 14}, {"chains": 20, "generations": 14}],
        [{"chains": 10, "generations": 12}],  # the last batch is not full
    ],
    ids=["generations", "chains", "one after the other", "both at once"],
)
@pytest.mark.parametrize("keep", ["chains", pytest.param("summary", marks=pytest.mark.slow)])
def test_growing_gives_the_same_bits_as_a_longer_run(tmp_path, steps, keep):
    run(tmp_path, keep=keep)
    for step in steps:
        grown = run(tmp_path, **step)  # keep is read back
        expected = run(**step, keep=keep)
        if keep == "chains" or "chains" not in step:
            assert_same_bits(grown, expected)
            continue
        for name in expected:  # merged cohort by cohort: the last digit of a float64 may differ
            np.testing.assert_allclose(grown[name], expected[name], rtol=1e-12, err_msg=name)


@pytest.mark.slow
def test_growing_under_a_schedule_and_a_memory(tmp_path):
    family, regime = families.gaussian(sampler="rows"), regimes.accumulate([4, 6, 5])
    run(tmp_path, family, regime, generations=3)
    grown = run(tmp_path, family, regime, generations=7, chains=12)
    assert_same_bits(grown, run(None, family, regime, generations=7, chains=12))


def test_a_finished_run_is_read_back(tmp_path):
    assert_same_bits(run(tmp_path), run(tmp_path))
    assert_same_bits(run(tmp_path), run())


def test_only_whole_batches_can_be_added(tmp_path):
    run(tmp_path, chains=6)
    with pytest.raises(ValueError, match=r"chains: only whole batches.* 6 chains .* batches of 4"):
        run(tmp_path, chains=8)
    assert_same_bits(run(tmp_path, chains=6), run(chains=6))  # the stored run is intact


@pytest.mark.parametrize(
    "change", [{"chains": 4}, {"generations": 8}], ids=["chains", "generations"]
)
def test_shrinking_is_rejected(tmp_path, change):
    run(tmp_path)
    ((name, new),) = change.items()
    with pytest.raises(
        ValueError, match=rf"{name}: {tmp_path} .*{SETTINGS[name]}.*shrink to {new}"
    ):
        run(tmp_path, **change)
    assert_same_bits(run(tmp_path), run())


def test_what_does_not_change_results_may_change(tmp_path):
    run(tmp_path, generations=5)
    grown = run(tmp_path, checkpoint_every=2, keep_checkpoints=1, checkpoint_seconds=1.0)
    assert_same_bits(grown, run())


def test_choices_made_by_size_are_read_back(tmp_path, monkeypatch):
    automatic = {"chains_per_batch": 0, "keep": "auto"}
    for name in ("_CORE", "_ACCELERATOR"):
        monkeypatch.setattr(planning, name, getattr(planning, name)._replace(chains=4))
    first = run(tmp_path, **automatic)
    monkeypatch.undo()
    monkeypatch.setattr(planning, "_HISTORY_BYTES", 1)  # now both choices would differ
    assert_same_bits(run(tmp_path, **automatic), first)
    identity = json.loads((tmp_path / "config.json").read_text())["identity"]
    assert identity["chains_per_batch"] == 4
    assert identity["keep"] == "chains"
    assert_same_bits(run(tmp_path, **automatic, chains=12), run(chains=12, keep="chains"))


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILY, PLANE])
def test_summary_with_a_workdir_is_that_in_memory(tmp_path, family):
    saved = run(tmp_path, family, keep="summary", chains=10)
    assert "mean" not in saved
    assert_same_bits(saved, run(None, family, keep="summary", chains=10, checkpoint_every=50))


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILY, PLANE])
def test_summary_agrees_with_every_chain(family):
    settings = {"chains": 300, "chains_per_batch": 4, "generations": 40}
    run = collapse_jax.run(family, REGIME, keep="chains", **settings)
    history, every = run.history, run.summary
    short = collapse_jax.run(family, REGIME, keep="summary", **settings).summary
    assert set(every) == set(short)
    for name in ("early_collapse", "late_collapse", "nonfinite"):
        np.testing.assert_array_equal(every[name], short[name])
    assert bool((every["early_collapse"] >= 0).any())
    for name, metric in family.metrics.items():
        np.testing.assert_array_equal(every[f"{name}_count"], short[f"{name}_count"])
        scale = every[f"{name}_sd"].values + np.abs(every[f"{name}_mean"].values)
        for statistic in ("mean", "sd"):
            one, other = every[f"{name}_{statistic}"].values, short[f"{name}_{statistic}"].values
            assert np.all(np.abs(one - other) <= 1e-5 * scale), (name, statistic)
        # Between the chains on either side of a quantile, which may be several bins apart.
        grid = edges(metric)
        low, high = (
            np.moveaxis(np.quantile(history[name], QUANTILES, axis=0, method=method), 0, -1)
            for method in ("lower", "higher")
        )
        found = np.digitize(short[f"{name}_quantile"].values, grid)
        assert np.all(found >= np.digitize(low, grid) - 1), name
        assert np.all(found <= np.digitize(high, grid) + 1), name
