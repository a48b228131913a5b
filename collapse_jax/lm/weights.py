"""OPT weights: loading and saving in Hugging Face's layout, from directories or the hub.

Every published format is read into a flat dict of arrays, whose names and shapes are then matched
against the model; all mismatches are reported in one error. `torch_files.py` reads PyTorch's files
without executing their pickles.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.arguments import MissingFileError, SettingError
from collapse_jax.atomic import replacing
from collapse_jax.data import files
from collapse_jax.lm import opt, torch_files
from collapse_jax.lm.config import Config, read_config, to_json
from collapse_jax.lm.opt import Params

Arrays = dict[str, np.ndarray]
TOKENIZER_FILES = ("vocab.json", "merges.txt")


class _Format(NamedTuple):
    """A published format of weights: a single file, or several with an index."""

    single: str  # name of the single file
    listing: str  # name of the index
    read: Callable[[Path], Arrays]


def load(
    name: str | os.PathLike[str], revision: str | None = None, config: Config | None = None
) -> tuple[Config, Params]:
    """Loads a published model.

    Args:
      name: a directory, or an id on the Hugging Face hub such as "facebook/opt-125m".
      revision: branch, tag or commit of the hub's repository; None for its main branch.
      config: architecture; None reads config.json.

    Returns:
      The architecture, and parameters in f32.

    Raises:
      FileNotFoundError: if there is no such directory or repository, or it has no weights.
      ValueError: if files are damaged or do not fit the architecture.
    """
    directory = resolve(name, revision)
    config = config or read_config(directory / "config.json")
    return config, to_params(config, read(directory), str(directory))


def resolve(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The directory with a model's files, downloaded if `name` is an id on the hub.

    Raises:
      FileNotFoundError: if there is no such directory, and no such repository can be reached.
    """
    local, text = Path(os.path.expanduser(name)), os.fspath(name)
    expected = f"model: expected a directory or an id on the hub, got {text!r}"
    if text and local.is_dir():
        return local
    if local.is_file():
        raise MissingFileError(f"{expected}, which is a file")
    if not text or text.startswith(("/", ".", "~")):  # not an id
        raise MissingFileError(f"{expected}, and there is no such directory")
    from huggingface_hub import HfApi, errors, snapshot_download

    fetch = functools.partial(snapshot_download, text, revision=revision)
    unknown = (
        errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError,
    )  # fmt: skip
    try:
        listed = set(HfApi().list_repo_files(text, revision=revision))
        wanted = ["config.json", *TOKENIZER_FILES, *_weight_patterns(listed)]
        return Path(fetch(allow_patterns=wanted))
    except unknown as error:
        raise MissingFileError(f"{expected}: {files.first_line(error)}") from error
    except Exception as reason:  # hub out of reach; types of transport errors vary by version
        try:
            return Path(fetch(local_files_only=True))
        except errors.LocalEntryNotFoundError as error:
            why = files.first_line(reason)
            raise MissingFileError(
                f"{expected}: the hub is out of reach ({why}), and the model was not fetched before"
            ) from error


def read(directory: Path) -> Arrays:
    """All arrays of the first format found in a directory, by published name, as stored.

    Raises:
      FileNotFoundError: if no format is found, or a file listed by an index is missing.
      ValueError: if a file is damaged.
    """
    for kind in _FORMATS:
        paths = _files(directory, kind)
        if not paths:
            continue
        arrays: Arrays = {}
        for path in paths:
            if not path.is_file():
                raise MissingFileError(f"expected weights at {path}, which an index lists")
            arrays.update(kind.read(path))
        return arrays
    known = ", ".join(kind.single for kind in _FORMATS)
    raise MissingFileError(f"expected weights in {directory} ({known}), but there are none")


