"""Closed forms of the Gaussian family against chains.

Heavy-tailed raw moments are checked only while Var ln sigma^2 <= 1/2, log-moments everywhere.
"""

import functools
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from scipy import stats

from collapse_jax import families, regimes, theory
from collapse_jax.families.gaussian.family import Sampler
from collapse_jax.results.closed_forms import HEAVY_TAILED
from collapse_jax.validation.checks import (
    Check,
    Study,
    fewer,
    history_of,
    mean_check,
    variance_check,
)


def gaussian_replace(
    chains: int,
    samples: int,
    estimator: theory.Estimator,
    sampler: Sampler = "exact",
    bias: float = 1.0,
) -> Iterator[Check]:
    """All one-dimensional closed forms of replace, at several n."""
    study = f"gaussian {sampler}, replace, M={samples}, {estimator}" + (
        f", lambda={bias}" if bias != 1 else ""
    )
    family = families.gaussian(estimator=estimator, sampler=sampler, sampling_bias=bias)
    fits = (1, 2, 10, 50)
    history = history_of(family, regimes.replace(samples), chains, max(fits), seed=samples)
    options: dict[str, Any] = {"estimator": estimator, "sampling_bias": bias}
    for n in fits:
        now = history.isel(generation=n - 1)
        logs = now["log_variance"].values.astype(np.float64)
        spread = theory.variance_of_log_variance(samples, n)
        yield mean_check(
            study,
            "E ln sigma^2",
            n,
            values=logs,
            expected=theory.expected_log_variance(samples, n, **options),
        )
        yield variance_check(study, "Var ln sigma^2", n, values=logs, expected=spread)
        drift = now["mean"].values.astype(np.float64) ** 2
        yield mean_check(
            study,
            "E (mu_n - mu)^2",
            n,
            values=drift,
            expected=theory.mean_squared_drift(samples, n, **options),
        )
        deviation = theory.expected_standard_deviation(samples, n, **options)
        yield mean_check(study, "E sigma", n, values=np.exp(logs / 2), expected=deviation)
        if spread > HEAVY_TAILED:
            continue
        yield mean_check(
            study,
            "E sigma^2",
            n,
            values=np.exp(logs),
            expected=theory.expected_variance(samples, n, **options),
        )
        yield mean_check(
            study,
            "E W2^2",
            n,
            values=now["w2_squared"],
            expected=theory.expected_w2_squared(samples, n, **options),
        )
        if spread <= HEAVY_TAILED / 4:
            fourth = theory.expected_squared_variance(samples, n, **options)
            yield mean_check(study, "E sigma^4", n, values=np.exp(2 * logs), expected=fourth)
    if bias == 1 and estimator == "unbiased":
        n, epsilon = max(fits), 0.5
        above = np.exp(logs / 2) > epsilon
        bound = theory.standard_deviation_exceedance_bound(samples, n, epsilon)
        yield mean_check(
            study, f"Pr(sigma > {epsilon})", n, values=above, expected=bound, bound="<="
        )


def gaussian_schedule(chains: int) -> Iterator[Check]:
    """Log-moments when M changes from generation to generation."""
    sizes = [10, 20, 40, 15, 30]
    study = f"gaussian rows, replace, M={sizes}, unbiased"
    family = families.gaussian(sampler="rows")
    history = history_of(family, regimes.replace(sizes), chains, len(sizes), seed=1)
    for n in (2, 3, 5):
        logs = history["log_variance"].values[:, n - 1]
        drift = history["mean"].values[:, n - 1].astype(np.float64) ** 2
        yield mean_check(
            study, "E ln sigma^2", n, values=logs, expected=theory.expected_log_variance(sizes, n)
        )
        yield variance_check(
            study,
            "Var ln sigma^2",
            n,
            values=logs,
            expected=theory.variance_of_log_variance(sizes, n),
        )
        yield mean_check(
            study, "E (mu_n - mu)^2", n, values=drift, expected=theory.mean_squared_drift(sizes, n)
        )


