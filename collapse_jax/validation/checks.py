"""A check: a measured quantity against its closed form, and a row of the table."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xarray as xr

from collapse_jax import runner

# Columns of the table, see `Check.row`.
COLUMNS = ("study", "quantity", "n", "measured", "SE", "theory", "z", "chains")


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured quantity against its closed form."""

    study: str  # the setting: family, regime, M, ...
    quantity: str
    fits: int  # n, including generation 0's
    measured: float
    standard_error: float
    theory: float
    chains: int
    bound: str = ""  # "<=" or ">=" if the theory is only a bound, so measured <= or >= theory

    @property
    def z(self) -> float:
        """(measured - theory) / standard error; 0 if a bound holds."""
        difference = self.measured - self.theory
        if self.bound == "<=" and difference <= 0 or self.bound == ">=" and difference >= 0:
            return 0.0
        if difference == 0:
            return 0.0
        return difference / self.standard_error if self.standard_error else np.inf * difference

    @property
    def row(self) -> list[str]:
        """The cells under `COLUMNS`."""
        return [
            self.study,
            self.quantity,
            str(self.fits),
            f"{self.measured:.6g}",
            f"{self.standard_error:.2g}",
            f"{self.bound}{self.theory:.6g}",
            f"{self.z:.2f}",
            str(self.chains),
        ]


def worst(checks: Iterable[Check]) -> float:
    """The largest |z|; NaN if any z is NaN, so that undefined checks fail."""
    return float(np.max(np.abs([check.z for check in checks])))


def mean_check(
    study: str, quantity: str, fits: int, values: Any, expected: Any, bound: str = ""
) -> Check:
    """Check of a mean over chains, with its standard error estimated from them."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(values.size)
    return Check(
        study,
        quantity,
        fits=fits,
        measured=float(values.mean()),
        standard_error=float(error),
        theory=float(expected),
        chains=values.size,
        bound=bound,
    )


def variance_check(study: str, quantity: str, fits: int, values: Any, expected: Any) -> Check:
    """Check of a variance, as the mean squared deviation (its bias of 1 / n is below its SE)."""
    values = np.asarray(values, np.float64)
    return mean_check(
        study, quantity, fits, values=(values - values.mean()) ** 2, expected=expected
    )


Study = Callable[[], Iterable[Check]]


def fewer(chains: int) -> int:
    """Number of chains of a study that takes long: a fifth."""
    return max(chains // 5, 2)


def history_of(family: Any, regime: Any, chains: int, generations: int, seed: int) -> xr.Dataset:
    """The history of every chain of a run, kept in memory."""
    settings: dict[str, Any] = {
        "chains": chains,
        "generations": generations,
        "seed": seed,
        "keep": "chains",
    }
    return runner.run(family, regime, **settings).history
