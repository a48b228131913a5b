"""The multivariate hypergeometric sampler against scipy: pieces, distributions and contract."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import export

from collapse_jax import pools
from collapse_jax.numerics import hypergeometric, random
from collapse_jax.numerics.hypergeometric import multivariate_hypergeometric

pytestmark = pytest.mark.slow  # compiling takes most of a minute

SYMBOLS = 33_278  # WikiText-2
draw = jax.jit(multivariate_hypergeometric)  # the number of draws is traced


def zipf_pool(symbols=SYMBOLS, scale=2e5):
    """Word counts like WikiText-2's, a third of them extinct."""
    counts = (scale / np.arange(1, symbols + 1)).astype(np.int32)
    counts[::3] = 0
    return jnp.asarray(counts)


@functools.cache
def batch(few):
    """Draws for chains with one pool; up to `few` undecided members are decided individually."""

    def chain(key, pool, draws):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hypergeometric, "_FEW", few)
            return multivariate_hypergeometric(key, pool, draws)

    return jax.jit(jax.vmap(chain, (0, None, None)))


def draw_many(seed, chains, pool, draws, few=hypergeometric._FEW):
    keys = jax.random.split(jax.random.key(seed, impl="philox4x32"), chains)
    # Small pools are padded to eight symbols, so that all share a program.
    padded = jnp.zeros(max(len(pool), 8), jnp.int32).at[: len(pool)].set(jnp.asarray(pool))
    samples = np.asarray(batch(few)(keys, padded, draws))
    assert not samples[:, len(pool) :].any()
    return samples[:, : len(pool)]


@pytest.mark.parametrize("coins", [65, 66, 67, 80, 101, 128, 1000, 10_001, 10**6, 2**31 - 1])
def test_many_heads_invert_the_distribution_function(coins):
    points = 2**20
    words = ((np.arange(points) + 0.5) * (2**32 / points)).astype(np.uint32)
    heads = jax.jit(lambda words: hypergeometric._many_heads(jnp.int32(coins), words))
    values = np.asarray(heads(jnp.asarray(words))).astype(np.int64)
    assert (np.diff(values) <= 0).all()  # the words are upper tail probabilities
    np.testing.assert_array_equal(values + heads(jnp.asarray(~words)), coins)
    k, count = np.unique(values, return_counts=True)
    at_least = count[::-1].cumsum()[::-1] / points
    exact = scipy.stats.binom.sf(k - 1, coins, 0.5)
    if coins > 10**6:  # where scipy fails; the normal approximation is off by 0.1 / coins
        exact = scipy.stats.norm.sf((k - 0.5 - coins / 2) / (coins**0.5 / 2))
    np.testing.assert_allclose(at_least, exact, rtol=0, atol=0.5 / points + 2e-7)


def test_many_heads_extremes_are_near_the_quantiles():
    words = np.array([0, 1, 1000, 2**32 - 1001, 2**32 - 2, 2**32 - 1], np.uint32)
    coins = np.array([65, 66, 90, 1001], np.int32)[:, None] + 0 * words.astype(np.int32)
    heads = jax.jit(hypergeometric._many_heads)(coins, jnp.asarray(words))
    exact = scipy.stats.binom.isf((words.astype(float) + 0.5) / 2.0**32, coins, 0.5)
    assert np.abs(heads - exact).max() <= 1


def test_few_heads_count_as_many_bits_as_coins():
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 2**32, (2, 65 * 20), np.uint32)
    coins = np.tile(np.arange(65, dtype=np.int32), 20)
    heads = jax.jit(hypergeometric._heads)(jnp.asarray(coins), jnp.asarray(high), jnp.asarray(low))
    expected = [
        (int(h) % 2 ** min(n, 32)).bit_count() + (int(w) % 2 ** max(n - 32, 0)).bit_count()
        for n, h, w in zip(coins.tolist(), high, low, strict=True)
    ]
    np.testing.assert_array_equal(heads, expected)


