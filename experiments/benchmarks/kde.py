"""Kernel densities under replace, 1-D, Scott's rule: our segment against NumPy and scikit-learn.

All draw rows from a kernel density and fit the next one to them. scikit-learn runs in a loop over
chains, NumPy on all chains at once, with and without our metrics. Axis legend: n chains,
t generations, M rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from collapse_jax import families, regimes, theory
from collapse_jax.engine.fused import LONGEST

from .timing import (
    RATE,
    Case,
    Segment,
    Work,
    breakdown,
    chunks,
    interleaved,
    significant,
)

# Numbers that NumPy draws at a time, few enough to stay in cache: faster than all at once.
_BLOCK = 2**17
_TAIL = 0.02
_NOTES = {
    "numpy": "the peer computes no metrics",
    "scikit-learn": "the peer computes no metrics",
}


def cases(
    chains: int = 2000,
    repeats: int = 7,
    generations: int = LONGEST,
    few: int = 100,
    many: int = 1000,
    peer_chains: int = 100,
    with_breakdown: bool = True,
) -> Iterator[Case]:
    """All cases of the suite, as they are measured.

    Args:
      chains: chains of our side at `few` rows; inversely proportional to the number of rows.
      repeats: number of timings, whose median is reported.
      generations: generations of a segment; a quarter for NumPy, an eighth for scikit-learn.
      few, many: numbers of rows M.
      peer_chains: chains of scikit-learn at `few` rows, one after the other.
      with_breakdown: whether to measure the shares of drawing, metrics and recording.
    """
    for samples in (few, many):
        scaled, scaled_peer = (max(1, n * few // samples) for n in (chains, peer_chains))
        family, regime = families.kde(samples, tail=_TAIL), regimes.replace(samples)
        ours = Segment(family, regime, scaled, generations)
        shorter = max(1, generations // 4)
        peers: dict[str, Work] = {
            "numpy": NumpyKde(samples, scaled, shorter, with_metrics=False),
            "numpy and metrics": NumpyKde(samples, scaled, shorter),
            "scikit-learn": ScikitLearnKde(samples, scaled_peer, max(1, generations // 8)),
        }
        works = [ours, *peers.values()]
        times = interleaved(works, repeats)
        rate, *rates = (work.rows / time for work, time in zip(works, times, strict=True))
        facts: dict[str, Any] = {
            "compile_seconds": significant(ours.compile_seconds),
            "chains": scaled,
            "generations": generations,
        }
        if with_breakdown:
            facts["breakdown"] = breakdown(family, regime, ours, repeats)
        for name, peer_rate in zip(peers, rates, strict=True):
            extra = {**facts, "note": _NOTES.get(name, "")}
            yield Case(
                suite="kde",
                case=f"M={samples}",
                ours=rate,
                peer=peer_rate,
                peer_name=name,
                unit=RATE,
                extra=extra,
            )


class NumpyKde:
    """All chains at once in float32, in blocks that stay in cache."""

    def __init__(
        self, samples: int, chains: int, generations: int, with_metrics: bool = True
    ) -> None:
        """Draws the original rows, untimed; `with_metrics` adds the family's default metrics."""
        self._samples, self._generations, self._with_metrics = samples, generations, with_metrics
        self._rng = np.random.default_rng(0)
        self._first = self._rng.standard_normal((chains, samples), dtype=np.float32)
        self._factor = np.float32(theory.kde_bandwidth_factor("scott", samples))
        self._chunks = chunks(chains, _BLOCK // samples)
        self.rows = chains * generations

    def __call__(self) -> list[list[dict[str, np.ndarray]]]:
        """The record {metric: f32[n]} of each block and generation; empty without metrics."""
        record = []
        for part in self._chunks:
            rows: np.ndarray = self._first[part]
            generations = []
            starts = np.arange(len(rows), dtype=np.int32)[:, None] * self._samples
            bandwidth = self._bandwidth(rows)
            for _ in range(self._generations):
                index = self._rng.integers(self._samples, size=rows.shape, dtype=np.int32)
                noise = self._rng.standard_normal(rows.shape, dtype=np.float32)
                rows = rows.ravel().take(index + starts) + bandwidth[:, None] * noise
                bandwidth = self._bandwidth(rows)
                if self._with_metrics:
                    generations.append(measure(rows, bandwidth))
            record.append(generations)
        return record

    def _bandwidth(self, rows: np.ndarray) -> np.ndarray:
        return self._factor * rows.std(axis=1, ddof=1)


def measure(rows: np.ndarray, bandwidth: np.ndarray) -> dict[str, np.ndarray]:
    """The default metrics f32[n], against N(0, 1), of densities with kernels at rows f32[n, M]."""
    quantile = np.float32(-ndtri(_TAIL / 2))
    mean, variance = rows.mean(axis=1), rows.var(axis=1) + bandwidth**2
    log_variance, width = np.log(variance), bandwidth[:, None]
    beyond = ndtr((rows - quantile) / width) + ndtr((-rows - quantile) / width)
    return {
        "mean": mean,
        "variance": variance,
        "log_variance": log_variance,
        "log_bandwidth": np.log(bandwidth),
        "tail_mass": beyond.mean(axis=1),
        "w2_squared_bound": mean**2 + (np.sqrt(variance) - 1) ** 2,
        "kl_bound": np.float32(0.5) * (variance + mean**2 - 1 - log_variance),
    }


class ScikitLearnKde:
    """Chains in a loop: each density is fitted to rows sampled from the previous one."""

    def __init__(self, samples: int, chains: int, generations: int) -> None:
        """Draws the original rows, untimed."""
        self._first = np.random.default_rng(0).standard_normal((chains, samples, 1))
        self._factor = float(theory.kde_bandwidth_factor("scott", samples))
        self._generations = generations
        self.rows = chains * generations

    def __call__(self) -> np.ndarray:
        """The last rows of every chain, f64[n, M, 1]."""
        from sklearn.neighbors import KernelDensity

        random, last = np.random.RandomState(0), []  # noqa: NPY002
        for rows in self._first:
            for _ in range(self._generations):
                # Its own "scott" omits the rows' standard deviation.
                bandwidth = self._factor * rows.std(ddof=1)
                model = KernelDensity(bandwidth=bandwidth).fit(rows)
                rows = model.sample(len(rows), random_state=random)
            last.append(rows)
        return np.stack(last)
