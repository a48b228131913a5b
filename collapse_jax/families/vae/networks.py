r"""The variational autoencoders (Kingma & Welling 2014) and their loss.

`convolutional` is the network of Shumailov et al. 2024, with 647,081 parameters for MNIST;
`perceptron` is a small one for quick runs. Flax NNX is used functionally: parameters are nested
dicts of arrays, merged with the graph definition inside pure functions.
Axis legend: B images of a minibatch, D pixels (row by row), L latent.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
from collapse_jax.numerics import convolution

Params = dict[str, Any]
Reconstruction = Literal["bernoulli", "gaussian"]
_WIDTHS = (64, 128)  # channels after the two convolutions, as in the paper


class Terms(NamedTuple):
    """The two terms of the negative evidence lower bound of each image, nats."""

    reconstruction: jax.Array  # f32[B]
    kl: jax.Array  # f32[B], KL(q(z | x) || N(0, I))


class Autoencoder(NamedTuple):
    """An autoencoder as pure functions of its parameters.

    Attributes:
      name: "conv" or "mlp".
      pixels: D.
      latent: L.
      init: (key) -> params, weights and biases uniform within +-1/sqrt(fan-in), as PyTorch
        initialises the paper's layers.
      encode: (params, f32[B, D]) -> mean and log-variance of q(z | x), f32[B, L] each.
      decode: (params, f32[B, L]) -> logits of pixels, f32[B, D].
    """

    name: str
    pixels: int
    latent: int
    init: Callable[[jax.Array], Params]
    encode: Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Params, jax.Array], jax.Array]


class _Autoencoder(Protocol):
    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]: ...  # noqa: D102

    def decode(self, codes: jax.Array) -> jax.Array: ...  # noqa: D102


def convolutional(side: int = 28, latent: int = 20) -> Autoencoder:
    """The paper's convolutional autoencoder, for square images of `side` pixels.

    Raises:
      ValueError: if the side is not a multiple of 4, or the latent dimension is below 1.
    """
    if side % 4 or side < 4:
        raise SettingError(
            f"model: expected images of a side divisible by 4 for conv, got {side} pixels"
        )
    return _model("conv", side, latent, lambda rngs: _Convolutional(side, latent, rngs))


def perceptron(side: int = 28, hidden: int = 400, latent: int = 20) -> Autoencoder:
    """A perceptron with one hidden layer in encoder and decoder (784-400-20 for MNIST).

    Raises:
      ValueError: if a layer has no units.
    """
    hidden = arguments.integer("hidden", hidden, at_least=1)
    return _model("mlp", side, latent, lambda rngs: _Perceptron(side * side, hidden, latent, rngs))


def _model(
    name: str, side: int, latent: int, build: Callable[[nnx.Rngs], _Autoencoder]
) -> Autoencoder:
    latent = arguments.integer("latent", latent, at_least=1)
    module = build(nnx.Rngs(0))
    graph, state = nnx.split(module)
    bounds, structure = jax.tree.flatten(jax.tree.map(np.asarray, nnx.to_pure_dict(state)))
    sizes = [leaf.size for leaf in bounds]

    def init(key: jax.Array) -> Params:
        # All in one draw, which compiles several times as fast as one for each layer.
        drawn = jax.random.uniform(key, (sum(sizes),), minval=-1.0, maxval=1.0)
        parts = jnp.split(drawn, np.cumsum(sizes)[:-1])
        leaves = [
            float(bound.flat[0]) * part.reshape(bound.shape)
            for bound, part in zip(bounds, parts, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

    def encode(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nnx.merge(graph, params).encode(images)

    def decode(params: Params, codes: jax.Array) -> jax.Array:
        return nnx.merge(graph, params).decode(codes)

    return Autoencoder(
        name=name, pixels=side * side, latent=latent, init=init, encode=encode, decode=decode
    )


def zeros(model: Autoencoder) -> Params:
    """Parameters before the first fit, which does not use them."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _shapes(model))


