"""Records of a segment against NumPy over the same chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.engine import recording
from collapse_jax.family import Metric
from collapse_jax.results.totals import BINS, Totals, edges

METRICS = {
    "signed": Metric("a signed metric", scale=2.0, limit=1e3),
    "positive": Metric("a metric from 0", scale=1e-3, limit=50.0, nonnegative=True),
    "vector": Metric("a metric of several entries", dims=("entry",)),
    "far": Metric("a metric that is not about 0", scale=0.1, limit=50.0, centre=-40.0),
    "apart": Metric("entries far apart", dims=("entry",), centre=(-300.0, 0.0, 20.0)),
}
SHAPES = {
    "signed": jax.ShapeDtypeStruct((), jnp.float32),
    "positive": jax.ShapeDtypeStruct((), jnp.float32),
    "vector": jax.ShapeDtypeStruct((3,), jnp.float32),
    "far": jax.ShapeDtypeStruct((), jnp.float32),
    "apart": jax.ShapeDtypeStruct((3,), jnp.float32),
}
CHAINS, LENGTH, WRITTEN = 200, 5, 3


def inside_bins(rng, metric, shape):
    """Values well inside a random bin, the open-ended ones included: rounding can't move them."""
    bottom = 0.0 if metric.nonnegative else -np.arcsinh(metric.limit / metric.scale)
    top = np.arcsinh(metric.limit / metric.scale)
    place = rng.integers(-2 if not metric.nonnegative else 0, BINS, shape)
    place = place + rng.uniform(0.2, 0.8, shape)
    return metric.centre + metric.scale * np.sinh(bottom + place * (top - bottom) / (BINS - 2))


@pytest.fixture(scope="module")
def generations():
    """Metrics [WRITTEN, n, ...], finite and valid [WRITTEN, n]; unused chains hold junk."""
    rng = np.random.default_rng(0)
    metrics = {
        name: inside_bins(rng, metric, (WRITTEN, CHAINS, *SHAPES[name].shape)).astype(np.float32)
        for name, metric in METRICS.items()
    }
    finite = rng.random((WRITTEN, CHAINS)) < 0.8
    valid = np.broadcast_to(np.arange(CHAINS) < 170, finite.shape).copy()
    valid[2] = False  # no chain
    for values in metrics.values():
        values[~finite] = rng.choice([np.nan, np.inf, -np.inf], values[~finite].shape)
        values[finite & ~valid] = 1e30
    return metrics, finite, valid


def written(recorder, generations):
    metrics, finite, valid = generations
    write = jax.jit(recorder.write)
    record = recorder.empty(LENGTH, CHAINS)
    for row, source in ((3, 1), (0, 0), (1, 2)):  # in any order
        values = {name: jnp.asarray(value[source]) for name, value in metrics.items()}
        record = write(record, row, values, jnp.asarray(finite[source]), jnp.asarray(valid[source]))
    return jax.tree.map(np.asarray, record), {3: 1, 0: 0, 1: 2}


@pytest.fixture(scope="module")
def summarised(generations):
    return written(recording.summaries(METRICS, SHAPES), generations)


@pytest.mark.parametrize("name", METRICS)
def test_summaries_are_those_of_the_valid_and_finite_chains(name, generations, summarised):
    metrics, finite, valid = generations
    record, rows = summarised
    totals = record[name]
    assert isinstance(totals, Totals)
    for row, source in rows.items():
        used = metrics[name][source][finite[source] & valid[source]].astype(float)
        shape = SHAPES[name].shape
        np.testing.assert_array_equal(totals.count[row], np.full(shape, len(used)))
        if not len(used):
            for field in totals:
                np.testing.assert_array_equal(field[row], np.zeros_like(field[row]))
            continue
        sd = used.std(axis=0)
        np.testing.assert_allclose(
            (totals.mean[row] - used.mean(axis=0)) / (np.abs(used).mean(axis=0)), 0, atol=1e-5
        )
        np.testing.assert_allclose(totals.squares[row], len(used) * sd**2, rtol=1e-4)
        columns = used.reshape(len(used), -1)
        grid = np.broadcast_to(edges(METRICS[name]), (columns.shape[1], BINS - 1))
        exact = [
            np.histogram(column, [-np.inf, *inner, np.inf])[0]
            for column, inner in zip(columns.T, grid, strict=True)
        ]
        np.testing.assert_array_equal(totals.histogram[row], np.reshape(exact, (*shape, BINS)))


def test_summaries_leave_other_rows_empty_and_add_up(summarised):
    record, rows = summarised
    for totals in record.values():
        for row in set(range(LENGTH)) - set(rows):
            assert all(not field[row].any() for field in totals)
        np.testing.assert_array_equal(totals.histogram.sum(axis=-1), totals.count)
        assert totals.histogram.dtype == np.int32


def test_every_chain_keeps_all_values(generations):
    metrics, finite, _ = generations
    record, rows = written(recording.every_chain(SHAPES), generations)
    for name, values in {**metrics, "finite": finite}.items():
        assert record[name].shape == (LENGTH, *values.shape[1:])
        assert record[name].dtype == values.dtype
        for row in range(LENGTH):
            exact = values[rows[row]] if row in rows else np.zeros_like(values[0])
            np.testing.assert_array_equal(record[name][row], exact)


@pytest.mark.parametrize("name", METRICS)
def test_edges_increase_between_the_limits(name):
    metric = METRICS[name]
    centre = np.asarray(metric.centre)
    grid = edges(metric) - centre[..., None]
    assert grid.shape == (*centre.shape, BINS - 1)
    grid = grid.reshape(-1, BINS - 1)[0]
    assert (np.diff(grid) > 0).all()
    assert grid[-1] == pytest.approx(metric.limit)
    if metric.nonnegative:
        assert grid[0] == 0
    else:
        np.testing.assert_allclose(grid, -grid[::-1], atol=1e-12 * metric.limit)
    # Near-linear within the scale, geometric far outside.
    widths = np.diff(grid)
    near = (grid[:-1] >= 0) & (grid[:-1] < 0.3 * metric.scale)
    far = grid[grid > 20 * metric.scale]
    assert widths[near].max() < 1.1 * widths[near].min()
    assert np.ptp(far[1:] / far[:-1]) < 0.01


def test_values_beyond_the_limits_are_in_the_open_bins():
    metric = METRICS["signed"]
    values = jnp.array([-1e6, -1001.0, 1001.0, 1e6, 1e30, 0.1])
    recorder = recording.summaries({"signed": metric}, {"signed": SHAPES["signed"]})
    used = jnp.ones(6, bool)
    record = recorder.write(recorder.empty(1, 6), 0, {"signed": values}, used, used)
    histogram = np.asarray(record["signed"].histogram[0])
    assert (histogram[0], histogram[-1], histogram.sum()) == (2, 3, 6)
