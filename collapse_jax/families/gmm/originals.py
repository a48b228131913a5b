"""Original distributions of mixtures: by name, or as weights, means and covariances.

Computed on the host in float64. Axis legend: k components, d dimensions.
"""

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, ndtr

from collapse_jax.arguments import SettingError

NAMES = ("two-gaussians", "blob")
_FIELDS = ("weights", "means", "covariances")
# Lengths up to 1e9 and standard deviations down to 1e-9 are allowed, so that squares of squared
# distances, which summaries of chains use, stay below single precision's limit of 1e38.
_LARGEST = {"weights": 1e18, "means": 1e9, "covariances": 1e18}
_SMALLEST_VARIANCE = 1e-18


class GaussianMixture(NamedTuple):
    """A Gaussian mixture on the host."""

    weights: np.ndarray  # f64[k], normalised
    means: np.ndarray  # f64[k, d]
    covariances: np.ndarray  # f64[k, d, d]

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.means.shape[1]

    @property
    def config(self) -> dict[str, Any]:
        """Parameters as JSON values; `load_original` reads them."""
        return {name: getattr(self, name).tolist() for name in _FIELDS}

    @property
    def variance(self) -> float:
        """The mean marginal variance."""
        mean = self.weights @ self.means
        within = self.weights @ np.trace(self.covariances, axis1=1, axis2=2)
        return float(within + self.weights @ np.sum((self.means - mean) ** 2, axis=1)) / self.dim

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Independent rows, f64[count, d]."""
        chosen = rng.choice(len(self.weights), count, p=self.weights)
        factors = np.linalg.cholesky(self.covariances)
        normal = rng.standard_normal((count, self.dim))
        return self.means[chosen] + np.einsum("nij,nj->ni", factors[chosen], normal)

    def log_density(self, rows: np.ndarray) -> np.ndarray:
        """Log-density ln p(x), f64[n], of rows f64[n, d]."""
        with np.errstate(divide="ignore"):  # components may have weight 0
            constants = np.log(self.weights) - 0.5 * self.dim * math.log(2 * math.pi)
        parts = []
        for constant, mean, covariance in zip(constants, self.means, self.covariances, strict=True):
            factor = np.linalg.cholesky(covariance)
            standard = np.linalg.solve(factor, (rows - mean).T)
            log_scale = np.log(np.diagonal(factor)).sum()
            parts.append(constant - log_scale - 0.5 * np.sum(standard**2, axis=0))
        return logsumexp(parts, axis=0)

    def quantiles(self, directions: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles f64[m, q], at levels f64[q], of projections on unit vectors f64[m, d]."""
        centres = directions @ self.means.T  # [m, k]
        scales = np.sqrt(np.einsum("mi,kij,mj->mk", directions, self.covariances, directions))
        low = np.repeat((centres - 40 * scales).min(1)[:, None], len(levels), axis=1)
        high = np.repeat((centres + 40 * scales).max(1)[:, None], len(levels), axis=1)
        for _ in range(100):
            middle = 0.5 * (low + high)
            standard = (middle[..., None] - centres[:, None]) / scales[:, None]
            above = ndtr(standard) @ self.weights > levels
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return 0.5 * (low + high)


def load_original(given: str | Mapping[str, Any]) -> GaussianMixture:
    """Loads an original distribution.

    Args:
      given: "two-gaussians" (in two dimensions, equal weights, means (-2, 0) and (2, 0), identity
        covariances), "blob" (the two-dimensional standard normal, the data of the paper's archive),
        or weights, means and covariances as a mapping, JSON or the path of a JSON file.

    Raises:
      ValueError: if the file cannot be read or a field is invalid.
    """
    if isinstance(given, Mapping):
        return _checked(given)
    if not isinstance(given, str):
        raise SettingError(f"truth: expected a name, JSON, a JSON file or a mapping, got {given!r}")
    if given == "two-gaussians":
        return GaussianMixture(
            np.array([0.5, 0.5]), np.array([[-2.0, 0.0], [2.0, 0.0]]), np.stack([_I, _I])
        )
    if given == "blob":
        return GaussianMixture(np.ones(1), np.zeros((1, 2)), _I[None])
    return _checked(_read(given))


_I = np.eye(2)


def label(given: str | Mapping[str, Any]) -> str:
    """Short description of an original: its name, or its size."""
    original = load_original(given)
    for name in NAMES:
        if original.config == load_original(name).config:
            return name
    count = len(original.weights)
    sort = f"{count} Gaussian{'' if count == 1 else 's'} in {original.dim} d"
    return f"{sort}, sd {math.sqrt(original.variance):.3g}"


def _read(given: str) -> Mapping[str, Any]:
    text = given
    if not given.lstrip().startswith("{"):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not a path
            raise SettingError(
                f"truth: expected {', '.join(NAMES)}, JSON, or a JSON file, got {given!r}, which"
                f" cannot be read: {getattr(error, 'strerror', None) or 'not text'}"
            ) from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingError(f"truth: expected JSON, got {given!r}: {error}") from error
    if not isinstance(value, dict):
        raise SettingError(f"truth: expected a JSON object, got {type(value).__name__}")
    return value


def _checked(given: Mapping[str, Any]) -> GaussianMixture:
    if set(given) != set(_FIELDS):
        raise SettingError(f"truth: expected the fields {', '.join(_FIELDS)}, got {list(given)}")
    weights, means, covariances = (_array(name, given[name]) for name in _FIELDS)
    if weights.ndim != 1 or weights.size < 1:
        raise SettingError(f"truth.weights: expected shape (k,), got {weights.shape}")
    count = weights.size
    if means.ndim != 2 or means.shape[0] != count or means.shape[1] < 1:
        raise SettingError(f"truth.means: expected shape ({count}, d), got {means.shape}")
    dim = means.shape[1]
    if covariances.shape != (count, dim, dim):
        raise SettingError(
            f"truth.covariances: expected shape ({count}, {dim}, {dim}), got {covariances.shape}"
        )
    if np.any(weights < 0) or weights.sum() <= 0:
        raise SettingError(
            f"truth.weights: expected numbers >= 0 with a positive sum, got {weights.tolist()}"
        )
    for i, covariance in enumerate(covariances):
        rounding = 1e-8 * np.diagonal(covariance).min()
        symmetric = np.allclose(covariance, covariance.T, atol=rounding)
        smallest = np.linalg.eigvalsh(covariance).min() if symmetric else 0.0
        if smallest < _SMALLEST_VARIANCE:
            wanted = "symmetric positive definite matrices"
            if smallest > 0:
                wanted = f"variances of at least {_SMALLEST_VARIANCE:g} in every direction"
            raise SettingError(
                f"truth.covariances: expected {wanted}, got {covariance.tolist()} for component {i}"
            )
    return GaussianMixture(weights / weights.sum(), means, covariances)


def _array(name: str, value: Any) -> np.ndarray:
    try:
        if not _all_real(value):
            raise TypeError("not a number")
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        shown = " ".join(repr(value).split())  # arrays print on several lines
        raise SettingError(f"truth.{name}: expected an array of numbers, got {shown}") from error
    if not np.all(np.isfinite(array)):
        raise SettingError(f"truth.{name}: expected finite numbers, got {array.tolist()}")
    if np.any(np.abs(array) > _LARGEST[name]):
        raise SettingError(
            f"truth.{name}: expected numbers up to {_LARGEST[name]:g}, got {array.tolist()}"
        )
    return array


def _all_real(value: Any) -> bool:
    """Whether a value, or each one in nested sequences, is a real number, and not a boolean."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iuf"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return all(map(_all_real, value))
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
