r"""Statistics of a text's richness and repetition; pure functions of one text's tokens.

A text is M blocks of T tokens; blocks that are not `live` are ignored. N-grams lie within a block.
Axis legend: M blocks, T tokens, V vocabulary, R = M (T - n + 1) n-grams.
"""

import jax
import jax.numpy as jnp
import numpy as np

DECILES = 10
LARGEST_VOCABULARY = (1 << 16) - 1  # so that a pair of ids fits in 32 bits and is not `_NONE`
_NONE = np.uint32(0xFFFFFFFF)  # sorts last; pairs of ids are at most V^2 - 1


def counts(tokens: jax.Array, live: jax.Array, vocabulary: int) -> jax.Array:
    """Number of occurrences of each id, i32[V].

    Args:
      tokens: i32[M, T].
      live: bool[M].
      vocabulary: V.
    """
    ones = jnp.broadcast_to(live[:, None], tokens.shape).astype(jnp.int32)
    return jnp.zeros(vocabulary, jnp.int32).at[tokens.ravel()].add(ones.ravel())


def entropy(counts: jax.Array) -> jax.Array:
    """Plug-in entropy of counts i32[...], nats, f32[]."""
    shares = counts / jnp.maximum(jnp.sum(counts), 1)
    return -jnp.sum(jnp.where(counts > 0, shares * jnp.log(jnp.where(counts > 0, shares, 1.0)), 0))


def heterozygosity(counts: jax.Array) -> jax.Array:
    """The probability that two tokens of the text differ, 1 - sum p^2, f32[]."""
    shares = counts / jnp.maximum(jnp.sum(counts), 1)
    return 1.0 - jnp.sum(shares**2)


def zipf_slope(counts: jax.Array) -> jax.Array:
    """Least-squares slope of ln count against ln rank over all types that occur, f32[].

    The slope is 0 if only one type occurs.
    """
    ordered = jnp.sort(counts, descending=True)
    valid = ordered > 0
    x = jnp.log(jnp.arange(1, len(ordered) + 1))
    y = jnp.log(jnp.maximum(ordered, 1))
    number = jnp.maximum(jnp.sum(valid), 1)
    x = jnp.where(valid, x - jnp.sum(jnp.where(valid, x, 0)) / number, 0)
    return jnp.sum(x * y) / jnp.maximum(jnp.sum(x**2), 1e-12)


def ngram_counts(tokens: jax.Array, live: jax.Array, vocabulary: int, n: int) -> jax.Array:
    """Counts of the n-grams that occur, unordered and padded with 0: i32[R].

    Args:
      tokens: i32[M, T].
      live: bool[M].
      vocabulary: V, at most `LARGEST_VOCABULARY`.
      n: 2 or 3.
    """
    grams = [tokens[:, i : tokens.shape[1] - n + 1 + i].astype(jnp.uint32) for i in range(n)]
    valid = jnp.broadcast_to(live[:, None], grams[0].shape)
    pair = jnp.where(valid, grams[0] * jnp.uint32(vocabulary) + grams[1], _NONE)
    keys = [pair.ravel(), *(gram.ravel() for gram in grams[2:])]
    ordered = jax.lax.sort(keys, num_keys=len(keys))
    new = jnp.zeros(keys[0].shape, bool).at[0].set(True)
    for key in ordered:
        new = new.at[1:].set(new[1:] | (key[1:] != key[:-1]))
    ones = (ordered[0] != _NONE).astype(jnp.int32)
    return jax.ops.segment_sum(ones, jnp.cumsum(new) - 1, len(new))


def distinct(counts: jax.Array) -> jax.Array:
    """Share of distinct n-grams among all n-grams (Li et al. 2016, arXiv 1510.03055), f32[]."""
    return jnp.sum(counts > 0) / jnp.maximum(jnp.sum(counts), 1)


