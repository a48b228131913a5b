"""Atomic writes: what is on disk after an error, and on an object store."""

import os
from pathlib import Path

import pytest
from etils.epath import testing

from collapse_jax.atomic import replacing


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_once_it_is_whole(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        with temporary.open("a") as file:
            file.write("w")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["config.json"]


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "part.npz"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["part.npz"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "config.json"):
        pass
    assert names(tmp_path) == []


def test_a_file_is_flushed_before_it_takes_its_place(tmp_path, monkeypatch):
    flushed = []
    path = tmp_path / "config.json"

    def fsync(file):
        assert not path.exists()
        flushed.append(os.path.samestat(os.fstat(file), os.stat(temporary)))

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(str(path)) as temporary:
        temporary.write_text("whole")
    assert flushed == [True]


def test_an_object_store(tmp_path):
    """Its files have no descriptor to be flushed; here they lie in a directory of this machine."""

    def here(path):
        return Path(str(path).replace("gs://bucket", str(tmp_path)))

    store = {
        "open": lambda original, path, mode: here(path).open(mode),
        "replace": lambda original, path, target: here(path).replace(here(target)),
        "remove": lambda original, path: here(path).unlink(),
    }
    with testing.mock_epath(**store):
        with replacing("gs://bucket/config.json") as temporary:
            temporary.write_text("whole")
        with pytest.raises(OSError):  # noqa: PT011
            write_half("gs://bucket/config.json", OSError)
    assert names(tmp_path) == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "whole"
