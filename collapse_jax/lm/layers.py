"""LayerNorm, ReLU and softmax with memory-saving gradients: one stored array instead of 2 or 3.

LayerNorm stores its input, and one mean and one precision per row; ReLU and softmax store their
output, which the next product stores anyway. Optimization barriers keep XLA from storing further
arrays of the forward pass; on CPU they take effect only under `compiling.compiled`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

_EPSILON = 1e-5


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), in float32."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, stream: jax.Array) -> jax.Array:
        """[..., H] -> [..., H]."""
        normal: jax.Array = _normalised(stream, self.scale[...], self.bias[...])
        return normal


@jax.custom_jvp
def relu(inputs: jax.Array) -> jax.Array:
    """max(0, x)."""
    return jax.lax.optimization_barrier(jnp.maximum(inputs, 0))


@relu.defjvp
def _relu_jvp(primals: Any, tangents: Any) -> Any:
    outputs = relu(*primals)
    return outputs, jnp.where(outputs > 0, tangents[0], 0)


@jax.custom_jvp
def softmax(scores: jax.Array) -> jax.Array:
    """Softmax along the last axis."""
    return jax.lax.optimization_barrier(jax.nn.softmax(scores, axis=-1))


@softmax.defjvp
def _softmax_jvp(primals: Any, tangents: Any) -> Any:
    shares, (tangent,) = softmax(*primals), tangents
    return shares, shares * (tangent - jnp.sum(shares * tangent, axis=-1, keepdims=True))


@jax.custom_vjp
def _normalised(inputs: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return _forward(inputs, scale, bias)[0]


def _forward(inputs: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
    mean = jnp.mean(inputs, axis=-1, keepdims=True, dtype=jnp.float32)
    variance = jnp.mean((inputs - mean) ** 2, axis=-1, keepdims=True)
    precision = jax.lax.rsqrt(variance + _EPSILON)  # 1 / standard deviation
    outputs = ((inputs - mean) * precision * scale + bias).astype(inputs.dtype)
    return outputs, (inputs, scale, mean, precision)


def _backward(kept: Any, of_outputs: jax.Array) -> Any:
    # The barrier includes the incoming gradient, so that no work starts before it arrives.
    (inputs, scale, mean, precision), of_outputs = jax.lax.optimization_barrier((kept, of_outputs))
    normal, of_outputs = (inputs - mean) * precision, of_outputs.astype(jnp.float32)
    of_normal = of_outputs * scale
    along = jnp.mean(of_normal * normal, axis=-1, keepdims=True)
    of_inputs = precision * (of_normal - of_normal.mean(axis=-1, keepdims=True) - normal * along)
    rows = tuple(range(inputs.ndim - 1))
    of_scale, of_bias = jnp.sum(of_outputs * normal, axis=rows), jnp.sum(of_outputs, axis=rows)
    # All parameters have one dtype, see `Model.in_dtype`.
    return (
        of_inputs.astype(inputs.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype),
    )  # fmt: skip


_normalised.defvjp(_forward, _backward)
