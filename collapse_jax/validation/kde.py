"""Closed forms of the kernel density family against chains."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from collapse_jax import families, regimes, theory
from collapse_jax.families.kde.family import Rule
from collapse_jax.regimes import Regime
from collapse_jax.validation.checks import Check, Study, fewer, history_of, mean_check


def kde_moments(
    chains: int, regime: Regime, bandwidth: float | Rule, dim: int = 1
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
        yield mean_check(
            study, "E sigma^2", n, values=now["variance"], expected=moments.expected_variance
        )
        drift = now["mean"].values.astype(np.float64).reshape(chains, dim) ** 2
        expected = moments.mean_squared_drift
        yield mean_check(study, "E (mu_n - mu)^2", n, values=drift.mean(axis=1), expected=expected)
        if not isinstance(bandwidth, str) and regime.name != "fresh":
            mass = theory.kde_expected_tail_mass(n, bandwidth, 0.02, accumulate=pooled)
            yield mean_check(study, "E tail mass", n, values=now["tail_mass"], expected=mass)


def studies(chains: int) -> list[Study]:
    """The kernel density studies, which take long: with a fifth of `chains`."""
    few = fewer(chains)
    chosen: list[Study] = []
    for regime in (regimes.replace(20), regimes.accumulate(20), regimes.fresh(20, 0.25)):
        chosen += [
            functools.partial(kde_moments, few, regime, 0.3),
            functools.partial(kde_moments, few, regime, "scott"),
        ]
    return [
        *chosen,
        functools.partial(kde_moments, few, regimes.replace(20), "silverman", dim=3),
    ]
