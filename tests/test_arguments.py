"""Checks of settings: accepted values, results and error messages."""

import math
from fractions import Fraction

import numpy as np
import pytest

from collapse_jax.arguments import MissingFileError, SettingError, choice, integer, number, share


@pytest.mark.parametrize(
    ("value", "plain"), [(3, 3), (np.int32(3), 3), (np.uint8(3), 3), (np.int64(2**40), 2**40)]
)
def test_integers_come_back_as_plain_ones(value, plain):
    found = integer("n", value, at_least=3)
    assert (found, type(found)) == (plain, int)


@pytest.mark.parametrize(
    "value",
    [True, np.True_, 3.0, np.float64(3), "3", None, math.nan, np.array([3]), Fraction(3, 2), [3]],
)
def test_other_things_than_integers_are_rejected(value):
    with pytest.raises(SettingError, match=r"^n: expected an integer, got "):
        integer("n", value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(1, 1.0), (0.1, 0.1), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (Fraction(1, 4), 0.25)],
)
def test_numbers_come_back_as_plain_floats(value, plain):
    found = number("x", value, above=0)
    assert (found, type(found)) == (plain, float)


@pytest.mark.parametrize(
    "value", [True, np.False_, "1", None, 1j, math.nan, np.float32(np.nan), np.ones(1), 10**400]
)
@pytest.mark.parametrize("infinite", [False, True])
def test_other_things_than_numbers_are_rejected(value, infinite):
    with pytest.raises(SettingError, match=r"^x: expected a "):
        number("x", value, infinite=infinite)


def test_infinity_is_rejected_unless_it_is_asked_for():
    assert number("seconds", math.inf, at_least=0, infinite=True) == math.inf
    for value in (math.inf, -math.inf):
        with pytest.raises(SettingError, match=r"^seconds: expected a finite number, got -?inf$"):
            number("seconds", value)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "expected"),
    [
        ({}, [-(10**20), 0], [], "an integer"),
        ({"at_least": 1}, [1, 9], [0], "an integer >= 1"),
        ({"above": 0}, [1], [0], "an integer > 0"),
        ({"at_most": 5}, [-1, 5], [6], "an integer <= 5"),
        ({"below": 5}, [4], [5], "an integer < 5"),
        ({"at_least": 0, "at_most": 5}, [0, 5], [-1, 6], "an integer in [0, 5]"),
        ({"above": 0, "below": 5}, [1, 4], [0, 5], "an integer in (0, 5)"),
        ({"above": 0, "at_most": 5}, [1, 5], [0, 6], "an integer in (0, 5]"),
        ({"at_least": 2, "below": 2**31}, [2, 2**31 - 1], [1, 2**31], "an integer in [2, 2^31)"),
    ],
)
def test_ranges_of_integers(bounds, inside, outside, expected):
    for value in inside:
        assert integer("n", value, **bounds) == value
        assert number("n", value, **bounds) == value
    for value in outside:
        with pytest.raises(SettingError) as caught:
            integer("n", value, **bounds)
        assert str(caught.value) == f"n: expected {expected}, got {value}"
        with pytest.raises(SettingError):
            number("n", float(value), **bounds)


@pytest.mark.parametrize(
    ("bounds", "value", "message"),
    [
        ({"above": 0}, 0.0, "x: expected a finite number > 0, got 0.0"),
        ({"above": 0}, math.inf, "x: expected a finite number > 0, got inf"),
        ({"at_least": 0, "infinite": True}, -0.5, "x: expected a number >= 0, got -0.5"),
        ({"at_least": 0, "below": 1}, 1, "x: expected a number in [0, 1), got 1"),
        ({"at_most": 0.5}, np.float64(0.6), "x: expected a number <= 0.5, got 0.6"),
    ],
)
def test_what_is_said_of_a_number(bounds, value, message):
    with pytest.raises(SettingError) as caught:
        number("x", value, **bounds)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("open_ends", "inside", "outside", "interval"),
    [
        ({}, [0, 1, 0.5, np.float32(1)], [-0.1, 1.1, math.nan, True], r"\[0, 1\]"),
        ({"above": 0}, [1], [0], r"\(0, 1\]"),
        ({"below": 1}, [0.0], [1.0], r"\[0, 1\)"),
        ({"above": 0, "below": 1}, [1e-300], [0, 1], r"\(0, 1\)"),
    ],
)
def test_shares(open_ends, inside, outside, interval):
    for value in inside:
        found = share("tail", value, **open_ends)
        assert (found, type(found)) == (value, float)
    for value in outside:
        with pytest.raises(SettingError, match=rf"^tail: expected a share in {interval}, got "):
            share("tail", value, **open_ends)


def test_choices():
    found = choice("start", np.str_("warm"), ("fresh", "warm"))
    assert (found, type(found)) == ("warm", str)
    for value in ("hot", "", None, 1, ["warm"], np.array(["warm", "warm"])):
        with pytest.raises(SettingError, match=r"^start: expected one of fresh, warm, got "):
            choice("start", value, ("fresh", "warm"))


def test_an_error_is_one_line_that_is_not_too_long():
    for value in (np.zeros((30, 30)), "a\nb" * 300):
        with pytest.raises(SettingError) as caught:
            integer("n", value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_errors_are_what_callers_catch():
    assert issubclass(SettingError, ValueError)
    missing = MissingFileError("dataset: no such file")
    assert isinstance(missing, SettingError | FileNotFoundError)
    assert str(missing) == "dataset: no such file"
    with pytest.raises(FileNotFoundError, match="no such file"):
        raise missing
