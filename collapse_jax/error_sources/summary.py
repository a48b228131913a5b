"""What a study of error sources found: means and their errors, and the sum against the whole."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import stdtrit

from collapse_jax.error_sources.study import SOURCES
from collapse_jax.reports import page

ALONE = ("statistical", "expressivity", "approximation")
# Mass at the ends of the grid that the typical chain may have. A Gaussian with more loses, cut off,
# 3e-5 of its variance in a fit: after 50, a hundredth of the divergence that M = 10^6 has by then.
EDGE_MASS = 1e-7
# Divergences below are rounding: of log-masses off by 1e-5, what float32 adds up to in 50 fits.
ROUNDING = 1e-10  # nats


class Mean(NamedTuple):
    """Mean over finite chains, f64[generation] (or f64[samples])."""

    value: np.ndarray
    error: np.ndarray  # standard error; 0 where there is nothing random
    chains: np.ndarray


class SourceComparison(NamedTuple):
    """The whole process against the sum of its sources, by generation: f64[generation]."""

    parts: dict[str, Mean]
    total: Mean
    full: Mean
    ratio: np.ndarray
    ratio_error: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """How many of its standard errors the ratio is above 1; 0 where that is unknown."""
        z = (self.ratio - 1.0) / self.ratio_error
        return np.where(np.isfinite(z), z, 0.0)

    @property
    def limit(self) -> float:
        """How far from 0 chance alone may take z, generation by generation."""
        return limit(min(self.full.chains.min(), self.total.chains.min()), len(self.ratio))


def limit(chains: float, comparisons: int) -> float:
    """Standard errors beyond which chance takes any of the comparisons in about 1 of 100 runs.

    Student's t and Bonferroni's bound: chains are few, and the worst of many generations is judged.
    """
    return float(stdtrit(max(chains - 1, 1), 1 - 0.005 / comparisons))


def mean(values: xr.DataArray) -> Mean:
    """Mean over chains, or the value of a deterministic study.

    Args:
      values: dims (generation,) or (chain, generation); or (samples, chain).
    """
    if "chain" not in values.dims:
        flat = values.values.astype(np.float64)
        return Mean(flat, np.zeros_like(flat), np.ones_like(flat))
    finite = values.where(np.isfinite(values))
    chains = finite.notnull().sum("chain")
    error = finite.std("chain", ddof=1) / np.sqrt(chains)
    return Mean(finite.mean("chain").values, error.values, chains.values.astype(np.float64))


def compare(found: xr.Dataset, model: str) -> SourceComparison:
    """The sum of the three sources at the M of the whole process, and the whole process.

    Args:
      found: of `error_sources.study`.
      model: name of a class.
    """
    size = found.attrs["compared_samples"]
    chosen = found.sel(model=model)
    parts = {name: chosen[f"{name}_kl"] for name in ALONE}
    parts["statistical"] = parts["statistical"].sel(samples=size)
    means = {name: mean(values) for name, values in parts.items()}
    total = Mean(
        np.stack([part.value for part in means.values()]).sum(axis=0),
        means["statistical"].error,
        means["statistical"].chains,
    )
    full = mean(chosen["full_kl"])
    ratio = full.value / total.value
    # The two are of separate random numbers, so that relative errors add in squares.
    relative = np.hypot(full.error / full.value, total.error / total.value)
    return SourceComparison(means, total, full, ratio, np.abs(ratio) * relative)


def slope(found: xr.Dataset, model: str, generation: int) -> tuple[float, float] | None:
    """The power of M to which the statistical error is proportional, by least squares of logs.

    Returns:
      The power and its standard error; None if fewer than two sizes have a finite mean.
    """
    one = mean(found["statistical_kl"].sel(model=model).isel(generation=generation))
    there = np.isfinite(one.value) & (one.value > 0)
    if there.sum() < 2:
        return None
    sizes = np.log(found["samples"].values[there])
    centred = sizes - sizes.mean()
    weights = centred / np.sum(centred**2)
    relative = one.error[there] / one.value[there]
    return float(weights @ np.log(one.value[there])), float(np.linalg.norm(weights * relative))


def edge_mass(found: xr.Dataset, source: str) -> xr.DataArray:
    """The typical chain's largest mass at the ends of the grid, dims (model[, samples]).

    Of chains the median: those few that widened most say little about what the others lose.
    """
    values = found[f"{source}_edge_mass"]
    if "chain" in values.dims:
        values = values.median("chain")
    return values.max("generation")


def rows(found: xr.Dataset) -> list[tuple[object, ...]]:
    """(model, source, M, generation, mean, standard error, chains); M 0 is the population limit."""
    listed: list[tuple[object, ...]] = []
    for model in found["model"].values:
        for source in SOURCES:
            values = found[f"{source}_kl"].sel(model=model)
            size = found.attrs["compared_samples"] if source == "full" else 0
            several = [(size, values)]
            if "samples" in values.dims:
                several = [(int(size), values.sel(samples=size)) for size in values["samples"]]
            for size, one in several:
                for generation, line in enumerate(zip(*mean(one), strict=True)):
                    value, error, chains = map(float, line)
                    listed.append((str(model), source, size, generation, value, error, int(chains)))
    return listed


def write_csv(path: Path, found: xr.Dataset) -> None:
    """Every mean divergence with its standard error as CSV."""
    columns = ("model", "source", "samples", "generation", "kl_mean", "kl_standard_error", "chains")
    frame = pd.DataFrame(rows(found), columns=list(columns))
    frame.to_csv(path, index=False, na_rep="nan", lineterminator="\n")


def table(found: xr.Dataset) -> page.Table:
    """Sources, sum and whole at the first, middle and last generation."""
    last = found.sizes["generation"] - 1
    lines = []
    for model in map(str, found["model"].values):
        one = compare(found, model)
        for generation in sorted({0, last // 2, last}):
            alone = [float(one.parts[name].value[generation]) for name in ALONE]
            numbers = [one.total, one.full]
            pairs = [float(x[generation]) for m in numbers for x in (m.value, m.error)]
            ends = [float(one.ratio[generation]), float(one.ratio_error[generation])]
            lines.append((model, generation, *alone, *pairs, *ends))
    columns = ("class", "generation", *ALONE, "sum", "SE", "whole", "SE", "whole / sum", "SE")
    size = found.attrs["compared_samples"]
    return page.Table(f"KL(truth || model) in nats, M = {size:,}", columns, lines)
