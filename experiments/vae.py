r"""Variational autoencoders trained on their own images, again and again.

Claim (Shumailov et al. 2024): trained on what the model before generated, an autoencoder of MNIST
loses the shape of its latent space; seen through generation 0's encoder its images draw together
until the digits are one blur. On 10,000 MNIST images with 10 epochs the standard deviation of that
encoder's mean falls from 0.95 at generation 0 to 0.74 at generation 4, and to 0.79 if a tenth of
original images is kept (docs/results.md; 3 chains, 45 minutes on 2 cores each). `quick` (8x8
digits, a perceptron; less than a minute):

  python -m experiments.vae --flagfile=experiments/presets/vae_quick.flags --workdir=runs/vae

The paper's settings (MNIST, the convolutional model, 30 epochs, generations 0 to 20, 5 chains): 189
million images, for which two cores need three days; meant for a GPU or TPU, interrupted at will:

  python -m experiments.vae --flagfile=experiments/presets/vae_paper.flags --workdir=runs/vae_paper
"""

import dataclasses

from collapse_jax.config import RegimeConfig, RunConfig, SnapshotConfig, from_flags

from . import launch
from .family_flags import VaeConfig


def main() -> None:
    """Runs the experiment that the flags describe."""
    from collapse_jax.families import vae
    from collapse_jax.families.vae import classifier

    config, snapshots = from_flags(VaeConfig), from_flags(SnapshotConfig).generations
    family = vae(**dataclasses.asdict(config))
    regime = launch.regime(from_flags(RegimeConfig))
    launch.run(family, regime, from_flags(RunConfig), snapshots)
    _, right = classifier.train(config.dataset, config.data_dir)
    print(f"  classes are told by a classifier that is right on {right:.1%} of test images")


if __name__ == "__main__":
    launch.define(
        VaeConfig, SnapshotConfig, RegimeConfig, RunConfig,
        samples="1437", chains=4, generations=10, checkpoint_every=1, snapshots="0,5,10,20",
    )  # fmt: skip
    launch.start(main)