def to_params(config: Config, arrays: Mapping[str, np.ndarray], source: str) -> Params:
    """Parameters in f32, from arrays under any of their published names.

    Args:
      config: the model's architecture.
      arrays: arrays by name; other floating-point types are converted.
      source: name of their source in error messages.

    Raises:
      ValueError: with the name of every array that is missing, duplicate, unexpected, of another
        shape or not of a floating-point type.
    """
    leaves, structure = jax.tree.flatten_with_path(opt.shapes(config))
    given: dict[str, list[str]] = {}
    for name in arrays:
        given.setdefault(_without_prefix(name), []).append(name)
    heads = [name for key in ("lm_head.weight", "lm_head.kernel") for name in given.pop(key, [])]
    faults, made = [], []
    for path, expected in leaves:
        published = published_name(path)
        keys = dict.fromkeys((_without_prefix(published), ".".join(_keys(path))))
        names = [name for key in keys for name in given.pop(key, [])]
        if len(names) != 1:
            faults.append(
                f"{' and '.join(names)} are one parameter" if names else f"{published} is missing"
            )
            continue
        array, shape = arrays[names[0]], expected.shape
        if path[-1].key == "kernel" and names[0].endswith(".weight"):
            array, shape = array.T, shape[::-1]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            faults.append(f"{names[0]} is {array.dtype}, expected floating-point numbers")
        elif array.shape != expected.shape:
            faults.append(f"{names[0]} has shape {arrays[names[0]].shape}, expected {shape}")
        else:
            made.append(np.asarray(array, np.float32))
    faults += [f"{name} is not expected" for names in given.values() for name in names]
    if faults:
        raise SettingError(f"{source}: weights do not fit the config: {'; '.join(faults)}")
    params: Params = jax.tree.unflatten(structure, made)
    embedding = params["embed_tokens"]["embedding"]
    for name in heads:
        head = arrays[name].T if name.endswith("kernel") else arrays[name]
        if head.shape != embedding.shape or not np.all(np.asarray(head, np.float32) == embedding):
            raise SettingError(
                f"{source}: {name}: expected the word embedding, to which OPT's is tied, got other"
                " weights"
            )
    return params


def save(directory: str | os.PathLike[str], config: Config, params: Params) -> None:
    """Writes config.json and model.safetensors, which transformers and `load` can read.

    The tokenizer is saved separately, by `Tokenizer.save`.

    Args:
      directory: created if it does not exist.
      config, params: the model.

    Raises:
      ValueError: if the parameters' shapes are not those of the config.
      NotADirectoryError: if `directory` is a file.
    """
    from safetensors.numpy import save_file

    expected = opt.shapes(config)
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
        raise SettingError(
            "params: expected those of a model of the config, got other names or shapes"
        )
    target = Path(directory)
    if target.is_file():
        raise NotADirectoryError(f"expected a directory at {target}, got a file")
    target.mkdir(parents=True, exist_ok=True)
    leaves, _ = jax.tree.flatten_with_path(params)
    arrays = {
        published_name(path): np.ascontiguousarray(
            np.asarray(leaf).T if path[-1].key == "kernel" else np.asarray(leaf)
        )
        for path, leaf in leaves
    }
    with replacing(target / "model.safetensors") as temporary:
        save_file(arrays, temporary, metadata={"format": "pt"})
    text = json.dumps({**to_json(config), "dtype": "float32"}, indent=2)
    with replacing(target / "config.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def published_name(path: Any) -> str:
    """Name of a parameter in PyTorch's checkpoints of OPT, from its path in the tree."""
    *above, last = _keys(path)
    return ".".join(["model", "decoder", *above, "bias" if last == "bias" else "weight"])


def _keys(path: Any) -> list[str]:
    return [str(entry.key) for entry in path]


def _without_prefix(name: str) -> str:
    """A published name without its prefix: "model.decoder.", or "decoder." in older files."""
    return name.removeprefix("model.").removeprefix("decoder.")


def _files(directory: Path, kind: _Format) -> list[Path]:
    """Files of a format in a directory: none, the single file, or those that the index lists."""
    if (directory / kind.single).is_file():
        return [directory / kind.single]
    if not (directory / kind.listing).is_file():
        return []
    index = directory / kind.listing
    try:
        listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) and Path(name).name == name for name in listed):
            raise ValueError("a file name outside the directory")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(f"expected an index of weights at {index}: {error!r}") from error
    return [directory / name for name in sorted(listed)]


def _weight_patterns(listed: Iterable[str]) -> list[str]:
    """Patterns of the files of the first format found in a repository."""
    names = set(listed)
    for kind in _FORMATS:
        if kind.single in names:
            return [kind.single]
        if kind.listing in names:
            stem, suffix = os.path.splitext(kind.single)
            return [kind.listing, f"{stem}-*{suffix}"]
    return []


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        return {name: np.asarray(array) for name, array in load_file(path).items()}
    except (SafetensorError, ValueError, OSError) as error:
        raise SettingError(f"expected a complete safetensors file at {path}: {error}") from error


def _read_msgpack(path: Path) -> Arrays:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        nested = msgpack_restore(path.read_bytes())
        flat = flatten_dict(nested, sep=".")
        return {name: np.asarray(array) for name, array in flat.items()}
    except Exception as error:  # msgpack raises many types of errors
        raise SettingError(
            f"expected a complete msgpack file of weights at {path}: {error or repr(error)}"
        ) from error


_FORMATS = (
    _Format("model.safetensors", "model.safetensors.index.json", _read_safetensors),
    _Format("flax_model.msgpack", "flax_model.msgpack.index.json", _read_msgpack),
    _Format("pytorch_model.bin", "pytorch_model.bin.index.json", torch_files.read),
)
