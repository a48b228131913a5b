"""Generation of text: the next T tokens after each prompt, in batches of prompts."""

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
    """How text is generated.

    Attributes:
      decoder: decoding method: "beam" search, or sampling token by token ("sample").
      beams: number of beams of beam search, at least 2.
      temperature: temperature of sampling, by which logits are divided.
      top_k: sampling is restricted to this number of tokens with the largest logits; 0 for all.
      top_p: sampling is restricted to the most probable tokens whose total probability is this.
      repetition_penalty: penalty on tokens that have occurred, for both decoders; the paper tries
        2.0, its archived code 3.0; 1 for none.
      decode_batch: number of prompts continued at a time.
    """

    decoder: Decoder = "beam"
    beams: int = 5
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    decode_batch: int = 16

    def check(self) -> "Decoding":
        """Returns the settings as plain Python values; rejects those outside their range."""
        checked = Decoding(
            decoder=arguments.choice("decoder", self.decoder, get_args(Decoder)),
            beams=arguments.integer("beams", self.beams, at_least=2),
            temperature=arguments.number("temperature", self.temperature, above=0),
            top_k=arguments.integer("top_k", self.top_k, at_least=0),
            top_p=arguments.share("top_p", self.top_p, above=0),
            repetition_penalty=arguments.number(
                "repetition_penalty", self.repetition_penalty, above=0
            ),
            decode_batch=arguments.integer("decode_batch", self.decode_batch, at_least=1),
        )
        unused = Decoding()
        for name in ("temperature", "top_k", "top_p"):
            if checked.decoder == "beam" and getattr(checked, name) != getattr(unused, name):
                raise SettingError(
                    f"{name}: expected decoder sample, got beam search, which does not use it"
                )
        return checked

    @property
    def config(self) -> dict[str, Any]:
        """The entries for the fingerprint."""
        fields = self._asdict()
        return {"kind": fields.pop("decoder"), "batch": fields.pop("decode_batch"), **fields}


class Writing(NamedTuple):
    """Progress of one chain's text generation."""

    key: jax.Array
    params: Params
    chosen: jax.Array  # i32[M], indices of prompts
    written: jax.Array  # i32[M, T]
    batches: jax.Array  # i32[], completed so far
    requested: jax.Array | None  # i32[], number of texts; None for all M


def continuation(
    model: Model, decoding: Decoding, new_tokens: int
) -> Callable[[jax.Array, Params, jax.Array], jax.Array]:
    """Returns (key, params, prompts i32[B, T]) -> their continuations, i32[B, new_tokens].

    Continuations never end early: minimum and maximum length are equal, as in the paper.
    """
    min_new_tokens = jnp.int32(new_tokens)
    penalty = jnp.float32(decoding.repetition_penalty)

    def write(key: jax.Array, params: Params, prompts: jax.Array) -> jax.Array:
        mask = jnp.ones(prompts.shape, bool)
        if decoding.decoder == "beam":
            early = jnp.int32(beam.WHEN_BEATEN)  # irrelevant, as all have the same length
            penalties = beam.Penalties(jnp.float32(1.0), penalty, min_new_tokens, early)
            found = beam.search_purely(
                model,
                decoding.beams,
                new_tokens,
                params=params,
                prompts=prompts,
                mask=mask,
                penalties=penalties,
            )
            return found.tokens[:, 0]
        shaping = sampling.Shaping(
            temperature=jnp.float32(decoding.temperature),
            top_k=jnp.int32(decoding.top_k or model.config.vocabulary),
            top_p=jnp.float32(decoding.top_p), repetition=penalty, min_new_tokens=min_new_tokens,
        )  # fmt: skip
        cut = 0 < decoding.top_k < model.config.vocabulary or decoding.top_p < 1
        texts = sampling.sample_purely(
            model,
            new_tokens,
            random=True,
            cut=cut,
            key=key,
            params=params,
            prompts=prompts,
            mask=mask,
            shaping=shaping,
        )
        return texts.tokens

    return write


def steps(model: Model, decoding: Decoding, prompts: np.ndarray) -> Steps:
    """A family's sample as `Steps`: continuations of prompts, as rows of the prompts' length.

    If N texts are requested, all prompts are continued in order, otherwise a random subset.

    Args:
      model: the network.
      decoding: how text is generated.
      prompts: token ids, i32[N, T].
    """
    total, length = prompts.shape
    write = continuation(model, decoding, length)

    def begin(key: jax.Array, params: Params, request: Request) -> Writing:
        k_order, k_write = jax.random.split(key)
        chosen = jnp.arange(total, dtype=jnp.int32)
        if not (isinstance(request.count, int) and request.count == total):
            chosen = pools.random_order(k_order, total, total)
            places = jnp.arange(request.capacity) % total  # a schedule's capacity may exceed N
            chosen = chosen[places]
        written = jnp.zeros((request.capacity, length), jnp.int32)
        known = isinstance(request.count, int) and request.count == request.capacity
        requested = None if known else jnp.int32(request.count)
        return Writing(
            key=k_write,
            params=params,
            chosen=chosen,
            written=written,
            batches=jnp.int32(0),
            requested=requested,
        )

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
        count = carry.written.shape[0] if carry.requested is None else carry.requested
        return pools.Rows(carry.written, count)

    return Steps(begin, advance, done, finish)
