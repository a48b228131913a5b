"""Statistics of texts against plain Python: n-grams counted one by one, and definitions."""

import math
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from collapse_jax.metrics import text_statistics

BLOCKS, LENGTH = 7, 12
SMALL = 50
LARGEST = text_statistics.LARGEST_VOCABULARY  # pairs of its ids need all of 32 bits
# Texts of various richness: some repeat nearly everything, some nothing.
RICHNESS = (1, 2, 3, 8, 40)


def sample(seed, vocabulary, richness):
    """Blocks and their mask; ids are the ends of the range and some between."""
    rng = np.random.default_rng(seed)
    ids = [vocabulary - 2, 0, vocabulary - 3, 1, *rng.integers(2, vocabulary - 3, 36)][:richness]
    tokens = rng.choice(ids, (BLOCKS, LENGTH)).astype(np.int32)
    live = rng.permutation(np.arange(BLOCKS) < 2 + seed % 5)
    # Masked blocks differ from all others.
    tokens[~live] = rng.integers(0, vocabulary, tokens[~live].shape)
    return tokens, live


SAMPLES = [
    (seed, vocabulary, richness)
    for seed, richness in enumerate(RICHNESS)
    for vocabulary in (SMALL, LARGEST)
]


@jax.jit
def shares_of(counts):
    return (
        text_statistics.entropy(counts),
        text_statistics.heterozygosity(counts),
        text_statistics.distinct(counts),
    )


zipf_slope = jax.jit(text_statistics.zipf_slope)
survival = jax.jit(text_statistics.survival)
tail = jax.jit(text_statistics.tail)
_self_bleu = jax.jit(text_statistics.self_bleu, static_argnames="n")


def self_bleu(tokens, live=None, n=4):
    return _self_bleu(tokens, np.ones(len(tokens), bool) if live is None else live, n=n)


counts_of = jax.jit(text_statistics.counts, static_argnames="vocabulary")
ngram_counts = jax.jit(text_statistics.ngram_counts, static_argnames=("vocabulary", "n"))
repetition = jax.jit(text_statistics.repetition, static_argnames=("n", "together"))


def grams(block, n):
    return [tuple(block[i : i + n].tolist()) for i in range(len(block) - n + 1)]


def tally(tokens, live, n):
    """Number of occurrences of each n-gram."""
    return Counter(gram for block in tokens[live] for gram in grams(block, n))


def same_counts(found, expected):
    """In any order, and padded with zeros only."""
    found = np.asarray(found)
    assert (found >= 0).all()
    assert sorted(found[found > 0].tolist()) == sorted(expected.values())


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "vocabulary", "richness"), SAMPLES)
def test_counts_and_ngram_counts_are_those_of_a_counter(seed, vocabulary, richness):
    tokens, live = sample(seed, vocabulary, richness)
    found = counts_of(tokens, live, vocabulary)
    expected = np.zeros(vocabulary, np.int32)
    for (token,), count in tally(tokens, live, 1).items():
        expected[token] = count
    np.testing.assert_array_equal(found, expected, strict=True)
    for n in (2, 3):
        found = ngram_counts(tokens, live, vocabulary, n)
        assert found.shape == (BLOCKS * (LENGTH - n + 1),)
        assert found.dtype == jnp.int32
        same_counts(found, tally(tokens, live, n))


@pytest.mark.parametrize("n", [2, 3])
def test_the_largest_ids_count_as_any_others(n):
    # The last pair of 2^16 ids, (65535, 65535), has 32 one bits and sorts last.
    tokens = np.full((BLOCKS, LENGTH), LARGEST - 1, np.int32)
    tokens[:2, ::5] = LARGEST - 2
    tokens[2, 3:5] = 0
    live = np.arange(BLOCKS) != 4
    same_counts(ngram_counts(tokens, live, LARGEST, n), tally(tokens, live, n))


