"""What tests of runs share: the same bits or not, and which checkpoints are there."""

from pathlib import Path

import numpy as np


def states(workdir):
    """Names of the checkpoints there, also of those being written."""
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
