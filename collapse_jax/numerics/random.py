"""Branch-free draws from raw random words by inversion: normal and log chi-square.

A batched rejection sampler runs as long as its unluckiest lane. Here quantile functions are
polynomials, fitted once in float64 on the host: a draw is one hash and some multiply-adds.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev
from scipy import special

# The smallest tail probability that a 32-bit word represents: 2^-33, that is |z| <= 6.34.
_SMALLEST_TAIL = 2.0**-33
_LARGEST_NORMAL = float(-special.ndtri(_SMALLEST_TAIL))
# Up to so many degrees of freedom, a sum of squares is cheaper than a polynomial good to 1e-7.
_FEW_DEGREES = 8
# Giles (2010), single precision: erfinv(x) = x p(w) with w = -log(1 - x^2); polynomials in
# w - 2.5 where w < 5 and in sqrt(w) - 3 beyond.
_ERFINV_CENTRE = (1.50140941, 0.246640727, -0.00417768164, -0.00125372503, 0.00021858087,
                  -4.39150654e-06, -3.5233877e-06, 3.43273939e-07, 2.81022636e-08)  # fmt: skip
_ERFINV_TAIL = (2.83297682, 1.00167406, 0.00943887047, -0.0076224613, 0.00573950773,
                -0.00367342844, 0.00134934322, 0.000100950558, -0.000200214257)  # fmt: skip


def words(key: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """`count` independent 32-bit words from one key, at the lowest cost for its generator.

    A folded-in key is the output of a keyed hash, so its data are random words: one hash gives two
    of them, whereas `jax.random.bits` needs one hash for each (this is 2-4 times faster).

    Args:
      key: typed PRNG key; must not be used for anything else.
      count: number of words.

    Returns:
      `count` scalars, u32[].
    """
    if str(jax.random.key_impl(key)) == "threefry4x32":
        # For a single fold_in, XLA on CPU recomputes this generator's rounds for each output word
        # (0.2 M/s instead of 30 M/s), so `bits` is faster.
        return tuple(jax.random.bits(key, (count,)))
    found = tuple(word for i in range(-(-count // 2)) for word in _word_pair(key, i))
    # The barrier keeps XLA from recomputing the hash at each use of a word.
    return jax.lax.optimization_barrier(found[:count])


def word_pairs(key: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent 32-bit words for each index, which depend on the key and the index alone.

    Args:
      key: typed PRNG key; must not be used for anything else.
      indices: i32[n].

    Returns:
      u32[n] and u32[n].
    """
    return jax.vmap(functools.partial(_word_pair, key))(indices)


