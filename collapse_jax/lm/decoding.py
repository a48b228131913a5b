"""What beam search and sampling share."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

# Steps after which attention's window grows: attending to empty slots costs as much as to others.
_STAGE = 16


def stages(new_tokens: int) -> Iterator[int]:
    """Numbers of new tokens after which the window grows; the last is all of them."""
    for stage in range(1, new_tokens, _STAGE):
        yield min(stage + _STAGE, new_tokens)


def less_repeated(scores: jax.Array, occurred: jax.Array, penalty: jax.Array) -> jax.Array:
    """Scores with those of tokens that occurred made smaller: Keskar et al. 2019, arXiv 1909.05858.

    Args:
      scores: f32[..., V].
      occurred: ids i32[..., N].
      penalty: what negative scores are multiplied by, and positive ones divided.
    """
    values = jnp.take_along_axis(scores, occurred, axis=-1)
    values = jnp.where(values < 0, values * penalty, values / penalty)
    return jnp.put_along_axis(scores, occurred, values, axis=-1, inplace=False)
