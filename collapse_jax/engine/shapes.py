"""Shapes of a generation: the sizes a program is compiled for, and the state it returns.

Axis legend: t generations of a record.
"""

from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax.engine import chain
from collapse_jax.engine.chain import ChainState
from collapse_jax.family import Family, Request
from collapse_jax.regimes import Regime, Sizes

# Requests of `Sizes` in the order of their counts, i32[5] or i32[t, 5].
REQUESTS = ("synthetic", "fresh", "reused", "previous", "training")


def counts(sizes: Sizes) -> list[int]:
    """Counts of a generation's requests, in the order of REQUESTS."""
    return [getattr(sizes, name).count for name in REQUESTS]


def shape_of(family: Family, regime: Regime, number: int) -> Sizes:
    """The sizes for which the program of a generation is compiled.

    Counts that a schedule may change are replaced by -1 and passed at run time, so that one program
    serves all generations with the same capacities.
    """
    sizes = regime.sizes(number)
    if number == 0:
        return sizes
    one, two = regime.sizes(1), regime.sizes(2)

    def fixed_or_open(name: str) -> Request:
        request = getattr(sizes, name)
        fixed = regime.constant_samples and getattr(one, name).count == getattr(two, name).count
        return request if fixed else Request(-1, request.capacity if grows else bool(request))

    grows = family.pools.bytes(1) is not None
    requests: dict[str, Any] = {name: fixed_or_open(name) for name in REQUESTS}
    shape = sizes._replace(**requests)
    return shape if grows else shape._replace(capacity=0)


def fill(shape: Sizes, values: jax.Array) -> Sizes:
    """A program's sizes at one generation, with open counts taken from i32[5]."""
    requests: dict[str, Any] = {
        name: getattr(shape, name)._replace(count=values[i])
        for i, name in enumerate(REQUESTS)
        if getattr(shape, name).count == -1
    }
    return shape._replace(**requests)


def abstract_chain(family: Family, regime: Regime, number: int, root: jax.Array) -> Any:
    """Shapes and dtypes of one chain's state and metrics after generation `number`."""

    def first(key):
        sizes = regime.sizes(0)
        return chain.generation(family, regime, sizes, key=key, number=0, state=None)

    state, metrics, _ = jax.eval_shape(first, root)
    if number == 0:
        return state, metrics
    shape = shape_of(family, regime, number)
    values = jax.ShapeDtypeStruct((len(REQUESTS),), jnp.int32)

    def later(key, state, values):
        sizes = fill(shape, values)
        grown = with_capacity(family, state, shape)
        return chain.generation(family, regime, sizes, key=key, number=jnp.int32(1), state=grown)

    state, metrics, _ = jax.eval_shape(later, root, state, values)
    return state, metrics


def with_capacity(family: Family, state: ChainState, shape: Sizes) -> ChainState:
    """One chain's state, with `kept` grown to the capacity of this shape."""
    if state.kept is None:
        return state
    return state._replace(kept=family.pools.grow(state.kept, shape.capacity))
