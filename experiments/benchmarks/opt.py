"""Beam search and fine-tuning of OPT against transformers with PyTorch, at OPT-125m's size.

Weights are random and the same on both sides; peak memory is that of a process of its own that does
nothing else.
"""

import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from collapse_jax.opt import beam, finetune, weights
from collapse_jax.opt import model as models
from collapse_jax.opt.config import Config
from collapse_jax.opt.model import Params
from collapse_jax.opt.prompts import prompts
from collapse_jax.parallel import compiled
from experiments.benchmarks.timing import Case, interleaved, peak_rate, significant

_UNIT = "tokens/s"
_PEER = "transformers"
_BEAMS = 5
_TARGETS = {4: ">= 1.5", 16: ">= 2.0, aim 2.5", 64: ">= 4"}
# A step from random weights with these settings, dropout off on both sides.
_SETTINGS = finetune.Settings(learning_rate=2e-5, clip=1.0)


def beam_cases(
    repeats: int = 5,
    batches: Sequence[int] = (4, 16, 64),
    config: Config | None = None,
    length: int = 64,
    memory: bool = True,
) -> Iterator[Case]:
    """`length` tokens to `length` new ones with 5 beams, by prompts of a batch.

    Args:
      repeats: timings of which the median is taken; a third of them for 64 prompts.
      batches: numbers of prompts.
      config: of the model; OPT-125m's if None.
      length: tokens of a prompt, and new ones.
      memory: whether peak memory is measured.
    """
    _check_peer("beam")
    config = config or Config()
    params = _random(config)
    peer = _Peer(config, params)
    peak = peak_rate()
    for batch in batches:
        ours = _search(config, params, batch, length)
        began = time.perf_counter()
        ours()
        first = time.perf_counter() - began
        count = max(1, repeats // 3) if batch >= 64 else repeats
        seconds, peer_seconds = interleaved([ours, peer.search(batch, length)], count)
        tokens = batch * length
        # Every prompt is read once, but for logits; then every beam reads all new tokens but one.
        inner = models.multiply_adds(config) - config.vocabulary * config.embedding
        work = tokens * inner + batch * _BEAMS * (length - 1) * models.multiply_adds(config)
        floor = tokens * peak / work
        extra = {
            "target": _TARGETS.get(batch, ""),
            "compile_seconds": significant(max(0.0, first - seconds)),
            "share_of_floor": significant(tokens / seconds / floor),
            "peak_gigaflops": significant(2 * peak / 1e9),
            **(_memory("search", batch, length) if memory else {}),
        }
        yield Case("beam", f"batch={batch}", tokens / seconds, tokens / peer_seconds, _PEER,
                   _UNIT, extra)  # fmt: skip


def finetune_cases(
    repeats: int = 5,
    batch: int = 16,
    config: Config | None = None,
    length: int = 64,
    memory: bool = True,
) -> Iterator[Case]:
    """One step of AdamW on `batch` blocks of `length` tokens; arguments as of `beam_cases`."""
    _check_peer("finetune")
    config = config or Config(dropout=0.0)
    params = _random(config)
    peak = peak_rate()
    ours, first = _step(config, params, batch, length)
    peer = _Peer(config, params).step(batch, length)
    seconds, peer_seconds = interleaved([ours, peer], repeats)
    tokens = batch * length
    floor = peak / (3 * models.multiply_adds(config))
    extra = {
        "target": ">= 1.2",
        "compile_seconds": significant(max(0.0, first - seconds)),
        "share_of_floor": significant(tokens / seconds / floor),
        "peak_gigaflops": significant(2 * peak / 1e9),
        **(_memory("step", batch, length) if memory else {}),
    }
    yield Case("finetune", f"batch={batch}", tokens / seconds, tokens / peer_seconds, _PEER,
               _UNIT, extra)  # fmt: skip


def _check_peer(suite: str) -> None:
    if not importlib.util.find_spec("transformers"):
        raise ValueError(
            f"suite: {suite} compares with transformers, which is not installed; install the extra"
            " benchmark"
        )


def _random(config: Config) -> Params:
    return jax.jit(lambda key: models.init(config, key))(jax.random.key(0))


def _ids(config: Config, batch: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(4, config.vocabulary, (batch, length)).astype(np.int32)


def _search(config: Config, params: Params, batch: int, length: int) -> Callable[[], None]:
    given = prompts(config, _ids(config, batch, length))

    def work() -> None:
        jax.block_until_ready(
            beam.search(
                models.model(config), params, given, beams=_BEAMS, new_tokens=length,
                min_new_tokens=length,
            )
        )  # fmt: skip

    return work


def _step(
    config: Config, params: Params, batch: int, length: int
) -> tuple[Callable[[], None], float]:
    """A step, and the seconds of the first one."""
    transformation = finetune.optimizer(_SETTINGS, 1000)
    blocks = _ids(config, batch, length)
    step = compiled(
        lambda params, moments, blocks: finetune.step(
            models.model(config), _SETTINGS, transformation, params, moments, blocks, None
        ),
        donate=(0, 1),
    )
    state = jax.tree.map(jax.numpy.array, params), transformation.init(params)

    def work() -> None:
        nonlocal state
        *state, _ = jax.block_until_ready(step(*state, blocks))

    began = time.perf_counter()
    work()
    return work, time.perf_counter() - began


class _Peer:
    """The same model in transformers."""

    def __init__(self, config: Config, params: Params) -> None:
        from transformers import OPTForCausalLM

        self._config = config
        with tempfile.TemporaryDirectory() as directory:
            weights.save(directory, config, params)
            self._model = OPTForCausalLM.from_pretrained(directory, dtype="float32")

    def search(self, batch: int, length: int) -> Callable[[], None]:
        """`generate` of random prompts."""
        import torch

        ids = torch.tensor(_ids(self._config, batch, length).astype(np.int64))
        self._model.eval()

        def work() -> None:
            with torch.no_grad():
                self._model.generate(
                    ids, attention_mask=torch.ones_like(ids), num_beams=_BEAMS, do_sample=False,
                    min_new_tokens=length, max_new_tokens=length,
                )  # fmt: skip

        return work

    def step(self, batch: int, length: int) -> Callable[[], None]:
        """A step of torch's AdamW."""
        import torch

        ids = torch.tensor(_ids(self._config, batch, length).astype(np.int64))
        self._model.train()
        optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=_SETTINGS.learning_rate,
            weight_decay=_SETTINGS.weight_decay,
        )

        def work() -> None:
            optimizer.zero_grad()
            self._model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), _SETTINGS.clip)
            optimizer.step()

        return work


def _memory(what: str, batch: int, length: int) -> dict[str, float]:
    """Peak memory of processes of their own, gigabytes."""
    found = {}
    for name, side in (("peak_gigabytes", "ours"), ("peer_peak_gigabytes", "peer")):
        code = (
            "from experiments.benchmarks import opt;"
            f" opt.print_peak({what!r}, {side!r}, {batch}, {length})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
        )
        found[name] = significant(float(done.stdout.splitlines()[-1]))
    return found


def print_peak(what: str, side: str, batch: int, length: int) -> None:
    """Does it twice and prints the peak memory of this process, gigabytes."""
    config = Config(dropout=0.0)
    params = _random(config)
    if side == "peer":
        peer = _Peer(config, params)
        del params
        work = getattr(peer, what)(batch, length)
    elif what == "search":
        work = _search(config, params, batch, length)
    else:
        work, _ = _step(config, params, batch, length)
    work()
    work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
