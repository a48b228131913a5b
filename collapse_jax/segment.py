"""Compiled programs over batches of chains: generation 0, and a segment of later generations.

A program works on one whole batch on one device, so the arithmetic of a batch, and with it every
bit of the result, does not depend on how many devices there are.
Axis legend: n chains of a batch, t generations of a record.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import chain
from collapse_jax.chain import ChainState
from collapse_jax.family import Family, Request
from collapse_jax.parallel import compiled
from collapse_jax.recording import Record, Recorder
from collapse_jax.regimes import Regime, Sizes

# Generations between looks at signals, at most: long enough for the overhead of a call not to
# matter. The same for all runs: a program serves runs of any length.
LONGEST = 64
# counts of a Sizes' requests, in order: i32[5] or i32[t, 5]
_REQUESTS = ("synthetic", "fresh", "reused", "previous", "training")


def counts(sizes: Sizes) -> list[int]:
    """The counts of a generation's requests, in the order that programs take them."""
    return [getattr(sizes, name).count for name in _REQUESTS]


def shape_of(family: Family, regime: Regime, number: int) -> Sizes:
    """The sizes that a program for this generation is compiled for.

    Counts that a schedule may change later on are replaced by -1 and passed at run time, so that
    one program serves all generations of the same capacities.
    """
    sizes = regime.sizes(number)
    if number == 0:
        return sizes
    one, two = regime.sizes(1), regime.sizes(2)

    def settle(name: str) -> Request:
        request = getattr(sizes, name)
        fixed = regime.constant_samples and getattr(one, name).count == getattr(two, name).count
        return request if fixed else Request(-1, request.capacity if grows else bool(request))

    grows = family.pools.bytes(1) is not None
    settled: dict[str, Any] = {name: settle(name) for name in _REQUESTS}
    shape = sizes._replace(**settled)
    return shape if grows else shape._replace(capacity=0)


def fill(shape: Sizes, values: jax.Array) -> Sizes:
    """A program's sizes at one generation: the counts left open, from i32[5]."""
    requests: dict[str, Any] = {
        name: getattr(shape, name)._replace(count=values[i])
        for i, name in enumerate(_REQUESTS)
        if getattr(shape, name).count == -1
    }
    return shape._replace(**requests)


def first_program(
    family: Family, regime: Regime, recorder: Recorder
) -> Callable[..., tuple[ChainState, Record]]:
    """Generation 0: (root key, chain numbers i32[n], valid bool[n]) -> (state, record)."""
    sizes = regime.sizes(0)

    def batch(root: jax.Array, numbers: jax.Array, valid: jax.Array) -> tuple[ChainState, Record]:
        def one(number: jax.Array) -> Any:
            key = chain.chain_key(root, number)
            return chain.generation(family, regime, sizes, key, 0, None)

        state, metrics, finite = jax.vmap(one)(numbers)
        record = recorder.empty(1, numbers.shape[0])
        return state, recorder.write(record, jnp.int32(0), metrics, finite, valid)

    return compiled(batch)


def later_program(
    family: Family,
    regime: Regime,
    shape: Sizes,
    length: int,
    recorder: Recorder,
) -> Callable[..., tuple[ChainState, Record]]:
    """Up to `length` generations in one compiled loop with a traced number of turns.

    Takes (root, start, stop, counts i32[length, 5], chain numbers, valid, state); returns the state
    after generation stop - 1 and a record whose first stop - start entries are written.
    """

    def batch(root, start, stop, requests, numbers, valid, state):
        keys = jax.vmap(functools.partial(chain.chain_key, root))(numbers)

        def turn(number, carry):
            state, record = carry
            row = number - start
            sizes = fill(shape, requests[row])
            step = functools.partial(chain.generation, family, regime, sizes)
            state, metrics, finite = jax.vmap(step, in_axes=(0, None, 0))(keys, number, state)
            return state, recorder.write(record, row, metrics, finite, valid)

        record = recorder.empty(length, numbers.shape[0])
        return jax.lax.fori_loop(start, stop, turn, (state, record))

    return compiled(batch)


def abstract_chain(family: Family, regime: Regime, number: int, root: jax.Array) -> Any:
    """Shapes and dtypes of one chain's state and metrics after generation `number`."""

    def first(key):
        return chain.generation(family, regime, regime.sizes(0), key, 0, None)

    state, metrics, _ = jax.eval_shape(first, root)
    if number == 0:
        return state, metrics
    shape = shape_of(family, regime, number)
    values = jax.ShapeDtypeStruct((len(_REQUESTS),), jnp.int32)

    def later(key, state, values):
        sizes = fill(shape, values)
        return chain.generation(
            family, regime, sizes, key, jnp.int32(1), with_room(family, state, shape)
        )

    state, metrics, _ = jax.eval_shape(later, root, state, values)
    return state, metrics


def with_room(family: Family, state: ChainState, shape: Sizes) -> ChainState:
    """One chain's state with room for what it will remember after a generation of this shape."""
    if state.kept is None:
        return state
    return state._replace(kept=family.pools.grow(state.kept, shape.capacity))


class FusedEngine:
    """Many generations in one compiled call, for families without `Steps`."""

    def __init__(
        self, family: Family, regime: Regime, recorder: Recorder, length: int = LONGEST
    ) -> None:
        """Nothing is compiled before it is needed; `length` is that of a compiled record."""
        self._family, self._regime, self._recorder = family, regime, recorder
        self._length = length
        self._later = functools.cache(self._compile)

    def boundary(self, start: int, stop: int) -> int:
        """Where a segment that begins at `start` has to end, at `stop` at the latest."""
        if start == 0:
            return 1
        shape = self._shape(start)
        end = start + 1
        while end < min(stop, start + self._length) and self._shape(end) == shape:
            end += 1
        return end

    def advance(
        self,
        root: jax.Array,
        start: int,
        stop: int,
        numbers: jax.Array,
        valid: jax.Array,
        state: ChainState | None,
    ) -> tuple[ChainState, Record]:
        """Generations [start, stop) of one batch; None as the state before generation 0."""
        if state is None:
            return self._first(root, numbers, valid)
        requests = np.zeros((self._length, len(_REQUESTS)), np.int32)
        for row, number in enumerate(range(start, stop)):
            requests[row] = counts(self._regime.sizes(number))
        shape = self._shape(start)
        # Outside the program, which would otherwise be compiled for both sizes of its input.
        if state.kept is not None:
            state = jax.vmap(lambda state: with_room(self._family, state, shape))(state)
        return self._later(shape)(
            root, np.int32(start), np.int32(stop), requests, numbers, valid, state
        )

    def abstract_state(self, root: jax.Array, number: int) -> Any:
        """Shapes and dtypes of one chain's state after generation `number`."""
        return abstract_chain(self._family, self._regime, number, root)[0]

    def _shape(self, number: int) -> Sizes:
        return shape_of(self._family, self._regime, number)

    @functools.cached_property
    def _first(self) -> Callable[..., Any]:
        return first_program(self._family, self._regime, self._recorder)

    def _compile(self, shape: Sizes) -> Callable[..., Any]:
        return later_program(self._family, self._regime, shape, self._length, self._recorder)
