"""How many chains a batch has."""

import jax
import numpy as np

from collapse_jax import families, regimes
from collapse_jax.engine import planning


def test_batches_are_larger_on_a_gpu_but_for_fits_in_steps(monkeypatch):
    shapes = (jax.ShapeDtypeStruct((10_000,), np.float32), {})
    cases = {
        "exact": (families.gaussian(), regimes.replace(100)),
        "rows": (families.gaussian(sampler="rows"), regimes.replace(1000)),
        "steps": (families.vae(hidden=8, latent=2), regimes.replace(1437)),
    }

    def sizes():
        return {
            name: planning.batch_size(shapes, *pair, 100_000, 1) for name, pair in cases.items()
        }

    on_cpu = sizes()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_gpu = sizes()
    assert on_gpu["exact"] * 40_000 <= 2**30 < on_gpu["exact"] * 40_000 * 1.5
    assert on_gpu["rows"] * 4_000 <= 2**26 < on_gpu["rows"] * 4_000 * 1.5
    assert on_gpu["exact"] > 3 * on_cpu["exact"]
    assert on_gpu["rows"] > 10 * on_cpu["rows"]
    assert on_gpu["steps"] == on_cpu["steps"]
