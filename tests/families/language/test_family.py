"""Chains of language models: training text, generated text, metrics and errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collapse_jax
from collapse_jax import families, pools, regimes
from collapse_jax.data.text_splits import load_text
from collapse_jax.engine import planning
from collapse_jax.families.language import blocks, measures
from collapse_jax.families.language.base import load
from collapse_jax.family import Training, all_finite
from collapse_jax.lm import beam, finetune, opt, weights
from collapse_jax.lm.prompts import prompts
from collapse_jax.metrics import text_statistics
from experiments import pretraining
from tests.families.language import small
from tests.families.language.small import LENGTH, SETTINGS
from tests.lm.small import log_shares

pytest.importorskip("tokenizers")
M = SETTINGS["blocks"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A pretrained model and a text."""
    return small.make(tmp_path_factory.mktemp("language"))


def language(places, **settings):
    return small.language(*places, **{"kept_blocks": M, **settings})


@pytest.fixture(scope="module")
def original(places):
    base, text = places
    cut = blocks.cut_blocks(load(base).tokenizer, load_text(text), LENGTH, 0.0)
    return cut._replace(train=cut.train[:M], test=cut.test[:6])


def run(family, regime=None, **settings):
    settings = {"chains": 2, "chains_per_batch": 2, "generations": 3, "seed": 4, **settings}
    return collapse_jax.run(family, regime or regimes.replace(M), keep="chains", **settings)


@pytest.fixture(scope="module")
def shared(places):
    """Runs of three generations under replace, and of the first alone, for its parameters."""
    family, regime = language(places), regimes.replace(M)
    return run(family, regime), run(family, regime, generations=1)


def of_chain(params, number):
    return jax.tree.map(lambda leaf: np.asarray(leaf[number]), params[0])


def losses(config, params, tokens):
    logs = log_shares(config, params, tokens[:, :-1])
    return -np.take_along_axis(logs, tokens[:, 1:, None], axis=2)[..., 0].astype(np.float64)


def test_a_generation_trains_on_what_the_one_before_wrote(shared, places, original):
    whole, first = shared
    np.testing.assert_array_equal(whole.history["text"][0, 0], original.train)
    pretrained = load(places[0])
    network = opt.model(pretrained.config)
    for number in range(2):
        found = beam.search(
            network, of_chain(first.params, number), prompts(pretrained.config, original.train),
            beams=2, new_tokens=LENGTH, min_new_tokens=LENGTH,
        )  # fmt: skip
        np.testing.assert_array_equal(whole.history["text"][number, 1], found.tokens[:, 0])
    going_on = whole.history["continuation"][:, 0]
    np.testing.assert_array_equal(going_on, whole.history["text"][:, 1, 0])


def test_perplexities_are_those_of_the_network(shared, places, original):
    whole, first = shared
    config = load(places[0]).config
    for number in range(2):
        last, judge = of_chain(whole.params, number), of_chain(first.params, number)
        at = whole.history.isel(chain=number, generation=-1)
        of_test = losses(config, last, original.test).mean(axis=1)
        np.testing.assert_allclose(at["test_perplexity"], np.exp(of_test).mean(), rtol=1e-4)
        np.testing.assert_allclose(
            at["test_perplexity_of_corpus"], np.exp(of_test.mean()), rtol=1e-4
        )
        lost = losses(config, judge, at["text"].values.astype(np.int32))
        of_block = lost.mean(axis=1)
        np.testing.assert_allclose(at["text_perplexity"], np.exp(of_block).mean(), rtol=1e-4)
        np.testing.assert_allclose(at["text_log_perplexity"], of_block.mean(), rtol=1e-4)
        np.testing.assert_allclose(at["token_log_probability"], -lost.mean(), rtol=1e-4)
        quantiles = np.quantile(-lost, measures.LEVELS)
        np.testing.assert_allclose(at["token_log_probability_quantile"], quantiles, rtol=1e-3)
        edges = measures.BIN_EDGES
        density = np.histogram(of_block / np.log(10), edges, density=True)[0]
        # A block on an edge may fall on either side.
        assert np.abs(at["perplexity_density"] - density).sum() * 0.1 <= 2 / M + 1e-6


