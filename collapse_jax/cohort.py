"""Chains that advance together, from generation 0 or a checkpoint to the end of a run.

Axis legend: groups of b batches (one a device) of n chains; t generations of a record.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from collapse_jax import summary
from collapse_jax.chain import ChainState
from collapse_jax.checkpoint import CheckpointError, DiskStore, MemoryStore
from collapse_jax.config import RunConfig
from collapse_jax.progress import Progress
from collapse_jax.recording import Totals
from collapse_jax.segment import FusedEngine
from collapse_jax.stepped import Flight, SteppedEngine
from collapse_jax.stopping import Stopped, StopSignal

Host = Mapping[str, Any]


class _Inside(NamedTuple):
    """Where a restored run stands inside a generation."""

    records: Sequence[Any]  # of the groups that are through it
    flight: Flight  # of the next group


class Cohort:
    """Chains first ... first + count - 1 in batches of `batch`, `devices` batches at a time."""

    def __init__(
        self,
        engine: FusedEngine | SteppedEngine,
        store: MemoryStore | DiskStore,
        config: RunConfig,
        batch: int,
        devices: int,
        first: int,
        count: int,
    ) -> None:
        """Nothing runs yet; the last batch is filled up with chains that are not recorded."""
        self._engine, self._store, self._config = engine, store, config
        self._count, self._devices = count, devices
        self._batches = -(-count // batch)
        self._groups = -(-self._batches // devices)
        numbers = first + np.arange(self._groups * devices * batch, dtype=np.int32)
        self._numbers = numbers.reshape(self._groups, devices, batch)
        self._valid = self._numbers < first + count
        self._unsaved: list[tuple[int, int, Host]] = []
        self._saved = time.monotonic()

    def advance(self, stop: StopSignal, bar: Progress) -> dict[str, np.ndarray]:
        """Runs all generations that are missing.

        Returns:
          First passages, {name: i32[chain]}.

        Raises:
          Stopped: when `stop` is requested, after saving.
        """
        total = self._config.generations
        done, states, inside = self._restore()  # `done` generations are complete
        bar.advance(done * self._count, f"generation {done}")
        while done < total:
            until = self._engine.boundary(done, min(total, self._next_checkpoint(done)))
            states, record = self._segment(done, until, states, stop, inside)
            inside = None
            self._unsaved.append((done, until, record))
            bar.advance((until - done) * self._count, f"generation {until}")
            done = until
            if done in (total, self._next_checkpoint(done - 1)) or stop.requested:
                self._commit(done, states)
            if stop.requested and done < total:
                raise Stopped(done - 1)
        return self._passages(states)

    def _next_checkpoint(self, done: int) -> int:
        every = self._config.checkpoint_every
        return (done // every + 1) * every

    def _segment(
        self,
        start: int,
        stop: int,
        states: list[ChainState | None],
        signal: StopSignal,
        inside: "_Inside | None",
    ) -> tuple[list[ChainState | None], Host]:
        """All groups through generations [start, stop)."""
        records = list(inside.records) if inside else []
        states = list(states)
        for group in range(len(records), self._groups):
            place = (start, stop, self._numbers[group], self._valid[group], states[group])
            if isinstance(self._engine, SteppedEngine):
                pause = self._saver(start, states, records, signal)
                flight = inside.flight if inside and group == len(inside.records) else None
                states[group], record = self._engine.advance(*place, flight, pause)
            else:
                states[group], record = self._engine.advance(*place)
            if records:  # fetched while the next group is being computed
                records[-1] = jax.device_get(records[-1])
            records.append(record)
        records[-1] = jax.device_get(records[-1])
        return states, self._join(records, stop - start)

    def _saver(
        self, done: int, states: list[Any], records: list[Any], signal: StopSignal
    ) -> Callable[[Flight], None]:
        """What a stepped engine calls between pieces: saves now and then, and leaves if asked."""

        def pause(flight: Flight) -> None:
            now = time.monotonic()
            if not signal.requested and now - self._saved < self._config.checkpoint_seconds:
                return
            position = {
                "done": done,
                "groups": len(records),
                "stage": flight.stage,
                "begun": flight.carry is not None,
                "devices": self._devices,
            }
            self._flush()
            tree = (list(states), list(records), (flight.work, flight.carry))
            self._store.commit(position, lambda: tree)
            self._saved = now
            if signal.requested:
                raise Stopped(done - 1)

        return pause

    def _join(self, records: Sequence[Host], length: int) -> Host:
        """One record of all chains from those of the groups, whose leaves are [b, t, ...]."""
        joined: dict[str, Any] = {}
        for name, first in records[0].items():
            if isinstance(first, Totals):
                batches = [
                    Totals(*(np.asarray(field)[i, :length] for field in record[name]))
                    for record in records
                    for i in range(self._devices)
                ]
                joined[name] = summary.merge(batches[: self._batches])
            else:
                values = [record[name][i, :length] for record in records for i in range(len(first))]
                joined[name] = np.concatenate(values, axis=1)[:, : self._count]
        return joined

    def _flush(self) -> None:
        for start, stop, record in _merged(self._unsaved):
            self._store.append(start, stop, record)
        self._unsaved = []

    def _commit(self, done: int, states: list[ChainState | None]) -> None:
        self._flush()
        self._store.commit({"done": done}, lambda: self._by_batch(states))
        self._saved = time.monotonic()

    def _by_batch(self, states: Sequence[Any]) -> Any:
        """The groups' states as one tree [batches, n, ...], whatever the number of devices."""
        return jax.tree.map(
            lambda *groups: np.concatenate([np.asarray(x) for x in groups])[: self._batches],
            *states,
        )

    def _restore(self) -> "tuple[int, list[ChainState | None], _Inside | None]":
        restored = self._store.restore(self._abstract)
        if restored is None:
            return 0, [None] * self._groups, None
        position = restored.position
        if "stage" in position:
            states, records, (work, carry) = restored.tree
            return position["done"], states, _Inside(records, Flight(position["stage"], work, carry))
        missing = self._groups * self._devices - self._batches

        def split(leaf: np.ndarray) -> list[np.ndarray]:
            whole = np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)])
            return np.split(whole, self._groups)

        leaves, structure = jax.tree.flatten(restored.tree)
        pieces = [split(leaf) for leaf in leaves]
        states = [
            jax.tree.unflatten(structure, [piece[group] for piece in pieces])
            for group in range(self._groups)
        ]
        return position["done"], states, None

    def _abstract(self, position: Mapping[str, Any]) -> Any:
        """Shapes and dtypes of what was saved at a position."""
        done = position["done"]
        if "stage" not in position:
            return self._abstract_state(done, self._batches)
        if position["devices"] != self._devices:
            raise CheckpointError(
                f"saved inside generation {done} on {position['devices']} devices, so it can only"
                f" go on with as many, not {self._devices}"
            )
        assert isinstance(self._engine, SteppedEngine)
        ready = position["groups"]
        before, after = (self._abstract_state(n, self._devices) for n in (done, done + 1))
        states = [after] * ready + [before] * (self._groups - ready)
        flight = self._engine.abstract_flight(
            done, self._numbers[ready], before, position["stage"], position["begun"]
        )
        records = [self._engine.abstract_record(self._numbers[0])] * ready
        return states, records, (flight.work, flight.carry)

    def _abstract_state(self, done: int, batches: int) -> Any:
        if done == 0:
            return None
        shape = (batches, self._numbers.shape[-1])
        state = self._engine.abstract_state(done - 1)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*shape, *x.shape), x.dtype), state)

    def _passages(self, states: Sequence[ChainState | None]) -> dict[str, np.ndarray]:
        whole = self._by_batch([state.passages for state in states if state is not None])
        return {name: values.ravel()[: self._count] for name, values in whole.items()}


def _merged(parts: Sequence[tuple[int, int, Host]]) -> list[tuple[int, int, Host]]:
    """Consecutive records as one."""
    if not parts:
        return []

    def join(*values):
        return np.concatenate(values)

    record = {
        name: Totals(*map(join, *(part[2][name] for part in parts)))
        if isinstance(value, Totals)
        else join(*(part[2][name] for part in parts))
        for name, value in parts[0][2].items()
    }
    return [(parts[0][0], parts[-1][1], record)]
