"""Cross-entropy of the tokens to come, a chunk of predictions at a time: no logits are kept.

Axis legend: N predictions, E width of the word embedding, V vocabulary, C predictions of a chunk.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def losses(hidden: jax.Array, words: jax.Array, targets: jax.Array, chunk: int = 0) -> jax.Array:
    """-ln p of every token to come, nats.

    Args:
      hidden: what logits are made from, [N, E].
      words: the embedding, [V, E].
      targets: the tokens, i32[N].
      chunk: predictions whose logits are in memory at a time; 0 for all.

    Returns:
      f32[N].
    """

    def lost(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _losses(_logits(part[0], words), part[1])

    count = len(targets)
    if not 0 < chunk < count:
        return lost((hidden, targets))
    return jax.lax.map(lost, _cut((hidden, targets), chunk)).reshape(-1)[:count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def mean_loss(hidden: jax.Array, words: jax.Array, targets: jax.Array, chunk: int = 0) -> jax.Array:
    """The mean of `losses`, f32[]; its gradient is computed along with it.

    A mean's gradient by the logits is known as soon as they are: (p - 1[target]) / N. So nothing of
    their size waits for the backward pass, and nothing is computed twice for it.
    """
    return losses(hidden, words, targets, chunk).mean()


def _forward(hidden: jax.Array, words: jax.Array, targets: jax.Array, chunk: int) -> Any:
    count = len(targets)

    def turn(of_words: jax.Array, part: Any) -> Any:
        rows, ids, counted = part
        logits = _logits(rows, words)
        one_hot = ids[:, None] == jnp.arange(len(words))
        of_logits = (jax.nn.softmax(logits, axis=1) - one_hot) * (counted[:, None] / count)
        of_logits = of_logits.astype(words.dtype)
        added = jnp.einsum("cv,ce->ve", of_logits, rows, preferred_element_type=jnp.float32)
        of_rows = jnp.einsum("cv,ve->ce", of_logits, words)
        lost = jnp.sum(jnp.where(counted, _losses(logits, ids), 0.0))
        return of_words + added, (lost, of_rows)

    size = chunk if 0 < chunk < count else count
    parts = _cut((hidden, targets, jnp.ones(count, bool)), size)
    of_words, (lost, of_rows) = jax.lax.scan(turn, jnp.zeros(words.shape, jnp.float32), parts)
    of_hidden = of_rows.reshape(-1, hidden.shape[1])[:count]
    return lost.sum() / count, (of_hidden, of_words.astype(words.dtype))


def _backward(chunk: int, gradients: tuple[jax.Array, jax.Array], of_loss: jax.Array) -> Any:
    del chunk
    return *((gradient * of_loss).astype(gradient.dtype) for gradient in gradients), None


mean_loss.defvjp(_forward, _backward)


def _logits(rows: jax.Array, words: jax.Array) -> jax.Array:
    return jnp.einsum("ce,ve->cv", rows, words, preferred_element_type=jnp.float32)


def _losses(logits: jax.Array, ids: jax.Array) -> jax.Array:
    right = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - right


def _cut(leaves: Any, size: int) -> Any:
    """Arrays [N, ...] as [P, C, ...], filled up with zeros."""

    def cut(leaf: jax.Array) -> jax.Array:
        padding = [(0, -len(leaf) % size)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding).reshape(-1, size, *leaf.shape[1:])

    return jax.tree.map(cut, leaves)
