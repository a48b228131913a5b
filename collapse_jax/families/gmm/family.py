"""Gaussian mixtures fitted by EM to samples of themselves (Shumailov et al. 2024).

Axis legend: k components, d dimensions, M rows.
"""

import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import pools
from collapse_jax.compiling import in_turn
from collapse_jax.config import check_choice
from collapse_jax.families.gmm import em, mixtures, originals
from collapse_jax.families.gmm.em import Fitting
from collapse_jax.families.gmm.mixtures import Mixture
from collapse_jax.families.gmm.originals import Truth
from collapse_jax.family import Family, Metric, Metrics, Request, Threshold, Training

Start = Literal["warm", "k-means++"]
_HELD_OUT = 1024  # rows of the original that a model's log-likelihood is averaged over
_DRAWN = 256  # rows of a model by which its distance to the original is measured
_DIRECTIONS = 8  # that they are projected on


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
      A family with the metrics of `_metrics`: $\int (p-q)^2$ in closed form, held-out
      log-likelihoods, weights, means, covariances and log-determinants of components, tail mass,
      sliced W2, and EM's own likelihood and iterations.

    Raises:
      ValueError: for an argument outside its range, saying what was expected and what came.
    """
    _check_arguments(components, start, starts, fitting, tail)
    # Of Python's types, in which 0 and 0.0 are the same run.
    components, starts, tail = int(components), int(starts), float(tail)
    fitting = Fitting(
        fitting.covariance,
        float(fitting.tolerance),
        int(fitting.max_iterations),
        float(fitting.regularisation),
    )
    reference = _reference(truth, tail)

    def original(key: jax.Array, request: Request) -> pools.Rows:
        return _draw(key, reference.mixture, request)

    def check(sizes: Any) -> None:
        if sizes.training.count < components:
            raise ValueError(
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
        metrics=_metrics(reference),
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
        measure=lambda key, params, training, origin: _measure(key, params, training, reference),
        coords={
            "component": np.arange(components),
            "dimension": np.arange(reference.truth.dim),
            "other_dimension": np.arange(reference.truth.dim),
        },
        check=check,
    )


class _Reference(NamedTuple):
    """The original, and what models are compared with; constants of the program, on no device."""

    truth: Truth
    mixture: Mixture
    held_out: np.ndarray  # f32[d, _HELD_OUT]
    tails: tuple[np.ndarray, np.ndarray]  # lower and upper quantile by dimension, f64[d]
    directions: np.ndarray  # f32[_DIRECTIONS, d], unit vectors
    projected: np.ndarray  # f32[_DIRECTIONS, _DRAWN], quantiles of the original's projections
    self_product: float  # the integral of p^2
    log_likelihood: float  # mean log-density of the held-out rows


def _reference(given: str | Mapping[str, Any], tail: float) -> _Reference:
    original = originals.truth(given)
    rng = np.random.default_rng(0)
    held_out = original.sample(rng, _HELD_OUT).T.astype(np.float32)
    directions = rng.standard_normal((_DIRECTIONS if original.dim > 1 else 1, original.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    quantiles = original.quantiles(directions, (np.arange(_DRAWN) + 0.5) / _DRAWN)
    lower, upper = original.quantiles(np.eye(original.dim), np.array([tail / 2, 1 - tail / 2])).T
    mixture = Mixture(
        jnp.asarray(np.log(np.maximum(original.weights, 1e-30)), jnp.float32),
        jnp.asarray(original.means, jnp.float32),
        jnp.asarray(np.linalg.cholesky(original.covariances), jnp.float32),
    )
    self_product = float(mixtures.inner_product(mixture, mixture))
    if not math.isfinite(self_product):
        raise ValueError(
            "truth.covariances: expected an original whose integral of p^2 is finite in single"
            f" precision, got {original.covariances.tolist()}"
        )
    return _Reference(
        original,
        jax.tree.map(np.asarray, mixture),
        held_out,
        (lower, upper),
        directions.astype(np.float32),
        quantiles.astype(np.float32),
        self_product,
        float(np.mean(original.log_density(held_out.T.astype(np.float64)))),
    )


def _on_device(mixture: Mixture) -> Mixture:
    return Mixture(*map(jnp.asarray, mixture))


def _nothing(components: int, dim: int) -> Mixture:
    """Params before the first fit, which starts without them."""
    return Mixture(
        jnp.zeros(components), jnp.zeros((components, dim)), jnp.zeros((components, dim, dim))
    )


def _draw(key: jax.Array, mixture: Mixture, request: Request) -> pools.Rows:
    return pools.Rows(mixtures.sample(key, _on_device(mixture), request.capacity), request.count)


def _fitting(components: int, warm: bool, starts: int, fitting: Fitting) -> Any:
    """The family's fit; EM itself runs chain by chain on CPU, each for as long as it takes."""

    @in_turn
    def from_before(before: Mixture, columns: jax.Array, weights: jax.Array) -> em.Fit:
        return em.fit(before, columns, weights, fitting)

    @in_turn
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


