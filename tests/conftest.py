"""Settings of a test session: four virtual devices, and a cache of compiled programs.

Compiling dominates the tests. Processes (pytest-xdist's, and those that tests start) and later
sessions share what they compile; JAX finds a program by its text, versions and options.
"""

import gc
import os
from pathlib import Path

import jax
import pytest

from collapse_jax.compiling import MATMUL_PRECISION

SETTINGS = {
    "jax_compilation_cache_dir": str(Path(__file__).parent.parent / ".pytest_cache" / "compiled"),
    "jax_compilation_cache_max_size": 1 << 30,  # bytes; a limit also makes writes exclusive
    "jax_persistent_cache_min_compile_time_secs": 0.2,
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name.upper(), str(value))  # for processes that tests start
    jax.config.update(name, value)
jax.config.update("jax_num_cpu_devices", 4)
# As in runs, so that the tests' own computations are as exact, on a GPU too (where tests cannot
# detect then that a program is compiled without `compiling.compiled`).
jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION)


# A process may have 65,530 memory mappings (Linux). Each compiled program takes some, and running
# out of them is a segmentation fault.
_MOST_MAPPINGS = 30_000


def pytest_runtest_teardown():
    """Discards compiled programs when there are many; they are read back from the cache."""
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def no_leftovers():
    """Collects garbage, so that warnings about a failed read are raised in the same test."""
    yield
    gc.collect()
