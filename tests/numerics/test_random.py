"""Draws against scipy: quantile functions word by word, moments and distributions, raw words."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from collapse_jax.numerics import random

PRNGS = ("philox4x32", "threefry2x32", "threefry4x32")
KEYS = 100_000
DEGREES = (*range(1, 9), 9, 99, 10**6)
normal = jax.jit(random.normal)


def keys(count, impl="philox4x32", seed=0):
    """Keys folded with consecutive numbers, like those of chains."""
    root = jax.random.key(seed, impl=impl)
    return jax.vmap(lambda number: jax.random.fold_in(root, number))(jnp.arange(count))


def tails(words):
    """The exact tail probability that a word represents, and its side (-1 or 1)."""
    words = np.asarray(words)
    return ((words >> 1) + 0.5) * 2.0**-32, np.where(words & 1, -1, 1)


@pytest.fixture(scope="module")
def words_and_normals():
    uniform = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint64)
    near = np.arange(5000)  # both tails, and both sides of the median
    extreme = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
    parts = (extreme, near, 2**31 - 2500 + near, 2**32 - 1 - near, uniform)
    words = np.concatenate([np.asarray(part, np.uint64) for part in parts]).astype(np.uint32)
    return words, np.asarray(normal(jnp.asarray(words)))


def test_normal_is_the_quantile_function_of_the_word(words_and_normals):
    words, z = words_and_normals
    tail, side = tails(words)
    exact = -side * special.ndtri(tail)
    assert z.dtype == np.float32
    assert np.abs(z - exact).max() < 2e-6
    assert np.abs(z / exact - 1).max() < 2e-6  # also next to the median, where z is 1e-9


def test_normal_is_symmetric_finite_and_never_zero(words_and_normals):
    words, z = words_and_normals
    assert np.isfinite(z).all()
    assert (z != 0).all()
    np.testing.assert_array_equal(normal(jnp.asarray(words ^ 1)), -z)
    assert z.max() == -z.min() == pytest.approx(-special.ndtri(2.0**-33), rel=2e-6)


def chi_square_quantile(nu, z):
    """Quantile of chi-square at the normal quantile z."""
    if nu < 10**6:
        chi2 = stats.chi2(nu)
        return np.where(z < 0, chi2.ppf(stats.norm.cdf(z)), chi2.isf(stats.norm.sf(z)))
    # Wilson-Hilferty, here good to 1e-8 nu; scipy's own inverse loses digits from 10^7 on.
    return nu * (1 - 2 / (9 * nu) + z * np.sqrt(2 / (9 * nu))) ** 3


@pytest.mark.parametrize("nu", [9, 10, 13, 20, 33, 99, 1000, 10**4, 10**6, 10**8, 2**31 - 2])
def test_chi_square_polynomial_is_the_quantile_function(nu):
    z = np.linspace(-1, 1, 2001) * random._LARGEST_NORMAL
    exact = chi_square_quantile(nu, z) / nu
    coefficients = random._chi_square_polynomial(nu)
    values = np.polynomial.polynomial.polyval(z / random._LARGEST_NORMAL, coefficients)
    spread = np.sqrt(special.polygamma(1, nu / 2))
    # The second bound is float32's resolution; with many degrees the ratio is near 1.
    assert np.abs(values - np.log(exact)).max() < min(1e-6, 1e-3 * spread)


def test_log_chi_square_ratio_inverts_the_same_uniform():
    degrees = (9, 12, 99, 10**6)

    def one(key):
        ratios = [random.log_chi_square_ratio(key, [nu])[0] for nu in degrees]
        return random.words(key, 1)[0], jnp.stack(ratios)

    words, ratios = jax.jit(jax.vmap(one))(keys(KEYS))
    tail, side = tails(words)
    for nu, ratio in zip(degrees, np.asarray(ratios, float).T, strict=True):
        exact = np.where(side < 0, stats.chi2.ppf(tail, nu), stats.chi2.isf(tail, nu)) / nu
        assert np.abs(ratio - np.log(exact)).max() < 2e-6


def test_many_degrees_at_once_have_their_own_distributions():
    degrees = (9, 40, 99)
    draw = jax.jit(jax.vmap(lambda key: random.log_chi_square_ratio(key, degrees)))
    ratios = np.asarray(draw(keys(KEYS, seed=2)), float)
    for nu, values in zip(degrees, ratios.T, strict=True):
        distance = stats.kstest(nu * np.exp(values), stats.chi2(nu).cdf).statistic
        assert distance < 2.23 / np.sqrt(KEYS)  # 1 in 10^4
    correlation = np.corrcoef(ratios.T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlation) < 4 / np.sqrt(KEYS))


@pytest.fixture(scope="module")
def log_ratios():
    draw = jax.jit(jax.vmap(lambda key: random.log_chi_square_ratio(key, [0, *DEGREES])))
    return np.asarray(draw(keys(KEYS, seed=1)), float)


def test_no_degrees_of_freedom_is_a_square_of_zero(log_ratios):
    assert (log_ratios[:, 0] == -np.inf).all()
    assert np.isfinite(log_ratios[:, 1:]).all()


@pytest.mark.parametrize("nu", DEGREES)
def test_log_chi_square_ratio_has_the_distribution(log_ratios, nu):
    sample = log_ratios[:, 1 + DEGREES.index(nu)]
    mean = special.digamma(nu / 2) - np.log(nu / 2)
    variance = special.polygamma(1, nu / 2)
    fourth = special.polygamma(3, nu / 2) + 2 * variance**2
    assert abs(sample.mean() - mean) < 4 * np.sqrt(variance / KEYS)
    assert abs(sample.var() - variance) < 4 * np.sqrt(fourth / KEYS)
    assert stats.kstest(nu * np.exp(sample), stats.chi2(nu).cdf).pvalue > 1e-3


def test_log_chi_square_ratios_of_one_call_are_independent(log_ratios):
    correlation = np.corrcoef(log_ratios[:, 1:].T) - np.eye(len(DEGREES))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(KEYS)


@pytest.fixture(scope="module", params=PRNGS)
def raw_words(request):
    """u32[20000, 5] of consecutive keys."""
    many = jax.jit(jax.vmap(lambda key: jnp.stack(random.words(key, 5))))
    return request.param, np.asarray(many(keys(20_000, request.param)))


def test_words_are_distinct(raw_words):
    _, words = raw_words
    assert words.dtype == np.uint32
    for i, j in itertools.combinations(range(5), 2):
        assert (words[:, i] != words[:, j]).all()
    # Of 10^5 words, 10^10 / 2^33 = 1.2 pairs are equal by chance.
    assert words.size - np.unique(words).size <= 6


def test_words_have_uniform_bytes(raw_words):
    _, words = raw_words
    for word, shift in itertools.product(range(5), (0, 8, 16, 24)):
        seen = np.bincount(words[:, word] >> shift & 255, minlength=256)
        assert stats.chisquare(seen).pvalue > 1e-4


def test_words_are_uncorrelated(raw_words):
    _, words = raw_words
    centred = words / 2.0**32 - 0.5
    # The words of a key, and of the key after it.
    columns = np.concatenate([centred[:-1], centred[1:]], axis=1)
    for power in (1, 2):
        correlation = np.corrcoef(columns.T**power) - np.eye(10)
        assert np.abs(correlation).max() < 4.5 / np.sqrt(len(columns))


def test_words_of_a_batch_are_those_of_its_keys(raw_words):
    impl, words = raw_words
    for number in (0, 1, 19_999):
        key = jax.random.fold_in(jax.random.key(0, impl=impl), number)
        np.testing.assert_array_equal(jnp.stack(random.words(key, 5)), words[number])


def test_mulhi_is_the_high_word_of_the_product():
    a, b = np.random.default_rng(0).integers(0, 2**32, (2, 1000), np.uint32)
    extreme = np.array([0, 1, 2, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)
    a = np.concatenate([a, np.repeat(extreme, 8)])
    b = np.concatenate([b, np.tile(extreme, 8)])
    exact = [int(x) * int(y) >> 32 for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(random.mulhi(jnp.asarray(a), jnp.asarray(b)), exact)
