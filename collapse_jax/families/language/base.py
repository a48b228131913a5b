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
from collapse_jax.lm.tokenizer import BEGIN, PAD, Tokenizer


class Base(NamedTuple):
    """A pretrained model with its tokenizer and their checksum."""

    config: Config
    params: Params  # f32, on the host
    tokenizer: Tokenizer
    sha256: str  # of config, weights and vocabulary


@functools.lru_cache(maxsize=2)
def load(name: str, revision: str | None = None) -> Base:
    """Loads a pretrained model.

    Args:
      name: a directory in Hugging Face's layout, or a Hugging Face Hub id such as
        "facebook/opt-125m".
      revision: revision of the hub repository.

    Raises:
      FileNotFoundError: if the model, or one of its files, does not exist.
      ValueError: if a file is damaged, or the tokenizer does not match the model.
    """
    directory = weights.resolve(name, revision)
    config, params = weights.load(directory)
    found = tokenizer.load(directory)
    _check(directory, config, params, found)
    return Base(config, params, found, _checksum(config, params, found))


def _check(directory: Path, config: Config, params: Params, tokenizer: Tokenizer) -> None:
    if tokenizer.vocabulary > config.vocabulary:
        raise SettingError(
            f"base: {directory}: expected a tokenizer with ids below the model's"
            f" {config.vocabulary:,}, got {tokenizer.vocabulary - 1:,}"
        )
    for token, id_, field, expected in (
        (BEGIN, tokenizer.begin, "bos_token_id", config.begin),
        (PAD, tokenizer.pad, "pad_token_id", config.pad),
    ):
        if id_ != expected:
            raise SettingError(
                f"base: {directory}: expected the config's {field} {expected} for {token} in the"
                f" tokenizer's vocabulary, got {id_}"
            )
    for path, leaf in jax.tree.leaves_with_path(params):
        if not np.isfinite(leaf).all():
            raise SettingError(
                f"base: {directory}: expected finite weights, got NaN or infinity in"
                f" {weights.published_name(path)}"
            )


def _checksum(config: Config, params: Params, tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(repr(config).encode())
    digest.update(json.dumps(sorted(tokenizer.library.get_vocab().items())).encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
