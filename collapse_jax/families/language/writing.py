"""Texts that a model writes: for every prompt the next T tokens, some prompts at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import pools
from collapse_jax.config import check_choice
from collapse_jax.family import Request, Steps
from collapse_jax.lm import beam, sampling
from collapse_jax.lm.opt import Model, Params

DECODERS = ("beam", "sample")


class Decoder(NamedTuple):
    """How tokens are chosen.

    Attributes:
      kind: "beam" search, or "sample": token by token.
      beams: K, at least 2.
      temperature, top_k, top_p: of sampling; see `collapse_jax.lm.sampling.sample`.
      repetition_penalty: of both; 1 is none.
      batch: prompts that are continued at a time.
    """

    kind: str = "beam"
    beams: int = 5
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    batch: int = 16

    def check(self) -> None:
        """Raises ValueError for a setting outside its range."""
        check_choice("decoder", self.kind, DECODERS)
        for name, value, least in (
            ("beams", self.beams, 2), ("top_k", self.top_k, 0), ("decode_batch", self.batch, 1)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        for name in ("temperature", "repetition_penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected above 0, got {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected above 0 and at most 1, got {self.top_p}")
        unused = Decoder()
        for name in ("temperature", "top_k", "top_p"):
            value = getattr(self, name)
            if self.kind == "beam" and value != getattr(unused, name):
                raise ValueError(f"{name}: beam search has none, expected decoder sample")


class Writing(NamedTuple):
    """Where the writing of one chain is."""

    key: jax.Array
    params: Params
    chosen: jax.Array  # i32[M], numbers of prompts
    written: jax.Array  # i32[M, T]
    batches: jax.Array  # i32[], so far
    asked: jax.Array | None  # i32[], how many are wanted; None for all M


def continuation(
    model: Model, decoder: Decoder, new_tokens: int
) -> Callable[[jax.Array, Params, jax.Array], jax.Array]:
    """(key, params, prompts i32[B, T]) -> their next tokens, i32[B, new_tokens].

    None of them ends a text: as the paper has it, minimum and maximum length are the same.
    """
    least = jnp.int32(new_tokens)
    penalty = jnp.float32(decoder.repetition_penalty)

    def write(key: jax.Array, params: Params, prompts: jax.Array) -> jax.Array:
        mask = jnp.ones(prompts.shape, bool)
        if decoder.kind == "beam":
            early = jnp.int32(beam.WHEN_BEATEN)  # means nothing where all are of one length
            penalties = beam.Penalties(jnp.float32(1.0), penalty, least, early)
            found = beam.search_purely(
                model, decoder.beams, new_tokens, params, prompts, mask, penalties
            )
            return found.tokens[:, 0]
        settings = sampling.Settings(
            jnp.float32(decoder.temperature),
            jnp.int32(decoder.top_k or model.config.vocabulary),
            jnp.float32(decoder.top_p), penalty, least,
        )  # fmt: skip
        cut = 0 < decoder.top_k < model.config.vocabulary or decoder.top_p < 1
        texts = sampling.sample_purely(
            model, new_tokens, True, cut, key, params, prompts, mask, settings
        )
        return texts.tokens

    return write


def steps(model: Model, decoder: Decoder, prompts: np.ndarray) -> Steps:
    """A family's sample: continuations of prompts, as rows of the prompts' length.

    All prompts in their order if all are asked for, else a random part of them.

    Args:
      model: the network.
      decoder: how.
      prompts: ids i32[N, T].
    """
    total, length = prompts.shape
    write = continuation(model, decoder, length)

    def begin(key: jax.Array, params: Params, request: Request) -> Writing:
        k_order, k_write = jax.random.split(key)
        chosen = jnp.arange(total, dtype=jnp.int32)
        if not (isinstance(request.count, int) and request.count == total):
            chosen = pools.random_order(k_order, total, total)
            places = jnp.arange(request.capacity) % total  # a schedule's room may be for more
            chosen = chosen[places]
        written = jnp.zeros((request.capacity, length), jnp.int32)
        known = isinstance(request.count, int) and request.count == request.capacity
        asked = None if known else jnp.int32(request.count)
        return Writing(k_write, params, chosen, written, jnp.int32(0), asked)

    def advance(carry: Writing) -> Writing:
        places = carry.batches * decoder.batch + jnp.arange(decoder.batch)
        chosen = carry.chosen[jnp.minimum(places, carry.chosen.shape[0] - 1)]
        key = jax.random.fold_in(carry.key, carry.batches)
        new = write(key, carry.params, jnp.asarray(prompts)[chosen])
        written = carry.written.at[places].set(new, mode="drop")
        return carry._replace(written=written, batches=carry.batches + 1)

    def done(carry: Writing) -> jax.Array:
        return carry.batches * decoder.batch >= carry.chosen.shape[0]

    def finish(carry: Writing) -> pools.Rows:
        count = carry.written.shape[0] if carry.asked is None else carry.asked
        return pools.Rows(carry.written, count)

    return Steps(begin, advance, done, finish)
