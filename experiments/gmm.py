r"""Gaussian mixtures fitted by EM to samples of themselves, again and again.

Claim (Shumailov et al. 2024): refitted to its own samples, a mixture of two Gaussians loses its
shape and then its variance; the integral of (p - q)^2 grows by orders of magnitude. At the defaults
(64 chains, 100 generations, M = 1000) 2 cores need about 15 s, most of it compiling. The paper's
settings (2050 generations; about a minute):

  python -m experiments.gmm --flagfile=experiments/presets/gmm_paper.flags --workdir=runs/gmm
"""

import dataclasses

from collapse_jax.config import RegimeConfig, RunConfig, SnapshotConfig, from_flags

from . import launch
from .family_flags import GmmConfig


def main() -> None:
    """Runs the experiment that the flags describe."""
    from collapse_jax.families import gmm

    launch.use_all_cores()
    snapshots = from_flags(SnapshotConfig).generations
    family = gmm(**dataclasses.asdict(from_flags(GmmConfig)))
    regime = launch.regime(from_flags(RegimeConfig))
    launch.run(family, regime, from_flags(RunConfig), snapshots)


if __name__ == "__main__":
    launch.define(
        GmmConfig, SnapshotConfig, RegimeConfig, RunConfig,
        samples="1000", chains=64, snapshots="0,50,100,150,200,350,2000",
    )  # fmt: skip
    launch.start(main)
