"""Texts that a model writes: for every prompt the next T tokens, some prompts at a time."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.family import Request, Steps
from collapse_jax.lm import beam, sampling
from collapse_jax.lm.opt import Model, Params

Decoder = Literal["beam", "sample"]


class Decoding(NamedTuple):
    """How texts are written.

    Attributes:
      decoder: how text is written: by "beam" search, or token by token ("sample").
      beams: beams of beam search, at least 2.
      temperature: sampling: logits are divided by it.
      top_k: sampling: only so many tokens with the largest logits are drawn from; 0: all.
      top_p: sampling: only the most probable tokens that together have this probability are
        drawn from.
      repetition_penalty: penalty on tokens that occurred, of both decoders; the paper tries 2.0,
        its archived code 3.0; 1: none.
      decode_batch: prompts that are continued at a time.
    """

    decoder: Decoder = "beam"
    beams: int = 5
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    decode_batch: int = 16

    def check(self) -> "Decoding":
        """The same as plain Python values; raises SettingError for one outside its range."""
        checked = Decoding(
            arguments.choice("decoder", self.decoder, get_args(Decoder)),
            arguments.integer("beams", self.beams, at_least=2),
            arguments.number("temperature", self.temperature, above=0),
            arguments.integer("top_k", self.top_k, at_least=0),
            arguments.share("top_p", self.top_p, above=0),
            arguments.number("repetition_penalty", self.repetition_penalty, above=0),
            arguments.integer("decode_batch", self.decode_batch, at_least=1),
        )
        unused = Decoding()
        for name in ("temperature", "top_k", "top_p"):
            if checked.decoder == "beam" and getattr(checked, name) != getattr(unused, name):
                raise SettingError(f"{name}: beam search has none, expected decoder sample")
        return checked

    @property
    def config(self) -> dict[str, Any]:
        """What goes into the fingerprint."""
        fields = self._asdict()
        return {"kind": fields.pop("decoder"), "batch": fields.pop("decode_batch"), **fields}


class Writing(NamedTuple):
    """Where the writing of one chain is."""

    key: jax.Array
    params: Params
    chosen: jax.Array  # i32[M], numbers of prompts
    written: jax.Array  # i32[M, T]
    batches: jax.Array  # i32[], so far
    asked: jax.Array | None  # i32[], how many are wanted; None for all M


def continuation(
    model: Model, decoding: Decoding, new_tokens: int
) -> Callable[[jax.Array, Params, jax.Array], jax.Array]:
    """(key, params, prompts i32[B, T]) -> their next tokens, i32[B, new_tokens].

    None of them ends a text: as the paper has it, minimum and maximum length are the same.
    """
    least = jnp.int32(new_tokens)
    penalty = jnp.float32(decoding.repetition_penalty)

    def write(key: jax.Array, params: Params, prompts: jax.Array) -> jax.Array:
        mask = jnp.ones(prompts.shape, bool)
        if decoding.decoder == "beam":
            early = jnp.int32(beam.WHEN_BEATEN)  # means nothing where all are of one length
            penalties = beam.Penalties(jnp.float32(1.0), penalty, least, early)
            found = beam.search_purely(
                model, decoding.beams, new_tokens, params, prompts, mask, penalties
            )
            return found.tokens[:, 0]
        shaping = sampling.Shaping(
            jnp.float32(decoding.temperature),
            jnp.int32(decoding.top_k or model.config.vocabulary),
            jnp.float32(decoding.top_p), penalty, least,
        )  # fmt: skip
        cut = 0 < decoding.top_k < model.config.vocabulary or decoding.top_p < 1
        texts = sampling.sample_purely(
            model, new_tokens, True, cut, key, params, prompts, mask, shaping
        )
        return texts.tokens

    return write


def steps(model: Model, decoding: Decoding, prompts: np.ndarray) -> Steps:
    """A family's sample: continuations of prompts, as rows of the prompts' length.

    All prompts in their order if all are asked for, else a random part of them.

    Args:
      model: the network.
      decoding: how.
      prompts: ids i32[N, T].
    """
    total, length = prompts.shape
    write = continuation(model, decoding, length)

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
        places = carry.batches * decoding.decode_batch + jnp.arange(decoding.decode_batch)
        chosen = carry.chosen[jnp.minimum(places, carry.chosen.shape[0] - 1)]
        key = jax.random.fold_in(carry.key, carry.batches)
        new = write(key, carry.params, jnp.asarray(prompts)[chosen])
        written = carry.written.at[places].set(new, mode="drop")
        return carry._replace(written=written, batches=carry.batches + 1)

    def done(carry: Writing) -> jax.Array:
        return carry.batches * decoding.decode_batch >= carry.chosen.shape[0]

    def finish(carry: Writing) -> pools.Rows:
        count = carry.written.shape[0] if carry.asked is None else carry.asked
        return pools.Rows(carry.written, count)

    return Steps(begin, advance, done, finish)
