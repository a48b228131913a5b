"""Rows of a text, tokenised and cut into blocks."""

import numpy as np
import pytest

from collapse_jax.data import text_splits
from collapse_jax.families.language import blocks
from collapse_jax.lm.tokenizer import train
from tests.families.language import small


@pytest.fixture(scope="module")
def tokenizer():
    return train(small.rows(60), 280)


def one_by_one(tokenizer, rows):
    ids = []
    for row in rows:
        ids.append(tokenizer.begin)
        ids.extend(tokenizer.library.encode(row).ids)
    return ids


@pytest.mark.parametrize("length", [1, 7, 64])
def test_blocks_are_rows_tokenised_one_by_one_in_a_row_and_cut(tokenizer, length):
    rows = [*small.rows(9, 3), "", *small.rows(8, 4), ""]
    found = blocks.of_rows(tokenizer, rows, length, "train")
    ids = one_by_one(tokenizer, rows)
    assert tokenizer.library.id_to_token(tokenizer.begin) == "</s>"
    assert ids.count(tokenizer.begin) == len(rows)
    assert found.dtype == np.int32
    assert found.shape == (len(ids) // length, length)
    assert found.ravel().tolist() == ids[: len(ids) - len(ids) % length]


def made_text(rows):
    return text_splits.Text("mine", rows, ("one two three\n",), ("a tower\n", ""), {}, "")


@pytest.mark.parametrize("skip", [0.0, 0.5, 0.85])
def test_a_text_is_cut_with_a_part_of_its_training_rows(tokenizer, skip):
    rows = tuple(small.rows(20))
    found = blocks.cut_blocks(tokenizer, made_text(rows), 4, skip)
    chosen = {
        "train": rows[round(20 * skip) :],
        "validation": ("one two three\n",),
        "test": ("a tower\n", ""),
    }
    for split, expected in chosen.items():
        ids = one_by_one(tokenizer, expected)
        assert getattr(found, split).ravel().tolist() == ids[: len(ids) // 4 * 4]


@pytest.mark.parametrize("count", [1, 2, 7, 36_718])
def test_parts_that_meet_share_no_row_and_leave_none_out(count):
    rows = range(count)
    edges = [0.0, 0.1, 1 / 3, 0.5, 2 / 3, 0.75, 1.0]
    parts = [blocks.part(rows, *pair) for pair in zip(edges[:-1], edges[1:], strict=True)]
    assert [row for each in parts for row in each] == list(rows)


@pytest.mark.parametrize("split", text_splits.SPLITS)
def test_too_short_a_split_is_rejected_by_name(tokenizer, split):
    rows = tuple(small.rows(20))
    text = text_splits.Text("mine", rows, rows, rows, {}, "")._replace(**{split: rows[:1]})
    tokens = len(one_by_one(tokenizer, rows[:1]))
    blocks.cut_blocks(tokenizer, text, tokens, 0.0)
    with pytest.raises(ValueError, match=f"{tokens + 1} tokens in the {split} split") as caught:
        blocks.cut_blocks(tokenizer, text, tokens + 1, 0.0)
    assert str(caught.value).endswith(f"got {tokens} tokens")


def test_a_part_of_no_rows_is_rejected(tokenizer):
    with pytest.raises(ValueError, match="in the train split, got 0 tokens"):
        blocks.cut_blocks(tokenizer, made_text(tuple(small.rows(20))), 4, 0.99)
