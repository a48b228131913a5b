r"""Texts for language models: rows, split into training, validation and test.

* ``wikitext-2-raw``, ``wikitext-2``: WikiText-2 (Merity et al. 2016, arXiv:1609.07843; CC BY-SA),
  unmodified or with rare words as ``<unk>``. Splits are read from ``wikitext-2/wiki.train.raw``
  (or ``.tokens``; ``.gz``, ``.xz``) or ``wikitext-2-raw-v1/train-*.parquet`` (the layout of Hugging
  Face Hub) under the data directory; missing ones are downloaded from the hub's
  ``Salesforce/wikitext``.
* ``pydoc-topics``: the language reference that ships with Python, always available. Rows are
  paragraphs; of every ten topics, one is for validation and one for the test.
* a directory with the files ``train``, ``validation`` and ``test``: ``.txt`` (``.gz``, ``.xz``),
  with one row per line, or ``.parquet`` with a column ``text``.
* a UTF-8 text file, plain, ``.gz`` or ``.xz``: the last tenth of its rows is the test split, the
  tenth before it the validation split.
"""

import functools
import io
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from collapse_jax.arguments import MissingFileError, SettingError
from collapse_jax.data import files, word_counts
from collapse_jax.data.word_counts import PYDOC_TOPICS, WIKITEXT_2

WIKITEXT_2_RAW = "wikitext-2-raw"
SPLITS = ("train", "validation", "test")
_HUB = "Salesforce/wikitext"
_CONFIGURATIONS = {WIKITEXT_2: "wikitext-2-v1", WIKITEXT_2_RAW: "wikitext-2-raw-v1"}
_SUFFIXES = {WIKITEXT_2: "tokens", WIKITEXT_2_RAW: "raw"}
_FILES = {"train": "train", "validation": "valid", "test": "test"}
SHA256 = {  # of the published files, decompressed; that of wiki.train.raw is unknown
    "wiki.train.tokens": word_counts.SHA256[word_counts.WIKITEXT_2],
    "wiki.valid.tokens": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "wiki.test.tokens": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wiki.valid.raw": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "wiki.test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}


class Text(NamedTuple):
    """Rows of a text's splits; a blank line is an empty row."""

    title: str  # for plots and reports
    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str]
    sources: dict[str, str]  # {split: its file}
    sha256: str  # of all rows


@functools.lru_cache(maxsize=4)
def load_text(
    name: str, data_dir: str | os.PathLike[str] | None = None, revision: str | None = None
) -> Text:
    """Loads a text.

    Args:
        name: ``wikitext-2-raw``, ``wikitext-2``, ``pydoc-topics``, a directory or a text file.
        data_dir: directory of WikiText-2; ``None`` for the default of ``files.data_dir``.
        revision: revision of the hub repository, for downloads.

    Raises:
        FileNotFoundError: if the text or one of its splits does not exist.
        ValueError: if a file is damaged, not the published one or not UTF-8, or a split has no
            words.

    Examples:
        >>> len(load_text("pydoc-topics").train) > 1000
        True
    """
    if name in _CONFIGURATIONS:
        title = "WikiText-2, raw" if name == WIKITEXT_2_RAW else "WikiText-2"
        found = [_wikitext(name, split, files.data_dir(data_dir), revision) for split in SPLITS]
        rows, sources = [rows for rows, _ in found], [source for _, source in found]
    elif name == PYDOC_TOPICS:
        title = f"Python {platform.python_version()} topics"
        rows, sources = _topics(), [title] * 3
    elif name and Path(os.path.expanduser(name)).is_dir():
        directory = Path(os.path.expanduser(name))
        title = directory.name
        paths = [_split_file(directory, split) for split in SPLITS]
        rows, sources = [_file_rows(path) for path in paths], [path.name for path in paths]
    else:
        path = Path(os.path.expanduser(name))
        if not path.is_file():
            raise MissingFileError(
                f"dataset: expected {WIKITEXT_2_RAW}, {WIKITEXT_2}, {PYDOC_TOPICS}, or the path of"
                f" a directory or a text file, got {name!r}, and there is no such file"
            )
        title = path.name
        rows, sources = _cut(_file_rows(path)), [path.name] * 3
    for split, of_split in zip(SPLITS, rows, strict=True):
        if not any(row.strip() for row in of_split):
            raise SettingError(f"{name}: expected words in the {split} split, got none")
    checksum = files.sha256("\0".join("\n".join(of_split) for of_split in rows).encode())
    named = dict(zip(SPLITS, sources, strict=True))
    train, validation, test = map(tuple, rows)
    return Text(
        title=title, train=train, validation=validation, test=test, sources=named, sha256=checksum
    )


