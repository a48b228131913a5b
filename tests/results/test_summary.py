"""Statistics over chains, from all values and from totals, against NumPy in one pass."""

import numpy as np
import pytest
import xarray as xr

from collapse_jax.family import Metric
from collapse_jax.results import summary
from collapse_jax.results.totals import BINS, Totals, edges, merge

METRICS = {
    "loss": Metric("loss", "nat", scale=0.5, limit=200.0),
    "error": Metric("error", scale=1e-4, limit=10.0, nonnegative=True),
    "shares": Metric("shares", dims=("symbol",)),
}
COORDS = {"symbol": np.array(["a", "b"])}
CHAINS, GENERATIONS = 3000, 4


def totals_of(values, metric):
    """Totals of f64[chain, generation, ...] from NumPy; NaN is left out."""
    shape, length = values.shape[1:], len(values)
    fields = [np.zeros(shape) for _ in range(3)] + [np.zeros((*shape, BINS), np.int32)]
    borders = np.concatenate([[-np.inf], edges(metric), [np.inf]])
    for place in np.ndindex(shape):
        column = values.reshape(length, *shape)[(slice(None), *place)]
        column = column[~np.isnan(column)]
        fields[0][place] = len(column)
        if len(column):
            fields[1][place] = column.mean()
            fields[2][place] = ((column - column.mean()) ** 2).sum()
        fields[3][place] = np.histogram(column, borders)[0]
    return Totals(*fields)


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    spread = np.array([1e-3, 1.0, 5.0, 30.0])
    return {
        "loss": rng.normal(size=(CHAINS, GENERATIONS)) * spread + 3,
        "error": rng.exponential(size=(CHAINS, GENERATIONS)) * spread * 0.01,
        "shares": rng.normal(size=(CHAINS, GENERATIONS, 2)) * [1, 4],
    }


def with_lost(values):
    """The same values with a fifth of the chains non-finite, and all of them at generation 2."""
    finite = np.random.default_rng(1).random((CHAINS, GENERATIONS)) < 0.8
    finite[:, 2] = False
    masked = {}
    for name, x in values.items():
        mask = finite.reshape(finite.shape + (1,) * (x.ndim - 2))
        masked[name] = np.where(mask, x, np.nan)
    return masked, finite


def history_of(values, finite, junk=np.nan):
    data = {
        name: (("chain", "generation", *METRICS[name].dims), np.where(np.isnan(x), junk, x))
        for name, x in values.items()
    }
    return xr.Dataset({**data, "finite": (("chain", "generation"), finite)})


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_merged_totals_are_those_of_one_pass(offset):
    rng = np.random.default_rng(2)
    metric = METRICS["loss"]
    batches = [offset + rng.normal(size=(n, 3)) * [1e-2, 1, 1e4] for n in (1, 50, 7, 1000, 1)]
    merged = merge([totals_of(batch, metric) for batch in batches])
    together = np.concatenate(batches)
    whole = totals_of(together, metric)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_array_equal(merged.histogram, whole.histogram)
    np.testing.assert_allclose(merged.mean, together.mean(axis=0), rtol=1e-13)
    # float64 holds 1e-2 on top of 1e9 to 5 digits, squared.
    tolerance = 1e-9 if offset == 0 else 1e-5
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=tolerance)


def test_merging_survives_batches_without_finite_chains():
    rng = np.random.default_rng(3)
    metric, empty = METRICS["loss"], np.full((5, 2), np.nan)
    some = rng.normal(size=(20, 2)) + 100
    some[:, 1] = np.nan
    batches = [totals_of(batch, metric) for batch in (empty, some, empty, some + 1, empty)]
    merged = merge(batches)
    exact = np.concatenate([some, some + 1])[:, 0]
    np.testing.assert_array_equal(merged.count, [40, 0])
    np.testing.assert_allclose(merged.mean, [exact.mean(), 0])
    np.testing.assert_allclose(merged.squares, [40 * exact.var(), 0])


def test_merging_float32_batches_loses_nothing_to_their_number():
    one = Totals(np.full(1, 1000, np.float32), np.full(1, 7, np.float32),
                 np.full(1, 3, np.float32), np.full((1, BINS), 2**20, np.int32))  # fmt: skip
    merged = merge([one] * 20_000)
    np.testing.assert_array_equal(merged.count, [2e7])  # beyond the integers of float32
    np.testing.assert_allclose(merged.squares, [6e4], rtol=1e-12)
    assert (merged.histogram == 20_000 * 2**20).all()  # beyond int32


