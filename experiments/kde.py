r"""Kernel density chains: a kernel on every row, refitted to its own draws, again and again.

Claim: each generation widens the density by its bandwidth h. With a fixed h the variance settles at
M h^2 (collapse only if that is small); with h in proportion to the standard deviation (Scott,
Silverman) the variance does not fall to 0 but grows by a factor 1 - 1/M + c^2 per generation. At
the defaults (1,000 chains, 100 generations, M = 100, scott) 2 cores need about 6 s, mostly for
compiling; the mean of ln sigma^2 ends near 12.88 (SE 0.04). A bandwidth small enough for collapse:

  python -m experiments.kde --bandwidth=0.005 --generations=1000 --workdir=runs/kde
"""

from collapse_jax.config import RegimeConfig, RunConfig
from collapse_jax.families import kde

from . import launch
from .flags import call_with_flags


def capacity(regime: RegimeConfig, centres: int | None = None) -> int:
    """The number of kernel centres for which a model has capacity.

    Args:
      regime: its largest sample size is the default.
      centres: largest number of draws of a generation that a model holds; default the largest of
        --samples.
    """
    largest = regime.sizes if isinstance(regime.sizes, int) else max(regime.sizes)
    return largest if centres is None else centres


SETTINGS = (kde, capacity, RegimeConfig, RunConfig)


def main() -> None:
    """Runs the experiment that the flags describe."""
    chosen, config = call_with_flags(RegimeConfig), call_with_flags(RunConfig)
    regime = launch.regime(chosen)  # first, so that invalid sizes are reported as such
    family = call_with_flags(kde, centres=call_with_flags(capacity, regime=chosen))
    launch.run(family, regime, config)


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
