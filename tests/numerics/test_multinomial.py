"""The multinomial sampler against scipy: pieces, joint distributions, moments and contract."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import export

from collapse_jax.numerics import multinomial as module
from collapse_jax.numerics.multinomial import multinomial

SYMBOLS = 33_278  # WikiText-2
draw = jax.jit(multinomial)  # the total is traced
draw_static = jax.jit(multinomial, static_argnames="total")


def zipf_counts(symbols=SYMBOLS):
    """Word counts like WikiText-2's, a third of them extinct."""
    counts = (2e5 / np.arange(1, symbols + 1)).astype(np.int32)
    counts[::3] = 0
    return jnp.asarray(counts)


def draw_many(seed, chains, weights, total):
    keys = jax.random.split(jax.random.key(seed, impl="philox4x32"), chains)
    return np.asarray(jax.jit(jax.vmap(lambda key: multinomial(key, weights, total)))(keys))


@pytest.mark.parametrize("mean", [0.01, 1.0, 11.99, 12.0, 12.01, 14.0, 40.0, 1e3, 123_456.7, 1e7])
def test_poisson_piece_inverts_the_distribution_function(mean):
    points = 2**20
    words = ((np.arange(points) + 0.5) * (2**32 / points)).astype(np.uint32)
    means = jnp.full(points, mean, jnp.float32)
    values = np.asarray(jax.jit(module._poisson)(means, jnp.asarray(words), jnp.asarray(~words)))
    assert (np.diff(values) <= 0).all()  # the words are upper tail probabilities
    lowest = int(values.min())
    at_least = np.bincount(values.astype(np.int64) - lowest)[::-1].cumsum()[::-1] / points
    k = lowest + np.arange(at_least.size)
    exact = scipy.stats.poisson.sf(k - 1, float(np.float32(mean)))
    np.testing.assert_allclose(at_least, exact, rtol=0, atol=0.5 / points + 2e-7)


def test_poisson_tails_are_resolved_beyond_a_word():
    mean = np.float32(1e-4) * np.arange(1, 11, dtype=np.float32)
    for low in (1, 2**20, 2**31):
        tail = (low + 0.5) * 2.0**-64
        words = jnp.zeros(10, jnp.uint32), jnp.full(10, low, jnp.uint32)
        values = module._poisson(jnp.asarray(mean), *words)
        above = scipy.stats.poisson.sf(np.arange(20)[:, None], mean.astype(float))
        np.testing.assert_array_equal(values, (above > tail).sum(0))


def test_poisson_extremes_are_near_the_quantiles_and_not_negative():
    means = np.linspace(12, 60, 2000, dtype=np.float32)
    for word in (0, 1, 1000, 2**32 - 1001, 2**32 - 2, 2**32 - 1):
        high = jnp.full(means.shape, word, jnp.uint32)
        values = np.asarray(module._poisson(jnp.asarray(means), high, high))
        exact = scipy.stats.poisson.isf((word + 0.5) / 2.0**32, means.astype(float))
        assert values.min() >= 0
        assert np.abs(values - exact).max() <= 1


