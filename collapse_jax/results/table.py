"""A run's summary as a table: measured values, standard errors, closed forms and z-scores.

Standard errors: sd / sqrt(n) for a mean; value * sqrt(2 / (n - 1)) for a variance, which holds for
normal metrics and is too small for heavier tails. n is the number of finite chains.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from etils import epath

from collapse_jax.family import Curves

STATISTICS = ("mean", "variance")
# Largest vector metric that is listed; larger ones (images) are in history.nc only.
MOST_ENTRIES = 1000
_LONG_NAME_PREFIX = "quantiles over finite chains of the "


class Row(NamedTuple):
    """One line of summary.csv; NaN for missing numbers."""

    generation: int
    metric: str
    statistic: str  # "mean" or "variance"
    dims: str  # entry of a vector metric, or ""
    n: int  # finite chains
    value: float
    se: float
    q05: float
    q50: float
    q95: float
    theory: float
    z: float  # (value - theory) / se


class Measured(NamedTuple):
    """A statistic of a metric over chains, by generation (and entry of a vector metric)."""

    value: np.ndarray  # f64[generation, ...]
    se: np.ndarray  # f64[generation, ...]
    n: np.ndarray  # f64[generation, ...]


def metric_names(summary: xr.Dataset) -> list[str]:
    """Names of the metrics in a summary, in its order."""
    return [str(v).removesuffix("_count") for v in summary.data_vars if str(v).endswith("_count")]


def long_name(summary: xr.Dataset, name: str) -> str:
    """A metric's long name, or its name if it has none."""
    text = str(summary[f"{name}_quantile"].attrs.get("long_name", name))
    return text.removeprefix(_LONG_NAME_PREFIX)


def settings(dataset: xr.Dataset, part: str) -> dict[str, Any]:
    """The configuration of the run's "family" or "regime", from the dataset's attributes."""
    found: dict[str, Any] = json.loads(dataset.attrs.get(part, "{}"))
    return found


def original(dataset: xr.Dataset, name: str) -> np.ndarray | None:
    """A metric's value for the original itself, from a summary or a history; None if unknown."""
    of_summary = f"{name}_mean"
    value = dataset[of_summary if of_summary in dataset else name].attrs.get("original")
    return None if value is None else np.asarray(value, np.float64)


def sample_size(dataset: xr.Dataset) -> str:
    """The sample size M as text, or the first and last M of a schedule; "" if there is none."""
    samples = settings(dataset, "regime").get("samples")
    if isinstance(samples, Mapping):
        samples = samples.get("function", [])
    if isinstance(samples, Sequence) and not isinstance(samples, str):
        return f"{samples[0]:,} to {samples[-1]:,} (schedule)" if samples else ""
    return f"{samples:,}" if isinstance(samples, int) else str(samples or "")


def describe(*datasets: xr.Dataset) -> str:
    """Family, regime, M and number of chains in one line.

    Differences between runs are listed: "gaussian, replace / accumulate, M = 100, 50 chains".
    """
    columns = zip(*(_parts(dataset) for dataset in datasets), strict=True)
    merged = [" / ".join(dict.fromkeys(filter(None, column))) for column in columns]
    return ", ".join(filter(None, merged))


def _parts(dataset: xr.Dataset) -> list[str]:
    family, regime = settings(dataset, "family"), settings(dataset, "regime")
    options = [
        name if value is True else f"{name} = {value:g}"
        for name, value in regime.items()
        if name != "samples" and isinstance(value, (bool, int, float)) and value is not False
    ]
    size, chains = sample_size(dataset), number_of_chains(dataset)
    return [
        _with_details(str(family.get("name", "unknown family")), [description(dataset)]),
        _with_details(str(regime.get("name", "unknown regime")), options),
        f"M = {size}" if size else "",
        f"{chains:,} chain{'' if chains == 1 else 's'}",
    ]


def description(dataset: xr.Dataset) -> str:
    """The family's description of its settings."""
    return str(dataset.attrs.get("description", ""))


def number_of_chains(dataset: xr.Dataset) -> int:
    """The number of chains in a summary or a history."""
    return int(dataset.attrs.get("chains", dataset.sizes.get("chain", 0)))


def _with_details(name: str, details: Sequence[str]) -> str:
    shown = ", ".join(filter(None, details))
    return f"{name} ({shown})" if shown else name


