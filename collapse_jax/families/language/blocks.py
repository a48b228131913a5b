"""Cuts a text into training blocks of equal length.

Rows are tokenised one by one (each with a leading "</s>"), concatenated, and cut into blocks; the
remainder is dropped, as in Shumailov et al. 2024.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.data.text_splits import Text
from collapse_jax.lm.tokenizer import Tokenizer


class Blocks(NamedTuple):
    """A text cut into blocks of T tokens."""

    train: np.ndarray  # i32[block, token]
    validation: np.ndarray  # i32[block, token]
    test: np.ndarray  # i32[block, token]


class BlockCounts(NamedTuple):
    """Number of blocks to use of each split, from its start.

    Attributes:
      blocks: number of blocks of the training text; default all.
      validation_blocks: number of blocks of the validation text, on which every epoch is evaluated;
        default all.
      test_blocks: number of blocks of the test text; default all.
    """

    blocks: int | None = None
    validation_blocks: int | None = None
    test_blocks: int | None = None


def cut_blocks(
    tokenizer: Tokenizer,
    text: Text,
    length: int,
    skip: float,
    counts: BlockCounts = BlockCounts(),
) -> Blocks:
    """Cuts the splits of a text into blocks.

    Args:
      tokenizer: the tokenizer.
      text: the text.
      length: tokens per block, T.
      skip: share of the training rows to leave out, from the start.
      counts: number of blocks to use of each split.

    Raises:
      ValueError: if a split, after `skip`, is shorter than one block or has fewer blocks than
        requested.
    """
    rows = part(text.train, skip, 1.0)
    splits = {"train": rows, "validation": text.validation, "test": text.test}
    made = (of_rows(tokenizer, each, length, name) for name, each in splits.items())
    return Blocks(*map(_first, BlockCounts._fields, made, counts))


def part(rows: Sequence[str], start: float, stop: float) -> Sequence[str]:
    """Rows from share `start` to share `stop` of a text."""
    return rows[round(start * len(rows)) : round(stop * len(rows))]


def of_rows(tokenizer: Tokenizer, rows: Sequence[str], length: int, name: str) -> np.ndarray:
    """Cuts rows of the split `name` into blocks, i32[block, token].

    Raises:
      ValueError: if there are too few tokens for one block.
    """
    ids = np.concatenate([np.zeros(0, np.int32), *map(np.array, tokenizer.encode_all(rows))])
    count = len(ids) // length
    if not count:
        raise SettingError(
            f"dataset: expected at least one block of {length} tokens in the {name} split, got"
            f" {len(ids)} tokens"
        )
    return ids[: count * length].reshape(count, length).astype(np.int32)


def check_length(length: int) -> int:
    """Returns the block length; rejects lengths too short for measures of 4-grams."""
    return arguments.integer("length", length, at_least=4)


def _first(name: str, rows: np.ndarray, count: int | None) -> np.ndarray:
    """Returns the first `count` rows; rejects 0 and more than there are."""
    if count is None:
        return rows
    if not 1 <= count <= len(rows):
        raise SettingError(
            f"{name}: expected 1 to the {len(rows):,} blocks there are, got {count:,}"
        )
    return rows[:count]
