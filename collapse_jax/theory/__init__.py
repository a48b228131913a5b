"""Closed forms that simulated collapse must agree with, in float64 NumPy, without JAX.

They share no code with the simulators, so that runs are checked independently.
"""

from collapse_jax.theory.discrete import (
    approximate_absorption_time,
    expected_frequency,
    expected_heterozygosity,
    expected_support,
    fixation_probability,
    fixed_count_steady_homozygosity,
    mean_absorption_time,
    random_count_steady_homozygosity,
    symbol_survival_bound,
    variance_of_frequency,
    wright_fisher_transition_matrix,
)
from collapse_jax.theory.gaussian import (
    Estimator,
    c4,
    expected_squared_variance,
    expected_standard_deviation,
    expected_trace,
    expected_variance,
    expected_w2_squared,
    mean_squared_drift,
    standard_deviation_exceedance_bound,
    standard_deviation_factor,
    variance_factor,
)
from collapse_jax.theory.gaussian_divergence import expected_divergence_of_truth
from collapse_jax.theory.gaussian_log_moments import (
    e_fold_time,
    expected_log_determinant,
    expected_log_variance,
    variance_of_log_determinant,
    variance_of_log_variance,
)
from collapse_jax.theory.kde import (
    KdeMoments,
    kde_accumulate_moments,
    kde_bandwidth_factor,
    kde_expected_tail_mass,
    kde_moments,
)
from collapse_jax.theory.real_data import (
    SteadyState,
    accumulate_expected_variance,
    accumulate_mean_squared_drift,
    accumulate_variance_limit,
    fixed_count_steady_state,
    random_count_steady_state,
)
from collapse_jax.theory.regression import (
    Design,
    regression_accumulate_excess_risk,
    regression_accumulate_limit,
    regression_excess_risk,
)
from collapse_jax.theory.schedule import Floats, Integers, SampleSizes

__all__ = [
    "Design",
    "Estimator",
    "Floats",
    "Integers",
    "KdeMoments",
    "SampleSizes",
    "SteadyState",
    "accumulate_expected_variance",
    "accumulate_mean_squared_drift",
    "accumulate_variance_limit",
    "approximate_absorption_time",
    "c4",
    "e_fold_time",
    "expected_divergence_of_truth",
    "expected_frequency",
    "expected_heterozygosity",
    "expected_log_determinant",
    "expected_log_variance",
    "expected_squared_variance",
    "expected_standard_deviation",
    "expected_support",
    "expected_trace",
    "expected_variance",
    "expected_w2_squared",
    "fixation_probability",
    "fixed_count_steady_homozygosity",
    "fixed_count_steady_state",
    "kde_accumulate_moments",
    "kde_bandwidth_factor",
    "kde_expected_tail_mass",
    "kde_moments",
    "mean_absorption_time",
    "mean_squared_drift",
    "random_count_steady_homozygosity",
    "random_count_steady_state",
    "regression_accumulate_excess_risk",
    "regression_accumulate_limit",
    "regression_excess_risk",
    "standard_deviation_exceedance_bound",
    "standard_deviation_factor",
    "symbol_survival_bound",
    "variance_factor",
    "variance_of_frequency",
    "variance_of_log_determinant",
    "variance_of_log_variance",
    "wright_fisher_transition_matrix",
]