def measured(summary: xr.Dataset, name: str, statistic: str) -> Measured:
    r"""A statistic over finite chains and its standard error.

    The "variance" of the metric `mean` is the second moment about the original's mean, if that is
    known: $E(\mu_n - \mu)^2$ = sd^2 (n - 1) / n + (mean - \mu)^2. For all other metrics it is sd^2.

    Args:
      summary: summary of a run.
      name: name of a metric.
      statistic: "mean" or "variance".
    """
    mean, sd, count = (
        summary[f"{name}_{part}"].values.astype(np.float64) for part in ("mean", "sd", "count")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        if statistic == "mean":
            return Measured(mean, sd / np.sqrt(count), count)
        value, centre = sd**2, original(summary, name)
        if name == "mean" and centre is not None:
            about_mean = np.where(count > 1, value * (count - 1) / count, 0.0)
            value = about_mean + (mean - centre) ** 2
        relative = np.where(count > 1, np.sqrt(2.0 / (count - 1)), np.nan)
    return Measured(value, value * relative, count)


def average(part: Measured) -> Measured:
    """A vector metric's statistic averaged over its entries, assumed to be independent."""
    axes = tuple(range(1, part.value.ndim))
    entries = part.value[0].size
    se = np.sqrt(np.sum(part.se**2, axis=axes)) / entries
    return Measured(np.mean(part.value, axis=axes), se, np.min(part.n, axis=axes))


def rows(summary: xr.Dataset, expected: Curves) -> Iterator[Row]:
    """The lines of summary.csv, by metric, statistic, entry and generation.

    Vector metrics with more than `MOST_ENTRIES` entries are left out. For vector metrics, a closed
    form f64[generation] of the "variance" is that of the average over entries
    (E |mu_n - mu|^2 / d), which gets separate lines; one of the "mean" holds for each entry.
    """
    for name in metric_names(summary):
        dims = summary[f"{name}_mean"].dims[1:]
        if summary[f"{name}_mean"][0].size > MOST_ENTRIES:
            continue
        for statistic in STATISTICS:
            found = measured(summary, name, statistic)
            theory = expected.get((name, statistic))
            quantiles = np.full((*found.value.shape, 3), np.nan)
            if statistic == "mean":
                chosen = summary[f"{name}_quantile"].sel(quantile=[0.05, 0.5, 0.95])
                quantiles = chosen.values.astype(np.float64)
            if theory is not None and dims and statistic == "variance" and np.ndim(theory) == 1:
                label = f"mean over {' and '.join(map(str, dims))}"
                missing = np.full((len(theory), 3), np.nan)
                yield from _lines(
                    name,
                    statistic,
                    label=label,
                    found=average(found),
                    quantiles=missing,
                    theory=theory,
                )
                theory = None
            for entry in np.ndindex(found.value.shape[1:]):
                yield from _lines(
                    name,
                    statistic,
                    label=entry_label(summary[f"{name}_mean"], entry),
                    found=Measured(*(array[:, *entry] for array in found)),
                    quantiles=quantiles[:, *entry],
                    theory=theory[:, *entry]
                    if theory is not None and np.ndim(theory) > 1
                    else theory,
                )


def entry_label(array: xr.DataArray, entry: tuple[int, ...]) -> str:
    """Label of an entry of a vector metric, "dimension=0"; array dims are (generation, ...)."""
    return ", ".join(
        f"{dim}={array[dim].values[i] if dim in array.coords else i}"
        for dim, i in zip(array.dims[1:], entry, strict=True)
    )


def _lines(
    name: str,
    statistic: str,
    label: str,
    found: Measured,
    quantiles: np.ndarray,
    theory: np.ndarray | None,
) -> Iterator[Row]:
    """Lines of one entry; `quantiles` is f64[generation, 3]."""
    closed = np.full(len(found.value), np.nan) if theory is None else np.asarray(theory, np.float64)
    scores = z_scores(found, closed)
    for generation, n in enumerate(found.n):
        yield Row(
            generation=generation,
            metric=name,
            statistic=statistic,
            dims=label,
            n=int(n),
            value=float(found.value[generation]),
            se=float(found.se[generation]),
            q05=float(quantiles[generation, 0]),
            q50=float(quantiles[generation, 1]),
            q95=float(quantiles[generation, 2]),
            theory=float(closed[generation]),
            z=float(scores[generation]),
        )


def z_scores(found: Measured, theory: np.ndarray) -> np.ndarray:
    """(value - theory) / se; NaN if all chains agree (se = 0) or there is only one."""
    difference = found.value - theory
    return np.divide(difference, found.se, out=np.full_like(difference, np.nan),
                     where=found.se > 0)  # fmt: skip


def write_csv(path: str | os.PathLike[str], summary: xr.Dataset, expected: Curves) -> None:
    """Writes summary.csv: the columns of `Row`, with empty cells for NaN."""
    frame = pd.DataFrame(rows(summary, expected), columns=list(Row._fields))
    text = frame.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    epath.Path(path).write_text(text, encoding="utf-8")
