"""Hand-written gradients against automatic differentiation of the definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collapse_jax.lm import cross_entropy, finetune, layers

N, E, V = 11, 6, 23


def random(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def assert_same_gradients(ours, definition, inputs, dtype=jnp.float32):
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    found, expected = (
        jax.jit(jax.value_and_grad(f, range(len(inputs)))) for f in (ours, definition)
    )
    loss, gradients = found(*(x.astype(dtype) for x in inputs))
    expected_loss, wanted = expected(*inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance, atol=tolerance)
    for gradient, target in zip(gradients, wanted, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(
            gradient.astype(jnp.float32), target, rtol=tolerance, atol=tolerance
        )


def normalised(inputs, scale, bias):
    mean = inputs.mean(axis=-1, keepdims=True)
    spread = jnp.sqrt(inputs.var(axis=-1, keepdims=True) + 1e-5)
    return (inputs - mean) / spread * scale + bias


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm(dtype):
    weights, inputs, scale, bias = random(0, (2, 5, E), (2, 5, E), (E,), (E,))

    def loss(norm, *inputs):
        return jnp.sum(weights * norm(*inputs)) / 10

    assert_same_gradients(
        functools.partial(loss, layers._normalised), functools.partial(loss, normalised),
        (inputs, scale, bias), dtype,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["relu", "softmax"])
def test_activations(name):
    weights, inputs = random(1, (4, V), (4, V))
    inputs = inputs.at[0, 0].set(0.0)
    ours, theirs = getattr(layers, name), getattr(jax.nn, name)
    assert_same_gradients(
        lambda x: jnp.sum(weights * ours(x)), lambda x: jnp.sum(weights * theirs(x)), (inputs,)
    )


@pytest.mark.parametrize("chunk", [0, 4, 11, 40])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mean_loss(chunk, dtype):
    hidden, words = random(2, (N, E), (V, E))
    targets = jax.random.randint(jax.random.key(3), (N,), 0, V)

    def definition(hidden, words):
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ words.T, targets).mean()

    def ours(hidden, words):
        return cross_entropy.mean_loss(hidden, words, targets, chunk)

    for factor in (1.0, -3.0):
        assert_same_gradients(
            lambda *x, factor=factor: factor * ours(*x),
            lambda *x, factor=factor: factor * definition(*x),
            (hidden, words), dtype,
        )  # fmt: skip
    lost = cross_entropy.losses(hidden.astype(dtype), words.astype(dtype), targets, chunk)
    assert lost.shape == (N,)
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(lost.mean(), definition(hidden, words), rtol=tolerance)


def test_mean_loss_of_several_chains():
    hidden, words = random(4, (3, N, E), (3, V, E))
    targets = jax.random.randint(jax.random.key(5), (3, N), 0, V)
    gradient = jax.grad(functools.partial(cross_entropy.mean_loss, chunk=4), (0, 1))
    together = jax.jit(jax.vmap(gradient))(hidden, words, targets)
    for i in range(3):
        alone = gradient(hidden[i], words[i], targets[i])
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_clipping_is_optaxs(largest):
    gradients = dict(zip("ab", random(6, (3, 2), (4,)), strict=True))
    clipping = (finetune._clipped(largest), optax.clip_by_global_norm(largest))
    ours, theirs = (t.update(gradients, t.init(gradients))[0] for t in clipping)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    none = jax.tree.map(jnp.zeros_like, gradients)
    found, _ = clipping[0].update(none, clipping[0].init(none))
    assert all(not leaf.any() for leaf in jax.tree.leaves(found))
    diverged = {**gradients, "a": gradients["a"].at[0, 0].set(jnp.nan)}
    found, _ = clipping[0].update(diverged, clipping[0].init(diverged))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))
