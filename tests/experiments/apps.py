"""The experiments with a command line, by name."""

import importlib
import pkgutil

import experiments

_MODULES = (
    importlib.import_module(f"experiments.{module.name}")
    for module in pkgutil.iter_modules(experiments.__path__)
)
APPS = {module.__name__.split(".")[1]: module for module in _MODULES if hasattr(module, "SETTINGS")}
