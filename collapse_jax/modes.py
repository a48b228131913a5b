"""The true density of the study of error sources: a mixture whose modes the user may give."""

import json
import math
from typing import NamedTuple

import numpy as np

from collapse_jax.learners import GRID, NARROWEST


class Modes(NamedTuple):
    """The modes of which the true density is a mixture: f64[mode] each, data units."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    @property
    def centre(self) -> float:
        """Its mean."""
        return float(self.weights @ self.means)

    @property
    def scale(self) -> float:
        """Its standard deviation."""
        second = self.weights @ (self.deviations**2 + self.means**2)
        return float(np.sqrt(second - self.centre**2))


THREE_MODES = Modes(
    np.array([0.3, 0.4, 0.3]), np.array([-1.5, 0.0, 1.5]), np.array([0.35, 0.45, 0.35])
)


def parse_modes(text: str | None) -> Modes:
    """Reads modes from JSON; none: three modes.

    Raises:
      ValueError: naming the field, if they are no mixture that the grid can hold.
    """
    if text is None:
        return THREE_MODES
    names = Modes._fields
    try:
        given = json.loads(text)
        if not isinstance(given, dict) or sorted(given) != sorted(names):
            raise ValueError
        lists = [np.array([_number(x) for x in given[name]], np.float64) for name in names]
    except (ValueError, TypeError):
        raise ValueError(
            'truth: expected JSON like {"weights": [...], "means": [...], "deviations": [...]}'
            f" with lists of numbers, got {text!r}"
        ) from None
    weights, means, deviations = lists
    sizes = [values.size for values in lists]
    if len(set(sizes)) > 1 or sizes[0] < 2:
        raise ValueError(f"truth: expected three lists of one length of at least 2, got {sizes}")
    if min(weights) <= 0 or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"truth: expected positive weights of sum 1, got {weights.tolist()}")
    if min(deviations) < NARROWEST:
        raise ValueError(
            f"truth: expected deviations of at least {NARROWEST}, got {deviations.tolist()}"
        )
    if max(np.abs(means) + 4 * deviations) > GRID[-1]:
        raise ValueError(
            f"truth: expected modes with 4 deviations on either side in [{GRID[0]:g},"
            f" {GRID[-1]:g}], got means {means.tolist()}, deviations {deviations.tolist()}"
        )
    return Modes(weights / weights.sum(), means, deviations)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return float(value)


def log_masses(truth: Modes) -> np.ndarray:
    """Log-masses of the modes on the grid, f32[G]."""
    standard = (GRID[:, None] - truth.means) / truth.deviations
    joint = np.log(truth.weights / truth.deviations) - 0.5 * standard**2
    logs = np.logaddexp.reduce(joint, axis=1)
    return np.asarray(logs - np.logaddexp.reduce(logs), np.float32)
