"""Lists the packages, which pyproject.toml can find only under the names of their folders.

`experiments/` is installed as `collapse_jax.experiments`; pyproject.toml says everything else.
"""

from setuptools import find_packages, setup

experiments = [f"collapse_jax.{name}" for name in find_packages(include=["experiments*"])]
setup(packages=find_packages(include=["collapse_jax*"]) + experiments)
