"""Cross-entropy of next tokens in chunks of predictions, without storing all logits.

Axis legend: N predictions, E width of the word embedding, V vocabulary, C predictions of a chunk,
P chunks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def losses(
    hidden: jax.Array, embedding: jax.Array, targets: jax.Array, chunk: int = 0
) -> jax.Array:
    """-ln p of every next token, nats.

    Args:
      hidden: the network's last hidden states, [N, E].
      embedding: the word embedding, [V, E].
      targets: the next tokens, i32[N].
      chunk: predictions whose logits are in memory at a time; 0 for all.

    Returns:
      f32[N].
    """

    def loss(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _losses(_logits(part[0], embedding), part[1])

    count = len(targets)
    if not 0 < chunk < count:
        return loss((hidden, targets))
    return jax.lax.map(loss, _cut((hidden, targets), chunk)).reshape(-1)[:count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def mean_loss(
    hidden: jax.Array, embedding: jax.Array, targets: jax.Array, chunk: int = 0
) -> jax.Array:
    """The mean of `losses`, f32[]; the forward pass computes its gradient too.

    The mean's gradient with respect to the logits, (p - 1[target]) / N, is known as soon as they
    are. So no array of their size is kept for the backward pass, and none is computed twice.
    """
    return losses(hidden, embedding, targets, chunk).mean()


def _forward(hidden: jax.Array, embedding: jax.Array, targets: jax.Array, chunk: int) -> Any:
    count = len(targets)

    def add_chunk(of_embedding: jax.Array, part: Any) -> Any:
        rows, ids, counted = part
        logits = _logits(rows, embedding)
        one_hot = ids[:, None] == jnp.arange(len(embedding))
        of_logits = (jax.nn.softmax(logits, axis=1) - one_hot) * (counted[:, None] / count)
        of_logits = of_logits.astype(embedding.dtype)
        added = jnp.einsum("cv,ce->ve", of_logits, rows, preferred_element_type=jnp.float32)
        of_rows = jnp.einsum("cv,ve->ce", of_logits, embedding)
        loss = jnp.sum(jnp.where(counted, _losses(logits, ids), 0.0))
        return of_embedding + added, (loss, of_rows)

    size = chunk if 0 < chunk < count else count
    parts = _cut((hidden, targets, jnp.ones(count, bool)), size)
    of_embedding, (loss, of_rows) = jax.lax.scan(
        add_chunk, jnp.zeros(embedding.shape, jnp.float32), parts
    )
    of_hidden = of_rows.reshape(-1, hidden.shape[1])[:count]
    return loss.sum() / count, (of_hidden, of_embedding.astype(embedding.dtype))


def _backward(chunk: int, gradients: tuple[jax.Array, jax.Array], of_loss: jax.Array) -> Any:
    del chunk
    return *((gradient * of_loss).astype(gradient.dtype) for gradient in gradients), None


mean_loss.defvjp(_forward, _backward)


def _logits(rows: jax.Array, embedding: jax.Array) -> jax.Array:
    return jnp.einsum("ce,ve->cv", rows, embedding, preferred_element_type=jnp.float32)


def _losses(logits: jax.Array, ids: jax.Array) -> jax.Array:
    right = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - right


def _cut(leaves: Any, size: int) -> Any:
    """Splits arrays [N, ...] into chunks [P, C, ...], padded with zeros."""

    def cut(leaf: jax.Array) -> jax.Array:
        padding = [(0, -len(leaf) % size)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding).reshape(-1, size, *leaf.shape[1:])

    return jax.tree.map(cut, leaves)
