"""Key-value cache for decoding with one or several beams per prompt.

The prompt is read once for all its beams. The key and value that beam k adds in step s stay in slot
s * K + k of the generated part. Beams never copy slots: each knows the slots of its ancestors, and
its attention is masked to them.
Axis legend: B prompts, K beams, T tokens of the prompt, N heads, D width of a head, W slots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.lm import opt
from collapse_jax.lm.opt import Attend, Model, Params


class Cache(NamedTuple):
    """Keys and values of the prompt's T slots, then of K slots per step.

    The layout suits matrix products with one row per beam, whose inner loop runs along the last
    axis.
    """

    keys: tuple[jax.Array, ...]  # per layer, [B, N, D, W]
    values: tuple[jax.Array, ...]  # per layer, [B, N, W, D]


def prefill(
    model: Model, params: Params, prompts: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Cache]:
    """Reads prompts and fills a new cache.

    Args:
      model, params: the network.
      prompts: ids i32[B, T], padded on the left.
      mask: False for padding, bool[B, T].

    Returns:
      Logits of the next token, f32[B, V], and the cache with W = T.
    """
    keys: list[jax.Array] = []
    values: list[jax.Array] = []

    def attend(layer: int) -> Attend:
        del layer

        def remember(queries: jax.Array, new_keys: jax.Array, new_values: jax.Array) -> jax.Array:
            keys.append(new_keys.transpose(0, 2, 3, 1))
            values.append(new_values.transpose(0, 2, 1, 3))
            return opt.causal(mask)(queries, new_keys, new_values)

        return remember

    network = model.bind(params)
    hidden = network.hidden(prompts, opt.positions(mask), attend)
    return network.logits(hidden[:, -1]), Cache(tuple(keys), tuple(values))


def with_slots(cache: Cache, slots: int) -> Cache:
    """The cache enlarged to W = `slots`; the new slots are zero."""

    def grown(array: jax.Array, axis: int) -> jax.Array:
        padding = [(0, 0)] * array.ndim
        padding[axis] = (0, slots - array.shape[axis])
        return jnp.pad(array, padding)

    return Cache(
        tuple(grown(array, 3) for array in cache.keys),
        tuple(grown(array, 2) for array in cache.values),
    )


def step(
    model: Model,
    params: Params,
    cache: Cache,
    tokens: jax.Array,
    positions: jax.Array,
    slot: jax.Array,
    seen: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Reads one token of every beam.

    Args:
      model, params: the network.
      cache: keys and values of the tokens before.
      tokens: ids i32[B, K].
      positions: positions of the tokens, i32[B].
      slot: slot for the first beam's key and value, i32[]; the others' follow it.
      seen: slots that each beam attends to, including its new one, bool[B, K, W].

    Returns:
      Logits of the next token, f32[B, K, V], and the new cache.
    """
    keys, values = list(cache.keys), list(cache.values)
    network = model.bind(params)
    places = jnp.broadcast_to(positions[:, None], tokens.shape)
    hidden = network.hidden(tokens, places, _attend(keys, values, slot, seen))
    return network.logits(hidden), Cache(tuple(keys), tuple(values))


def _attend(
    keys: list[jax.Array], values: list[jax.Array], slot: jax.Array, seen: jax.Array
) -> Callable[[int], Attend]:
    """Attention of beams to slots; writes the new keys and values into the lists."""
    update: Any = jax.lax.dynamic_update_slice

    def of_layer(layer: int) -> Attend:
        def attend(queries: jax.Array, new_keys: jax.Array, new_values: jax.Array) -> jax.Array:
            keys[layer] = update(keys[layer], new_keys.transpose(0, 2, 3, 1), (0, 0, 0, slot))
            values[layer] = update(values[layer], new_values.transpose(0, 2, 1, 3), (0, 0, slot, 0))
            scores = jnp.einsum(
                "bknd,bndw->bnkw", queries, keys[layer], preferred_element_type=jnp.float32
            )
            shares = opt.softmax(scores, seen[:, None]).astype(values[layer].dtype)
            mixed = jnp.einsum("bnkw,bnwd->bnkd", shares, values[layer])
            return mixed.transpose(0, 2, 1, 3)

        return attend

    return of_layer
