"""Safe reader of PyTorch's weight files: zips of raw storages, and a pickle that describes tensors.

A pickle can run arbitrary code. This unpickler knows only the names needed to rebuild tensors, maps
them to functions of its own, and rejects every other name.
"""

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from collapse_jax.arguments import SettingError

_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
}


class _Kind(NamedTuple):
    """Placeholder for a PyTorch storage class."""

    name: str


def read(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, from a dict of tensors that `torch.save` wrote.

    Raises:
      ValueError: if the file is damaged, in PyTorch's format before 1.6, contains anything but
        named floating-point tensors, or refers to a name that is not needed to rebuild them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            if member is None:
                raise ValueError("it has no data.pkl")
            folder = member.removesuffix("data.pkl")
            loaded = _Unpickler(io.BytesIO(archive.read(member)), archive, folder).load()
    except _Rejected as error:
        raise SettingError(f"expected only tensors of floats in {path}, got {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise SettingError(
            f"expected a complete PyTorch file (zip, since 1.6) at {path}: {error or repr(error)}"
        ) from error
    if not isinstance(loaded, dict):
        raise SettingError(f"expected tensors by name in {path}, got {type(loaded).__name__}")
    for name, array in loaded.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise SettingError(
                f"expected tensors by name in {path}, got {type(array).__name__} at {name!r}"
            )
    return dict(loaded)


class _Rejected(Exception):
    """A pickle refers to something not needed to rebuild tensors."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _Kind(name)
        # New functions each time, as a pickle can set attributes of the objects it gets.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *args: _view(*args)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        raise _Rejected(
            f"a pickle that names {f'{module}.{name}'!r}, which tensors of floats do not need"
        )

    def persistent_load(self, saved: Any) -> np.ndarray:
        kind, storage, key, _, count = saved
        if kind != "storage" or not isinstance(storage, _Kind) or "/" in str(key):
            raise _Rejected(f"a pickle that refers to {saved!r}, which is not a storage of floats")
        raw = self._archive.read(f"{self._folder}data/{key}")
        array = np.frombuffer(raw, _STORAGES[storage.name])
        if array.size != count:
            raise ValueError(f"storage {key} holds {array.size} numbers, expected {count}")
        return array


def _view(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any
) -> np.ndarray:
    """A tensor as a read-only view of its storage, checked to lie inside it."""
    del rest  # requires_grad and hooks
    if not math.prod(shape):
        return np.zeros(shape, storage.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    inside = min((offset, *shape, *strides)) >= 0 and last < storage.size
    # With strides of 0, a file of a kilobyte could request all memory.
    if not inside or math.prod(shape) > storage.size:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
    step = storage.itemsize
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [step * stride for stride in strides], writeable=False
    )
