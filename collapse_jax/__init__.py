"""Simulation of model collapse: many independent chains of models trained on their own output.

Modules are imported on first use; `theory`, for example, does not need JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapse_jax import families, regimes, theory
    from collapse_jax.runner import Result, run

__version__ = "0.1.0"
__all__ = ["Result", "families", "regimes", "run", "theory"]


def __getattr__(name: str) -> Any:
    if name in ("run", "Result"):
        return getattr(importlib.import_module("collapse_jax.runner"), name)
    if name in ("families", "regimes", "theory"):
        return importlib.import_module(f"collapse_jax.{name}")
    raise AttributeError(f"module 'collapse_jax' has no attribute {name!r}")
