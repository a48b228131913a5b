"""Validation of every closed form against simulated chains: one table of z-scores.

Each study runs chains of one setting and yields checks of all closed forms that hold for it.
Standard errors are estimated from the chains.
"""

from collapse_jax.validation import discrete, gaussian, kde, regression
from collapse_jax.validation.checks import COLUMNS, Check, Study, worst

__all__ = ["COLUMNS", "Check", "Study", "studies", "worst"]


def studies(chains: int, quick: bool = False) -> list[Study]:
    """All studies, or the quick ones of the Gaussian and the discrete family.

    Args:
      chains: chains per study; a fifth in studies that take long.
      quick: only the most informative studies.
    """
    chosen = gaussian.studies(chains, quick) + discrete.studies(chains, quick)
    return chosen if quick else chosen + kde.studies(chains) + regression.studies(chains)
