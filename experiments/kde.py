r"""Kernel density chains: a kernel on every row, refitted to its own draws, again and again.

Claim: each generation widens the density by its bandwidth h. A fixed h keeps a variance of M h^2
alive (collapse only if that is small); with h in proportion to the standard deviation (Scott,
Silverman) the variance does not fall to 0 but grows by 1 - 1/M + c^2 a generation. At the defaults
(1,000 chains, 100 generations, M = 100, scott) 2 cores need about 6 s, mostly compiling; the mean
of ln sigma^2 ends near 12.88 (SE 0.04). A bandwidth small enough for collapse:

  python -m experiments.kde --bandwidth=0.005 --generations=1000 --workdir=runs/kde
"""

from collapse_jax.config import RegimeConfig, RunConfig
from collapse_jax.families import kde

from . import launch
from .flags import call_with_flags


def capacity(regime: RegimeConfig, centres: int | None = None) -> int:
    """How many draws of a generation a model is made to serve.

    Args:
      regime: whose largest sample is served.
      centres: most draws of a generation that a model can serve; none: the largest of --samples.
    """
    largest = regime.sizes if isinstance(regime.sizes, int) else max(regime.sizes)
    return largest if centres is None else centres


SETTINGS = (kde, capacity, RegimeConfig, RunConfig)


def main() -> None:
    """Runs the experiment that the flags describe."""
    chosen, config = call_with_flags(RegimeConfig), call_with_flags(RunConfig)
    regime = launch.regime(chosen)  # first, since it refuses sizes that centres would be blamed for
    family = call_with_flags(kde, centres=call_with_flags(capacity, regime=chosen))
    launch.run(family, regime, config)


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
