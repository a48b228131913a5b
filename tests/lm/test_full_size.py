"""OPT-125m at full size: load, fine-tune, generate, save."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import pools
from collapse_jax.family import Training, run_to_end
from collapse_jax.lm import beam, finetune, opt, weights
from collapse_jax.lm.config import Config
from collapse_jax.lm.prompts import prompts


@pytest.mark.slow
def test_load_finetune_generate_save(tmp_path):
    begun = jax.jit(lambda key: opt.init(Config(), key))(jax.random.key(0))
    weights.save(tmp_path / "before", Config(), begun)
    config, params = weights.load(tmp_path / "before")
    assert config == Config()
    model = opt.model(config)
    blocks = np.random.default_rng(0).integers(4, config.vocabulary, (4, 16)).astype(np.int32)
    settings = finetune.FineTuning(epochs=2, batch=2, learning_rate=1e-4, chunk=16)
    steps = finetune.steps(model, settings, 16, blocks[2:])

    @jax.jit
    def fit(key, params, values):
        return run_to_end(steps, (key, params, Training(pools.Rows(values, 2))))

    params, metrics = fit(jax.random.key(1), params, jnp.asarray(blocks[:2]))
    assert np.isfinite(float(metrics["validation_loss"]))
    before, after = (
        finetune.losses(model, tree, jnp.asarray(blocks[:2])).mean(axis=1)
        for tree in (begun, params)
    )
    assert np.all(after < before)
    found = beam.search(
        model, params, prompts(config, blocks), beams=3, new_tokens=5, min_new_tokens=5
    )
    assert np.all(np.isfinite(found.scores))
    weights.save(tmp_path / "after", config, params)
    _, loaded = weights.load(tmp_path / "after")
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    again = beam.search(
        model, loaded, prompts(config, blocks), beams=3, new_tokens=5, min_new_tokens=5
    )
    np.testing.assert_array_equal(again.tokens, found.tokens)
