"""How a function of one chain is run on many, where plain `jax.vmap` would waste work."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_turn(
    function: Callable[..., Any], together: int = 1, always: bool = False
) -> Callable[..., Any]:
    """The function, which under `jax.vmap` on a CPU runs for one chain after the other.

    For functions with a loop whose length depends on the data: under a plain `vmap` all chains turn
    until the last is done, and their data leave the cache between turns. On GPU and TPU nothing
    changes, if not asked for.

    Args:
      function: of arrays or pytrees of arrays; closes over no traced value.
      together: chains that run at a time, under a plain `vmap`.
      always: whether also on GPU and TPU: for a chain that fills a device, and a loop that updates
        large arrays in place, which a batched condition would make it copy.
    """
    if jax.default_backend() != "cpu" and not always:
        return function
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(axis_size: int, in_batched: list[Any], *inputs: Any) -> tuple[Any, Any]:
        def spread(batch: bool, leaf: Any) -> Any:
            return leaf if batch else jnp.broadcast_to(leaf, (axis_size, *jnp.shape(leaf)))

        leaves, structure = jax.tree.flatten(inputs)
        spread_out = [
            spread(batch, leaf)
            for batch, leaf in zip(jax.tree.leaves(in_batched), leaves, strict=True)
        ]
        outputs = jax.lax.map(
            lambda leaves: function(*jax.tree.unflatten(structure, leaves)),
            spread_out,
            batch_size=together if together > 1 else None,
        )
        return outputs, jax.tree.map(lambda _: True, outputs)

    return functools.wraps(function)(batched)