def assert_statistics(dataset, name, values):
    """Checks count, mean and sd of [chain, generation, ...], ignoring NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        count = (~np.isnan(values)).sum(axis=0)
        filled = np.where(np.isnan(values), 0.0, values)
        mean = filled.sum(axis=0) / count
        squares = np.where(np.isnan(values), 0.0, (values - mean) ** 2).sum(axis=0)
        sd = np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
    np.testing.assert_array_equal(dataset[f"{name}_count"], count)
    np.testing.assert_allclose(dataset[f"{name}_mean"], mean, rtol=1e-9)
    np.testing.assert_allclose(dataset[f"{name}_sd"], sd, rtol=1e-9)
    assert dataset[f"{name}_mean"].dims == ("generation", *METRICS[name].dims)
    assert dataset[f"{name}_quantile"].dims == ("generation", *METRICS[name].dims, "quantile")
    assert dataset[f"{name}_mean"].attrs["units"] == METRICS[name].units


def exact_quantiles(values):
    result = np.full((*values.shape[1:], len(summary.QUANTILES)), np.nan)
    for place in np.ndindex(values.shape[1:]):
        column = values[(slice(None), *place)]
        column = column[~np.isnan(column)]
        if len(column):
            result[place] = np.quantile(column, summary.QUANTILES)
    return result


def test_statistics_of_all_finite_chains(values):
    history = history_of(values, np.ones((CHAINS, GENERATIONS), bool))
    dataset = summary.from_chains(history, METRICS, COORDS)
    for name, x in values.items():
        assert_statistics(dataset, name, x)
        np.testing.assert_allclose(dataset[f"{name}_quantile"], exact_quantiles(x), rtol=1e-12)
    assert dataset.attrs == {"chains": CHAINS, "quantiles": "exact"}
    np.testing.assert_array_equal(dataset["symbol"], ["a", "b"])


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e300])
def test_chains_that_are_not_finite_are_left_out(values, junk):
    masked, finite = with_lost(values)
    dataset = summary.from_chains(history_of(masked, finite, junk), METRICS, COORDS)
    for name, x in masked.items():
        assert_statistics(dataset, name, x)
        np.testing.assert_allclose(dataset[f"{name}_quantile"], exact_quantiles(x), rtol=1e-12)
        assert np.isnan(dataset[f"{name}_mean"][2]).all()
    assert dataset.attrs["chains"] == CHAINS


def test_a_single_chain_has_no_spread():
    history = history_of({"loss": np.array([[2.0, np.nan, 5.0]])}, np.array([[True, False, True]]))
    only = {"loss": METRICS["loss"]}
    whole = history.isel(generation=[0, 2])
    for dataset in (summary.from_chains(history, only, {}).isel(generation=[0, 2]),
                    summary.from_chains(whole, only, {})):  # fmt: skip
        np.testing.assert_array_equal(dataset["loss_mean"], [2.0, 5.0])
        assert np.isnan(dataset["loss_sd"]).all()
        assert (dataset["loss_quantile"] == dataset["loss_mean"]).all()


def bins_of(values, metric):
    return np.searchsorted(edges(metric), np.asarray(values))


@pytest.mark.parametrize("lost", [False, True])
def test_statistics_from_totals(values, lost):
    used = with_lost(values)[0] if lost else values
    totals = {name: totals_of(x, METRICS[name]) for name, x in used.items()}
    dataset = summary.from_totals(totals, METRICS, COORDS, CHAINS)
    for name, x in used.items():
        assert_statistics(dataset, name, x)
        found, exact = dataset[f"{name}_quantile"].values, exact_quantiles(x)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
        valid = ~np.isnan(exact)
        apart = bins_of(found[valid], METRICS[name]) - bins_of(exact[valid], METRICS[name])
        assert np.abs(apart).max() <= 1
        assert (np.diff(found, axis=-1)[~np.isnan(found).any(axis=-1)] >= 0).all()
    assert dataset.attrs["chains"] == CHAINS
    assert "histogram" in dataset.attrs["quantiles"]


def test_quantiles_beyond_the_limits_are_at_the_outer_edges():
    metric = METRICS["loss"]
    x = np.concatenate([np.full((400, 1), -1e4), np.full((600, 1), 1e4)])
    dataset = summary.from_totals({"loss": totals_of(x, metric)}, {"loss": metric}, {}, 1000)
    quantiles = dataset["loss_quantile"].sel(generation=0)
    np.testing.assert_allclose(quantiles, [-200] * 3 + [200] * 4)


def test_both_ways_give_one_layout(values):
    history = history_of(values, np.ones((CHAINS, GENERATIONS), bool))
    exact = summary.from_chains(history, METRICS, COORDS)
    totals = {name: totals_of(x, METRICS[name]) for name, x in values.items()}
    binned = summary.from_totals(totals, METRICS, COORDS, CHAINS)
    assert set(exact.variables) == set(binned.variables)
    for name in exact.variables:
        assert exact[name].dims == binned[name].dims
        assert exact[name].dtype == binned[name].dtype
        assert exact[name].attrs == binned[name].attrs
