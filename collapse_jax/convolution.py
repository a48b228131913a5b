"""Convolutions of kernel 4, stride 2 and padding 1 as patches and one matrix product.

XLA's own convolution is slow inside a loop on CPU, and under `vmap` with weights by chain it
becomes a grouped convolution, slow everywhere; a product of matrices becomes a batched product. A
kernel's rows 2i + a and columns 2j + b (i, j, a, b in {0, 1}) split into blocks (i, j) of pixels
(a, b): once 2x2 pixels are made channels, a stride of 2 is one of 1 and the kernel is 2x2.
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
    patches = jnp.concatenate(
        [blocks[:, i : i + high, j : j + wide] for i in (0, 1) for j in (0, 1)], axis=-1
    )
    weights = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    products = patches.reshape(-1, 16 * channels) @ weights.reshape(16 * channels, -1)
    return products.reshape(count, high, wide, -1)


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
    weights = kernel.reshape(2, 2, 2, 2, channels, out).transpose(4, 0, 2, 1, 3, 5)
    products = images.reshape(-1, channels) @ weights.reshape(channels, 16 * out)
    products = products.reshape(count, height, width, 2, 2, 2, 2, out)
    total = jnp.zeros((count, 2 * height + 2, 2 * width + 2, out), images.dtype)
    for i in (0, 1):
        for j in (0, 1):
            block = products[:, :, :, i, j].transpose(0, 1, 3, 2, 4, 5)
            block = block.reshape(count, 2 * height, 2 * width, out)
            around = ((0, 0), (2 * i, 2 - 2 * i), (2 * j, 2 - 2 * j), (0, 0))
            total += jnp.pad(block, around)
    return total[:, 1:-1, 1:-1]
