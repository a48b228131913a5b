"""Errors on the command line: one line if a user can fix them, else a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import launch

ROOT = Path(__file__).parents[2]
SCRIPT = """
from collapse_jax import families, regimes
from collapse_jax.arguments import MissingFileError, SettingError
from collapse_jax.config import RunConfig
from collapse_jax.saving.checkpoint import CheckpointError
from experiments import launch

def fit(key, params, training):
    raise {error}("temperature: expected more")

def main():
    family = families.gaussian()._replace(fit=fit)
    launch.run(family, regimes.replace(10), RunConfig(chains=2, generations=2))

launch.define(RunConfig)
launch.start(main, keep_compiled=False)
"""


def errors_of(error):
    """Standard error of a run whose family raises this error in its fit."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(error=error)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 1
    return found.stderr


@pytest.mark.parametrize("error", ["SettingError", "MissingFileError", "CheckpointError"])
def test_an_error_that_a_user_can_fix_is_one_line(error):
    assert errors_of(error) == "error: temperature: expected more\n"


@pytest.mark.parametrize("error", ["ValueError", "FileNotFoundError"])
def test_an_error_of_the_family_keeps_its_traceback(error):
    found = errors_of(error)
    assert "Traceback (most recent call last)" in found
    assert f'raise {error}("temperature' in found or "in fit" in found
    assert f"{error}: temperature: expected more" in found


@pytest.mark.parametrize(("message", "printed"), [("Event loop is closed", False), ("mine", True)])
def test_late_callbacks_are_left_out_and_nothing_else(monkeypatch, capsys, message, printed):
    class Late:
        def __del__(self):
            raise RuntimeError(message)

    monkeypatch.setattr(sys, "unraisablehook", launch._without_late_callbacks)
    late = Late()
    del late
    assert ("RuntimeError" in capsys.readouterr().err) == printed
