"""Gaussian mixtures fitted by EM to samples of themselves (Shumailov et al. 2024).

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
    r"""Chains of Gaussian mixtures, maximum likelihood by EM.

    Args:
      components: k of the model, at least 1.
      truth: the original: "two-gaussians", "blob", or weights, means and covariances, as a mapping,
        as JSON or in a file; see `collapse_jax.families.gmm.originals.truth`.
      start: start of EM after generation 0: "warm" (the model before) or "k-means++". Generation 0
        always starts from k-means++.
      starts: how many k-means++ starts are tried, of which the likeliest end is kept.
      fitting: covariances, and when EM ends.
      tail: the original's marginal probability beyond both tail quantiles together, in (0, 1).

    Returns:
      A family with the metrics of `collapse_jax.families.gmm.measures.metrics`: $\int (p-q)^2$ in
      closed form, held-out log-likelihoods, weights, means, covariances and log-determinants of
      components, tail mass, sliced W2, and EM's own likelihood and iterations.

    Raises:
      ValueError: for an argument outside its range, saying what was expected and what came.
    """
    components = arguments.integer("components", components, at_least=1)
    start = arguments.choice("start", start, get_args(Start))
    starts = arguments.integer("starts", starts, at_least=1)
    fitting = Fitting(
        arguments.choice("covariance", fitting.covariance, get_args(em.Covariance)),
        arguments.number("tolerance", fitting.tolerance, at_least=0),
        arguments.integer("max_iterations", fitting.max_iterations, at_least=1),
        arguments.number("regularisation", fitting.regularisation, at_least=0),
    )
    tail = arguments.share("tail", tail, above=0, below=1)
    reference = measures.reference(truth, tail)

    def original(key: jax.Array, request: Request) -> pools.Rows:
        return _draw(key, reference.mixture, request)

    def check(sizes: Sizes) -> None:
        if sizes.training.count < components:
            raise SettingError(
                f"components: expected at most samples = {sizes.training.count}, got {components}"
            )

    return Family(
        name="gmm",
        config={
            "components": components,
            "truth": reference.truth.config,
            "start": start,
            "starts": starts,
            **fitting._asdict(),
            "tail": tail,
        },
        pools=pools.rows(4 * reference.truth.dim),
        metrics=measures.metrics(reference),
        thresholds={
            "early": Threshold("tail_mass", 0.5 * tail, "tail mass below half the original's"),
            "late": Threshold(
                "log_variance",
                math.log(0.01 * reference.truth.variance),
                "variance below 1 % of the original's",
            ),
        },
        original=original,
        init=lambda key: _nothing(components, reference.truth.dim),
        fit=_fitting(components, start == "warm", starts, fitting),
        sample=_draw,
        measure=lambda key, params, training, origin: measures.measure(
            key, params, training, reference
        ),
        coords={
            "component": np.arange(components),
            "dimension": np.arange(reference.truth.dim),
            "other_dimension": np.arange(reference.truth.dim),
        },
        check=check,
        description=f"k = {components}, {fitting.covariance} covariances, original: "
        + originals.label(reference.truth.config),
        figures=_figures,
    )


def _figures(run: RunData, curves: Curves, generations: Sequence[int]) -> OwnFigures:
    """Density panels of chain 0, if every chain was kept."""
    from collapse_jax.families.gmm import figures

    del curves
    if "component_mean" not in run.history:
        warnings.warn(
            "densities: left out, since the history of single chains was not kept (--keep=chains)",
            stacklevel=2,
        )
        return OwnFigures()
    return OwnFigures({"densities": figures.densities(run.history, generations)})


def _nothing(components: int, dim: int) -> Mixture:
    """Params before the first fit, which starts without them."""
    return Mixture(
        jnp.zeros(components), jnp.zeros((components, dim)), jnp.zeros((components, dim, dim))
    )


def _draw(key: jax.Array, mixture: Mixture, request: Request) -> pools.Rows:
    return pools.Rows(
        mixtures.sample(key, measures.on_device(mixture), request.capacity), request.count
    )


def _fitting(components: int, warm: bool, starts: int, fitting: Fitting) -> Any:
    """The family's fit; EM itself runs chain by chain on CPU, each for as long as it takes."""

    @sequential
    def from_before(before: Mixture, columns: jax.Array, weights: jax.Array) -> em.Fit:
        return em.fit(before, columns, weights, fitting)

    @sequential
    def from_nothing(key: jax.Array, columns: jax.Array, weights: jax.Array) -> em.Fit:
        return em.best_of(key, columns, weights, components, starts, fitting)

    def fit(key: jax.Array, params: Mixture, training: Training) -> tuple[Mixture, Metrics]:
        values, mask = training.pool.values, pools.live(training.pool)
        weights = jnp.ones(values.shape[0]) if mask is None else mask.astype(jnp.float32)
        # About the rows' mean, so that data far from the origin lose no digits.
        centre = weights @ values / jnp.sum(weights)
        columns = jnp.where(weights > 0, (values - centre).T, 0.0)
        if warm and training.teacher is not None:
            before = params._replace(means=params.means - centre)
            found = from_before(before, columns, weights)
        else:
            found = from_nothing(key, columns, weights)
            # From left to right, so that a component means the same in every chain.
            order = jnp.argsort(found.mixture.means[:, 0])
            found = found._replace(mixture=jax.tree.map(lambda x: x[order], found.mixture))
        mixture = found.mixture._replace(means=found.mixture.means + centre)
        return mixture, {
            "log_likelihood": found.log_likelihood,
            "em_iterations": found.iterations.astype(jnp.float32),
        }

    return fit
