"""Closed forms of the discrete family against chains; checks of bounds are one-sided."""

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
    original, samples, length = [0.4, 0.3, 0.2, 0.06, 0.04], 20, 300
    study = f"discrete, replace, {len(original)} symbols, M={samples}"
    family = families.discrete(original, frequencies=True)
    history = history_of(family, regimes.replace(samples), chains, length, seed=5)
    frequency = history["frequency"].values
    for n in (1, 5, 20):
        now = history.isel(generation=n - 1)
        expected = theory.expected_heterozygosity(samples, n, original)
        yield mean_check(
            study, "E heterozygosity", n, values=now["heterozygosity"], expected=expected
        )
        for i, p in enumerate(original):
            values = frequency[:, n - 1, i]
            yield mean_check(
                study, f"E p[{i}]", n, values=values, expected=theory.expected_frequency(n, p)
            )
            spread = theory.variance_of_frequency(samples, n, p)
            yield variance_check(study, f"Var p[{i}]", n, values=values, expected=spread)
    support = history["support"].values[:, 0]
    yield mean_check(
        study, "E support", 1, values=support, expected=theory.expected_support(samples, original)
    )
    for i, p in enumerate(original):
        fixed = frequency[:, -1, i] == 1.0
        yield mean_check(
            study,
            f"Pr(fixed at {i})",
            length,
            values=fixed,
            expected=theory.fixation_probability(p),
        )
    for n in (2, 10):
        alive = frequency[:, n - 1, -1] > 0
        bound = theory.symbol_survival_bound(samples * original[-1], n)
        yield mean_check(
            study, "Pr(rarest symbol still drawn)", n, values=alive, expected=bound, bound=">="
        )


def discrete_absorption(chains: int, samples: int) -> Iterator[Check]:
    """Mean time until one of two symbols is lost, against the exact (I - Q)^-1 1."""
    study = f"discrete, replace, 2 symbols, M={samples}"
    family = families.discrete([0.5, 0.5])
    history = history_of(family, regimes.replace(samples), chains, 40 * samples, seed=6)
    lost = history["support"].values == 1
    time = np.where(lost.any(axis=1), lost.argmax(axis=1) + 1, lost.shape[1])
    yield mean_check(
        study,
        "E absorption time",
        0,
        values=time,
        expected=theory.mean_absorption_time(samples, 0.5),
    )


def discrete_fresh(chains: int, independent: bool) -> Iterator[Check]:
    """The steady state of sum p^2 with real draws in every training set."""
    original, samples, share = [0.4, 0.3, 0.2, 0.06, 0.04], 20, 0.25
    kind = "each real with probability" if independent else "real share"
    study = f"discrete, fresh, M={samples}, {kind} {share}"
    family = families.discrete(original)
    regime = regimes.fresh(samples, share, independent)
    history = history_of(family, regime, chains, 40, seed=7)
    homozygosity = 1.0 - history["heterozygosity"].values[:, -1].astype(np.float64)
    steady = (
        theory.random_count_steady_homozygosity(samples, share, original)
        if independent
        else theory.fixed_count_steady_homozygosity(samples, round(share * samples), original)
    )
    yield mean_check(study, "E sum p^2", 40, values=homozygosity, expected=steady)


def studies(chains: int, quick: bool = False) -> list[Study]:
    """The discrete studies.

    Args:
      chains: chains per study; a fifth in studies that take long.
      quick: only the most informative study.
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
