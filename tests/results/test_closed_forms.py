"""Closed forms of families: values for figures and for comparisons, under which regimes."""

import numpy as np
import pytest

from collapse_jax import families, regimes, theory
from collapse_jax.results import closed_forms

M, LENGTH = 20, 30
FITS = np.arange(1, LENGTH + 1)
REPLACE = regimes.replace(M)


def test_raw_moments_of_gaussians_are_compared_until_they_spread():
    family = families.gaussian(covariance=[[4.0]])
    drawn = closed_forms.curves(family, REPLACE, LENGTH, heavy_tailed=True)
    compared = closed_forms.curves(family, REPLACE, LENGTH)
    drift = theory.mean_squared_drift(M, FITS, variance=4.0)
    np.testing.assert_array_equal(drawn["mean", "variance"], drift)
    settles = theory.variance_of_log_variance(M, FITS) <= closed_forms.HEAVY_TAILED
    assert 0 < settles.sum() < LENGTH
    for key in (("mean", "variance"), ("w2_squared", "mean"), ("kl", "mean")):
        np.testing.assert_array_equal(np.isfinite(compared[key]), settles)
    np.testing.assert_array_equal(compared["log_variance", "mean"], drawn["log_variance", "mean"])


def test_steady_states_are_drawn_once_they_are_reached():
    curve = closed_forms.curves(families.gaussian(), regimes.fresh(M, 0.5), LENGTH)
    steady = theory.fixed_count_steady_state(M, M // 2).mean_squared_drift
    reached = 0.25**FITS < 1e-4  # (1 - 1/2)^2n
    expected = np.where(reached, steady, np.nan)
    np.testing.assert_allclose(curve["mean", "variance"], expected, rtol=1e-12)


def test_curves_without_a_number_are_left_out():
    family = families.gaussian()._replace(
        closed_forms=lambda regime, generations: {
            ("kl", "mean"): np.full(generations, np.nan),
            ("mean", "mean"): np.ma.masked_where(np.ones(generations, bool), FITS),
        }
    )
    assert closed_forms.curves(family, REPLACE, LENGTH) == {}
    drawn = closed_forms.curves(family, REPLACE, LENGTH, heavy_tailed=True)
    assert list(drawn) == [("mean", "mean")]
    np.testing.assert_array_equal(drawn["mean", "mean"], FITS)


@pytest.mark.parametrize(
    "family",
    [families.gaussian(), families.gaussian(3), families.discrete([3, 1]), families.kde(M),
     families.regression(2), families.gmm()],
    ids=["gaussian", "gaussian 3-D", "discrete", "kde", "regression", "gmm"],
)  # fmt: skip
def test_nothing_is_claimed_under_a_regime_of_another_name(family):
    own = REPLACE._replace(name="own", config={})
    assert closed_forms.curves(family, own, LENGTH) == {}


def test_frequencies_of_symbols():
    curves = closed_forms.curves(families.discrete([3, 1], tail=0.3), REPLACE, LENGTH)
    np.testing.assert_array_equal(curves["tail_mass", "mean"], 0.25)
    evenness = 0.375 * (1 - 1 / M) ** FITS
    np.testing.assert_allclose(curves["heterozygosity", "mean"], evenness, rtol=1e-12)
    support = 2 - 0.25**M - 0.75**M
    np.testing.assert_allclose(curves["support", "mean"], [support] + [np.nan] * (LENGTH - 1))
