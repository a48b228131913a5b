"""A text as blocks of tokens, all of one length, as models are trained on them.

Rows are tokenised one by one ("</s>" in front of each), put in a row, and cut; the remainder is
dropped, as in Shumailov et al. 2024.
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
    """How many blocks of each split are used, from its start.

    Attributes:
      blocks: blocks of the training text; none: all.
      validation_blocks: blocks of the validation text, on which every epoch is judged; none: all.
      test_blocks: blocks of the test text; none: all.
    """

    blocks: int | None = None
    validation_blocks: int | None = None
    test_blocks: int | None = None


def cut_blocks(
    words: Tokenizer, text: Text, length: int, skip: float, counts: BlockCounts = BlockCounts()
) -> Blocks:
    """The blocks of a text.

    Args:
      words: the tokenizer.
      text: what is cut.
      length: T.
      skip: share of the training rows, at their start, that is left out.
      counts: of blocks.

    Raises:
      ValueError: for a split, or a part of one, that is shorter than a block, or has fewer blocks
        than are asked for.
    """
    rows = part(text.train, skip, 1.0)
    splits = {"train": rows, "validation": text.validation, "test": text.test}
    made = (of_rows(words, each, length, name) for name, each in splits.items())
    return Blocks(*map(_first, BlockCounts._fields, made, counts))


def part(rows: Sequence[str], start: float, stop: float) -> Sequence[str]:
    """Rows between two shares of all of them."""
    return rows[round(start * len(rows)) : round(stop * len(rows))]


def of_rows(words: Tokenizer, rows: Sequence[str], length: int, name: str) -> np.ndarray:
    """Blocks i32[block, token] of rows.

    Raises:
      ValueError: naming the split, where there are too few tokens for one block.
    """
    ids = np.concatenate([np.zeros(0, np.int32), *map(np.array, words.encode_all(rows))])
    count = len(ids) // length
    if not count:
        raise SettingError(
            f"dataset: expected at least one block of {length} tokens in the {name} split, got"
            f" {len(ids)} tokens"
        )
    return ids[: count * length].reshape(count, length).astype(np.int32)


def check_length(length: int) -> int:
    """The length; refuses blocks that are too short for measures of 4-grams."""
    return arguments.integer("length", length, at_least=4)


def _first(name: str, rows: np.ndarray, count: int | None) -> np.ndarray:
    """The first rows; refuses none, and more than there are."""
    if count is None:
        return rows
    if not 1 <= count <= len(rows):
        raise SettingError(
            f"{name}: expected 1 to the {len(rows):,} blocks there are, got {count:,}"
        )
    return rows[:count]
