r"""Gaussian chains: a mean and a covariance refitted to their own samples, again and again.

Claim (Shumailov et al. 2024): under replace the variance goes to 0 and the mean drifts away; any
lasting share of original data prevents both. At the defaults (1,000 chains, 100 generations,
M = 100) 2 cores need about 5 s, nearly all of it for compiling; the mean of ln sigma^2 ends near
-1.01 (closed form 100 [psi(99/2) + ln(2/99)] = -1.013). The paper's settings:

  python -m experiments.gaussian --flagfile=experiments/presets/gaussian_paper.flags \
      --workdir=runs/gaussian
"""

from collapse_jax.config import RegimeConfig, RunConfig
from collapse_jax.families import gaussian

from . import launch
from .flags import call_with_flags

SETTINGS = (gaussian, RegimeConfig, RunConfig)


def main() -> None:
    """Runs the experiment that the flags describe."""
    regime, config = launch.regime(call_with_flags(RegimeConfig)), call_with_flags(RunConfig)
    launch.run(call_with_flags(gaussian), regime, config)


if __name__ == "__main__":
    launch.define(*SETTINGS)
    launch.start(main)
