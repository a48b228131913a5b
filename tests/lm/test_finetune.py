"""Fine-tuning against torch's AdamW, consistency of its parts, and the choice of the epoch."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import pools
from collapse_jax.family import Training, run_to_end
from collapse_jax.lm import finetune, opt
from tests.lm.small import (
    LAYOUTS,
    SMALL,
    STEPS,
    TRAINING,
    blocks,
    losses_of_torch,
    minibatches,
    twin,
    weights,
)

T = 12
GOLDENS = json.loads((Path(__file__).parent / "goldens" / "opt.json").read_text())


def trained(config, settings, steps, batches, params=None):
    """Parameters and losses after steps on given minibatches."""
    model = opt.model(config)
    transformation = finetune.optimizer(settings, steps)
    params = weights(config) if params is None else params
    advance = jax.jit(functools.partial(finetune.step, model, settings, transformation))
    moments, losses = transformation.init(params), []
    for batch in batches:
        params, moments, loss = advance(params, moments, batch, None)
        losses.append(float(loss))
    return params, losses


@pytest.mark.parametrize(
    "name", ["350m", *(pytest.param(n, marks=pytest.mark.slow) for n in ("125m", "1.3b"))]
)
def test_losses_are_those_that_torch_had(name):
    config, expected = LAYOUTS[name], GOLDENS[name]["losses"]
    found = trained(config, TRAINING, STEPS, minibatches(config))[1]
    assert expected[-1] < expected[0] - 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_steps_are_those_of_torch(name, tmp_path):
    pytest.importorskip("torch", reason="the extra benchmark is not installed")
    config = LAYOUTS[name]
    found = trained(config, TRAINING, STEPS, minibatches(config))[1]
    theirs = losses_of_torch(twin(config, weights(config), tmp_path), config)
    np.testing.assert_allclose(found, theirs, atol=1e-4)


@pytest.mark.slow
def test_parts_and_chunks_change_nothing():
    config, batches = LAYOUTS["350m"], [blocks(6, seed) for seed in range(2)]
    plain = finetune.FineTuning(batch=6, learning_rate=1e-2, epsilon=0.1, clip=0.0)
    expected = trained(config, plain, 2, batches)
    for change in ({"accumulate": 3}, {"chunk": 7}, {"chunk": 64, "recompute": True}):
        found = trained(config, plain._replace(**change), 2, batches)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found[0], expected[0]
        )


def test_losses_by_their_definition():
    model, params, given = opt.model(SMALL), weights(SMALL), blocks(3)
    logs = jax.nn.log_softmax(model.bind(params)(jnp.asarray(given)))
    expected = [
        -np.mean([logs[b, t, given[b, t + 1]] for t in range(T - 1)]) for b in range(len(given))
    ]
    found = finetune.losses(model, params, jnp.asarray(given)).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    both = finetune.perplexity(np.asarray(found))
    assert both.mean_of_blocks == pytest.approx(np.mean(np.exp(expected)), rel=1e-4)
    assert both.of_corpus == pytest.approx(np.exp(np.mean(expected)), rel=1e-4)


def fit(settings, given, validation, params, key=None, vmapped=False):
    steps = finetune.steps(opt.model(SMALL), settings, T, validation)
    run = lambda key, params: run_to_end(  # noqa: E731
        steps, (key, params, Training(pools.Rows(jnp.asarray(given), len(given))))
    )
    if vmapped:
        return jax.jit(jax.vmap(run))(key, params)
    return jax.jit(run)(jax.random.key(1) if key is None else key, params)


@pytest.mark.slow
def test_the_epoch_that_is_best_on_real_text_is_kept():
    # Training on other texts makes the model worse on the real ones after some epochs.
    params = weights(SMALL)
    given, validation = blocks(16, 1), blocks(10, 2)
    settings = finetune.FineTuning(epochs=6, batch=8, learning_rate=2e-2, clip=0.0)
    kept, metrics = fit(settings, given, validation, params)
    epochs = [
        fit(settings._replace(epochs=n, schedule="constant"), given, validation, params)
        for n in range(1, 7)
    ]
    judged = [float(m["validation_loss"]) for _, m in epochs]
    assert judged == sorted(judged, reverse=True)  # the best so far
    best = int(metrics["best_epoch"])
    assert 0 <= best < 6
    found = finetune.losses(opt.model(SMALL), kept, jnp.asarray(validation)).mean()
    assert float(found) == pytest.approx(float(metrics["validation_loss"]), rel=1e-4)
    assert float(found) == pytest.approx(judged[best], rel=1e-4)
    assert float(epochs[-1][1]["train_loss"]) < float(epochs[0][1]["train_loss"])


@pytest.mark.slow
def test_many_chains_at_once_are_each_as_alone():
    given, validation = blocks(8, 1), blocks(3, 2)
    # Adam divides by the gradient's size: a large epsilon keeps rounding errors small.
    settings = finetune.FineTuning(epochs=2, batch=4, learning_rate=1e-2, epsilon=0.1)
    two = [weights(SMALL, seed) for seed in (3, 4)]
    keys = jax.random.split(jax.random.key(5), 2)
    together = fit(
        settings, given, validation, jax.tree.map(lambda *x: jnp.stack(x), *two), keys, True
    )
    for i in range(2):
        alone = fit(settings, given, validation, two[i], keys[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
            together, alone,
        )  # fmt: skip


def test_dropout_changes_training_and_nothing_else():
    config = dataclasses.replace(SMALL, dropout=0.3)
    model, params, given = opt.model(config), weights(config), jnp.asarray(blocks(4))
    plain = finetune.mean_loss(model, params, given)
    np.testing.assert_allclose(plain, finetune.losses(model, params, given).mean(), rtol=1e-6)
    dropped = finetune.mean_loss(model, params, given, jax.random.key(0))
    assert abs(plain - dropped) > 1e-3 * plain


def test_schedules():
    for schedule, last in (("constant", 1.0), ("linear", 0.0), ("cosine", 0.0)):
        settings = finetune.FineTuning(
            learning_rate=1.0, schedule=schedule, warmup=0.5, weight_decay=0.0, clip=0.0,
            beta_1=0.0, beta_2=0.0,
        )  # fmt: skip
        transformation = finetune.optimizer(settings, 8)
        params = {"kernel": jnp.zeros(1)}
        moments, rates = transformation.init(params), []
        for _ in range(9):
            updates, moments = transformation.update({"kernel": jnp.ones(1)}, moments, params)
            rates.append(-float(updates["kernel"][0]))
        np.testing.assert_allclose(rates[:5], [0, 0.25, 0.5, 0.75, 1.0], atol=1e-5)
        assert rates[-1] == pytest.approx(last, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"accumulate": 3}, "accumulate: expected a divisor of batch = 4, got 3"),
        ({"schedule": "step"}, "schedule: expected one of"),
        ({"learning_rate": 0.0}, "learning_rate: expected a finite number > 0"),
        ({"warmup": 1.0}, r"warmup: expected a share in \[0, 1\)"),
        ({"clip": -1.0}, "clip: expected a finite number >= 0"),
        ({"beta_1": 2.0}, r"beta_1: expected a share in \[0, 1\), got 2.0"),
        ({"epsilon": 0.0}, "epsilon: expected a finite number > 0, got 0.0"),
        ({"epochs": 1.5}, "epochs: expected an integer >= 1, got 1.5"),
    ],
)
def test_bad_settings_are_named(change, message):
    settings = finetune.FineTuning(batch=4)._replace(**change)
    with pytest.raises(ValueError, match=message):
        finetune.steps(opt.model(SMALL), settings, T, blocks(2))


def test_blocks_that_the_model_cannot_read_are_rejected():
    model, settings = opt.model(SMALL), finetune.FineTuning(batch=4)
    with pytest.raises(ValueError, match="validation: expected ids below .* 53, got 53"):
        finetune.steps(model, settings, T, np.full((2, T), 53))
    with pytest.raises(ValueError, match="validation: expected blocks of 12, got 7"):
        finetune.steps(model, settings, T, blocks(2)[:, :7])
    with pytest.raises(ValueError, match="validation: expected blocks of 2 to 49 tokens, got 50"):
        finetune.steps(model, settings, 50, np.full((2, 50), 5))


def test_no_validation_is_rejected():
    with pytest.raises(ValueError, match="validation: expected at least one block"):
        finetune.steps(opt.model(SMALL), finetune.FineTuning(batch=4), T, blocks(0))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (blocks(3), "batch: expected at most the 3 blocks of a training set, got 4"),
        (blocks(8)[0], r"training: expected at least one block.* got int32 of shape \(12,\)"),
        (blocks(8) * 1.0, "training: expected at least one block.* got float64"),
    ],
)
def test_training_sets_that_cannot_be_are_rejected(training, message):
    model, settings = opt.model(SMALL), finetune.FineTuning(batch=4)
    with pytest.raises(ValueError, match=message):
        finetune.fit(jax.random.key(0), model, weights(SMALL), training, blocks(2), settings)


def test_evaluation_of_nothing_is_rejected():
    model, params = opt.model(SMALL), weights(SMALL)
    with pytest.raises(ValueError, match="blocks: expected at least one block"):
        finetune.evaluate(model, params, blocks(0))
    with pytest.raises(ValueError, match="batch: expected an integer >= 1, got 0"):
        finetune.evaluate(model, params, blocks(2), batch=0)
