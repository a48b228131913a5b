r"""Linear regressions refitted to their own predictions plus noise, again and again.

Claim (Gerstgrasser et al., arXiv 2404.01413): under replace the excess risk grows by
sigma^2 d / (T - d - 1) every generation, without bound; under accumulate it stays below pi^2 / 6
times that. At the defaults (1,000 chains, 100 generations, T = 100 rows, d = 10) 2 cores need about
6 s, mostly for compiling; the mean excess risk ends near 11.24 (closed form 100 x 10 / 89).

  python -m experiments.regression --regime=accumulate --workdir=runs/regression
"""

from collapse_jax.config import RegimeConfig, RunConfig
from collapse_jax.families import regression

from . import launch
from .flags import call_with_flags

SETTINGS = (regression, RegimeConfig, RunConfig)


def main() -> None:
    """Runs the experiment that the flags describe."""
    regime, config = launch.regime(call_with_flags(RegimeConfig)), call_with_flags(RunConfig)
    launch.run(call_with_flags(regression), regime, config)


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
