"""Configs of runs, regimes and snapshots, and fingerprints of configs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from collapse_jax import arguments
from collapse_jax.arguments import SettingError

Prng = Literal["philox4x32", "threefry2x32", "threefry4x32"]
PRNGS: tuple[Prng, ...] = get_args(Prng)
Keep = Literal["auto", "chains", "summary"]
_REJECTED_PRNGS = {
    "rbg": "batched draws depend on the batch",
    "unsafe_rbg": "batched draws depend on the batch",
    "philox2x32": "32-bit keys collide between chains",
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    Attributes:
      chains: number of independent chains.
      generations: number of fits per chain, including generation 0.
      seed: seed of all random numbers, an integer in [0, 2^32).
      workdir: directory to save to and resume from, a local path or gs://...; default memory only.
      checkpoint_every: generations between checkpoints.
      checkpoint_seconds: seconds between checkpoints within one generation of a long fit.
      keep_checkpoints: number of checkpoints to keep.
      chains_per_batch: chains per compiled program; part of the result's identity; 0 to choose it
        by size.
      keep: history to keep: that of every chain ("chains"), a "summary", or "auto", a summary above
        1 GB.
      prng: random number generator.
    """

    chains: int = 1000
    generations: int = 100
    seed: int = 0
    workdir: str | None = None
    checkpoint_every: int = 50
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 2
    chains_per_batch: int = 0
    keep: Keep = "auto"
    prng: Prng = "philox4x32"

    def __post_init__(self) -> None:
        """Rejects values outside their range, and converts the others to plain Python values."""
        if self.workdir == "":
            raise SettingError("workdir: expected a path, got ''")
        counts = ("chains", "generations", "checkpoint_every", "keep_checkpoints")
        checked: dict[str, Any] = {
            name: arguments.integer(name, getattr(self, name), at_least=1) for name in counts
        }
        checked["chains_per_batch"] = arguments.integer(
            "chains_per_batch", self.chains_per_batch, at_least=0
        )
        checked["seed"] = arguments.integer("seed", self.seed, at_least=0, below=2**32)
        checked["checkpoint_seconds"] = arguments.number(
            "checkpoint_seconds", self.checkpoint_seconds, at_least=0, infinite=True
        )
        checked["keep"] = arguments.choice("keep", self.keep, get_args(Keep))
        if reason := _REJECTED_PRNGS.get(self.prng):
            raise SettingError(
                f"prng: expected one of {', '.join(PRNGS)}, got {self.prng!r}, whose {reason}"
            )
        checked["prng"] = arguments.choice("prng", self.prng, PRNGS)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


RegimeName = Literal["replace", "preserve", "fresh", "accumulate", "subsample", "mixture"]
REGIMES: tuple[RegimeName, ...] = get_args(RegimeName)


# Settings of RegimeConfig that only some regimes use.
_USED_BY = {
    "real_fraction": ("preserve", "fresh"),
    "fixed_subset": ("preserve",),
    "independent": ("fresh",),
    "mixture": ("mixture",),
}


@dataclasses.dataclass(frozen=True)
class RegimeConfig:
    """Training data of each generation.

    Attributes:
      regime: rule by which each generation's training data are chosen.
      samples: size M of each training set; or comma-separated sizes by generation, of which the
        last repeats.
      real_fraction: share of original data in each training set, for regimes preserve and fresh;
        default 0.1.
      fixed_subset: whether the original data are the same every generation, for regime preserve.
      independent: whether each member is original with probability real_fraction, rather than
        exactly that share of them, for regime fresh.
      mixture: shares alpha (synthetic), beta (previous training set) and gamma (original),
        comma-separated, for regime mixture; default 0.8,0.1,0.1.
    """

    regime: RegimeName = "replace"
    samples: str = "100"
    real_fraction: float | None = None
    fixed_subset: bool = False
    independent: bool = False
    mixture: str | None = None

    def __post_init__(self) -> None:
        """Rejects unknown regimes, shares outside [0, 1], and settings the regime does not use."""
        arguments.choice("regime", self.regime, REGIMES)
        for name, users in _USED_BY.items():
            if getattr(self, name) not in (None, False) and self.regime not in users:
                raise SettingError(
                    f"{name}: expected regime {' or '.join(users)}, got regime {self.regime}"
                )
        arguments.share("real_fraction", self.fraction)

    @property
    def sizes(self) -> int | list[int]:
        """M, or its schedule as a list."""
        listed = numbers("samples", self.samples, int)
        return listed[0] if len(listed) == 1 else listed

    @property
    def fraction(self) -> float:
        """The share of original data."""
        return 0.1 if self.real_fraction is None else self.real_fraction

    @property
    def shares(self) -> list[float]:
        """The shares alpha, beta and gamma."""
        text = "0.8,0.1,0.1" if self.mixture is None else self.mixture
        listed = numbers("mixture", text, float)
        if len(listed) != 3:
            raise SettingError(f"mixture: expected three shares, got {self.mixture!r}")
        return listed


@dataclasses.dataclass(frozen=True)
class SnapshotConfig:
    """Generations to show in figures.

    Attributes:
      snapshots: generations to show individually in figures, comma-separated.
    """

    snapshots: str = "0"

    def __post_init__(self) -> None:
        """Rejects negative generations."""
        if min(self.generations) < 0:
            raise SettingError(f"snapshots: expected generations >= 0, got {self.snapshots!r}")

    @property
    def generations(self) -> list[int]:
        """The generations as integers."""
        return numbers("snapshots", self.snapshots, int)


def numbers(name: str, text: str, kind: type) -> list[Any]:
    """Parses comma-separated numbers of a setting, int or float."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        expected = "integers" if kind is int else "numbers"
        raise SettingError(f"{name}: expected comma-separated {expected}, got {text!r}") from None


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that determines results, as canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Differing leaves of two JSON trees, each as "field: was ..., now ..."."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else key
            found += differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [f"{path}: was {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
