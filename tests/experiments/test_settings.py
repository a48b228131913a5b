"""Flags agree with signatures and docstrings, and groups with the arguments of factories."""

import inspect
import re
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from absl import flags

from experiments import launch
from experiments.flags import define_flags, from_flagfile, from_flags, grouped, settings
from tests.experiments.apps import APPS

PRESETS = sorted(Path("experiments/presets").glob("*.flags"))


def test_every_experiment_has_settings():
    sources = Path("experiments").glob("*.py")
    assert set(APPS) == {path.stem for path in sources if "launch.start(" in path.read_text()}


def parameters(function):
    """{name: (annotation, default)} of a function, groups flattened."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if hasattr(parameter.default, "_fields"):
            of_group = parameters(type(parameter.default))
            for field, value in parameter.default._asdict().items():
                found[field] = (of_group[field][0], value)
        elif parameter.default is not parameter.empty:
            found[name] = (parameter.annotation, parameter.default)
    return found


@pytest.mark.parametrize("app", APPS.values(), ids=APPS)
def test_flags_are_the_parameters_of_functions(app):
    given, values, expected = getattr(app, "GIVEN", ()), flags.FlagValues(), {}
    for function in app.SETTINGS:
        define_flags(function, values, given)
        # Sequences cannot be set by a flag.
        expected |= {
            name: parameter for name, parameter in parameters(function).items()
            if name not in given and "Sequence" not in str(parameter[0])
        }  # fmt: skip
    own = {name: values[name] for name in values}
    assert own.keys() == expected.keys()
    for name, (annotation, default) in expected.items():
        assert own[name].default == default, name
        assert type(own[name].default) is type(default), name
        assert own[name].help.strip(), name
        for choice in re.findall(r"[\[,] ?'([^']+)'", str(annotation)):
            assert choice in own[name].help, (name, choice)
    for name, value in getattr(app, "DEFAULTS", {}).items():
        assert type(value) is type(own[name].default) or own[name].default is None, name


@pytest.mark.parametrize("app", APPS.values(), ids=APPS)
def test_arguments_from_flags_are_the_functions_own_defaults(app):
    values = flags.FlagValues()
    for function in app.SETTINGS:
        define_flags(function, values, getattr(app, "GIVEN", ()))
    values(["program"])
    for function in app.SETTINGS:
        known = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty
        }
        assert from_flags(function, values) == known


KINDS = {bool: "true or false", int: "an integer", float: "a number"}


@pytest.mark.parametrize("app", APPS.values(), ids=APPS)
def test_a_wrong_type_is_one_line_that_begins_with_the_settings_name(app, monkeypatch, capsys):
    given = getattr(app, "GIVEN", ())
    for setting in (each for function in app.SETTINGS for each in settings(function)):
        if len(setting.kinds) > 1 or setting.kinds[0] not in KINDS or setting.name in given:
            continue
        values = flags.FlagValues()
        for function in app.SETTINGS:
            define_flags(function, values, given)
        monkeypatch.setattr(flags, "FLAGS", values)
        with pytest.raises(SystemExit, match="1"):
            launch.parse(["program", f"--{setting.name}=no: one"])
        expected = f"error: {setting.name}: expected {KINDS[setting.kinds[0]]}, got 'no: one'\n"
        assert capsys.readouterr() == ("", expected)


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_presets_set_flags_that_there_are(path):
    app = APPS[path.stem.split("_")[0]]
    found = from_flagfile(path, *app.SETTINGS, given=getattr(app, "GIVEN", ()))
    flat = {}
    for arguments in found:
        for name, value in arguments.items():
            flat |= value._asdict() if hasattr(value, "_fields") else {name: value}
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    assert lines
    for line in lines:
        name, _, text = line.removeprefix("--").partition("=")
        assert flat[name] == type(flat[name])(text), line


class Cup(NamedTuple):
    """A cup.

    Attributes:
      size: how much it holds,
        litres.
      handle: whether it has one.
    """

    size: float = 0.2
    handle: bool = True


Roast = Literal["light", "dark"]


def brew(
    beans: str,
    water: float | Roast = "light",
    cups: int = 2,
    cup: Cup = Cup(0.3),  # noqa: B008
    names: tuple[str, ...] = (),
) -> None:
    """Brews.

    Args:
      beans: given by the program.
      water: temperature, degrees Celsius, or what suits a roast.
      cups: how many.
      cup: which.
      names: of guests, which no flag can say.

    Raises:
      ValueError: cups: never.
    """


def test_a_group_stands_for_its_fields():
    found = {setting.name: setting for setting in settings(brew)}
    assert list(found) == ["water", "cups", "size", "handle"]
    assert found["size"].help == "how much it holds, litres."
    assert found["size"].default == 0.3  # as the function has it, not the class
    assert found["water"].help.endswith("a roast. One of light, dark.")
    changed = grouped(brew, {"beans": "robusta", "handle": False})
    assert changed == {
        "beans": "robusta", "water": "light", "cups": 2, "cup": Cup(0.3, False), "names": (),
    }  # fmt: skip


@pytest.mark.parametrize(("text", "water"), [("dark", "dark"), ("90", 90.0)])
def test_a_number_or_string_is_a_number_if_it_reads_as_one(tmp_path, text, water):
    path = tmp_path / "brew.flags"
    path.write_text(f"--water={text}\n--nohandle\n")
    (found,) = from_flagfile(path, brew, given=("size",), cups=3)
    assert found == {"water": water, "cups": 3, "cup": Cup(0.3, False), "names": ()}


def test_a_setting_without_a_line_is_rejected():
    def brew(cups: int = 2) -> None:
        """Brews."""

    with pytest.raises(TypeError, match="^cups: expected a line in the docstring of brew$"):
        list(settings(brew))
