"""Only one process at a time uses a workdir, and its lock ends with it, even if it is killed."""

import signal
import subprocess
import sys

import pytest

from collapse_jax.arguments import SettingError
from collapse_jax.saving.checkpoint import CheckpointError
from collapse_jax.saving.workdir import Workdir

HOLDER = """
import sys
from collapse_jax.saving.workdir import Workdir
with Workdir(sys.argv[1]).lock():
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the workdir."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def assert_held(path):
    message = f"^workdir: another process is running in {path}; wait for it to end, or use another"
    with pytest.raises(SettingError, match=message) as caught, Workdir(str(path)).lock():
        pass
    assert "\n" not in str(caught.value)


def test_a_workdir_in_use_is_rejected_until_its_process_ends(tmp_path, holder):
    assert_held(tmp_path)
    assert_held(tmp_path)  # a failed attempt does not free it
    holder.communicate("\n")
    for _ in range(2):
        with Workdir(str(tmp_path)).lock():
            assert_held(tmp_path)  # nor can one process lock it twice


def test_the_lock_of_a_killed_process_is_released(tmp_path, holder):
    assert_held(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Workdir(str(tmp_path)).lock():
        pass


def test_the_lock_is_the_kernels(tmp_path, holder):
    """Other programs, and earlier versions of this one, respect it."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "lock").open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_error_frees_the_workdir(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), Workdir(str(tmp_path)).lock():
        raise RuntimeError("of the run")
    with Workdir(str(tmp_path)).lock():
        pass


def test_a_lock_that_cannot_be_made_names_its_path(tmp_path):
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(CheckpointError, match=f"cannot write {tmp_path / 'lock'}: "),
        Workdir(str(tmp_path)).lock(),
    ):
        pass
