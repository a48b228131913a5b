"""Sampling and greedy decoding, with the semantics of transformers' `generate`.

Axis legend: B prompts, S maximum number of new tokens, T tokens of a prompt, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import compiled
from collapse_jax.lm import decoding
from collapse_jax.lm.cache import Cache, prefill, step, with_slots
from collapse_jax.lm.opt import Model, Params
from collapse_jax.lm.prompts import Prompts, check


class Texts(NamedTuple):
    """One continuation of each prompt.

    Attributes:
      tokens: new tokens, i32[B, S], padded at the end.
      lengths: number of new tokens, i32[B], including the end-of-sequence token.
      scores: f32[B], sum of the tokens' log-probabilities under the unmodified model, nats.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


class Shaping(NamedTuple):
    """Traced settings of the distribution that tokens are drawn from, see `sample`."""

    temperature: jax.Array  # f32[], unused in greedy decoding
    top_k: jax.Array  # i32[], V for all tokens
    top_p: jax.Array  # f32[], 1 for all tokens
    repetition: jax.Array  # f32[], 1 for no penalty
    min_new_tokens: jax.Array  # i32[], minimum number of new tokens before a text may end


class _SamplingState(NamedTuple):
    chosen: jax.Array  # i32[], new tokens so far
    tokens: jax.Array  # i32[B, S]
    lengths: jax.Array  # i32[B]
    scores: jax.Array  # f32[B]
    ended: jax.Array  # bool[B]
    cache: Cache


def sample(
    key: jax.Array,
    model: Model,
    params: Params,
    prompts: Prompts,
    *,
    new_tokens: int = 64,
    min_new_tokens: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
) -> Texts:
    """Draws a continuation of each prompt.

    Args:
      key: typed key; prompt b draws with `fold_in(key, b)`.
      model, params: the network.
      prompts: the prompts to continue.
      new_tokens: S, the maximum number of new tokens.
      min_new_tokens: minimum number of new tokens before a text may end.
      temperature: divisor of the logits; 0 for greedy decoding (the most probable token).
      top_k: number of most probable tokens to draw from; 0 for all.
      top_p: draw only from the most probable tokens whose probabilities sum to this; 1 for all.
      repetition_penalty: divisor of positive logits, and factor of negative ones, of tokens that
        occurred before, in the prompt or after it.

    Returns:
      One continuation of each prompt.

    Raises:
      ValueError: for an argument outside its range, or prompts and new tokens that exceed the
        model's positions.
    """
    new_tokens = arguments.integer("new_tokens", new_tokens, at_least=1)
    min_new_tokens = arguments.integer("min_new_tokens", min_new_tokens, at_least=0)
    if min_new_tokens > new_tokens:
        raise SettingError(
            f"min_new_tokens: expected at most new_tokens = {new_tokens}, got {min_new_tokens}"
        )
    temperature = arguments.number("temperature", temperature, at_least=0)
    top_k = arguments.integer("top_k", top_k, at_least=0)
    top_p = arguments.share("top_p", top_p, above=0)
    repetition_penalty = arguments.number("repetition_penalty", repetition_penalty, above=0)
    check(model.config, prompts, new_tokens)
    shaping = Shaping(
        temperature=jnp.float32(temperature),
        top_k=jnp.int32(top_k or model.config.vocabulary),
        top_p=jnp.float32(top_p),
        repetition=jnp.float32(repetition_penalty),
        min_new_tokens=jnp.int32(min_new_tokens),
    )
    cut = bool(temperature) and (0 < top_k < model.config.vocabulary or top_p < 1)
    program = _program(model, new_tokens, bool(temperature), cut)
    texts: Texts = program(key, params, prompts.tokens, prompts.mask, shaping)
    return texts


@functools.lru_cache(maxsize=16)
def _program(model: Model, new_tokens: int, random: bool, cut: bool) -> Any:
    return compiled(functools.partial(sample_purely, model, new_tokens, random, cut))


