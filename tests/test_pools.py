"""Pools against NumPy: concatenated rows, covariances of concatenated samples, subsets."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from collapse_jax import pools
from collapse_jax.numerics import affine
from collapse_jax.numerics.affine import Affine
from collapse_jax.pools import Counts, Moments, Rows

ROWS, MOMENTS, COUNTS = pools.rows(row_bytes=12), pools.moments(), pools.counts()


def numbered(first, count, capacity):
    """`count` rows [number, -number, 1]; others are NaN, so that any use of them would show."""
    values = np.full((capacity, 3), np.nan, np.float32)
    numbers = first + np.arange(count)
    values[:count] = np.stack([numbers, -numbers, np.ones(count)], axis=1)
    return jnp.asarray(values)


def assert_live_rows(pool, numbers, capacity):
    assert pool.values.shape == (capacity, 3)
    assert int(pool.count) == len(numbers)
    expected = np.stack([numbers, -np.asarray(numbers), np.ones(len(numbers))], axis=1)
    np.testing.assert_array_equal(pool.values[: len(numbers)], expected)


@pytest.mark.parametrize(
    ("a_count", "a_room", "b_count", "b_room", "capacity"),
    [(4, 4, 3, 3, 7), (4, 4, 3, 3, 16), (2, 4, 3, 3, 5), (2, 4, 1, 3, 4), (4, 4, 0, 0, 4),
     (0, 4, 3, 3, 3)],
)  # fmt: skip
def test_rows_of_known_counts_are_concatenated(a_count, a_room, b_count, b_room, capacity):
    a = Rows(numbered(1, a_count, a_room), a_count)
    b = Rows(numbered(101, b_count, b_room), b_count)
    merged = ROWS.merge(a, b, capacity)
    assert isinstance(merged.count, int)
    assert_live_rows(merged, [*range(1, 1 + a_count), *range(101, 101 + b_count)], capacity)


def test_live_rows_keep_fixed_rows_and_those_to_come_apart():
    live = pools.live_rows(row_bytes=12)
    real = pools.LiveRows(Rows(numbered(1, 4, 4), 4), jnp.zeros(0, bool))
    to_come = pools.LiveRows(Rows(jnp.zeros((0, 3)), 0), jnp.array([True, True, False]))
    for merged in (live.merge(to_come, real, 7), jax.jit(live.merge, static_argnums=2)(
        to_come, real._replace(fixed=real.fixed._replace(count=jnp.int32(4))), 7
    )):  # fmt: skip
        assert int(live.size(merged)) == 6
        assert merged.live.tolist() == [True, True, False]
        assert_live_rows(merged.fixed, range(1, 5), 4)
    part = live.subsample(jax.random.key(0), real, 2, 2)
    assert set(np.asarray(part.fixed.values[:, 0])) <= {1.0, 2.0, 3.0, 4.0}
    assert int(live.size(part)) == 2
    with pytest.raises(ValueError, match="^live rows: .* cannot be subsampled$"):
        live.subsample(jax.random.key(0), to_come, 2, 2)


@functools.partial(jax.jit, static_argnums=(4, 5))
def merge_traced(a_values, a_count, b_values, b_count, capacity, full):
    """`full`: b's count is known and equals its capacity."""
    b_count = b_values.shape[0] if full else b_count
    return ROWS.merge(Rows(a_values, a_count), Rows(b_values, b_count), capacity)


@pytest.mark.parametrize(("capacity", "full"), [(8, False), (20, False), (8, True)])
def test_rows_of_traced_counts_are_concatenated(capacity, full):
    a_room, b_room = 6, 4
    for a_count, b_count in itertools.product(range(a_room + 1), range(b_room + 1)):
        if a_count + b_count > capacity or (full and b_count < b_room):
            continue
        merged = merge_traced(
            numbered(1, a_count, a_room), a_count, numbered(101, b_count, b_room), b_count,
            capacity, full,
        )  # fmt: skip
        numbers = [*range(1, 1 + a_count), *range(101, 101 + b_count)]
        assert_live_rows(merged, numbers, capacity)


@jax.jit
def merge_after_known(a_values, b_values, b_count):
    return ROWS.merge(Rows(a_values, 3), Rows(b_values, b_count), 7)