def repetition(tokens: jax.Array, live: jax.Array, n: int = 4, together: int = 64) -> jax.Array:
    """Share of a block's n-grams that occurred in it before, mean over blocks, f32[].

    This is seq-rep-n of Welleck et al. 2019, arXiv 1908.04319.

    Args:
      tokens: i32[M, T].
      live: bool[M].
      n: length of n-grams; 4 in the literature.
      together: blocks processed at a time.
    """

    def of_block(block: jax.Array) -> jax.Array:
        length = block.shape[0] - n + 1
        same = jnp.ones((length, length), bool)
        for i in range(n):
            same &= block[i : i + length, None] == block[None, i : i + length]
        return jnp.mean(jnp.any(jnp.tril(same, -1), axis=1).astype(jnp.float32))

    shares = jax.lax.map(of_block, tokens, batch_size=together)
    return jnp.sum(jnp.where(live, shares, 0)) / jnp.maximum(jnp.sum(live), 1)


def self_bleu(tokens: jax.Array, live: jax.Array, n: int = 4) -> jax.Array:
    """Mean BLEU-n of each block against all others (Zhu et al. 2018, arXiv 1802.01886), f32[].

    This is the geometric mean of clipped precisions of 1- to n-grams, without smoothing. Blocks are
    of equal length, so there is no brevity penalty.

    Args:
      tokens: i32[S, T], a sample of blocks.
      live: bool[S], at least two of them true.
      n: length of the longest n-grams.
    """
    size = tokens.shape[0]

    def of_block(number: jax.Array) -> jax.Array:
        logs = []
        equal = tokens[number][:, None] == tokens[:, None, :]  # [S, T, T]
        for order in range(1, n + 1):
            length = tokens.shape[1] - order + 1
            same = jnp.ones((size, length, length), bool)
            for i in range(order):
                same &= equal[:, i : i + length, i : i + length]
            found = jnp.sum(same, axis=2)  # [S, length]: count of each n-gram in each block
            own = found[number]
            other = live & (jnp.arange(size) != number)
            others = jnp.max(jnp.where(other[:, None], found, 0), axis=0)
            # Each of an n-gram's `own` occurrences contributes its unclipped share.
            precision = jnp.mean(jnp.minimum(own, others) / own)
            logs.append(jnp.log(precision))
        return jnp.exp(sum(logs, jnp.float32(0)) / n)

    scores = jax.lax.map(of_block, jnp.arange(size))
    return jnp.sum(jnp.where(live, scores, 0)) / jnp.maximum(jnp.sum(live), 1)


def survival(first: jax.Array, now: jax.Array) -> jax.Array:
    """Share of the first text's types that still occur, by decile of their rank in it.

    Args:
      first: counts in the first text, i32[V].
      now: counts in the current text, i32[V].

    Returns:
      f32[DECILES], from the most to the least frequent types; ties are ordered by id. A decile
      without types has share 1.
    """
    order = jnp.argsort(first, descending=True)
    types = jnp.sum(first > 0)
    ranks = jnp.arange(len(first))
    decile = jnp.where(ranks < types, ranks * DECILES // jnp.maximum(types, 1), DECILES)
    alive = (now[order] > 0).astype(jnp.float32)
    sums = jax.ops.segment_sum(alive, decile, DECILES + 1)[:DECILES]
    sizes = jax.ops.segment_sum(jnp.ones_like(alive), decile, DECILES + 1)[:DECILES]
    return jnp.where(sizes > 0, sums / jnp.maximum(sizes, 1), 1.0)


def tail(first: jax.Array, share: float) -> jax.Array:
    """Mask of the rarest types whose tokens are at most this share of the first text: bool[V].

    Args:
      first: counts in the first text, i32[V].
      share: share of its tokens.
    """
    order = jnp.argsort(first)
    mass = jnp.cumsum(first[order])
    # The tolerance keeps types that reach the share exactly, despite rounding.
    rare = (mass <= share * jnp.sum(first) * (1 + 1e-6)) & (first[order] > 0)
    return jnp.zeros(first.shape, bool).at[order].set(rare)