def _word_pair(key: jax.Array, index: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first two words of a folded-in key: one hash."""
    hashed = jax.random.key_data(jax.random.fold_in(key, index))
    return hashed[0], hashed[1]


def normal(bits: jax.Array) -> jax.Array:
    r"""Standard normals from 32-bit words, by the inverse of the distribution function.

    The lowest bit is the sign and the others the tail probability v in (0, 1/2], so both tails
    reach 2^-33. With x = 1 - 2v and s = sqrt(-ln 4v(1-v)), z / x is a smooth function of s and is
    replaced by a polynomial (relative error < 1e-6).

    Args:
      bits: u32[...], independent uniform words.

    Returns:
      f32[...].
    """
    tail = ((bits >> 1).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    root = jnp.sqrt(jnp.maximum(-jnp.log(4.0 * tail * (1.0 - tail)), 0.0))
    coefficients, largest_root = _normal_polynomial()
    ratio = horner(coefficients, root * jnp.float32(2.0 / largest_root) - 1.0)
    # 1 - 2v, from the complement of the word: no cancellation near z = 0, and never exactly 0.
    x = ((~bits >> 1).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-31)
    magnitude = x * ratio
    return jnp.where(bits & 1 == 1, -magnitude, magnitude)


def normal_quantile(high: jax.Array) -> jax.Array:
    """Returns z with P(Z > z) = (high + 1/2) / 2^32, equally precise in both tails.

    Used to invert other distribution functions at the same word: z decreases with the word.
    `normal` orders words differently; its error in the distribution function is twice as large
    (1.5e-7), but its relative error is 1e-6 even for tiny z and far tails. With it, multinomial
    draws would take up to 5 % longer.

    Args:
      high: u32[...], uniform words.

    Returns:
      f32[...].

    References:
      Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2010).
    """
    is_lower = high >= jnp.uint32(2**31)
    tail = (jnp.where(is_lower, ~high, high).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    w = -jnp.log(4 * tail * (1 - tail))
    ratio = jnp.where(w < 5, horner(_ERFINV_CENTRE, w - 2.5), horner(_ERFINV_TAIL, jnp.sqrt(w) - 3))
    z = jnp.float32(math.sqrt(2)) * (1 - 2 * tail) * ratio
    return jnp.where(is_lower, -z, z)


def log_chi_square_ratio(key: jax.Array, degrees: Sequence[int]) -> jax.Array:
    r"""One draw of $\ln(\chi^2_\nu / \nu)$ for each entry of `degrees`.

    For few degrees of freedom, the logarithm of a sum of squared normals. Otherwise the quantile
    at a normal z, a smooth function approximated to 1e-7 by a polynomial of degree <= 18 (checked
    when it is fitted). $\chi^2_0$ is 0, with logarithm -inf.

    Args:
      key: typed PRNG key; must not be used for anything else.
      degrees: degrees of freedom, >= 0, static.

    Returns:
      f32[len(degrees)].
    """
    if len(degrees) == 1 or min(degrees) <= _FEW_DEGREES:
        return log_chi_square_ratio_of(words(key, chi_square_words(degrees)), degrees)
    # All polynomials are evaluated at once: the program's length does not depend on their number.
    found = [_chi_square_polynomial(nu) for nu in degrees]
    padded = zip(*itertools.zip_longest(*found, fillvalue=0.0), strict=True)
    coefficients = np.array(list(padded), np.float32).T
    z = normal(jax.random.bits(key, (len(found),))) / jnp.float32(_LARGEST_NORMAL)
    return horner(coefficients, z)


def chi_square_words(degrees: Sequence[int]) -> int:
    """Number of random words that `log_chi_square_ratio_of` takes."""
    return sum(_words_of_one(nu) for nu in degrees)


def log_chi_square_ratio_of(bits: Sequence[jax.Array], degrees: Sequence[int]) -> jax.Array:
    """`log_chi_square_ratio` from `chi_square_words(degrees)` given words."""
    given = iter(bits)
    draws = []
    for nu in degrees:
        z = [normal(next(given)) for _ in range(_words_of_one(nu))]
        if nu > _FEW_DEGREES:
            draws.append(horner(_chi_square_polynomial(nu), z[0] / _LARGEST_NORMAL))
        else:
            squares = sum((x * x for x in z), start=jnp.float32(0.0))
            draws.append(jnp.log(squares / max(nu, 1)))
    return jnp.stack(draws)


def _words_of_one(nu: int) -> int:
    return max(nu, 0) if nu <= _FEW_DEGREES else 1


def mulhi(a: jax.Array, b: jax.Array) -> jax.Array:
    """The high 32 bits of the 64-bit product of two u32: b times the fraction a / 2^32."""
    return jax.lax.mulhi(a, b)


def horner(coefficients: Sequence[float] | np.ndarray, x: jax.Array) -> jax.Array:
    """Values of a polynomial at x, f32[...], by Horner's rule.

    Args:
      coefficients: constant first; or f32[degree + 1, ...], for one polynomial per entry of x.
      x: f32[...].
    """
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + jnp.float32(coefficient)
    return value


@functools.cache
def _normal_polynomial() -> tuple[tuple[float, ...], float]:
    """Coefficients of z / x in s scaled to [-1, 1], and the largest s."""
    largest = float(np.sqrt(-np.log(4 * _SMALLEST_TAIL * (1 - _SMALLEST_TAIL))))
    scaled = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    root = (scaled + 1) / 2 * largest
    x = np.sqrt(-np.expm1(-(root**2)))  # 1 - 4v(1-v) = (1 - 2v)^2
    z = -special.ndtri(np.exp(-(root**2)) / (2 * (1 + x)))
    fit = chebyshev.chebfit(scaled, z / x, 18)
    return tuple(map(float, chebyshev.cheb2poly(fit))), largest


@functools.cache
def _chi_square_polynomial(nu: int) -> tuple[float, ...]:
    """Coefficients of the quantile function of ln(chi2_nu / nu) in z / _LARGEST_NORMAL."""
    scaled = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    exact = _log_chi_square_quantile(nu, scaled * _LARGEST_NORMAL)
    for degree in range(6, 20, 2):
        fit = chebyshev.chebfit(scaled, exact, degree)
        if np.max(np.abs(chebyshev.chebval(scaled, fit) - exact)) < 1e-7:
            return tuple(map(float, chebyshev.cheb2poly(fit)))
    raise AssertionError(f"no polynomial of degree <= 18 follows chi-square with {nu} degrees")


def _log_chi_square_quantile(nu: int, z: np.ndarray) -> np.ndarray:
    if nu > 10**6:
        # Wilson and Hilferty (1931), within 6e-9 here; the inverse gamma function loses digits.
        return 3.0 * np.log1p(z * np.sqrt(2 / (9 * nu)) - 2 / (9 * nu))
    # Each half is computed from its own tail; from the other it would be lost to rounding.
    lower = special.gammaincinv(nu / 2, special.ndtr(np.minimum(z, 0)))
    upper = special.gammainccinv(nu / 2, special.ndtr(-np.maximum(z, 0)))
    return np.log(np.where(z < 0, lower, upper) * (2 / nu))