def test_rows_of_a_known_and_a_traced_count_are_concatenated():
    for b_count in range(5):
        merged = merge_after_known(numbered(1, 3, 3), numbered(101, b_count, 4), b_count)
        assert_live_rows(merged, [1, 2, 3, *range(101, 101 + b_count)], 7)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_merged_rows_are_expressed_in_the_first_frame(dim):
    rng = np.random.default_rng(dim)

    def random_frame():
        shear = rng.normal(size=dim * (dim - 1) // 2) if dim > 1 else None
        frame = Affine(rng.normal(size=dim), rng.normal(size=dim), shear)
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), frame)

    def world(pool):
        frame, values = pool.frame, np.asarray(pool.values[: int(pool.count)], float)
        lower = np.eye(dim)
        if dim > 1:
            lower[np.tril_indices(dim, -1)] = frame.shear
        return values @ (lower * np.exp(np.asarray(frame.log_scale, float))).T + frame.centre

    a = Rows(jnp.asarray(rng.normal(size=(5, dim)), jnp.float32), 4, random_frame())
    b = Rows(jnp.asarray(rng.normal(size=(3, dim)), jnp.float32), 3, random_frame())
    merged = jax.jit(lambda a, b, n: ROWS.merge(a._replace(count=n), b, 8))(a, b, 4)
    np.testing.assert_array_equal(merged.frame.centre, a.frame.centre)
    np.testing.assert_array_equal(merged.frame.log_scale, a.frame.log_scale)
    both = np.concatenate([world(a), world(b)])
    np.testing.assert_allclose(world(merged), both, atol=1e-4 * np.abs(both).max())


def test_grown_rows_keep_their_members():
    pool = Rows(numbered(1, 3, 4), 3)
    assert_live_rows(ROWS.grow(pool, 9), [1, 2, 3], 9)
    assert ROWS.size(ROWS.grow(pool, 9)) == 3
    assert ROWS.bytes(9) == 9 * 12


def test_live_marks_the_live_rows_unless_all_are():
    values = numbered(1, 4, 4)
    assert pools.live(Rows(values, 4)) is None
    np.testing.assert_array_equal(pools.live(Rows(values, 3)), [True, True, True, False])
    traced = jax.jit(lambda count: pools.live(Rows(values, count)))
    np.testing.assert_array_equal(traced(4), [True] * 4)
    np.testing.assert_array_equal(traced(0), [False] * 4)


def many_keys(count, seed=0):
    return jax.random.split(jax.random.key(seed, impl="philox4x32"), count)


def test_every_subset_is_equally_likely():
    trials = 20_000
    pool = Rows(numbered(0, 5, 8), 5)
    draw = jax.jit(jax.vmap(lambda key: ROWS.subsample(key, pool, 2, 2).values[:, 0]))
    pairs = np.asarray(draw(many_keys(trials))).astype(int)
    ordered = np.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25).reshape(5, 5)
    subsets = (ordered + ordered.T)[np.triu_indices(5, 1)]
    assert np.diagonal(ordered).sum() == 0
    assert subsets.sum() == trials
    assert stats.chisquare(subsets).pvalue > 1e-3


@functools.partial(jax.jit, static_argnums=4)
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def subsample_traced(key, values, size, count, capacity):
    return ROWS.subsample(key, Rows(values, size), count, capacity)


@pytest.mark.parametrize("size", [3, 4, 7, 12])
def test_subsamples_of_a_traced_size_are_distinct_and_live(size):
    trials, count, capacity = 4000, 3, 4
    values = numbered(0, size, 12)
    drawn = subsample_traced(many_keys(trials, size), values, size, count, capacity)
    assert drawn.values.shape == (trials, capacity, 3)
    assert (np.asarray(drawn.count) == count).all()
    chosen = np.asarray(drawn.values[:, :count, 0])
    assert (chosen >= 0).all()  # a dead row is NaN
    assert (np.diff(np.sort(chosen, axis=1), axis=1) > 0).all()
    included = np.bincount(chosen.astype(int).ravel(), minlength=size)
    share = count / size
    bound = 4 * np.sqrt(trials * share * (1 - share))
    assert included.size == size
    assert np.abs(included - trials * share).max() <= bound


def test_a_subsample_of_all_members_is_a_permutation():
    frame = Affine(jnp.ones(3), jnp.zeros(3), jnp.zeros(3))
    pool = Rows(numbered(0, 100, 100), 100, frame)
    drawn = ROWS.subsample(jax.random.key(3), pool, 100, 100)
    assert drawn.frame is frame
    assert drawn.count == 100
    np.testing.assert_array_equal(np.sort(drawn.values[:, 0]), np.arange(100))
    assert (np.asarray(drawn.values[:, 0]) != np.arange(100)).any()


