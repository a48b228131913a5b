"""Configs: error messages, fingerprints and differences."""

import dataclasses
import hashlib
import json
import math
import re

import pytest

from collapse_jax import config
from collapse_jax.config import RegimeConfig, RunConfig, differences, fingerprint

PRNG = "prng: expected one of philox4x32, threefry2x32, threefry4x32"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chains": 0}, "chains: expected an integer >= 1, got 0"),
        ({"generations": 0}, "generations: expected an integer >= 1, got 0"),
        ({"checkpoint_every": -3}, "checkpoint_every: expected an integer >= 1, got -3"),
        ({"keep_checkpoints": 0}, "keep_checkpoints: expected an integer >= 1, got 0"),
        ({"chains_per_batch": -1}, "chains_per_batch: expected an integer >= 0, got -1"),
        ({"seed": -1}, "seed: expected an integer in [0, 2^32), got -1"),
        ({"seed": 2**32}, "seed: expected an integer in [0, 2^32), got 4294967296"),
        ({"keep": "all"}, "keep: expected one of auto, chains, summary, got 'all'"),
        ({"prng": "mt19937"}, "prng: expected one of philox4x32, threefry2x32, threefry4x32"),
        (
            {"prng": "rbg"},
            f"{PRNG}, got 'rbg', whose batched draws depend on the batch",
        ),
        (
            {"prng": "unsafe_rbg"},
            f"{PRNG}, got 'unsafe_rbg'",
        ),
        (
            {"prng": "philox2x32"},
            f"{PRNG}, got 'philox2x32', whose 32-bit keys collide",
        ),
    ],
)
def test_run_config_rejects(values, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        RunConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_run_config_rejects_seconds_that_are_none(seconds):
    with pytest.raises(ValueError, match="^checkpoint_seconds: "):
        RunConfig(checkpoint_seconds=seconds)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"chains": 1, "generations": 1, "checkpoint_every": 1, "keep_checkpoints": 1},
        {"seed": 2**32 - 1, "chains_per_batch": 0},
        {"keep": "summary", "prng": "threefry4x32", "workdir": "gs://bucket/run"},
    ],
)
def test_run_config_accepts_the_ends_of_every_range(values):
    accepted = RunConfig(**values)
    assert all(getattr(accepted, name) == value for name, value in values.items())


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        RegimeConfig().samples = "5"


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [("100", 100), ("100,200", [100, 200]), (" 100, 200 ,50", [100, 200, 50]), ("7,7", [7, 7])],
)
def test_sizes_are_one_number_or_a_schedule(samples, sizes):
    assert RegimeConfig(samples=samples).sizes == sizes


@pytest.mark.parametrize("samples", ["", "many", "1e3", "100,", "10.5", "10 20", "1;2"])
def test_sizes_that_are_no_integers_are_rejected(samples):
    message = f"samples: expected comma-separated integers, got {samples!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _ = RegimeConfig(samples=samples).sizes


def test_shares_are_three_numbers():
    assert RegimeConfig().shares == [0.8, 0.1, 0.1]
    assert RegimeConfig(regime="mixture", mixture="1, 0,0e0").shares == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("0.5,0.5", "mixture: expected three shares, got '0.5,0.5'"),
        ("1,0,0,0", "mixture: expected three shares, got '1,0,0,0'"),
        ("a,b,c", "mixture: expected comma-separated numbers, got 'a,b,c'"),
        ("", "mixture: expected comma-separated numbers, got ''"),
    ],
)
def test_invalid_shares_are_rejected(mixture, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _ = RegimeConfig(regime="mixture", mixture=mixture).shares


@pytest.mark.parametrize("regime", config.REGIMES)
def test_every_regime_is_accepted(regime):
    assert RegimeConfig(regime=regime).regime == regime


def test_an_unknown_regime_is_rejected():
    names = ", ".join(config.REGIMES)
    with pytest.raises(ValueError, match=f"^regime: expected one of {names}, got 'forget'$"):
        RegimeConfig(regime="forget")


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_fraction_that_is_no_share_is_rejected(share):
    with pytest.raises(ValueError, match=r"^real_fraction: expected a share in \[0, 1\], got"):
        RegimeConfig(regime="preserve", real_fraction=share)


TREE = {"family": {"name": "gaussian", "dim": 2, "mean": [0.0, 1.5]}, "seed": 3, "note": None}


def test_differences_name_every_leaf_that_changed():
    new = {"seed": 4, "note": "x", "family": {"mean": [0.0, 2.5], "name": "gaussian", "dim": 2}}
    assert differences(TREE, TREE) == []
    assert differences(TREE, json.loads(json.dumps(TREE))) == []
    assert differences(TREE, new) == [
        "family.mean: was [0.0, 1.5], now [0.0, 2.5]",
        'note: was null, now "x"',
        "seed: was 3, now 4",
    ]


def test_differences_see_fields_that_came_and_went():
    old, new = {"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "d": {"e": 5}}}
    assert differences(old, new) == ['a.d: was null, now {"e": 5}', "c: was 2, now null"]
    assert differences({"a": 1}, {"a": {"b": 1}}) == ['a: was 1, now {"b": 1}']


def test_long_values_are_cut_in_differences():
    (text,) = differences({"text": "x" * 500}, {"text": "y"})
    assert len(text) < 100
    assert "..." in text
    assert text.endswith('now "y"')


def test_the_fingerprint_is_of_what_is_said_not_of_its_order():
    shuffled = {key: TREE[key] for key in reversed(TREE)}
    shuffled["family"] = {key: TREE["family"][key] for key in ("mean", "dim", "name")}
    assert fingerprint(shuffled) == fingerprint(TREE)
    # Runs saved by one version must be found by the next.
    text = '{"family": {"dim": 2, "mean": [0.0, 1.5], "name": "gaussian"}, "note": null, "seed": 3}'
    assert fingerprint(TREE) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {**TREE, "seed": 4},
        {**TREE, "extra": 0},
        {**TREE, "family": {**TREE["family"], "mean": [1.5, 0.0]}},
        {**TREE, "family": {**TREE["family"], "dim": "2"}},
    ],
)
def test_the_fingerprint_changes_with_every_value(other):
    assert fingerprint(other) != fingerprint(TREE)
    assert differences(TREE, other)
