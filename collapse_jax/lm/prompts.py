"""Prompts of unlike lengths as one array, padded on the left."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.lm.config import Config


class Prompts(NamedTuple):
    """What is to be continued.

    Axis legend: B prompts, T tokens of the longest.
    """

    tokens: np.ndarray  # i32[B, T]
    mask: np.ndarray  # bool[B, T], False for padding


def prompts(config: Config, texts: Sequence[Sequence[int]] | np.ndarray) -> Prompts:
    """Prompts from ids.

    Args:
      config: of the model that is to read them.
      texts: ids of each.

    Raises:
      ValueError: if there are none, one is empty or no list of ids, or an id is not in the
        vocabulary.
    """
    rows = [np.asarray(text) for text in texts]
    if not rows or not all(row.size for row in rows):
        raise SettingError("prompts: expected at least one, and none of them empty")
    for row in rows:
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise SettingError(
                f"prompts: expected ids, integers in one row a prompt, got {row.dtype} of shape"
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
    """Raises ValueError, naming what they are, unless all ids are in the vocabulary."""
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= config.vocabulary:
        raise SettingError(
            f"{name}: expected ids below the vocabulary's {config.vocabulary}, got"
            f" {least if least < 0 else most}"
        )


def check(config: Config, given: Prompts, new_tokens: int) -> None:
    """Raises ValueError unless the model knows all ids, and all new tokens have positions."""
    check_ids("prompts", config, given.tokens)
    if not (np.diff(given.mask.astype(int), axis=1) >= 0).all() or not given.mask[:, -1].all():
        raise SettingError(
            "prompts: expected padding on the left of every prompt, and nowhere else"
        )
    longest = int(given.mask.sum(axis=1).max())
    if longest + new_tokens > config.positions:
        raise SettingError(
            f"prompts: expected at most {config.positions - new_tokens} tokens, as the model has"
            f" {config.positions} positions and {new_tokens} are new, got {longest}"
        )
