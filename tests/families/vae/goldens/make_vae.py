"""Writes vae.json: PyTorch's results for given weights, images and noise.

python -m tests.families.vae.goldens.make_vae, with the benchmark extra installed.
"""

import json
from pathlib import Path

import numpy as np

from experiments.benchmarks.vae import twin
from tests.families.vae.twins import LATENT, NETWORKS, inputs, load_into, weights


def outputs(name):
    """Encoder, decoder, loss and the norms of its gradients, from PyTorch."""
    import torch  # not at the top: doctests import this file, and PyTorch may not be installed

    module, loss = twin(name)
    load_into(module, name, weights(NETWORKS[name]))
    images, noise = (torch.tensor(array) for array in inputs())
    original = torch.randn_like
    torch.randn_like = lambda mean: noise
    try:
        total = loss(images)
    finally:
        torch.randn_like = original
    total.backward()
    features = module["encoder"](images)
    arrays = {
        "mean": module["mean"](features),
        "log_variance": module["log_variance"](features),
        "logits": module["decoder"](noise)[:, ::16],
    }
    gradients = {key: float(parameter.grad.norm()) for key, parameter in module.named_parameters()}
    return {
        "loss": float(total.detach()),
        "gradients": gradients,
        **{key: np.round(array.detach().numpy().astype(float), 7).tolist()
           for key, array in arrays.items()},
    }  # fmt: skip


if __name__ == "__main__":
    assert inputs()[1].shape[1] == LATENT
    path = Path(__file__).with_name("vae.json")
    path.write_text(json.dumps({name: outputs(name) for name in NETWORKS}) + "\n")
