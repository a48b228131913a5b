"""From the records of a run to labelled datasets, and collapse times; no files.

Axis legend: chain, generation, and the dims that a family's vector metrics name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.family import NEVER, Family, Metric
from collapse_jax.results import summary
from collapse_jax.results.totals import Totals

Part = tuple[int, int, Mapping[str, Any]]


def every_chain(cohorts: Sequence[Sequence[Part]], family: Family, generations: int) -> xr.Dataset:
    """All values: one variable a metric with dims (chain, generation, ...)."""
    names = {**family.metrics, "finite": Metric("whether all parameters and metrics are finite")}
    data = {}
    for name, metric in names.items():
        blocks = []
        for parts in cohorts:
            first = parts[0][2][name]
            block = np.empty((first.shape[1], generations, *first.shape[2:]), first.dtype)
            for start, stop, record in parts:
                block[:, start:stop] = np.moveaxis(record[name], 0, 1)
            blocks.append(block)
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        attributes: dict[str, Any] = {"long_name": metric.long_name, "units": metric.units}
        if metric.original is not None:
            attributes["original"] = metric.original
        data[name] = (("chain", "generation", *metric.dims), values, attributes)
    chains = data["finite"][1].shape[0]
    coords = {"chain": np.arange(chains), "generation": np.arange(generations), **family.coords}
    return xr.Dataset(data, coords)


def totals(cohorts: Sequence[Sequence[Part]], generations: int) -> dict[str, Totals]:
    """Totals over all cohorts, {metric: Totals with a leading generation axis}."""
    joined = []
    for parts in cohorts:
        names = parts[0][2]
        joined.append(
            {
                name: Totals(
                    *(
                        np.concatenate([getattr(record[name], field) for _, _, record in parts])
                        for field in Totals._fields
                    )
                )
                for name in names
            }
        )
    merged = {name: summary.merge([whole[name] for whole in joined]) for name in joined[0]}
    for name, total in merged.items():
        if len(total.count) != generations:
            raise ValueError(f"{name}: expected {generations} generations, got {len(total.count)}")
    return merged


def collapse_times(passages: Mapping[str, np.ndarray], family: Family) -> dict[str, Any]:
    """Dataset variables early_collapse, late_collapse and nonfinite, i32[chain]."""
    described = {
        **{name: threshold.long_name for name, threshold in family.thresholds.items()},
        "nonfinite": "a parameter or metric is not finite",
    }
    return {
        name if name == "nonfinite" else f"{name}_collapse": (
            ("chain",),
            passages[name],
            {
                "long_name": f"first generation at which {text}",
                "units": "generation",
                "comment": f"{NEVER}: not within this run (right-censored)",
            },
        )
        for name, text in described.items()
    }