def test_no_ngram_crosses_from_one_block_to_the_next():
    tokens = np.arange(BLOCKS * LENGTH, dtype=np.int32).reshape(BLOCKS, LENGTH) % SMALL
    tokens[1:, 0] = 7
    tokens[:, -1] = 7
    live = np.ones(BLOCKS, bool)
    expected = tally(tokens, live, 2)
    assert (7, 7) not in expected
    same_counts(ngram_counts(tokens, live, SMALL, 2), expected)


# --- functions of counts -------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "vocabulary", "richness"), SAMPLES)
def test_entropy_heterozygosity_and_distinct_by_their_definitions(seed, vocabulary, richness):
    tokens, live = sample(seed, vocabulary, richness)
    found = {n: ngram_counts(tokens, live, vocabulary, n) for n in (2, 3)}
    for n, counts in {1: counts_of(tokens, live, vocabulary), **found}.items():
        every = [gram for block in tokens[live] for gram in grams(block, n)]
        entropy, heterozygosity, distinct = shares_of(counts)
        expected = scipy.stats.entropy(list(Counter(every).values()))
        np.testing.assert_allclose(entropy, expected, rtol=1e-5, atol=1e-6)
        differ = sum(one != other for one in every for other in every) / len(every) ** 2
        np.testing.assert_allclose(heterozygosity, differ, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(distinct, len(set(every)) / len(every), rtol=1e-6)


@pytest.mark.parametrize("types", [2, 3, 30, SMALL])
def test_zipf_slope_is_the_regression_over_types_that_occur(types):
    rng = np.random.default_rng(types)
    counts = np.zeros(SMALL, np.int32)
    counts[rng.permutation(SMALL)[:types]] = rng.zipf(1.5, types).clip(max=10**6)
    found = zipf_slope(counts)
    x, y = np.log(np.arange(1, types + 1)), np.log(np.sort(counts[counts > 0])[::-1])
    np.testing.assert_allclose(found, scipy.stats.linregress(x, y).slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, np.polyfit(x, y, 1)[0], rtol=1e-4, atol=1e-6)


def test_zipf_slope_of_a_power_law_is_its_exponent():
    counts = np.rint(1e8 / np.arange(1, SMALL + 1) ** 1.1).astype(np.int32)
    shuffled = np.random.default_rng(0).permutation(counts)
    np.testing.assert_allclose(zipf_slope(shuffled), -1.1, rtol=1e-4)


# --- repetition within a block, and of other blocks ----------------------------------------------


@pytest.mark.parametrize("together", [64, 3])  # 3 does not divide the number of blocks
@pytest.mark.parametrize("n", [1, 4])
def test_repetition_is_the_share_of_ngrams_that_the_block_had_before(n, together):
    for seed, richness in enumerate(RICHNESS):
        tokens, live = sample(seed, LARGEST, richness)
        shares = []
        for block in tokens[live]:
            every = grams(block, n)
            shares.append(np.mean([gram in every[:i] for i, gram in enumerate(every)]))
        found = repetition(tokens, live, n=n, together=together)
        np.testing.assert_allclose(found, np.mean(shares), rtol=1e-6)
        # Welleck et al. count the other way round: 1 - |unique| / |all|.
        unique = [len(set(grams(block, n))) / (LENGTH - n + 1) for block in tokens[live]]
        np.testing.assert_allclose(found, 1 - np.mean(unique), rtol=1e-5, atol=1e-6)


def bleu(block, others, n):
    """Geometric mean of clipped precisions, as in Papineni et al. 2002, of one length."""
    product = 1.0
    for order in range(1, n + 1):
        own = Counter(grams(block, order))
        most = Counter()
        for other in others:
            most |= Counter(grams(other, order))  # the largest count in any other block
        product *= (own & most).total() / own.total()
    return product ** (1 / n)


@pytest.mark.parametrize("n", [2, 4])
def test_self_bleu_is_the_mean_bleu_against_all_other_blocks(n):
    found = []
    for seed, richness in enumerate(RICHNESS):
        tokens = np.random.default_rng(seed).integers(0, richness, (BLOCKS, LENGTH), np.int32)
        tokens += LARGEST - richness
        alone = [
            bleu(block, np.delete(tokens, number, axis=0), n) for number, block in enumerate(tokens)
        ]
        found.append(float(self_bleu(tokens, n=n)))
        np.testing.assert_allclose(found[-1], np.mean(alone), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[0], 1.0, rtol=1e-6)
    assert 0.1 < found[2] < 0.95  # and not all at an end


def test_self_bleu_leaves_out_blocks_that_do_not_count():
    tokens = np.random.default_rng(3).integers(0, 4, (6, 9)).astype(np.int32)
    live = np.array([True, True, False, True, True, False])
    np.testing.assert_allclose(
        self_bleu(tokens, live, n=2), self_bleu(tokens[live], n=2), rtol=1e-6
    )


def test_self_bleu_of_blocks_that_have_nothing_in_common_is_zero():
    tokens = np.arange(BLOCKS * LENGTH, dtype=np.int32).reshape(BLOCKS, LENGTH)
    assert float(self_bleu(tokens, n=4)) == 0.0


def test_self_bleu_clips_what_a_block_says_more_often_than_any_other():
    tokens = np.arange(BLOCKS * LENGTH, dtype=np.int32).reshape(BLOCKS, LENGTH)
    tokens[0] = 99
    tokens[1:3, :2] = 99  # twice in two others, which makes two and not four
    expected = [(2 / LENGTH * 1 / (LENGTH - 1)) ** 0.5]
    expected += 2 * [(2 / LENGTH * 1 / (LENGTH - 1)) ** 0.5] + (BLOCKS - 3) * [0.0]
    np.testing.assert_allclose(self_bleu(tokens, n=2), np.mean(expected), rtol=1e-5)


# --- survival of a first text ------------------------------------------------------------------


def first_counts(seed, types):
    """Counts of a text with many ties."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(SMALL, np.int32)
    counts[rng.permutation(SMALL)[:types]] = rng.geometric(0.4, types)
    return counts


@pytest.mark.parametrize("types", [SMALL, 40, 23, 10])
def test_survival_by_decile_with_ties_in_the_order_of_ids(types):
    for seed in range(5):
        first = first_counts(seed, types)
        now = np.random.default_rng(100 + seed).poisson(0.7, SMALL).astype(np.int32)
        order = sorted(np.flatnonzero(first).tolist(), key=lambda i: (-first[i], i))
        deciles = [[] for _ in range(10)]
        for rank, i in enumerate(order):
            deciles[10 * rank // types].append(now[i] > 0)
        assert sorted({len(decile) for decile in deciles}) in (
            [types // 10],
            [types // 10, types // 10 + 1],
        )
        expected = [np.mean(decile) for decile in deciles]
        np.testing.assert_allclose(survival(first, now), expected, rtol=1e-6)
        np.testing.assert_array_equal(survival(first, first), np.ones(10))
        np.testing.assert_array_equal(survival(first, np.zeros_like(first)), np.zeros(10))


def test_types_that_were_not_in_the_first_text_do_not_survive():
    first = first_counts(0, 20)
    now = np.where(first > 0, 0, 5).astype(np.int32)
    np.testing.assert_array_equal(survival(first, now), np.zeros(10))


def test_survival_of_fewer_types_than_deciles_is_right_where_there_are_any():
    first = np.zeros(SMALL, np.int32)
    first[[5, 9, 30]] = 3, 8, 3  # ranks 0, 1, 2 are in deciles 0, 3, 6
    now = np.zeros(SMALL, np.int32)
    now[[5, 9]] = 1
    found = np.asarray(survival(first, now))
    assert found[[0, 3, 6]].tolist() == [1, 1, 0]
    assert np.isfinite(found).all()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.5, 1.0])
def test_tail_is_the_rarest_types_up_to_a_share_with_ties_in_the_order_of_ids(share):
    for seed in range(8):
        first = first_counts(seed, 45)
        order = sorted(np.flatnonzero(first).tolist(), key=lambda i: (first[i], i))
        rare, mass = np.zeros(SMALL, bool), 0
        for i in order:
            mass += int(first[i])
            if mass > Fraction(str(share)) * int(first.sum()):
                break
            rare[i] = True
        np.testing.assert_array_equal(tail(first, share), rare, strict=True)


@pytest.mark.parametrize("eighths", range(9))
def test_tail_takes_a_share_that_is_met_exactly(eighths):
    sizes = [5] * 18 + [15, 95]  # 200 tokens
    first = np.zeros(SMALL, np.int32)
    first[: len(sizes)] = sizes
    expected = np.sum(np.cumsum(sizes) <= 25 * eighths)
    assert np.flatnonzero(tail(first, eighths / 8)).tolist() == list(range(expected))


# --- edges ---------------------------------------------------------------------------------------


def test_one_token_over_and_over():
    tokens, live = np.full((BLOCKS, LENGTH), SMALL - 1, np.int32), np.arange(BLOCKS) < 5
    counts = counts_of(tokens, live, SMALL)
    assert counts.tolist() == [0] * (SMALL - 1) + [5 * LENGTH]
    entropy, heterozygosity, distinct = shares_of(counts)
    np.testing.assert_allclose((entropy, heterozygosity), 0.0, atol=1e-6)
    np.testing.assert_allclose(distinct, 1 / (5 * LENGTH))
    assert float(zipf_slope(counts)) == 0.0
    for n in (2, 3):
        found = ngram_counts(tokens, live, SMALL, n)
        same_counts(found, {0: 5 * (LENGTH - n + 1)})
        np.testing.assert_allclose(shares_of(found)[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(repetition(tokens, live, n=4), (LENGTH - 4) / (LENGTH - 3))
    np.testing.assert_allclose(self_bleu(tokens, n=4), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(survival(counts, counts)[0], 1.0)
    assert not np.any(tail(counts, 0.99))
    assert np.flatnonzero(tail(counts, 1.0)).tolist() == [SMALL - 1]


def test_a_single_block():
    block = np.array([3, 1, 4, 1, 5, 9, 2, 6, 3, 1, 4, 1], np.int32)
    live = np.ones(1, bool)
    counts = counts_of(block[None], live, SMALL)
    assert counts[:10].tolist() == [0, 4, 1, 2, 2, 1, 1, 0, 0, 1]
    same_counts(ngram_counts(block[None], live, SMALL, 2), Counter(grams(block, 2)))
    same_counts(ngram_counts(block[None], live, SMALL, 3), Counter(grams(block, 3)))
    np.testing.assert_allclose(repetition(block[None], live, n=4), 1 / 9, rtol=1e-6)


def test_a_text_of_no_live_block_has_no_counts_and_measures_that_are_finite():
    tokens, live = sample(0, SMALL, 8)
    live = np.zeros_like(live)
    counts = counts_of(tokens, live, SMALL)
    assert not np.any(counts)
    assert not np.any(ngram_counts(tokens, live, SMALL, 2))
    assert not np.any(ngram_counts(tokens, live, SMALL, 3))
    assert np.isfinite(shares_of(counts)).all()
    assert math.isfinite(zipf_slope(counts))
    assert float(repetition(tokens, live, n=4)) == 0.0
    assert np.isfinite(survival(counts, counts)).all()
    assert not np.any(tail(counts, 0.5))


def test_many_texts_at_a_time_as_one_by_one():
    samples = [sample(seed, SMALL, richness) for seed, richness in enumerate(RICHNESS[1:4])]
    tokens, live = map(np.stack, zip(*samples, strict=True))
    pairs = jax.vmap(lambda tokens, live: ngram_counts(tokens, live, SMALL, 2))(tokens, live)
    repeated = jax.vmap(lambda tokens, live: repetition(tokens, live, n=4, together=3))
    for number, each in enumerate(samples):
        same_counts(pairs[number], tally(*each, 2))
        expected = repetition(*each, n=4, together=3)
        np.testing.assert_allclose(repeated(tokens, live)[number], expected, rtol=1e-6)
    alone = [self_bleu(each, n=2) for each in tokens]
    np.testing.assert_allclose(jax.vmap(lambda each: self_bleu(each, n=2))(tokens), alone, 1e-5)
