"""Small models of OPT's three layouts with given weights, here and in transformers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.lm import finetune, opt
from collapse_jax.lm.config import Config, to_json
from collapse_jax.lm.prompts import prompts
from collapse_jax.lm.weights import published_name, save

SMALL = Config(
    vocabulary=53, hidden=32, layers=2, heads=4, inner=48, positions=48, embedding=32, dropout=0.0
)
# The end token is likely under these weights, so that hypotheses end at all lengths.
LAYOUTS = {
    "125m": dataclasses.replace(SMALL, end=42),
    "350m": dataclasses.replace(SMALL, embedding=16, norm_before=False, final_norm=False, end=5),
    "1.3b": dataclasses.replace(
        SMALL, hidden=48, embedding=48, inner=64, layers=3, heads=6, end=27
    ),
}

# Very small: the model of a committed file.
TINY = dataclasses.replace(
    LAYOUTS["350m"], vocabulary=11, hidden=8, layers=1, heads=2, inner=8, positions=6, embedding=4
)
# Fine-tuning is compared over 20 steps on given minibatches.
TRAINING = finetune.FineTuning(
    batch=6, accumulate=2, learning_rate=3e-3, schedule="linear", warmup=0.2, clip=1.0,
    weight_decay=0.1, chunk=16,
)  # fmt: skip
STEPS = 20


def blocks(count, seed=0, config=SMALL, length=12):
    """Random blocks of tokens."""
    rng = np.random.default_rng(seed)
    return rng.integers(3, config.vocabulary, (count, length)).astype(np.int32)


def minibatches(config):
    """Minibatches of `STEPS` steps."""
    return [blocks(TRAINING.batch, seed, config) for seed in range(STEPS)]


def weights(config, seed=7):
    """Normal weights large enough for every layer to matter, equal on every machine."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten_with_path(opt.shapes(config))
    made = [
        (path[-1].key == "scale") + 0.3 * rng.standard_normal(leaf.shape) for path, leaf in leaves
    ]
    return jax.tree.unflatten(structure, [array.astype(np.float32) for array in made])


def published(params):
    """Arrays by their names in PyTorch's checkpoints, with kernels transposed."""
    leaves, _ = jax.tree.flatten_with_path(params)
    return {
        published_name(path): np.ascontiguousarray(leaf.T if path[-1].key == "kernel" else leaf)
        for path, leaf in leaves
    }


def texts(config, seed=8, lengths=(9, 6, 3)):
    """Prompts of different lengths."""
    rng = np.random.default_rng(seed)
    return prompts(config, [rng.integers(3, config.vocabulary, length) for length in lengths])


@functools.cache
def _compiled(config):
    return jax.jit(lambda params, tokens: opt.model(config).bind(params)(tokens))


def log_shares(config, params, tokens):
    """Log-probabilities of the next token at each position of unpadded texts [B, S]."""
    return np.asarray(jax.nn.log_softmax(_compiled(config)(params, jnp.asarray(tokens))))


def twin(config, params, directory):
    """The same model in transformers, loaded from a directory that we write."""
    from transformers import OPTForCausalLM  # not at the top: it may not be installed

    save(directory, config, params)
    return OPTForCausalLM.from_pretrained(directory, dtype="float32").eval()


def twin_of_json(config):
    """An untrained model of transformers with this architecture."""
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(OPTConfig(**to_json(config))).eval()


def generated(twin, given, **settings):
    """Output of transformers' generate: new tokens [B, R, S], and scores [B, R] of beams."""
    import torch

    count, length = given.tokens.shape
    with torch.no_grad():
        found = twin.generate(
            torch.tensor(given.tokens.astype(np.int64)),
            attention_mask=torch.tensor(given.mask.astype(np.int64)),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
    tokens = found.sequences[:, length:].numpy()
    scores = getattr(found, "sequences_scores", None)
    return (
        tokens.reshape(count, -1, tokens.shape[1]),
        None if scores is None else scores.numpy().reshape(count, -1),
    )


def losses_of_torch(twin, config):
    """Losses of `STEPS` steps on `minibatches` with torch's AdamW and the settings `TRAINING`."""
    import torch

    twin.train()
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim > 1],
         "weight_decay": TRAINING.weight_decay},
        {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=TRAINING.learning_rate)
    warm = round(TRAINING.warmup * STEPS)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: i / warm if i < warm else 1 - (i - warm) / (STEPS - warm)
    )
    losses = []
    for batch in minibatches(config):
        ids = torch.tensor(batch.astype(np.int64))
        loss = twin(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), TRAINING.clip)
        optimizer.step()
        rate.step()
        losses.append(loss.item())
    return losses