def gaussian_dimensions(
    chains: int, dim: int, samples: int, estimator: theory.Estimator
) -> Iterator[Check]:
    """The d-dimensional closed forms, for a covariance that is not a multiple of the identity."""
    study = f"gaussian exact, replace, d={dim}, M={samples}, {estimator}"
    covariance = np.diag(np.arange(1.0, dim + 1)) + 0.3
    family = families.gaussian(dim=dim, estimator=estimator, covariance=covariance.tolist())
    trace, determinant = float(np.trace(covariance)), float(np.linalg.slogdet(covariance)[1])
    history = history_of(family, regimes.replace(samples), chains, 20, seed=dim)
    for n in (1, 5, 20):
        now = history.isel(generation=n - 1)
        logs = now["log_determinant"].values
        expected = theory.expected_log_determinant(
            samples, n, dimension=dim, log_determinant=determinant, estimator=estimator
        )
        yield mean_check(study, "E ln |Sigma|", n, values=logs, expected=expected)
        spread = theory.variance_of_log_determinant(samples, n, dimension=dim)
        yield variance_check(study, "Var ln |Sigma|", n, values=logs, expected=spread)
        drift = (now["mean"].values.astype(np.float64) ** 2).sum(axis=-1)
        expected = theory.mean_squared_drift(samples, n, variance=trace, estimator=estimator)
        yield mean_check(study, "E |mu_n - mu|^2", n, values=drift, expected=expected)
        yield mean_check(
            study, "E W2^2", n, values=now["w2_squared"], expected=expected, bound=">="
        )
        if 2 * n / (samples - 1) <= HEAVY_TAILED:
            total = dim * np.exp(now["log_variance"].values.astype(np.float64))
            expected = theory.expected_trace(samples, n, trace=trace, estimator=estimator)
            yield mean_check(study, "E tr Sigma", n, values=total, expected=expected)


def gaussian_accumulate(
    chains: int, samples: int, estimator: theory.Estimator, sampler: Sampler
) -> Iterator[Check]:
    """Variance and drift in accumulate, where each fit sees all data so far."""
    study = f"gaussian {sampler}, accumulate, M={samples}, {estimator}"
    family = families.gaussian(estimator=estimator, sampler=sampler)
    history = history_of(family, regimes.accumulate(samples), chains, 16, seed=2)
    for n in (1, 2, 5, 16):
        variance = np.exp(history["log_variance"].values[:, n - 1].astype(np.float64))
        drift = history["mean"].values[:, n - 1].astype(np.float64) ** 2
        expected = theory.accumulate_expected_variance(samples, n, estimator=estimator)
        yield mean_check(study, "E sigma^2", n, values=variance, expected=expected)
        expected = theory.accumulate_mean_squared_drift(samples, n, estimator=estimator)
        yield mean_check(study, "E (mu_n - mu)^2", n, values=drift, expected=expected)


def gaussian_fresh(
    chains: int, samples: int, share: float, estimator: theory.Estimator, independent: bool
) -> Iterator[Check]:
    """The steady state with fresh real data in every training set."""
    sampler: Sampler = "rows" if independent else "exact"
    kind = "each real with probability" if independent else "real share"
    study = f"gaussian {sampler}, fresh, M={samples}, {kind} {share}, {estimator}"
    family = families.gaussian(estimator=estimator, sampler=sampler)
    regime = regimes.fresh(samples, share, independent)
    history = history_of(family, regime, chains, 40, seed=3).isel(generation=-1)
    steady = (
        theory.random_count_steady_state(samples, share, estimator=estimator)
        if independent
        else theory.fixed_count_steady_state(samples, round(share * samples), estimator=estimator)
    )
    drift = history["mean"].values.astype(np.float64) ** 2
    variance = np.exp(history["log_variance"].values.astype(np.float64))
    yield mean_check(study, "E (mu_n - mu)^2", 40, values=drift, expected=steady.mean_squared_drift)
    yield mean_check(study, "E sigma^2", 40, values=variance, expected=steady.expected_variance)


