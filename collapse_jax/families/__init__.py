"""Model families: one factory per file or folder of the same name.

Factories are loaded on first use: a Gaussian chain needs no language model.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapse_jax.families.discrete.family import discrete
    from collapse_jax.families.gaussian.family import gaussian
    from collapse_jax.families.gmm.family import gmm
    from collapse_jax.families.kde.family import kde
    from collapse_jax.families.language.family import language
    from collapse_jax.families.regression import regression
    from collapse_jax.families.vae.family import vae

__all__ = ["discrete", "gaussian", "gmm", "kde", "language", "regression", "vae"]

_FOLDERS = ("discrete", "gaussian", "gmm", "kde", "language", "vae")


class _Families(ModuleType):
    """Keeps `families.gmm` the factory even after the module of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        folder = ".family" if name in _FOLDERS else ""
        factory = getattr(importlib.import_module(f"{__name__}.{name}{folder}"), name)
        setattr(self, name, factory)
        return factory


sys.modules[__name__].__class__ = _Families
