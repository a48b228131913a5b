"""Pools, the data of one generation (rows, moments or counts), with merging and subsampling.

A pool is a pytree of one chain. The number of its members is a Python int if known at trace time,
so that full pools need no masks, and an i32 scalar otherwise.
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
    """Operations on a family's data, for use by regimes.

    Attributes:
      name: "rows", "live rows", "moments" or "counts".
      merge: (a, b, capacity) -> pool of all members of both, in the frame of a.
      subsample: (key, pool, count, capacity) -> `count` members, uniform without replacement; None
        if impossible for this kind of data.
      size: pool -> number of members.
      grow: (pool, capacity) -> the same pool with a larger capacity.
      bytes: (capacity) -> memory of one chain's pool of that capacity; None if independent of it.
    """

    name: str
    merge: Callable[[Pool, Pool, int], Pool]
    subsample: Callable[[jax.Array, Pool, Count, int], Pool] | None
    size: Callable[[Pool], Count]
    grow: Callable[[Pool, int], Pool]
    bytes: Callable[[int], int | None]


class Rows(NamedTuple):
    """An array of up to `capacity` samples, of which the first `count` are valid."""

    values: jax.Array  # f32[capacity, ...]
    count: Count  # type: ignore[assignment]
    frame: affine.Affine | None = None  # coordinates of `values`


class Moments(NamedTuple):
    """Sufficient statistics of `count` samples of dimension d."""

    count: Count  # type: ignore[assignment]
    spread: affine.Affine  # centre: the mean; factor: Cholesky factor of the ddof=0 covariance


class Counts(NamedTuple):
    """Number of occurrences of each symbol."""

    counts: jax.Array  # i32[symbol]
    total: Count


def live(pool: Rows) -> jax.Array | None:
    """Mask of the valid rows, bool[capacity]; None if all are valid."""
    capacity = pool.values.shape[0]
    if isinstance(pool.count, int) and pool.count == capacity:
        return None
    return jnp.arange(capacity) < pool.count


def rows(row_bytes: int) -> Pools:
    """Pools of rows of `row_bytes` each; a merged pool has the frame of its first part."""

    def merge(a: Rows, b: Rows, capacity: int) -> Rows:
        values = b.values
        if a.frame is not None and b.frame is not None:
            values = affine.apply(affine.relative(a.frame, b.frame), values)
        total = a.count + b.count
        if isinstance(a.count, int):
            head = jax.lax.slice_in_dim(a.values, 0, a.count)
            return Rows(_resize(jnp.concatenate([head, values]), capacity), total, a.frame)
        # XLA shifts a slice that would overrun: unless b is full, spare capacity is needed.
        slack = 0 if live(b) is None else values.shape[0]
        padded = _resize(a.values, max(capacity, a.values.shape[0]) + slack)
        joined = jax.lax.dynamic_update_slice_in_dim(padded, values, a.count, 0)
        return Rows(_resize(joined, capacity), total, a.frame)

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
    """Fixed rows, and live rows that the teacher draws anew at each use in a fit."""

    fixed: Rows
    live: jax.Array  # bool[capacity of live rows], which of them are valid


def live_rows(row_bytes: int) -> Pools:
    """Pools with live rows, for fits with a single teacher.

    The capacity of a merged pool is that of all fixed rows of both parts, not the one requested.
    """
    plain = rows(row_bytes)

    def merge(a: LiveRows, b: LiveRows, capacity: int) -> LiveRows:
        del capacity
        size = a.fixed.values.shape[0] + b.fixed.values.shape[0]
        return LiveRows(plain.merge(a.fixed, b.fixed, size), jnp.concatenate([a.live, b.live]))

    def subsample(key: jax.Array, pool: LiveRows, count: Count, capacity: int) -> LiveRows:
        assert plain.subsample is not None
        if pool.live.shape[0]:
            raise ValueError("live rows: rows that are not drawn yet cannot be subsampled")
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
    """Pools of means and covariances: O(d^2) memory for any number of samples."""

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
    """Orders two pools by size, so that the frame has full rank if either has."""
    if isinstance(a.count, int) and isinstance(b.count, int):
        return (a, b) if a.count >= b.count else (b, a)
    first = jnp.asarray(a.count >= b.count)
    pick = functools.partial(jax.tree.map, lambda x, y: jnp.where(first, x, y))
    return pick(a, b), pick(b, a)


def counts() -> Pools:
    """Pools of symbol counts, exact for totals below 2^31."""

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


def random_order(key: jax.Array, capacity: int, count: Count) -> jax.Array:
    """Indices below `count` in random order, then those of unused capacity: i32[capacity]."""
    numbers = jnp.arange(capacity, dtype=jnp.int32)
    bits = jnp.where(numbers < count, jax.random.bits(key, (capacity,)) >> 1, jnp.uint32(1 << 31))
    return jax.lax.sort_key_val(bits, numbers)[1]


def _resize(values: jax.Array, capacity: int) -> jax.Array:
    missing = capacity - values.shape[0]
    if missing <= 0:
        return jax.lax.slice_in_dim(values, 0, capacity)
    return jnp.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))


def _distinct(key: jax.Array, capacity: int, size: Count, count: int) -> jax.Array:
    """`count` distinct uniform indices below `size` <= `capacity`, i32[count].

    The first `count` swaps of a Fisher-Yates shuffle: O(capacity) memory and `count` steps; sorting
    random numbers took 30 times as long. A random index below m is the high word of m * bits, with
    a bias below m / 2^32.
    """
    bits = jax.random.bits(key, (count,))

    def swap(i: jax.Array, order: jax.Array) -> jax.Array:
        left = jnp.uint32(size) - i.astype(jnp.uint32)
        other = i + mulhi(bits[i], left).astype(jnp.int32)
        pair = jnp.stack([i, other])
        return order.at[pair].set(order[pair[::-1]])

    order = jax.lax.fori_loop(0, count, swap, jnp.arange(capacity, dtype=jnp.int32))
    return order[:count]
