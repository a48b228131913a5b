"""Language models fine-tuned on text that they wrote themselves (Shumailov et al. 2024).

Axis legend: M blocks of a training set, T tokens of a block, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import sequential
from collapse_jax.data.text_splits import load_text
from collapse_jax.families.language import measures, writing
from collapse_jax.families.language.base import Base, load
from collapse_jax.families.language.blocks import BlockCounts, Blocks, check_length, cut_blocks
from collapse_jax.families.language.writing import Decoding
from collapse_jax.family import (
    Curves,
    Family,
    OwnFigures,
    Request,
    RunData,
    Steps,
    Threshold,
    all_finite,
)
from collapse_jax.lm import finetune, opt, prompts
from collapse_jax.lm.finetune import FineTuning
from collapse_jax.lm.opt import Params
from collapse_jax.metrics import text_statistics
from collapse_jax.regimes import Sizes

Start = Literal["fresh", "warm"]
Dtype = Literal["float32", "bfloat16"]


def language(
    base: str,
    dataset: str = "pydoc-topics",
    length: int = 64,
    counts: BlockCounts = BlockCounts(),
    skip: float = 0.0,
    training: FineTuning = FineTuning(),
    start: Start = "fresh",
    decoding: Decoding = Decoding(),
    prompt: str | None = None,
    kept_blocks: int | None = None,
    tail: float = 0.1,
    dtype: Dtype = "float32",
    revision: str | None = None,
    data_revision: str | None = None,
    data_dir: str | None = None,
) -> Family:
    """Chains of OPT models: every generation is fine-tuned on what the one before wrote.

    The protocol is the paper's: every generation starts from the pretrained model, keeps the epoch
    that is best on real validation text, and continues every block of the original training text by
    as many tokens again, which alone are the next training text. Learning rate and batch are those
    of the paper's archived code.

    Args:
      base: the pretrained model, a directory or an id on the hub; with vocab.json and merges.txt.
      dataset: text: "pydoc-topics" (offline), "wikitext-2", "wikitext-2-raw", a directory (of
        train, validation and test, .txt or .parquet) or a text file.
      length: tokens of a block, T.
      counts: how many blocks of each split are used.
      skip: share of the training text, at its start, that is left out (what `base` was trained on).
      training: how each generation is fine-tuned.
      start: a generation starts from the pretrained model ("fresh"), or the one before ("warm").
      decoding: how each generation writes.
      prompt: text that every generation's model continues, part of the run's identity; none: the
        first training block; empty: nothing.
      kept_blocks: of the blocks new in each generation, how many the history keeps; none: all.
      tail: share of the first training text's tokens that its rarest types make up.
      dtype: what the network computes in: "float32" or "bfloat16".
      revision: revision of the model on the hub.
      data_revision: revision of the data set on the hub.
      data_dir: where data sets are; none: $COLLAPSE_JAX_DATA, else a user cache directory.

    Returns:
      A family with the metrics of `collapse_jax.families.language.measures.metrics`. Original
      data are blocks of the training text, without replacement.

    Raises:
      ValueError: for an argument outside its range, a text that is too short, or a model that does
        not fit its tokenizer or the blocks.
      FileNotFoundError: if there is no such model or text.
    """
    start, dtype, training, decoding = check_settings(start, dtype, training, decoding)
    length = check_length(length)
    skip = arguments.share("skip", skip, below=1)
    tail = arguments.share("tail", tail, above=0, below=1)
    if kept_blocks is not None:
        kept_blocks = arguments.integer("kept_blocks", kept_blocks, at_least=0)
    pretrained = load(base, revision)
    config = pretrained.config
    _check_lengths(config.positions, config.vocabulary, length)
    text = load_text(dataset, data_dir, data_revision)
    cut = cut_blocks(pretrained.words, text, length, skip, counts)
    network = opt.model(config, jnp.dtype(dtype))
    given = _prompt(prompt, pretrained, cut, length)
    kept = len(cut.train) if kept_blocks is None else min(kept_blocks, len(cut.train))
    measured = measures.TextMeasures(
        network, cut.test, min(training.batch, len(cut.test)), tail, kept, len(cut.train), given,
        writing.continuation(network, decoding, length),
    )  # fmt: skip
    restart = _restart(pretrained.params) if start == "fresh" else None
    first_counts = np.bincount(cut.train.ravel(), minlength=config.vocabulary)
    evenness = 1.0 - float(np.sum((first_counts / first_counts.sum()) ** 2))
    return Family(
        name="language",
        config={
            "base": {"sha256": pretrained.sha256},
            "dataset": {"sha256": text.sha256},
            "title": text.title,
            "length": length,
            "blocks": len(cut.train),
            "skip": skip,
            "training": training._asdict(),
            "start": start,
            "decoder": decoding.config,
            "validation_blocks": len(cut.validation),
            "test_blocks": len(cut.test),
            "prompt_ids": [] if given is None else given.tolist(),
            "kept_blocks": kept,
            "tail": tail,
            "dtype": dtype,
        },
        pools=pools.rows(4 * length),
        metrics=measures.metrics(kept, given is not None, config.vocabulary),
        thresholds={
            "early": Threshold(
                "tail_mass", 0.5 * tail, "share of rare training tokens below half of what it was"
            ),
            "late": Threshold(
                "heterozygosity", 0.01 * evenness,
                "probability that two tokens differ below 1 % of the original's",
            ),
        },
        original=_drawn_from(cut.train),
        init=lambda key: jax.tree.map(jnp.asarray, pretrained.params),
        fit=_one_by_one(finetune.steps(network, training, length, cut.validation, restart)),
        sample=_one_by_one(writing.steps(network, decoding, cut.train)),
        measure=_one_by_one(measured.steps()),
        anchor=measured.anchor,
        coords=measures.coords(length),
        check=_enough(len(cut.train), training.batch),
        description=text.title,
        figures=_figures,
    )  # fmt: skip


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    from collapse_jax.families.language import figures

    del curves
    drawn = {
        "perplexity_density": figures.histograms(run.summary, generations),
        "survival": figures.survival(run.summary),
    }
    return OwnFigures(drawn, replaces=tuple(drawn))


def check_settings(
    start: str, dtype: str, training: FineTuning, decoding: Decoding
) -> tuple[Start, Dtype, FineTuning, Decoding]:
    """The same as plain Python values; SettingError for what is wrong for any model and text."""
    return (
        arguments.choice("start", start, get_args(Start)),
        arguments.choice("dtype", dtype, get_args(Dtype)),
        training.check(),
        decoding.check(),
    )


def _one_by_one(steps: Steps) -> Steps:
    """One chain after the other: each has matrices of its own, enough to fill a device."""
    return steps._replace(advance=sequential(steps.advance, always=True))


def _restart(base: Params) -> Callable[[Params], Params]:
    """The pretrained parameters in the place of any, but for those of a chain that diverged.

    Tokens know no NaN: without this it would go on from whatever it wrote.
    """

    def restart(params: Params) -> Params:
        alive = all_finite(params)
        fresh: Params = jax.tree.map(lambda leaf: jnp.where(alive, leaf, jnp.nan), base)
        return fresh

    return restart


def _drawn_from(train: np.ndarray) -> Callable[[jax.Array, Request], pools.Rows]:
    """Original blocks: all there are, in order, or some without replacement."""
    subsample = pools.rows(train.nbytes // len(train)).subsample
    assert subsample is not None

    def original(key: jax.Array, request: Request) -> pools.Rows:
        pool = pools.Rows(jnp.asarray(train), len(train))
        if isinstance(request.count, int) and request.count == len(train):
            return pool
        return subsample(key, pool, *request)

    return original


def _enough(blocks: int, batch: int) -> Callable[[Sizes], None]:
    def check(sizes: Sizes) -> None:
        finetune.check_batch(int(sizes.training.count), batch)
        original = sum(request.count for request in (sizes.fresh, sizes.reused) if request)
        for wanted in (original, sizes.synthetic.count):
            if wanted > blocks:
                raise SettingError(
                    f"samples: expected at most the {blocks:,} blocks of the training text, got"
                    f" {wanted:,}"
                )

    return check


def _prompt(prompt: str | None, pretrained: Base, cut: Blocks, length: int) -> np.ndarray | None:
    if prompt is None:
        return cut.train[0]
    if not prompt:
        return None
    ids = np.array(pretrained.words.encode(prompt), np.int32)
    prompts.check_ids("prompt", pretrained.config, ids)
    room = pretrained.config.positions - length
    if len(ids) > room:
        raise SettingError(f"prompt: expected at most {room} tokens, got {len(ids)}")
    return ids


def _check_lengths(positions: int, vocabulary: int, length: int) -> None:
    if 2 * length > positions:
        raise SettingError(
            f"length: expected at most {positions // 2} tokens a block, as the model has"
            f" {positions} positions and writes as many as it reads, got {length}"
        )
    if vocabulary > text_statistics.LARGEST_VOCABULARY:
        raise SettingError(
            f"base: expected a vocabulary of at most {text_statistics.LARGEST_VOCABULARY:,}, got"
            f" {vocabulary:,}"
        )
