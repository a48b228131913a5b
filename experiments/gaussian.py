"""Gaussian chains: a mean and a covariance refitted to their own samples, generation by generation.

Claim (Shumailov et al. 2024): under replace the variance goes to 0 and the mean wanders off; any
lasting share of original data prevents it. At the defaults (1,000 chains x 100 generations, M = 100)
a laptop needs about 3 s, nearly all of it compiling, and ends with a median sigma of about 0.61
(closed form exp(-100 / 2 / 99 - ...) in summary.csv). The paper's settings, with closed forms:

  python -m experiments.gaussian --flagfile=experiments/presets/gaussian_paper.flags --workdir=runs/g
"""

from collapse_jax.config import GaussianConfig, RegimeConfig, RunConfig, from_flags
from experiments import launch


def main() -> None:
    """Runs the experiment that the flags describe."""
    import dataclasses

    from collapse_jax.families import gaussian

    family = gaussian(**dataclasses.asdict(from_flags(GaussianConfig)))
    launch.run(family, launch.regime(from_flags(RegimeConfig)), from_flags(RunConfig))


if __name__ == "__main__":
    launch.define(GaussianConfig, RegimeConfig, RunConfig)
    launch.start(main)
