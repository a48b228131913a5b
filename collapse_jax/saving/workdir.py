"""A run's work directory: config.json and env.json, and the checks before a run is resumed.

Only one process at a time may use a workdir: see `Workdir.lock`.
"""

import contextlib
import json
import platform
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
from etils import epath

from collapse_jax.arguments import SettingError
from collapse_jax.atomic import replacing
from collapse_jax.compiling import MATMUL_PRECISION
from collapse_jax.config import differences, fingerprint
from collapse_jax.saving.checkpoint import CheckpointError, explained

# Entries of env.json that may change a result's bits.
_AFFECTS_BITS = ("packages", "devices", "cpu", "matmul_precision")
_PACKAGES = ("collapse_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


class Workdir:
    """One run's directory, local or gs://."""

    def __init__(self, path: str) -> None:
        """Creates the directory if it does not exist."""
        self.path = epath.Path(path)
        self._local = "://" not in path
        if self._local:
            self.path = self.path.expanduser().resolve()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"workdir: cannot create {path}: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks a local workdir against other processes; the system releases it if this one dies.

        Raises:
          ValueError: if another process holds the lock.
        """
        if not self._local:
            yield
            return
        from filelock import FileLock, Timeout

        held = FileLock(self.path / "lock")
        with explained(self.path / "lock"), contextlib.suppress(Timeout):
            held.acquire(timeout=0)
        if not held.is_locked:
            raise SettingError(
                f"workdir: another process is running in {self.path}; wait for it to end, or"
                " use another workdir"
            )
        try:
            yield
        finally:
            held.release()

    def stored(self) -> dict[str, Any] | None:
        """Content of config.json, or None if no run was started here.

        Raises:
          CheckpointError: if it is damaged, or missing beside checkpoints.
        """
        path = self.path / "config.json"
        if not path.exists():
            if (self.path / "checkpoints").exists():
                raise CheckpointError(
                    f"{path} is missing, so the checkpoints beside it cannot be told apart from"
                    " another run's; restore it, or use another workdir"
                )
            return None
        try:
            content = json.loads(path.read_bytes())
            whole = fingerprint(content["identity"]) == content["fingerprint"]
            whole &= sum(count for _, count in content["cohorts"]) == content["chains"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if not whole:
            raise CheckpointError(f"{path} is damaged: its fingerprint does not match its content")
        return content

    def open(
        self, identity: Mapping[str, Any], chains: int, generations: int
    ) -> list[tuple[int, int]]:
        """Starts or resumes a run of this identity.

        Args:
          identity: all settings that change results.
          chains, generations: size of the run; may grow between calls.

        Returns:
          The cohorts as (first chain, number of chains).

        Raises:
          ValueError: if the workdir holds another run, or this one would shrink.
        """
        stored = self.stored()
        if stored is None:
            cohorts = [(0, chains)]
        else:
            changed = differences(stored["identity"], json.loads(json.dumps(identity)))
            if changed:
                raise SettingError(
                    f"workdir: {self.path} holds a run with another config ({'; '.join(changed)});"
                    " use another workdir or the same settings"
                )
            cohorts = self._grown(stored, chains, generations, identity["chains_per_batch"])
            for index in range(len(stored["cohorts"])):
                path = self.path / "checkpoints" / f"cohort-{index}"
                if not path.exists():
                    warnings.warn(f"no {path} yet: starting from generation 0", stacklevel=2)
        self._write_json(
            "config.json",
            {
                "fingerprint": fingerprint(identity),
                "identity": identity,
                "chains": chains,
                "generations": generations,
                "cohorts": cohorts,
            },
        )
        self._check_environment(identity["prng"])
        return cohorts

    def _grown(
        self, stored: Mapping[str, Any], chains: int, generations: int, batch: int
    ) -> list[tuple[int, int]]:
        cohorts = [(first, count) for first, count in stored["cohorts"]]
        for name, old, new in (
            ("generations", stored["generations"], generations),
            ("chains", stored["chains"], chains),
        ):
            if new < old:
                raise SettingError(
                    f"{name}: {self.path} holds a run of {old}, which cannot shrink to {new}"
                )
        if chains > stored["chains"]:
            if stored["chains"] % batch:
                raise SettingError(
                    f"chains: only whole batches can be added, and the {stored['chains']} chains in"
                    f" {self.path} do not fill batches of {batch}"
                )
            cohorts.append((stored["chains"], chains - stored["chains"]))
        return cohorts

    def write_text(self, name: str, content: str) -> None:
        """Replaces a file as a whole: a killed run leaves either the old or the new one."""
        with explained(self.path / name), replacing(self.path / name) as temporary:
            temporary.write_text(content)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def _check_environment(self, prng: str) -> None:
        """Records the environments of the run's start and of each resume; warns if they differ."""
        now = environment(prng)
        path = self.path / "env.json"
        places = [now]
        if path.exists():
            try:
                places = json.loads(path.read_bytes())["places"]
                then = {name: places[0][name] for name in _AFFECTS_BITS}
            except (ValueError, KeyError, IndexError, TypeError) as error:
                warnings.warn(f"{path} cannot be read and is replaced: {error!r}", stacklevel=2)
                places, then = [now], {name: now[name] for name in _AFFECTS_BITS}
            changed = differences(then, {name: now[name] for name in _AFFECTS_BITS})
            if changed:
                warnings.warn(
                    "this run began in another environment, so its bits may change: "
                    + "; ".join(changed),
                    stacklevel=2,
                )
            if places[-1] != now:
                places.append(now)
        self._write_json("env.json", {"places": places})


def environment(prng: str) -> dict[str, Any]:
    """Versions, devices, processor, matrix-product precision and source revision."""
    devices = jax.devices()
    return {
        "prng": prng,
        "matmul_precision": MATMUL_PRECISION,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": {"kind": devices[0].device_kind, "platform": devices[0].platform},
        "device_count": len(devices),
        "cpu": {"machine": platform.machine(), "features": _cpu_features()},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_features() -> str:
    """Hash of the processor's instruction sets, which determine compiled code."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return fingerprint({"flags": sorted(flags.split())})[:16]


def _git_commit() -> str | None:
    here = epath.Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
