"""What a study of error sources found: means and their errors, and the sum against the whole.

Every figure of the text is computed from the run.
"""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from collapse_jax import report
from collapse_jax.error_sources import SOURCES

ALONE = ("statistical", "expressivity", "approximation")


class Mean(NamedTuple):
    """Mean over finite chains, f64[generation]."""

    value: np.ndarray
    error: np.ndarray  # standard error; 0 where there is nothing random
    chains: np.ndarray


class Comparison(NamedTuple):
    """The whole process against the sum of its sources, by generation: f64[generation]."""

    parts: dict[str, Mean]
    total: Mean
    full: Mean
    ratio: np.ndarray
    ratio_error: np.ndarray

    def verdict(self, generation: int) -> str:
        """Whether the whole is the sum, within two standard errors of their ratio."""
        excess, error = self.ratio[generation] - 1.0, self.ratio_error[generation]
        if not abs(excess) > 2 * error:
            return "agrees with"
        return "is more than" if excess > 0 else "is less than"


def mean(values: xr.DataArray) -> Mean:
    """Mean over chains, or the value of a deterministic study.

    Args:
      values: dims (generation,) or (chain, generation).
    """
    if "chain" not in values.dims:
        flat = values.values.astype(np.float64)
        return Mean(flat, np.zeros_like(flat), np.ones_like(flat))
    finite = values.where(np.isfinite(values))
    chains = finite.notnull().sum("chain")
    error = finite.std("chain", ddof=1) / np.sqrt(chains)
    return Mean(finite.mean("chain").values, error.values, chains.values.astype(np.float64))


def compare(found: xr.Dataset, model: str) -> Comparison:
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
    return Comparison(means, total, full, ratio, np.abs(ratio) * relative)


def slope(found: xr.Dataset, model: str, generation: int) -> float:
    """The power of M to which the statistical error is proportional, by least squares of logs."""
    values = found["statistical_kl"].sel(model=model).isel(generation=generation).mean("chain")
    sizes = found["samples"].values
    if len(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(values.values), 1)[0])


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
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("model", "source", "samples", "generation", "kl_mean", "kl_standard_error", "chains")
        )
        writer.writerows(rows(found))


def in_words(found: xr.Dataset) -> str:
    """What each source did alone, and where the whole departs from the sum."""
    last = found.sizes["generation"] - 1
    size, chains = found.attrs["compared_samples"], found.sizes["chain"]
    texts = [
        "Each source alone, by generation, as KL(truth || model) in nats. Statistical: the right"
        " class, M samples a generation, fits to within 0.1 units of the whole sample's"
        " log-likelihood (neural density: 0.4). Expressivity: too small a class,"
        " infinite data, converged fits. Approximation: the right class, infinite data, fits that"
        " stop early from a fixed start. The whole process has all three: the small class,"
        f" M = {size:,}, early fits. Means over {chains} chains, with standard errors."
    ]
    for model in map(str, found["model"].values):
        one = compare(found, model)
        expressivity, approximation = (
            one.parts[name].value for name in ("expressivity", "approximation")
        )
        drop = float(np.max(-np.diff(approximation), initial=0.0))
        grows = "never falling" if drop <= 1e-6 else f"falling by at most {drop:.2g} on the way"
        texts.append(
            f"{model}: at generation {last} the whole process, {_with_error(one.full, last)} nats,"
            f" {one.verdict(last)} the sum of the three alone, {_with_error(one.total, last)}:"
            f" ratio {one.ratio[last]:.2f} \u00b1 {one.ratio_error[last]:.2f}"
            f" (generation 0: {one.ratio[0]:.2f} \u00b1 {one.ratio_error[0]:.2f})."
            f" Statistical error goes as M to the power {slope(found, model, 0):.2f} at generation"
            f" 0 and {slope(found, model, last):.2f} at generation {last}. Expressivity costs"
            f" {expressivity[0]:.3f} at generation 0 and changes by at most"
            f" {np.max(np.abs(expressivity - expressivity[0])):.1g} after it. Approximation goes"
            f" from {approximation[0]:.2g} to {approximation[-1]:.2g}, {grows}."
        )
    departing = [
        str(model)
        for model in found["model"].values
        if compare(found, str(model)).verdict(last) != "agrees with"
    ]
    if departing:
        texts.append(
            f"Simple additivity fails at generation {last} for {', '.join(departing)}. It need not"
            " hold: a divergence is not linear in the errors that cause it, the sources act on one"
            " another, and noise and early stopping may cost the small class, which has fewer"
            " parameters, another amount than the right class, on which they are measured alone."
        )
    edge = max(float(found[f"{source}_edge_mass"].max()) for source in SOURCES)
    texts.append(f"The largest mass of any model at the ends of the grid is {edge:.1g}.")
    return "\n\n".join(texts)


def _with_error(one: Mean, generation: int) -> str:
    return f"{one.value[generation]:.4f} \u00b1 {one.error[generation]:.4f}"


def table(found: xr.Dataset) -> report.Table:
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
    return report.Table(f"KL(truth || model) in nats, M = {size:,}", columns, lines)