def test_multiply_high_and_pick_match_integer_arithmetic():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**32, (2, 5000), np.uint32)
    a[:3], b[:3] = 2**32 - 1, (2**32 - 1, 0, 1)
    product = a.astype(np.uint64) * b.astype(np.uint64) >> np.uint64(32)
    np.testing.assert_array_equal(module._multiply_high(jnp.asarray(a), jnp.asarray(b)), product)

    pick = jax.jit(lambda weights, *words: module._pick(module._sum_tree(weights), *words))
    for symbols in (1, 3, 6, 1000):
        weights = rng.integers(0, 5, symbols) * rng.integers(0, 400_000, symbols) + (symbols == 1)
        mass, ends = int(weights.sum()), np.cumsum(weights)
        # The first 64-bit uniform of each symbol and the last before it, and random ones.
        first = [-(-(int(end) << 64) // mass) for end in ends if end < mass]
        uniforms = [u - step for u in first for step in (0, 1) if u >= step]
        uniforms += [int(x) << 32 | int(y) for x, y in zip(a, b, strict=True)]
        high = jnp.asarray([u >> 32 for u in uniforms], jnp.uint32)
        low = jnp.asarray([u & (2**32 - 1) for u in uniforms], jnp.uint32)
        expected = ends.searchsorted([u * mass >> 64 for u in uniforms], "right")
        np.testing.assert_array_equal(pick(jnp.asarray(weights, jnp.int32), high, low), expected)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
@pytest.mark.parametrize("total", [0, 1, 7, 1024, 1025, 2_088_628, 2**31 - 1])
def test_sum_is_total_and_extinct_symbols_stay_extinct(dtype, total):
    weights = zipf_counts()
    scaled = weights.astype(dtype) / 977 if dtype == jnp.float32 else weights
    counts = np.asarray(draw(jax.random.key(total), scaled, total))
    assert counts.dtype == np.int32
    assert counts.sum(dtype=np.int64) == total
    assert counts.min() == 0
    assert not counts[np.asarray(weights) == 0].any()


@pytest.mark.parametrize("total", [7, 1024, 1025])
def test_static_and_traced_totals_give_the_same_counts(total):
    key, weights = jax.random.key(11), zipf_counts()
    counts = draw_static(key, weights, total=total)
    np.testing.assert_array_equal(counts, draw(key, weights, total))


def joint_p_value(counts, probabilities, total):
    symbols = len(probabilities)
    outcomes = np.array(
        [x for x in itertools.product(range(total + 1), repeat=symbols) if sum(x) == total]
    )
    place = (total + 1) ** np.arange(symbols)
    seen = np.bincount(counts @ place, minlength=(total + 1) ** symbols)[outcomes @ place]
    expected = len(counts) * scipy.stats.multinomial.pmf(outcomes, total, probabilities)
    return scipy.stats.chisquare(seen, expected, sum_check=False).pvalue


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
@pytest.mark.parametrize(("weights", "total"), [((1, 2, 4), 4), ((3, 7), 10), ((9, 0, 1), 3)])
def test_joint_distribution_of_single_draws(weights, total, dtype):
    counts = draw_many(1, 50_000, jnp.asarray(weights, dtype), total)
    live = np.asarray(weights) > 0
    probabilities = np.asarray(weights)[live] / sum(weights)
    assert joint_p_value(counts[:, live], probabilities, total) > 1e-3


def test_joint_distribution_of_poisson_counts_redraws_and_blocks(monkeypatch):
    # Blocks of one draw and hardly any slack: a tenth of the attempts overshoot.
    monkeypatch.setattr(module, "_BLOCK", 1)
    monkeypatch.setattr(module, "_SLACK", 0.6)
    chains = jax.jit(jax.vmap(multinomial, (0, None, None)))
    keys = jax.random.split(jax.random.key(2), 50_000)
    for weights, total in (((1, 2, 4), 4), ((3, 4, 1), 7)):
        counts = np.asarray(chains(keys, jnp.asarray(weights, jnp.int32), total))
        assert (counts.sum(1) == total).all()
        assert joint_p_value(counts, np.asarray(weights) / sum(weights), total) > 1e-3


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
def test_moments_match_the_closed_form(dtype):
    chains, total = 3_000, 10**6
    means = np.array([0.01, 0.5, 5, 11, 11.9, 12.1, 40, 1e3, 1e5])
    weights = np.append(means * 100, 10**8 - (means * 100).sum()).round().astype(np.int32)
    p = weights / weights.sum()
    counts = draw_many(3, chains, jnp.asarray(weights, dtype), total).astype(float)

    variance = total * p * (1 - p)
    deviation = counts - total * p
    assert (np.abs(deviation.mean(0)) < 4 * np.sqrt(variance / chains)).all()
    fourth = variance * (1 + 3 * (total - 2) * p * (1 - p))
    error = (deviation**2).mean(0) - variance
    assert (np.abs(error) < 4 * np.sqrt((fourth - variance**2) / chains)).all()
    for i, j in itertools.combinations(range(len(p)), 2):
        products = deviation[:, i] * deviation[:, j]
        error = products.mean() + total * p[i] * p[j]
        scale = np.sqrt((variance[i] * variance[j] + 2 * (total * p[i] * p[j]) ** 2) / chains)
        assert abs(error) < 4 * scale


def test_chi_square_over_a_whole_vocabulary():
    weights, total, chains = zipf_counts(), 2_088_628, 30
    counts = draw_many(4, chains, weights, total)
    p = np.asarray(weights)[np.asarray(weights) > 0] / int(weights.sum())
    expected = total * p
    statistic = ((counts[:, np.asarray(weights) > 0] - expected) ** 2 / expected).sum(1)
    size = p.size
    variance = 2 * (size - 1) + ((1 / p).sum() - size**2 - 2 * size + 2) / total
    assert abs(statistic.mean() - (size - 1)) < 4 * np.sqrt(variance / chains)


@pytest.mark.parametrize("weights", [[5], [0, 5, 0], [0, 2**31 - 1, 0], [0.25, 0, 0]])
def test_one_symbol_with_all_the_mass_takes_all(weights):
    dtype = jnp.float32 if isinstance(weights[0], float) else jnp.int32
    for total in (3, 5000, 2**31 - 1):
        counts = draw(jax.random.key(5), jnp.asarray(weights, dtype), total)
        np.testing.assert_array_equal(counts, np.asarray(weights) // max(weights) * total)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
def test_weights_are_scale_free(dtype):
    weights, key = zipf_counts().astype(dtype), jax.random.key(6)
    counts = draw(key, weights, 10**6)
    np.testing.assert_array_equal(counts, draw(key, weights * 4, 10**6))
    assert (counts != draw(key, weights[::-1], 10**6)).any()


def test_keys_decide_and_every_implementation_works():
    weights = zipf_counts(100)
    drawn = []
    for impl, seed in itertools.product(("threefry2x32", "philox4x32", "threefry4x32"), (0, 1)):
        key = jax.random.key(seed, impl=impl)
        drawn.append(np.asarray(draw_static(key, weights, total=900)))
        np.testing.assert_array_equal(drawn[-1], draw_static(key, weights, total=900))
    assert len({tuple(counts) for counts in drawn}) == 6


def test_chains_do_not_touch_each_other(monkeypatch):
    # Half a deviation of slack, other totals and weights, one chain with none: chains need unequal
    # numbers of attempts and blocks, and each alone must draw the same.
    monkeypatch.setattr(module, "_SLACK", 0.5)
    weights = jnp.stack([zipf_counts(1000), jnp.roll(zipf_counts(1000), 7)] * 5).at[2].set(0)
    totals = np.array([10**7, 2000, 3000, 900, 10**5] * 2, np.int32)
    keys = jax.random.split(jax.random.key(7), 10)
    together = np.asarray(jax.jit(jax.vmap(multinomial))(keys, weights, totals))
    alone = jax.jit(multinomial)
    for i in range(10):
        np.testing.assert_array_equal(together[i], alone(keys[i], weights[i], totals[i]))
    np.testing.assert_array_equal(together.sum(1), np.where(np.arange(10) == 2, 0, totals))


def test_impossible_weights_end():
    key = jax.random.key(8)
    assert not draw(key, jnp.zeros(3, jnp.int32), 5000).any()
    counts = draw(key, jnp.asarray([1, -5, 2], jnp.int32), 5000)
    assert int(counts.sum()) == 5000
    assert int(counts[1]) == 0
    counts = draw(key, jnp.full(3, 2**31 - 1, jnp.int32), 5000)  # the sum wraps to 2^31 - 3
    assert int(counts.sum()) > 5000  # far over, but it returns


@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
def test_exports_for(platform):
    key = jax.eval_shape(lambda: jax.random.key(0))
    weights = jax.ShapeDtypeStruct((1000,), jnp.int32)
    total = jax.ShapeDtypeStruct((), jnp.int32)
    exported = export.export(jax.jit(multinomial), platforms=[platform])(key, weights, total)
    assert exported.platforms == (platform,)
    assert "callback" not in exported.mlir_module()


def test_bad_arguments_are_rejected():
    key, weights = jax.random.key(0), jnp.ones(3, jnp.int32)
    with pytest.raises(TypeError, match="int32 or float32"):
        multinomial(key, weights.astype(jnp.int8), 5)
    with pytest.raises(ValueError, match="vector"):
        multinomial(key, weights[None], 5)
    with pytest.raises(ValueError, match="vector"):
        multinomial(key, weights[:0], 5)
    for total in (-1, 2**31):
        with pytest.raises(ValueError, match="total must be"):
            multinomial(key, weights, total)
