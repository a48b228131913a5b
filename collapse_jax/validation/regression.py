"""Closed forms of the linear regression family against chains."""

import functools
from collections.abc import Iterator
from typing import Any

from collapse_jax import families, regimes, theory
from collapse_jax.regimes import Regime
from collapse_jax.validation.checks import Check, Study, history_of, mean_check


def regression_excess_risk(
    chains: int, regime: Regime, dim: int, design: theory.Design
) -> Iterator[Check]:
    """The expected excess risk, and the unbiasedness of fits."""
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
        yield mean_check(study, "E |w_n - w|^2", n, values=now["excess_risk"], expected=expected)
        yield mean_check(
            study, "E w_n[0] - w[0]", n, values=now["weights_error"][:, 0], expected=0.0
        )


def studies(chains: int) -> list[Study]:
    """The linear regression studies, with `chains` chains each."""
    designs: tuple[theory.Design, ...] = ("same", "new")
    return [
        functools.partial(regression_excess_risk, chains, regime=regime, dim=5, design=design)
        for design in designs
        for regime in (regimes.replace(15), regimes.accumulate(15))
    ]
