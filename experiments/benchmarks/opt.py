"""Beam search and fine-tuning of OPT against transformers with PyTorch, at OPT-125m's size.

Weights are random and the same on both sides, read from one directory. Peak memory is measured in
a separate process.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.compiling import compiled
from collapse_jax.lm import beam, finetune, opt, weights
from collapse_jax.lm.config import Config
from collapse_jax.lm.prompts import prompts

from .timing import (  # fmt: skip
    Case,
    finish_peer,
    interleaved,
    peak_gigabytes,
    peak_rate,
    peer_device,
    significant,
)

_UNIT = "tokens/s"
_PEER = "transformers"
_BEAMS = 5
_TARGETS = {4: ">= 1.5", 16: ">= 2.0, aim 2.5", 64: ">= 4"}
# Settings of a step; dropout is off on both sides.
_SETTINGS = finetune.FineTuning(learning_rate=2e-5, clip=1.0, chunk=256)
_DTYPES = ("float32", "bfloat16")


def beam_cases(
    repeats: int = 5,
    batches: Sequence[int] = (4, 16, 64),
    config: Config | None = None,
    length: int = 64,
    memory: bool = True,
) -> Iterator[Case]:
    """Beam search with 5 beams from `length` tokens to `length` new ones, by size of a batch.

    Args:
      repeats: number of timings, whose median is reported; at most three from 64 prompts on.
      batches: numbers of prompts; the middle one is measured in bfloat16 too.
      config: configuration of the model; OPT-125m's if None.
      length: number of prompt tokens, and of new tokens.
      memory: whether to measure peak memory, and compile time with a warm cache.
    """
    _check_peer("beam")
    config = config or Config()
    middle = batches[len(batches) // 2]
    cases = [(batch, "float32") for batch in batches] + [(middle, "bfloat16")]
    # Each prompt is read once, without logits; then each beam reads all new tokens but the last.
    inner = opt.multiply_adds(config) - config.vocabulary * config.embedding
    of_prompt = length * inner + _BEAMS * (length - 1) * opt.multiply_adds(config)
    with _directory(config) as directory:
        for batch, dtype in cases:
            task = _Task(
                directory=directory, kind="search", batch=batch, length=length, dtype=dtype
            )
            count = min(repeats, 3) if batch >= 64 else repeats
            yield _case(
                "beam",
                task,
                repeats=count,
                work=of_prompt / length,
                target=_TARGETS.get(batch, ""),
                memory=memory,
            )


def finetune_cases(
    repeats: int = 5,
    batch: int = 16,
    config: Config | None = None,
    length: int = 64,
    memory: bool = True,
) -> Iterator[Case]:
    """One step of AdamW on `batch` blocks of `length` tokens; arguments as in `beam_cases`."""
    _check_peer("finetune")
    config = config or Config(dropout=0.0)
    with _directory(config) as directory:
        for dtype in _DTYPES:
            task = _Task(directory=directory, kind="step", batch=batch, length=length, dtype=dtype)
            work = 3 * opt.multiply_adds(config)  # the backward pass costs two forward passes
            yield _case(
                "finetune", task, repeats=repeats, work=work, target=">= 1.2", memory=memory
            )


class _Task(NamedTuple):
    """One case: kind of work, and directory of the model."""

    directory: str
    kind: str  # "search" or "step"
    batch: int
    length: int
    dtype: str

    def ours(self) -> Callable[[], None]:
        return (_search if self.kind == "search" else _step)(self)

    def peer(self) -> Callable[[], None]:
        return (_peer_search if self.kind == "search" else _peer_step)(self)

    def ids(self, vocabulary: int) -> np.ndarray:
        shape = self.batch, self.length
        return np.random.default_rng(0).integers(4, vocabulary, shape).astype(np.int32)


def _case(suite: str, task: _Task, repeats: int, work: float, target: str, memory: bool) -> Case:
    """A case with `work` multiply-adds per token."""
    ours = task.ours()
    began = time.perf_counter()
    ours()
    first = time.perf_counter() - began
    seconds, peer_seconds = interleaved([ours, task.peer()], repeats)
    tokens, peak = task.batch * task.length, peak_rate()
    extra = {
        "target": target if task.dtype == "float32" else "",
        "compile_seconds": significant(max(0.0, first - seconds)),
        "share_of_floor": significant(tokens / seconds * work / peak),
        "peak_gigaflops": significant(2 * peak / 1e9),
    }
    if memory:
        extra["peak_gigabytes"], extra["cached_compile_seconds"] = _alone(task, "ours")
        extra["peer_peak_gigabytes"], _ = _alone(task, "peer")
    name = f"batch={task.batch}" + (", bfloat16" if task.dtype == "bfloat16" else "")
    return Case(
        suite=suite,
        case=name,
        ours=tokens / seconds,
        peer=tokens / peer_seconds,
        peer_name=_PEER,
        unit=_UNIT,
        extra=extra,
    )


def _check_peer(suite: str) -> None:
    if not importlib.util.find_spec("transformers"):
        raise SettingError(
            f"suite: {suite} compares with transformers, which is not installed; install the extra"
            " benchmark"
        )


@contextlib.contextmanager
def _directory(config: Config) -> Iterator[str]:
    """A directory with a random model in transformers' format."""
    with tempfile.TemporaryDirectory() as directory:
        params = jax.jit(lambda key: opt.init(config, key))(jax.random.key(0))
        weights.save(directory, config, params)
        yield directory


