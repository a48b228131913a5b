"""Pre-flight planning: batch size, history mode, memory checks."""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.config import RunConfig
from collapse_jax.engine.recording import Recorder, every_chain, summaries
from collapse_jax.engine.shapes import abstract_chain
from collapse_jax.family import Family, is_stepped
from collapse_jax.regimes import Regime

# Histories larger than this many bytes are kept as summaries.
_HISTORY_BYTES = 1e9
# With fewer chains per device, compiling for it costs more than it saves.
_FEWEST_CHAINS = 16


class BatchLimits(NamedTuple):
    """Upper limits of one batch: enough work for a device, and no more than fits its cache.

    Attributes:
      chains: number of chains.
      state_bytes: bytes of all chains' states and metrics.
      pool_bytes: bytes of all chains' training sets.
    """

    chains: int
    state_bytes: int
    pool_bytes: int


# Sized for a core's cache: with M = 1000 rows, batches of 1024 chains (4 MB) are a third faster
# than batches of 8192.
_CORE = BatchLimits(2**15, 2**28, 2**22)
# A GPU needs larger batches: with these instead of those of a core, exact Gaussian chains ran about
# 3 times as fast and M = 1000 rows about 5 times; with 1 GB of rows they were slower again
# (docs/benchmarks.md).
_ACCELERATOR = BatchLimits(2**18, 2**30, 2**26)


class Plan(NamedTuple):
    """Decisions made before a run starts.

    Attributes:
      batch: chains per compiled program.
      keep: "chains" or "summary".
      shapes: shapes of one chain's state and metrics at the generation that needs most memory.
      recorder: writes what is kept.
    """

    batch: int
    keep: str
    shapes: Any
    recorder: Recorder


def plan(
    family: Family, regime: Regime, config: RunConfig, stored: Mapping[str, Any] | None = None
) -> Plan:
    """Chooses settings that the config leaves open; rejects a run that would not fit in memory.

    Args:
      family, regime, config: of the run.
      stored: the identity of the run to resume. Choices that depend on a run's length are made
        once and then read back.

    Raises:
      ValueError: if the run needs more memory than is available, with both figures.
    """
    root = jax.random.key(config.seed, impl=config.prng)
    generation = peak(regime, config.generations)
    shapes = abstract_chain(family, regime, generation, root)
    batch = config.chains_per_batch
    if not batch:
        batch = (
            stored["chains_per_batch"]
            if stored
            else batch_size(shapes, family, regime, chains=config.chains, generation=generation)
        )
    keep: str = config.keep
    if keep == "auto":
        keep = stored["keep"] if stored else choose_keep(shapes, config.chains, config.generations)
    check_memory(
        shapes=shapes,
        family=family,
        regime=regime,
        config=config,
        batch=batch,
        keep=keep,
        generation=generation,
    )
    metrics = shapes[1]
    recorder = every_chain(metrics) if keep == "chains" else summaries(family.metrics, metrics)
    return Plan(batch, keep, shapes, recorder)


def check_processes() -> None:
    """Rejects several JAX processes, which would all write to the same files.

    Raises:
      SettingError: if there is more than one.
    """
    if jax.process_count() > 1:
        raise SettingError(
            f"processes: expected one process of JAX, got {jax.process_count()}; several are not"
            " supported"
        )


def check_pair(family: Family, regime: Regime, generations: int) -> None:
    """Rejects a regime that the family does not support, and sizes that it cannot fit.

    Raises:
      ValueError: with both names and the reason.
    """
    family.serves(regime)
    if regime.subsamples and family.pools.subsample is None:
        raise SettingError(
            f"regime: {regime.name} draws from a pool without replacement, which {family.name}"
            f" cannot with {family.pools.name} (a subsample of merged {family.pools.name} would be"
            " wrong)"
        )
    seen = set()
    for generation in range(generations):
        sizes = regime.sizes(generation)
        if sizes not in seen:
            seen.add(sizes)
            family.check(sizes)


def peak(regime: Regime, generations: int) -> int:
    """First generation with the largest memory use."""
    return max(range(generations), key=lambda generation: regime.sizes(generation).capacity)


def batch_size(shapes: Any, family: Family, regime: Regime, chains: int, generation: int) -> int:
    """Chains per compiled program: equal batches that fit, the same number on every device.

    Args:
      shapes: shapes of one chain's state and metrics at the peak.
      family, regime: what is run.
      chains: total number of chains.
      generation: the peak, see `peak`.
    """
    pool = family.pools.bytes(regime.sizes(generation).capacity) or 0
    # A fit in steps reads one minibatch at a time, so its pool need not stay in cache; its
    # workspace is larger than its state, and not counted here.
    stepped = is_stepped(family)
    limits = _CORE if stepped or jax.default_backend() == "cpu" else _ACCELERATOR
    in_cache = math.inf if stepped else limits.pool_bytes / max(pool, 1)
    fitting = min(limits.state_bytes / max(_bytes(shapes), 1), in_cache)
    largest = min(limits.chains, max(int(fitting), 1))
    batches = -(-chains // largest)
    devices = jax.local_device_count()
    if chains >= _FEWEST_CHAINS * devices:
        batches = -(-batches // devices) * devices
    return -(-chains // batches)  # evenly: chains that only pad the last batch are wasted


def choose_keep(shapes: Any, chains: int, generations: int) -> str:
    """The history of every chain ("chains") if it is below 1 GB, else "summary"."""
    _, metrics = shapes
    return "summary" if _bytes(metrics) * chains * generations > _HISTORY_BYTES else "chains"


def check_memory(
    shapes: Any,
    family: Family,
    regime: Regime,
    config: RunConfig,
    batch: int,
    keep: str,
    generation: int,
) -> None:
    """Rejects a run that would not fit in memory at its peak, or whose history would not.

    The estimate for the peak is the state of all chains, and four times the training sets of one
    batch (drawn, merged, fitted, and a copy). A history of every chain is in memory twice while its
    parts are joined.

    Raises:
      SettingError: with the memory needed and available.
    """
    state, metrics = shapes
    pool = family.pools.bytes(regime.sizes(generation).capacity) or 0
    needed = _bytes(state) * max(config.chains, batch) + 4 * pool * batch
    available = _memory()
    history = 2 * _bytes(metrics) * config.chains * config.generations
    if keep == "chains" and history > available:
        raise SettingError(
            f"keep: every chain's history of {config.chains} chains x {config.generations}"
            f" generations needs {history / 1e9:.1f} GB, and {available / 1e9:.1f} GB are"
            " available; use keep=summary"
        )
    if needed > available:
        raise SettingError(
            f"memory: {config.chains} chains of {family.name} under {regime.name} need about"
            f" {needed / 1e9:.1f} GB at generation {generation}, and {available / 1e9:.1f} GB are"
            " available; use fewer chains, samples or generations"
        )


def _bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def _memory() -> float:
    """Bytes of memory of all local devices, or of this machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] * jax.local_device_count())
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
