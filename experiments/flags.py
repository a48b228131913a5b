"""Command-line flags from the signatures and docstrings of functions and classes.

Names, types, defaults and choices come from the signature, the help from the docstring.
"""

import contextlib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from absl import flags


class Setting(NamedTuple):
    """A parameter as a command-line flag.

    Attributes:
      name: name of the parameter and its flag.
      kinds: possible types of a value, among bool, int, float and str.
      default: default value.
      choices: allowed strings; empty if any.
      text: the parameter's line in the docstring.
    """

    name: str
    kinds: tuple[type, ...]
    default: Any
    choices: tuple[str, ...]
    text: str

    @property
    def help(self) -> str:
        """The docstring's line, with the choices if it does not name them."""
        if all(choice in self.text for choice in self.choices):
            return self.text
        return f"{self.text} One of {', '.join(self.choices)}."

    def read(self, value: Any) -> Any:
        """Converts a flag's value to the first type that accepts it."""
        if isinstance(value, str):
            for kind in self.kinds:
                with contextlib.suppress(ValueError):
                    return kind(value)
        return value


def settings(function: Callable[..., Any], group: Any = None) -> Iterator[Setting]:
    """Parameters of a function that can be set on the command line.

    These are numbers, strings and booleans with a default. A parameter whose default is a
    NamedTuple stands for the fields of that group.

    Args:
      function: function or class; its docstring has a line for each under Args or Attributes.
      group: an instance of the class, with the defaults; None for those of the signature.

    Raises:
      TypeError: for a parameter without a docstring line.
    """
    lines = _lines(inspect.getdoc(function) or "")
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default if group is None else getattr(group, name)
        kinds, choices = _kinds(parameter.annotation)
        if _is_group(default):
            yield from settings(type(default), default)
        elif kinds and default is not inspect.Parameter.empty:
            if name not in lines:
                raise TypeError(f"{name}: expected a line in the docstring of {function.__name__}")
            yield Setting(
                name=name, kinds=kinds, default=default, choices=choices, text=lines[name]
            )


def _is_group(default: Any) -> bool:
    return isinstance(default, tuple) and hasattr(default, "_fields")


def _kinds(hint: Any) -> tuple[tuple[type, ...], tuple[str, ...]]:
    """The flag types in a type hint, and the allowed strings."""
    united = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds: list[type] = []
    choices: list[str] = []
    for part in typing.get_args(hint) if united else (hint,):
        if typing.get_origin(part) is Literal:
            choices += typing.get_args(part)
            kinds.append(str)
        elif part in (bool, int, float, str):
            kinds.append(part)
    return tuple(kinds), tuple(choices)


def _lines(docstring: str) -> dict[str, str]:
    """{name: text} of the entries under Args or Attributes."""
    section = re.split(r"^(?:Args|Attributes):\n", docstring, maxsplit=1, flags=re.MULTILINE)[-1]
    section = re.split(r"\n(?=\S)", section)[0]  # up to the next unindented line
    entries = re.findall(r"^  (\w+): (.*(?:\n {3,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def grouped(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a function: the given settings, and the defaults of all others.

    Settings that belong to a group are combined into one argument.
    """
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if _is_group(default):
            members = {field: values[field] for field in default._fields if field in values}
            arguments[name] = default._replace(**members)
        elif name in values or default is not inspect.Parameter.empty:
            arguments[name] = values.get(name, default)
    return arguments


def define_flags(
    function: Callable[..., Any], flag_values: Any = None, given: Collection[str] = ()
) -> list[str]:
    """Defines an absl flag for each setting of a function.

    Args:
      function: see `settings`.
      flag_values: where to define them; None for the global flags.
      given: settings that the program itself provides, which get no flags.

    Returns:
      The names of the flags.
    """
    place = {} if flag_values is None else {"flag_values": flag_values}
    define: Any = {
        (bool,): flags.DEFINE_bool,
        (int,): flags.DEFINE_integer,
        (float,): flags.DEFINE_float,
    }
    defined = [setting for setting in settings(function) if setting.name not in given]
    for setting in defined:
        # Choices are plain strings: absl's own enum error is not one line with the given value.
        make = define.get(setting.kinds, flags.DEFINE_string)
        make(setting.name, setting.default, setting.help, **place)
    return [setting.name for setting in defined]


def from_flags(function: Callable[..., Any], flag_values: Any = None) -> dict[str, Any]:
    """Arguments of a function from the flags that `define_flags` defined."""
    chosen = flags.FLAGS if flag_values is None else flag_values
    return grouped(
        function,
        {
            setting.name: setting.read(chosen[setting.name].value)
            for setting in settings(function)
            if setting.name in chosen
        },
    )


def call_with_flags(function: Callable[..., Any], **given: Any) -> Any:
    """Calls a function with the given arguments, and with flags for all others."""
    return function(**{**from_flags(function), **given})


def from_flagfile(
    path: str | os.PathLike[str],
    *functions: Callable[..., Any],
    given: Collection[str] = (),
    **defaults: Any,
) -> list[dict[str, Any]]:
    """Arguments of functions from a flagfile, which may contain only their flags.

    Args:
      path: the flagfile.
      *functions: see `settings`.
      given: settings that get no flags.
      **defaults: defaults of flags that replace those of the functions.
    """
    values = flags.FlagValues()
    for function in functions:
        define_flags(function, values, given)
    for name, value in defaults.items():
        values.set_default(name, value)
    values([str(path), f"--flagfile={os.fspath(path)}"])
    return [from_flags(function, values) for function in functions]
