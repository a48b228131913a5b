"""Statistics over chains by generation, from all values or from totals computed on the device.

The layout is the same for both, so figures and reports do not depend on what a run keeps.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.family import Metric
from collapse_jax.results.totals import Totals, edges

QUANTILES = (0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975)
STATISTICS = ("count", "mean", "sd", "quantile")


def from_totals(
    totals: Mapping[str, Totals],
    metrics: Mapping[str, Metric],
    coords: Mapping[str, Any],
    chains: int,
) -> xr.Dataset:
    """A summary dataset from merged totals; quantiles are linear within a histogram bin."""
    data: dict[str, Any] = {}
    for name, metric in metrics.items():
        if not metric.summarised:
            continue
        total = totals[name]
        count = total.count
        mean = np.where(count > 0, total.mean, np.nan)
        sd = np.sqrt(np.divide(total.squares, count - 1, out=np.full_like(mean, np.nan),
                               where=count > 1))  # fmt: skip
        quantiles = _histogram_quantiles(total.histogram, edges(metric))
        data |= _variables(name, metric, count=count, mean=mean, sd=sd, quantiles=quantiles)
    summary = _dataset(data, coords, chains)
    summary.attrs["quantiles"] = (
        "linear within fixed histogram bins: accurate to the width of a bin"
    )
    return summary


def from_chains(
    history: xr.Dataset, metrics: Mapping[str, Metric], coords: Mapping[str, Any]
) -> xr.Dataset:
    """A summary dataset from the values of all chains; non-finite chains are left out."""
    finite = history["finite"].values  # bool[chain, generation]
    data: dict[str, Any] = {}
    for name, metric in metrics.items():
        if not metric.summarised:
            continue
        values = history[name].values.astype(np.float64)  # [chain, generation, ...]
        mask = finite.reshape(finite.shape + (1,) * (values.ndim - 2))
        count = np.broadcast_to(mask, values.shape).sum(axis=0).astype(np.float64)
        if finite.all():
            mean, sd = values.mean(axis=0), _sd(values)
            quantiles = np.quantile(values, QUANTILES, axis=0)
        else:
            mean, sd, quantiles = _masked(np.where(mask, values, np.nan))
        data |= _variables(
            name, metric, count=count, mean=mean, sd=sd, quantiles=np.moveaxis(quantiles, 0, -1)
        )
    summary = _dataset(data, coords, history.sizes["chain"])
    summary.attrs["quantiles"] = "exact"
    return summary


def _masked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sd and quantiles over axis 0, ignoring NaN; NaN where there are too few values."""
    shape = values.shape[1:]
    columns = values.reshape(len(values), -1)
    mean, sd = np.full(columns.shape[1], np.nan), np.full(columns.shape[1], np.nan)
    quantiles = np.full((len(QUANTILES), columns.shape[1]), np.nan)
    for i, column in enumerate(columns.T):
        kept = column[~np.isnan(column)]
        if len(kept):
            mean[i], sd[i] = kept.mean(), _sd(kept)
            quantiles[:, i] = np.quantile(kept, QUANTILES)
    return mean.reshape(shape), sd.reshape(shape), quantiles.reshape(-1, *shape)


def _sd(values: np.ndarray) -> np.ndarray:
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1)


def _histogram_quantiles(histogram: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Quantiles [..., q] from counts [..., bin] and edges [..., bin - 1], linear within a bin."""
    cumulative = np.cumsum(histogram, axis=-1)
    # Values in the open-ended first and last bins are put at the outer edges.
    padded = np.concatenate([grid[..., :1], grid, grid[..., -1:]], axis=-1)
    borders_of_all = np.broadcast_to(padded, (*cumulative.shape[:-1], padded.shape[-1]))
    flat, borders_of = (x.reshape(-1, x.shape[-1]) for x in (cumulative, borders_of_all))
    result = np.full((len(flat), len(QUANTILES)), np.nan)
    for row, (counts, borders) in enumerate(zip(flat, borders_of, strict=True)):
        total = counts[-1]
        if total == 0:
            continue
        for column, quantile in enumerate(QUANTILES):
            wanted = quantile * (total - 1) + 0.5
            i = int(np.searchsorted(counts, wanted))
            before = counts[i - 1] if i else 0
            share = (wanted - before) / (counts[i] - before)
            result[row, column] = borders[i] + share * (borders[i + 1] - borders[i])
    return result.reshape(*cumulative.shape[:-1], len(QUANTILES))


def _variables(
    name: str,
    metric: Metric,
    count: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    quantiles: np.ndarray,
) -> dict[str, Any]:
    dims = ("generation", *metric.dims)

    def labelled(statistic: str) -> dict[str, Any]:
        return {"long_name": f"{statistic} {metric.long_name}", "units": metric.units}

    mean_attributes: dict[str, Any] = labelled("mean over finite chains of the")
    if metric.symbol:
        mean_attributes["symbol"] = metric.symbol
    if metric.original is not None:
        mean_attributes["original"] = metric.original
    return {
        f"{name}_count": (dims, count, {"long_name": "number of finite chains", "units": "1"}),
        f"{name}_mean": (dims, mean, mean_attributes),
        f"{name}_sd": (dims, sd, labelled("standard deviation over finite chains of the")),
        f"{name}_quantile": (
            (*dims, "quantile"),
            quantiles,
            labelled("quantiles over finite chains of the"),
        ),
    }


def _dataset(data: Mapping[str, Any], coords: Mapping[str, Any], chains: int) -> xr.Dataset:
    length = len(next(iter(data.values()))[1])
    return xr.Dataset(
        data,
        {"generation": np.arange(length), "quantile": np.array(QUANTILES), **coords},
        {"chains": chains},
    )