def test_statistics_are_those_of_the_training_text(shared, places):
    whole, _ = shared
    history, vocabulary = whole.history, load(places[0]).config.vocabulary
    first = np.bincount(history["text"][0, 0].values.astype(int).ravel(), minlength=vocabulary)
    first[load(places[0]).config.begin] = 0  # begins rows of real text, and is never generated
    for generation in range(3):
        at = history.isel(chain=0, generation=generation)
        tokens = at["text"].values.astype(int)
        now = np.bincount(tokens.ravel(), minlength=vocabulary)
        assert at["types"] == len(set(tokens.ravel()))
        pairs = [tuple(block[i : i + 2]) for block in tokens for i in range(LENGTH - 1)]
        np.testing.assert_allclose(at["distinct_2"], len(set(pairs)) / len(pairs), rtol=1e-6)
        np.testing.assert_allclose(
            at["survival"],
            text_statistics.survival(jnp.asarray(first), jnp.asarray(now)),
            rtol=1e-6,
        )
        rare = np.asarray(text_statistics.tail(jnp.asarray(first), 0.1))
        np.testing.assert_allclose(at["tail_mass"], now[rare].sum() / now.sum(), rtol=1e-6)
        if generation == 0:
            assert np.all(at["survival"] == 1)
            assert at["tail_mass"] <= 0.1


def test_chains_differ_by_their_order_and_are_paired_by_seed(shared, places):
    whole, _ = shared
    kept = run(language(places), regimes.preserve(M, 0.25))
    first = whole.history["test_perplexity"][:, 0]
    assert abs(first[0] / first[1] - 1) > 1e-3
    # Equal except for another program's order of summation (on a GPU: 1e-7).
    np.testing.assert_allclose(kept.history["test_perplexity"][:, 0], first, rtol=1e-6)


@pytest.mark.slow
def test_a_share_of_original_blocks_is_kept(places, original):
    history = run(language(places), regimes.preserve(M, 0.25)).history
    originals = {tuple(block) for block in original.train.tolist()}
    for generation in (1, 2):
        texts = history["text"][0, generation].values.astype(int).tolist()
        assert sum(tuple(block) in originals for block in texts) == M // 4


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fresh", "warm"])
def test_where_a_generation_starts(places, start, original):
    """With negligible steps, parameters stay at their start."""
    pretrained = load(places[0])
    network = opt.model(pretrained.config)
    before = finetune.evaluate(network, pretrained.params, original.test, 4)
    assert before == pytest.approx(finetune.evaluate(network, pretrained.params, original.test))
    family = language(places, learning_rate=1e-12, start=start)
    history = run(family).history
    np.testing.assert_allclose(history["test_perplexity"], before.mean_of_blocks, rtol=1e-5)
    family = language(places, learning_rate=1e-2, start=start, batch=4, epochs=3)
    train_loss = run(family).history["train_loss"].mean("chain").values
    # From the base, the first epoch's loss is the same each time; warm models have learnt more.
    assert (train_loss[2] < 0.8 * train_loss[1]) == (start == "warm")


def test_a_model_that_diverged_does_not_start_anew(places, original):
    family = language(places)
    base = load(places[0]).params
    lost = {**base, "embed_tokens": {"embedding": base["embed_tokens"]["embedding"] * np.nan}}
    training = Training(pools.Rows(jnp.asarray(original.train), M))
    key = jax.random.key(0)
    for params, alive in ((base, True), (lost, False)):
        started = jax.jit(family.fit.begin)(key, params, training).params
        assert bool(all_finite(started)) == alive
        finite = [bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(started)]
        assert all(finite) if alive else not any(finite)


@pytest.mark.slow
def test_a_model_that_diverges_is_flagged(places):
    result = run(language(places, learning_rate=1e30, clip=0.0))
    assert not bool(result.history["finite"].any())
    assert result.history["nonfinite"].values.tolist() == [0, 0]
    assert not any(np.isfinite(leaf).any() for leaf in jax.tree.leaves(result.params[0]))


