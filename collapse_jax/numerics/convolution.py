"""Convolutions of kernel 4, stride 2 and padding 1 as four matrix products.

XLA's convolution is slow inside a loop on CPU, and under `vmap` over chains' weights it becomes a
grouped convolution, which is slow everywhere; matrix products become batched products. The
kernel's rows 2i + a and columns 2j + b (i, j, a, b in {0, 1}) split into blocks (i, j) of pixels
(a, b): with 2x2 pixels as channels, stride 2 becomes stride 1 and the kernel 2x2, that is, four
products of shifted images. (One product of concatenated patches would move more memory.)
Axis legend: B images, H and W pixels, C channels in, O channels out.
"""

import jax
import jax.numpy as jnp

KERNEL = 4  # pixels; the stride is 2 and the padding 1


def halved(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution that halves height and width.

    Equal to `lax.conv_general_dilated(images, kernel, (2, 2), [(1, 1), (1, 1)])` in NHWC and HWIO.

    Args:
      images: f[B, H, W, C], H and W even.
      kernel: f[4, 4, C, O].

    Returns:
      f[B, H/2, W/2, O].
    """
    count, height, width, channels = images.shape
    high, wide = height // 2, width // 2
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    blocks = padded.reshape(count, high + 1, 2, wide + 1, 2, channels)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(count, high + 1, wide + 1, 4 * channels)
    # O first: on CPU the product in the gradient is twice as fast with its shorter side first.
    weights = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 5, 1, 3, 4)
    weights = weights.reshape(2, 2, -1, 4 * channels)
    total = jnp.float32(0.0)
    for i in (0, 1):
        for j in (0, 1):
            rows = blocks[:, i : i + high, j : j + wide].reshape(-1, 4 * channels)
            total += jnp.einsum("rk,ok->ro", rows, weights[i, j])
    return total.reshape(count, high, wide, -1)


def doubled(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transposed convolution that doubles height and width, as PyTorch's ConvTranspose2d.

    The gradient of `halved` with respect to its images, for the kernel with its last two axes
    exchanged: each pixel adds its channels times the kernel to the 4x4 pixels around it.

    Args:
      images: f[B, H, W, C].
      kernel: f[4, 4, C, O].

    Returns:
      f[B, 2H, 2W, O].
    """
    count, height, width, channels = images.shape
    out = kernel.shape[-1]
    weights = kernel.reshape(2, 2, 2, 2, channels, out).transpose(0, 2, 4, 1, 3, 5)
    weights = weights.reshape(2, 2, channels, 4 * out)
    rows = images.reshape(-1, channels)
    blocks = jnp.float32(0.0)
    for i in (0, 1):
        for j in (0, 1):
            products = (rows @ weights[i, j]).reshape(count, height, width, 4 * out)
            blocks += jnp.pad(products, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0)))
    total = blocks.reshape(count, height + 1, width + 1, 2, 2, out).transpose(0, 1, 3, 2, 4, 5)
    return total.reshape(count, 2 * height + 2, 2 * width + 2, out)[:, 1:-1, 1:-1]
