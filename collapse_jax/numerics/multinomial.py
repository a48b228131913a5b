"""Multinomial draws over large vocabularies, for chains that refit word frequencies.

Independent Poisson counts with a total just below the requested one are drawn first, then the few
missing draws one by one. The code works on dense arrays, so it batches under vmap and compiles for
every platform.
"""

from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from collapse_jax.numerics import random

# Block size of single draws; a total of at most one block has no Poisson part.
_BLOCK = 1024
# The Poisson total is this many standard deviations below the requested one, so that an attempt
# overshoots, and is repeated, with probability 0.6 %; about 2.5 sqrt(total) draws are single.
_SLACK = 2.5

# The distribution function is inverted by sums for Poisson means below this, else by expansion.
_MEAN_SPLIT = 12.0
_LARGEST_SMALL = 42  # P(X > 42) = 3e-12 at the split, below the 2^-32 of a random word
# With z the normal quantile and s = z / sqrt(mean), the continuous Poisson quantile is
#   x = mean + sqrt(mean) z + z^2 a(s) + c0(s) + c1(s) / mean + c2(s) / mean^2,
# and X = floor(x) (Giles 2016). The constants of a and c0 are exact. The
# rest are least squares fits to the inverse of scipy.special.gammaincc for mean >= 12, |z| < 6.4
# and x >= 1, weighted by the resulting error of the distribution function: at most 6e-8.
_A = (1 / 6, -0.0138777, 0.00366336, -0.0014278, 0.000731457, -0.000101061, -5.6283e-05,
      -0.000196597, 0.000143583)  # fmt: skip
_C0 = (1 / 3, -0.0277917, 0.00876833, -0.00356329, 0.00174765, -0.000147819, -0.000510282)
_C1 = (-0.0197816, 0.0174747, -0.0146894, 0.00955373, -0.00576636)
_C2 = (-0.000161617, 0.000351845, 0.0066035)

_Attempt = tuple[jax.Array, jax.Array, jax.Array]  # number, int32[symbol] counts, missing draws


class _SumTree(NamedTuple):
    """A binary tree of sums; node j of a level has children 2j and 2j + 1 in the next."""

    nodes: jax.Array  # int32[node], level after level from the root's two children to the leaves
    starts: tuple[int, ...]  # start of each level in `nodes`


