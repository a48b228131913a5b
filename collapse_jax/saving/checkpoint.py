"""Stores of a run's progress, in memory or on disk; the only module that imports Orbax.

A checkpoint on disk is a tree saved by Orbax whose metadata hold the names and checksums of the
immutable history parts that belong to it. A part is valid only once a checkpoint names it, so a run
killed at any moment resumes from the last commit. A separate thread writes everything, so the
chains do not wait for the disk.
"""

import contextlib
import errno
import hashlib
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from collapse_jax.atomic import replacing
from collapse_jax.results.records import Part, Record, flatten, unflatten
from collapse_jax.saving.signals import Stopped

_DAMAGED = ".damaged"
_EMPTY = "empty"  # placeholder for a tree without leaves, which Orbax rejects


class CheckpointError(RuntimeError):
    """Saved progress cannot be read or written; the message names the path."""


class Restored(NamedTuple):
    """A checkpoint read back."""

    position: dict[str, Any]  # as given to `commit`
    tree: Any  # NumPy arrays and keys, in the structure of the requested shapes


class MemoryStore:
    """Records of a run without a workdir, which cannot be resumed."""

    def __init__(self) -> None:
        """An empty store."""
        self._parts: list[Part] = []

    def append(self, start: int, stop: int, record: Record) -> None:
        """Adds the record of generations [start, stop)."""
        self._parts.append((start, stop, record))

    def commit(self, position: Mapping[str, Any], tree: Callable[[], Any]) -> None:
        """Does nothing."""

    def restore(self, abstract: Callable[[Mapping[str, Any]], Any]) -> Restored | None:
        """Always None."""
        del abstract
        return None

    def parts(self) -> list[Part]:
        """All records, in order."""
        return self._parts

    def close(self) -> None:
        """Does nothing."""

    def abandon(self) -> None:
        """Does nothing."""


