"""The pretrained model that every generation starts from, with its tokenizer."""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.lm import tokenizer, weights
from collapse_jax.lm.config import Config
from collapse_jax.lm.opt import Params
from collapse_jax.lm.tokenizer import Tokenizer


class Base(NamedTuple):
    """A model, its tokenizer, and what tells them from others."""

    config: Config
    params: Params  # f32, on the host
    words: Tokenizer
    sha256: str  # of the shape, all weights and the vocabulary


@functools.lru_cache(maxsize=2)
def load(name: str, revision: str | None = None) -> Base:
    """A pretrained model.

    Args:
      name: a directory in Hugging Face's layout, or an id on the hub such as "facebook/opt-125m".
      revision: of the hub's repository.

    Raises:
      FileNotFoundError: if there is no such model, or it lacks a file.
      ValueError: for files that are damaged, or a tokenizer that does not fit the model.
    """
    directory = weights.resolve(name, revision)
    config, params = weights.load(directory)
    words = tokenizer.load(directory)
    _check(directory, config, params, words)
    return Base(config, params, words, _checksum(config, params, words))


def _check(directory: Path, config: Config, params: Params, words: Tokenizer) -> None:
    if words.vocabulary > config.vocabulary:
        raise SettingError(
            f"base: {directory}: expected a tokenizer with ids below the model's"
            f" {config.vocabulary:,}, got {words.vocabulary - 1:,}"
        )
    for token, id_, field, expected in (
        (tokenizer.BEGIN, words.begin, "bos_token_id", config.begin),
        (tokenizer.PAD, words.pad, "pad_token_id", config.pad),
    ):
        if id_ != expected:
            raise SettingError(
                f"base: {directory}: expected the config's {field} {expected} for {token} in the"
                f" tokenizer's vocabulary, got {id_}"
            )
    for path, leaf in jax.tree.leaves_with_path(params):
        if not np.isfinite(leaf).all():
            raise SettingError(
                f"base: {directory}: expected finite weights, got others in"
                f" {weights.published_name(path)}"
            )


def _checksum(config: Config, params: Params, words: Tokenizer) -> str:
    digest = hashlib.sha256(repr(config).encode())
    digest.update(json.dumps(sorted(words.library.get_vocab().items())).encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