def _wikitext(
    name: str, split: str, directory: Path, revision: str | None
) -> tuple[list[str], str]:
    """Rows of a split, and their file."""
    plain = f"wiki.{_FILES[split]}.{_SUFFIXES[name]}"
    path = files.find(directory / "wikitext-2" / plain)
    if path is not None:
        raw = files.read(path)
        _verify(plain, raw, str(path))
        return _lines(word_counts.decode(raw, str(path))), path.name
    configuration = _CONFIGURATIONS[name]
    local = directory / configuration
    shards = sorted(local.glob(f"{split}-*.parquet"))
    if not shards:
        shards = [_fetched(name, split, directory / "wikitext-2" / plain, revision)]
    rows = [row for path in shards for row in _parquet(path)]
    _verify(plain, "".join(row or " \n" for row in rows).encode(), str(shards[0]))
    return rows, f"{configuration}/{split} (parquet)"


def _fetched(name: str, split: str, expected: Path, revision: str | None) -> Path:
    file = f"{_CONFIGURATIONS[name]}/{split}-00000-of-00001.parquet"
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(_HUB, file, repo_type="dataset", revision=revision))
    except Exception as error:  # unreachable or missing; error types vary by version
        reason = files.first_line(error)
        raise MissingFileError(
            f"expected the {split} split of {name} at {expected} (or .gz, .xz) or in the hub's"
            f" {_HUB} as {file}, which could not be fetched ({reason}); set --data_dir or"
            f" {files.ENVIRONMENT_VARIABLE} to the directory that contains it, or use"
            f" --dataset={PYDOC_TOPICS}, which needs no file"
        ) from error


def _verify(plain: str, raw: bytes, source: str) -> None:
    found = files.sha256(raw)
    if found != SHA256.get(plain, found):
        raise SettingError(
            f"expected WikiText-2's {plain}, SHA-256 {SHA256[plain]} after decompression, from"
            f" {source}, got {found} ({len(raw):,} bytes); fetch it again, or give the file's path"
            " as the dataset to use it as it is"
        )


def _lines(text: str) -> list[str]:
    """Rows with their line ends; rows without words are empty, as in the hub's tables."""
    # Not `splitlines`, which also splits at separators that may occur within a row.
    return [row if row.strip() else "" for row in io.StringIO(text)]


def _parquet(path: Path) -> list[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SettingError(
            f"expected pyarrow to be installed, to read {path}; install the extra lm"
        ) from error
    try:
        table: Any = parquet.read_table(path, columns=["text"])
        rows = [row or "" for row in table.column("text").to_pylist()]
        if not all(isinstance(row, str) for row in rows):
            raise ValueError("the column contains values that are not strings")
        return rows
    except Exception as error:  # pyarrow raises many types of errors
        reason = files.first_line(error)
        raise SettingError(
            f"expected a complete parquet file with a column text at {path}: {reason}"
        ) from error


def _topics() -> list[list[str]]:
    rows: list[list[str]] = [[], [], []]
    for number, topic in enumerate(word_counts.pydoc_topics().values()):
        which = {8: 1, 9: 2}.get(number % 10, 0)
        parts = (part.strip("\n") for part in topic.split("\n\n"))
        rows[which] += [f"{part}\n" for part in parts if part.strip()]
    return rows


def _split_file(directory: Path, split: str) -> Path:
    plain = directory / f"{split}.txt"
    path = files.find(plain) or directory / f"{split}.parquet"
    if not path.is_file():
        raise MissingFileError(
            f"dataset: expected the {split} split at {plain} (or .gz, .xz) or {path}, found no file"
        )
    return path


def _file_rows(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return _parquet(path)
    return _lines(word_counts.decode(files.read(path), str(path)))


def _cut(rows: list[str]) -> list[list[str]]:
    tenth = len(rows) // 10
    first, second = len(rows) - 2 * tenth, len(rows) - tenth
    return [rows[:first], rows[first:second], rows[second:]]
