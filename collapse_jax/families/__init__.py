"""Model families: one factory a file."""

from collapse_jax.families.discrete import discrete
from collapse_jax.families.gaussian import gaussian

__all__ = ["discrete", "gaussian"]
