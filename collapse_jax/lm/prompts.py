"""Prompts of different lengths as one array, padded on the left."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.lm.config import Config


class Prompts(NamedTuple):
    """A batch of prompts.

    Axis legend: B prompts, T tokens of the longest.
    """

    tokens: np.ndarray  # i32[B, T]
    mask: np.ndarray  # bool[B, T], False for padding


def prompts(config: Config, texts: Sequence[Sequence[int]] | np.ndarray) -> Prompts:
    """Prompts from lists of ids.

    Args:
      config: of the model that reads them.
      texts: ids of each prompt.

    Raises:
      ValueError: if there is no prompt, one is empty or not a list of ids, or an id is not in the
        vocabulary.
    """
    rows = [np.asarray(text) for text in texts]
    if not rows or not all(row.size for row in rows):
        raise SettingError(
            "prompts: expected at least one, none empty, got"
            f" {len(rows)} of which {sum(not row.size for row in rows)} are empty"
        )
    for row in rows:
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise SettingError(
                f"prompts: expected a list of integer ids per prompt, got {row.dtype} of shape"
                f" {row.shape}"
            )
        check_ids("prompts", config, row)
    longest = max(row.size for row in rows)
    tokens = np.full((len(rows), longest), config.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        tokens[i, longest - row.size :] = row
        mask[i, longest - row.size :] = True
    return Prompts(tokens, mask)


def check_ids(name: str, config: Config, ids: np.ndarray) -> None:
    """Raises ValueError with the ids' name unless all of them are in the vocabulary."""
    smallest, largest = int(ids.min()), int(ids.max())
    if smallest < 0 or largest >= config.vocabulary:
        raise SettingError(
            f"{name}: expected ids below the vocabulary's {config.vocabulary}, got"
            f" {smallest if smallest < 0 else largest}"
        )


def check(config: Config, given: Prompts, new_tokens: int) -> None:
    """Raises ValueError unless ids, padding and length suit a model that adds `new_tokens`."""
    check_ids("prompts", config, given.tokens)
    if not (np.diff(given.mask.astype(int), axis=1) >= 0).all() or not given.mask[:, -1].all():
        raise SettingError("prompts: expected padding on the left only, got some after a token")
    longest = int(given.mask.sum(axis=1).max())
    if longest + new_tokens > config.positions:
        raise SettingError(
            f"prompts: expected at most {config.positions - new_tokens} tokens (the model's"
            f" {config.positions} positions less {new_tokens} new tokens), got {longest}"
        )
