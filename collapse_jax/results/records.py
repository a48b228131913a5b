"""Records of compiled programs, joined over chains and over generations.

A record is {metric: values [t, n, ...]}, or {metric: Totals [t, ...]} if only summaries are kept.
Axis legend: t generations, n chains.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from collapse_jax.results.totals import Totals, merge

Record = Mapping[str, Any]
Part = tuple[int, int, Record]  # of generations [start, stop)


def over_chains(records: Sequence[Record]) -> Record:
    """Joins records of batches or cohorts over the same generations to one of all their chains."""

    def join(name: str) -> Any:
        values = [record[name] for record in records]
        if isinstance(values[0], Totals):
            return merge(values)
        return values[0] if len(values) == 1 else np.concatenate(values, axis=1)

    return {name: join(name) for name in records[0]}


def over_generations(records: Sequence[Record]) -> Record:
    """Joins records of the same chains over consecutive generations."""

    def join(name: str) -> Any:
        values = [record[name] for record in records]
        if isinstance(values[0], Totals):
            return Totals(*map(np.concatenate, zip(*values, strict=True)))
        return values[0] if len(values) == 1 else np.concatenate(values)

    return {name: join(name) for name in records[0]}


def of_run(cohorts: Sequence[Sequence[Part]], name: str, generations: int) -> Any:
    """One metric over all chains and generations of a run.

    Args:
      cohorts: the parts of each cohort, in any order.
      name: of the metric.
      generations: length of the run.

    Raises:
      ValueError: if the parts do not cover that many generations.
    """

    def of_cohort(parts: Sequence[Part]) -> Record:
        ordered = sorted(parts, key=lambda part: part[0])
        return over_generations([{name: record[name]} for *_, record in ordered])

    whole = over_chains([of_cohort(parts) for parts in cohorts])[name]
    found = len(whole.count) if isinstance(whole, Totals) else len(whole)
    if found != generations:
        raise ValueError(f"{name}: expected {generations} generations, got {found}")
    return whole


def flatten(record: Record) -> dict[str, np.ndarray]:
    """Turns {metric: array or Totals} into {"metric" or "metric/field": array}, for files."""
    flat: dict[str, np.ndarray] = {}
    for name, value in record.items():
        if isinstance(value, Totals):
            flat |= {f"{name}/{field}": np.asarray(x) for field, x in value._asdict().items()}
        else:
            flat[name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> Record:
    """The inverse of `flatten`."""
    record: dict[str, Any] = {}
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for key, array in flat.items():
        name, _, field = key.partition("/")
        if field:
            grouped.setdefault(name, {})[field] = array
        else:
            record[name] = array
    return record | {name: Totals(**fields) for name, fields in grouped.items()}
