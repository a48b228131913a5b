"""Every closed form within 4 standard errors, with 100,000 chains (a fifth if they take long)."""

import math

import pytest

from collapse_jax.validation import gaussian

CHAINS = 100_000
ALL = gaussian.studies(CHAINS)
QUICK, REST = ALL[:1], ALL[1:]


def assert_all_hold(checks):
    assert checks
    missed = [check for check in checks if not abs(check.z) <= 4]
    assert not missed, "\n".join(f"z = {check.z:.2f}: {check}" for check in missed)


@pytest.mark.parametrize("study", QUICK)
def test_closed_forms(study):
    assert_all_hold(list(study()))


@pytest.mark.slow
@pytest.mark.parametrize("study", REST)
def test_more_closed_forms(study):
    assert_all_hold(list(study()))


def test_a_wrong_value_is_noticed():
    def check(measured, bound=""):
        return gaussian.Check("", "", 1, measured, 0.01, 1.0, 100, bound)

    assert check(1.05).z == pytest.approx(5)
    assert check(0.95, "<=").z == 0
    assert check(1.05, "<=").z == pytest.approx(5)
    assert check(0.95, ">=").z == pytest.approx(-5)
    with pytest.raises(AssertionError, match="z = 5"):
        assert_all_hold([check(1.05)])
    with pytest.raises(AssertionError):
        assert_all_hold([check(math.nan)])
