"""Training of autoencoders: our pieces of training against PyTorch's eager loop of the same model.

Both sides train on the same random images of MNIST's size with the same loss, optimizer and size of
minibatches, in a new order each epoch; ours is the compiled program of one piece of a fit in a run.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import pools
from collapse_jax.arguments import SettingError
from collapse_jax.compiling import compiled
from collapse_jax.families.vae import networks, training
from collapse_jax.family import Training

from .timing import (
    Case,
    finish_peer,
    interleaved,
    peak_rate,
    peer_device,
    significant,
)

_UNIT = "images/s"
_SIDE, _HIDDEN, _LATENT = 28, 400, 20


def cases(repeats: int = 7, images: int = 10_240, chains: int = 8) -> Iterator[Case]:
    """All cases of the suite.

    Args:
      repeats: number of timings, whose median is reported.
      images: images of the training set.
      chains: chains of the case with many chains.
    """
    if not importlib.util.find_spec("torch"):
        raise SettingError(
            "suite: vae compares with PyTorch, which is not installed; install the extra benchmark"
        )
    peak = peak_rate()
    for name, batch, target in (("mlp", 128, ">= 1.6"), ("conv", 256, ">= 1.0, aim 1.3")):
        yield from _speed(
            name,
            batch=batch,
            target=target,
            repeats=repeats,
            images=images,
            chains=chains,
            peak=peak,
        )


def _speed(
    name: str, batch: int, target: str, repeats: int, images: int, chains: int, peak: float
) -> Iterator[Case]:
    one, many = (Ours(name, batch, images, count) for count in (1, chains))
    peer = PyTorch(name, batch, images, one.images)
    times = interleaved([one, peer, many], repeats)
    counts = (one.images, peer.images, many.images)
    rate, peer_rate, rate_of_many = (
        count / elapsed for count, elapsed in zip(counts, times, strict=True)
    )
    floor = peak / (
        3 * networks.multiply_adds(one.model)
    )  # the backward pass costs two forward ones
    extra = {
        "compile_seconds": significant(one.compile_seconds),
        "arithmetic_floor": significant(floor),
        "peak_gigaflops": significant(2 * peak / 1e9),
    }
    yield Case(
        suite="vae",
        case=name,
        ours=rate,
        peer=peer_rate,
        peer_name="PyTorch eager",
        unit=_UNIT,
        extra={**extra, "target": target, "share_of_floor": significant(rate / floor)},
    )
    yield Case(
        suite="vae",
        case=f"{name}, {chains} chains",
        ours=rate_of_many,
        peer=rate,
        peer_name="one chain",
        unit=_UNIT,
        extra={
            **extra,
            "target": ">= 0.91 (8 chains cost <= 8.8 x one)",
            "compile_seconds": significant(many.compile_seconds),
        },
    )


class Ours:
    """One piece of training of every chain.

    Attributes:
      images: number of images that a call trains on.
    """

    def __init__(self, name: str, batch: int, images: int, chains: int) -> None:
        """Compiles, and measures `compile_seconds`."""
        if name == "conv":
            self.model = networks.convolutional(_SIDE, _LATENT)
        else:
            self.model = networks.perceptron(_SIDE, _HIDDEN, _LATENT)
        settings = training.VaeTraining(epochs=10**6, batch=batch)
        steps = training.steps(self.model, settings)
        values = jnp.asarray(_random_images(images))
        keys = jax.random.split(jax.random.key(0, impl="philox4x32"), chains)

        def begin(key: jax.Array) -> Any:
            pool = pools.LiveRows(pools.Rows(values, images), jnp.zeros(0, bool))
            return steps.begin(key, networks.zeros(self.model), Training(pool))

        self._advance = compiled(jax.vmap(steps.advance))
        self._carry = compiled(jax.vmap(begin))(keys)
        began = time.perf_counter()
        after = jax.block_until_ready(self._advance(self._carry))
        self.compile_seconds = time.perf_counter() - began
        self.images = int(np.sum(after.step - self._carry.step)) * batch

    def __call__(self) -> None:
        """The first piece of an epoch."""
        jax.block_until_ready(self._advance(self._carry))


class PyTorch:
    """An eager loop over minibatches."""

    def __init__(self, name: str, batch: int, images: int, at_least: int) -> None:
        """Builds the model; a call trains on about `at_least` images."""
        import torch

        self._values = torch.tensor(_random_images(images), device=peer_device())
        self._batch, self.images = batch, -(-at_least // batch) * batch
        self._module, self._loss = twin(name)
        self._module.to(peer_device())
        torch.backends.cudnn.allow_tf32 = (
            False  # full float32, as in its matrix products and in ours
        )
        self._optimizer = torch.optim.Adam(self._module.parameters(), lr=1e-3, weight_decay=1e-5)

    def __call__(self) -> None:
        """Trains on as many minibatches as ours."""
        import torch

        order = torch.randperm(len(self._values), device=peer_device())
        for step in range(self.images // self._batch):
            start = step * self._batch % (len(order) - self._batch + 1)
            chosen = self._values[order[start : start + self._batch]].float() / 255
            self._optimizer.zero_grad()
            self._loss(chosen).backward()
            self._optimizer.step()
        finish_peer()


def twin(name: str) -> tuple[Any, Callable[[Any], Any]]:
    """The same autoencoder in PyTorch, and its summed loss of f32[B, D]."""
    import torch
    from torch import nn
    from torch.nn import functional

    flat = (_SIDE // 4) ** 2 * 128
    if name == "conv":
        encoder = nn.Sequential(
            nn.Unflatten(1, (1, _SIDE, _SIDE)), nn.Conv2d(1, 64, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        decoder = nn.Sequential(
            nn.Linear(_LATENT, flat), nn.Unflatten(1, (128, _SIDE // 4, _SIDE // 4)),
            nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Flatten(),
        )  # fmt: skip
    else:
        flat = _HIDDEN
        encoder = nn.Sequential(nn.Linear(_SIDE**2, flat), nn.ReLU())
        decoder = nn.Sequential(nn.Linear(_LATENT, flat), nn.ReLU(), nn.Linear(flat, _SIDE**2))
    parts = {
        "encoder": encoder,
        "mean": nn.Linear(flat, _LATENT),
        "log_variance": nn.Linear(flat, _LATENT),
        "decoder": decoder,
    }
    module = nn.ModuleDict(parts)

    def loss(images: Any) -> Any:
        features = encoder(images)
        mean, log_variance = parts["mean"](features), parts["log_variance"](features)
        codes = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        lost = functional.binary_cross_entropy_with_logits(decoder(codes), images, reduction="sum")
        return lost + 0.5 * torch.sum(mean**2 + log_variance.exp() - 1 - log_variance)

    return module, loss


def _random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, _SIDE**2), np.uint8)
