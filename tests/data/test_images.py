"""Image sets: idx files in every compression, checksums, downloads, one-line errors."""

import gzip
import hashlib
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from collapse_jax.data import files, images

PACKINGS = [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]


def idx(magic, *dims, entries=None):
    header = magic.to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in dims)
    size = int(np.prod(dims))
    entries = np.arange(size) % 256 if entries is None else entries
    return header + np.asarray(entries, np.uint8).tobytes()


def raw_set():
    return {
        "train-images-idx3-ubyte": idx(0x803, 6, 4, 4),
        "train-labels-idx1-ubyte": idx(0x801, 6),
        "t10k-images-idx3-ubyte": idx(0x803, 2, 4, 4),
        "t10k-labels-idx1-ubyte": idx(0x801, 2),
    }


def write(directory, raw, suffix="", pack=bytes):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in raw.items():
        (directory / f"{name}{suffix}").write_bytes(pack(content))
    return str(directory)


def error_message(directory, kind=ValueError):
    with pytest.raises(kind) as caught:
        images.load_images(str(directory))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("suffix", "pack"), PACKINGS)
def test_idx_files_in_every_packing(tmp_path, suffix, pack):
    found = images.load_images(write(tmp_path / "set", raw_set(), suffix, pack))
    assert (found.side, found.train.shape, found.test.shape) == (4, (6, 16), (2, 16))
    np.testing.assert_array_equal(found.train[1], np.arange(16, 32))
    assert found.train_labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_digits_are_at_hand_with_every_class_on_both_sides():
    found = images.load_images("digits", data_dir="/nowhere")
    assert (len(found.train), len(found.test), found.side) == (1437, 360, 8)
    for labels in (found.train_labels, found.test_labels):
        assert np.unique(labels).tolist() == list(range(10))
    assert found.train.max() == 255
    with pytest.raises(ValueError, match="read-only"):
        found.train[0, 0] = 1


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("train-images-idx3-ubyte", idx(0x801, 96), ("magic number 0x00000803", "0x00000801")),
        ("train-images-idx3-ubyte", idx(0x803, 6, 4, 4)[:-1], ("expected 96 bytes", "got 95")),
        ("train-images-idx3-ubyte", b"\0\0", ("magic number",)),
        ("train-images-idx3-ubyte", idx(0x803, 6, 4, 3), ("square images", "4x3")),
        ("train-images-idx3-ubyte", idx(0x803, 0, 4, 4), ("expected entries", "got none")),
        ("t10k-labels-idx1-ubyte", idx(0x801, 3), ("2 images", "got 3")),
        ("t10k-images-idx3-ubyte", idx(0x803, 2, 2, 2), ("equal size", "16 and 4 pixels")),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, name, content, parts):
    directory = write(tmp_path / "set", {**raw_set(), name: content})
    message = error_message(directory)
    for part in parts:
        assert part in message


def test_a_truncated_archive_and_a_missing_file(tmp_path):
    directory = Path(write(tmp_path / "set", raw_set(), ".gz", gzip.compress))
    path = directory / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert "complete .gz file" in error_message(directory)
    path.unlink()
    assert "train-images-idx3-ubyte" in error_message(directory, FileNotFoundError)
    assert "no such directory" in error_message(tmp_path / "elsewhere", FileNotFoundError)


@pytest.fixture
def published(monkeypatch):
    """Six small images in place of MNIST, with their checksums."""
    images.load_images.cache_clear()
    raw = raw_set()
    for name, content in raw.items():
        monkeypatch.setitem(images.MD5, name, hashlib.md5(content).hexdigest())
    yield raw
    images.load_images.cache_clear()


def test_mnist_that_was_changed_is_rejected_with_both_checksums(tmp_path, published):
    changed = published["train-labels-idx1-ubyte"][:-1] + b"\7"
    write(tmp_path / "mnist", {**published, "train-labels-idx1-ubyte": changed})
    with pytest.raises(ValueError, match="MNIST's train-labels") as caught:
        images.load_images("mnist", tmp_path)
    for checksum in (images.MD5["train-labels-idx1-ubyte"], hashlib.md5(changed).hexdigest()):
        assert checksum in str(caught.value)


def test_missing_files_are_downloaded_verified_and_kept(tmp_path, published, monkeypatch, capsys):
    good, bad = tmp_path / "good", tmp_path / "bad"
    write(good, published, ".gz", gzip.compress)
    write(bad, dict.fromkeys(published, b"not the file"), ".gz", gzip.compress)
    mirrors = ((tmp_path / "gone").as_uri(), bad.as_uri(), good.as_uri())
    monkeypatch.setattr(images, "MIRRORS", mirrors)
    cache = tmp_path / "cache"
    found = images.load_images("mnist", cache)
    assert found.train.shape == (6, 16)
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err  # the progress bar's label
    names = sorted(path.name for path in (cache / "mnist").iterdir())
    assert names == sorted(f"{name}.gz" for name in published)  # and no partial file
    monkeypatch.setattr(images, "MIRRORS", ())
    images.load_images.cache_clear()
    assert images.load_images("mnist", cache).sha256 == found.sha256


def test_offline_the_error_says_what_to_do(tmp_path, published, monkeypatch):
    monkeypatch.setattr(images, "MIRRORS", ((tmp_path / "gone").as_uri(),))
    with pytest.raises(FileNotFoundError) as caught:
        images.load_images("mnist", tmp_path / "empty")
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path / "empty"), "--data_dir", "COLLAPSE_JAX_DATA", "--dataset=digits"):
        assert part in message


def test_a_directory_that_cannot_be_written(tmp_path):
    source = tmp_path / "file"
    source.write_bytes(b"content")
    (tmp_path / "occupied").write_bytes(b"")
    with pytest.raises(ValueError, match="expected to write .*occupied"):
        files.fetch([source.as_uri()], tmp_path / "occupied" / "file", lambda raw: None)


def test_published_mnist():
    if not os.environ.get("COLLAPSE_JAX_DATA"):
        pytest.skip("COLLAPSE_JAX_DATA is not set: the published MNIST was not read")
    found = images.load_images("mnist")
    assert found.train.shape == (60_000, 784)
    assert found.test.shape == (10_000, 784)
    assert np.bincount(found.train_labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
