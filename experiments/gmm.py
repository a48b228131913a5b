r"""Gaussian mixtures fitted by EM to samples of themselves, again and again.

Claim (Shumailov et al. 2024): refitted to its own samples, a mixture of two Gaussians loses its
shape and then its variance; the integral of (p - q)^2 grows by orders of magnitude. At the defaults
(64 chains, 100 generations, M = 1000) 2 cores need about 15 s, most of it for compiling. The
paper's settings (2050 generations; about a minute):

  python -m experiments.gmm --flagfile=experiments/presets/gmm_paper.flags --workdir=runs/gmm
"""

from typing import Any

from collapse_jax.config import RegimeConfig, RunConfig, SnapshotConfig
from collapse_jax.families import gmm

from . import launch
from .flags import call_with_flags

SETTINGS = (gmm, SnapshotConfig, RegimeConfig, RunConfig)
DEFAULTS: dict[str, Any] = {
    "samples": "1000",
    "chains": 64,
    "snapshots": "0,50,100,150,200,350,2000",
}


def main() -> None:
    """Runs the experiment that the flags describe."""
    launch.use_all_cores()
    snapshots = call_with_flags(SnapshotConfig).generations
    regime, config = launch.regime(call_with_flags(RegimeConfig)), call_with_flags(RunConfig)
    family = call_with_flags(gmm)
    launch.run(family, regime, config, snapshots)


if __name__ == "__main__":
    launch.define(*SETTINGS, **DEFAULTS)
    launch.start(main)
