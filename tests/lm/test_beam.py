"""Beam search against transformers and against enumeration of all texts."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.lm import beam, opt
from collapse_jax.lm.prompts import prompts
from tests.lm.small import LAYOUTS, SMALL, generated, log_shares, texts, twin, weights

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "opt.json").read_text())
NEW = 8


def ours(config, params, given, settings, new=NEW, returned=2):
    settings = dict(settings)
    beams = settings.pop("num_beams")
    found = beam.search(
        opt.model(config), params, given, beams=beams, new_tokens=new, returned=returned,
        **settings,
    )  # fmt: skip
    return jax.tree.map(np.asarray, found)


def padded(tokens, config, new=NEW):
    """Pads transformers' tokens, which are cut to the longest hypothesis."""
    tokens = np.asarray(tokens)
    room = [(0, 0)] * (tokens.ndim - 1) + [(0, new - tokens.shape[-1])]
    return np.pad(tokens, room, constant_values=config.pad)


@pytest.mark.parametrize("name", LAYOUTS)
def test_hypotheses_are_those_that_transformers_found(name):
    config = LAYOUTS[name]
    lengths = set()
    for golden in GOLDENS[name]["searches"]:
        found = ours(config, weights(config), texts(config), golden["settings"])
        np.testing.assert_array_equal(found.tokens, padded(golden["tokens"], config))
        np.testing.assert_allclose(found.scores, golden["scores"], rtol=1e-5, atol=1e-5)
        ends = (found.tokens == config.end).any(axis=2)
        first = np.argmax(found.tokens == config.end, axis=2) + 1
        np.testing.assert_array_equal(found.lengths, np.where(ends, first, NEW))
        lengths |= set(found.lengths.ravel().tolist())
    assert len(lengths) > 3  # hypotheses end at many lengths


def that_end(config, params, given):
    """The weights with the end token exchanged with the most likely token."""
    logs = jax.nn.log_softmax(opt.model(config).bind(params)(given.tokens, given.mask)[:, -1])
    likeliest = int(jnp.argmax(logs.sum(axis=0)))
    words = params["embed_tokens"]["embedding"].copy()
    words[[config.end, likeliest]] = words[[likeliest, config.end]]
    return {**params, "embed_tokens": {"embedding": words}}


# One compiled search per row, with many prompts, weights and penalties.
SHAPES = [
    (name, beams, lengths, new)
    for name, beams, lengths, new in [
        ("125m", 1, (7, 7, 7, 7), 6), ("125m", 2, (7, 4, 1, 6), 9), ("125m", 5, (5, 9, 2, 3), 20),
        ("125m", 8, (6, 2), 5), ("350m", 3, (8, 8, 8), 10), ("350m", 4, (3, 8, 5), 7),
        ("350m", 6, (4,), 18), ("1.3b", 3, (6, 5, 4, 3), 8), ("1.3b", 5, (9, 9), 12),
        ("1.3b", 7, (2, 6), 6),
    ]
]  # fmt: skip
CASES = 23  # of nine rows: 207 with scores


def score(config, params, prompt, row, new, settings):
    """Score of one text by its definition."""
    whole = np.concatenate([prompt, row])
    room = np.pad(whole, (0, 10 + new - len(whole)))
    logs = log_shares(config, params, room[None])[0].astype(float)
    total = 0.0
    for place in range(len(prompt), len(whole)):
        step = logs[place - 1]
        step[np.unique(whole[:place])] *= settings["repetition_penalty"]
        total += step[whole[place]]
    return total / len(row) ** settings["length_penalty"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "beams", "lengths", "new"), SHAPES)
