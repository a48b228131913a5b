r"""OPT's network (Zhang et al. 2022) in all sizes; 350m has LayerNorm after and a narrow embedding.

Flax NNX in its functional subset: parameters are nested dicts of arrays with the names of the
published checkpoints, merged with the graph definition inside pure functions. The caller passes
the attention function of each layer, so training, prefill and decoding share the network.
Axis legend: B sequences, T tokens, H width, N heads, D width of a head, V vocabulary.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from collapse_jax.arguments import SettingError
from collapse_jax.lm import layers
from collapse_jax.lm.config import Config

Params = dict[str, Any]
# (queries, keys, values, [B, T, N, D] each, queries scaled) -> mixed values [B, T, N, D]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

OFFSET = 2  # rows of the position embedding before position 0
_MASKED = -1e9  # softmax maps this score to zero, and sums of it stay finite


class Model(NamedTuple):
    """OPT as pure functions of its parameters.

    Attributes:
      config: architecture.
      graph: graph definition, merged with parameters by `nnx.merge`.
      dtype: dtype of activations and matrix products; LayerNorm, softmax and logits are float32.
    """

    config: Config
    graph: Any
    dtype: Any = jnp.float32

    def bind(self, params: Params) -> "Opt":
        """The network with these parameters, for use inside pure functions."""
        return cast("Opt", nnx.merge(self.graph, self.in_dtype(params)))

    def in_dtype(self, params: Params) -> Params:
        """The parameters converted to `dtype`; call it before a loop, not inside."""
        converted: Params = jax.tree.map(lambda leaf: leaf.astype(self.dtype), params)
        return converted


def model(config: Config, dtype: Any = jnp.float32) -> Model:
    """A model of this architecture that computes in float32 or bfloat16.

    Raises:
      ValueError: for another dtype.
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise SettingError(f"dtype: expected float32 or bfloat16, got {jnp.dtype(dtype)}")
    return Model(config, nnx.split(_abstract(config))[0], dtype)


def shapes(config: Config) -> Params:
    """Shapes and dtypes (f32) of the parameters, nested like them."""
    params: Params = nnx.to_pure_dict(nnx.split(_abstract(config))[1])
    return params


def init(config: Config, key: jax.Array) -> Params:
    """Random parameters, f32: weights N(0, init_std^2), biases 0, LayerNorm scales 1."""
    leaves, structure = jax.tree.flatten_with_path(shapes(config))
    random = [_is_weight(path) for path, _ in leaves]
    sizes = [
        math.prod(leaf.shape) if drawn else 0
        for (_, leaf), drawn in zip(leaves, random, strict=True)
    ]
    numbers = config.init_std * jax.random.normal(key, (sum(sizes),))
    made, start = [], 0
    for (path, leaf), size in zip(leaves, sizes, strict=True):
        if size:
            made.append(numbers[start : start + size].reshape(leaf.shape))
            start += size
        else:
            made.append(jnp.full(leaf.shape, float(path[-1].key == "scale"), jnp.float32))
    params = jax.tree.unflatten(structure, made)
    embedding = params["embed_tokens"]["embedding"]
    params["embed_tokens"]["embedding"] = embedding.at[config.pad].set(0.0)
    return params


def parameters(config: Config) -> int:
    """Number of trainable parameters (embedding and output layer are tied and count once)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(config)))


def multiply_adds(config: Config) -> int:
    """Multiply-adds by weights in one token's forward pass, matrix products only."""
    of_layers = config.layers * (4 * config.hidden**2 + 2 * config.hidden * config.inner)
    projections = 2 * config.hidden * config.embedding * (config.embedding != config.hidden)
    return of_layers + projections + config.vocabulary * config.embedding


def _is_weight(path: Any) -> bool:
    return path[-1].key in ("kernel", "embedding")


@functools.cache
def _abstract(config: Config) -> Any:
    return nnx.eval_shape(lambda: Opt(config, nnx.Rngs(0)))


def positions(mask: jax.Array) -> jax.Array:
    """Positions of tokens, not counting padding; -1 for padding; i32[B, T].

    Args:
      mask: 1 for tokens, 0 for padding, [B, T].
    """
    mask = mask.astype(jnp.int32)
    return jnp.cumsum(mask, axis=1) * mask - 1


