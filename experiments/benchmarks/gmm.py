"""Mixtures under replace: our segment against scikit-learn's GaussianMixture in a loop over chains.

Both sides fit with the same tolerance, starting from the previous generation's model; only ours
measures and records the family's metrics. Axis legend: t generations, N samples.
"""

import copy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from collapse_jax import families, regimes
from collapse_jax.families.gmm.em import Fitting
from collapse_jax.families.gmm.originals import load_original
from collapse_jax.family import Family

from .timing import (
    RATE,
    Case,
    Segment,
    Work,
    breakdown,
    interleaved,
    peak_gigabytes,
    significant,
)

_TOLERANCE, _MAX_ITERATIONS = 1e-5, 2000


def cases(
    chains: int = 64,
    repeats: int = 7,
    generations: int = 8,
    samples: int = 10_000,
    many: int = 200_000,
    peer_chains: int = 16,
    originals: tuple[str, ...] = ("two-gaussians", "blob"),
) -> Iterator[Case]:
    """All cases of the suite.

    Args:
      chains: chains of our side.
      repeats: number of timings, whose median is reported.
      generations: generations of a segment, the same on both sides for equal work of EM.
      samples: N of the speed cases.
      many: N of the memory case.
      peer_chains: chains of the peer, one after the other.
      originals: names of the original mixtures.
    """
    for name in originals:
        yield from _speed(
            name,
            chains=chains,
            repeats=repeats,
            generations=generations,
            samples=samples,
            peer_chains=peer_chains,
        )
    yield _memory(chains, many)


def _family(original: str) -> Family:
    return families.gmm(
        truth=original, fitting=Fitting(tolerance=_TOLERANCE, max_iterations=_MAX_ITERATIONS)
    )


def _speed(
    original: str, chains: int, repeats: int, generations: int, samples: int, peer_chains: int
) -> Iterator[Case]:
    family, regime = _family(original), regimes.replace(samples)
    ours = Segment(family, regime, chains, generations)
    peers = [
        ScikitLearnGmm(
            original, samples=samples, chains=peer_chains, generations=generations, dtype=dtype
        )
        for dtype in (np.float64, np.float32)
    ]
    works: list[Work] = [ours, *peers]
    times = interleaved(works, repeats)
    rate, double, single = (work.rows / time for work, time in zip(works, times, strict=True))
    iterations = [record["em_iterations"][:generations] for record in ours()]
    extra = {
        "target": ">= 8, aim 12",
        "compile_seconds": significant(ours.compile_seconds),
        "chains": chains,
        "generations": generations,
        "em_iterations": significant(float(np.mean(np.concatenate(iterations, axis=1)))),
        "breakdown": breakdown(family, regime, ours, repeats),
    }
    for dtype, peer, peer_rate in zip(("float64", "float32"), peers, (double, single), strict=True):
        yield Case(
            suite="gmm",
            case=f"{original}, N={samples}",
            ours=rate,
            peer=peer_rate,
            peer_name=f"scikit-learn {dtype}",
            unit=RATE,
            extra={**extra, "peer_em_iterations": significant(peer.iterations)},
        )


class ScikitLearnGmm:
    """Chains in a loop: each model is refitted to its samples from its parameters."""

    def __init__(
        self, original: str, samples: int, chains: int, generations: int, dtype: DTypeLike
    ) -> None:
        """Fits generation 0, untimed."""
        from sklearn.mixture import GaussianMixture

        self._samples, self._generations, self._dtype = samples, generations, dtype
        self.rows = chains * generations
        self.iterations = 0.0  # of EM, mean over the fits of the last call
        self._first = []
        for seed in range(chains):
            data = (
                load_original(original).sample(np.random.default_rng(seed), samples).astype(dtype)
            )
            model = GaussianMixture(
                2, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=True,
                init_params="k-means++", random_state=np.random.RandomState(seed),  # noqa: NPY002
            )  # fmt: skip
            self._first.append(model.fit(data))

    def __call__(self) -> None:
        """Generations 1 ... t of every chain."""
        iterations = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that did not converge
            for model in copy.deepcopy(self._first):
                for _ in range(self._generations):
                    data, _ = model.sample(self._samples)
                    iterations.append(model.fit(data.astype(self._dtype)).n_iter_)
        self.iterations = float(np.mean(iterations))


def _memory(chains: int, samples: int) -> Case:
    """Peak memory of a separate process that runs two generations."""
    code = f"from {__package__} import gmm; gmm.print_peak({chains}, {samples})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )  # fmt: skip
    peak = float(done.stdout)
    extra = {"target": "< 4 GB", "note": "ratio of the limit to ours", "peak_gigabytes": peak}
    return Case(
        suite="gmm",
        case=f"chains that fit into 4 GB at N={samples}",
        ours=chains * 4.0 / peak,
        peer=float(chains),
        peer_name="chains run",
        unit="chains",
        extra=extra,
    )


def print_peak(chains: int, samples: int) -> None:
    """Runs two generations and prints the peak memory of this process, GB."""
    import collapse_jax

    from .. import launch

    launch.use_all_cores()
    regime = regimes.replace(samples)
    result: Any = collapse_jax.run(_family("two-gaussians"), regime, chains=chains, generations=2)
    if not bool(result.history["finite"].all()):
        raise AssertionError("expected finite chains only")
    print(significant(peak_gigabytes()))
