r"""Variational autoencoders trained on their own images, again and again.

Claim (Shumailov et al. 2024): trained on images of the previous generation's model, an autoencoder
of MNIST loses the shape of its latent space; generation 0's encoder maps its images ever closer
together, until the digits are one blur. On 10,000 MNIST images with 10 epochs the standard
deviation of that encoder's mean falls from 0.95 at generation 0 to 0.74 at generation 4, and to
0.79 if a tenth of the original images is kept (docs/results.md; 3 chains, 45 minutes on 2 cores
each). `quick` (8x8 digits, a perceptron; less than a minute):

  python -m experiments.vae --flagfile=experiments/presets/vae_quick.flags --workdir=runs/vae

The paper's settings (MNIST, the convolutional model, 30 epochs, generations 0 to 20, 5 chains): 189
million images, which take two cores three days; for a GPU or TPU, and can be interrupted any time:

  python -m experiments.vae --flagfile=experiments/presets/vae_paper.flags --workdir=runs/vae_paper
"""

from typing import Any

from collapse_jax.config import RegimeConfig, RunConfig, SnapshotConfig
from collapse_jax.families import vae

from . import launch
from .flags import call_with_flags, from_flags

SETTINGS = (vae, SnapshotConfig, RegimeConfig, RunConfig)
DEFAULTS: dict[str, Any] = {
    "samples": "1437", "chains": 4, "generations": 10, "checkpoint_every": 1,
    "snapshots": "0,5,10,20",
}  # fmt: skip


def main() -> None:
    """Runs the experiment that the flags describe."""
    from collapse_jax.families.vae import classifier

    given, snapshots = from_flags(vae), call_with_flags(SnapshotConfig).generations
    regime, config = launch.regime(call_with_flags(RegimeConfig)), call_with_flags(RunConfig)
    launch.run(vae(**given), regime, config, snapshots)
    _, right = classifier.train(given["dataset"], given["data_dir"])
    print(f"  class labels are from a classifier that is correct on {right:.1%} of test images")


if __name__ == "__main__":
    launch.define(*SETTINGS, **DEFAULTS)
    launch.start(main)
