"""A finished run can be extended by generations and chains, and rejects other changes."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.engine import cohort, planning, recording
from collapse_jax.engine.fused import FusedEngine
from collapse_jax.results.summary import QUANTILES
from collapse_jax.saving.checkpoint import DiskStore
from collapse_jax.saving.signals import Stopped, StopSignal
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


def test_arrays_without_entries_are_made_again(tmp_path):
    tree = {"none": jnp.zeros((0, 3), jnp.uint8), "some": jnp.arange(4.0)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    store = DiskStore(epath.Path(tmp_path))
    store.commit({"done": 1}, lambda: tree)
    store.close()
    again = DiskStore(epath.Path(tmp_path))
    restored = again.restore(lambda position: shapes)
    again.close()
    assert restored.tree["none"].shape == (0, 3)
    assert restored.tree["none"].dtype == np.uint8
    np.testing.assert_array_equal(restored.tree["some"], tree["some"])


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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 3}, ["seed: was 0, now 3"]),
        ({"prng": "threefry2x32"}, ['prng: was "philox4x32", now "threefry2x32"']),
        ({"chains_per_batch": 2}, ["chains_per_batch: was 4, now 2"]),
        ({"keep": "summary"}, ['keep: was "chains", now "summary"']),
        ({"regime": regimes.replace(11)}, ["regime.samples: was 10, now 11"]),
        (
            {"regime": regimes.fresh(10, 0.5), "seed": 1},
            ['regime.name: was "replace", now "fresh"', "regime.fraction: was null, now 0.5",
             "seed: was 0, now 1"],
        ),
        ({"family": families.gaussian(estimator="ml")}, ['estimator: was "unbiased", now "ml"']),
        ({"family": families.discrete([1, 1])}, ['family.name: was "gaussian", now "discrete"']),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_changed_config_is_rejected_by_name(tmp_path, change, named):
    run(tmp_path, keep="chains")
    with pytest.raises(ValueError, match=f"{tmp_path} holds a run with another config") as caught:
        run(tmp_path, **change)
    for text in named:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


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
        # Between the values on either side of a quantile, which may be several bins apart.
        grid = recording.edges(metric)
        low, high = (
            np.moveaxis(np.quantile(history[name], QUANTILES, axis=0, method=method), 0, -1)
            for method in ("lower", "higher")
        )
        found = np.digitize(short[f"{name}_quantile"].values, grid)
        assert np.all(found >= np.digitize(low, grid) - 1), name
        assert np.all(found <= np.digitize(high, grid) + 1), name


@pytest.mark.parametrize("keep_checkpoints", [1, 3])
def test_few_checkpoints_stay(tmp_path, keep_checkpoints):
    history = run(tmp_path, generations=20, checkpoint_every=3, keep_checkpoints=keep_checkpoints)
    assert_same_bits(history, run(generations=20))
    cohort = tmp_path / "checkpoints" / "cohort-0"
    names = sorted(int(path.name) for path in (cohort / "states").iterdir())
    assert names == list(range(7 - keep_checkpoints, 7))
    assert (cohort / "committed").read_text().split() == [str(i) for i in range(7)]
    parts = sorted(path.name for path in (cohort / "history").iterdir())
    assert parts[0] == "00000000-00000003.npz"
    assert parts[-1] == "00000018-00000020.npz"
    assert len(parts) == 7


def test_another_environment_warns(tmp_path):
    run(tmp_path)
    path = tmp_path / "env.json"
    began = json.loads(path.read_text())
    began["places"][0]["packages"]["jax"] = "0.0.1"
    path.write_text(json.dumps(began))
    for _ in range(2):
        expected = r'another environment.*packages\.jax: was "0\.0\.1", now'
        with pytest.warns(UserWarning, match=expected):
            run(tmp_path)
        # The first environment stays, and the second is added once.
        places = json.loads(path.read_text())["places"]
        assert [place["packages"]["jax"] for place in places] == ["0.0.1", jax.__version__]


def test_a_damaged_environment_warns(tmp_path):
    run(tmp_path)
    (tmp_path / "env.json").write_text("{")
    with pytest.warns(UserWarning, match=f"{tmp_path / 'env.json'} cannot be read"):
        run(tmp_path)
    (place,) = json.loads((tmp_path / "env.json").read_text())["places"]
    assert place["python"]
    assert place["prng"] == "philox4x32"


def test_a_request_to_stop_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, "requested", signal.SIGTERM, raising=False)
    monkeypatch.setattr(
        StopSignal, "__init__", lambda self, active: setattr(self, "_active", False)
    )
    for generation in range(3):  # each attempt begins with a short segment, saves and stops
        with pytest.raises(Stopped, match=f"after generation {generation};"):
            run(tmp_path)
    monkeypatch.undo()
    assert_same_bits(run(tmp_path), run())


def test_long_segments_are_cut_by_time(tmp_path, monkeypatch):
    lengths = []
    advance = FusedEngine.advance

    def watched(engine, root, start, stop, *rest):
        lengths.append(stop - start)
        return advance(engine, root, start, stop, *rest)

    monkeypatch.setattr(FusedEngine, "advance", watched)
    whole = run(generations=20, checkpoint_every=50, chains=4)
    assert max(lengths) > 1
    lengths.clear()
    monkeypatch.setattr(cohort, "_SEGMENT_SECONDS", 1e-9)
    assert_same_bits(run(generations=20, checkpoint_every=50, chains=4), whole)
    assert lengths == [1] * 20


def test_a_second_signal_is_not_held_back():
    with StopSignal(active=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
