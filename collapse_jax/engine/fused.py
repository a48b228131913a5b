"""Compiled programs over batches of chains: generation 0, and a segment of later generations.

A program works on one whole batch on one device, so the arithmetic of a batch, and every bit of the
result, is independent of the number of devices.
Axis legend: n chains of a batch, t generations of a record.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.compiling import compiled
from collapse_jax.engine import chain
from collapse_jax.engine.chain import ChainState
from collapse_jax.engine.recording import Record, Recorder
from collapse_jax.engine.shapes import (
    REQUESTS,
    abstract_chain,
    counts,
    fill,
    shape_of,
    with_capacity,
)
from collapse_jax.family import Family
from collapse_jax.regimes import Regime, Sizes

# Largest number of generations per call: enough to amortise its overhead, and the same for all
# runs, so that one program serves runs of any length.
LONGEST = 64


def first_program(
    family: Family, regime: Regime, recorder: Recorder
) -> Callable[..., tuple[ChainState, Record]]:
    """Generation 0: (root key, chain numbers i32[n], valid bool[n]) -> (state, record)."""
    sizes = regime.sizes(0)

    def batch(root: jax.Array, numbers: jax.Array, valid: jax.Array) -> tuple[ChainState, Record]:
        def one(number: jax.Array) -> Any:
            key = chain.chain_key(root, number)
            return chain.generation(family, regime, sizes, key=key, number=0, state=None)

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
    """Up to `length` generations in one compiled loop with a traced number of iterations.

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


class FusedEngine:
    """Runs many generations in one compiled call, for families without `Steps`."""

    def __init__(
        self, family: Family, regime: Regime, recorder: Recorder, length: int = LONGEST
    ) -> None:
        """Compiles nothing yet; `length` is the number of generations in a compiled record."""
        self._family, self._regime, self._recorder = family, regime, recorder
        self._length = length
        self._later = functools.cache(self._compile)

    def boundary(self, start: int, stop: int) -> int:
        """End of a segment that begins at `start`: where the shape changes, at most `stop`."""
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
        """Runs generations [start, stop) of one batch; `state` is None before generation 0."""
        if state is None:
            return self._first(root, numbers, valid)
        requests = np.zeros((self._length, len(REQUESTS)), np.int32)
        for row, number in enumerate(range(start, stop)):
            requests[row] = counts(self._regime.sizes(number))
        shape = self._shape(start)
        # Outside the program, which would otherwise be compiled for both input sizes.
        if state.kept is not None:
            state = jax.vmap(lambda state: with_capacity(self._family, state, shape))(state)
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
        return later_program(
            self._family, self._regime, shape, length=self._length, recorder=self._recorder
        )
