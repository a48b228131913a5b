"""Kaplan-Meier curves of collapse times."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import CensoredData, ecdf


class Survival(NamedTuple):
    """A Kaplan-Meier curve: estimated share of chains without the event so far."""

    generation: np.ndarray  # i64[t]
    survival: np.ndarray  # f64[t], after that generation
    lower: np.ndarray  # f64[t], 95 % interval
    upper: np.ndarray  # f64[t]
    chains: int
    events: int


def kaplan_meier(
    first_passage: np.ndarray, generations: int, lost: np.ndarray | None = None
) -> Survival:
    """Kaplan-Meier estimate, with Greenwood's variance on the log(-log) scale (SciPy).

    Args:
      first_passage: i32[chain], generation of the event, or -1 if it does not occur in the run.
      generations: length of the run.
      lost: i32[chain], generation from which a chain is no longer observed (non-finite), or -1.

    Returns:
      The curve at generations 0 ... generations - 1. Where it is 0 or 1, both bounds equal it.
    """
    event = np.asarray(first_passage)
    end = np.full(event.shape, generations)
    if lost is not None:
        end = np.where(lost < 0, generations, lost)
    happened = (event >= 0) & (event < end)
    last_observed = end - 1  # -1 for a chain lost at generation 0: it is never at risk
    estimate = ecdf(CensoredData(event[happened], right=last_observed[~happened])).sf
    with warnings.catch_warnings():  # the formula is undefined where the curve is 0 or 1
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        interval = estimate.confidence_interval(0.95, method="log-log")
    generation = np.arange(generations)
    survival = estimate.evaluate(generation)
    inside = (survival > 0) & (survival < 1)
    lower, upper = (
        np.where(inside, bound.evaluate(generation), survival)
        for bound in (interval.low, interval.high)
    )
    return Survival(
        generation=generation,
        survival=survival,
        lower=lower,
        upper=upper,
        chains=event.size,
        events=int(happened.sum()),
    )
