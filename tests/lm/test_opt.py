"""OPT's network against transformers, and consistency of its parts."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.lm import cache as caches
from collapse_jax.lm import opt
from collapse_jax.lm.config import Config, read_config, to_json
from tests.lm.small import LAYOUTS, SMALL, texts, twin, weights

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "opt.json").read_text())
PUBLISHED = {
    "125m": Config(),
    "350m": Config(
        hidden=1024, layers=24, heads=16, inner=4096, embedding=512, norm_before=False,
        final_norm=False,
    ),
    "1.3b": Config(hidden=2048, layers=24, heads=32, inner=8192, embedding=2048),
}  # fmt: skip


def logits(config, params, given, dtype=jnp.float32):
    model = opt.model(config, dtype)
    apply = jax.jit(lambda params, tokens, mask: model.bind(params)(tokens, mask))
    return np.asarray(apply(params, given.tokens, given.mask))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("125m", 125_239_296),
        pytest.param("350m", 331_196_416, marks=pytest.mark.slow),
        pytest.param("1.3b", 1_315_758_080, marks=pytest.mark.slow),
    ],
)
def test_published_shapes_have_the_published_numbers_of_parameters(name, count):
    assert opt.parameters(PUBLISHED[name]) == count


@pytest.mark.parametrize("name", LAYOUTS)
def test_logits_are_those_that_transformers_computed(name):
    config, given = LAYOUTS[name], texts(LAYOUTS[name])
    ours = logits(config, weights(config), given)
    theirs = np.array(GOLDENS[name]["logits"])
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(
        ours[given.mask][:, ::8] / scale, theirs[given.mask] / scale, atol=1e-5
    )
    alone = given._replace(tokens=given.tokens[2:, 6:], mask=given.mask[2:, 6:])
    np.testing.assert_allclose(
        logits(config, weights(config), alone)[0] / scale, ours[2, 6:] / scale, atol=1e-6
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("lengths", [(12, 12, 12), (12, 5, 1)])
def test_logits_are_those_of_transformers(name, lengths, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra benchmark is not installed")
    config = LAYOUTS[name]
    for seed in range(3):
        params, given = weights(config, seed), texts(config, seed, lengths)
        peer = twin(config, params, tmp_path)
        with torch.no_grad():
            theirs = peer(
                torch.tensor(given.tokens.astype(np.int64)),
                attention_mask=torch.tensor(given.mask.astype(np.int64)),
            ).logits.numpy()[given.mask]
        error = np.abs(logits(config, params, given)[given.mask] - theirs).max()
        assert error < 1e-4 * np.abs(theirs).max()


def test_decoding_step_by_step_is_reading_at_once():
    config = LAYOUTS["350m"]
    model, params, given = opt.model(config), weights(config), texts(config)
    whole = logits(config, params, given)
    mask = given.mask[:, :4]
    found, cache = caches.prefill(model, params, given.tokens[:, :4], mask)
    cache = caches.with_slots(cache, given.tokens.shape[1])
    step = jax.jit(functools.partial(caches.step, model))
    for place in range(4, given.tokens.shape[1]):
        there = mask.any(axis=1)
        np.testing.assert_allclose(found[there], whole[there, place - 1], rtol=1e-4, atol=1e-4)
        new = given.mask[:, place]
        mask = np.concatenate([mask, new[:, None]], axis=1)
        seen = np.pad(mask, ((0, 0), (0, given.tokens.shape[1] - place - 1)))
        positions = mask.sum(axis=1) * new - 1
        token = given.tokens[:, place, None]
        found, cache = step(params, cache, token, positions, jnp.int32(place), seen[:, None])
        found = found[:, 0]
    np.testing.assert_allclose(found, whole[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_recomputed_gradients_and_many_chains_are_the_same():
    config = SMALL
    model, given = opt.model(config), texts(config, lengths=(6, 6))
    places = opt.positions(given.mask)

    def loss(params, recompute=False, k_dropout=None):
        network = model.bind(params)
        hidden = network.hidden(
            given.tokens, places, lambda layer: opt.causal(None), k_dropout, recompute
        )
        return jnp.mean(network.logits(hidden) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    params = weights(config)
    plain = gradient(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
        plain,
        gradient(params, True),
    )
    two = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, weights(config, seed=9))
    both = jax.jit(jax.vmap(loss))(two)
    np.testing.assert_allclose(both[0], loss(params), rtol=1e-5)
    assert both[0] != both[1]


def test_dropout_is_off_without_a_key_and_keeps_the_mean():
    values = jnp.ones((200, 500))
    assert opt._drop(values, 0.25, None) is values
    dropped = opt._drop(values, 0.25, jax.random.key(3))
    shares = np.unique(np.asarray(dropped))
    np.testing.assert_allclose(shares, [0.0, 4 / 3], rtol=1e-6)
    error = np.sqrt(0.25 / 0.75 / values.size)
    assert abs(float(dropped.mean()) - 1) < 4 * error


def test_bfloat16_is_near():
    config = LAYOUTS["125m"]
    exact = logits(config, weights(config), texts(config))
    rounded = logits(config, weights(config), texts(config), jnp.bfloat16)
    assert rounded.dtype == np.float32
    mask = texts(config).mask
    error = np.abs(exact - rounded)[mask].max() / np.abs(exact[mask]).max()
    assert 1e-4 < error < 0.05


def test_new_parameters():
    params = opt.init(SMALL, jax.random.key(0))
    words = np.asarray(params["embed_tokens"]["embedding"])
    assert (words[SMALL.pad] == 0).all()
    kernel = np.asarray(params["layers"][1]["fc1"]["kernel"])
    assert abs(kernel.std() / SMALL.init_std - 1) < 4 / np.sqrt(2 * kernel.size)
    assert (np.asarray(params["final_layer_norm"]["scale"]) == 1).all()
    assert (np.asarray(params["layers"][0]["self_attn"]["q_proj"]["bias"]) == 0).all()


def test_configs_as_json(tmp_path):
    for config in [*LAYOUTS.values(), *PUBLISHED.values()]:
        (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
        assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: expected 'opt', got 'gpt2'"),
        ({"activation_function": "gelu"}, "activation_function: expected 'relu', got 'gelu'"),
        ({"num_attention_heads": 5}, "heads: expected a divisor of hidden = 32, got 5"),
        ({"hidden_size": "wide"}, "hidden_size: expected int, got 'wide'"),
        ({"num_hidden_layers": 0}, "layers: expected an integer >= 1, got 0"),
        ({"dropout": 1}, r"dropout: expected a share in \[0, 1\), got 1"),
        ({"eos_token_id": 53}, "end: expected an id below vocabulary = 53, got 53"),
    ],
)
def test_bad_configs_are_named(tmp_path, change, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**to_json(SMALL), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a config.json at"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"model_type": "op')
    with pytest.raises(ValueError, match="expected JSON at"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object at"):
        read_config(tmp_path / "config.json")


def test_a_norm_after_has_no_final_norm():
    with pytest.raises(ValueError, match="final_norm: expected False"):
        dataclasses.replace(SMALL, norm_before=False)
