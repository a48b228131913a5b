"""WikiText-2's words under replace: our segment against `numpy.random.Generator.multinomial`.

Axis legend: n chains, t generations, K symbols.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from collapse_jax import families, regimes
from collapse_jax.data.word_counts import WIKITEXT_2, load_corpus
from collapse_jax.engine.fused import LONGEST
from collapse_jax.family import Family

from .timing import RATE, Case, Segment, breakdown, interleaved, significant

_WORDS, _DRAWS = 33_278, 2_088_628  # of WikiText-2's training split
_TAIL = 0.02


def cases(
    chains: int = 16,
    repeats: int = 7,
    generations: int = LONGEST,
    data_dir: str | None = None,
    counts: np.ndarray | None = None,
    with_breakdown: bool = True,
) -> Iterator[Case]:
    """All cases of the suite.

    Args:
      chains: number of chains, the same on both sides.
      repeats: number of timings, whose median is reported.
      generations: generations of a segment, the same on both sides.
      data_dir: directory of WikiText-2; if it is not found, a Zipf distribution of the same size is
        used.
      counts: i64[K], other counts to resample.
      with_breakdown: whether to measure the shares of drawing, metrics and recording.
    """
    name = "given counts"
    if counts is None:
        name, counts = _corpus(data_dir)
    family, draws = families.discrete(counts, tail=_TAIL), int(counts.sum())
    ours = Segment(family, regimes.replace(draws), chains, generations)
    peer = NumpyDiscrete(family, counts, chains, generations, with_metrics=False)
    peer_measured = NumpyDiscrete(family, counts, chains, generations, with_metrics=True)
    times = interleaved([ours, peer, peer_measured], repeats)
    rate, plain, measured = (ours.rows / time for time in times)
    extra: dict[str, Any] = {
        "target": "aim 2, accept >= 1",
        "compile_seconds": significant(ours.compile_seconds),
        "chains": chains,
        "generations": generations,
        "symbols": len(counts),
        "draws": draws,
    }
    if with_breakdown:
        extra["breakdown"] = breakdown(family, regimes.replace(draws), ours, repeats)
    note = {"note": "ours measures and records seven metrics, the peer only draws"}
    peer_name = "numpy multinomial"
    yield Case(
        suite="discrete",
        case=name,
        ours=rate,
        peer=plain,
        peer_name=peer_name,
        unit=RATE,
        extra={**extra, **note},
    )
    yield Case(
        suite="discrete",
        case=f"{name} with metrics",
        ours=rate,
        peer=measured,
        peer_name=f"{peer_name} and metrics",
        unit=RATE,
        extra=extra,
    )


def _corpus(data_dir: str | None) -> tuple[str, np.ndarray]:
    """The name of the case, and counts i64[K]."""
    try:
        return "wikitext", load_corpus(WIKITEXT_2, data_dir).counts
    except FileNotFoundError:
        return "wikitext (not found: a Zipf distribution of its size)", zipf(_WORDS, _DRAWS)


def zipf(symbols: int, draws: int) -> np.ndarray:
    """Counts inversely proportional to rank that sum to `draws`, each at least 1; i64[K]."""
    weights = 1.0 / np.arange(1, symbols + 1)
    counts = 1 + np.floor(weights / weights.sum() * (draws - symbols)).astype(np.int64)
    counts[: draws - int(counts.sum())] += 1
    return counts


class NumpyDiscrete:
    """Chains in a loop, drawing with float64 probabilities counts / M."""

    def __init__(
        self, family: Family, counts: np.ndarray, chains: int, generations: int, with_metrics: bool
    ) -> None:
        """`with_metrics` adds the family's default metrics to each generation."""
        self._counts, self._chains, self._generations = counts, chains, generations
        self._with_metrics = with_metrics
        self._rng = np.random.default_rng(0)
        self._original = counts / counts.sum()
        self._log_original = np.log(self._original)
        self._edges = np.asarray(family.coords["frequency_bin"])
        self._bins = np.searchsorted(self._edges, self._original, side="right") - 1
        self._bin_sizes = np.maximum(np.bincount(self._bins, minlength=len(self._edges)), 1)
        order = np.argsort(self._original, kind="stable")
        self._tail = order[: np.searchsorted(np.cumsum(self._original[order]), _TAIL, side="right")]

    def __call__(self) -> list[dict[str, np.ndarray]]:
        """The record, t * n rows of metrics; empty without metrics."""
        total, record = int(self._counts.sum()), []
        for _ in range(self._chains):
            counts = self._counts
            for _ in range(self._generations):
                counts = self._rng.multinomial(total, counts / total)
                if self._with_metrics:
                    record.append(self.measure(counts, total))
        return record

    def measure(self, counts: np.ndarray, total: int) -> dict[str, np.ndarray]:
        """The family's default metrics of one chain, from the surviving words only."""
        alive = np.flatnonzero(counts)
        frequency = counts / total
        left = frequency[alive]
        entropy = -np.sum(left * np.log(left))
        survivors = np.bincount(self._bins[alive], minlength=len(self._edges))
        return {
            "support": np.asarray(alive.size),
            "entropy": entropy,
            "heterozygosity": 1.0 - np.sum(left * left),
            "tail_mass": frequency[self._tail].sum(),
            "total_variation": 0.5 * np.abs(frequency - self._original).sum(),
            "kl": -np.sum(left * self._log_original[alive]) - entropy,
            "surviving_share": survivors / self._bin_sizes,
        }