@pytest.mark.parametrize("size", [2_088_628, 10**8, 2**31 - 1])
@pytest.mark.parametrize("share", [0, 1e-8, 0.01, 0.3, 0.5, 0.99, 1])
def test_sample_has_its_size_and_is_within_the_pool(size, share):
    pool = np.array(zipf_pool())
    pool[1] += size - pool.sum()
    draws = int(np.ceil(share * size))
    sample = np.asarray(draw(jax.random.key(draws), jnp.asarray(pool), draws))
    assert sample.dtype == np.int32
    assert sample.sum(dtype=np.int64) == draws
    assert sample.min() >= 0
    assert (sample <= pool).all()


@pytest.mark.parametrize("symbols", [1, 200])
def test_every_size_of_sample_of_small_pools(symbols):
    pool = np.random.default_rng(symbols).integers(0, 100 // symbols + 3, symbols)
    every = np.unique(np.linspace(0, pool.sum(), 25).astype(np.int32))
    keys = jax.random.split(jax.random.key(1), every.size)
    chains = jax.jit(jax.vmap(multivariate_hypergeometric, (0, None, 0)))
    samples = np.asarray(chains(keys, jnp.asarray(pool, jnp.int32), jnp.asarray(every)))
    np.testing.assert_array_equal(samples.sum(1), every)
    assert ((samples >= 0) & (samples <= pool)).all()
    np.testing.assert_array_equal(samples[-1], pool)


def joint_p_value(samples, pool, draws):
    outcomes = np.array(
        [x for x in itertools.product(*(range(c + 1) for c in pool)) if sum(x) == draws]
    )
    place = (draws + 1) ** np.arange(len(pool))
    seen = np.bincount(samples @ place, minlength=(draws + 1) ** len(pool))[outcomes @ place]
    assert seen.sum() == len(samples)
    expected = len(samples) * scipy.stats.multivariate_hypergeom.pmf(outcomes, pool, draws)
    return scipy.stats.chisquare(seen, expected, sum_check=False).pvalue


@pytest.mark.parametrize("few", [1, 20, 128])  # by halving, by both, by members alone
@pytest.mark.parametrize(
    ("pool", "draws"), [((2, 3, 4), 4), ((2, 3, 4), 7), ((20, 30), 25), ((1,) * 6, 3)]
)
def test_joint_distribution(pool, draws, few):
    samples = draw_many(1, 20_000, pool, draws, few)
    assert joint_p_value(samples, pool, draws) > 1e-3


@pytest.mark.parametrize(
    ("pool", "draws"),
    [
        ((300, 700, 50), 400),
        ((300, 700, 50), 700),
        ((5, 10**6, 2 * 10**6), 10**6),
        ((40, 99_999_960), 10**7),
        ((200, 10**8), 5 * 10**7),
    ],
)
def test_marginal_distribution_is_hypergeometric(pool, draws):
    chains = 20_000
    values = draw_many(2, chains, pool, draws)[:, 0]
    k = np.arange(pool[0] + 1)
    expected = chains * scipy.stats.hypergeom.pmf(k, sum(pool), pool[0], draws)
    seen = np.bincount(values, minlength=k.size).astype(float)
    common = expected >= 5
    seen = np.append(seen[common], seen[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    if expected[-1] < 5:  # other symbols have too few draws for a class of their own
        seen, expected = ((*x[:-2], x[-2] + x[-1]) for x in (seen, expected))
    assert scipy.stats.chisquare(seen, expected, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.01, 0.3, 0.75])
def test_moments_match_the_closed_form(share):
    chains, size = 20_000, 10**8
    pool = np.array([3, 64, 65, 500, 10**4, 10**6, 3 * 10**7])
    pool = np.append(pool, size - pool.sum())
    draws = int(share * size)
    p = pool / size
    deviation = draw_many(3, chains, pool, draws).astype(float) - draws * p

    spread = draws * (size - draws) / (size - 1)
    covariance = spread * (np.diag(p) - np.outer(p, p))
    variance = np.diag(covariance)
    assert (np.abs(deviation.mean(0)) < 4 * np.sqrt(variance / chains)).all()
    for i, j in itertools.combinations_with_replacement(range(len(p)), 2):
        products = deviation[:, i] * deviation[:, j]
        error = products.mean() - covariance[i, j]
        assert abs(error) < 4 * products.std(ddof=1) / np.sqrt(chains), (i, j)


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_chi_square_over_a_whole_vocabulary(share):
    pool, chains = np.asarray(zipf_pool()), 30
    pool = pool[pool > 0]
    size = int(pool.sum())
    draws = int(share * size)
    expected = draws * (pool / size)
    statistic = ((draw_many(4, chains, pool, draws) - expected) ** 2 / expected).sum(1)
    mean = (pool.size - 1) * (size - draws) / (size - 1)
    assert abs(statistic.mean() - mean) < 4 * statistic.std(ddof=1) / np.sqrt(chains)


def test_static_and_traced_draws_give_the_same():
    key, pool = jax.random.key(11), zipf_pool()
    static = jax.jit(multivariate_hypergeometric, static_argnames="draws")(key, pool, draws=50_000)
    np.testing.assert_array_equal(static, draw(key, pool, 50_000))


def test_chains_do_not_touch_each_other():
    # Pools of different sizes need unequal numbers of rounds; one is empty.
    few, many = zipf_pool(scale=1e3), zipf_pool(scale=1e7)
    pool = jnp.stack([few, many, many[::-1], jnp.zeros_like(few)] * 2)
    draws = np.array([50, 10**7, 3, 0, 0, 10**4, 2 * 10**7, 0], np.int32)
    keys = jax.random.split(jax.random.key(7), 8)
    together = np.asarray(jax.jit(jax.vmap(multivariate_hypergeometric))(keys, pool, draws))
    for i in range(8):
        np.testing.assert_array_equal(together[i], draw(keys[i], pool[i], draws[i]))
    np.testing.assert_array_equal(together.sum(1), draws)


def test_ties_leave_the_size_exact(monkeypatch):
    same = lambda key, indices: (jnp.zeros(indices.shape, jnp.uint32),) * 2  # noqa: E731
    monkeypatch.setattr(random, "word_pairs", same)
    tied = jax.jit(lambda pool, draws: multivariate_hypergeometric(jax.random.key(0), pool, draws))
    for draws, expected in ((0, [0, 0, 0, 0]), (4, [2, 0, 2, 0]), (9, [2, 0, 3, 4])):
        np.testing.assert_array_equal(tied(jnp.array([2, 0, 3, 4], jnp.int32), draws), expected)


def test_keys_decide():
    pool = zipf_pool()
    first, again, other = (draw(jax.random.key(seed), pool, 90_000) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_impossible_arguments_count_as_the_nearest_possible_ones():
    key, pool = jax.random.key(8), jnp.array([3, -5, 2], jnp.int32)
    np.testing.assert_array_equal(draw(key, pool, 100), [3, 0, 2])
    np.testing.assert_array_equal(draw(key, pool, -1), [0, 0, 0])
    np.testing.assert_array_equal(draw(key, 1000 * pool, 10**6), [3000, 0, 2000])


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
def test_exports_for(platform):
    key = jax.eval_shape(lambda: jax.random.key(0))
    pool = jax.ShapeDtypeStruct((1000,), jnp.int32)
    draws = jax.ShapeDtypeStruct((), jnp.int32)
    function = jax.jit(multivariate_hypergeometric)
    exported = export.export(function, platforms=[platform])(key, pool, draws)
    assert exported.platforms == (platform,)
    assert "callback" not in exported.mlir_module()


def test_bad_arguments_are_rejected():
    key, pool = jax.random.key(0), jnp.ones(3, jnp.int32)
    with pytest.raises(TypeError, match="int32"):
        multivariate_hypergeometric(key, pool.astype(jnp.float32), 2)
    with pytest.raises(ValueError, match="vector"):
        multivariate_hypergeometric(key, pool[None], 2)
    with pytest.raises(ValueError, match="vector"):
        multivariate_hypergeometric(key, pool[:0], 0)
    for draws in (-1, 2**31):
        with pytest.raises(ValueError, match="draws must be"):
            multivariate_hypergeometric(key, pool, draws)


def test_pools_of_counts_are_subsampled(monkeypatch):
    monkeypatch.setattr(pools, "multivariate_hypergeometric", draw)
    pool = pools.Counts(jnp.array([4, 0, 6], jnp.int32), 10)
    sample = pools.counts().subsample(jax.random.key(0), pool, 5, 8)
    assert sample.total == 5
    assert int(sample.counts.sum()) == 5
    assert (sample.counts <= pool.counts).all()
