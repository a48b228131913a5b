"""Greedy texts against transformers'; sampled texts against their distribution."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.lm import opt, sampling
from collapse_jax.lm.prompts import Prompts
from tests.lm.small import LAYOUTS, SMALL, generated, log_shares, texts, twin, weights

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "opt.json").read_text())
NEW = 8
KEY = jax.random.key(0, impl="philox4x32")


def sample(config, params, given, key=KEY, **settings):
    return sampling.sample(key, opt.model(config), params, given, **settings)


@pytest.mark.parametrize("name", LAYOUTS)
def test_greedy_texts_are_those_that_transformers_found(name):
    config = LAYOUTS[name]
    found = sample(
        config, weights(config), texts(config), new_tokens=NEW, temperature=0,
        repetition_penalty=1.2,
    )  # fmt: skip
    golden = np.array(GOLDENS[name]["greedy"])
    golden = np.pad(golden, ((0, 0), (0, NEW - golden.shape[1])), constant_values=config.pad)
    np.testing.assert_array_equal(found.tokens, golden)
    ends = golden == config.end
    lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, NEW)
    np.testing.assert_array_equal(found.lengths, lengths)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_greedy_texts_are_those_of_transformers(name, tmp_path):
    pytest.importorskip("torch", reason="the extra benchmark is not installed")
    config = LAYOUTS[name]
    for seed in range(5):
        params, given = weights(config, seed), texts(config, seed, (7, 2, 5, 7))
        peer = twin(config, params, tmp_path)
        for least, penalty in [(0, 1.0), (4, 1.0), (0, 2.0)]:
            tokens, _ = generated(
                peer, given, max_new_tokens=20, min_new_tokens=least, repetition_penalty=penalty
            )
            found = sample(
                config, params, given, new_tokens=20, min_new_tokens=least, temperature=0,
                repetition_penalty=penalty,
            )  # fmt: skip
            found = np.asarray(found.tokens)
            np.testing.assert_array_equal(found[:, : tokens.shape[2]], tokens[:, 0])
            assert (found[:, tokens.shape[2] :] == config.pad).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 9, "top_p": 0.7},
        {"min_new_tokens": 1, "temperature": 2.0},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in ({}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.6})
        ),
    ],
)
def test_frequencies_of_first_tokens(settings):
    config = LAYOUTS["1.3b"]
    params, count = weights(config), 4000
    one = texts(config)
    many = Prompts(np.tile(one.tokens[:1], (count, 1)), np.tile(one.mask[:1], (count, 1)))
    drawn = np.asarray(sample(config, params, many, new_tokens=1, **settings).tokens)[:, 0]
    logits = log_shares(config, params, one.tokens[:1])[0, -1].astype(float)
    logits /= settings.get("temperature", 1.0)
    if settings.get("min_new_tokens"):
        logits[config.end] = -np.inf
    order = np.argsort(-logits)
    shares = np.exp(logits - logits.max())
    shares[order[settings.get("top_k") or len(order) :]] = 0.0
    shares /= shares.sum()
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before >= settings.get("top_p", 1.0)]] = 0.0
    shares /= shares.sum()
    assert 2 < (shares > 0).sum() <= config.vocabulary
    seen = np.bincount(drawn, minlength=config.vocabulary)
    assert (seen[shares == 0] == 0).all()
    error = np.sqrt(count * shares * (1 - shares))
    assert (np.abs(seen - count * shares) < 4.5 * error + 1e-9).all()


def errors_of_scores(config, params, given, found):
    """Differences of texts' scores from those of one float32 forward pass."""
    errors = []
    for i, (row, length) in enumerate(zip(found.tokens, found.lengths, strict=True)):
        prompt = given.tokens[i][given.mask[i]]
        whole = np.concatenate([prompt, np.asarray(row)[: int(length)]])
        room = np.pad(whole, (0, 14 - len(whole)))  # later tokens do not change a prediction
        logs = log_shares(config, params, room[None])[0]
        expected = sum(logs[t - 1, whole[t]] for t in range(len(prompt), len(whole)))
        errors.append(abs(float(found.scores[i]) - expected))
    return errors


def test_scores_and_keys():
    config = LAYOUTS["125m"]
    params, given = weights(config), texts(config)
    found = sample(config, params, given, new_tokens=5, temperature=1.5)
    again = sample(config, params, given, new_tokens=5, temperature=1.5)
    np.testing.assert_array_equal(found.tokens, again.tokens)
    other = sample(config, params, given, key=jax.random.key(1), new_tokens=5, temperature=1.5)
    assert (np.asarray(found.tokens) != np.asarray(other.tokens)).any()
    assert max(errors_of_scores(config, params, given, found)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_bfloat16_scores_are_about_those_of_float32(name):
    config, params = LAYOUTS[name], weights(LAYOUTS[name])
    given = texts(config)
    found = sampling.sample(KEY, opt.model(config, "bfloat16"), params, given, new_tokens=5)
    assert found.scores.dtype == jnp.float32
    errors = errors_of_scores(config, params, given, found)
    assert 1e-4 < max(errors) < 0.02 * np.abs(found.scores).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected a finite number >= 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected a finite number >= 0, got nan"),
        ({"top_k": -1}, "top_k: expected an integer >= 0, got -1"),
        ({"top_p": 0.0}, r"top_p: expected a share in \(0, 1\], got 0.0"),
        (
            {"new_tokens": 3, "min_new_tokens": 4},
            "min_new_tokens: expected at most new_tokens = 3, got 4",
        ),
        ({"repetition_penalty": -1.0}, "repetition_penalty: expected a finite number > 0"),
        ({"new_tokens": 45}, "prompts: expected at most 3 tokens"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        sample(SMALL, weights(SMALL), texts(SMALL), **settings)


@pytest.mark.slow
def test_what_is_cut_is_what_transformers_cuts():
    torch = pytest.importorskip("torch", reason="the extra benchmark is not installed")
    from transformers.generation import logits_process as theirs

    rng = np.random.default_rng(0)
    for _ in range(40):
        scores = (3 * rng.standard_normal((5, 60))).astype(np.float32)
        top_k, top_p = int(rng.integers(1, 61)), float(rng.uniform(0.05, 1.0))
        expected = theirs.TopKLogitsWarper(top_k)(None, torch.tensor(scores))
        expected = theirs.TopPLogitsWarper(top_p)(None, expected).numpy()
        found = sampling._cut(jnp.asarray(scores), jnp.int32(top_k), jnp.float32(top_p))
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
