"""Every closed form against chains: prints a table of z-scores.

Claim: every |z| is below 4 (bounds are not violated by more). At the default 100,000 chains per
study, about five minutes on 2 cores.

  python -m experiments.validate
"""

import dataclasses
import sys

from collapse_jax import arguments

from . import launch
from .flags import call_with_flags


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """Settings of the checks.

    Attributes:
      chains: chains of each study, at least 100.
      quick: whether to run only the studies that compile quickly.
    """

    chains: int = 100_000
    quick: bool = False

    def __post_init__(self) -> None:
        """Rejects too few chains for a standard error."""
        arguments.integer("chains", self.chains, at_least=100)


SETTINGS = (ValidateConfig,)


def main() -> None:
    """Runs all studies; exits with an error if a closed form fails."""
    from rich.console import Console
    from rich.table import Table

    from collapse_jax import validation

    config = call_with_flags(ValidateConfig)
    table = Table(*validation.COLUMNS)
    checks = []
    for study in validation.studies(config.chains, config.quick):
        for check in study():
            checks.append(check)
            table.add_row(*check.row)
    Console(width=140).print(table)
    worst = validation.worst(checks)
    print(f"{len(checks)} checks, largest |z| {worst:.2f}")
    if not worst <= 4:
        sys.exit(f"error: a closed form fails: expected |z| <= 4, got {worst:.2f}")


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
