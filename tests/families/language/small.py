"""A tiny pretrained model with a tokenizer, and a text, in directories; nothing is downloaded."""

import jax
import numpy as np

from collapse_jax import families
from collapse_jax.lm import opt, tokenizer, weights
from collapse_jax.lm.config import Config
from experiments.flags import grouped

LENGTH = 8
WORDS = "the a church tower was built by masons and their lord in stone of early style".split()


def rows(count, seed=0):
    """Sentences of a few words, some of them rare."""
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, len(WORDS) + 1)
    chosen = rng.choice(WORDS, (count, 12), p=shares / shares.sum())
    return [" ".join(row) + " .\n" for row in chosen]


def make(directory, seed=0):
    """Writes base/ (random weights) and text/ (three splits); returns their paths."""
    base, text = directory / "base", directory / "text"
    text.mkdir(parents=True)
    for number, (split, count) in enumerate({"train": 40, "validation": 8, "test": 12}.items()):
        (text / f"{split}.txt").write_text("".join(rows(count, number)))
    trained = tokenizer.train(rows(60, 9), 280)
    trained.save(base)
    config = Config(
        vocabulary=trained.vocabulary + 2, hidden=16, layers=1, heads=2, inner=24, positions=40,
        embedding=16, dropout=0.0, init_std=0.1,
    )  # fmt: skip
    weights.save(base, config, opt.init(config, jax.random.key(seed)))
    return str(base), str(text)


# By the names of flags, so that a test can change one of a group.
SETTINGS = {
    "length": LENGTH, "blocks": 12, "epochs": 2, "batch": 4, "learning_rate": 3e-3, "beams": 2,
    "decode_batch": 5, "test_blocks": 6, "kept_blocks": 3,
}  # fmt: skip


def language(base, text, **settings):
    """A small language family."""
    values = {**SETTINGS, "dataset": text, **settings}
    return families.language(base, **grouped(families.language, values))


def family(directory, **settings):
    """The language family on what `make` writes."""
    return language(*make(directory), **settings)
