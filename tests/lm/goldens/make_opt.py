"""Writes opt.json, transformers' results for given weights, and opt.bin, a file of PyTorch.

python -m tests.lm.goldens.make_opt, with the benchmark extra installed.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.lm.small import (
    LAYOUTS,
    TINY,
    generated,
    losses_of_torch,
    published,
    texts,
    twin,
    weights,
)

NEW = 8
SEARCHES = [
    {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False, "repetition_penalty": 1.0},
    {"num_beams": 3, "length_penalty": 0.0, "early_stopping": True, "repetition_penalty": 1.0},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never", "repetition_penalty": 1.0},
    {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never", "repetition_penalty": 1.5},
    {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False, "repetition_penalty": 1.5,
     "min_new_tokens": 5},
]  # fmt: skip


def outputs(name):
    """Logits of prompts with and without padding, texts found by searches, fine-tuning losses."""
    import torch

    config = LAYOUTS[name]
    given = texts(config)
    with tempfile.TemporaryDirectory() as directory:
        model = twin(config, weights(config), directory)
    with torch.no_grad():
        padded = model(torch.tensor(given.tokens.astype(np.int64)),
                       attention_mask=torch.tensor(given.mask.astype(np.int64)))  # fmt: skip
    searches = []
    for settings in SEARCHES:
        tokens, scores = generated(
            model, given, max_new_tokens=NEW, num_return_sequences=2, **settings
        )
        searches.append({
            "settings": settings, "tokens": tokens.tolist(),
            "scores": np.round(scores.astype(float), 6).tolist(),
        })  # fmt: skip
    greedy, _ = generated(model, given, max_new_tokens=NEW, repetition_penalty=1.2)
    return {
        "logits": np.round(padded.logits[:, :, ::8].numpy().astype(float), 6).tolist(),
        "searches": searches,
        "greedy": greedy[:, 0].tolist(),
        "losses": np.round(losses_of_torch(model, config), 6).tolist(),
    }


def save_as_published(path):
    """A file in OPT's published layout: no prefix, nn.Parameters, and the tied head.

    Its dtypes alternate.
    """
    import torch

    kinds = torch.float32, torch.float16, torch.bfloat16
    named = {
        name.removeprefix("model."): torch.nn.Parameter(torch.tensor(array).to(kinds[i % 3]))
        for i, (name, array) in enumerate(published(weights(TINY)).items())
    }
    named["lm_head.weight"] = named["decoder.embed_tokens.weight"]
    torch.save(named, path)


if __name__ == "__main__":
    path = Path(__file__).with_name("opt.json")
    path.write_text(json.dumps({name: outputs(name) for name in LAYOUTS}) + "\n")
    save_as_published(path.with_suffix(".bin"))
