"""Model families: one factory a file."""

from collapse_jax.families.discrete import discrete
from collapse_jax.families.gaussian import gaussian
from collapse_jax.families.gmm import gmm

__all__ = ["discrete", "gaussian", "gmm"]