def sample_purely(
    model: Model,
    new_tokens: int,
    random: bool,
    cut: bool,
    key: jax.Array,
    params: Params,
    prompts: jax.Array,
    mask: jax.Array,
    shaping: Shaping,
) -> Texts:
    """`sample` as a pure, jittable function, without checks of its arguments.

    Args:
      model, new_tokens: static; each combination is a separate compiled program.
      random: static; whether tokens are drawn, else the most probable is taken.
      cut: static; whether top_k or top_p exclude tokens.
      key: typed key, see `sample`.
      params: parameters of the network.
      prompts: ids i32[B, T], padded on the left.
      mask: False for padding, bool[B, T].
      shaping: see `Shaping`.
    """
    count, length = prompts.shape
    read = mask.sum(axis=1, dtype=jnp.int32)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))
    places = jnp.arange(new_tokens)
    # Padding must not count as having occurred: the last token, which did, replaces it.
    occurred = jnp.where(mask, prompts, prompts[:, -1:])
    params = model.in_dtype(params)
    logits, cache = prefill(model, params, prompts, mask)

    def choose(logits: jax.Array, state: _SamplingState) -> _SamplingState:
        own = jnp.where(places < state.chosen, state.tokens, prompts[:, -1:])
        seen = jnp.concatenate([occurred, own], axis=1)
        scores = decoding.penalise_repetition(logits, seen, shaping.repetition)
        ends = jnp.arange(logits.shape[1]) == model.config.end
        scores = jnp.where(ends & (state.chosen < shaping.min_new_tokens), -jnp.inf, scores)
        if random:
            scores = scores / shaping.temperature
            if cut:
                scores = _cut(scores, shaping.top_k, shaping.top_p)
            k_steps = jax.vmap(jax.random.fold_in, (0, None))(keys, state.chosen)
            token = jax.vmap(jax.random.categorical)(k_steps, scores)
        else:
            token = jnp.argmax(scores, axis=1)
        token = jnp.where(state.ended, model.config.pad, token).astype(jnp.int32)
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        return state._replace(
            chosen=state.chosen + 1,
            tokens=jnp.where(places == state.chosen, token[:, None], state.tokens),
            lengths=state.lengths + ~state.ended,
            scores=state.scores + jnp.where(state.ended, 0.0, logs),
            ended=state.ended | (token == model.config.end),
        )

    def advance(state: _SamplingState) -> _SamplingState:
        fed = state.chosen - 1
        slots = state.cache.keys[0].shape[3]
        new = jnp.broadcast_to(jnp.arange(slots - length) <= fed, (count, slots - length))
        seen = jnp.concatenate([mask, new], axis=1)[:, None]
        token = jax.lax.dynamic_slice_in_dim(state.tokens, fed, 1, axis=1)
        logits, cache = step(
            model,
            params,
            state.cache,
            tokens=token,
            positions=read + fed,
            slot=length + fed,
            seen=seen,
        )
        return choose(logits[:, 0], state._replace(cache=cache))

    state = choose(
        logits,
        _SamplingState(
            chosen=jnp.int32(0),
            tokens=jnp.full((count, new_tokens), model.config.pad, jnp.int32),
            lengths=jnp.zeros(count, jnp.int32),
            scores=jnp.zeros(count),
            ended=jnp.zeros(count, bool),
            cache=cache,
        ),
    )
    for stop in decoding.stages(new_tokens):
        state = state._replace(cache=with_slots(state.cache, length + stop - 1))
        state = jax.lax.while_loop(functools.partial(_continues, stop), advance, state)
    return Texts(state.tokens, state.lengths, state.scores)


def _continues(stop: int, state: _SamplingState) -> jax.Array:
    return (state.chosen < stop) & ~jnp.all(state.ended)


def _cut(scores: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Scores f32[B, V], with minus infinity for the tokens that top_k and top_p exclude."""
    ordered = jnp.sort(scores, axis=1, descending=True)
    ranks = jnp.arange(scores.shape[1])
    ordered = jnp.where(ranks < top_k, ordered, -jnp.inf)
    shares = jax.nn.softmax(ordered, axis=1)
    before = jnp.cumsum(shares, axis=1) - shares
    kept = (before < top_p) & (ranks < top_k)
    threshold = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=1, keepdims=True)
    return jnp.where(scores < threshold, -jnp.inf, scores)
