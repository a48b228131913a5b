"""One generation of a family whose fit, sample or measure is cut into `Steps`.

The pieces are compiled one by one and driven from the host, so that the runner can save between
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
from collapse_jax.family import Family, Steps, run_to_end
from collapse_jax.regimes import Regime, Sizes


class Flight(NamedTuple):
    """Where inside a generation a batch is."""

    stage: int
    work: Any  # the workspace, leaves [n, ...]
    carry: Any  # of the stage's Steps if they have begun, else None


Pause = Callable[[Flight], None]


def is_stepped(family: Family) -> bool:
    """Whether any of a family's stages is cut."""
    return any(isinstance(work, Steps) for work in (family.fit, family.sample, family.measure))


class SteppedEngine:
    """One generation at a time, each piece of each stage a compiled program."""

    def __init__(self, family: Family, regime: Regime, recorder: Recorder) -> None:
        """Nothing is compiled before it is needed."""
        self._family, self._regime, self._recorder = family, regime, recorder
        self._program = functools.cache(lambda *which: hoisted(self._piece(*which)))
        self._repeated = functools.cache(self._build_repeated)

    def boundary(self, start: int, stop: int) -> int:
        """A segment is one generation."""
        del stop
        return start + 1

    def stage_names(self, number: int) -> list[str]:
        """Of generation `number`, in their order."""
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
        """Generation `start` of one batch.

        Args:
          root: the key that all chains' keys come from.
          start, stop: the generation, and the one after it.
          numbers, valid: chain numbers i32[n], and which of them are recorded.
          state: after the previous generation; None at generation 0.
          flight: where to go on inside the generation; None for its start.
          pause: called between pieces with the present flight.
        """
        del stop
        place = self._place(root, start, numbers)
        shape = shapes.shape_of(self._family, self._regime, start)
        build = functools.partial(self._program, shape, start == 0)
        if state is not None:
            state = jax.vmap(lambda state: shapes.with_room(self._family, state, shape))(state)
        flight = flight or Flight(0, _workspace(state), None)
        listed = self._stages(start)
        for index in range(flight.stage, len(listed)):
            work, carry = flight.work, flight.carry
            if isinstance(listed[index].task, Steps):
                if carry is None:
                    carry = build(index, "begin")(*place, work)
                active, advance = self._repeated(listed[index].name)
                while bool(jnp.any(active(carry))):
                    carry = advance(carry)
                    pause(Flight(index, work, carry))
                work = build(index, "finish")(*place, work, carry)
            else:
                work = build(index, "plain")(*place, work)
            flight = Flight(index + 1, work, None)
            if index + 1 < len(listed):
                pause(flight)
        return build(len(listed), "conclude")(*place, flight.work, valid)

    def abstract_state(self, root: jax.Array, number: int) -> Any:
        """Shapes and dtypes of one chain's state after generation `number`."""
        return shapes.abstract_chain(self._family, self._regime, number, root)[0]

    def abstract_flight(
        self, root: jax.Array, number: int, numbers: Any, state: Any, stage: int, begun: bool
    ) -> Flight:
        """Shapes and dtypes of a flight, found by following the stages without running them."""
        place = self._place(root, number, numbers)
        shape = shapes.shape_of(self._family, self._regime, number)

        def follow(index: int, piece: str, *args: Any) -> Any:
            return jax.eval_shape(self._piece(shape, number == 0, index, piece), *place, *args)

        work = _workspace(state)
        for index, listed in enumerate(self._stages(number)[:stage]):
            if isinstance(listed.task, Steps):
                work = follow(index, "finish", work, follow(index, "begin", work))
            else:
                work = follow(index, "plain", work)
        return Flight(stage, work, follow(stage, "begin", work) if begun else None)

    def abstract_record(self, numbers: Any) -> Any:
        """Shapes and dtypes of the record of one generation of a batch."""
        return jax.eval_shape(lambda: self._recorder.empty(1, numbers.shape[0]))

    def _place(self, root: jax.Array, number: int, numbers: Any) -> tuple[Any, ...]:
        requests = np.array(shapes.counts(self._regime.sizes(number)), np.int32)
        return root, np.int32(number), requests, numbers

    def _stages(self, number: int) -> list[chain.Stage]:
        shape = shapes.shape_of(self._family, self._regime, number)
        return chain.stages(self._family, self._regime, shape, number == 0)

    def _piece(self, shape: Sizes, first: bool, index: int, piece: str) -> Callable[..., Any]:
        """A piece of the stage of this number, as a pure function of a batch."""

        def local(root, number, requests, numbers, *args):
            if piece == "conclude":
                return self._conclude(first, number, numbers, *args)
            sizes = shapes.fill(shape, requests)
            stages = chain.stages(self._family, self._regime, sizes, first)

            def one(chain_number, *args):
                keys = chain.generation_keys(chain.chain_key(root, chain_number), number)
                return _PIECES[piece](stages[index], keys, *args)

            return jax.vmap(one)(numbers, *args)

        names = [stage.name for stage in chain.stages(self._family, self._regime, shape, first)]
        local.__name__ = "_".join([*names[index : index + 1], piece])  # as profiles show it
        return local

    def _build_repeated(self, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Whether any chain goes on, and a piece of a stage: the same in every generation."""
        task = getattr(self._family, name)

        def active(carry: Any) -> Any:
            return ~jax.vmap(task.done)(carry)

        def one(carry: Any) -> Any:
            done = task.done(carry)
            # A chain that is done waits unchanged for its neighbours.
            return jax.tree.map(
                lambda old, new: jnp.where(done, old, new), carry, task.advance(carry)
            )

        def advance(carry: Any) -> Any:
            return jax.vmap(one)(carry)

        advance.__name__ = f"{name}_advance"
        return hoisted(active), hoisted(advance)

    def _conclude(
        self, first: bool, number: jax.Array, numbers: jax.Array, work: Any, valid: Any
    ) -> Any:
        passages = None if first else work["passages"]
        conclude = functools.partial(chain.conclude, self._family)
        axes = (0, None, None if first else 0)
        state, metrics, finite = jax.vmap(conclude, in_axes=axes)(work, number, passages)
        record = self._recorder.empty(1, numbers.shape[0])
        return state, self._recorder.write(record, jnp.int32(0), metrics, finite, valid)


def _workspace(state: ChainState | None) -> dict[str, Any]:
    if state is None:
        return {}
    return {**chain.begin_work(state), "passages": state.passages}


def _steps(stage: chain.Stage) -> Steps:
    assert isinstance(stage.task, Steps)
    return stage.task


def _begin(stage: chain.Stage, keys: chain.Keys, work: Any) -> Any:
    return _steps(stage).begin(*stage.inputs(keys, work))


def _finish(stage: chain.Stage, keys: chain.Keys, work: Any, carry: Any) -> Any:
    del keys
    return {**work, **stage.outputs(work, _steps(stage).finish(carry))}


def _plain(stage: chain.Stage, keys: chain.Keys, work: Any) -> Any:
    return {**work, **stage.outputs(work, run_to_end(stage.task, stage.inputs(keys, work)))}


_PIECES: dict[str, Callable[..., Any]] = {
    "begin": _begin,
    "finish": _finish,
    "plain": _plain,
}
