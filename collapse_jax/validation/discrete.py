"""Closed forms of discrete chains, checked on chains; bounds are one-sided."""

import functools
from collections.abc import Iterator

import numpy as np

from collapse_jax import families, regimes, theory
from collapse_jax.validation.checks import (
    Check,
    Study,
    fewer,
    history_of,
    mean_check,
    variance_check,
)


def discrete_replace(chains: int) -> Iterator[Check]:
    """Wright-Fisher: moments of frequencies, heterozygosity, support and fixation."""
    law, samples, length = [0.4, 0.3, 0.2, 0.06, 0.04], 20, 300
    study = f"discrete, replace, {len(law)} symbols, M={samples}"
    family = families.discrete(law, frequencies=True)
    history = history_of(family, regimes.replace(samples), chains, length, seed=5)
    frequency = history["frequency"].values
    for n in (1, 5, 20):
        now = history.isel(generation=n - 1)
        expected = theory.expected_heterozygosity(samples, n, law)
        yield mean_check(study, "E heterozygosity", n, now["heterozygosity"], expected)
        for i, p in enumerate(law):
            values = frequency[:, n - 1, i]
            yield mean_check(study, f"E p[{i}]", n, values, theory.expected_frequency(n, p))
            spread = theory.variance_of_frequency(samples, n, p)
            yield variance_check(study, f"Var p[{i}]", n, values, spread)
    support = history["support"].values[:, 0]
    yield mean_check(study, "E support", 1, support, theory.expected_support(samples, law))
    for i, p in enumerate(law):
        fixed = frequency[:, -1, i] == 1.0
        yield mean_check(study, f"Pr(fixed at {i})", length, fixed, theory.fixation_probability(p))
    for n in (2, 10):
        alive = frequency[:, n - 1, -1] > 0
        bound = theory.symbol_survival_bound(samples * law[-1], n)
        yield mean_check(study, "Pr(rarest symbol still drawn)", n, alive, bound, ">=")


def discrete_absorption(chains: int, samples: int) -> Iterator[Check]:
    """Mean time until one of two symbols is lost, against the exact chain (I - Q)^-1 1."""
    study = f"discrete, replace, 2 symbols, M={samples}"
    family = families.discrete([0.5, 0.5])
    history = history_of(family, regimes.replace(samples), chains, 40 * samples, seed=6)
    lost = history["support"].values == 1
    time = np.where(lost.any(axis=1), lost.argmax(axis=1) + 1, lost.shape[1])
    yield mean_check(study, "E absorption time", 0, time, theory.mean_absorption_time(samples, 0.5))


def discrete_fresh(chains: int, independent: bool) -> Iterator[Check]:
    """The steady state of sum p^2 with real draws in every training set."""
    law, samples, share = [0.4, 0.3, 0.2, 0.06, 0.04], 20, 0.25
    kind = "each real with probability" if independent else "real share"
    study = f"discrete, fresh, M={samples}, {kind} {share}"
    family = families.discrete(law)
    regime = regimes.fresh(samples, share, independent)
    history = history_of(family, regime, chains, 40, seed=7)
    homozygosity = 1.0 - history["heterozygosity"].values[:, -1].astype(np.float64)
    steady = (
        theory.random_count_steady_homozygosity(samples, share, law)
        if independent
        else theory.fixed_count_steady_homozygosity(samples, round(share * samples), law)
    )
    yield mean_check(study, "E sum p^2", 40, homozygosity, steady)


def studies(chains: int, quick: bool = False) -> list[Study]:
    """The discrete studies.

    Args:
      chains: per study; those that take long have a fifth.
      quick: leave out all but the most telling.
    """
    chosen: list[Study] = [functools.partial(discrete_replace, fewer(chains))]
    if quick:
        return chosen
    return [
        *chosen,
        functools.partial(discrete_absorption, chains, 4),
        functools.partial(discrete_absorption, fewer(chains), 20),
        functools.partial(discrete_fresh, chains, independent=False),
        functools.partial(discrete_fresh, fewer(chains), independent=True),
    ]
