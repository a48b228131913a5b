"""Gaussian mixtures fitted by EM to their own samples (Shumailov et al. 2024).

Axis legend: k components, d dimensions, M rows.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import arguments, pools
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import sequential
from collapse_jax.families.gmm import em, measures, mixtures, originals
from collapse_jax.families.gmm.em import Fitting
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.family import (
    Curves,
    Family,
    Metrics,
    OwnFigures,
    Request,
    RunData,
    Threshold,
    Training,
)
from collapse_jax.regimes import Sizes

Start = Literal["warm", "k-means++"]


def gmm(
    components: int = 2,
    truth: str | Mapping[str, Any] = "two-gaussians",
    start: Start = "warm",
    starts: int = 1,
    fitting: Fitting = Fitting(),
    tail: float = 0.02,
) -> Family:
    r"""Chains of Gaussian mixtures fitted by maximum likelihood with EM.

    Args:
      components: number of the model's components k, at least 1.
      truth: original distribution: "two-gaussians", "blob", or weights, means and covariances as a
        mapping, JSON or a JSON file; see `collapse_jax.families.gmm.originals.load_original`.
      start: start of EM after generation 0: "warm" (the previous model) or "k-means++". Generation
        0 always starts from k-means++.
      starts: number of k-means++ starts, of which the fit with the highest likelihood is kept.
      fitting: settings of EM.
      tail: marginal probability of the original's two tails together, in (0, 1).

    Returns:
      A family with the metrics of `collapse_jax.families.gmm.measures.metrics`: $\int (p-q)^2$ in
      closed form, held-out log-likelihoods, weights, means, covariances and log-determinants of
      components, tail mass, sliced W2, and the likelihood and iterations of EM.

    Raises:
      ValueError: if an argument is outside its range.
    """
    components = arguments.integer("components", components, at_least=1)
    start = arguments.choice("start", start, get_args(Start))
    starts = arguments.integer("starts", starts, at_least=1)
    fitting = Fitting(
        covariance=arguments.choice("covariance", fitting.covariance, get_args(em.Covariance)),
        tolerance=arguments.number("tolerance", fitting.tolerance, at_least=0),
        max_iterations=arguments.integer("max_iterations", fitting.max_iterations, at_least=1),
        regularisation=arguments.number("regularisation", fitting.regularisation, at_least=0),
    )
    tail = arguments.share("tail", tail, above=0, below=1)
    given = measures.original(truth, tail)

    def original(key: jax.Array, request: Request) -> pools.Rows:
        return _draw(key, given.mixture, request)

    def check(sizes: Sizes) -> None:
        if sizes.training.count < components:
            raise SettingError(
                f"components: expected at most samples = {sizes.training.count}, got {components}"
            )

    return Family(
        name="gmm",
        config={
            "components": components,
            "truth": given.distribution.config,
            "start": start,
            "starts": starts,
            **fitting._asdict(),
            "tail": tail,
        },
        pools=pools.rows(4 * given.distribution.dim),
        metrics=measures.metrics(given),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half the original's"),
            "late": Threshold(
                "log_variance",
                math.log(0.01 * given.distribution.variance),
                "variance below 1 % of the original's",
            ),
        },
        original=original,
        init=lambda key: _zeros(components, given.distribution.dim),
        fit=_fitting(components, start == "warm", starts, fitting),
        sample=_draw,
        measure=lambda key, params, training, origin: measures.measure(
            key, params, training, given
        ),
        coords={
            "component": np.arange(components),
            "dimension": np.arange(given.distribution.dim),
            "other_dimension": np.arange(given.distribution.dim),
        },
        check=check,
        description=f"k = {components}, {fitting.covariance} covariances, original: "
        + originals.label(given.distribution.config),
        figures=_figures,
    )


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    """Density panels of chain 0, if single chains were kept."""
    from collapse_jax.families.gmm import figures

    del curves
    if "component_mean" not in run.history:
        warnings.warn(
            "densities: omitted, as the history of single chains was not kept (--keep=chains)",
            stacklevel=2,
        )
        return OwnFigures()
    return OwnFigures({"densities": figures.densities(run.history, generations)})


def _zeros(components: int, dim: int) -> Mixture:
    """Params before the first fit, which does not use them."""
    return Mixture(
        jnp.zeros(components), jnp.zeros((components, dim)), jnp.zeros((components, dim, dim))
    )


def _draw(key: jax.Array, mixture: Mixture, request: Request) -> pools.Rows:
    return pools.Rows(
        mixtures.sample(key, measures.on_device(mixture), request.capacity), request.count
    )


def _fitting(components: int, warm: bool, starts: int, fitting: Fitting) -> Any:
    """The family's fit; on CPU, EM runs sequentially, so each chain stops when it converges."""

    @sequential
    def warm_fit(before: Mixture, columns: jax.Array, weights: jax.Array) -> em.Fit:
        return em.fit(before, columns, weights, fitting)

    @sequential
    def cold_fit(key: jax.Array, columns: jax.Array, weights: jax.Array) -> em.Fit:
        return em.best_of(
            key, columns, weights, components=components, starts=starts, fitting=fitting
        )

    def fit(key: jax.Array, params: Mixture, training: Training) -> tuple[Mixture, Metrics]:
        values, mask = training.pool.values, pools.live(training.pool)
        weights = jnp.ones(values.shape[0]) if mask is None else mask.astype(jnp.float32)
        # Relative to the rows' mean, so that data far from the origin lose no precision.
        centre = weights @ values / jnp.sum(weights)
        columns = jnp.where(weights > 0, (values - centre).T, 0.0)
        if warm and training.teacher is not None:
            before = params._replace(means=params.means - centre)
            found = warm_fit(before, columns, weights)
        else:
            found = cold_fit(key, columns, weights)
            # Sorted along the first dimension, so that components correspond between chains.
            order = jnp.argsort(found.mixture.means[:, 0])
            found = found._replace(mixture=jax.tree.map(lambda x: x[order], found.mixture))
        mixture = found.mixture._replace(means=found.mixture.means + centre)
        return mixture, {
            "log_likelihood": found.log_likelihood,
            "em_iterations": found.iterations.astype(jnp.float32),
        }

    return fit
