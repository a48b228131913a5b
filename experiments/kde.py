r"""Kernel density chains: a kernel on every row, refitted to its own draws, again and again.

Claim: each generation widens the density by its bandwidth h. A fixed h keeps a variance of M h^2
alive (collapse only if that is small); with h in proportion to the standard deviation (Scott,
Silverman) the variance does not fall to 0 but grows by 1 - 1/M + c^2 a generation. At the defaults
(1,000 chains, 100 generations, M = 100, scott) 2 cores need about 6 s, mostly compiling; the mean
of ln sigma^2 ends near 12.88 (SE 0.04). A bandwidth small enough for collapse:

  python -m experiments.kde --bandwidth=0.005 --generations=1000 --workdir=runs/kde
"""

from typing import TYPE_CHECKING

from collapse_jax.config import RegimeConfig, RunConfig, from_flags

from . import launch
from .family_flags import KdeConfig

if TYPE_CHECKING:
    from collapse_jax.family import Family


def make_family(config: KdeConfig, regime: RegimeConfig) -> "Family":
    """The family, with a centre for each draw of the largest generation unless told otherwise."""
    from collapse_jax.families import kde

    sizes = [regime.sizes] if isinstance(regime.sizes, int) else regime.sizes
    centres = max(sizes) if config.centres is None else config.centres
    return kde(centres, config.dim, config.rule, config.tail)


def main() -> None:
    """Runs the experiment that the flags describe."""
    chosen = from_flags(RegimeConfig)
    regime = launch.regime(chosen)  # first, since it refuses sizes that centres would be blamed for
    launch.run(make_family(from_flags(KdeConfig), chosen), regime, from_flags(RunConfig))


if __name__ == "__main__":
    launch.define(KdeConfig, RegimeConfig, RunConfig)
    launch.start(main)
