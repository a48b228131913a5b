"""SIGTERM and Ctrl-C: a run saves, leaves, and the same command continues."""

import os
import signal

import pytest
import xarray as xr

import collapse_jax
from collapse_jax import families, regimes
from collapse_jax.saving.checkpoint import CheckpointError, DiskStore
from collapse_jax.saving.signals import Stopped, StopSignal
from tests.runs import assert_same_bits, committed
from tests.saving.processes import COMMAND, WALK, finish, start, wait_for
from tests.toys import walker

# The same objects and batches in all tests, so that few programs are compiled.
FAMILY, REGIME = families.gaussian(), regimes.replace(10)
PLANE = families.gaussian(dim=2, sampler="rows")
SETTINGS = {"chains": 8, "chains_per_batch": 4, "generations": 9, "checkpoint_every": 4}


def run(workdir=None, family=FAMILY, regime=REGIME, **settings):
    workdir = str(workdir) if workdir else None
    return collapse_jax.run(family, regime, workdir=workdir, **{**SETTINGS, **settings}).history


# After a failed read or write, callbacks inside Orbax find their event loop closed.
pytestmark = [
    pytest.mark.usefixtures("no_leftovers"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine.*was never awaited:RuntimeWarning"),
]


def test_a_request_to_stop_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, "requested", signal.SIGTERM, raising=False)
    monkeypatch.setattr(
        StopSignal, "__init__", lambda self, active: setattr(self, "_active", False)
    )
    for generation in range(3):  # each attempt begins with a short segment, saves and stops
        with pytest.raises(Stopped, match=f"after generation {generation};"):
            run(tmp_path)
    monkeypatch.undo()
    assert_same_bits(run(tmp_path), run())


@pytest.fixture
def interruptible():
    """Python's own handler of Ctrl-C, which a process in the background begins without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_is_not_held_back():
    with StopSignal(active=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(tmp_path, uninterrupted):
    expected = uninterrupted
    command = [*COMMAND, f"--workdir={tmp_path / 'run'}"]
    process = start(command)
    wait_for(lambda: len(committed(tmp_path / "run")) > 1, process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    (message,) = errors.splitlines()
    assert message.startswith("stopped by SIGTERM after generation")
    assert "the same command continues" in message
    code, errors = finish(command)
    assert (code, errors) == (0, [])
    assert_same_bits(xr.load_dataset(tmp_path / "run" / "history.nc"), expected)


def test_sigterm_inside_a_generation(tmp_path, monkeypatch):
    family, regime = walker(), regimes.replace(6)
    settings = {**WALK, "keep": "chains"}
    expected = collapse_jax.run(family, regime, **settings).history
    commit, commits = DiskStore.commit, []

    def watched(store, position, tree):
        commit(store, position, tree)
        commits.append(dict(position))
        if len(commits) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DiskStore, "commit", watched)
    with pytest.raises(Stopped, match="the same command continues"):
        collapse_jax.run(family, regime, **settings, workdir=str(tmp_path))
    assert len(commits) == 20  # it left at once
    assert "stage" in commits[-1]
    resumed = collapse_jax.run(family, regime, **settings, workdir=str(tmp_path)).history
    assert_same_bits(resumed, expected)


def test_a_stop_whose_save_fails_is_an_error(tmp_path, monkeypatch):
    commit, close = DiskStore.commit, DiskStore.close

    def stopping(store, position, tree):
        commit(store, position, tree)
        os.kill(os.getpid(), signal.SIGTERM)

    def failing(store):
        close(store)
        raise CheckpointError("cannot write")

    monkeypatch.setattr(DiskStore, "commit", stopping)
    monkeypatch.setattr(DiskStore, "close", failing)
    with pytest.raises(CheckpointError, match="cannot write"):  # not "all progress is saved"
        collapse_jax.run(walker(), regimes.replace(6), **WALK, workdir=str(tmp_path))
