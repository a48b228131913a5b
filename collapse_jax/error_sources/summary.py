"""Summary of a study of error sources: means, standard errors, and the sum against the whole."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import stdtrit

from collapse_jax.error_sources.study import SOURCES
from collapse_jax.reports import page

ALONE = ("statistical", "expressivity", "approximation")
# Largest acceptable mass at the grid's ends for the typical chain. With it, truncation costs a
# Gaussian 3e-5 of its variance per fit: after 50 fits, 1 % of the divergence at M = 10^6.
EDGE_MASS = 1e-7
# Divergences below this are rounding: float32 errors of log-masses reach 1e-5 in 50 fits.
ROUNDING = 1e-10  # nats


class Mean(NamedTuple):
    """Mean over finite chains, f64[generation] (or f64[samples])."""

    value: np.ndarray
    error: np.ndarray  # standard error; 0 for deterministic values
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
        """(ratio - 1) in standard errors of the ratio; 0 where undefined."""
        z = (self.ratio - 1.0) / self.ratio_error
        return np.where(np.isfinite(z), z, 0.0)

    @property
    def limit(self) -> float:
        """Largest |z| over generations that is compatible with chance."""
        return limit(min(self.full.chains.min(), self.total.chains.min()), len(self.ratio))


def limit(chains: float, comparisons: int) -> float:
    """Critical |z| at a family-wise error rate of 1 %: Student's t with Bonferroni's correction.

    Args:
      chains: number of chains, whose standard errors have chains - 1 degrees of freedom.
      comparisons: number of values of z, of which the largest is judged.
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
    """Compares the whole process with the sum of the three sources at the same M.

    Args:
      found: dataset of `study.study`.
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
    # The two have independent random numbers, so the squares of relative errors add.
    relative = np.hypot(full.error / full.value, total.error / total.value)
    return SourceComparison(
        parts=means, total=total, full=full, ratio=ratio, ratio_error=np.abs(ratio) * relative
    )


def slope(found: xr.Dataset, model: str, generation: int) -> tuple[float, float] | None:
    """The exponent of M in the statistical error, by least squares on logarithms.

    Returns:
      The exponent and its standard error; None if fewer than two sizes have a finite mean.
    """
    one = mean(found["statistical_kl"].sel(model=model).isel(generation=generation))
    valid = np.isfinite(one.value) & (one.value > 0)
    if valid.sum() < 2:
        return None
    sizes = np.log(found["samples"].values[valid])
    centred = sizes - sizes.mean()
    weights = centred / np.sum(centred**2)
    relative = one.error[valid] / one.value[valid]
    return float(weights @ np.log(one.value[valid])), float(np.linalg.norm(weights * relative))


def edge_mass(found: xr.Dataset, source: str) -> xr.DataArray:
    """Median over chains of the mass at the grid's ends, maximum over generations.

    Dims (model[, samples]). A few very wide chains say little about the truncation of the others,
    hence the median.
    """
    values = found[f"{source}_edge_mass"]
    if "chain" in values.dims:
        values = values.median("chain")
    return values.max("generation")


def rows(found: xr.Dataset) -> list[tuple[object, ...]]:
    """(model, source, M, generation, mean, standard error, chains); M = 0 is infinite data."""
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
    """Writes `rows` as CSV."""
    columns = ("model", "source", "samples", "generation", "kl_mean", "kl_standard_error", "chains")
    frame = pd.DataFrame(rows(found), columns=list(columns))
    frame.to_csv(path, index=False, na_rep="nan", lineterminator="\n")


def table(found: xr.Dataset) -> page.Table:
    """Table of sources, sum and whole at the first, middle and last generation, nats."""
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