def multinomial(key: jax.Array, weights: jax.Array, total: int | jax.Array) -> jax.Array:
    r"""Draw the counts of `total` independent draws from one chain's symbol weights.

    Independent :math:`X_i \sim \mathrm{Poisson}(\lambda p_i)` are multinomial given their sum
    :math:`S`. With :math:`\lambda = M - 2.5 \sqrt M` the event :math:`S \le M` fails with
    probability 0.6 % and the counts are then drawn again; being an event about `S` alone, it
    leaves them multinomial given `S`, and adding `M - S` single draws from `p` makes them
    multinomial with total `M`. The counts depend only on the arguments: static and traced
    `total`, vmap and loops agree, unless another compiled program rounds differently
    (probability below 1e-6 per symbol).

    Accuracy: each Poisson follows its distribution function to 2e-7, with means right to 3e-7
    relative, and a single draw picks each symbol with its probability to 2^-64 for int32
    weights, to 2^-30 for float32 ones (of a total above 1024, a share of 2.5 / sqrt(total) is
    drawn singly). Symbols of weight zero get no draw.

    Args:
        key: Typed key. Two words per symbol are hashed; philox4x32 is fastest on CPU.
        weights: int32[symbol] counts with a sum below 2^31, or float32[symbol] weights with a sum
            from 1e-28 to 1e38; negative ones mean 0. Batch chains by vmap or lax.map.
        total: Number of draws, 0 to 2^31 - 1: an int, or an int32 scalar (negative means 0).

    Returns:
        int32[symbol] counts with sum `total`; all 0 if all weights are 0.

    Raises:
        TypeError: The weights are neither int32 nor float32.
        ValueError: The weights are not a nonempty vector, or a static total is out of range.

    Examples:
        >>> counts = multinomial(jax.random.key(0), jnp.array([5, 0, 3], jnp.int32), 100)
        >>> int(counts.sum()), int(counts[1])
        (100, 0)

    References:
        Brown and Bromberg, "An efficient two-stage procedure for generating random variates from
        the multinomial distribution", American Statistician 38 (1984). Giles, "Algorithm 955:
        approximation of the inverse Poisson cumulative distribution function", ACM TOMS 42
        (2016). Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2010).
    """
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(f"weights must be a nonempty vector, not of shape {weights.shape}")
    if weights.dtype not in (jnp.int32, jnp.float32):
        raise TypeError(f"weights must be int32 or float32, not {weights.dtype}")
    fixed = int(total) if isinstance(total, (int, np.integer)) else None
    if fixed is not None and not 0 <= fixed < 2**31:
        raise ValueError(f"total must be in [0, 2^31), not {total}")
    weights = jnp.maximum(weights, 0)
    k_poisson, k_single = jax.random.split(key)
    tree = _sum_tree(_integer_weights(weights))
    has_mass = tree.nodes[0] + tree.nodes[1] > 0
    draws = jnp.where(has_mass, jnp.maximum(jnp.asarray(total, jnp.int32), 0), 0)
    counts, missing = jnp.zeros(weights.shape, jnp.int32), draws
    if fixed is None or fixed > _BLOCK:
        _, counts, missing = _poisson_part(k_poisson, weights, draws)
    block = _BLOCK if fixed is None else max(1, min(fixed, _BLOCK))
    return _add_single_draws(k_single, counts, missing, tree, block)


def _poisson_part(key: jax.Array, weights: jax.Array, total: jax.Array) -> _Attempt:
    """Draw Poisson counts until their sum is at most `total`."""
    total_f32 = total.astype(jnp.float32)
    mean_total = jnp.where(total > _BLOCK, total_f32 - _SLACK * jnp.sqrt(total_f32), 0.0)
    mass = weights.sum(dtype=weights.dtype).astype(jnp.float32)
    scale = mean_total / jnp.where(mass > 0, mass, 1.0)

    def attempt(state: _Attempt) -> _Attempt:
        number = state[0]
        # The select, which always yields `scale`, keeps XLA from hoisting the tail sums, which
        # depend only on the means, out of the loop as 42 arrays; that would take twice the time.
        means = weights.astype(jnp.float32) * jnp.where(number < 0, 0.0, scale)
        indices = jnp.arange(weights.shape[0], dtype=jnp.int32)
        counts = _poisson(means, *random.word_pairs(jax.random.fold_in(key, number), indices))
        return number + 1, counts, total - counts.sum(dtype=jnp.int32)

    def overshoots(state: _Attempt) -> jax.Array:
        return (state[2] < 0) & (state[0] < 32)  # 32 in a row: 1e-70, or weights of sum >= 2^31

    start = jnp.int32(0), jnp.zeros(weights.shape, jnp.int32), jnp.int32(-1)
    return lax.while_loop(overshoots, attempt, start)


