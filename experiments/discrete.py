r"""Discrete chains: a corpus's word frequencies refitted to their own draws, again and again.

Claim (Shumailov et al. 2024, theory): every resampling loses rare words, lost words never return,
and in the end one word is left. This is the haploid Wright-Fisher model, whose heterozygosity falls
as (1 - 1/M)^n. At the defaults (the standard library's help text, M = 10,000, 100 chains,
100 generations) a laptop needs about 10 s. WikiText-2 as in the paper's data:

  python -m experiments.discrete --flagfile=experiments/presets/discrete_wikitext.flags \
      --data_dir=... --workdir=runs/d
"""

from typing import Any

import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.config import RegimeConfig, RunConfig, numbers
from collapse_jax.families import discrete

from . import launch
from .flags import call_with_flags


def original(
    dataset: str | None = None,
    vocabulary: int | None = None,
    probabilities: str | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Arguments of `discrete` for the original: the word counts of a corpus, or probabilities.

    Args:
      dataset: corpus whose words are counted: pydoc-topics (offline; the default), wikitext-2, or a
        text file.
      vocabulary: number of most frequent words to keep, the rest being pooled; default all.
      probabilities: probabilities or counts, comma-separated, in place of a corpus.
      data_dir: directory of the data sets; default $COLLAPSE_JAX_DATA, else a user cache directory.

    Raises:
      ValueError: for an invalid corpus or probabilities, or settings of both.
      FileNotFoundError: if the corpus is not found.
    """
    from collapse_jax.data.word_counts import load_corpus

    if probabilities is None:
        corpus = load_corpus(dataset or "pydoc-topics", data_dir, vocabulary)
        return {"probabilities": corpus.counts, "title": corpus.title, "sha256": corpus.sha256}
    of_corpus = {"dataset": dataset, "vocabulary": vocabulary, "data_dir": data_dir}
    for name, value in of_corpus.items():
        if value is not None:
            raise SettingError(
                f"{name}: only for a corpus, got probabilities={probabilities!r} too"
            )
    return {"probabilities": np.array(numbers("probabilities", probabilities, float))}


SETTINGS = (original, discrete, RegimeConfig, RunConfig)
GIVEN = ("title", "sha256")
DEFAULTS: dict[str, Any] = {"samples": "10000", "chains": 100}


def main() -> None:
    """Runs the experiment that the flags describe."""
    regime, config = launch.regime(call_with_flags(RegimeConfig)), call_with_flags(RunConfig)
    launch.run(call_with_flags(discrete, **call_with_flags(original)), regime, config)


if __name__ == "__main__":
    launch.define(*SETTINGS, given=GIVEN, **DEFAULTS)
    launch.start(main)
