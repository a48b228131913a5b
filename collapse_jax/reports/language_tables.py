"""Comparison of runs of the language family: tables, text, a CSV file."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import stdtrit

from collapse_jax.lm.finetune import Perplexity
from collapse_jax.lm.tokenizer import Tokenizer
from collapse_jax.reports import page
from collapse_jax.runner import Result

PERPLEXITY = "test_perplexity"  # the mean over blocks
OF_CORPUS = "test_perplexity_of_corpus"


class Difference(NamedTuple):
    """Difference of two runs' means by generation, paired by chain (same random numbers)."""

    mean: np.ndarray  # f64[generation]
    half: np.ndarray  # f64[generation], half of the 95 % interval (Student's t); NaN for one chain
    pairs: np.ndarray  # i64[generation], chains finite in both


def difference(one: xr.Dataset, other: xr.Dataset, name: str) -> Difference:
    """A metric of one run minus that of another, paired by chain.

    Args:
      one, other: histories of all chains.
      name: name of a scalar metric.
    """
    both = one["finite"].values & other["finite"].values
    values = np.where(both, one[name].values.astype(np.float64) - other[name].values, np.nan)
    pairs = both.sum(axis=0)
    mean, half = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    for i, count in enumerate(pairs):
        column = values[both[:, i], i]
        if count:
            mean[i] = column.mean()
        if count > 1:
            half[i] = stdtrit(count - 1, 0.975) * column.std(ddof=1) / np.sqrt(count)
    return Difference(mean, half, pairs)


def perplexities(runs: Mapping[str, Result], name: str = PERPLEXITY) -> page.Table:
    """Perplexity by generation: mean and sd of each run, and the first run minus each other."""
    first, *others = runs
    columns = ["generation"]
    for label in runs:
        columns += [label, "sd", "chains"]
    kept = all(name in result.history for result in runs.values())
    apart = {
        label: difference(runs[first].history, runs[label].history, name) for label in others
    } if kept else {}  # fmt: skip
    for label in apart:
        columns += [f"{first} \u2212 {label}", "\u00b1 95 %"]
    lines = []
    for generation in range(next(iter(runs.values())).summary.sizes["generation"]):
        line: list[object] = [generation]
        for result in runs.values():
            at = result.summary.isel(generation=generation)
            line += [float(at[f"{name}_mean"]), float(at[f"{name}_sd"])]
            line.append(int(at[f"{name}_count"]))
        for found in apart.values():
            line += [float(found.mean[generation]), float(found.half[generation])]
        lines.append(line)
    kind = "mean of blocks" if name == PERPLEXITY else "exp of the mean loss"
    return page.Table(
        f"Perplexity on real test text ({kind}): mean and standard deviation over chains, and"
        " differences paired by chain with their 95 % interval",
        columns,
        lines,
    )


def continuations(
    runs: Mapping[str, Result], tokenizer: Tokenizer, generations: Sequence[int], prompt: str
) -> page.Table | None:
    """Continuations of the prompt by chain 0 of each run; None if a run has kept none."""
    lines = []
    for label, result in runs.items():
        if "continuation" not in result.history:
            return None
        written = result.history["continuation"].isel(chain=0).values.astype(int)
        for generation in sorted({g for g in generations if g < len(written)} | {len(written) - 1}):
            text = tokenizer.decode(written[generation])
            lines.append((label, generation, text if text.strip() else "(white space)"))
    caption = f"Continuations by chain 0 of: \u2026{prompt[-300:]}"
    return page.Table(caption, ("condition", "generation", "continuation"), lines)


def summary_text(
    runs: Mapping[str, Result], zero_shot: Perplexity, sources: Mapping[str, str]
) -> str:
    """Sources of the text, the pretrained model's perplexity, each run's first and last results.

    Args:
      runs: {condition: run}.
      zero_shot: perplexities of the pretrained model.
      sources: {split: its source}.
    """
    read = "; ".join(f"{split}: {source}" for split, source in sources.items())
    first = next(iter(runs.values()))
    chains, generations = first.config.chains, first.config.generations
    text = (
        f"Text: {read}. {chains} chain{'s'[: chains > 1]}, {generations}"
        f" generation{'s'[: generations > 1]},"
        f" seed {first.config.seed}. Words are tokens of the model's vocabulary. A generation's"
        " training text is the text of the previous generation's model, with the original blocks"
        " that the regime keeps.\n\nPerplexity on real test text before any fine-tuning:"
        f" {zero_shot.mean_of_blocks:.4g} (mean of blocks), {zero_shot.of_corpus:.4g} (exp of the"
        " mean loss)."
    )
    for label, result in runs.items():
        ends = [float(result.summary[f"{PERPLEXITY}_mean"][g]) for g in (0, -1)]
        tail = [float(result.summary["tail_mass_mean"][g]) for g in (0, -1)]
        if lost := int((result.summary["nonfinite"] >= 0).sum()):
            text += f" {label}: {lost} of {chains} chains diverged."
        text += (
            f" {label}: {ends[0]:.4g} at generation 0, {ends[1]:.4g} at {generations - 1}; tokens"
            f" that were rare originally are {tail[0]:.2%} of the first training text and"
            f" {tail[1]:.2%} of the last."
        )
    return text


def as_csv(runs: Mapping[str, Result]) -> str:
    """Both perplexities of every run, generation and chain, or their means if no chain is kept."""
    names = [PERPLEXITY, OF_CORPUS]
    frames = []
    for label, result in runs.items():
        if PERPLEXITY in result.history:
            values = result.history[names].astype(np.float64)
            frame = values.to_dataframe(dim_order=["generation", "chain"]).reset_index()
        else:
            values = result.summary[[f"{name}_mean" for name in names]].astype(np.float64)
            frame = values.to_dataframe().reset_index().assign(chain="mean")
            frame = frame.rename(columns={f"{name}_mean": name for name in names})
        frames.append(frame.assign(arm=label))
    columns = ["arm", "generation", "chain", *names]
    return pd.concat(frames).to_csv(columns=columns, index=False, na_rep="nan", lineterminator="\n")