def test_hypotheses_are_those_of_transformers(name, beams, lengths, new, tmp_path):
    pytest.importorskip("torch", reason="the extra benchmark is not installed")
    config, rng = LAYOUTS[name], np.random.default_rng(beams * 100 + new)
    program = beam._program(opt.model(config), beams, new)
    known = program._cache_size()  # of other tests' shapes
    ties = ended = 0
    for case in range(CASES):
        given = texts(config, seed=case, lengths=lengths)
        if case % 6 == 0:
            params = that_end(config, weights(config, seed=case), given)
            peer = twin(config, params, tmp_path)
        settings = {
            "num_beams": beams,
            # With one beam, transformers searches greedily and returns no scores.
            "length_penalty": float(rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0])),
            "early_stopping": [False, True, "never"][rng.integers(3)] if beams > 1 else False,
            "repetition_penalty": float(rng.choice([1.2, 2.0])) if case % 2 else 1.0,
            "min_new_tokens": int(rng.choice([0, 0, 3])),
        }
        returned = min(beams, 2)
        if beams == 1:
            settings.pop("length_penalty")
        tokens, scores = generated(
            peer, given, max_new_tokens=new, num_return_sequences=returned, **settings
        )
        found = ours(config, params, given, settings, new, returned)
        tokens = padded(tokens, config, new)
        ended += int((tokens == config.end).any(axis=2).sum())
        if scores is None:
            np.testing.assert_array_equal(found.tokens, tokens)
            continue
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=0)
        for i, j in np.argwhere((found.tokens != tokens).any(axis=2)):
            # A tie is no difference: our text, rescored, is as good as theirs.
            row = found.tokens[i, j, : found.lengths[i, j]]
            again = score(config, params, given.tokens[i][given.mask[i]], row, new, settings)
            assert abs(again - scores[i, j]) < 1e-5 * max(1, abs(again))
            ties += 1
    assert ended > 5
    if beams > 1:  # lengths are shapes; penalties, prompts and weights are not
        assert program._cache_size() <= known + 1
    assert ties <= CASES // 10, f"{ties} ties"


def enumerated(config, params, prompt, new, penalty):
    """Every finished text of at most `new` tokens with its score, best first."""
    inner = [v for v in range(config.vocabulary) if v != config.end]
    found = []
    for length in range(1, new + 1):
        lasts = range(config.vocabulary) if length == new else [config.end]
        rows = [
            (*body, last)
            for body in itertools.product(inner, repeat=length - 1)
            for last in lasts
        ]  # fmt: skip
        whole = np.array([[*prompt, *row] for row in rows])
        logs = log_shares(config, params, whole)[:, len(prompt) - 1 : -1]
        chosen = np.take_along_axis(logs, np.array(rows)[:, :, None], axis=2)
        scores = chosen.sum(axis=(1, 2)) / length**penalty
        found += list(zip(scores.tolist(), rows, strict=True))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize(
    "penalty", [1.0, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.0, 2.0))]
)
def test_a_search_as_wide_as_the_tree_finds_the_best_of_all(penalty):
    config = dataclasses.replace(SMALL, vocabulary=4, end=3, begin=3, pad=1)
    for seed in range(3):
        params = weights(config, seed)
        given = prompts(config, [[2, 0, 2]])
        found = ours(
            config, params, given,
            {"num_beams": 64, "length_penalty": penalty, "early_stopping": "never"}, new=4,
            returned=5,
        )  # fmt: skip
        best = enumerated(config, params, [2, 0, 2], 4, penalty)[:5]
        for i, (score, row) in enumerate(best):
            assert abs(found.scores[0, i] - score) < 1e-4
            assert tuple(found.tokens[0, i, : found.lengths[0, i]]) == row


