r"""Discrete chains: a corpus's word frequencies refitted to their own draws, again and again.

Claim (Shumailov et al. 2024, theory): every resampling loses rare words, and what is lost never
comes back; in the end one word is left. It is the haploid Wright-Fisher model, whose heterozygosity
falls as (1 - 1/M)^n. At the defaults (the standard library's help text, M = 10,000, 100 chains,
100 generations) a laptop needs about 10 s. WikiText-2 as in the paper's data:

  python -m experiments.discrete --flagfile=experiments/presets/discrete_wikitext.flags \
      --data_dir=... --workdir=runs/d
"""

from typing import TYPE_CHECKING

from collapse_jax.config import RegimeConfig, RunConfig, from_flags

from . import launch
from .family_flags import DiscreteConfig

if TYPE_CHECKING:
    from collapse_jax.family import Family


def make_family(config: DiscreteConfig) -> "Family":
    """The family of a corpus, or of given probabilities."""
    import numpy as np

    from collapse_jax.data.word_counts import load_corpus
    from collapse_jax.families import discrete

    if config.probabilities is not None:
        return discrete(np.array(config.given), tail=config.tail)
    corpus = load_corpus(config.dataset or "pydoc-topics", config.data_dir, config.vocabulary)
    return discrete(corpus.counts, tail=config.tail, title=corpus.title, sha256=corpus.sha256)


def main() -> None:
    """Runs the experiment that the flags describe."""
    family = make_family(from_flags(DiscreteConfig))
    launch.run(family, launch.regime(from_flags(RegimeConfig)), from_flags(RunConfig))


if __name__ == "__main__":
    launch.define(DiscreteConfig, RegimeConfig, RunConfig, samples="10000", chains=100)
    launch.start(main)
