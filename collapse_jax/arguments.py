"""Checks of settings.

Each check returns the setting as a plain Python value (NumPy scalars are converted) or raises a
`SettingError` of one line, "name: expected ..., got ...".
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

Choice = TypeVar("Choice", bound=str)
_LONGEST = 200  # characters of a value in a message


class SettingError(ValueError):
    """An invalid setting; command lines print it in one line, without a traceback."""


class MissingFileError(SettingError, FileNotFoundError):
    """A file, model or data set that a setting names does not exist."""


class _Range(NamedTuple):
    """An interval; None for a missing end."""

    above: float | None
    at_least: float | None
    at_most: float | None
    below: float | None

    def holds(self, value: float) -> bool:
        """Whether the interval contains the value; false for NaN, unless both ends are missing."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """The interval as in "expected an integer >= 1" or "expected a number in (0, 1)"."""
        symbols = {"above": ">", "at_least": ">=", "at_most": "<=", "below": "<"}
        given = {name: _shown(x) for name, x in self._asdict().items() if x is not None}
        if len(given) == 2:
            low, high = given.values()
            left, right = "(" if "above" in given else "[", ")" if "below" in given else "]"
            return f" in {left}{low}, {high}{right}"
        return "".join(f" {symbols[name]} {x}" for name, x in given.items())


def integer(
    name: str,
    value: Any,
    *,
    above: int | None = None,
    at_least: int | None = None,
    at_most: int | None = None,
    below: int | None = None,
) -> int:
    """Checks that a value is an integer in a range.

    Args:
      name: name of the setting, for the message.
      value: the value; booleans, floats and arrays are rejected.
      above, at_least, at_most, below: ends of the range.

    Raises:
      SettingError: if it is not.

    Examples:
        >>> integer("chains", 0, at_least=1)
        Traceback (most recent call last):
        ...
        collapse_jax.arguments.SettingError: chains: expected an integer >= 1, got 0
    """
    allowed = _Range(above, at_least, at_most, below)
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not allowed.holds(int(value)):
        raise setting_error(name, f"an integer{allowed}", value)
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> float:
    """Checks that a value is a real number in a range, finite unless `infinite`; see `integer`.

    Examples:
        >>> import numpy as np
        >>> number("tolerance", np.float32(0.5), at_least=0)
        0.5
        >>> number("tolerance", float("nan"), at_least=0)
        Traceback (most recent call last):
        ...
        collapse_jax.arguments.SettingError: tolerance: expected a finite number >= 0, got nan
    """
    allowed = _Range(above, at_least, at_most, below)
    bounded = infinite or (at_most is not None or below is not None)
    return _real(
        name,
        value,
        kind="a number" if bounded else "a finite number",
        allowed=allowed,
        infinite=infinite,
    )


def share(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Checks that a value is a share or probability, in [0, 1] or the half-open range given.

    Examples:
        >>> share("tail", 1.0, above=0, below=1)
        Traceback (most recent call last):
        ...
        collapse_jax.arguments.SettingError: tail: expected a share in (0, 1), got 1.0
    """
    at_least, at_most = 0 if above is None else None, 1 if below is None else None
    return _real(
        name, value, kind="a share", allowed=_Range(above, at_least, at_most, below), infinite=False
    )


def choice(name: str, value: Any, choices: Sequence[Choice]) -> Choice:
    """Checks that a value is one of several strings.

    Examples:
        >>> choice("start", "hot", ("fresh", "warm"))
        Traceback (most recent call last):
        ...
        collapse_jax.arguments.SettingError: start: expected one of fresh, warm, got 'hot'
    """
    if not isinstance(value, str) or value not in choices:
        raise setting_error(name, f"one of {', '.join(choices)}", value)
    return next(choice for choice in choices if choice == value)  # a plain string


def setting_error(name: str, expected: str, value: Any) -> SettingError:
    """The error "name: expected ..., got ..." for an invalid value, in one line."""
    if isinstance(value, numbers.Real) and hasattr(value, "item"):
        value = value.item()  # shows 0.5 rather than np.float32(0.5)
    got = " ".join(repr(value).split())  # the repr of an array has several lines
    if len(got) > _LONGEST:
        got = got[: _LONGEST - 3] + "..."
    return SettingError(f"{name}: expected {expected}, got {got}")


def _real(name: str, value: Any, kind: str, allowed: _Range, infinite: bool) -> float:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        plain = float(value) if is_real else math.nan
    except OverflowError:
        plain = math.nan
    if math.isnan(plain) or (math.isinf(plain) and not infinite) or not allowed.holds(plain):
        raise setting_error(name, f"{kind}{allowed}", value)
    return plain


def _shown(bound: float) -> str:
    """A bound in short form: 2^31 rather than 2147483648."""
    power = int(bound).bit_length() - 1
    if power >= 20 and bound == 2**power:
        return f"2^{power}"
    return f"{bound}"
