"""Functions shared by beam search and sampling."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

# Steps between enlargements of the cache: attention to empty slots costs as much as to others.
_STAGE = 16


def stages(new_tokens: int) -> Iterator[int]:
    """Numbers of new tokens at which the cache is enlarged; the last is `new_tokens`."""
    for stage in range(1, new_tokens, _STAGE):
        yield min(stage + _STAGE, new_tokens)


def penalise_repetition(scores: jax.Array, occurred: jax.Array, penalty: jax.Array) -> jax.Array:
    """Lowers the scores of tokens that occurred before (Keskar et al. 2019, arXiv 1909.05858).

    Args:
      scores: f32[..., V].
      occurred: ids of these tokens, i32[..., N].
      penalty: f32[]; negative scores are multiplied by it, positive ones divided.

    Returns:
      f32[..., V].
    """
    values = jnp.take_along_axis(scores, occurred, axis=-1)
    values = jnp.where(values < 0, values * penalty, values / penalty)
    return jnp.put_along_axis(scores, occurred, values, axis=-1, inplace=False)
