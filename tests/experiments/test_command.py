"""`collapse-jax` as a module: it lists experiments without JAX and runs them by name.

.ci/run checks that a wheel contains it, and no top-level `experiments`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import experiments

ROOT = Path(__file__).parents[2]


def collapse_jax(*arguments, options=()):
    return subprocess.run(
        [sys.executable, *options, "-m", "experiments", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_lists_experiments_with_what_they_show(arguments):
    result = collapse_jax(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "usage: collapse-jax EXPERIMENT" in lines[0]
    row = "Gaussian chains: a mean and a covariance refitted to their own samples, again and again."
    assert [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == ["gaussian"]] == [
        row
    ]


def test_every_program_has_a_line_and_nothing_else_has():
    programs = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if "launch.start(main" in path.read_text()
    }
    assert len(programs) >= 11
    assert set(experiments()) == programs
    assert all(line.endswith(".") for line in experiments().values())


def test_listing_does_not_import_jax():
    result = collapse_jax(options=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "ast" in imported
    assert not imported & {"jax", "numpy", "absl"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gausian", "did you mean gaussian?"), ("launch", "alone lists"), ("--chains=3", "lists")],
)
def test_unknown_name_is_one_line(name, hint):
    result = collapse_jax(name)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: no experiment {name!r}")
    assert hint in line


def test_prints_the_folder_of_presets():
    result = collapse_jax("presets")
    assert (Path(result.stdout.strip()) / "gaussian_paper.flags").exists()


def test_helpshort_lists_the_flags_of_the_experiment():
    ours = collapse_jax("gaussian", "--helpshort")
    module = subprocess.run(
        [sys.executable, "-m", "experiments.gaussian", "--helpshort"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "--chains:" in ours.stdout
    assert (ours.stdout, ours.returncode) == (module.stdout, module.returncode)


def test_flags_reach_the_experiment():
    result = collapse_jax("gaussian", "--chains=0")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: chains: expected an integer >= 1, got 0\n"
