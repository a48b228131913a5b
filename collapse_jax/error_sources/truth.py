"""The true density of the study of error sources: a Gaussian mixture, by default of three modes."""

from typing import NamedTuple

import numpy as np

from collapse_jax.arguments import SettingError
from collapse_jax.error_sources.model_classes import GRID, NARROWEST, merged_neighbours
from collapse_jax.families.gmm import originals


class Modes(NamedTuple):
    """Components of the true density: f64[mode] each, means and deviations in data units."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    @property
    def centre(self) -> float:
        """Mean of the mixture."""
        return float(self.weights @ self.means)

    @property
    def scale(self) -> float:
        """Standard deviation of the mixture."""
        second = self.weights @ (self.deviations**2 + self.means**2)
        return float(np.sqrt(second - self.centre**2))


THREE_MODES = Modes(
    np.array([0.3, 0.4, 0.3]), np.array([-1.5, 0.0, 1.5]), np.array([0.35, 0.45, 0.35])
)


# Standard deviations on either side of every fitted component that must lie within the grid.
_REACH = 4


def parse_modes(given: str | None) -> Modes:
    """Reads one-dimensional modes by `originals.load_original`; None gives THREE_MODES.

    Raises:
      ValueError: with the field's name, if they are not a mixture that fits on the grid.
    """
    if given is None:
        return THREE_MODES
    weights, means, covariances = originals.load_original(given)
    if means.shape[1] != 1:
        raise SettingError(f"truth.means: expected one dimension, got {means.shape[1]}")
    if len(weights) < 2 or min(weights) <= 0:
        raise SettingError(
            f"truth.weights: expected at least 2, all positive, got {weights.tolist()}"
        )
    variances = covariances.ravel()
    if min(variances) < NARROWEST**2:
        raise SettingError(
            f"truth.covariances: expected variances of at least {NARROWEST**2:g}, got"
            f" {variances.tolist()}"
        )
    modes = Modes(weights, means.ravel(), np.sqrt(variances))
    low, high = _span(modes)
    if low < GRID[0] or high > GRID[-1]:
        raise SettingError(
            f"truth: expected {_REACH} deviations around its modes, its merged neighbours and the"
            f" Gaussian of its moments to lie within [{GRID[0]:g}, {GRID[-1]:g}],"
            f" got {low:.3g} to {high:.3g}"
        )
    return modes


def _span(modes: Modes) -> tuple[float, float]:
    """Interval covered by all densities that may be fitted to the modes, data units.

    Small classes merge modes, down to one Gaussian, and reach further than any single mode.
    """
    merged = [(means[0], deviations[0]) for _, means, deviations in merged_neighbours(*modes)]
    parts = [*zip(modes.means, modes.deviations, strict=True), *merged, (modes.centre, modes.scale)]
    means, reach = np.array(parts).T * [[1], [_REACH]]
    return float(np.min(means - reach)), float(np.max(means + reach))


def log_masses(truth: Modes) -> np.ndarray:
    """Log-masses of the true density on the grid, f32[G]."""
    standard = (GRID[:, None] - truth.means) / truth.deviations
    joint = np.log(truth.weights / truth.deviations) - 0.5 * standard**2
    logs = np.logaddexp.reduce(joint, axis=1)
    return np.asarray(logs - np.logaddexp.reduce(logs), np.float32)
