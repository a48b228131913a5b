"""The algebra of a generation's data: rows, moments, counts, each merged and subsampled.

A pool is a pytree of one chain; counts of its members are Python ints where they are known when the
program is traced and i32 scalars otherwise, so that a full pool needs no masks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.numerics import affine, linalg
from collapse_jax.numerics.hypergeometric import multivariate_hypergeometric
from collapse_jax.numerics.random import mulhi

Count = int | jax.Array
Pool = Any


class Pools(NamedTuple):
    """What a regime may do with a family's data, whatever their form.

    Attributes:
      name: "rows", "live rows", "moments" or "counts".
      merge: (a, b, capacity) -> pool of all members of both, in a's frame of reference.
      subsample: (key, pool, count, capacity) -> `count` members, uniform without replacement; None
        where the form does not allow it.
      size: pool -> number of members.
      grow: (pool, capacity) -> the same pool with room for more.
      bytes: (capacity) -> memory of one chain's pool of that capacity, or None if it doesn't grow.
    """

    name: str
    merge: Callable[[Pool, Pool, int], Pool]
    subsample: Callable[[jax.Array, Pool, Count, int], Pool] | None
    size: Callable[[Pool], Count]
    grow: Callable[[Pool, int], Pool]
    bytes: Callable[[int], int | None]


class Rows(NamedTuple):
    """Up to `capacity` samples, of which the first `count` are live."""

    values: jax.Array  # f32[capacity, ...]
    count: Count  # type: ignore[assignment]
    frame: affine.Affine | None = None  # the coordinates that `values` are in


class Moments(NamedTuple):
    """Sufficient statistics of `count` samples of dimension d."""

    count: Count  # type: ignore[assignment]
    spread: affine.Affine  # centre: the mean; factor: Cholesky factor of the ddof=0 covariance


class Counts(NamedTuple):
    """How often each symbol occurred."""

    counts: jax.Array  # i32[symbol]
    total: Count


def live(pool: Rows) -> jax.Array | None:
    """Mask of the live rows, bool[capacity]; None where all are."""
    capacity = pool.values.shape[0]
    if isinstance(pool.count, int) and pool.count == capacity:
        return None
    return jnp.arange(capacity) < pool.count


def rows(row_bytes: int) -> Pools:
    """Rows of `row_bytes` each; a merged pool stays in the frame of its first part."""

    def merge(a: Rows, b: Rows, capacity: int) -> Rows:
        values = b.values
        if a.frame is not None and b.frame is not None:
            values = affine.apply(affine.relative(a.frame, b.frame), values)
        total = a.count + b.count
        if isinstance(a.count, int):
            head = jax.lax.slice_in_dim(a.values, 0, a.count)
            return Rows(_resize(jnp.concatenate([head, values]), capacity), total, a.frame)
        # XLA shifts a slice that would overrun: unless b is full there must be room to spare.
        slack = 0 if live(b) is None else values.shape[0]
        room = _resize(a.values, max(capacity, a.values.shape[0]) + slack)
        room = jax.lax.dynamic_update_slice_in_dim(room, values, a.count, 0)
        return Rows(_resize(room, capacity), total, a.frame)

    def subsample(key: jax.Array, pool: Rows, count: Count, capacity: int) -> Rows:
        chosen = _distinct(key, pool.values.shape[0], pool.count, capacity)
        return Rows(pool.values[chosen], count, pool.frame)

    return Pools(
        "rows",
        merge,
        subsample,
        size=lambda pool: pool.count,
        grow=lambda pool, capacity: pool._replace(values=_resize(pool.values, capacity)),
        bytes=lambda capacity: capacity * row_bytes,
    )


class LiveRows(NamedTuple):
    """Rows of which some are drawn anew from the teacher each time a fit looks at them."""

    fixed: Rows
    live: jax.Array  # bool[capacity of those drawn anew], which of them there are


def live_rows(row_bytes: int) -> Pools:
    """Rows that may stand for draws to come: only for fits that see one teacher at a time.

    A merged pool has room for all fixed rows of both parts, whatever the capacity asked for.
    """
    plain = rows(row_bytes)

    def merge(a: LiveRows, b: LiveRows, capacity: int) -> LiveRows:
        del capacity
        room = a.fixed.values.shape[0] + b.fixed.values.shape[0]
        return LiveRows(plain.merge(a.fixed, b.fixed, room), jnp.concatenate([a.live, b.live]))

    def subsample(key: jax.Array, pool: LiveRows, count: Count, capacity: int) -> LiveRows:
        assert plain.subsample is not None
        if pool.live.shape[0]:
            raise ValueError("live rows: rows that are yet to be drawn cannot be subsampled")
        return pool._replace(fixed=plain.subsample(key, pool.fixed, count, capacity))

    return Pools(
        "live rows",
        merge,
        subsample,
        size=lambda pool: pool.fixed.count + jnp.sum(pool.live, dtype=jnp.int32),
        grow=lambda pool, capacity: pool._replace(fixed=plain.grow(pool.fixed, capacity)),
        bytes=plain.bytes,
    )


def moments() -> Pools:
    """Means and covariances: O(d^2) however many samples they stand for."""

    def merge(a: Moments, b: Moments, capacity: int) -> Moments:
        del capacity
        a, b = _larger_first(a, b)
        total = a.count + b.count
        share = jnp.float32(b.count) / jnp.float32(total)
        other = affine.relative(a.spread, b.spread)
        dim = other.centre.shape[-1]
        # Pooled ddof=0 covariance in a's coordinates, (1-s) I + s R R' + s(1-s) d d', divided by
        # its own scale e^2m so that nothing overflows when b is far wider than a.
        top = jnp.maximum(jnp.max(other.log_scale), jnp.log(jnp.max(jnp.abs(other.centre)) + 1.0))
        top = jnp.maximum(top, 0.0)
        scaled = affine.factor(other._replace(log_scale=other.log_scale - top))
        shift = other.centre * jnp.exp(-top)
        pooled = (
            (1.0 - share) * jnp.exp(-2.0 * top) * jnp.eye(dim)
            + share * scaled @ scaled.T
            + share * (1.0 - share) * jnp.outer(shift, shift)
        )
        factor = linalg.cholesky(pooled)
        inner = affine.from_factor(share * other.centre, factor)
        inner = inner._replace(log_scale=inner.log_scale + top)
        return Moments(total, affine.compose(a.spread, inner))

    return Pools(
        "moments",
        merge,
        subsample=None,
        size=lambda pool: pool.count,
        grow=lambda pool, capacity: pool,
        bytes=lambda capacity: None,
    )


def _larger_first(a: Moments, b: Moments) -> tuple[Moments, Moments]:
    """So that the frame of reference has full rank whenever one of them has."""
    if isinstance(a.count, int) and isinstance(b.count, int):
        return (a, b) if a.count >= b.count else (b, a)
    first = jnp.asarray(a.count >= b.count)
    pick = functools.partial(jax.tree.map, lambda x, y: jnp.where(first, x, y))
    return pick(a, b), pick(b, a)


def counts() -> Pools:
    """Counts of symbols; exact while the total stays below 2^31."""

    def merge(a: Counts, b: Counts, capacity: int) -> Counts:
        del capacity
        return Counts(a.counts + b.counts, a.total + b.total)

    def subsample(key: jax.Array, pool: Counts, count: Count, capacity: int) -> Counts:
        del capacity
        return Counts(multivariate_hypergeometric(key, pool.counts, count), count)

    return Pools(
        "counts",
        merge,
        subsample,
        size=lambda pool: pool.total,
        grow=lambda pool, capacity: pool,
        bytes=lambda capacity: None,
    )


def random_order(key: jax.Array, room: int, count: Count) -> jax.Array:
    """The numbers below `count` in random order, then those of empty room: i32[room]."""
    numbers = jnp.arange(room, dtype=jnp.int32)
    bits = jnp.where(numbers < count, jax.random.bits(key, (room,)) >> 1, jnp.uint32(1 << 31))
    return jax.lax.sort_key_val(bits, numbers)[1]


def _resize(values: jax.Array, capacity: int) -> jax.Array:
    missing = capacity - values.shape[0]
    if missing <= 0:
        return jax.lax.slice_in_dim(values, 0, capacity)
    return jnp.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))


def _distinct(key: jax.Array, capacity: int, population: Count, count: int) -> jax.Array:
    """`count` distinct indices below `population` <= `capacity`, uniform, i32[count].

    The first `count` swaps of a Fisher-Yates shuffle: O(capacity) memory but only `count` steps,
    where sorting random numbers took 30 times as long. The index below m is the high word of
    m * bits, whose bias is below m / 2^32.
    """
    bits = jax.random.bits(key, (count,))

    def swap(i: jax.Array, order: jax.Array) -> jax.Array:
        left = jnp.uint32(population) - i.astype(jnp.uint32)
        other = i + mulhi(bits[i], left).astype(jnp.int32)
        pair = jnp.stack([i, other])
        return order.at[pair].set(order[pair[::-1]])

    order = jax.lax.fori_loop(0, count, swap, jnp.arange(capacity, dtype=jnp.int32))
    return order[:count]
