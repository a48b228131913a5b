"""Convolutions as matrix products against XLA's, including gradients and vmap over chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.numerics import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")


def reference_halved(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=LAYOUT
    )


def reference_doubled(images, kernel):
    # Input dilation 2, and the kernel reversed.
    return jax.lax.conv_general_dilated(
        images, kernel[::-1, ::-1], (1, 1), [(2, 2), (2, 2)],
        lhs_dilation=(2, 2), dimension_numbers=LAYOUT,
    )  # fmt: skip


CASES = [
    (convolution.halved, reference_halved, (5, 8, 12, 3)),
    (convolution.doubled, reference_doubled, (5, 4, 6, 3)),
    (convolution.halved, reference_halved, (2, 28, 28, 1)),
    (convolution.doubled, reference_doubled, (2, 7, 7, 128)),
]


@pytest.mark.parametrize(("ours", "reference", "shape"), CASES)
def test_values_and_gradients_are_those_of_xla(ours, reference, shape):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((4, 4, shape[-1], 7)), jnp.float32)

    def value_and_gradients(function):
        def loss(images, kernel):
            result = function(images, kernel)
            return jnp.sum(jnp.sin(result)), result

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(images, kernel)

    for got, wanted in zip(
        jax.tree.leaves(value_and_gradients(ours)),
        jax.tree.leaves(value_and_gradients(reference)),
        strict=True,
    ):
        assert got.shape == wanted.shape
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got / scale, wanted / scale, atol=1e-5)


@pytest.mark.parametrize(("ours", "reference", "shape"), CASES)
def test_chains_with_weights_of_their_own_become_no_grouped_convolution(ours, reference, shape):
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.standard_normal((2, *shape)), jnp.float32)
    kernels = jnp.asarray(rng.standard_normal((2, 4, 4, shape[-1], 7)), jnp.float32)
    lowered = jax.jit(jax.vmap(ours)).lower(images, kernels)
    assert "convolution" not in lowered.as_text()
    together = lowered.compile()(images, kernels)
    for chain in range(2):
        alone = reference(images[chain], kernels[chain])
        scale = np.abs(alone).max()
        np.testing.assert_allclose(together[chain] / scale, alone / scale, atol=1e-5)
