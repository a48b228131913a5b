"""Labelled datasets from the records of a run, and collapse times; no files.

Axis legend: chain, generation, and the dims named by a family's vector metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax.family import NEVER, Family, Metric
from collapse_jax.results.records import Part, of_run
from collapse_jax.results.totals import Totals


def every_chain(cohorts: Sequence[Sequence[Part]], family: Family, generations: int) -> xr.Dataset:
    """All values of all chains: one variable per metric with dims (chain, generation, ...)."""
    names = {**family.metrics, "finite": Metric("whether all parameters and metrics are finite")}
    data = {}
    for name, metric in names.items():
        values = np.ascontiguousarray(np.moveaxis(of_run(cohorts, name, generations), 0, 1))
        attributes: dict[str, Any] = {"long_name": metric.long_name, "units": metric.units}
        if metric.original is not None:
            attributes["original"] = metric.original
        data[name] = (("chain", "generation", *metric.dims), values, attributes)
    chains = data["finite"][1].shape[0]
    coords = {"chain": np.arange(chains), "generation": np.arange(generations), **family.coords}
    return xr.Dataset(data, coords)


def totals(cohorts: Sequence[Sequence[Part]], generations: int) -> dict[str, Totals]:
    """Totals over the chains of all cohorts: {metric: Totals with a leading generation axis}."""
    return {name: of_run(cohorts, name, generations) for name in cohorts[0][0][2]}


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
