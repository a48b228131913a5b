"""A small OPT trained from nothing on a part of a text, where there is no published model at hand.

The training is a run of a family of its own, with one generation, so that it is saved and resumed
as any other.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import pools, regimes, runner
from collapse_jax.data import files
from collapse_jax.data.texts import Text
from collapse_jax.family import Family, Metric
from collapse_jax.language import blocks as texts
from collapse_jax.opt import finetune, tokenizer, weights
from collapse_jax.opt import model as models
from collapse_jax.opt.config import Config
from collapse_jax.opt.tokenizer import Tokenizer


class Small(NamedTuple):
    """A small model and its training.

    Attributes:
      vocabulary: ids of its byte-level BPE at most, OPT's special tokens among them.
      hidden, layers, heads: of the network; its inner width is four times `hidden`.
      dropout: in pretraining and fine-tuning.
      share: of the training rows, from the start, that it is trained on.
      epochs, batch, learning_rate: of AdamW with a cosine schedule, a tenth of it warm-up.
    """

    vocabulary: int = 1024
    hidden: int = 96
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0
    share: float = 0.5
    epochs: int = 10
    batch: int = 32
    learning_rate: float = 2e-3


def pretrain(workdir: Path, text: Text, small: Small, length: int, seed: int) -> finetune.Settings:
    """Trains a model into `workdir`/base, or finishes what was begun there; gives back how.

    Args:
      workdir: also holds the checkpoints, in pretraining/.
      text: of which the first `small.share` of the training rows is read.
      small: what is trained.
      length: tokens of a block, T; the model has positions for twice as many.
      seed: of weights and the order of blocks.

    Raises:
      ValueError: for settings outside their range, or a directory that holds another model.
      Stopped: after SIGTERM or Ctrl-C; the same call goes on.
    """
    settings = finetune.Settings(
        small.epochs, small.batch, 1, small.learning_rate, "cosine", 0.1, clip=1.0
    )
    settings.check()
    if not 0 < small.share < 1:
        raise ValueError(f"pretraining_share: expected a share in (0, 1), got {small.share}")
    base = workdir / "base"
    rows = texts.part(text.train, 0.0, small.share)
    if not (base / tokenizer.MERGES).is_file():
        tokenizer.train(rows, small.vocabulary).save(base)
    words = tokenizer.load(base)
    config = Config(
        vocabulary=words.vocabulary, hidden=small.hidden, layers=small.layers, heads=small.heads,
        inner=4 * small.hidden, positions=2 * length, embedding=small.hidden, dropout=small.dropout,
        begin=words.begin, end=words.begin, pad=words.pad,
    )  # fmt: skip
    train = texts.of_rows(words, rows, length, "train")
    validation = texts.of_rows(words, text.validation, length, "validation")
    if len(train) < small.batch:
        raise ValueError(
            f"pretraining_batch: expected at most the {len(train)} blocks of the text's part, got"
            f" {small.batch}"
        )
    family = _family(small, config, settings, words, text, train, validation)
    result = runner.run(
        family, regimes.replace(len(train)), chains=1, generations=1, seed=seed, keep="chains",
        workdir=str(workdir / "pretraining"), checkpoint_seconds=120.0, progress=True,
    )  # fmt: skip
    if not (base / "config.json").is_file():
        weights.save(base, config, jax.tree.map(lambda leaf: leaf[0], result.params[0]))
    return settings


def _family(
    small: Small,
    config: Config,
    settings: finetune.Settings,
    words: Tokenizer,
    text: Text,
    train: np.ndarray,
    validation: np.ndarray,
) -> Family:
    """One fit of new weights to the whole text; nothing is sampled or measured."""
    network = models.model(config)

    def unused(*inputs: object) -> None:
        raise AssertionError("one generation samples nothing")

    vocabulary = sorted(words.library.get_vocab().items())
    return Family(
        name="pretraining",
        config={
            "dataset": {"name": text.name, "sha256": text.sha256, **text.sources},
            "title": text.title,
            "vocabulary_sha256": files.sha256(repr(vocabulary).encode()),
            "positions": config.positions,
            **small._asdict(),
        },
        pools=pools.rows(train.nbytes // len(train)),
        metrics={
            "train_loss": Metric("mean training loss of the last epoch", "nats/token"),
            "validation_loss": Metric("loss on validation text, of the epoch kept", "nats/token"),
            "best_epoch": Metric("epoch whose parameters are kept, from 0"),
        },
        thresholds={},
        original=lambda key, request: pools.Rows(jnp.asarray(train), len(train)),
        init=lambda key: models.init(config, key),
        fit=finetune.steps(network, settings, train.shape[1], validation),
        sample=unused,
        measure=lambda *inputs: {},
    )
