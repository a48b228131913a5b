"""The statistical error alone, with exact fits of the right class: the study's grid against rows.

Only these lanes have peers: SciPy and NumPy for the Gaussian, scikit-learn for the mixture.
Infinite data (expressivity, approximation) need the grid, and no library fits the neural density.
Peers draw M rows where the study draws counts of 501 points. The study measures three distances,
the Gaussian's peers KL(original || model), scikit-learn none. Axis legend: n chains, t fits,
M samples.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from scipy.stats import norm

from collapse_jax.error_sources import study
from collapse_jax.error_sources.model_classes import Learner
from collapse_jax.error_sources.truth import THREE_MODES, log_masses

from ..error_sources import EXACT_STEPS, ErrorSourcesConfig
from .gaussian import draw_moments, draw_rows
from .timing import RATE, Case, Work, interleaved

_Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]

_NOTES = {
    "numpy rows": "draw and fit are O(M), on the grid O(1)",
    "numpy exact": "a Gaussian's moments are two random numbers; the grid draws 501 for all"
    " classes; collapse_jax.families.gaussian works as the peer",
    "scikit-learn, tol=1e-5": "the peer stops EM early",
}


def cases(
    chains: int = 32,
    repeats: int = 7,
    generations: int = 51,
    few: int = 1000,
    many: int = 100_000,
    rows: int = 2_000_000,
) -> Iterator[Case]:
    """All cases of the suite, as they are measured.

    Args:
      chains, generations: size of our side, and upper limits for the peers that draw rows.
      repeats: number of timings, whose median is reported.
      few, many: the sample sizes M.
      rows: rows that a peer draws per call, at least M; scikit-learn draws a hundredth.
    """
    config = ErrorSourcesConfig()
    early = {"gaussian": config.gaussian_steps, "gmm": config.mixture_steps,
             "neural": config.neural_steps}  # fmt: skip
    learners = study.make_learners(THREE_MODES, early, EXACT_STEPS)

    def size(samples: int, rows: int) -> tuple[int, int]:
        fits = max(1, rows // samples)
        return max(1, min(chains, fits // generations)), min(generations, fits)

    for samples in (few, many):
        gaussians: dict[str, Work] = {
            "scipy, a chain at a time": ScipyGaussian(draw_by_scipy, samples, *size(samples, rows)),
            "numpy rows": ScipyGaussian(draw_rows, samples, *size(samples, rows)),
            "numpy exact": ScipyGaussian(draw_moments, samples, 100 * chains, generations),
        }
        fewer = samples, *size(samples, rows // 100)
        mixtures: dict[str, Work] = {
            "scikit-learn, as many EM steps": ScikitLearnFits(*fewer, tolerance=0.0),
            "scikit-learn, tol=1e-5": ScikitLearnFits(*fewer, tolerance=1e-5),
        }
        for name, peers in (("gaussian", gaussians), ("gmm", mixtures)):
            ours = Grid(learners[name], samples, chains, generations)
            works = [ours, *peers.values()]
            times = interleaved(works, repeats)
            rate, *rates = (work.rows / time for work, time in zip(works, times, strict=True))
            for peer, peer_rate in zip(peers, rates, strict=True):
                yield Case(
                    suite="error_sources",
                    case=f"{name}, M={samples}",
                    ours=rate,
                    peer=peer_rate,
                    peer_name=peer,
                    unit=RATE,
                    extra={"note": _NOTES.get(peer, "")},
                )


class Grid:
    """The study's program for the statistical lanes of one class, fetched to the host."""

    def __init__(self, learner: Learner, samples: int, chains: int, generations: int) -> None:
        """Plans and compiles the lanes."""
        plan = study.plan(learner, log_masses(THREE_MODES), [samples], size=samples, chains=chains)
        exact = jax.tree.map(lambda leaf: leaf[:chains], plan.exact)
        early = jax.tree.map(lambda leaf: leaf[:0], plan.early)
        plan = plan._replace(exact=exact, early=early)
        self._simulate = study.simulation([plan], generations)
        self.rows = chains * generations

    def __call__(self) -> dict[str, np.ndarray]:
        """The record, {metric: f32[t, n]}."""
        return jax.device_get(self._simulate(jax.random.key(0, impl="philox4x32")))


class ScipyGaussian:
    """The Gaussian's chains in SciPy or NumPy, from N(0, 1), fitted by maximum likelihood."""

    def __init__(self, draw: _Draw, samples: int, chains: int, generations: int) -> None:
        """`draw` gives (mean, ln unbiased deviation) of M standard normals, f32[n] each."""
        self._draw, self._samples, self._shape = draw, samples, (generations, chains)
        self._rng = np.random.default_rng(0)
        self.rows = chains * generations

    def __call__(self) -> np.ndarray:
        """KL(original || model), f32[t, n]."""
        record = np.empty(self._shape, np.float32)
        mean = log_scale = np.zeros(self._shape[1], np.float32)
        bias = np.float32(0.5 * np.log1p(-1 / self._samples))
        for divergence in record:
            shift, log_factor = self._draw(self._rng, len(mean), self._samples)
            mean = mean + np.exp(log_scale) * shift
            log_scale = log_scale + log_factor + bias
            divergence[:] = log_scale + 0.5 * ((1 + mean**2) * np.exp(-2 * log_scale) - 1)
        return record


def draw_by_scipy(rng: np.random.Generator, n: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, fitted by `scipy.stats.norm`, in a loop over chains."""
    fits = [norm.fit(norm.rvs(size=samples, random_state=rng)) for _ in range(n)]
    mean, deviation = np.array(fits, np.float32).T
    return mean, np.log(deviation) - np.float32(0.5 * np.log1p(-1 / samples))


class ScikitLearnFits:
    """The mixture's chains in a loop: each model is refitted to its samples from its parameters."""

    def __init__(self, samples: int, chains: int, generations: int, tolerance: float) -> None:
        """Fits generation 0 from the original, untimed; tolerance 0 gives as many steps as ours."""
        from sklearn.mixture import GaussianMixture

        self._samples, self._chains, self._generations = samples, chains, generations
        self.rows = chains * generations
        self.iterations = 0  # of EM, of the last fit
        self._first = GaussianMixture(
            3, tol=tolerance, max_iter=EXACT_STEPS["gmm"], warm_start=True,
            weights_init=THREE_MODES.weights, means_init=THREE_MODES.means[:, None],
            precisions_init=THREE_MODES.deviations[:, None, None] ** -2.0,
            random_state=np.random.RandomState(0),  # noqa: NPY002
        )  # fmt: skip
        rng = np.random.default_rng(0)
        component = rng.choice(3, samples, p=THREE_MODES.weights)
        data = rng.normal(THREE_MODES.means[component], THREE_MODES.deviations[component])
        self._fit(self._first, data[:, None])

    def __call__(self) -> None:
        """All fits after the first, of every chain."""
        for _ in range(self._chains):
            model = copy.deepcopy(self._first)
            for _ in range(self._generations):
                self._fit(model, model.sample(self._samples)[0])

    def _fit(self, model: Any, data: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that did not converge
            self.iterations = model.fit(data).n_iter_
