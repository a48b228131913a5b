"""What a run is refused for before it starts, and what is chosen by its size."""

import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from collapse_jax.config import RunConfig
from collapse_jax.family import Family, Steps
from collapse_jax.regimes import Regime

# Above this many bytes a history is kept as summaries.
_HISTORY_BYTES = 1e9
# Below so many chains a device, what is compiled for it costs more than it saves.
_FEWEST_CHAINS = 16


class BatchLimits(NamedTuple):
    """What one batch may have: enough to keep a device busy, not more than suits it.

    Attributes:
      chains: at most.
      state_bytes: of the states and metrics of all chains.
      pool_bytes: of their training sets.
    """

    chains: int
    state_bytes: int
    pool_bytes: int


# A core's cache: rows of 1024 chains x M = 1000 (4 MB) run a third faster than those of 8192.
_CORE = BatchLimits(2**15, 2**28, 2**22)
# A GPU is filled by more: exact Gaussian chains ran about 3 times as fast as in a core's batches,
# rows at M = 1000 about 5 times, and those with 1 GB of rows slower again (docs/benchmarks.md).
_ACCELERATOR = BatchLimits(2**18, 2**30, 2**26)


def check_pair(family: Family, regime: Regime, generations: int) -> None:
    """Refuses a regime that a family cannot serve, and sizes that cannot be fitted.

    Raises:
      ValueError: naming both, and why.
    """
    if regime.subsamples and family.pools.subsample is None:
        instead = "; use sampler=rows" if "sampler" in family.config else ""
        raise ValueError(
            f"regime: {regime.name} draws from a pool without replacement, which {family.name}"
            f" with {family.pools.name} cannot (a subsample of merged moments would be wrong)"
            f"{instead}"
        )
    if regime.realise is not None and family.pools.name == "moments":
        raise ValueError(
            f"regime: {regime.name} with independent members has a random number of real samples,"
            f" which {family.name} with moments cannot serve; use sampler=rows"
        )
    family.serves(regime)
    seen = set()
    for generation in range(generations):
        sizes = regime.sizes(generation)
        if sizes not in seen:
            seen.add(sizes)
            family.check(sizes)


def peak(regime: Regime, generations: int) -> int:
    """The first generation whose data need the most room."""
    return max(range(generations), key=lambda generation: regime.sizes(generation).capacity)


def batch_size(shapes: Any, family: Family, regime: Regime, chains: int, generation: int) -> int:
    """Chains per compiled program: an even share, small enough to fit, of work for each device.

    Args:
      shapes: of one chain's state and metrics at the peak.
      family, regime: what is run.
      chains: in all.
      generation: of the peak.
    """
    pool = family.pools.bytes(regime.sizes(generation).capacity) or 0
    # A fit in steps looks at a minibatch at a time: its pool need not stay in cache. But it works
    # on more than its state, which nobody counts.
    stepped = isinstance(family.fit, Steps)
    limits = _CORE if stepped or jax.default_backend() == "cpu" else _ACCELERATOR
    in_cache = math.inf if stepped else limits.pool_bytes / max(pool, 1)
    fitting = min(limits.state_bytes / max(_bytes(shapes), 1), in_cache)
    largest = min(limits.chains, max(int(fitting), 1))
    batches = -(-chains // largest)
    devices = jax.local_device_count()
    if chains >= _FEWEST_CHAINS * devices:
        batches = -(-batches // devices) * devices
    return -(-chains // batches)  # evenly: chains that fill up a batch are wasted


def choose_keep(shapes: Any, chains: int, generations: int) -> str:
    """Every chain's history while it stays below 1 GB, else summaries."""
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
    """Refuses a run that would not fit at its peak, or whose history would not, with the number.

    The estimate for the peak: the state of all chains, and the training sets of one batch four
    times over (drawn, merged, fitted, and a copy). A history of every chain is there twice while
    its parts are put together.
    """
    state, metrics = shapes
    pool = family.pools.bytes(regime.sizes(generation).capacity) or 0
    needed = _bytes(state) * max(config.chains, batch) + 4 * pool * batch
    available = _memory()
    history = 2 * _bytes(metrics) * config.chains * config.generations
    if keep == "chains" and history > available:
        raise ValueError(
            f"keep: every chain's history of {config.chains} chains x {config.generations}"
            f" generations needs {history / 1e9:.1f} GB, and there are {available / 1e9:.1f} GB;"
            " use keep=summary"
        )
    if needed > available:
        raise ValueError(
            f"memory: {config.chains} chains of {family.name} under {regime.name} need about"
            f" {needed / 1e9:.1f} GB at generation {generation}, and there are"
            f" {available / 1e9:.1f} GB; use fewer chains, samples or generations"
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
