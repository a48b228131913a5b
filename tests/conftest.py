"""What a test session sets once: four virtual devices, and a cache of compiled programs.

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
# As runs have it: what tests compute beside them is as exact, on a GPU too (where they cannot see
# then whether a program of ours forgot `parallel.compiled`).
jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION)


# A process may have 65,530 mappings of memory (Linux), of which every compiled program takes some;
# the one that finds none left ends in a segmentation fault.
_MOST_MAPPINGS = 30_000


def pytest_runtest_teardown():
    """Forgets compiled programs when there are many; they are read back from the cache."""
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def no_leftovers():
    """What a failed read leaves behind complains in its own test, and not in someone else's."""
    yield
    gc.collect()