class DiskStore:
    """Durable records and states of one cohort of chains under a directory."""

    def __init__(self, directory: epath.Path, keep: int = 2) -> None:
        """Opens or creates the store; `keep` is the number of checkpoints to keep."""
        self._directory = directory
        self._history = directory / "history"
        self._log = directory / "committed"
        self._begun = self._history.exists()
        with explained(self._history):
            self._history.mkdir(parents=True, exist_ok=True)
        self._listed: list[dict[str, Any]] = []  # parts on disk
        self._unwritten: list[Part] = []
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None
        self._step = -1
        try:
            self._orbax = self._open(keep)
        except Exception:
            # Orbax opens no checkpoint if the metadata of one are damaged; that one is set aside.
            for path in (directory / "states").iterdir():
                if path.name.isdigit() and not _metadata_readable(path):
                    path.rename(path.parent / f"{path.name}{_DAMAGED}")
            self._orbax = self._open(keep)

    def _open(self, keep: int) -> Any:
        import orbax.checkpoint.experimental.v1 as ocp

        policies = ocp.training
        # These steps take a third of a save's CPU time; one process that writes NumPy arrays does
        # not need them.
        context = ocp.Context()
        context.array.saving.use_compression = False
        context.array.saving.enable_post_merge_validation = False
        context.array.saving.enable_write_sharding_file = False
        context.array.saving.array_metadata_store = None
        return policies.Checkpointer(
            os.fspath(self._directory / "states"),
            context=context,
            # The default policy skips a save while another one is running.
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def append(self, start: int, stop: int, record: Record) -> None:
        """Adds the record of generations [start, stop), which the next commit writes."""
        self._unwritten.append((start, stop, record))

    def commit(self, position: Mapping[str, Any], tree: Callable[[], Any]) -> None:
        """Saves all parts so far and the state after them; returns before they are written."""
        # Orbax rejects empty arrays; `restore` creates them from their shapes.
        leaves = [host for leaf in jax.tree.leaves(tree()) if (host := _host(leaf)).size]
        self._wait()
        parts, self._unwritten = self._unwritten, []
        self._step += 1
        self._pending = self._writer.submit(self._save, self._step, dict(position), leaves, parts)

    def _save(
        self,
        step: int,
        position: dict[str, Any],
        leaves: list[np.ndarray],
        parts: list[Part],
    ) -> None:
        for start, stop, record in parts:
            name = f"{start:08d}-{stop:08d}.npz"
            with explained(self._history / name):
                digest = write_durably(self._history / name, record)
            self._listed.append({"start": start, "stop": stop, "file": name, "sha256": digest})
        named = {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}
        metadata: dict[str, Any] = {
            "position": position,
            "parts": list(self._listed),
        }
        metadata["sha256"] = _digest(leaves, metadata)
        path = self._directory / "states" / str(step)
        with explained(path):
            saved = self._orbax.save(step, named or {_EMPTY: np.zeros(1)}, custom_metadata=metadata)
        if saved is False:
            raise CheckpointError(f"Orbax skipped the save of {path}")
        with explained(self._log), self._log.open("a") as file:
            file.write(f"{step}\n")

    def restore(self, abstract: Callable[[Mapping[str, Any]], Any]) -> Restored | None:
        """The newest intact checkpoint, or None if none was ever committed.

        Args:
          abstract: position -> shapes and dtypes of the tree saved at that position.

        Raises:
          CheckpointError: if checkpoints were committed but none can be read.
        """
        found = sorted((m.step for m in self._orbax.checkpoints), reverse=True)
        committed = self._committed()
        present = {p.name for p in (self._directory / "states").iterdir() if p.name.isdigit()}
        problems = []
        newest = max([*committed[-1:], *map(int, present)], default=-1)
        if newest > max(found, default=-1):
            problems.append(f"{self._directory / 'states' / str(newest)}: missing or incomplete")
        for step in found:
            path = self._directory / "states" / str(step)
            try:
                metadata, arrays = self._read(step)
            except Exception as error:  # Orbax raises various errors for damaged bytes
                reason = textwrap.shorten(str(error) or type(error).__name__, 200)
                problems.append(f"{path}: {reason}")
                continue
            tree = _as_tree(path, arrays, abstract(metadata["position"]))
            self._listed = list(metadata["parts"])
            for problem in problems:
                warnings.warn(
                    f"checkpoint skipped, going back to the one before: {problem}", stacklevel=2
                )
            self._discard_after(step)
            return Restored(metadata["position"], tree)
        # There are at most two parts before the first commit is logged.
        parts = [path for path in self._history.iterdir() if path.suffix == ".npz"]
        if not problems and len(parts) > 2:
            problems.append(f"{self._directory / 'states'}: no checkpoints beside their history")
        if problems:
            raise CheckpointError(
                "no checkpoint can be read, and starting over would lose the run: "
                + "; ".join(problems)
            )
        if self._begun:
            warnings.warn(
                f"no checkpoint was ever finished in {self._directory}: starting from generation 0",
                stacklevel=2,
            )
        self._drop_unlisted()
        return None

    def parts(self) -> list[Part]:
        """All records, in order, read from disk."""
        return [
            (part["start"], part["stop"], _read_part(self._history / part["file"]))
            for part in self._listed
        ]

    def close(self) -> None:
        """Waits for the current save, and raises its error if it fails."""
        try:
            self._wait()
        finally:
            self._writer.shutdown()
            self._orbax.close()

    def abandon(self) -> None:
        """Closes while another error is raised, which takes precedence."""
        reported = sys.exception()
        try:
            self.close()
        except Exception as error:
            if isinstance(reported, Stopped):  # it says that all progress is saved
                raise
            if not isinstance(reported, CheckpointError):  # it has the same cause
                warnings.warn(f"while closing {self._directory}: {error}", stacklevel=2)

    def _read(self, step: int) -> tuple[Mapping[str, Any], list[np.ndarray]]:
        """A checkpoint's metadata and arrays, after verifying checksums and history parts."""
        metadata = self._orbax.metadata(step).custom_metadata
        if not metadata:
            raise CheckpointError("its metadata cannot be read")
        for part in metadata["parts"]:
            path = self._history / part["file"]
            if not path.exists():
                raise CheckpointError(f"{path} is missing")
            if hashlib.sha256(path.read_bytes()).hexdigest() != part["sha256"]:
                raise CheckpointError(f"{path} is damaged")
        loaded = self._orbax.load(step)
        arrays = [np.asarray(loaded[name]) for name in sorted(loaded) if name != _EMPTY]
        if _digest(arrays, metadata) != metadata["sha256"]:
            raise CheckpointError("its arrays or metadata are damaged")
        return metadata, arrays

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _committed(self) -> list[int]:
        if not self._log.exists():
            return []
        # The log only supplements the directories, so damaged lines are skipped.
        return [int(line) for line in self._log.read_bytes().split() if line.isdigit()]

    def _discard_after(self, step: int) -> None:
        """Removes broken later checkpoints and uncommitted parts, to free their names."""
        for path in (self._directory / "states").iterdir():
            number = path.name.removesuffix(_DAMAGED)
            if number.isdigit() and (number != path.name or int(number) > step):
                path.rmtree()
        self._orbax.reload()
        self._step = step
        kept = "".join(f"{s}\n" for s in self._committed() if s <= step)
        with explained(self._log):
            self._log.write_text(kept)
        self._drop_unlisted()

    def _drop_unlisted(self) -> None:
        known = {part["file"] for part in self._listed}
        for path in self._history.iterdir():
            if path.name not in known:
                path.unlink()


@contextlib.contextmanager
def explained(path: Any) -> Iterator[None]:
    """Turns write errors into a CheckpointError of one line with the path and the cause."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # Orbax and TensorStore raise all three
        if isinstance(error, CheckpointError):
            raise
        text = str(error)
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        full = full or "No space left" in text
        reason = "no space left on the device" if full else (text.splitlines() or [repr(error)])[0]
        raise CheckpointError(
            f"cannot write {path}: {reason}; earlier checkpoints are intact"
        ) from error


def _as_tree(path: epath.Path, arrays: list[np.ndarray], wanted: Any) -> Any:
    """Puts arrays into a tree with the shapes and dtypes of `wanted`."""
    leaves, structure = jax.tree.flatten(wanted)
    shapes = [_data_shape(leaf) for leaf in leaves]
    found, expected = [a.shape for a in arrays], [shape for shape in shapes if 0 not in shape]
    if found != expected:
        raise CheckpointError(f"{path}: expected shapes {expected}, got {found}")
    saved = iter(arrays)
    restored = [
        np.zeros(shape, leaf.dtype) if 0 in shape else _from_host(next(saved), leaf)
        for shape, leaf in zip(shapes, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _metadata_readable(path: epath.Path) -> bool:
    import orbax.checkpoint.experimental.v1 as ocp

    try:
        ocp.metadata(os.fspath(path))
    except Exception:
        return False
    return True


def _host(leaf: Any) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _data_shape(leaf: Any) -> tuple[int, ...]:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf).shape
    return tuple(leaf.shape)


def _from_host(array: np.ndarray, leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        kinds: list[Any] = []  # taken from a tracer: key_impl rejects a ShapeDtypeStruct
        jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), leaf)
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kinds[0])
    return array


def _digest(leaves: list[np.ndarray], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of the arrays, of their position in the run, and of the list of history parts."""
    covered = [metadata["position"], metadata["parts"]]
    digest = hashlib.sha256(json.dumps(covered, sort_keys=True).encode())
    for leaf in leaves:
        digest.update(f"{leaf.dtype.str}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def write_durably(path: epath.Path, record: Record) -> str:
    """Writes a record as an .npz file, flushed to the device; returns the file's SHA-256."""
    flat: dict[str, Any] = flatten(record)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **flat)
        return hashlib.sha256(temporary.read_bytes()).hexdigest()


def _read_part(path: epath.Path) -> Record:
    with path.open("rb") as file, np.load(file) as arrays:
        return unflatten({name: arrays[name] for name in arrays.files})
