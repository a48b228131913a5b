"""Files that are written as a whole or not at all."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[epath.Path]:
    """Replaces a file as a whole or not at all: a crash leaves either the old file or the new one.

    The block writes to a temporary file in the same directory. If it ends without an error, that
    file is flushed to the device and renamed to ``path``; otherwise it is removed.

    Args:
        path: of the file, local or gs://; its directory must exist.

    Yields:
        The path of the temporary file, which the block must write.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with replacing(f"{directory}/notes.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     print((epath.Path(directory) / "notes.txt").read_text())
        whole
    """
    target = epath.Path(path)
    temporary = target.parent / f"{target.name}.{os.getpid()}.tmp"  # processes may share a cache
    try:
        yield temporary
        if "://" not in os.fspath(temporary):  # an object store has no fsync
            file = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
