"""Cost of saving during a run, and rate of writing history against the disk's own rate."""

import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.saving.checkpoint import write_durably

from .timing import RATE, Case, interleaved, seconds, significant

_MEGABYTE = 1e6


def cases(
    chains: int = 100_000,
    generations: int = 1000,
    generations_kept: int = 200,
    every: int = 50,
    pairs: int = 3,
    samples: int = 100,
) -> Iterator[Case]:
    """All cases of the suite.

    Args:
      chains: chains of each run.
      generations: generations of the runs with keep=summary.
      generations_kept: generations of the runs with keep=chains.
      every: generations between checkpoints.
      pairs: number of timings, whose median is reported.
      samples: M of the Gaussian chains.
    """
    with tempfile.TemporaryDirectory(prefix="collapse_jax-benchmark-") as directory:
        for keep, number in (("summary", generations), ("chains", generations_kept)):
            settings = {"chains": chains, "generations": number, "checkpoint_every": every}
            yield _cost(Path(directory), samples, {**settings, "keep": keep}, pairs)
        yield _history(Path(directory), chains, every, pairs)


def _cost(directory: Path, samples: int, settings: dict[str, Any], pairs: int) -> Case:
    """The same run with and without a workdir, with segments that end at the same generations."""
    family, regime = families.gaussian(), regimes.replace(samples)
    keep, rows = settings["keep"], settings["chains"] * settings["generations"]

    def run(workdir: str | None) -> None:
        collapse_jax.run(family, regime, workdir=workdir, **settings)

    def saving() -> None:
        with tempfile.TemporaryDirectory(dir=directory) as parent:
            run(os.path.join(parent, "run"))

    saved, unsaved = interleaved([saving, lambda: run(None)], pairs)
    extra = {
        **settings,
        "cost_percent": significant(100.0 * (saved / unsaved - 1.0)),
        "seconds": significant(saved),
        "peer_seconds": significant(unsaved),
    }
    if keep == "summary":
        extra["target"] = "cost < 5 %"
    else:
        history = rows * _bytes_per_generation()
        extra["history_megabytes"] = significant(history / _MEGABYTE)
        extra["history_megabytes_per_second_of_run"] = significant(history / saved / _MEGABYTE)
    name = f"checkpoint_every={settings['checkpoint_every']}, keep={keep}"
    return Case(
        suite="checkpoint",
        case=name,
        ours=rows / saved,
        peer=rows / unsaved,
        peer_name="the same run, not saved",
        unit=RATE,
        extra=extra,
    )


def _bytes_per_generation() -> int:
    """Bytes of one chain: five f32 metrics and the finite flag."""
    return 5 * 4 + 1


def _history(directory: Path, chains: int, generations: int, repeats: int) -> Case:
    """Writing a record as a part of a run's history, against a plain fsynced write of its bytes."""
    rng, shape = np.random.default_rng(0), (generations, chains)
    record: dict[str, np.ndarray] = {
        name: rng.standard_normal(shape, dtype=np.float32) for name in families.gaussian().metrics
    }
    record["finite"] = np.ones(shape, bool)
    plain = b"".join(np.ascontiguousarray(values).data for values in record.values())
    appending, writing = [], []
    with tempfile.TemporaryDirectory(dir=directory) as parent:
        for i in range(repeats):
            part = epath.Path(parent) / f"{i}.npz"
            appending.append(seconds(functools.partial(write_durably, part, record)))
            writing.append(_write(Path(parent) / f"plain-{i}", plain))
    megabytes = len(plain) / _MEGABYTE
    ours, disk = (megabytes / float(np.median(times)) for times in (appending, writing))
    extra = {
        "megabytes": significant(megabytes),
        "note": "ours also computes the file's SHA-256",
    }
    return Case(
        suite="checkpoint",
        case="history written, keep=chains",
        ours=ours,
        peer=disk,
        peer_name="plain write and fsync of the same bytes",
        unit="MB/s",
        extra=extra,
    )


def _write(path: Path, data: bytes) -> float:
    began = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began
