"""Kaplan-Meier curves and their intervals against the definition, counting chain by chain."""

import math

import numpy as np
import pytest
import scipy.special

from collapse_jax.results import survival


def seen_and_crossing(event, generations, lost):
    """Numbers of chains at risk, and of these with the event, by generation, counted one by one.

    A chain is at risk at t if it is observed at t and has had no event before.
    """
    for t in range(generations):
        at_risk = crossing = 0
        for first, gone in zip(event, lost, strict=True):
            seen = gone < 0 or t < gone
            still_to_come = first < 0 or first >= t
            if seen and still_to_come:
                at_risk += 1
                crossing += first == t
        yield at_risk, crossing


def product_limit(event, generations, lost):
    """The Kaplan-Meier curve from its definition."""
    survival, curve = 1.0, []
    for at_risk, crossing in seen_and_crossing(event, generations, lost):
        if at_risk:
            survival *= 1 - crossing / at_risk
        curve.append(survival)
    return np.array(curve)


def exponential_greenwood(event, generations, lost):
    """exp(-exp(ln(-ln S) +- 1.96 sd(ln(-ln S)))), by Greenwood's variance of ln S; lower, upper."""
    variance, bounds = 0.0, []
    curve = product_limit(event, generations, lost)
    for share, (at_risk, crossing) in zip(
        curve, seen_and_crossing(event, generations, lost), strict=True
    ):
        if at_risk > crossing:
            variance += crossing / (at_risk * (at_risk - crossing))
        if not 0 < share < 1:
            bounds.append((math.nan, math.nan))
            continue
        reach = scipy.special.ndtri(0.975) * math.sqrt(variance) / abs(math.log(share))
        bounds.append([math.exp(math.log(share) * math.exp(sign * reach)) for sign in (1, -1)])
    return np.array(bounds).T


def random_passages(seed, chains, generations, lost_share):
    rng = np.random.default_rng(seed)
    event = rng.integers(0, generations, chains).astype(np.int32)
    event[rng.random(chains) < 0.3] = -1
    lost = rng.integers(0, generations, chains).astype(np.int32)
    lost[rng.random(chains) >= lost_share] = -1
    return event, lost


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("lost_share", [0.0, 0.5])
def test_kaplan_meier_is_the_product_limit(seed, lost_share):
    generations = 9
    event, lost = random_passages(seed, 4 + 3 * seed, generations, lost_share)
    curve = survival.kaplan_meier(event, generations, lost)
    np.testing.assert_allclose(
        curve.survival, product_limit(event, generations, lost), rtol=1e-14, atol=1e-14
    )
    np.testing.assert_array_equal(curve.generation, np.arange(generations))
    observed = (event >= 0) & ((lost < 0) | (event < lost))
    assert curve.chains == len(event)
    assert curve.events == observed.sum()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lost_share", [0.0, 0.4])
def test_the_interval_is_exponential_greenwood(seed, lost_share):
    generations = 12
    event, lost = random_passages(100 + seed, 60, generations, lost_share)
    curve = survival.kaplan_meier(event, generations, lost)
    inside = (curve.survival > 0) & (curve.survival < 1)
    assert inside.any()
    for bound, expected in zip(
        (curve.lower, curve.upper), exponential_greenwood(event, generations, lost), strict=True
    ):
        np.testing.assert_allclose(bound[inside], expected[inside], rtol=1e-12)
        np.testing.assert_array_equal(bound[~inside], curve.survival[~inside])


@pytest.mark.parametrize("seed", range(4))
def test_without_censoring_the_curve_is_the_share_still_to_come(seed):
    event = np.random.default_rng(seed).integers(0, 15, 40)
    curve = survival.kaplan_meier(event, 15)
    share = [(event > t).mean() for t in range(15)]
    np.testing.assert_allclose(curve.survival, share, atol=1e-12)
    assert curve.survival[-1] == pytest.approx(0, abs=1e-12)
    assert curve.events == 40


@pytest.mark.parametrize(
    ("event", "lost"),
    [([-1] * 5, None), ([-1] * 5, [0, 1, 2, -1, 5]), ([3, 4, 5], [3, 2, 0])],
    ids=["all to the end", "all, some earlier", "lost before or at the event"],
)
def test_all_censored_is_a_curve_of_ones(event, lost):
    lost = None if lost is None else np.array(lost, np.int32)
    curve = survival.kaplan_meier(np.array(event, np.int32), 6, lost)
    for values in (curve.survival, curve.lower, curve.upper):
        np.testing.assert_array_equal(values, np.ones(6))
    assert curve.events == 0


def test_lost_chains_leave_the_chains_at_risk():
    event, lost = np.array([1, 3, -1, -1]), np.array([-1, -1, 2, -1])
    curve = survival.kaplan_meier(event, 5, lost)
    # 1 of 4 crosses at 1; one is lost at 2; 1 of the other 2 crosses at 3.
    np.testing.assert_allclose(curve.survival, [1, 3 / 4, 3 / 4, 3 / 8, 3 / 8])
    assert curve.events == 2


def test_a_chain_is_not_at_risk_at_the_generation_at_which_it_is_lost():
    # Of two chains, one is seen at generation 0 only; the other crosses at 1: 1 of 1 seen.
    curve = survival.kaplan_meier(np.array([1, -1]), 3, np.array([-1, 1]))
    np.testing.assert_array_equal(curve.survival, [1, 0, 0])


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_brackets_the_curve(seed):
    event, lost = random_passages(200 + seed, 30, 20, 0.3)
    curve = survival.kaplan_meier(event, 20, lost)
    assert (np.diff(curve.survival) <= 0).all()
    inside = (curve.survival > 0) & (curve.survival < 1)
    assert (curve.lower[inside] < curve.survival[inside]).all()
    assert (curve.upper[inside] > curve.survival[inside]).all()
    for values in (curve.lower, curve.survival, curve.upper):
        assert ((values >= 0) & (values <= 1)).all()


def test_chains_that_were_never_observed_are_at_risk_at_no_generation():
    event, lost = np.array([2, -1, 1, 2]), np.array([-1, -1, 0, 0])
    curve = survival.kaplan_meier(event, 4, lost)
    np.testing.assert_allclose(curve.survival, [1, 1, 1 / 2, 1 / 2])
    assert (curve.chains, curve.events) == (4, 1)


def test_the_curve_stays_where_it_is_once_no_chain_is_left():
    event, lost = np.array([1, -1, -1]), np.array([-1, 3, 3])
    curve = survival.kaplan_meier(event, 8, lost)
    np.testing.assert_allclose(curve.survival, [1] + 7 * [2 / 3])
    for bound in (curve.lower, curve.upper):
        np.testing.assert_array_equal(bound[1:], np.full(7, bound[1]))