def two_samplers(chains: int, generation: int = 400) -> Iterator[Check]:
    """Sampler "exact" against "rows" far into collapse: M = 10, generation 400."""
    values, samplers = {}, get_args(Sampler)
    for sampler in samplers:
        family = families.gaussian(sampler=sampler)
        history = history_of(family, regimes.replace(10), chains, generation + 1, seed=4)
        values[sampler] = history.isel(generation=generation)
        yield Check(
            f"gaussian {sampler}, replace, M=10, unbiased",
            "share of finite chains",
            fits=generation + 1,
            measured=float(values[sampler]["finite"].mean()),
            standard_error=0.0,
            theory=1.0,
            chains=chains,
            bound=">=",
        )
    for name in ("log_variance", "mean", "tail_mass"):
        one, other = (values[s][name].values.astype(np.float64) for s in ("exact", "rows"))
        for quantity, a, b in (
            ("mean", one, other),
            ("variance", (one - one.mean()) ** 2, (other - other.mean()) ** 2),
        ):
            error = np.hypot(a.std(ddof=1), b.std(ddof=1)) / np.sqrt(chains)
            yield Check(
                "gaussian rows against exact, replace, M=10",
                f"{quantity} of {name}",
                fits=generation + 1,
                measured=float(b.mean()),
                standard_error=float(error),
                theory=float(a.mean()),
                chains=chains,
            )
        distance = stats.ks_2samp(one, other)
        yield Check(
            "gaussian rows against exact, replace, M=10",
            f"Kolmogorov-Smirnov distance of {name}",
            fits=generation + 1,
            measured=float(distance.statistic),
            standard_error=float(
                np.sqrt(0.5 / chains)
            ),  # about that of the difference at one point
            theory=float(stats.kstwobign.ppf(0.9999) * np.sqrt(2 / chains)),
            chains=chains,
            bound="<=",
        )


def studies(chains: int, quick: bool = False) -> list[Study]:
    """The Gaussian studies.

    Args:
      chains: chains per study; a fifth in studies that take long.
      quick: only the most informative studies.
    """
    chosen: list[Study] = [
        functools.partial(gaussian_replace, chains, 100, "unbiased"),
        functools.partial(gaussian_replace, chains, 100, "ml"),
    ]
    if quick:
        return chosen
    estimators: tuple[theory.Estimator, ...] = ("unbiased", "ml")
    for estimator in estimators:
        chosen += [
            functools.partial(gaussian_replace, chains, 10, estimator),
            functools.partial(gaussian_replace, chains, 100, estimator, bias=0.9),
            functools.partial(gaussian_replace, chains, 12, estimator, sampler="rows"),
            functools.partial(gaussian_dimensions, chains, dim=2, samples=15, estimator=estimator),
            functools.partial(gaussian_dimensions, chains, dim=5, samples=40, estimator=estimator),
            functools.partial(
                gaussian_accumulate, chains, samples=10, estimator=estimator, sampler="exact"
            ),
            functools.partial(
                gaussian_accumulate, chains, samples=3, estimator=estimator, sampler="exact"
            ),
            functools.partial(
                gaussian_fresh,
                chains,
                samples=10,
                share=0.3,
                estimator=estimator,
                independent=False,
            ),
            functools.partial(
                gaussian_fresh, chains, samples=20, share=0.5, estimator=estimator, independent=True
            ),
        ]
    return [
        *chosen,
        functools.partial(gaussian_accumulate, chains, samples=10, estimator="ml", sampler="rows"),
        functools.partial(gaussian_schedule, chains),
        functools.partial(two_samplers, fewer(chains)),
    ]
