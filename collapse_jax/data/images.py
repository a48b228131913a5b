"""Labelled images: MNIST, data sets in MNIST's format, and scikit-learn's digits.

* ``digits``: the 1,797 8x8 digits that ship with scikit-learn, always available.
* ``mnist``: the 60,000 + 10,000 images of LeCun, Cortes and Burges, in ``mnist/`` under the data
  directory; plain, ``.gz`` or ``.xz``; missing files are downloaded from the usual mirrors.
* any other name is a directory of four idx files with MNIST's names (such as Fashion-MNIST).
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse_jax.arguments import MissingFileError, SettingError
from collapse_jax.data import files

DIGITS = "digits"
MNIST = "mnist"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
MD5 = {  # of MNIST's files, decompressed
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801  # unsigned bytes, of three dimensions and of one
_HELD_OUT_DIGITS = 360


class ImageSet(NamedTuple):
    """Square grey images; 0 is black, 255 white. Axis names: image, pixel (row by row)."""

    name: str
    title: str  # for plots and reports
    side: int  # pixels
    sha256: str  # of all pixels and labels
    train: np.ndarray  # u8[image, pixel]
    train_labels: np.ndarray  # u8[image]
    test: np.ndarray  # u8[image, pixel]
    test_labels: np.ndarray  # u8[image]


@functools.lru_cache(maxsize=4)
def load_images(name: str, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
    """Loads a set of images.

    Args:
        name: ``digits``, ``mnist``, or a directory of four idx files.
        data_dir: directory of ``mnist/``; ``None`` for the default of ``files.data_dir``.

    Returns:
        The images; their arrays are shared between callers and read-only.

    Raises:
        FileNotFoundError: if a file does not exist and cannot be downloaded.
        ValueError: if a file is damaged, not the published one, or not an idx file.

    Examples:
        >>> load_images("digits").train.shape
        (1437, 64)
    """
    if name == DIGITS:
        title, arrays = "scikit-learn's digits", _digits()
    elif name == MNIST:
        title, arrays = "MNIST", _idx_set(_mnist(files.data_dir(data_dir) / MNIST))
    else:
        directory = Path(os.path.expanduser(name))
        if not directory.is_dir():
            raise MissingFileError(
                f"dataset: expected {DIGITS}, {MNIST} or a directory of idx files, got {name!r}, "
                "and there is no such directory"
            )
        title, arrays = directory.name, _idx_set({n: _existing(directory / n) for n in MD5})
    for array in arrays:
        array.flags.writeable = False
    side = round(arrays[0].shape[1] ** 0.5)
    checksum = files.sha256(b"".join(array.tobytes() for array in arrays))
    return ImageSet(name, title, side, checksum, *arrays)


def _digits() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    # The file is ordered by writer: shuffled, so that both parts contain all writers.
    order = np.random.default_rng(0).permutation(len(loaded.data))
    pixels = np.rint(loaded.data[order] * (255 / 16)).astype(np.uint8)
    labels = loaded.target[order].astype(np.uint8)
    cut = len(order) - _HELD_OUT_DIGITS
    return pixels[:cut].copy(), labels[:cut].copy(), pixels[cut:].copy(), labels[cut:].copy()


def _mnist(directory: Path) -> dict[str, Path]:
    """Paths of the four files, verified; missing ones are downloaded."""
    paths = {}
    for name, expected in MD5.items():
        path = files.find(directory / name)
        if path is None:
            path = directory / f"{name}.gz"
            _download(name, path)
        else:
            _verify(name, expected, files.read(path), str(path))
        paths[name] = path
    return paths


def _download(name: str, target: Path) -> None:
    sources = [f"{mirror}/{name}.gz" for mirror in MIRRORS]
    try:
        files.fetch(sources, target, lambda raw: _verify(name, MD5[name], raw, "the download"))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"expected MNIST's {name} at {target.parent / name} (or .gz, .xz), found no file, and "
            f"could not download it ({error}); put the four idx files there, set --data_dir or "
            f"{files.ENVIRONMENT_VARIABLE} to the directory that contains mnist, or use "
            f"--dataset={DIGITS}, which needs no file"
        ) from error


def _verify(name: str, expected: str, raw: bytes, source: str) -> None:
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != expected:
        raise SettingError(
            f"expected MNIST's {name}, MD5 {expected} after decompression, got {found} "
            f"({len(raw):,} bytes) from {source}; fetch it again, or give the directory as the "
            "dataset to use it as it is"
        )


def _existing(plain: Path) -> Path:
    path = files.find(plain)
    if path is None:
        raise MissingFileError(f"dataset: expected {plain} (or .gz, .xz), found no file")
    return path


def _idx_set(paths: dict[str, Path]) -> tuple[np.ndarray, ...]:
    """Images and labels of both parts, in the order of the fields of ImageSet."""
    arrays = []
    for part in ("train", "t10k"):
        images_at, labels_at = (paths[f"{part}-{kind}"] for kind in _KINDS)
        images = _idx(images_at, _IMAGES_MAGIC)
        labels = _idx(labels_at, _LABELS_MAGIC)
        if images.shape[1] != images.shape[2]:
            raise SettingError(
                f"expected square images in {images_at}, got {images.shape[1]}x{images.shape[2]}"
            )
        if len(images) != len(labels):
            raise SettingError(
                f"expected a label for each of the {len(images):,} images of {images_at}, got "
                f"{len(labels):,} in {labels_at}"
            )
        arrays += [images.reshape(len(images), -1).copy(), labels.copy()]
    if arrays[0].shape[1] != arrays[2].shape[1]:
        raise SettingError(
            f"expected training and test images of equal size, got {arrays[0].shape[1]} and "
            f"{arrays[2].shape[1]} pixels"
        )
    return tuple(arrays)


_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _idx(path: Path, magic: int) -> np.ndarray:
    """Entries u8[...] of an idx file: big-endian magic number, sizes, then the entries."""
    raw = files.read(path)
    dims = magic & 0xFF
    found = int.from_bytes(raw[:4], "big")
    if len(raw) < 4 or found != magic:
        raise SettingError(
            f"expected the magic number {magic:#010x} at the start of {path}, got {found:#010x}"
        )
    header = 4 + 4 * dims
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4)]
    size = int(np.prod(shape, dtype=np.int64))
    if not size:
        raise SettingError(f"expected entries in {path}, got none")
    if len(raw) != header + size:
        raise SettingError(
            f"expected {size:,} bytes of {' x '.join(map(str, shape))} entries after the header of "
            f"{path}, got {max(len(raw) - header, 0):,}; copy or fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