@pytest.mark.slow
def test_what_is_new_is_kept_of_a_text_that_grows(places, original):
    """The last 12 of three generations of 12 blocks, with constant shapes."""
    history = run(language(places), regimes.accumulate(M)).history
    np.testing.assert_array_equal(history["text"][0, 0], original.train)
    replaced = run(language(places)).history
    np.testing.assert_array_equal(history["text"][0, 1], replaced["text"][0, 1])
    assert not np.array_equal(history["text"][0, 2], history["text"][0, 1])


@pytest.mark.slow
def test_other_decoders(places):
    """Drawn texts differ by chain and repeat less; a penalty makes beam search repeat less."""
    drawn = run(language(places, decoder="sample", top_k=20), generations=2).history
    searched = run(language(places), generations=2).history
    penalised = run(language(places, repetition_penalty=3.0), generations=2).history
    assert not np.array_equal(drawn["text"][0, 1], drawn["text"][1, 1])
    for other in (drawn, penalised):
        assert np.all(other["distinct_2"][:, 1] > searched["distinct_2"][:, 1])


REFUSED = [
    ({"blocks": 9999}, "blocks: expected 1 to the .* there are, got 9,999"),
    ({"blocks": 0}, "blocks: expected 1 to"),
    ({"test_blocks": 0}, "test_blocks: expected 1 to"),
    ({"validation_blocks": 0}, "validation_blocks: expected 1 to"),
    ({"length": 2}, "length: expected an integer >= 4, got 2"),
    (
        {"length": 30},
        "length: expected at most 20 tokens per block .half of the model.s 40 positions",
    ),
    ({"prompt": "the tower " * 30}, "prompt: expected at most 32 tokens, got"),
    ({"skip": 1.0}, r"skip: expected a share in \[0, 1\), got 1.0"),
    ({"tail": 0.0}, r"tail: expected a share in \(0, 1\)"),
    ({"kept_blocks": -1}, "kept_blocks: expected an integer >= 0, got -1"),
    ({"start": "hot"}, "start: expected one of fresh, warm"),
    ({"decoder": "greedy"}, "decoder: expected one of beam, sample"),
    ({"beams": 1}, "beams: expected an integer >= 2, got 1"),
    ({"decode_batch": 0}, "decode_batch: expected an integer >= 1, got 0"),
    ({"temperature": 0.0}, "temperature: expected a finite number > 0, got 0"),
    ({"top_p": 1.5}, r"top_p: expected a share in \(0, 1\], got 1.5"),
    ({"top_k": 5}, "top_k: expected decoder sample, got beam search"),
    ({"repetition_penalty": 0.0}, "repetition_penalty: expected a finite number > 0, got 0"),
    ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
    ({"dtype": "float16"}, "dtype: expected one of float32, bfloat16"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_outside_their_range_are_rejected(places, settings, message):
    with pytest.raises(ValueError, match=message):
        language(places, **settings)


def test_training_sets_that_cannot_be_are_rejected(places):
    family = language(places)
    with pytest.raises(ValueError, match="batch: expected at most the 3 blocks"):
        planning.check_pair(family, regimes.replace(3), 2)
    with pytest.raises(ValueError, match="samples: expected at most the 12 blocks"):
        planning.check_pair(family, regimes.replace(13), 2)


def test_texts_and_models_that_do_not_fit_are_rejected(places, tmp_path):
    base, text = places
    with pytest.raises(FileNotFoundError, match="model: expected a directory or an id"):
        families.language(str(tmp_path / "none"), text)
    short = tmp_path / "short"
    short.mkdir()
    for split in ("train", "test"):
        (short / f"{split}.txt").write_text("the tower\n")
    with pytest.raises(FileNotFoundError, match="expected the validation split"):
        small.language(base, str(short))
    (short / "validation.txt").write_text("the tower\n")
    with pytest.raises(ValueError, match="at least one block of 8 tokens in the train split"):
        small.language(base, str(short))
    small.make(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "base" / "config.json").read_text())
    larger = tmp_path / "other" / "base" / "vocab.json"
    words = json.loads(larger.read_text())
    words |= {f"<word{i}>": len(words) + i for i in range(9)}
    larger.write_text(json.dumps(words))
    message = f"tokenizer with ids below the model's {config['vocab_size']}, got {len(words) - 1}"
    with pytest.raises(ValueError, match=message):
        small.language(str(tmp_path / "other" / "base"), text)


def test_models_that_are_not_whole_are_rejected(tmp_path):
    small.make(tmp_path)
    base = tmp_path / "base"
    words = json.loads((base / "vocab.json").read_text())
    words |= {"<s>": words["</s>"], "</s>": words["<s>"]}
    (base / "vocab.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match="expected the config's bos_token_id 2 for </s> .* got 0"):
        load(str(base))
    small.make(tmp_path / "other")
    base = tmp_path / "other" / "base"
    config, params = weights.load(base)
    params["embed_positions"]["embedding"] = params["embed_positions"]["embedding"] * np.nan
    weights.save(base, config, params)
    with pytest.raises(
        ValueError, match=r"finite weights, got NaN or infinity in .*embed_positions.weight"
    ):
        load(str(base))


@pytest.mark.slow
def test_another_model_in_a_workdir_is_rejected(places, tmp_path):
    family, regime = language(places, prompt="", kept_blocks=0), regimes.replace(M)
    assert {"continuation", "text"}.isdisjoint(family.metrics)
    run(family, regime, generations=1, workdir=str(tmp_path / "run"))
    base, text = small.make(tmp_path / "other", seed=1)
    other = language((base, text), prompt="", kept_blocks=0)
    with pytest.raises(ValueError, match="holds a run with another config .*family.base.sha256"):
        run(other, regime, generations=1, workdir=str(tmp_path / "run"))


SMALL = pretraining.SmallModel(
    vocabulary=270, hidden=16, layers=1, heads=2, pretraining_epochs=8, pretraining_batch=4,
    pretraining_rate=1e-2,
)  # fmt: skip


def pretrained(directory, text, **changed):
    settings = SMALL._replace(**changed)
    tokenizer = pretraining.tokenizer_of(directory, text, settings)
    pretraining.pretrain(directory, tokenizer, text, small=settings, length=LENGTH, seed=0)


@pytest.mark.slow
def test_pretraining_learns_and_is_done_once(places, tmp_path):
    text = load_text(places[1])
    pretrained(tmp_path, text)
    made = load(str(tmp_path / "base"))
    cut = blocks.cut_blocks(made.tokenizer, text, LENGTH, 0.0)
    network = opt.model(made.config)
    start = opt.init(made.config, jax.random.key(0))
    before, after = (finetune.evaluate(network, p, cut.test) for p in (start, made.params))
    assert after.of_corpus < 0.5 * before.of_corpus
    load.cache_clear()
    (tmp_path / "base" / "config.json").unlink()
    pretrained(tmp_path, text)  # from its checkpoint
    assert load(str(tmp_path / "base")).sha256 == made.sha256
    with pytest.raises(ValueError, match=r"another config \(family.hidden: was 16, now 32"):
        pretrained(tmp_path, text, hidden=32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pretraining_share": 1.0}, r"pretraining_share: expected a share in \(0, 1\)"),
        ({"pretraining_epochs": 0}, "pretraining_epochs: expected an integer >= 1, got 0"),
        ({"pretraining_rate": 0.0}, "pretraining_rate: expected a finite number > 0, got 0"),
        ({"pretraining_batch": 999}, "pretraining_batch: expected at most"),
        ({"vocabulary": 100}, "vocabulary: expected an integer >= 260, got 100"),
        ({"heads": 3}, "heads: expected a divisor of hidden"),
    ],
)
def test_pretraining_rejects(places, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        pretrained(tmp_path, load_text(places[1]), **changed)
