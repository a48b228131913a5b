"""Timing code shared by all suites, and the compiled segment of `run()` as a unit of work.

Axis legend: n chains of a batch, t generations of a segment.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.compiling import compiled
from collapse_jax.config import Prng, RunConfig
from collapse_jax.engine import planning
from collapse_jax.engine.fused import LONGEST, FusedEngine
from collapse_jax.engine.recording import Recorder
from collapse_jax.family import Family, Metric, Steps
from collapse_jax.regimes import Regime

RATE = "chain-generations/s"
# Sides of the matrices whose product gives the peak rate, of a CPU and of an accelerator.
_MATRIX = 2048
_LARGE_MATRIX = 8192


class Case(NamedTuple):
    """One comparison; `ours` and `peer` are rates, so a ratio above 1 is in our favour."""

    suite: str
    case: str
    ours: float
    peer: float
    peer_name: str
    unit: str = RATE
    extra: Mapping[str, Any] = {}

    def record(self) -> dict[str, Any]:
        """The content of a line of JSON."""
        return {
            "suite": self.suite,
            "case": self.case,
            "ours": significant(self.ours),
            "peer": significant(self.peer),
            "peer_name": self.peer_name,
            "unit": self.unit,
            "ratio": significant(self.ours / self.peer),
            **self.extra,
        }


def significant(value: float) -> float:
    """Rounded to four significant digits."""
    return float(f"{value:.4g}")


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(
    works: Sequence[Callable[[], Any]],
    repeats: int,
    centre: Callable[[Sequence[float]], float] = statistics.median,
) -> list[float]:
    """Median seconds of each work, alternating (a, b, a, b, ...) after one call to warm up."""
    for work in works:
        work()
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [centre(times) for times in zip(*rounds, strict=True)]


def peak_gigabytes(peer: bool = False) -> float:
    """Peak memory of this process, GB: of the GPU if it uses one, else of the host.

    It is not taken from getrusage, whose maximum a process inherits from its parent.

    Args:
      peer: whether PyTorch does the work, rather than JAX.
    """
    if peer and peer_device() == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated() / 1e9)
    if not peer and jax.default_backend() != "cpu":
        return float(jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9)
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def peer_device() -> str:
    """PyTorch's device: a GPU if JAX uses one."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def finish_peer() -> None:
    """Waits until PyTorch has finished."""
    if peer_device() == "cuda":
        import torch

        torch.cuda.synchronize()


def peak_rate() -> float:
    """Multiply-adds per second of a large float32 matrix product, the best of several."""
    side = _MATRIX if jax.default_backend() == "cpu" else _LARGE_MATRIX
    matrix, product = jnp.ones((side, side)), compiled(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = min(seconds(lambda: product(matrix, matrix).block_until_ready()) for _ in range(10))
    return side**3 / best


class Work(Protocol):
    """A function to time, with its amount of work."""

    @property
    def rows(self) -> int:
        """Chain-generations of a call."""

    def __call__(self) -> Any:
        """Does the work once."""


class Segment:
    """Generations 1 ... `generations` of all batches as in `run()`, fetched to the host.

    Attributes:
      compile_seconds: seconds of the program's first call, for a single generation.
      keep: "chains" or "summary", as `run()` would choose for a run of this length.
      batch: chains of a batch, as `run()` would choose.
    """

    def __init__(
        self,
        family: Family,
        regime: Regime,
        chains: int,
        generations: int = LONGEST,
        prng: Prng = "philox4x32",
        recorder: Recorder | None = None,
    ) -> None:
        """Compiles, and runs generation 0; `recorder` replaces the one chosen by `run()`."""
        self.chains, self.generations = chains, generations
        self._root = jax.random.key(0, impl=prng)
        config = RunConfig(chains=chains, generations=generations + 1, prng=prng)
        plan = planning.plan(family, regime, config)
        self.batch, self.keep = plan.batch, plan.keep
        self._engine = FusedEngine(family, regime, recorder or plan.recorder)
        self._devices = jax.local_devices()
        self._batches = []
        for i in range(-(-chains // self.batch)):
            numbers = i * self.batch + np.arange(self.batch, dtype=np.int32)
            device = self._devices[i % len(self._devices)]
            place = jax.device_put(numbers, device), jax.device_put(numbers < chains, device)
            state, _ = self._engine.advance(self._root, 0, 1, *place, None)
            self._batches.append((*place, state))
        jax.block_until_ready(self._batches)
        first = self._batches[0]
        self.compile_seconds = seconds(
            lambda: jax.block_until_ready(self._engine.advance(self._root, 1, 2, *first))
        )

    @property
    def rows(self) -> int:
        """Chain-generations of a call, without those that only pad the last batch."""
        return self.chains * self.generations

    def __call__(self) -> list[Any]:
        """The records of all batches, on the host."""
        states, records = [], []
        for i, place in enumerate(self._batches):
            state, record = self._engine.advance(self._root, 1, 1 + self.generations, *place)
            states.append(state)
            records.append(record)
            behind = i - len(self._devices)
            if behind >= 0:  # as in cohort.py: fetch while every device has work
                records[behind] = jax.device_get(records[behind])
        records = jax.device_get(records)
        jax.block_until_ready(states)
        return records


def breakdown(family: Family, regime: Regime, whole: Segment, repeats: int) -> dict[str, float]:
    """Shares of a segment's time: drawing and fitting, metrics, recording and fetching.

    They are differences between the segment, the segment without the record (metrics are still
    computed, since their sum is kept), and the segment without record and metrics. Shortest times
    are used, to reduce noise.
    """
    fit = family.fit
    assert not isinstance(fit, Steps)
    bare = family._replace(
        fit=lambda *inputs: (fit(*inputs)[0], {}),
        metrics={"nothing": Metric("nothing")},
        thresholds={},
        measure=lambda *inputs: {"nothing": jnp.float32(0.0)},
    )
    works = [
        Segment(bare, regime, whole.chains, whole.generations, recorder=_SUM),
        Segment(family, regime, whole.chains, whole.generations, recorder=_SUM),
        whole,
    ]
    draws, measured, all_of_it = interleaved(works, repeats, min)
    return {
        "draws": round(draws / all_of_it, 3),
        "metrics": round((measured - draws) / all_of_it, 3),
        "recording": round((all_of_it - measured) / all_of_it, 3),
        "seconds": significant(all_of_it),
    }


def _add_up(record: Any, i: Any, metrics: Any, finite: Any, valid: Any) -> Any:
    del i, valid
    total = sum(
        jnp.sum(value.reshape(value.shape[0], -1), axis=1, dtype=jnp.float32)
        for value in metrics.values()
    )
    return record + jnp.where(finite, total, 0.0)


_SUM = Recorder(lambda length, chains: jnp.zeros(chains), _add_up)


def chunks(total: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size` that cover `total`."""
    size = max(1, size)
    return [slice(i * size, min((i + 1) * size, total)) for i in range(math.ceil(total / size))]
