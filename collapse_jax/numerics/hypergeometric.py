"""Multivariate hypergeometric draws: sampling a pool of counted symbols without replacement.

Each member of the pool gets a random number; the members with the smallest are the sample. Numbers
are drawn bit by bit, for all members of a symbol together while there are many. The code works on
dense arrays, so it batches under vmap and compiles for every platform.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from collapse_jax.numerics import random

# Up to so many undecided members, or the number of symbols, are decided individually.
_FEW = 128
# Up to so many fair coins are flipped individually. Heads among more are n / 2 + y rounded, where
#   y = sqrt(n) z / 2 (g0(s^2) + g1(s^2) / n + g2 / n^2) with s^2 = z^2 / n
# for the normal quantile z. The first two terms of g0 (from large deviations) and the first of g1
# are exact; the others are a least squares fit to the inverse of scipy.special.bdtr for
# 64 < n <= 200,000 and |z| < 6.45, at most 5e-9 off in the distribution function.
_FLIPPED = 64
_G0 = (1.0, -1 / 12, -0.009286985, -0.00305976)
_G1 = (1 / 12, -0.007196484, 0.02172034)
_G2 = 0.1252883


class _Selection(NamedTuple):
    """A partially decided sample; kinds are symbols, or single members."""

    chosen: jax.Array  # int32[kind], members certainly in the sample
    undecided: jax.Array  # int32[kind], members not decided yet
    missing: jax.Array  # int32 scalar, number of undecided members that join the sample


def multivariate_hypergeometric(
    key: jax.Array, counts: jax.Array, draws: int | jax.Array
) -> jax.Array:
    r"""Draw the symbol counts of a uniform sample without replacement from one chain's pool.

    The sample consists of the `draws` members with the smallest independent uniform numbers. For
    the next bit only counts matter: of the :math:`r_i` undecided members of a symbol,
    :math:`\mathrm{Binomial}(r_i, 1/2)` have a 0. If these all fit into the sample, they join it
    and those with a 1 stay undecided; otherwise those with a 0 stay undecided and the others are
    out. The undecided are halved in each round; once they are no more than the symbols (or 128),
    each gets its own number. A pool of N takes about log2(N / symbols) rounds over all symbols for
    any `draws`. Nothing is rejected, and the result depends only on the arguments: static and
    traced `draws`, vmap and loops agree, unless another compiled program rounds differently
    (probability below 1e-6 per symbol).

    Accuracy: binomials of up to 64 trials are exact, larger ones follow their distribution
    function to 2e-7 (one 32-bit word each, tails to 2^-33) and are exactly symmetric. Numbers of
    single members have 64 bits; ties go to the earlier symbol.

    Args:
        key: Typed key. Each round hashes two words per symbol; philox4x32 is fastest on CPU.
        counts: int32[symbol], the pool, with a sum N below 2^31; negative counts mean 0. Batch
            chains by vmap or lax.map.
        draws: Size of the sample, 0 to N: an int, or an int32 scalar; values outside are clipped.

    Returns:
        int32[symbol] counts of the sample, at most the pool's, with sum `draws`.

    Raises:
        TypeError: The counts are not int32.
        ValueError: The counts are not a nonempty vector, or a static `draws` is not in [0, 2^31).

    Examples:
        >>> pool = jnp.array([5, 0, 3], jnp.int32)
        >>> sample = jax.jit(multivariate_hypergeometric)(jax.random.key(0), pool, 7)
        >>> int(sample.sum()), int(sample[1]), bool((sample <= pool).all())
        (7, 0, True)

    References:
        Gil, Segura and Temme, "Asymptotic inversion of the binomial and negative binomial
        cumulative distribution functions", ETNA 52 (2020): the form of the quantile expansion.
    """
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(f"counts must be a nonempty vector, not of shape {counts.shape}")
    if counts.dtype != jnp.int32:
        raise TypeError(f"counts must be int32, not {counts.dtype}")
    if isinstance(draws, (int, np.integer)) and not 0 <= draws < 2**31:
        raise ValueError(f"draws must be in [0, 2^31), not {draws}")
    pool = jnp.maximum(counts, 0)
    k_halves, k_members = jax.random.split(key)
    wanted = jnp.maximum(jnp.asarray(draws, jnp.int32), 0)
    few = max(_FEW, pool.size)
    selection = _halve_until_few(k_halves, pool, wanted, few)
    return selection.chosen + _choose_members(k_members, selection, few)


def _halve_until_few(key: jax.Array, pool: jax.Array, wanted: jax.Array, few: int) -> _Selection:
    """Draw bit by bit, for whole symbols, until at most `few` members are undecided."""
    symbols = jnp.arange(pool.size, dtype=jnp.int32)

    def draw_bit(state: tuple[jax.Array, _Selection]) -> tuple[jax.Array, _Selection]:
        bit, selection = state
        words = random.word_pairs(jax.random.fold_in(key, bit), symbols)
        return bit + 1, _decide(selection, _heads(selection.undecided, *words))

    def are_many(state: tuple[jax.Array, _Selection]) -> jax.Array:
        return state[1].undecided.sum(dtype=jnp.int32) > few

    start = _Selection(jnp.zeros_like(pool), pool, wanted)
    return lax.while_loop(are_many, draw_bit, (jnp.int32(0), start))[1]


def _decide(selection: _Selection, lower: jax.Array) -> _Selection:
    """Update a selection, given the number of undecided members with next bit 0, int32[kind]."""
    chosen, undecided, missing = selection
    number = lower.sum(dtype=jnp.int32)
    fits = number <= missing
    return _Selection(
        chosen + jnp.where(fits, lower, 0),
        jnp.where(fits, undecided - lower, lower),
        missing - jnp.where(fits, number, 0),
    )


def _choose_members(key: jax.Array, selection: _Selection, few: int) -> jax.Array:
    """Choose the missing among at most `few` undecided by 64-bit numbers; int32[symbol]."""
    ends = jnp.cumsum(selection.undecided)  # members in the order of their symbols
    members = jnp.arange(few, dtype=jnp.int32)
    high, low = random.word_pairs(key, members)
    exists = (members < ends[-1]).astype(jnp.int32)

    def is_open(state: tuple[jax.Array, _Selection]) -> jax.Array:
        bit, (_, undecided, missing) = state
        return (bit < 64) & (missing > 0) & (missing < undecided.sum(dtype=jnp.int32))

    def read_bit(state: tuple[jax.Array, _Selection]) -> tuple[jax.Array, _Selection]:
        bit, single = state
        word = jnp.where(bit < 32, high, low)
        is_zero = (word >> (31 - bit % 32).astype(jnp.uint32) & 1) == 0
        return bit + 1, _decide(single, jnp.where(is_zero, single.undecided, 0))

    start = _Selection(jnp.zeros_like(exists), exists, selection.missing)
    single = lax.while_loop(is_open, read_bit, (jnp.int32(0), start))[1]
    # None or all of the undecided; in a tie, the first ones.
    last = single.undecided * (jnp.cumsum(single.undecided) <= single.missing)
    chosen_before = jnp.pad(jnp.cumsum(single.chosen + last), (1, 0))
    return jnp.diff(chosen_before[ends], prepend=0)


def _heads(coins: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    """Count heads among int32[symbol] fair coins, from two random words per symbol."""
    few = lax.population_count(high & _ones(coins)) + lax.population_count(low & _ones(coins - 32))
    return jnp.where(coins <= _FLIPPED, few.astype(jnp.int32), _many_heads(coins, high))


def _ones(number: jax.Array) -> jax.Array:
    """Return words with the `number` lowest bits set: none if below 1, all if 32 or more."""
    some = (jnp.uint32(1) << jnp.clip(number, 0, 31).astype(jnp.uint32)) - 1
    return jnp.where(number >= 32, jnp.uint32(2**32 - 1), some)


def _many_heads(coins: jax.Array, high: jax.Array) -> jax.Array:
    """Invert the distribution function of heads among more than 64 coins; fewer are taken as 65."""
    coins = jnp.maximum(coins, _FLIPPED + 1)
    n = coins.astype(jnp.float32)
    z = random.normal_quantile(high)
    s2 = z * z / n
    factor = random.horner(_G0, s2) + (random.horner(_G1, s2) + _G2 / n) / n
    # Only the deviation is rounded to float32, not the count; the upper half mirrors the lower, so
    # the mean is exact.
    deviation = jnp.abs((0.5 * jnp.sqrt(n)) * z * factor)
    shift = jnp.floor(0.5 * (1 + (coins & 1)).astype(jnp.float32) - deviation)
    lower = jnp.clip(coins // 2 + shift.astype(jnp.int32), 0, coins)
    return jnp.where(z > 0, coins - lower, lower)
