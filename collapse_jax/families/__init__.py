"""Model families: one factory a file."""

from collapse_jax.families.discrete import discrete
from collapse_jax.families.gaussian import gaussian
from collapse_jax.families.gmm import gmm
from collapse_jax.families.kde import kde
from collapse_jax.families.language import language
from collapse_jax.families.regression import regression
from collapse_jax.families.vae import vae

__all__ = ["discrete", "gaussian", "gmm", "kde", "language", "regression", "vae"]