def parameter_count(model: Autoencoder) -> int:
    """Number of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_shapes(model)))


def multiply_adds(model: Autoencoder) -> int:
    """Multiply-adds of encoding and decoding one image, matrix products only."""
    side = math.isqrt(model.pixels)
    total = 0
    for name, layer in _shapes(model).items():
        # A convolution's kernel is applied once per pixel of its smaller maps.
        places = {"down_1": side // 2, "up_2": side // 2, "down_2": side // 4, "up_1": side // 4}
        total += math.prod(layer["kernel"].shape) * places.get(name, 1) ** 2
    return total


def _shapes(model: Autoencoder) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0))


def terms(
    model: Autoencoder,
    params: Params,
    noise: jax.Array,
    images: jax.Array,
    reconstruction: Reconstruction,
) -> Terms:
    r"""The negative evidence lower bound with one draw of z by the reparameterisation trick.

    Args:
      model, params: the autoencoder.
      noise: standard normal noise of z, f32[B, L].
      images: f32[B, D] in [0, 1].
      reconstruction: "bernoulli", $-\sum_i x_i \ln \hat x_i + (1 - x_i) \ln(1 - \hat x_i)$ as in
        the paper, or "gaussian", $\frac12 \sum_i (x_i - \hat x_i)^2$ (unit variance, without the
        constant $\frac D2 \ln 2\pi$).
    """
    mean, log_variance = model.encode(params, images)
    logits = model.decode(params, mean + jnp.exp(0.5 * log_variance) * noise)
    if reconstruction == "bernoulli":
        loss = jnp.sum(jax.nn.softplus(logits) - images * logits, axis=1)
    else:
        loss = 0.5 * jnp.sum((images - jax.nn.sigmoid(logits)) ** 2, axis=1)
    return Terms(loss, kl(mean, log_variance))


def kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    r"""$KL(N(\mu, \sigma^2) || N(0, I)) = \frac12 \sum (\mu^2 + \sigma^2 - 1 - \ln \sigma^2)$.

    Args:
      mean, log_variance: f32[B, L].

    Returns:
      f32[B], nats (Kingma & Welling 2014, appendix B).
    """
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance, axis=1)


def means(model: Autoencoder, params: Params, codes: jax.Array) -> jax.Array:
    """Mean pixels f32[B, D] in (0, 1), decoded from codes f32[B, L]."""
    return jax.nn.sigmoid(model.decode(params, codes))


def pixels(means: jax.Array, key: jax.Array | None) -> jax.Array:
    """Bernoulli draws of pixels with these means, or the means themselves if key is None."""
    return means if key is None else jax.random.bernoulli(key, means).astype(jnp.float32)


# Modules are created with each parameter equal to the bound of its draw in `Autoencoder.init`.


class _Convolutional(nnx.Module):
    """Conv(1, 64, 128) - linear to 2L; linear - transposed Conv(128, 64, 1)."""

    def __init__(self, side: int, latent: int, rngs: nnx.Rngs) -> None:
        first, second = _WIDTHS
        self.side = side // 4
        flat = self.side * self.side * second
        self.down_1 = _Halve(1, first)
        self.down_2 = _Halve(first, second)
        self.mean = _linear(flat, latent, rngs)
        self.log_variance = _linear(flat, latent, rngs)
        self.expand = _linear(latent, flat, rngs)
        self.up_1 = _Double(second, first)
        self.up_2 = _Double(first, 1)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = images.shape[0]
        maps = images.reshape(count, 4 * self.side, 4 * self.side, 1)
        maps = jax.nn.relu(self.down_2(jax.nn.relu(self.down_1(maps))))
        features = maps.reshape(count, -1)
        return self.mean(features), self.log_variance(features)

    def decode(self, codes: jax.Array) -> jax.Array:
        count = codes.shape[0]
        maps = self.expand(codes).reshape(count, self.side, self.side, -1)
        return self.up_2(jax.nn.relu(self.up_1(maps))).reshape(count, -1)


class _Perceptron(nnx.Module):
    """D - hidden - 2L; L - hidden - D."""

    def __init__(self, pixels: int, hidden: int, latent: int, rngs: nnx.Rngs) -> None:
        self.inward = _linear(pixels, hidden, rngs)
        self.mean = _linear(hidden, latent, rngs)
        self.log_variance = _linear(hidden, latent, rngs)
        self.outward = _linear(latent, hidden, rngs)
        self.logits = _linear(hidden, pixels, rngs)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = jax.nn.relu(self.inward(images))
        return self.mean(features), self.log_variance(features)

    def decode(self, codes: jax.Array) -> jax.Array:
        return self.logits(jax.nn.relu(self.outward(codes)))


class _Halve(nnx.Module):
    """Convolution of kernel 4, stride 2, padding 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.kernel, self.bias = _kernel_and_bias(inputs, outputs, inputs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        return convolution.halved(maps, self.kernel[...]) + self.bias[...]


class _Double(nnx.Module):
    """Transposed convolution of kernel 4, stride 2, padding 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        # PyTorch counts the fan-in of a transposed convolution over its outputs.
        self.kernel, self.bias = _kernel_and_bias(inputs, outputs, outputs)

    def __call__(self, maps: jax.Array) -> jax.Array:
        return convolution.doubled(maps, self.kernel[...]) + self.bias[...]


def _kernel_and_bias(
    inputs: int, outputs: int, fan_in: int
) -> tuple[nnx.Param[jax.Array], nnx.Param[jax.Array]]:
    bound = 1.0 / math.sqrt(fan_in * convolution.KERNEL**2)
    shape = (convolution.KERNEL, convolution.KERNEL, inputs, outputs)
    return nnx.Param(jnp.full(shape, bound)), nnx.Param(jnp.full(outputs, bound))


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    bound = nnx.initializers.constant(1.0 / math.sqrt(inputs))
    return nnx.Linear(inputs, outputs, kernel_init=bound, bias_init=bound, rngs=rngs)
