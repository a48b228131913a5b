"""Every closed form measured on chains: one table of z-scores.

Each study runs chains of one setting and yields checks of all forms that hold for it. Standard
errors come from the chains themselves.
"""

from collapse_jax.validation import discrete, gaussian, kde, regression
from collapse_jax.validation.checks import COLUMNS, Check, Study, worst

__all__ = ["COLUMNS", "Check", "Study", "studies", "worst"]


def studies(chains: int, quick: bool = False) -> list[Study]:
    """All studies, or with `quick` those of few families that compile little.

    Args:
      chains: per study; those that take long have a fifth.
      quick: leave out all but the most telling.
    """
    chosen = gaussian.studies(chains, quick) + discrete.studies(chains, quick)
    return chosen if quick else chosen + kde.studies(chains) + regression.studies(chains)
