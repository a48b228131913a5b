"""Files of data sets: locating, reading, decompressing, verifying and downloading."""

import gzip
import hashlib
import http.client
import lzma
import os
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from collapse_jax.arguments import MissingFileError, SettingError
from collapse_jax.atomic import replacing

ENVIRONMENT_VARIABLE = "COLLAPSE_JAX_DATA"

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}
_CHUNK = 1 << 16  # bytes
# Errors of a download that is unreachable, truncated, damaged or not the published file.
_BAD_DOWNLOAD = (
    OSError, http.client.HTTPException, EOFError, zlib.error, lzma.LZMAError, ValueError,
)  # fmt: skip


def data_dir(override: str | os.PathLike[str] | None = None) -> Path:
    """The directory of data sets, which may not exist.

    Args:
        override: the value of ``--data_dir``, if the user gave one.

    Returns:
        ``override``, else ``$COLLAPSE_JAX_DATA``, else `cache_dir`.
    """
    chosen = override or os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(os.path.expanduser(chosen)) if chosen else cache_dir()


def cache_dir() -> Path:
    """``collapse_jax`` in the user's cache directory, ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the XDG specification: "should consider the path invalid"
        cache = os.path.expanduser("~/.cache")
    return Path(cache, "collapse_jax")


def find(plain: Path) -> Path | None:
    """The path of the file or of its .gz or .xz version; None if none exists."""
    candidates = [plain, *(plain.with_name(plain.name + suffix) for suffix in DECOMPRESS)]
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path) -> bytes:
    """Reads a file, decompressed according to its suffix.

    Raises:
        ValueError: if it cannot be read or decompressed.
    """
    try:
        raw = path.read_bytes()
        return DECOMPRESS[path.suffix](raw) if path.suffix in DECOMPRESS else raw
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SettingError(
            f"expected a complete {path.suffix or 'plain'} file at {path}, but reading it failed: "
            f"{error}; copy or fetch it again"
        ) from error


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def sha256(raw: bytes) -> str:
    """SHA-256 checksum in hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


def fetch(sources: Sequence[str], target: Path, verify: Callable[[bytes], None]) -> None:
    """Downloads a file from the first source that provides it, with a progress bar.

    Args:
        sources: URLs of the same file.
        target: path to write the complete, verified file to; its suffix gives the compression.
        verify: raises ValueError if decompressed bytes differ from the published ones.

    Raises:
        FileNotFoundError: if no source provides the published file.
        ValueError: if the target cannot be written.
    """
    problems = []
    for source in sources:
        try:
            raw = _download(source, target.name)
            unpack = DECOMPRESS.get(target.suffix)
            verify(unpack(raw) if unpack else raw)
        except _BAD_DOWNLOAD as error:
            reason = getattr(error, "reason", None) or error
            problems.append(f"{source}: {reason}")
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                temporary.write_bytes(raw)
        except OSError as error:
            raise SettingError(
                f"expected to write {target}, but: {error.strerror or error}; set --data_dir or "
                f"{ENVIRONMENT_VARIABLE} to a writable directory"
            ) from error
        return
    raise MissingFileError("; ".join(problems))


def _download(source: str, label: str) -> bytes:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with (
        urllib.request.urlopen(source, timeout=30) as answer,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        length = answer.headers.get("Content-Length")
        task = bar.add_task(label, total=int(length) if length else None)
        received = bytearray()
        while chunk := answer.read(_CHUNK):
            received += chunk
            bar.advance(task, len(chunk))
        return bytes(received)
