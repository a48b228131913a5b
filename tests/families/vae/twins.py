"""Autoencoders with given weights, on our side and as PyTorch modules."""

import numpy as np

from collapse_jax.families.vae import networks

LATENT = 20
NETWORKS = {"conv": networks.convolutional(), "mlp": networks.perceptron()}
# our layer -> its place in the twin
PLACES = {
    "conv": {
        "down_1": "encoder.1", "down_2": "encoder.3", "mean": "mean",
        "log_variance": "log_variance", "expand": "decoder.0", "up_1": "decoder.2",
        "up_2": "decoder.4",
    },
    "mlp": {
        "inward": "encoder.0", "mean": "mean", "log_variance": "log_variance",
        "outward": "decoder.0", "logits": "decoder.2",
    },
}  # fmt: skip


def weights(network):
    """Normal weights of a scale at which every layer matters, the same on every machine."""
    rng = np.random.default_rng(7)
    shapes = networks.zeros(network)
    return {
        layer: {
            kind: (0.05 * rng.standard_normal(shapes[layer][kind].shape)).astype(np.float32)
            for kind in ("bias", "kernel")
        }
        for layer in sorted(shapes)
    }


def inputs():
    """Images f32[5, 784] in [0, 1] and noise f32[5, 20]."""
    rng = np.random.default_rng(8)
    images = rng.random((5, 784)).astype(np.float32)
    return images, rng.standard_normal((5, LATENT)).astype(np.float32)


def in_torch_layout(name, layer, kernel):
    """Kernels in PyTorch's layout; its maps are flattened channel by channel."""
    if kernel.ndim == 4:
        # HWIO to OIHW; a transposed convolution's to IOHW.
        axes = (2, 3, 0, 1) if layer.startswith("up") else (3, 2, 0, 1)
        return kernel.transpose(axes)
    if name == "conv":
        if layer == "expand":
            return kernel.reshape(LATENT, 7, 7, 128).transpose(3, 1, 2, 0).reshape(-1, LATENT)
        return kernel.reshape(7, 7, 128, LATENT).transpose(3, 2, 0, 1).reshape(LATENT, -1)
    return kernel.T


def load_into(module, name, params):
    import torch

    state = {}
    for layer, place in PLACES[name].items():
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        if (name, layer) == ("conv", "expand"):
            bias = bias.reshape(7, 7, 128).transpose(2, 0, 1).ravel()
        laid_out = np.ascontiguousarray(in_torch_layout(name, layer, kernel))
        state[f"{place}.weight"] = torch.tensor(laid_out)
        state[f"{place}.bias"] = torch.tensor(np.ascontiguousarray(bias))
    module.load_state_dict(state)