def test_a_prompt_does_not_depend_on_its_neighbours():
    config = LAYOUTS["125m"]
    together = ours(config, weights(config), texts(config), {"num_beams": 3})
    for i in range(3):
        alone = texts(config)
        alone = alone._replace(tokens=alone.tokens[i : i + 1], mask=alone.mask[i : i + 1])
        found = ours(config, weights(config), alone, {"num_beams": 3})
        np.testing.assert_array_equal(found.tokens[0], together.tokens[i])
        np.testing.assert_allclose(found.scores[0], together.scores[i], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_bfloat16_scores_are_about_those_of_float32(name):
    config, params = LAYOUTS[name], weights(LAYOUTS[name])
    given = texts(config)
    found = beam.search(
        opt.model(config, "bfloat16"), params, given, beams=3, new_tokens=NEW,
        repetition_penalty=1.5,
    )  # fmt: skip
    assert found.scores.dtype == jnp.float32
    settings = {"repetition_penalty": 1.5, "length_penalty": 1.0}
    for i, (tokens, length) in enumerate(zip(found.tokens[:, 0], found.lengths[:, 0], strict=True)):
        row = np.asarray(tokens)[: int(length)]
        again = score(config, params, given.tokens[i][given.mask[i]], row, NEW, settings)
        assert abs(found.scores[i, 0] - again) < 0.02 * abs(again)


def test_top_is_top_k_with_equal_values_in_order():
    rng = np.random.default_rng(0)
    for values in (rng.standard_normal((3, 1300)), rng.integers(0, 6, (3, 1300))):
        values = jnp.asarray(values, jnp.float32).at[1, 5:9].set(-jnp.inf)
        for ours, theirs in zip(beam.top(values, 7), jax.lax.top_k(values, 7), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams: expected an integer >= 1, got 0"),
        ({"new_tokens": 0}, "new_tokens: expected an integer >= 1, got 0"),
        ({"returned": 4, "beams": 3}, "returned: expected at most beams = 3, got 4"),
        ({"min_new_tokens": 9, "new_tokens": 8}, "min_new_tokens: expected at most new_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: expected a finite number > 0, got 0.0"),
        ({"early_stopping": "often"}, "early_stopping: expected True, False or 'never'"),
        ({"early_stopping": [1]}, "early_stopping: expected True, False or 'never'"),
        ({"length_penalty": float("nan")}, "length_penalty: expected a finite number, got nan"),
        ({"new_tokens": 40}, "prompts: expected at most 8 tokens.*48 positions.*got 9"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        beam.search(opt.model(SMALL), weights(SMALL), texts(SMALL), **settings)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "prompts: expected at least one"),
        ([[3], []], "none empty, got 2 of which 1 are empty"),
        ([[3, 53]], "prompts: expected ids below the vocabulary's 53, got 53"),
        ([[-1]], "got -1"),
        ([[1.7]], "expected a list of integer ids per prompt, got float64"),
        ([3, 4], "expected a list of integer ids per prompt, got int64 of shape"),
        (["hello"], "expected a list of integer ids per prompt, got <U5"),
    ],
)
def test_bad_prompts_are_named(ids, message):
    with pytest.raises(ValueError, match=message):
        prompts(SMALL, ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokens": np.full((1, 3), 99)},
            "prompts: expected ids below the vocabulary's 53, got 99",
        ),
        ({"mask": np.array([[True, True, False]])}, "prompts: expected padding on the left"),
        ({"mask": np.array([[True, False, True]])}, "prompts: expected padding on the left"),
    ],
)
def test_prompts_made_by_hand_are_looked_at(change, message):
    given = prompts(SMALL, [[3, 4, 5]])._replace(**change)
    with pytest.raises(ValueError, match=message):
        beam.search(opt.model(SMALL), weights(SMALL), given, new_tokens=3)


def test_the_score_of_one_beam_is_the_models_own():
    config, given = LAYOUTS["125m"], texts(LAYOUTS["125m"])
    found = ours(
        config, weights(config), given, {"num_beams": 1, "length_penalty": 2.0}, returned=1
    )
    settings = {"repetition_penalty": 1.0, "length_penalty": 2.0}
    for i in range(3):
        row = found.tokens[i, 0, : found.lengths[i, 0]]
        prompt = given.tokens[i][given.mask[i]]
        expected = score(config, weights(config), prompt, row, NEW, settings)
        assert abs(found.scores[i, 0] - expected) < 1e-4
