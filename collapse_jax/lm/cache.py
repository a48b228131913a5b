"""Keys and values of what was read before, for decoding with one or several beams a prompt.

The prompt is read once for all its beams. What beam k feeds in step s stays for ever in slot
s * K + k; a beam that descends from others does not copy theirs but knows its ancestors' slots, and
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
    """What can be attended to: the prompt's T slots, then K for every step.

    Laid out for matrix products with one row a beam, whose inner loop runs along the last axis.
    """

    keys: tuple[jax.Array, ...]  # a layer: [B, N, D, W]
    values: tuple[jax.Array, ...]  # a layer: [B, N, W, D]


def prefill(
    model: Model, params: Params, prompts: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Cache]:
    """Reads prompts.

    Args:
      model, params: the network.
      prompts: ids i32[B, T], padded on the left.
      mask: whether a token counts, bool[B, T].

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


def with_room(cache: Cache, slots: int) -> Cache:
    """The cache with W = `slots`, the new ones empty."""

    def grown(array: jax.Array, axis: int) -> jax.Array:
        room = [(0, 0)] * array.ndim
        room[axis] = (0, slots - array.shape[axis])
        return jnp.pad(array, room)

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
      cache: of what came before.
      tokens: ids i32[B, K].
      positions: of the tokens, i32[B].
      slot: where the first beam's keys and values are put, i32[].
      seen: which slots each beam attends to, its new one included, bool[B, K, W].

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
    """Attention of beams to slots; puts the new keys and values into the lists."""
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
