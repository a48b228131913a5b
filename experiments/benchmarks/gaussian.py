"""Gaussian replace, 1-D: our segment against the same recursion in NumPy, by rows and exact.

Axis legend: n chains, t generations, M samples of a generation.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from collapse_jax import families, regimes
from collapse_jax.config import PRNGS, Prng
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
_METRICS = ("mean", "log_variance", "w2_squared", "kl", "tail_mass")

_Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]


def cases(
    chains: int = 100_000,
    repeats: int = 7,
    generations: int = LONGEST,
    few: int = 100,
    many: int = 10_000,
    rows: int = 1000,
    rows_chains: int = 10_000,
    rows_generations: int = 16,
    prngs: Sequence[Prng] = PRNGS,
) -> Iterator[Case]:
    """All cases of the suite, as they are measured.

    Args:
      chains: chains of the exact cases on our side.
      repeats: number of timings, whose median is reported.
      generations: generations of a segment in the exact cases.
      few, many: the sample sizes M of the exact cases.
      rows: M of the rows case.
      rows_chains, rows_generations: size of the rows case, the same on both sides.
      prngs: generators of the rows case, of which the fastest is reported.
    """
    yield from _exact_cases(
        chains=chains, repeats=repeats, generations=generations, few=few, many=many
    )
    yield _rows_case(
        samples=rows, chains=rows_chains, generations=rows_generations, repeats=repeats, prngs=prngs
    )


def _exact_cases(
    chains: int, repeats: int, generations: int, few: int, many: int
) -> Iterator[Case]:
    family = families.gaussian()
    ours = Segment(family, regimes.replace(few), chains, generations)
    ours_many = Segment(family, regimes.replace(many), chains, generations)
    peers = [
        NumpyGaussian(draw_rows, few, chains, max(1, generations // 16)),
        NumpyGaussian(draw_rows, many, max(1, chains // 20), 1),
        NumpyGaussian(draw_moments, few, chains, max(1, generations // 2)),
    ]
    works: list[Work] = [ours, *peers, ours_many]
    times = interleaved(works, repeats)
    fast, rows_few, rows_many, exact, fast_many = (
        work.rows / time for work, time in zip(works, times, strict=True)
    )
    facts = {"chains": chains, "generations": generations, "batch": ours.batch, "keep": ours.keep}
    compiling = {"compile_seconds": significant(ours.compile_seconds)}
    compiling_many = {"compile_seconds": significant(ours_many.compile_seconds)}
    yield Case(
        suite="gaussian",
        case=f"exact M={few}",
        ours=fast,
        peer=rows_few,
        peer_name="numpy rows",
        unit=RATE,
        extra={"target": ">= 15", **compiling, **facts},
    )
    yield Case(
        suite="gaussian",
        case=f"exact M={many}",
        ours=fast_many,
        peer=rows_many,
        peer_name="numpy rows",
        unit=RATE,
        extra={
            "target": ">= 1000",
            "note": "algorithmic: O(1) against O(M)",
            **compiling_many,
            **facts,
        },
    )
    shares = breakdown(family, regimes.replace(few), ours, repeats)
    yield Case(
        suite="gaussian",
        case="exact against exact",
        ours=fast,
        peer=exact,
        peer_name="numpy exact",
        unit=RATE,
        extra={"target": "aim >= 1", **compiling, **facts, "breakdown": shares},
    )
    yield Case(
        suite="gaussian",
        case="flat in M",
        ours=fast_many,
        peer=fast,
        peer_name=f"ours, M={few}",
        unit=RATE,
        extra={"target": "0.8 to 1.2", "note": f"ours at M={many}"},
    )


def _rows_case(
    samples: int, chains: int, generations: int, repeats: int, prngs: Sequence[Prng]
) -> Case:
    family, regime = families.gaussian(sampler="rows"), regimes.replace(samples)
    segments = {
        prng: Segment(family, regime, chains=chains, generations=generations, prng=prng)
        for prng in prngs
    }
    peer = NumpyGaussian(draw_rows, samples, chains, generations)
    *times, peer_time = interleaved([*segments.values(), peer], repeats)
    rates = {
        prng: work.rows / time for (prng, work), time in zip(segments.items(), times, strict=True)
    }
    best = max(rates, key=rates.__getitem__)
    extra = {
        "target": ">= 1.5",
        "note": f"--prng={best}",
        "by_prng": {prng: significant(rate) for prng, rate in rates.items()},
        "compile_seconds": significant(segments[best].compile_seconds),
        "chains": chains,
        "generations": generations,
    }
    peer_rate = peer.rows / peer_time
    return Case(
        suite="gaussian",
        case=f"rows M={samples}",
        ours=rates[best],
        peer=peer_rate,
        peer_name="numpy rows",
        unit=RATE,
        extra=extra,
    )


class NumpyGaussian:
    """The recursion in NumPy, float32, vectorised over chains in blocks that stay in cache.

    mu' = mu + sigma m, ln sigma' = ln sigma + ln(s), with m and s the mean and the unbiased
    standard deviation of M standard normals, and the five default metrics of each generation.
    """

    def __init__(self, draw: _Draw, samples: int, chains: int, generations: int) -> None:
        """`draw` gives (m, ln s) of a number of chains."""
        self._draw, self._samples = draw, samples
        self._chains, self._generations = chains, generations
        self._rng = np.random.default_rng(0)
        per_chain = samples if draw is draw_rows else 8
        self._chunks = chunks(chains, _BLOCK // per_chain)

    @property
    def rows(self) -> int:
        """Chain-generations of a call."""
        return self._chains * self._generations

    def __call__(self) -> dict[str, np.ndarray]:
        """The record, {metric: f32[t, n]}."""
        shape = self._generations, self._chains
        record = {name: np.empty(shape, np.float32) for name in _METRICS}
        for part in self._chunks:
            n = part.stop - part.start
            mean, log_scale = np.zeros(n, np.float32), np.zeros(n, np.float32)
            for t in range(self._generations):
                shift, log_factor = self._draw(self._rng, n, self._samples)
                mean = mean + np.exp(log_scale) * shift
                log_scale = log_scale + log_factor
                for name, values in measure(mean, log_scale).items():
                    record[name][t, part] = values
        return record


def draw_rows(rng: np.random.Generator, n: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and ln standard deviation of M rows, drawn and reduced."""
    rows = rng.standard_normal((n, samples), dtype=np.float32)
    mean = rows.mean(axis=1)
    rows -= mean[:, None]
    squares = np.einsum("nm,nm->n", rows, rows)
    return mean, np.float32(0.5) * np.log(squares / np.float32(samples - 1))


def draw_moments(rng: np.random.Generator, n: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Both from their distributions: N(0, 1/M), and chi-square with M - 1 degrees of freedom."""
    half = 0.5 * (samples - 1)
    mean = rng.standard_normal(n, dtype=np.float32) / np.float32(np.sqrt(samples))
    gamma = rng.standard_gamma(half, n, dtype=np.float32)
    return mean, np.float32(0.5) * np.log(gamma / np.float32(half))


def measure(mean: np.ndarray, log_scale: np.ndarray) -> dict[str, np.ndarray]:
    """The default metrics against N(0, 1), f32[n]."""
    quantile = np.float32(-ndtri(_TAIL / 2))
    scale, squared, log_variance = np.exp(log_scale), mean * mean, log_scale + log_scale
    return {
        "mean": mean,
        "log_variance": log_variance,
        "w2_squared": squared + (scale - 1) ** 2,
        "kl": np.float32(0.5) * (scale * scale + squared - 1 - log_variance),
        "tail_mass": ndtr((mean - quantile) / scale) + ndtr((-mean - quantile) / scale),
    }
