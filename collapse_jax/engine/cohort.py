"""A cohort: chains that advance together, from generation 0 or a checkpoint to the end.

Axis legend: n chains of a batch; t generations of a record.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.config import RunConfig
from collapse_jax.engine.chain import ChainState
from collapse_jax.engine.fused import FusedEngine
from collapse_jax.engine.progress import Progress
from collapse_jax.engine.stepped import Flight, SteppedEngine
from collapse_jax.results.records import Part, Record, over_chains, over_generations
from collapse_jax.results.totals import Totals
from collapse_jax.saving.checkpoint import DiskStore, MemoryStore
from collapse_jax.saving.signals import Stopped, StopSignal

# Approximate seconds between checks for signals; preemption gives about 30 s of notice.
_SEGMENT_SECONDS = 5.0


class _Inside(NamedTuple):
    """Progress of a restored run within a generation."""

    records: Sequence[Any]  # of the batches that have finished it
    flight: Flight  # of the next batch


class Cohort:
    """Chains first ... first + count - 1, in batches of `batch`, dealt to the devices."""

    def __init__(
        self,
        engine: FusedEngine | SteppedEngine,
        root: jax.Array,
        store: MemoryStore | DiskStore,
        config: RunConfig,
        batch: int,
        devices: Sequence[jax.Device],
        first: int,
        count: int,
    ) -> None:
        """Runs nothing yet. The last batch is padded with chains that are not recorded."""
        self._engine, self._root = engine, root
        self._store, self._config = store, config
        self._count, self._batch, self._devices = count, batch, devices
        self._numbers, self._valid = [], []
        for i in range(-(-count // batch)):
            numbers = first + i * batch + np.arange(batch, dtype=np.int32)
            device = devices[i % len(devices)]
            self._numbers.append(jax.device_put(numbers, device))
            self._valid.append(jax.device_put(numbers < first + count, device))
        self._unsaved: list[Part] = []
        self._saved = time.monotonic()
        self._pace = 1.0  # generations per _SEGMENT_SECONDS

    def advance(
        self, stop: StopSignal, bar: Progress
    ) -> tuple[list[ChainState | None], dict[str, np.ndarray]]:
        """Runs the remaining generations.

        Returns:
          The batches' last states, and first passages, {name: i32[chain]}.

        Raises:
          Stopped: when `stop` is requested, after saving.
        """
        total = self._config.generations
        done, states, inside = self._restore()  # `done` generations are complete
        bar.advance(done * self._count, f"{done} generations done")
        while done < total:
            goal = min(total, self._next_checkpoint(done), done + max(1, int(self._pace)))
            until = self._engine.boundary(done, goal)
            began = time.monotonic()
            states, record = self._segment(
                done, until, states=states, signal=stop, bar=bar, inside=inside
            )
            taken = max(time.monotonic() - began, 1e-6)
            self._pace = (until - done) * _SEGMENT_SECONDS / taken
            inside = None
            self._unsaved.append((done, until, record))
            done = until
            if done in (total, self._next_checkpoint(done - 1)) or stop.requested is not None:
                self._commit(done, states)
            if stop.requested is not None and done < total:
                raise Stopped(stop.requested, done - 1)
        return states, self._passages(states)

    def _next_checkpoint(self, done: int) -> int:
        every = self._config.checkpoint_every
        return (done // every + 1) * every

    def _segment(
        self,
        start: int,
        stop: int,
        states: list[ChainState | None],
        signal: StopSignal,
        bar: Progress,
        inside: "_Inside | None",
    ) -> tuple[list[ChainState | None], Record]:
        """Runs all batches through generations [start, stop)."""
        records = list(inside.records) if inside else []
        states = list(states)
        waiting = len(records)  # first batch whose record is not on the host yet

        def fetch() -> None:
            nonlocal waiting
            records[waiting] = jax.device_get(records[waiting])
            waiting += 1
            chains = self._count * waiting // len(states) - self._count * (waiting - 1) // len(
                states
            )
            bar.advance((stop - start) * chains, f"{stop} generations done")

        for i in range(len(records), len(states)):
            place = (self._root, start, stop, self._numbers[i], self._valid[i], states[i])
            if isinstance(self._engine, SteppedEngine):
                pause = self._between(start, states, records, signal=signal, bar=bar)
                flight = inside.flight if inside and i == len(inside.records) else None
                states[i], record = self._engine.advance(*place, flight, pause)
            else:
                states[i], record = self._engine.advance(*place)
            records.append(record)
            if len(records) - waiting > len(self._devices):
                fetch()  # while every device has a batch to work on
        while waiting < len(records):
            fetch()
        return states, self._join(records, stop - start)

    def _between(
        self, done: int, states: list[Any], records: list[Any], signal: StopSignal, bar: Progress
    ) -> Callable[[Flight], None]:
        """The stepped engine's callback between pieces: saves when due, stops when requested."""
        assert isinstance(self._engine, SteppedEngine)
        stages = self._engine.stage_names(done)

        def pause(flight: Flight) -> None:
            bar.advance(0, f"generation {done}, {stages[flight.stage]}")
            now = time.monotonic()
            if signal.requested is None and now - self._saved < self._config.checkpoint_seconds:
                return
            position = {
                "done": done,
                "batches": len(records),
                "stage": flight.stage,
                "begun": flight.carry is not None,
            }
            self._flush()
            tree = (list(states), list(records), (flight.work, flight.carry))
            self._store.commit(position, lambda: tree)
            self._saved = now
            if signal.requested is not None:
                raise Stopped(signal.requested, done - 1)

        return pause

    def _join(self, records: Sequence[Record], length: int) -> Record:
        """One record of all chains from the batches' first `length` entries."""
        joined = over_chains([jax.tree.map(lambda x: x[:length], dict(r)) for r in records])
        return {
            name: values if isinstance(values, Totals) else values[:, : self._count]
            for name, values in joined.items()
        }

    def _flush(self) -> None:
        if self._unsaved:
            whole = over_generations([record for *_, record in self._unsaved])
            self._store.append(self._unsaved[0][0], self._unsaved[-1][1], whole)
        self._unsaved = []

    def _commit(self, done: int, states: list[ChainState | None]) -> None:
        self._flush()
        self._store.commit({"done": done}, lambda: self._stacked(states))
        self._saved = time.monotonic()

    def _stacked(self, states: Sequence[Any]) -> Any:
        """The batches' states as one tree, leaves [batch, n, ...], so that few arrays are saved."""

        def stack(*batches: Any) -> Any:
            if jax.dtypes.issubdtype(batches[0].dtype, jax.dtypes.prng_key):
                return jnp.stack(batches)
            return np.stack([np.asarray(x) for x in batches])

        return jax.tree.map(stack, *states)

    def _restore(self) -> "tuple[int, list[ChainState | None], _Inside | None]":
        restored = self._store.restore(self._abstract)
        if restored is None:
            return 0, [None] * len(self._numbers), None
        position = restored.position
        if "stage" in position:
            states, records, flown = restored.tree
            places = [numbers.sharding for numbers in self._numbers]
            work, carry = jax.device_put(flown, places[len(records)])
            inside = _Inside(records, Flight(position["stage"], work, carry))
            return position["done"], [*map(jax.device_put, states, places)], inside
        leaves, structure = jax.tree.flatten(restored.tree)
        states = [
            jax.device_put(
                jax.tree.unflatten(structure, [leaf[i] for leaf in leaves]), numbers.sharding
            )
            for i, numbers in enumerate(self._numbers)
        ]
        return position["done"], states, None

    def _abstract(self, position: Mapping[str, Any]) -> Any:
        """Shapes and dtypes of the tree saved at a position."""
        done = position["done"]
        batches = len(self._numbers)
        if "stage" not in position:
            return _with_axes(
                self._engine.abstract_state(self._root, done - 1), batches, self._batch
            )
        assert isinstance(self._engine, SteppedEngine)
        ready = position["batches"]
        before, after = (
            _with_axes(self._engine.abstract_state(self._root, n), self._batch) if n >= 0 else None
            for n in (done - 1, done)
        )
        states = [after] * ready + [before] * (batches - ready)
        flight = self._engine.abstract_flight(
            self._root,
            done,
            self._numbers[ready],
            state=before,
            stage=position["stage"],
            begun=position["begun"],
        )
        records = [self._engine.abstract_record(self._numbers[0])] * ready
        return states, records, (flight.work, flight.carry)

    def _passages(self, states: Sequence[ChainState | None]) -> dict[str, np.ndarray]:
        whole = self._stacked([state.passages for state in states if state is not None])
        return {name: values.ravel()[: self._count] for name, values in whole.items()}


def _with_axes(tree: Any, *axes: int) -> Any:
    """The same shapes with additional leading axes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), tree)
