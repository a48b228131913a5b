"""Four virtual devices for the whole test session: started once, they cost nothing afterwards."""

import gc

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture
def no_leftovers():
    """What a failed read leaves behind complains in its own test, and not in someone else's."""
    yield
    gc.collect()
