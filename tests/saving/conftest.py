"""The uninterrupted run that interrupted ones are compared with."""

import pytest
import xarray as xr

from tests.saving.processes import COMMAND, finish


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The uninterrupted run of COMMAND."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    code, errors = finish([*COMMAND, f"--workdir={directory / 'run'}"])
    assert code == 0, errors
    assert errors == []
    return xr.load_dataset(directory / "run" / "history.nc")