def _measure(
    key: jax.Array, mixture: Mixture, training: Training, reference: _Reference
) -> Metrics:
    original = _on_device(reference.mixture)
    drawn = mixtures.sample(key, mixture, _DRAWN)
    projected = jnp.sort(jnp.asarray(reference.directions) @ drawn.T, axis=1)
    distance = mixtures.inner_product(mixture, mixture) + reference.self_product
    distance -= 2.0 * mixtures.inner_product(mixture, original)
    weights = jnp.exp(mixture.log_weights)
    held_out = mixtures.log_density(mixture, jnp.asarray(reference.held_out))
    return {
        "integrated_squared_error": jnp.maximum(distance, 0.0),
        "held_out_log_likelihood": jnp.mean(held_out),
        "original_log_likelihood": jnp.mean(mixtures.log_density(original, drawn.T)),
        "tail_mass": jnp.mean(mixtures.marginal_tail_mass(mixture, *reference.tails)),
        "log_variance": mixtures.log_marginal_variance(mixture),
        "w2_squared": jnp.mean((projected - reference.projected) ** 2),
        "live_components": jnp.sum(weights * training.pool.count >= 1.0).astype(jnp.float32),
        "weight": weights,
        "component_mean": mixture.means,
        "component_covariance": mixture.factors @ mixture.factors.swapaxes(1, 2),
        "log_determinant": mixtures.log_determinants(mixture),
    }


def _metrics(reference: _Reference) -> dict[str, Metric]:
    """Bins of histograms lie where the original is, in its units.

    `integrated_squared_error` is from 1e-6 of the original's integral of p^2 (about 1 / N of it is
    sampling) to that of a component 1e4 times as narrow.
    """
    original, each = reference.truth, ("component",)
    dim, variance, sd = original.dim, original.variance, math.sqrt(original.variance)
    location = tuple((original.weights @ original.means).tolist())
    self_product = max(reference.self_product, 1e-30)
    log_determinant = float(original.weights @ np.linalg.slogdet(original.covariances)[1])

    def likelihood(text: str, known: float | None = None) -> Metric:
        return Metric(text, "nats", (), 0.01, 1e8,
                      centre=reference.log_likelihood, original=known)  # fmt: skip

    return {
        "integrated_squared_error": Metric(
            "integral of (p - q)^2", f"data units^-{dim}", (), 1e-6 * self_product,
            min(1e4**dim, 1e30) * self_product, nonnegative=True,
        ),
        "held_out_log_likelihood": likelihood(
            f"mean log-density of {_HELD_OUT} held-out original rows under the model",
            reference.log_likelihood,
        ),
        "original_log_likelihood": likelihood(
            f"mean log-density of {_DRAWN} rows of the model under the original"
        ),
        "tail_mass": Metric(
            "model's probability beyond the original's tail quantiles, mean over dimensions", "1",
            (), 1e-4, 1.0, nonnegative=True,
        ),
        "log_variance": Metric(
            "log of the mean marginal variance", "ln(data units^2)", (), 0.05, 1e3,
            centre=math.log(variance),
        ),
        "w2_squared": Metric(
            f"sliced squared W2 to the original, {_DRAWN} rows on {_DIRECTIONS} directions",
            "data units^2", (), 0.01 * variance, 1e6 * variance, nonnegative=True,
        ),
        "live_components": Metric(
            "components of which a sample has one row or more on average", "components",
            (), 1.0, 1e3, nonnegative=True,
        ),
        "weight": Metric("weight of a component", "1", each, 0.01, 1.0, nonnegative=True),
        "component_mean": Metric(
            "mean of a component", "data units", (*each, "dimension"), 0.5 * sd, 1e3 * sd,
            centre=location,
        ),
        "component_covariance": Metric(
            "covariance of a component", "data units^2",
            (*each, "dimension", "other_dimension"), 0.1 * variance, 1e4 * variance,
        ),
        "log_determinant": Metric(
            "log-determinant of a component's covariance", f"ln(data units^{2 * dim})", each,
            0.1, 1e4, centre=log_determinant,
        ),
        "log_likelihood": likelihood(
            "mean log-likelihood of the training rows before the last M step"
        ),
        "em_iterations": Metric(
            "EM iterations of the fit", "iterations", (), 5.0, 1e6, nonnegative=True
        ),
    }  # fmt: skip


def _check_arguments(
    components: int, start: str, starts: int, fitting: Fitting, tail: float
) -> None:
    counts = {
        "components": components,
        "starts": starts,
        "max_iterations": fitting.max_iterations,
    }
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {count!r}")
    check_choice("covariance", fitting.covariance, get_args(em.Covariance))
    check_choice("start", start, get_args(Start))
    for name, value in (
        ("tolerance", fitting.tolerance),
        ("regularisation", fitting.regularisation),
    ):
        if not _is_real(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
    if not _is_real(tail) or not 0 < tail < 1:
        raise ValueError(f"tail: expected a probability in (0, 1), got {tail!r}")


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
