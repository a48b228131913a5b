"""Language models fine-tuned on text that they wrote themselves (Shumailov et al. 2024).

Axis legend: M blocks of a training set, T tokens of a block, V vocabulary.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import in_turn
from collapse_jax.data.text_splits import load_text
from collapse_jax.families.language import base as bases
from collapse_jax.families.language import blocks as texts
from collapse_jax.families.language import measures, writing
from collapse_jax.families.language.blocks import Blocks
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
from collapse_jax.lm import finetune, prompts
from collapse_jax.lm import opt as models
from collapse_jax.lm.opt import Params
from collapse_jax.metrics import text as statistics
from collapse_jax.regimes import Sizes

STARTS = ("fresh", "warm")
DTYPES = ("float32", "bfloat16")


def language(
    base: str,
    dataset: str = "pydoc-topics",
    length: int = 64,
    blocks: int | None = None,
    skip: float = 0.0,
    epochs: int = 5,
    batch: int = 128,
    accumulate: int = 1,
    learning_rate: float = 2e-5,
    schedule: str = "constant",
    warmup: float = 0.0,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    chunk: int = 0,
    recompute: bool = False,
    start: str = "fresh",
    decoder: str = "beam",
    beams: int = 5,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    decode_batch: int = 16,
    validation_blocks: int | None = None,
    test_blocks: int | None = None,
    prompt: str | None = None,
    kept_blocks: int | None = None,
    tail: float = 0.1,
    dtype: str = "float32",
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
      dataset: see `collapse_jax.data.text_splits.load_text`.
      length: tokens of a block, T.
      blocks: of the training text, from its start; None for all.
      skip: share of the training text, at its start, that is left out (what `base` was trained on).
      epochs, batch, accumulate, learning_rate, schedule, warmup, weight_decay, clip, chunk,
        recompute: see `collapse_jax.lm.finetune.Settings`.
      start: every generation from the pretrained model ("fresh"), or from the one before ("warm").
      decoder, beams, temperature, top_k, top_p, repetition_penalty: see
        `collapse_jax.families.language.writing.Decoder`.
      decode_batch: prompts that are continued at a time.
      validation_blocks: blocks of the validation text, from its start, that every epoch is judged
        on; None for all.
      test_blocks: blocks of the test text, from its start; None for all.
      prompt: text that every generation's model continues; None for the first training block, ""
        for nothing.
      kept_blocks: of the text that each generation adds to its training, how many are kept in the
        history; None for all.
      tail: share of the first training text's tokens that its rarest types make up.
      dtype: what the network computes in.
      revision, data_revision: of a model and of a data set on the hub.
      data_dir: where data sets are.

    Returns:
      A family with the metrics of `collapse_jax.families.language.measures.metrics`. Original
      data are blocks of the training text, without replacement.

    Raises:
      ValueError: for an argument outside its range, a text that is too short, or a model that does
        not fit its tokenizer or the blocks.
      FileNotFoundError: if there is no such model or text.
    """
    start = arguments.choice("start", start, STARTS)
    dtype = arguments.choice("dtype", dtype, DTYPES)
    settings = finetune.Settings(
        epochs, batch, accumulate, learning_rate, schedule, warmup, weight_decay, clip=clip,
        chunk=chunk, recompute=recompute,
    ).check()  # fmt: skip
    chosen = writing.Decoder(
        decoder, beams, temperature, top_k, top_p, repetition_penalty, decode_batch
    ).check()
    length = texts.check_length(length)
    skip = arguments.share("skip", skip, below=1)
    tail = arguments.share("tail", tail, above=0, below=1)
    if kept_blocks is not None:
        kept_blocks = arguments.integer("kept_blocks", kept_blocks, at_least=0)
    pretrained = bases.load(base, revision)
    config = pretrained.config
    _check_lengths(config.positions, config.vocabulary, length)
    text = load_text(dataset, data_dir, data_revision)
    counts = texts.Counts(blocks, validation_blocks, test_blocks)
    cut = texts.cut(pretrained.words, text, length, skip, counts)
    network = models.model(config, jnp.dtype(dtype))
    given = _prompt(prompt, pretrained, cut, length)
    kept = len(cut.train) if kept_blocks is None else min(kept_blocks, len(cut.train))
    measured = measures.Measures(
        network, cut.test, min(batch, len(cut.test)), tail, kept, len(cut.train), given,
        writing.continuation(network, chosen, length),
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
            "training": settings._asdict(),
            "start": start,
            "decoder": chosen._asdict(),
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
        fit=_one_by_one(finetune.steps(network, settings, length, cut.validation, restart)),
        sample=_one_by_one(writing.steps(network, chosen, cut.train)),
        measure=_one_by_one(measured.steps()),
        anchor=measured.anchor,
        coords=measures.coords(length),
        check=_enough(len(cut.train), batch),
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


def _one_by_one(steps: Steps) -> Steps:
    """One chain after the other: each has matrices of its own, enough to fill a device."""
    return steps._replace(advance=in_turn(steps.advance, always=True))


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


def _prompt(
    prompt: str | None, pretrained: bases.Base, cut: Blocks, length: int
) -> np.ndarray | None:
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
    if vocabulary > statistics.LARGEST_VOCABULARY:
        raise SettingError(
            f"base: expected a vocabulary of at most {statistics.LARGEST_VOCABULARY:,}, got"
            f" {vocabulary:,}"
        )