def _add_single_draws(
    key: jax.Array, counts: jax.Array, missing: jax.Array, tree: _SumTree, block: int
) -> jax.Array:
    """Add `missing` draws from the sum tree, in blocks; draw i depends only on key and i."""

    def add_block(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        drawn, counts = state
        indices = drawn + jnp.arange(block, dtype=jnp.int32)
        symbols = _pick(tree, *random.word_pairs(key, indices))
        wanted = (indices < missing).astype(jnp.int32)
        return drawn + block, counts.at[symbols].add(wanted, mode="drop")

    return lax.while_loop(lambda state: state[0] < missing, add_block, (jnp.int32(0), counts))[1]


def _poisson(mean: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    """Invert Poisson distribution functions (means >= 0) at one 64-bit uniform each."""
    large = _large_poisson(mean, high)
    return jnp.where(mean < _MEAN_SPLIT, _small_poisson(mean, high, low), large)


def _small_poisson(mean: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    """Count the k >= 1 whose P(X >= k) exceeds the uniform."""
    unit = jnp.float32(2.0**-32)
    uniform = ((low.astype(jnp.float32) + 0.5) * unit + high.astype(jnp.float32)) * unit
    masses = [jnp.exp(-mean)]
    for k in range(1, _LARGEST_SMALL + 1):
        masses.append(masses[-1] * (mean * jnp.float32(1 / k)))
    at_least, count = jnp.zeros_like(mean), jnp.zeros(mean.shape, jnp.int32)
    # Summed from the far tail: positive terms, smallest first, lose no relative precision.
    for mass in reversed(masses[1:]):
        at_least = at_least + mass
        count = count + (uniform < at_least).astype(jnp.int32)
    return count


def _large_poisson(mean: jax.Array, high: jax.Array) -> jax.Array:
    """Round down the expansion of the quantile, for means >= 12; smaller ones are taken as 12."""
    mean = jnp.maximum(mean, _MEAN_SPLIT)
    z = random.normal_quantile(high)
    root = jnp.sqrt(mean)
    s = z / root
    shift = random.horner(_C0, s) + (random.horner(_C1, s) + random.horner(_C2, s) / mean) / mean
    shift = root * z + (z * z * random.horner(_A, s) + shift)
    # Only the shift, of the order of the deviation, is rounded to float32, not mean + shift.
    whole = jnp.floor(mean)
    above = jnp.floor((mean - whole) + shift).astype(jnp.int32)
    return jnp.maximum(whole.astype(jnp.int32) + above, 0)


def _integer_weights(weights: jax.Array) -> jax.Array:
    """Convert float32 weights to parts of 2^30, for exact sums; int32 weights stay as they are."""
    if weights.dtype == jnp.int32:
        return weights
    parts = weights * (jnp.float32(2.0**30) / jnp.maximum(weights.sum(), jnp.float32(1e-28)))
    return jnp.round(parts).astype(jnp.int32)


def _sum_tree(weights: jax.Array) -> _SumTree:
    levels = [jnp.pad(weights, (0, max(2 - weights.shape[0], weights.shape[0] % 2)))]
    while (size := levels[0].shape[0]) > 2:
        sums = levels[0][0::2] + levels[0][1::2]
        levels.insert(0, jnp.pad(sums, (0, (size // 2) % 2)))
    sizes = [level.shape[0] for level in levels]
    return _SumTree(jnp.concatenate(levels), tuple(accumulate(sizes[:-1], initial=0)))


def _pick(tree: _SumTree, high: jax.Array, low: jax.Array) -> jax.Array:
    """Descend the tree from floor(u W), u the 64-bit uniforms and W the sum of the weights."""
    mass = (tree.nodes[0] + tree.nodes[1]).astype(jnp.uint32)
    product = high * mass
    carry = product + _multiply_high(low, mass) < product
    position = (_multiply_high(high, mass) + carry.astype(jnp.uint32)).astype(jnp.int32)
    starts = jnp.asarray(tree.starts, jnp.int32)

    def descend(level: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        node, position = state
        left = tree.nodes.at[starts[level] + 2 * node].get(mode="promise_in_bounds")
        is_right = position >= left
        return 2 * node + is_right.astype(jnp.int32), position - jnp.where(is_right, left, 0)

    root = jnp.zeros_like(position), position
    return lax.fori_loop(0, len(tree.starts), descend, root)[0]


def _multiply_high(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the upper 32 bits of the 64-bit product of two uint32, by 16-bit halves."""
    a0, a1, b0, b1 = a & 0xFFFF, a >> 16, b & 0xFFFF, b >> 16
    middle = a1 * b0 + (a0 * b0 >> 16)
    return a1 * b1 + (middle >> 16) + (((middle & 0xFFFF) + a0 * b1) >> 16)
