"""Helpers for tests of runs: comparison of bits, lists of checkpoints, processes to kill."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np


def states(workdir):
    """Names of the checkpoints, including those being written."""
    directory = Path(workdir, "checkpoints", "cohort-0", "states")
    try:
        return {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return set()


def committed(workdir):
    return sorted(int(name) for name in states(workdir) if name.isdigit())


def assert_same_arrays(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def assert_same_bits(one, other):
    assert_same_arrays(
        {name: one[name].values for name in one}, {name: other[name].values for name in other}
    )


_NURSERY = """
import os, sys
import orbax.checkpoint, xarray
import collapse_jax.families, collapse_jax.runner
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv = ["", *line.rstrip("\\n").split("\\t")]
        os.dup2(os.open(sys.argv[-1] + ".errors", os.O_WRONLY | os.O_CREAT), 2)
        exec(SCRIPT)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Processes that run a script, forked after its imports, which take longer than the script.

    The script's last argument is its output file; its errors are written beside it.
    """

    def __init__(self, script):
        self._parent = subprocess.Popen(
            [sys.executable, "-c", f"SCRIPT = {script!r}{_NURSERY}"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._child = None

    def start(self, *arguments):
        self._parent.stdin.write("\t".join(map(str, arguments)).encode() + b"\n")
        self._parent.stdin.flush()
        self._child = int(self._parent.stdout.readline())

    def running(self, seconds=0.0):
        """Whether the child is still running after `seconds`, or less if it ends before."""
        return not select.select([self._parent.stdout], [], [], seconds)[0]

    def kill(self):
        """Kills the child unless it has ended; returns its exit code."""
        with contextlib.suppress(ProcessLookupError):
            if self.running():
                os.kill(self._child, signal.SIGKILL)
        return self.wait()

    def wait(self):
        return int(self._parent.stdout.readline())

    def finish(self, *arguments):
        """Runs the script to the end; fails if its exit code is not 0."""
        self.start(*arguments)
        code = self.wait()
        assert code == 0, Path(f"{arguments[-1]}.errors").read_text()

    def close(self):
        self._parent.communicate(timeout=30)
