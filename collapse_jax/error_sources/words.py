"""Text of a study of error sources: each source's effect, and departures from theory.

All numbers except the thresholds are computed from the run.
"""

import numpy as np
import xarray as xr

from collapse_jax.error_sources.study import SOURCES
from collapse_jax.error_sources.summary import (
    EDGE_MASS,
    ROUNDING,
    Mean,
    SourceComparison,
    compare,
    edge_mass,
    limit,
    slope,
)

# A rise levels off if its share in the last half of generations is below this part of a linear one.
_LEVEL = 0.5


def in_words(found: xr.Dataset) -> str:
    """Paragraphs on each source alone, and on departures of the whole from the sum."""
    models = [str(model) for model in found["model"].values]
    compared = {model: compare(found, model) for model in models}
    texts = [_protocol(found), _truths(found)]
    for model, one in compared.items():
        sentences = [
            _whole(one),
            _statistical(found, model),
            _expressivity(one.parts["expressivity"].value),
            _approximation(one.parts["approximation"].value),
        ]
        texts.append(f"{model}: {' '.join(sentences)}")
    departing = [model for model, one in compared.items() if np.any(np.abs(one.z) > one.limit)]
    if departing:
        texts.append(
            f"Simple additivity fails for {', '.join(departing)}. It need not hold: a divergence is"
            " not linear in the errors that cause it, the sources interact, and noise and early"
            " stopping may cost the small class, which has fewer parameters, a different amount"
            " than the right class, on which they are measured alone."
        )
    return "\n\n".join([*texts, _edge(found)])


def _protocol(found: xr.Dataset) -> str:
    return (
        "Each source alone, by generation, as KL(truth || model) in nats. Statistical: the right"
        " class, M samples per generation, fits iterated to near the maximum. Expressivity: the"
        " small class, infinite data, converged fits. Approximation: the right class, infinite"
        " data, early-stopped fits from a fixed start. The whole process has all three: the small"
        f" class, M = {found.attrs['compared_samples']:,}, early fits. Means over"
        f" {found.sizes['chain']} chains, \u00b1 their standard errors."
    )


def _truths(found: xr.Dataset) -> str:
    gaps = zip(found["model"].values, found["right_class_kl"].values, strict=True)
    return (
        "There are two truths. Expressivity and the whole process start from the true density and"
        " are compared with it; statistical and approximation errors start from the right class's"
        " best fit to it, which that class represents exactly, and are compared with that fit. The"
        " divergence from the true density to the fit is"
        f" {', '.join(f'{_nats(gap)} for {model}' for model, gap in gaps)}."
    )


def _whole(one: SourceComparison) -> str:
    ends = (int(find(one.ratio)) for find in (np.nanargmin, np.nanargmax))
    shown = [f"{one.ratio[g]:.3f} \u00b1 {one.ratio_error[g]:.3f} (generation {g})" for g in ends]
    z, last = one.z, len(one.z) - 1
    worst = int(np.argmax(np.abs(z)))
    found = ("above", np.flatnonzero(z > one.limit)), ("below", np.flatnonzero(z < -one.limit))
    sides = [f"{side} it at {len(at)} ({_between(at)})" for side, at in found if len(at)]
    return (
        f"the whole process is {' to '.join(shown)} times the sum of the three alone. Chance may"
        f" put it up to {one.limit:.1f} standard errors from the sum; of {len(z)} generations it is"
        f" further {' and '.join(sides) or 'from it at none'}, furthest at generation {worst}"
        f" (z = {z[worst]:.1f}). At generation {last} the whole is {_with_error(one.full, last)},"
        f" the sum {_with_error(one.total, last)}."
    )


def _between(generations: np.ndarray) -> str:
    first, last = generations[0], generations[-1]
    if first == last:
        return f"{first}"
    return (
        f"{first} to {last}" if len(generations) > last - first else f"between {first} and {last}"
    )


def _statistical(found: xr.Dataset, model: str) -> str:
    powers, verdicts = [], []
    bound = limit(found.sizes["chain"], 2)
    for generation in (0, found.sizes["generation"] - 1):
        power = slope(found, model, generation)
        if power is None:
            return "One sample size alone gives no power of M."
        value, error = power
        powers.append(f"{value:.2f} \u00b1 {error:.2f} at generation {generation}")
        if abs(value + 1) > bound * error:
            kind = "steeper" if value < -1 else "shallower"
            verdicts.append(f"{kind} at generation {generation}")
    return (
        f"Statistical error is proportional to M to the power {' and '.join(powers)}; theory, to"
        f" leading order in generations / M, says -1: {' and '.join(verdicts) or 'both agree'}."
    )


def _expressivity(values: np.ndarray) -> str:
    change = float(np.max(np.abs(values - values[0])))
    return (
        f"Expressivity costs {_nats(values[0])} at generation 0 and changes by at most"
        f" {change:.1g} after it."
    )


def _approximation(values: np.ndarray) -> str:
    if np.max(values) < ROUNDING:
        return f"Approximation costs {_nats(0.0)} at any generation."
    drop, rise = float(np.max(-np.diff(values))), values[-1] - values[0]
    # A divergence in float32 has a relative error of about 1e-6.
    grows = "never falling" if drop <= 1e-6 * np.max(values) else f"falling by {drop:.2g} at most"
    text = f"Approximation goes from {_nats(values[0])} to {_nats(values[-1])}, {grows}"
    if rise <= 0:
        return f"{text}: it does not accumulate."
    last = len(values) - 1
    middle, share = last // 2, (values[-1] - values[last // 2]) / rise
    steady = 1 - middle / last
    verdict = "levels off" if share < _LEVEL * steady else "continues to accumulate"
    return (
        f"{text}; {max(share, 0.0):.0%} of the rise is after generation {middle} (of a linear"
        f" rise, {steady:.0%}): it {verdict}."
    )


def _edge(found: xr.Dataset) -> str:
    largest = max(float(found[f"{source}_edge_mass"].max()) for source in SOURCES)
    text = f"The largest mass of any model at the ends of the grid is {largest:.1g}"
    masses = {
        f"{source} of {model}": float(edge_mass(found, source).sel(model=model).max())
        for source in SOURCES
        for model in found["model"].values
    }
    beyond = [f"{name} ({mass:.1g})" for name, mass in masses.items() if mass > EDGE_MASS]
    if not beyond:
        return f"{text}; no typical chain has more than {EDGE_MASS:.0g} at the ends."
    return (
        "WARNING: the grid cuts models off, which acts as an additional source of error."
        f" Typical chains have more than {EDGE_MASS:.0g} at its ends in {', '.join(beyond)}."
        f" {text}."
    )


def _with_error(one: Mean, generation: int) -> str:
    return f"{one.value[generation]:.4f} \u00b1 {one.error[generation]:.4f}"


def _nats(value: float) -> str:
    return f"{value:.3g}" if value >= ROUNDING else f"less than {ROUNDING:.0g} (rounding)"
