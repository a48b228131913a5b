"""One whole generation of a language model, by stage, against transformers with PyTorch.

Fit, decode and measure are the family's, called by the engine; the other side does the same work
with the public interface of transformers. Weights are random and the same on both sides.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import regimes
from collapse_jax.engine import chain
from collapse_jax.engine.recording import every_chain
from collapse_jax.engine.shapes import abstract_chain
from collapse_jax.engine.stepped import Flight, SteppedEngine
from collapse_jax.families import language
from collapse_jax.families.language.base import load
from collapse_jax.family import Family
from collapse_jax.lm import opt, tokenizer, weights
from collapse_jax.lm.config import Config
from collapse_jax.regimes import Regime

from ..flags import grouped
from .timing import Case, finish_peer, peer_device, significant

_STAGES = {"decode": ("sample",), "fit": ("assemble", "fit"), "measure": ("measure",)}
_BEAMS = 5


def cases(
    repeats: int = 5, config: Config | None = None, blocks: int = 16, length: int = 64
) -> Iterator[Case]:
    """Tokens of the training set per second, by stage and for the whole generation.

    Args:
      repeats: number of timings, whose median is reported.
      config: configuration of the model; OPT-125m's if None.
      blocks: blocks of the training set, all in one step; as many for validation and test.
      length: tokens of a block.
    """
    config = config or Config(dropout=0.0)
    with _places(config, blocks, length) as (base, text):
        settings: dict[str, Any] = {
            "dataset": text, "length": length, "blocks": blocks, "epochs": 1, "batch": blocks,
            "beams": _BEAMS, "decode_batch": blocks, "test_blocks": blocks, "kept_blocks": 0,
            "prompt": "",
        }  # fmt: skip
        family = language(base, **grouped(language, settings))
        regime = regimes.replace(blocks)
        ours, peers = _Generation(family, regime), _peer(family, base, text, settings)
        times: list[tuple[Mapping[str, float], Mapping[str, float]]] = []
        ours()
        peers()
        for _ in range(repeats):
            times.append((ours(), peers()))
    tokens = blocks * length
    for name in (*_STAGES, "generation"):
        seconds, peer_seconds = (
            float(np.median([_total(side[i], name) for side in times])) for i in range(2)
        )
        extra = {"seconds": significant(seconds), "peer_seconds": significant(peer_seconds)}
        yield Case(
            suite="language",
            case=f"{name}, {blocks} blocks",
            ours=tokens / seconds,
            peer=tokens / peer_seconds,
            peer_name="transformers",
            unit="tokens/s",
            extra=extra,
        )


def _total(seconds: Mapping[str, float], name: str) -> float:
    return sum(seconds.values()) if name == "generation" else seconds[name]


@contextlib.contextmanager
def _places(config: Config, blocks: int, length: int) -> Iterator[tuple[str, str]]:
    """Directories of a random model with its tokenizer, and of a text that is long enough."""
    from collapse_jax.data.text_splits import load_text

    rows = load_text("pydoc-topics").train
    with tempfile.TemporaryDirectory() as directory:
        base, text = Path(directory, "base"), Path(directory, "text")
        text.mkdir()
        tokenizer.train(rows, min(4096, config.vocabulary)).save(base)
        weights.save(base, config, opt.init(config, jax.random.key(0)))
        part = "".join(rows)[: 8 * blocks * length]  # a token has fewer than 8 letters on average
        for split in ("train", "validation", "test"):
            (text / f"{split}.txt").write_text(part)
        yield str(base), str(text)


class _Generation:
    """Runs generation 1 of one chain, always from the same state; returns seconds by stage."""

    def __init__(self, family: Family, regime: Regime) -> None:
        self._names = [
            stage.name for stage in chain.stages(family, regime, regime.sizes(1), first=False)
        ]
        self._root = jax.random.key(0, impl="philox4x32")
        _, shapes = abstract_chain(family, regime, 0, self._root)
        self._engine = SteppedEngine(family, regime, every_chain(shapes))
        self._place = jnp.arange(1, dtype=jnp.int32), jnp.ones(1, bool)
        self._state, _ = self._engine.advance(self._root, 0, 1, *self._place, None)

    def __call__(self) -> dict[str, float]:
        seconds = dict.fromkeys(self._names, 0.0)
        last = [time.perf_counter(), 0]

        def pause(flight: Flight) -> None:
            jax.block_until_ready((flight.work, flight.carry))
            now = time.perf_counter()
            # The time up to the end of a piece or a stage belongs to the stage that was running.
            seconds[self._names[int(last[1])]] += now - last[0]
            last[:] = [now, flight.stage]

        result = self._engine.advance(self._root, 1, 2, *self._place, self._state, pause=pause)
        jax.block_until_ready(result)
        seconds[self._names[-1]] += time.perf_counter() - last[0]
        return {name: sum(seconds[stage] for stage in stages) for name, stages in _STAGES.items()}


def _peer(
    family: Family, base: str, text: str, settings: Mapping[str, Any]
) -> Callable[[], dict[str, float]]:
    """A function that runs the same stages in transformers and returns seconds by stage."""
    import torch
    from transformers import OPTForCausalLM

    from collapse_jax.data.text_splits import load_text
    from collapse_jax.families.language.blocks import BlockCounts, cut_blocks

    length, count = settings["length"], settings["blocks"]
    counts = BlockCounts(count, None, count)
    found = cut_blocks(load(base).tokenizer, load_text(text), length, skip=0.0, counts=counts)
    train, validation, test = (
        torch.tensor(part.astype(np.int64), device=peer_device()) for part in found
    )
    model: Any = OPTForCausalLM.from_pretrained(base, dtype="float32")
    model.to(peer_device())
    started = {name: value.clone() for name, value in model.state_dict().items()}
    training = family.config["training"]

    def decode() -> Any:
        model.eval()
        with torch.no_grad():
            return model.generate(
                train, attention_mask=torch.ones_like(train), num_beams=_BEAMS, do_sample=False,
                min_new_tokens=length, max_new_tokens=length,
            )[:, length:]  # fmt: skip

    def read(blocks: Any) -> None:
        model.eval()
        with torch.no_grad():
            for part in blocks.split(count):
                logits = model(input_ids=part[:, :-1]).logits
                torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())

    def fit(blocks: Any) -> None:
        model.load_state_dict(started)
        model.train()
        rate, decay = training["learning_rate"], training["weight_decay"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        model(input_ids=blocks, labels=blocks).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training["clip"])
        optimizer.step()
        read(validation)

    def now() -> float:
        finish_peer()
        return time.perf_counter()

    def generation() -> dict[str, float]:
        marks = [now()]
        written = decode()
        marks.append(now())
        fit(written)
        marks.append(now())
        read(test)
        read(written)
        marks.append(now())
        return dict(zip(_STAGES, np.diff(marks).tolist(), strict=True))

    return generation