def causal(mask: jax.Array | None) -> Attend:
    """Causal attention: each token attends to itself and to earlier tokens, not to padding.

    Args:
      mask: 1 for tokens, 0 for padding, [B, T]; None for no padding.
    """

    def attend(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        length = queries.shape[1]
        seen = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if mask is not None:
            seen = seen & mask.astype(bool)[:, None, None, :]
        scores = jnp.einsum("btnd,bsnd->bnts", queries, keys, preferred_element_type=jnp.float32)
        shares = softmax(scores, seen).astype(values.dtype)
        return jnp.einsum("bnts,bsnd->btnd", shares, values)

    return attend


def softmax(scores: jax.Array, seen: jax.Array) -> jax.Array:
    """Softmax along the last axis, f32, zero where not seen; uniform where nothing is seen."""
    return layers.softmax(jnp.where(seen, scores.astype(jnp.float32), _MASKED))


class Opt(nnx.Module):
    """The whole network; attributes are named as in published checkpoints."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed_tokens = nnx.Embed(config.vocabulary, config.embedding, rngs=rngs)
        self.embed_positions = nnx.Embed(config.positions + OFFSET, config.hidden, rngs=rngs)
        if config.embedding != config.hidden:
            linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
            self.project_in = linear(config.embedding, config.hidden)
            self.project_out = linear(config.hidden, config.embedding)
        self.layers = nnx.List([Layer(config, rngs) for _ in range(config.layers)])
        if config.final_norm:
            self.final_layer_norm = layers.LayerNorm(config.hidden)

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Input of the first layer, [B, T, H], from ids and positions i32[B, T]."""
        embedded = self.embed_tokens(tokens)
        if self.config.embedding != self.config.hidden:
            embedded = self.project_in(embedded)
        return embedded + self.embed_positions(positions + OFFSET)

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        attend: Callable[[int], Attend],
        k_dropout: jax.Array | None = None,
        recompute: bool = False,
    ) -> jax.Array:
        """Last hidden states, from which `logits` are computed.

        Args:
          tokens, positions: i32[B, T].
          attend: number of a layer -> its attention function.
          k_dropout: key of dropout, in training; None for no dropout.
          recompute: whether the backward pass recomputes each layer's activations to save memory.

        Returns:
          [B, T, E], E the width of the word embedding.
        """
        stream = self.embed(tokens, positions)
        for number, layer in enumerate(self.layers):
            k_layer = None if k_dropout is None else jax.random.fold_in(k_dropout, number)
            apply = functools.partial(layer, attend=attend(number), k_dropout=k_layer)
            stream = (jax.checkpoint(apply) if recompute else apply)(stream)
        if self.config.final_norm:
            stream = self.final_layer_norm(stream)
        if self.config.embedding != self.config.hidden:
            stream = self.project_out(stream)
        return stream

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits f32[..., V] from last hidden states [..., E]."""
        embedding = self.embed_tokens.embedding[...]
        return jnp.einsum("...e,ve->...v", hidden, embedding, preferred_element_type=jnp.float32)

    def __call__(self, tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Logits of every next token, f32[B, T, V], from ids and mask [B, T]."""
        places = positions(jnp.ones_like(tokens) if mask is None else mask)
        return self.logits(self.hidden(tokens, places, lambda layer: causal(mask)))


class Layer(nnx.Module):
    """A transformer layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.norm_before = config.norm_before
        self.dropout = config.dropout
        self.self_attn = Attention(config, rngs)
        self.self_attn_layer_norm = layers.LayerNorm(config.hidden)
        self.fc1 = nnx.Linear(config.hidden, config.inner, rngs=rngs)
        self.fc2 = nnx.Linear(config.inner, config.hidden, rngs=rngs)
        self.final_layer_norm = layers.LayerNorm(config.hidden)

    def __call__(
        self, stream: jax.Array, *, attend: Attend, k_dropout: jax.Array | None
    ) -> jax.Array:
        """[B, T, H] -> [B, T, H]."""
        k_attention, k_feed_forward = (
            (None, None) if k_dropout is None else jax.random.split(k_dropout)
        )
        attention = functools.partial(self.self_attn, attend=attend)
        stream = self._add(attention, self.self_attn_layer_norm, stream, k_attention)
        return self._add(self._feed_forward, self.final_layer_norm, stream, k_feed_forward)

    def _add(
        self,
        part: Callable[[jax.Array], jax.Array],
        norm: layers.LayerNorm,
        stream: jax.Array,
        k_dropout: jax.Array | None,
    ) -> jax.Array:
        added = _drop(part(norm(stream) if self.norm_before else stream), self.dropout, k_dropout)
        return stream + added if self.norm_before else norm(stream + added)

    def _feed_forward(self, stream: jax.Array) -> jax.Array:
        return self.fc2(layers.relu(self.fc1(stream)))


class Attention(nnx.Module):
    """Multi-head attention: projections to queries, keys and values, and the output projection."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        self.heads, self.head_size = config.heads, config.head_size
        linear = functools.partial(nnx.Linear, config.hidden, config.hidden, rngs=rngs)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (linear() for _ in range(4))

    def __call__(self, stream: jax.Array, *, attend: Attend) -> jax.Array:
        """[B, T, H] -> [B, T, H]."""
        shape = (*stream.shape[:2], self.heads, self.head_size)
        queries = (self.q_proj(stream) * self.head_size**-0.5).reshape(shape)
        keys, values = (proj(stream).reshape(shape) for proj in (self.k_proj, self.v_proj))
        return self.out_proj(attend(queries, keys, values).reshape(stream.shape))


def _drop(values: jax.Array, share: float, key: jax.Array | None) -> jax.Array:
    if key is None or not share:
        return values
    kept = jax.random.bernoulli(key, 1.0 - share, values.shape)
    return jnp.where(kept, values / (1.0 - share), 0.0)
