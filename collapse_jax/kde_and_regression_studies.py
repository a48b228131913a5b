"""Studies of `validation` for kernel densities and linear regression."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from collapse_jax import families, regimes, theory
from collapse_jax.checks import Check, history_of, mean_check
from collapse_jax.regimes import Regime


def kde_moments(
    chains: int, regime: Regime, bandwidth: float | str, dim: int = 1
) -> Iterator[Check]:
    """Variance and drift; with a fixed bandwidth under replace or accumulate, the tail mass."""
    samples, length = regime.config["samples"], 5
    study = f"kde, {regime.name}, M={samples}, bandwidth {bandwidth}, d={dim}"
    family = families.kde(samples, dim, bandwidth)
    history = history_of(family, regime, chains, length, seed=8)
    options: dict[str, Any] = {"bandwidth": bandwidth, "dimension": dim}
    pooled = regime.name == "accumulate"
    if not pooled:
        options["real_samples"] = int(regime.sizes(1).fresh.count)
    for n in (1, 2, length):
        moments = (theory.kde_accumulate_moments if pooled else theory.kde_moments)(
            samples, n, **options
        )
        now = history.isel(generation=n - 1)
        yield mean_check(study, "E sigma^2", n, now["variance"], moments.expected_variance)
        drift = now["mean"].values.astype(np.float64).reshape(chains, dim) ** 2
        expected = moments.mean_squared_drift
        yield mean_check(study, "E (mu_n - mu)^2", n, drift.mean(axis=1), expected)
        if not isinstance(bandwidth, str) and regime.name != "fresh":
            mass = theory.kde_expected_tail_mass(n, bandwidth, 0.02, accumulate=pooled)
            yield mean_check(study, "E tail mass", n, now["tail_mass"], mass)


def regression_excess_risk(
    chains: int, regime: Regime, dim: int, design: theory.Design
) -> Iterator[Check]:
    """The excess risk, and that fits are unbiased."""
    samples, length, noise = regime.config["samples"], 10, 0.5
    study = f"regression, {regime.name}, T={samples}, d={dim}, {design} X"
    family = families.regression(dim, noise, design)
    history = history_of(family, regime, chains, length, seed=9)
    options: dict[str, Any] = {"dimension": dim, "noise_variance": noise**2}
    for n in (1, 2, length):
        now = history.isel(generation=n - 1)
        expected = (
            theory.regression_excess_risk(samples, n, **options)
            if regime.name == "replace"
            else theory.regression_accumulate_excess_risk(samples, n, design=design, **options)
        )
        yield mean_check(study, "E |w_n - w|^2", n, now["excess_risk"], expected)
        yield mean_check(study, "E w_n[0] - w[0]", n, now["weights_error"][:, 0], 0.0)


def studies(chains: int) -> list[Callable[[], Iterable[Check]]]:
    """All studies of both families.

    Args:
      chains: per study; those of kernel densities, which draw rows, take a fifth.
    """
    few = max(chains // 5, 2)
    chosen: list[Callable[[], Iterable[Check]]] = []
    for regime in (regimes.replace(20), regimes.accumulate(20), regimes.fresh(20, 0.25)):
        chosen += [
            functools.partial(kde_moments, few, regime, 0.3),
            functools.partial(kde_moments, few, regime, "scott"),
        ]
    chosen.append(functools.partial(kde_moments, few, regimes.replace(20), "silverman", dim=3))
    designs: tuple[theory.Design, ...] = ("same", "new")
    for design in designs:
        chosen += [
            functools.partial(regression_excess_risk, chains, regimes.replace(15), 5, design),
            functools.partial(regression_excess_risk, chains, regimes.accumulate(15), 5, design),
        ]
    return chosen
