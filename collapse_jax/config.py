"""Configs of runs and regimes, what every config shares, and the absl flags made from fields."""

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from collapse_jax import arguments
from collapse_jax.arguments import SettingError

PRNGS = ("philox4x32", "threefry2x32", "threefry4x32")
KEEPS = ("auto", "chains", "summary")


def setting(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
    """A dataclass field that becomes a flag with this help text."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": tuple(choices)})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How a run is carried out; see each field's help."""

    chains: int = setting(1000, "Number of independent chains.")
    generations: int = setting(100, "Number of fits per chain, generation 0 included.")
    seed: int = setting(0, "Seed of all random numbers.")
    workdir: str | None = setting(
        None, "Where to save and resume (a local path or gs://...); none: keep in memory."
    )
    checkpoint_every: int = setting(50, "Generations between checkpoints.")
    checkpoint_seconds: float = setting(
        600.0, "Seconds between checkpoints inside one generation of a long fit."
    )
    keep_checkpoints: int = setting(2, "Checkpoints to keep.")
    chains_per_batch: int = setting(
        0, "Chains compiled into one program; part of the result's identity; 0: chosen by size."
    )
    keep: str = setting(
        "auto", "Keep every chain's history, or summaries (auto: above 1 GB).", KEEPS
    )
    prng: str = setting("philox4x32", "Random number generator.", PRNGS)

    def __post_init__(self) -> None:
        """Refuses values outside their range, and keeps the others as plain Python values."""
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
        checked["keep"] = arguments.choice("keep", self.keep, KEEPS)
        if self.prng in ("rbg", "unsafe_rbg"):
            raise SettingError(
                f"prng: {self.prng} is refused, since its batched draws depend on the batch;"
                f" expected one of {', '.join(PRNGS)}"
            )
        if self.prng == "philox2x32":
            raise SettingError(
                "prng: philox2x32 is refused, since its 32-bit keys collide between chains;"
                f" expected one of {', '.join(PRNGS)}"
            )
        checked["prng"] = arguments.choice("prng", self.prng, PRNGS)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


REGIMES = ("replace", "preserve", "fresh", "accumulate", "subsample", "mixture")


# settings of RegimeConfig that only some regimes use
_USED_BY = {
    "real_fraction": ("preserve", "fresh"),
    "fixed_subset": ("preserve",),
    "independent": ("fresh",),
    "mixture": ("mixture",),
}


@dataclasses.dataclass(frozen=True)
class RegimeConfig:
    """Which data each generation is fitted to."""

    regime: str = setting("replace", "Which data the next generation is fitted to.", REGIMES)
    samples: str = setting(
        "100",
        "Size M of each training set; or several, comma-separated, of which the last repeats.",
    )
    real_fraction: float | None = setting(
        None, "preserve, fresh: share of original data in each training set; none: 0.1."
    )
    fixed_subset: bool = setting(False, "preserve: the same original data every generation.")
    independent: bool = setting(
        False, "fresh: each member is real with probability real_fraction, not exactly that share."
    )
    mixture: str | None = setting(
        None,
        "mixture: shares alpha (synthetic), beta (previous set), gamma (original); none:"
        " 0.8,0.1,0.1.",
    )

    def __post_init__(self) -> None:
        """Refuses an unknown regime, shares that are none, and settings it would not use."""
        arguments.choice("regime", self.regime, REGIMES)
        for name, users in _USED_BY.items():
            if getattr(self, name) not in (None, False) and self.regime not in users:
                raise SettingError(
                    f"{name}: only for regime {' or '.join(users)}, got regime {self.regime}"
                )
        arguments.share("real_fraction", self.fraction)

    @property
    def sizes(self) -> int | list[int]:
        """M, or its schedule."""
        listed = numbers("samples", self.samples, int)
        return listed[0] if len(listed) == 1 else listed

    @property
    def fraction(self) -> float:
        """The share of original data."""
        return 0.1 if self.real_fraction is None else self.real_fraction

    @property
    def shares(self) -> list[float]:
        """alpha, beta and gamma."""
        text = "0.8,0.1,0.1" if self.mixture is None else self.mixture
        listed = numbers("mixture", text, float)
        if len(listed) != 3:
            raise SettingError(f"mixture: expected three shares, got {self.mixture!r}")
        return listed


@dataclasses.dataclass(frozen=True)
class SnapshotConfig:
    """Which generations are drawn."""

    snapshots: str = setting("0", "Generations that are drawn one by one, comma-separated.")

    def __post_init__(self) -> None:
        """Refuses what is no generation."""
        if min(self.generations) < 0:
            raise SettingError(f"snapshots: expected generations >= 0, got {self.snapshots!r}")

    @property
    def generations(self) -> list[int]:
        """The generations."""
        return numbers("snapshots", self.snapshots, int)


def numbers(name: str, text: str, kind: type) -> list[Any]:
    """Comma-separated numbers of a setting, int or float."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        expected = "integers" if kind is int else "numbers"
        raise SettingError(f"{name}: expected comma-separated {expected}, got {text!r}") from None


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of everything that changes results, as canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """One entry "field: was ..., now ..." for each leaf in which two JSON trees differ."""
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


def define_flags(config: type, flag_values: Any = None) -> None:
    """Defines one absl flag for each field of a config dataclass; global ones if not said where."""
    from absl import flags

    place = {} if flag_values is None else {"flag_values": flag_values}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind, text = _plain(hints[field.name]), field.metadata["help"]
        choices = field.metadata["choices"]
        if choices:
            # A plain string: absl's own enum error is not one line that names what came.
            text = f"{text} One of {', '.join(choices)}."
        define: Any = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[kind]
        define(field.name, field.default, text, **place)


def from_flags(config: type, flag_values: Any = None) -> Any:
    """A config from the values of the flags that `define_flags` made."""
    from absl import flags

    chosen = flags.FLAGS if flag_values is None else flag_values
    return config(**{field.name: chosen[field.name].value for field in dataclasses.fields(config)})


def from_flagfile(path: str | os.PathLike[str], *configs: type, **defaults: Any) -> list[Any]:
    """Configs as a flagfile sets them, which has no flags but theirs; others have `defaults`."""
    from absl import flags

    values = flags.FlagValues()
    for config in configs:
        define_flags(config, values)
    for name, value in defaults.items():
        values.set_default(name, value)
    values([str(path), f"--flagfile={os.fspath(path)}"])
    return [from_flags(config, values) for config in configs]


def _plain(hint: Any) -> type:
    """The type behind `X | None`."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint
