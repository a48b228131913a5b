"""One generation of a family whose fit, sample or measure is split into `Steps`.

The pieces are compiled one by one and called from the host, so that the runner can save between
them. Axis legend: n chains of a batch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.compiling import hoisted
from collapse_jax.engine import chain, shapes
from collapse_jax.engine.chain import ChainState
from collapse_jax.engine.recording import Record, Recorder
from collapse_jax.family import NEVER, Family, Steps, run_to_end
from collapse_jax.regimes import Regime, Sizes


class Flight(NamedTuple):
    """Progress of one batch within a generation: stage, workspace, carry."""

    stage: int
    work: Any  # workspace, leaves [n, ...]
    carry: Any  # carry of the stage's Steps once they have begun, else None


Pause = Callable[[Flight], None]


class SteppedEngine:
    """Runs one generation at a time; each piece of each stage is a compiled program."""

    def __init__(self, family: Family, regime: Regime, recorder: Recorder) -> None:
        """Compiles nothing yet."""
        self._family, self._regime, self._recorder = family, regime, recorder
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._repeated = functools.cache(self._build_repeated)
        self._concluded = hoisted(self._conclude)

    def boundary(self, start: int, stop: int) -> int:
        """End of the segment that begins at `start`: it is one generation."""
        del stop
        return start + 1

    def stage_names(self, number: int) -> list[str]:
        """Names of the stages of generation `number`, in order."""
        return [stage.name for stage in self._stages(number)]

    def advance(
        self,
        root: jax.Array,
        start: int,
        stop: int,
        numbers: jax.Array,
        valid: jax.Array,
        state: ChainState | None,
        flight: Flight | None = None,
        pause: Pause = lambda flight: None,
    ) -> tuple[ChainState, Record]:
        """Runs generation `start` of one batch.

        Args:
          root: the key that all chains' keys come from.
          start, stop: the generation, and the one after it.
          numbers, valid: chain numbers i32[n], and which of them are recorded, bool[n].
          state: after the previous generation; None at generation 0.
          flight: progress to continue from; None for the start of the generation.
          pause: called between pieces with the current flight.

        Returns:
          The state after the generation, and its record.
        """
        del stop
        place = self._place(root, start, numbers)
        shape = shapes.shape_of(self._family, self._regime, start)
        if state is not None:
            state = jax.vmap(lambda state: shapes.with_capacity(self._family, state, shape))(state)
        flight = flight or Flight(0, _workspace(state), None)
        listed = self._stages(start)
        for index in range(flight.stage, len(listed)):
            stage, work, carry = listed[index], flight.work, flight.carry
            build = functools.partial(self._program, shape, start == 0, stage)
            if isinstance(stage.task, Steps):
                if carry is None:
                    carry = build("begin")(*place, stage.reads(work))
                active, advance = self._repeated(stage.name)
                while bool(jnp.any(active(carry))):
                    carry = advance(carry)
                    pause(Flight(index, work, carry))
                result = build("finish")(carry)
            else:
                result = build("whole")(*place, stage.reads(work))
            flight = Flight(index + 1, {**work, **stage.outputs(work, result)}, None)
            if index + 1 < len(listed):
                pause(flight)
        work = self._concluding(flight.work, len(numbers))
        return self._concluded(np.int32(start), numbers, work, valid)

    def abstract_state(self, root: jax.Array, number: int) -> Any:
        """Shapes and dtypes of one chain's state after generation `number`."""
        return shapes.abstract_chain(self._family, self._regime, number, root)[0]

    def abstract_flight(
        self, root: jax.Array, number: int, numbers: Any, state: Any, stage: int, begun: bool
    ) -> Flight:
        """Shapes and dtypes of a flight, traced through the stages without running them."""
        place = self._place(root, number, numbers)
        shape = shapes.shape_of(self._family, self._regime, number)

        def follow(done: chain.Stage, piece: str, *args: Any) -> Any:
            return jax.eval_shape(self._piece(shape, number == 0, done, piece), *args)

        work = _workspace(state)
        listed = self._stages(number)
        for done in listed[:stage]:
            if isinstance(done.task, Steps):
                carry = follow(done, "begin", *place, done.reads(work))
                result = follow(done, "finish", carry)
            else:
                result = follow(done, "whole", *place, done.reads(work))
            work = {**work, **done.outputs(work, result)}
        present = listed[stage]
        carry = follow(present, "begin", *place, present.reads(work)) if begun else None
        return Flight(stage, work, carry)

    def abstract_record(self, numbers: Any) -> Any:
        """Shapes and dtypes of the record of one generation of a batch."""
        return jax.eval_shape(lambda: self._recorder.empty(1, numbers.shape[0]))

    def _place(self, root: jax.Array, number: int, numbers: Any) -> tuple[Any, ...]:
        requests = np.array(shapes.counts(self._regime.sizes(number)), np.int32)
        return root, np.int32(number), requests, numbers

    def _stages(self, number: int) -> list[chain.Stage]:
        shape = shapes.shape_of(self._family, self._regime, number)
        return chain.stages(self._family, self._regime, shape, number == 0)

    def _program(
        self, shape: Sizes, first: bool, stage: chain.Stage, piece: str
    ) -> Callable[..., Any]:
        """The compiled piece, one for all generations unless the stage depends on their sizes."""
        which = (stage.name, piece, (shape, first) if stage.sized else None)
        if which not in self._programs:
            self._programs[which] = hoisted(self._piece(shape, first, stage, piece))
        return self._programs[which]

    def _piece(
        self, shape: Sizes, first: bool, stage: chain.Stage, piece: str
    ) -> Callable[..., Any]:
        """A piece of a stage, as a pure function of a batch."""
        name = stage.name

        def finish(carry: Any) -> Any:
            return jax.vmap(_steps(stage).finish)(carry)

        def run(root, number, requests, numbers, work):
            sizes = shapes.fill(shape, requests)
            listed = chain.stages(self._family, self._regime, sizes, first)
            actual = next(stage for stage in listed if stage.name == name)

            def one(chain_number, work):
                keys = chain.generation_keys(chain.chain_key(root, chain_number), number)
                inputs = actual.inputs(keys, work)
                if piece == "begin":
                    return _steps(actual).begin(*inputs)
                return run_to_end(actual.task, inputs)

            return jax.vmap(one)(numbers, work)

        function = finish if piece == "finish" else run
        function.__name__ = f"{name}_{piece}"  # as profiles show it
        return function

    def _build_repeated(self, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Programs of a stage: whether any chain is active, and one piece for all chains."""
        task = getattr(self._family, name)

        def active(carry: Any) -> Any:
            return ~jax.vmap(task.done)(carry)

        def one(carry: Any) -> Any:
            done = task.done(carry)
            # A finished chain stays unchanged until all others have finished.
            return jax.tree.map(
                lambda old, new: jnp.where(done, old, new), carry, task.advance(carry)
            )

        def advance(carry: Any) -> Any:
            return jax.vmap(one)(carry)

        advance.__name__ = f"{name}_advance"
        return hoisted(active), hoisted(advance)

    def _concluding(self, work: chain.Work, chains: int) -> chain.Work:
        """Inputs of `_conclude`, of the same structure at every generation."""
        read = {name: work[name] for name in ("params", "metrics", "kept", "origin")}
        never = np.full(chains, NEVER, np.int32)
        names = (*self._family.thresholds, "nonfinite")
        return {**read, "passages": work.get("passages", dict.fromkeys(names, never))}

    def _conclude(self, number: jax.Array, numbers: jax.Array, work: Any, valid: Any) -> Any:
        def conclude(work: Any) -> Any:
            return chain.conclude(self._family, work, number, work["passages"])

        state, metrics, finite = jax.vmap(conclude)(work)
        record = self._recorder.empty(1, numbers.shape[0])
        return state, self._recorder.write(record, jnp.int32(0), metrics, finite, valid)


def _workspace(state: ChainState | None) -> dict[str, Any]:
    if state is None:
        return {}
    return {**chain.begin_work(state), "passages": state.passages}


def _steps(stage: chain.Stage) -> Steps:
    assert isinstance(stage.task, Steps)
    return stage.task
