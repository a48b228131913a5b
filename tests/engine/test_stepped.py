"""The engine for families with `Steps`: what it compiles, and on which devices it runs."""

import jax
import pytest

import collapse_jax
from collapse_jax import compiling, regimes
from collapse_jax.engine.stepped import SteppedEngine
from collapse_jax.saving.signals import Stopped, StopSignal
from tests.runs import assert_same_bits
from tests.toys import walker

SETTINGS = {"chains": 6, "chains_per_batch": 2, "generations": 4, "seed": 3}


def test_what_does_not_depend_on_sizes_is_compiled_once(monkeypatch):
    names, compiled = [], compiling.compiled

    def counting(function, *rest):
        names.append(function.__name__)
        return compiled(function, *rest)

    monkeypatch.setattr(compiling, "compiled", counting)
    devices = jax.devices()[:1]
    collapse_jax.run(walker(), regimes.replace(5), devices=devices, **SETTINGS)
    assert names.count("measure_whole") == 1
    assert names.count("_conclude") == 1
    assert names.count("fit_advance") == 1
    assert names.count("fit_finish") == 1


@pytest.mark.multidevice
def test_a_run_resumed_inside_a_generation_works_where_it_did(tmp_path, monkeypatch):
    """Batch 1, stopped within its fit, continues on device 1, and other batches on theirs."""
    devices = jax.devices()[:2]
    settings = {**SETTINGS, "devices": devices}
    whole = collapse_jax.run(walker(), regimes.replace(5), **settings)
    workdir, advance, calls = str(tmp_path / "run"), SteppedEngine.advance, []
    placed, resumed_at = [], []

    def stopping(self, root, start, stop, numbers, valid, state, flight=None, pause=None):
        def request(flight):
            calls.append(int(numbers[0]))
            if calls.count(2) == 6:  # the second batch, inside a later generation
                monkeypatch.setattr(StopSignal, "requested", 15, raising=False)
            pause(flight)

        return advance(self, root, start, stop, numbers, valid, state, flight, request)

    def watching(self, root, start, stop, numbers, valid, state, flight=None, pause=None):
        if flight is not None:
            resumed_at.append(int(numbers[0]))
        held = (state, flight and (flight.work, flight.carry))
        placed.extend((numbers.devices(), x.devices()) for x in jax.tree.leaves(held))
        return advance(self, root, start, stop, numbers, valid, state, flight, pause)

    monkeypatch.setattr(
        StopSignal, "__init__", lambda self, active: setattr(self, "_active", False)
    )
    monkeypatch.setattr(StopSignal, "requested", None, raising=False)
    monkeypatch.setattr(SteppedEngine, "advance", stopping)
    with pytest.raises(Stopped):
        collapse_jax.run(walker(), regimes.replace(5), workdir=workdir, **settings)
    monkeypatch.setattr(StopSignal, "requested", None, raising=False)
    monkeypatch.setattr(SteppedEngine, "advance", watching)
    resumed = collapse_jax.run(walker(), regimes.replace(5), workdir=workdir, **settings)
    assert resumed_at == [2]
    assert all(numbers == leaf for numbers, leaf in placed)
    assert_same_bits(whole.history, resumed.history)