def moments_of(sample):
    """Moments of rows f64[n, d], from NumPy; the frame is computed in float64."""
    count, dim = sample.shape
    mean = sample.mean(axis=0)
    lower, scale = np.eye(dim), np.zeros(dim)
    if count > 1:
        factor = np.linalg.cholesky(np.atleast_2d(np.cov(sample.T, ddof=0)))
        scale = np.diagonal(factor)
        lower = factor / scale
    shear = lower[np.tril_indices(dim, -1)] if dim > 1 else None
    with np.errstate(divide="ignore"):
        frame = Affine(mean, np.log(scale), shear)
    return Moments(count, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), frame))


@jax.jit
def merge_moments(a, b):
    merged = MOMENTS.merge(a, b, 0)
    return merged, affine.unit_lower(merged.spread)


def assert_moments_of_both(a, b, tolerance=2e-4):
    merged, lower = merge_moments(moments_of(a), moments_of(b))
    both = np.concatenate([a, b])
    covariance = np.atleast_2d(np.cov(both.T, ddof=0))
    sd = np.sqrt(np.diagonal(covariance))
    factor = np.asarray(lower, float) * np.exp(np.asarray(merged.spread.log_scale, float))
    assert int(merged.count) == len(both)
    np.testing.assert_allclose((merged.spread.centre - both.mean(axis=0)) / sd, 0, atol=tolerance)
    errors = (factor @ factor.T - covariance) / np.outer(sd, sd)
    np.testing.assert_allclose(errors, 0, atol=tolerance)


def sample(seed, count, dim):
    """Correlated rows with a mean of their own."""
    rng = np.random.default_rng(seed)
    mixing = np.tril(rng.normal(size=(dim, dim)), -1) + np.eye(dim)
    return rng.normal(size=(count, dim)) @ mixing.T + rng.normal(size=dim)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize(("a_scale", "b_scale"), [(1, 1), (1, 1e-6), (1e-6, 1), (1e6, 1e6)])
def test_merged_moments_are_those_of_all_rows(dim, a_scale, b_scale):
    for a_count, b_count in ((40, 25), (25, 40), (1000, 7)):
        a, b = a_scale * sample(1, a_count, dim), b_scale * sample(2, b_count, dim)
        assert_moments_of_both(a, b)
        assert_moments_of_both(b, a)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("order", [1, -1])
def test_moments_of_unlike_units_are_merged(dim, order):
    units = np.logspace(-6, 6, dim)[::order]
    assert_moments_of_both(units * sample(3, 30, dim), units * sample(4, 50, dim))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_moments_of_two_far_and_narrow_clouds_are_merged(dim):
    # 10^3 widths apart: beyond, the shift dominates the covariance in float32.
    a, b = 1e-6 * sample(5, 30, dim), 1e-6 * sample(6, 20, dim) + 1e-3
    assert_moments_of_both(a, b)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_single_sample_is_merged_in_either_order(dim):
    many, single = sample(7, 30, dim), sample(8, 1, dim)
    assert_moments_of_both(many, single)
    assert_moments_of_both(single, many)


def test_fewer_samples_than_dimensions_are_merged():
    few, many = sample(9, 3, 5), sample(10, 30, 5)
    residuals = few - few.mean(axis=0)
    factor = np.linalg.qr(residuals / np.sqrt(3))[1].T  # [5, 3], of rank 2
    factor = np.pad(factor[:, :2] * np.sign(np.diagonal(factor)[:2]), [(0, 0), (0, 3)])
    spread = affine.from_factor(*(jnp.asarray(x, jnp.float32) for x in (few.mean(axis=0), factor)))
    merged, _ = merge_moments(moments_of(many), Moments(3, spread))
    exact = np.cov(np.concatenate([many, few]).T, ddof=0)
    merged_factor = np.asarray(affine.factor(merged.spread), float)
    np.testing.assert_allclose(merged_factor @ merged_factor.T, exact, atol=1e-4)


def test_moments_know_their_size_and_need_no_room():
    pool = moments_of(sample(0, 30, 2))
    assert MOMENTS.size(pool) == 30
    assert MOMENTS.grow(pool, 1000) is pool
    assert MOMENTS.bytes(1000) is None
    assert MOMENTS.subsample is None


def test_counts_are_added():
    a = Counts(jnp.array([3, 0, 2**30, 1], jnp.int32), 2**30 + 4)
    b = Counts(jnp.array([0, 0, 2**29, 5], jnp.int32), 2**29 + 5)
    merged = COUNTS.merge(a, b, 0)
    np.testing.assert_array_equal(merged.counts, [3, 0, 2**30 + 2**29, 6])
    assert merged.counts.dtype == jnp.int32
    assert COUNTS.size(merged) == merged.total == 2**30 + 2**29 + 9
    assert COUNTS.grow(a, 7) is a
    assert COUNTS.bytes(7) is None
