"""Command lines in processes of their own, and the settings of a walk that is cut into steps."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
WALK = {"chains": 7, "chains_per_batch": 4, "generations": 2, "seed": 5, "checkpoint_seconds": 0}
COMMAND = [
    *("-m", "experiments.gaussian", "--chains=200", "--samples=20", "--generations=300"),
    *("--checkpoint_every=3", "--keep=chains"),
]


def start(arguments):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(arguments):
    """Runs to the end; (exit code, lines on standard error)."""
    process = start(arguments)
    _, errors = process.communicate(timeout=400)
    return process.returncode, errors.splitlines()


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.002)
