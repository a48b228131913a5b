"""A run's section of the report: its settings, collapse times, and comparison with closed forms."""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from collapse_jax.family import Curves
from collapse_jax.reports.page import Section, Table
from collapse_jax.results import survival
from collapse_jax.results.table import (
    Row,
    description,
    number_of_chains,
    rows,
    sample_size,
    settings,
)

if TYPE_CHECKING:
    from collapse_jax.runner import Result

_PathLike = str | os.PathLike[str]


def run_section(
    result: "Result", figure_paths: Mapping[str, _PathLike], expected: Curves
) -> Section:
    """Settings of a run in plain words, its collapse times, and how it compares with closed forms.

    Args:
      result: from `collapse_jax.run`.
      figure_paths: {name: PNG file}, from `figures.save`.
      expected: closed forms that hold for this run.
    """
    tables = [_collapse_table(result)]
    compared = _theory_table(result, expected)
    if compared.rows:
        tables.append(compared)
    figures = {name.replace("_", " "): path for name, path in figure_paths.items()}
    heading = f"{result.family.name} under {result.regime.name}"
    return Section(heading, _text(result, expected), figures, tables)


def _text(result: "Result", expected: Curves) -> str:
    summary, config = result.summary, result.config
    chains, size = number_of_chains(summary), sample_size(summary)
    family, regime = (_settings(settings(summary, part)) for part in ("family", "regime"))
    text = (
        f"{_count(chains, 'chain')} of the family {result.family.name}"
        f"{_bracketed(description(summary))} ran for {_count(config.generations, 'generation')}"
        f" under the regime {result.regime.name}{_bracketed(regime)}"
        f"{f' with M = {size} samples a generation' if size else ''}."
        f" Seed {config.seed}; fingerprint {str(summary.attrs.get('fingerprint', ''))[:12]};"
        f" {result.seconds:.1f} seconds."
        f"{f' Settings of the family: {family}.' if family else ''}"
    )
    lost = int(np.sum(summary["nonfinite"].values >= 0))
    if lost:
        text += (
            f" {_count(lost, 'chain')} of {chains:,} ({lost / chains:.2%}) turned non-finite;"
            " means and quantiles leave these out from then on."
        )
    worst = largest_z(result, expected)
    if worst is not None:
        text += (
            f"\n\nThe largest |z| against a closed form is {abs(worst.z):.2f}: {worst.metric},"
            f" {worst.statistic}, generation {worst.generation} (n = {worst.n:,}). Neighbouring"
            " generations are correlated."
        )
    return text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""


def _settings(config: Mapping[str, Any]) -> str:
    """A configuration in one line; settings that are long, off or shown elsewhere are left out."""
    shown = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in config.items()
        if name not in ("name", "samples")
        and value is not None
        and value is not False  # 0 is a setting, though it equals False
        and len(str(value)) <= 48
    ]
    return ", ".join(shown)


def _collapse_table(result: "Result") -> Table:
    summary = result.summary
    lost = summary["nonfinite"].values
    kinds = [str(name) for name in summary.data_vars if str(name).endswith("_collapse")]
    lines = []
    for name in [*kinds, *(["nonfinite"] if np.any(lost >= 0) else [])]:
        censoring = None if name == "nonfinite" else lost
        generations = summary.sizes["generation"]
        curve = survival.kaplan_meier(summary[name].values, generations, censoring)
        earliest, latest = (_first_below_half(x) for x in (curve.lower, curve.upper))
        lines.append(
            (
                "non-finite" if name == "nonfinite" else name.replace("_", " "),
                str(summary[name].attrs.get("long_name", "")),
                curve.events,
                f"{curve.events / curve.chains:.2%}",
                _first_below_half(curve.survival),
                f"{earliest} to {latest}" if isinstance(earliest, int) else earliest,
                curve.chains,
            )
        )
    return Table(
        "Collapse: Kaplan\u2013Meier median over chains; a chain without the event within the run,"
        " or non-finite before it, is right-censored.",
        ("event", "definition", "chains", "share", "median generation", "95 % interval", "n"),
        lines,
    )


def _first_below_half(survival: np.ndarray) -> int | str:
    reached = np.flatnonzero(survival <= 0.5)
    return int(reached[0]) if len(reached) else "not reached"


def _theory_table(result: "Result", expected: Curves) -> Table:
    """Measured against theory at about half a dozen generations."""
    length = result.summary.sizes["generation"]
    chosen = set(np.unique(np.geomspace(1, length, 6).round().astype(int) - 1).tolist())
    compared = [row for row in _compared(result, expected)]
    lines = [
        (f"{row.metric} {row.dims}".strip(), row.statistic, row.generation, row.value, row.se)
        + (row.theory, row.z, row.n)
        for row in compared
        if row.generation in chosen
    ]
    return Table(
        "Measured against closed forms, z = (measured \u2212 theory) / SE; n finite chains. The SE"
        " of a variance assumes a normal metric, value \u00d7 \u221a(2/(n \u2212 1)); the variance"
        " of the metric mean is about the original's mean.",
        ("metric", "statistic", "generation", "measured", "SE", "theory", "z", "n"),
        lines,
    )


def _compared(result: "Result", expected: Curves) -> list[Row]:
    return [row for row in rows(result.summary, expected) if not math.isnan(row.theory)]


def largest_z(result: "Result", expected: Curves) -> Row | None:
    """The comparison with the largest |z| over all metrics and generations; None without any."""
    scored = [row for row in _compared(result, expected) if not math.isnan(row.z)]
    return max(scored, key=lambda row: abs(row.z), default=None)
