"""Linear regression under replace with new X: our segment against NumPy, by rows and exact.

By rows: T new rows, then `lstsq` chain by chain, or the normal equations of all chains at once.
Exact: the same distribution from X'X = L L' with Bartlett's factor L, by d (d + 1) / 2 + d random
numbers. Peers also work relative to the original weights and record all metrics.
Axis legend: n chains, t generations, T rows, d dimension.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.random import Generator

from collapse_jax import families, regimes
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

# (rng, error f32[n, d], T) -> the next error; the noise's standard deviation is 1.
_Refit = Callable[[Generator, np.ndarray, int], np.ndarray]


def cases(
    chains: int = 5000,
    repeats: int = 7,
    generations: int = LONGEST,
    few: int = 100,
    many: int = 10_000,
    dim: int = 10,
    peer_chains: int = 200,
    with_breakdown: bool = True,
) -> Iterator[Case]:
    """All cases of the suite, as they are measured.

    Args:
      chains: chains of our side and of the exact peers.
      repeats: number of timings, whose median is reported.
      generations: generations of a segment.
      few, many: numbers of rows T.
      dim: d.
      peer_chains: chains of the peers by rows at `few`, for an eighth of the generations.
      with_breakdown: whether to measure the shares of drawing, metrics and recording.
    """
    family, shorter = families.regression(dim), max(1, generations // 8)
    ours = Segment(family, regimes.replace(few), chains, generations)
    ours_many = Segment(family, regimes.replace(many), chains, generations)
    works: list[Work] = [
        ours,
        ours_many,
        NumpyRegression(
            refit_by_lstsq, samples=few, dim=dim, chains=peer_chains, generations=shorter
        ),
        NumpyRegression(
            refit_by_normal_equations,
            samples=few,
            dim=dim,
            chains=5 * peer_chains,
            generations=shorter,
        ),
        NumpyRegression(
            refit_by_normal_equations,
            samples=many,
            dim=dim,
            chains=max(1, peer_chains // 10),
            generations=1,
        ),
        NumpyRegression(refit_by_gram, samples=few, dim=dim, chains=chains, generations=shorter),
        NumpyRegression(refit_by_factor, samples=few, dim=dim, chains=chains, generations=shorter),
    ]
    times = interleaved(works, repeats)
    rate, rate_many, *rates = (work.rows / time for work, time in zip(works, times, strict=True))
    facts: dict[str, Any] = {"chains": chains, "generations": generations}
    if with_breakdown:
        facts["breakdown"] = breakdown(family, regimes.replace(few), ours, repeats)
    order = "O(d^2) random numbers against O(T d)"
    more = "ours forms X'X, since data sets are summed; the peer does not"
    for (samples, name, note), peer_rate in zip(
        [
            (few, "lstsq in a loop", order),
            (few, "normal equations", order),
            (many, "normal equations", order),
            (few, "exact, X'X", ""),
            (few, "exact, L alone", more),
        ],
        rates,
        strict=True,
    ):
        segment, our_rate = (ours, rate) if samples == few else (ours_many, rate_many)
        compiling = {"compile_seconds": significant(segment.compile_seconds)}
        yield Case(
            suite="regression",
            case=f"T={samples}, d={dim}",
            ours=our_rate,
            peer=peer_rate,
            peer_name=f"numpy {name}",
            unit=RATE,
            extra={"note": note, **compiling, **facts},
        )


class NumpyRegression:
    """The recursion of the weights' error in float32, in blocks of chains that stay in cache."""

    def __init__(self, refit: _Refit, samples: int, dim: int, chains: int, generations: int):
        """`refit` draws a training set and fits it; generation 0 is not timed."""
        self._refit, self._samples, self._generations = refit, samples, generations
        self._rng = np.random.default_rng(0)
        by_rows = refit in (refit_by_lstsq, refit_by_normal_equations)
        per_chain = (samples if by_rows else dim) * dim
        self._chunks = chunks(chains, _BLOCK // per_chain)
        self._first = np.concatenate(
            [
                refit(self._rng, np.zeros((part.stop - part.start, dim), np.float32), samples)
                for part in self._chunks
            ]
        )
        self.rows = chains * generations

    def __call__(self) -> dict[str, np.ndarray]:
        """The record, {metric: f32[t, n] or f32[t, n, d]}."""
        errors = np.empty((self._generations, *self._first.shape), np.float32)
        for part in self._chunks:
            error = self._first[part]
            for t in range(self._generations):
                error = errors[t, part] = self._refit(self._rng, error, self._samples)
        excess = np.einsum("tnd,tnd->tn", errors, errors)
        return {
            "excess_risk": excess,
            "log_excess_risk": np.log(excess),
            "noise_share": 1 / (1 + excess),
            "weights_error": errors,
        }


def _rows(rng: Generator, error: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """X f32[n, T, d] and y f32[n, T, 1]."""
    design = rng.standard_normal((len(error), samples, error.shape[1]), dtype=np.float32)
    noise = rng.standard_normal((len(error), samples, 1), dtype=np.float32)
    return design, design @ error[:, :, None] + noise


def refit_by_lstsq(rng: Generator, error: np.ndarray, samples: int) -> np.ndarray:
    """Least squares for one chain after the other."""
    fitted = []
    for one in error:
        design, labels = _rows(rng, one[None], samples)
        fitted.append(np.linalg.lstsq(design[0], labels[0, :, 0], rcond=None)[0])
    return np.stack(fitted)


def refit_by_normal_equations(rng: Generator, error: np.ndarray, samples: int) -> np.ndarray:
    """Normal equations for all chains at once."""
    design, labels = _rows(rng, error, samples)
    transposed = design.transpose(0, 2, 1)
    return np.linalg.solve(transposed @ design, transposed @ labels)[:, :, 0]


def refit_by_factor(rng: Generator, error: np.ndarray, samples: int) -> np.ndarray:
    """With X'X = L L' the fit's error changes by L'^-1 z, z ~ N(0, I); X'X itself is not needed."""
    factor, normals = _bartlett(rng, error, samples)
    return error + np.linalg.solve(factor.transpose(0, 2, 1), normals)[:, :, 0]


def refit_by_gram(rng: Generator, error: np.ndarray, samples: int) -> np.ndarray:
    """The normal equations of X'X and X'y, which can be summed over data sets."""
    factor, normals = _bartlett(rng, error, samples)
    gram = factor @ factor.transpose(0, 2, 1)
    return np.linalg.solve(gram, gram @ error[:, :, None] + factor @ normals)[:, :, 0]


def _bartlett(rng: Generator, error: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """L f32[n, d, d], the lower factor of X'X (Bartlett 1933), and z f32[n, d, 1]."""
    chains, dim = error.shape
    factor = np.zeros((chains, dim, dim), np.float32)
    rows, columns = np.tril_indices(dim, -1)
    factor[:, rows, columns] = rng.standard_normal((chains, rows.size), dtype=np.float32)
    half = np.float32(0.5) * (samples - np.arange(dim, dtype=np.float32))
    diagonal = np.sqrt(2 * rng.standard_gamma(half, (chains, dim), dtype=np.float32))
    factor[:, np.arange(dim), np.arange(dim)] = diagonal
    return factor, rng.standard_normal((chains, dim, 1), dtype=np.float32)