def _search(task: _Task) -> Callable[[], None]:
    config, params = weights.load(task.directory)
    params = jax.tree.map(jnp.asarray, params)
    model, given = opt.model(config, task.dtype), prompts(config, task.ids(config.vocabulary))

    def work() -> None:
        found = beam.search(
            model, params, given, beams=_BEAMS, new_tokens=task.length, min_new_tokens=task.length
        )
        jax.block_until_ready(found)

    return work


def _step(task: _Task) -> Callable[[], None]:
    config, params = weights.load(task.directory)
    model, blocks = opt.model(config, task.dtype), task.ids(config.vocabulary)
    transformation = finetune.optimizer(_SETTINGS, 1000)
    step = compiled(
        lambda params, moments, blocks: finetune.step(
            model,
            _SETTINGS,
            transformation,
            params=params,
            moments=moments,
            blocks=blocks,
            k_dropout=None,
        ),
        donate=(0, 1),
    )
    state = jax.tree.map(jnp.array, params), transformation.init(params)

    def work() -> None:
        nonlocal state
        *state, _ = jax.block_until_ready(step(*state, blocks))

    return work


def _twin(task: _Task) -> tuple[Any, Any]:
    """The same model in transformers, and its token ids."""
    import torch
    from transformers import OPTForCausalLM

    model: Any = OPTForCausalLM.from_pretrained(task.directory, dtype=task.dtype)
    model.to(peer_device())
    ids = task.ids(model.config.vocab_size).astype(np.int64)
    return model, torch.tensor(ids, device=peer_device())


def _peer_search(task: _Task) -> Callable[[], None]:
    import torch

    model, ids = _twin(task)
    model.eval()

    def work() -> None:
        with torch.no_grad():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), num_beams=_BEAMS, do_sample=False,
                min_new_tokens=task.length, max_new_tokens=task.length,
            )  # fmt: skip
        finish_peer()

    return work


def _peer_step(task: _Task) -> Callable[[], None]:
    import torch

    model, ids = _twin(task)
    model.train()
    # As ours: no weight decay of biases and LayerNorm.
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1],
         "weight_decay": _SETTINGS.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=_SETTINGS.learning_rate)

    def work() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _SETTINGS.clip)
        optimizer.step()
        finish_peer()

    return work


def _alone(task: _Task, side: str) -> tuple[float, float]:
    """Peak memory of a separate process, GB, and its compile time with a warm cache, seconds."""
    code = (
        f"from {__package__} import opt; opt.print_alone"
        f"(opt._Task(*{json.dumps(list(task))}), {side!r})"
    )
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        for _ in range(1 if side == "peer" else 2):
            done = subprocess.run(
                [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True,
                env=variables,
            )  # fmt: skip
    peak, extra = map(float, done.stdout.split()[-2:])
    return significant(peak), significant(extra)


def print_alone(task: _Task, side: str) -> None:
    """Runs the work twice; prints peak memory, and the first run's time in excess of the second."""
    work = getattr(task, side)()
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    print(peak_gigabytes(peer=side == "peer"), max(0.0, seconds[0] - seconds[1]))
