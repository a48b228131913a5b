"""Kaplan-Meier curves of collapse times."""

from typing import NamedTuple

import numpy as np


class Survival(NamedTuple):
    """A Kaplan-Meier curve: share of chains for which the event is still to come."""

    generation: np.ndarray  # i64[t]
    survival: np.ndarray  # f64[t], after that generation
    lower: np.ndarray  # f64[t], 95 % interval
    upper: np.ndarray  # f64[t]
    chains: int
    events: int


def kaplan_meier(
    first_passage: np.ndarray, generations: int, lost: np.ndarray | None = None
) -> Survival:
    r"""Kaplan-Meier estimate with Greenwood's variance on the log(-log) scale.

    Args:
      first_passage: i32[chain], generation of the event, or -1 for a chain censored at the end.
      generations: length of the run.
      lost: i32[chain], generation from which a chain is no longer observed (non-finite), or -1.

    Returns:
      The curve over generations 0 ... generations - 1.
    """
    event = np.asarray(first_passage)
    last = (
        np.full(event.shape, generations) if lost is None else np.where(lost < 0, generations, lost)
    )
    happened = (event >= 0) & (event < last)
    leaving = np.where(happened, event, last)
    events = np.bincount(event[happened], minlength=generations)[:generations]
    left = np.bincount(leaving, minlength=generations + 1)[:generations]
    # Whoever leaves at t without the event was last observed before t.
    at_risk = event.size - np.cumsum(left) + events
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(np.where(at_risk > 0, 1.0 - events / at_risk, 1.0))
        greenwood = np.cumsum(
            np.where(at_risk > events, events / (at_risk * (at_risk - events)), 0.0)
        )
        spread = 1.96 * np.sqrt(greenwood) / np.abs(np.log(survival))
        inside = (survival > 0) & (survival < 1)
        lower = np.where(inside, survival ** np.exp(spread), survival)
        upper = np.where(inside, survival ** np.exp(-spread), survival)
    return Survival(np.arange(generations), survival, lower, upper, event.size, int(happened.sum()))
