"""Training of a small OPT from scratch on a part of a text, in place of a published model.

The training is a run of a special family with one generation, so it is saved and resumed like any
other run.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools, regimes
from collapse_jax.arguments import SettingError
from collapse_jax.data import files
from collapse_jax.data.text_splits import Text
from collapse_jax.families.language import blocks
from collapse_jax.family import Family, Metric
from collapse_jax.lm import finetune, opt, tokenizer, weights
from collapse_jax.lm.config import Config
from collapse_jax.lm.finetune import FineTuning
from collapse_jax.lm.tokenizer import Tokenizer


class SmallModel(NamedTuple):
    """The small model that is trained if there is no --base, and its training.

    Attributes:
      vocabulary: without --base: largest size of its byte-level BPE vocabulary, OPT's special
        tokens included.
      hidden: without --base: width of the network; its inner width is four times that.
      layers: without --base: number of layers.
      heads: without --base: attention heads per layer.
      dropout: without --base: dropout rate in pretraining and fine-tuning.
      pretraining_share: without --base: share of the training rows, from the start, for
        pretraining; chains use the rest.
      pretraining_epochs: without --base: epochs of pretraining.
      pretraining_batch: without --base: blocks per step of pretraining.
      pretraining_rate: without --base: peak learning rate of pretraining (AdamW, cosine schedule,
        a tenth of it warm-up).
    """

    vocabulary: int = 1024
    hidden: int = 96
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0
    pretraining_share: float = 0.5
    pretraining_epochs: int = 10
    pretraining_batch: int = 32
    pretraining_rate: float = 2e-3

    @property
    def config(self) -> dict[str, Any]:
        """Settings that go into the fingerprint."""
        fields = self._asdict()
        names = {"pretraining_share": "share", "pretraining_epochs": "epochs",
                 "pretraining_batch": "batch", "pretraining_rate": "learning_rate"}  # fmt: skip
        return {names.get(name, name): value for name, value in fields.items()}


def check(small: SmallModel) -> None:
    """Raises SettingError, with the flag's name, for a setting outside its range."""
    arguments.integer("pretraining_epochs", small.pretraining_epochs, at_least=1)
    arguments.integer("pretraining_batch", small.pretraining_batch, at_least=1)
    arguments.number("pretraining_rate", small.pretraining_rate, above=0)
    arguments.share("pretraining_share", small.pretraining_share, above=0, below=1)


def tokenizer_of(workdir: Path, text: Text, small: SmallModel) -> Tokenizer:
    """Trains a byte-level BPE on the model's part of the text, or loads that of an earlier call.

    Raises:
      ValueError: for settings outside their range.
    """
    check(small)
    place = workdir / "tokenizer"
    if (workdir / "pretraining" / "config.json").is_file():
        return tokenizer.load(place)
    rows = blocks.part(text.train, 0.0, small.pretraining_share)
    trained = tokenizer.train(rows, small.vocabulary)
    trained.save(place)
    return trained


def pretrain(
    workdir: Path, tokenizer: Tokenizer, text: Text, small: SmallModel, length: int, seed: int
) -> None:
    """Trains a model into `workdir`/base, or resumes its training.

    Args:
      workdir: also holds the checkpoints, in pretraining/.
      tokenizer: the tokenizer that `tokenizer_of` returns.
      text: the text; the first `small.pretraining_share` of its training rows is used.
      small: the model and its training.
      length: tokens of a block, T; the model has positions for twice as many.
      seed: seed of the weights and the order of blocks.

    Raises:
      ValueError: for settings outside their range, a directory that holds another model, or a
        diverged training.
      Stopped: after SIGTERM or Ctrl-C; the same call continues.
    """
    from collapse_jax import runner  # which loads what a command line does not need

    check(small)
    rows = blocks.part(text.train, 0.0, small.pretraining_share)
    config = Config(
        vocabulary=tokenizer.vocabulary, hidden=small.hidden, layers=small.layers,
        heads=small.heads, inner=4 * small.hidden, positions=2 * length, embedding=small.hidden,
        dropout=small.dropout, begin=tokenizer.begin, end=tokenizer.begin, pad=tokenizer.pad,
    )  # fmt: skip
    train = blocks.of_rows(tokenizer, rows, length, "train")
    validation = blocks.of_rows(tokenizer, text.validation, length, "validation")
    if len(train) < small.pretraining_batch:
        raise SettingError(
            f"pretraining_batch: expected at most the {len(train)} blocks for pretraining, got"
            f" {small.pretraining_batch}"
        )
    training = FineTuning(
        epochs=small.pretraining_epochs, batch=small.pretraining_batch,
        learning_rate=small.pretraining_rate, schedule="cosine", warmup=0.1,
    )  # fmt: skip
    family = _family(
        small=small, config=config, training=training, tokenizer=tokenizer, text=text, train=train,
        validation=validation,
    )  # fmt: skip
    result = runner.run(
        family, regimes.replace(len(train)), chains=1, generations=1, seed=seed, keep="chains",
        workdir=str(workdir / "pretraining"), checkpoint_seconds=120.0, progress=True,
    )  # fmt: skip
    rate, epochs = small.pretraining_rate, small.pretraining_epochs
    if not bool(result.history["finite"].all()):
        raise SettingError(
            f"pretraining_rate: the training diverged at {rate:g}; use a smaller one"
            " and another workdir"
        )
    losses = {name: result.history[name].item() for name in family.metrics}
    print(
        f"pretrained: {opt.parameters(config):,} parameters, {len(train):,} blocks of {length},"
        f" {epochs} epochs in {result.seconds:.0f} s (this call); best after epoch"
        f" {losses['best_epoch']:.0f}, validation loss {losses['validation_loss']:.4g} nats/token"
    )
    base = workdir / "base"
    if not (base / "config.json").is_file():
        tokenizer.save(base)
        weights.save(base, config, jax.tree.map(lambda leaf: leaf[0], result.params[0]))


def _family(
    small: SmallModel,
    config: Config,
    training: FineTuning,
    tokenizer: Tokenizer,
    text: Text,
    train: np.ndarray,
    validation: np.ndarray,
) -> Family:
    """A family that fits new weights to the whole text once; it does not sample or measure."""
    network = opt.model(config)

    def unused(*inputs: object) -> None:
        raise AssertionError("one generation samples nothing")

    vocabulary = sorted(tokenizer.library.get_vocab().items())
    return Family(
        name="pretraining",
        config={
            "dataset": {"sha256": text.sha256},
            "title": text.title,
            "vocabulary_sha256": files.sha256(repr(vocabulary).encode()),
            "positions": config.positions,
            **small.config,
        },
        pools=pools.rows(train.nbytes // len(train)),
        metrics={
            "train_loss": Metric("mean training loss of the last epoch", "nats/token"),
            "validation_loss": Metric("loss of the kept epoch on validation text", "nats/token"),
            "best_epoch": Metric("epoch of the kept parameters, from 0"),
        },
        thresholds={},
        original=lambda key, request: pools.Rows(jnp.asarray(train), len(train)),
        init=lambda key: opt.init(config, key),
        fit=finetune.steps(network, training, train.shape[1], validation),
        sample=unused,
        measure=lambda *inputs: {},
    )
